"""Whether a body has read a table: how often the server began to scan it or one of its indexes, and what it fetched.

The counters outlast a rollback, so only differences say something; a table that is dropped keeps its own until COMMIT.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

# The table and its partitions, with their indexes and what is stored out of line, by the table.
_PARTS = """
SELECT u.oid::bigint, array(
  WITH parts AS (SELECT p.oid, p.reltoastrelid FROM pg_catalog.pg_class p
                 WHERE p.oid IN (SELECT u.oid
                   UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(u.oid::pg_catalog.regclass)))
  SELECT p.oid::bigint FROM parts p
  UNION SELECT p.reltoastrelid::bigint FROM parts p WHERE p.reltoastrelid <> 0
  UNION SELECT i.indexrelid::bigint FROM parts p JOIN pg_catalog.pg_index i ON i.indrelid IN (p.oid, nullif(p.reltoastrelid, 0)))
FROM pg_catalog.unnest(%s::oid[]) AS u (oid) JOIN pg_catalog.pg_class c ON c.oid = u.oid
"""
# Asking for the size waits for whoever has the table for himself, and that may be one the body has nothing to do with.
_LARGE = """
WITH free AS MATERIALIZED (
  SELECT c.oid FROM pg_catalog.pg_class c
  WHERE c.oid = ANY (%s::oid[]) AND c.relkind = 'r' AND c.oid NOT IN (
    SELECT l.relation FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
      AND l.pid <> pg_catalog.pg_backend_pid() AND l.relation IS NOT NULL))
SELECT oid::bigint FROM free WHERE pg_catalog.pg_total_relation_size(oid) > %s
"""
_READ = """
SELECT o::bigint, pg_catalog.pg_stat_get_xact_numscans(o) + pg_catalog.pg_stat_get_xact_tuples_returned(o)
       + pg_catalog.pg_stat_get_xact_tuples_fetched(o)
FROM pg_catalog.unnest(%s::oid[]) AS u (o)
"""

Counted = dict[int, dict[int, int]]
"""For each table, what was counted so far of each of its parts."""


def large(connection: Connection, tables: Iterable[int], above: int) -> list[int]:
    """Those of the tables that take more than ``above`` bytes with their indexes."""
    return list(connection.exec_driver_sql(_LARGE, (list(tables), above)).scalars())


def begin(connection: Connection, tables: Iterable[int]) -> Counted:
    """The counters of these tables as they stand."""
    wanted = list(tables)
    if not wanted:
        return {}
    return {oid: _counters(connection, parts) for oid, parts in connection.exec_driver_sql(_PARTS, (wanted,)).all()}


def unread(connection: Connection, before: Counted) -> frozenset[int]:
    """Those tables that nothing has read since; none where the server does not count."""
    if before and connection.exec_driver_sql("SHOW track_counts").scalar_one() != "on":
        return frozenset()
    return frozenset(oid for oid, counted in before.items() if _counters(connection, counted) == counted)


def _counters(connection: Connection, parts: Iterable[int]) -> dict[int, int]:
    return dict(tuple(row) for row in connection.exec_driver_sql(_READ, (list(parts),)))
