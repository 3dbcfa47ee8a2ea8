"""How large every table of a database is, and how often it was written and read: one question to the catalog, no row read.

The server counts writes and reads since its statistics were reset. Where it does not say when that was, or it was just now,
two readings tell how many there are a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

OLD = 3600.0
"""Seconds that statistics must have been counted for their average to say something."""
APART = 2.0
"""Seconds between two readings: a busy session hands over what it has counted once a second."""

# A partitioned table has no file and no counters of its own: it is as large and as busy as its partitions. To ask for a size
# opens the table, which would wait for whoever has it for himself, so such a one is left out: its size is not known now.
_SIZES = """
WITH RECURSIVE asked (root, oid) AS (
  SELECT c.oid, c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ %(own)s AND c.relname <> 'alembic_version'
  UNION ALL
  SELECT a.root, i.inhrelid FROM asked a JOIN pg_catalog.pg_inherits i ON i.inhparent = a.oid
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition
), taken (oid) AS MATERIALIZED (
  SELECT DISTINCT coalesce(i.indrelid, l.relation) FROM pg_catalog.pg_locks l
  LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = l.relation
  WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.pid <> pg_catalog.pg_backend_pid()
    AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
), scans (oid, count) AS (
  SELECT indrelid, pg_catalog.sum(pg_catalog.pg_stat_get_numscans(indexrelid)) FROM pg_catalog.pg_index GROUP BY 1
), measured AS (
  SELECT c.oid, CASE WHEN t.oid IS NULL THEN pg_catalog.pg_total_relation_size(c.oid) END AS whole,
         CASE WHEN t.oid IS NULL THEN pg_catalog.pg_table_size(c.oid) END AS own,
         CASE WHEN c.relkind = 'p' THEN 0
              WHEN greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid)) > 0
              THEN greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid))
              WHEN c.reltuples >= 0 OR t.oid IS NULL AND pg_catalog.pg_relation_size(c.oid) = 0 THEN 0 END AS rows,
         pg_catalog.pg_stat_get_tuples_inserted(c.oid) + pg_catalog.pg_stat_get_tuples_updated(c.oid)
           + pg_catalog.pg_stat_get_tuples_deleted(c.oid) AS writes,
         pg_catalog.pg_stat_get_numscans(c.oid) + coalesce(s.count, 0) AS reads
  FROM (SELECT DISTINCT oid FROM asked) a JOIN pg_catalog.pg_class c USING (oid)
  LEFT JOIN taken t USING (oid) LEFT JOIN scans s USING (oid)
)
SELECT pg_catalog.concat(n.nspname, '.', c.relname),
       CASE WHEN pg_catalog.count(*) = pg_catalog.count(m.whole) THEN pg_catalog.sum(m.whole)::bigint END,
       CASE WHEN pg_catalog.count(*) = pg_catalog.count(m.own) THEN pg_catalog.sum(m.own)::bigint END,
       CASE WHEN pg_catalog.count(*) = pg_catalog.count(m.rows) THEN pg_catalog.sum(m.rows)::bigint END,
       pg_catalog.sum(m.writes)::bigint, pg_catalog.sum(m.reads)::bigint
FROM asked a JOIN measured m USING (oid) JOIN pg_catalog.pg_class c ON c.oid = a.root
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
GROUP BY 1
"""
_OWN = "^(pg_|information_schema$|migration)"
_RESET = """
SELECT pg_catalog.date_trunc('second', stats_reset)::text,
       extract(epoch FROM pg_catalog.clock_timestamp() - stats_reset)::float8
FROM pg_catalog.pg_stat_database WHERE datname = pg_catalog.current_database()
"""


@dataclass(frozen=True)
class Size:
    """One table, its partitions included: ``bytes`` with indexes, ``own`` without; None is what nobody can say now.

    ``rows`` are the live ones as last counted. ``writes`` and ``reads`` are counters: rows written, and scans begun.
    """

    bytes: int | None
    own: int | None
    rows: int | None
    writes: int = 0
    reads: int = 0


@dataclass(frozen=True)
class Rates:
    """Rows written and scans begun a second, by table. ``since`` is when counting began; None: between two readings."""

    seconds: float
    since: str | None
    by_table: Mapping[str, tuple[float, float]]


def read(connection: Connection) -> dict[str, Size]:
    """Every table by its name (``public.steps``). Reads the catalog only, and ends its transaction: the next one counts anew."""
    rows = connection.exec_driver_sql(_SIZES, {"own": _OWN}).all()
    connection.rollback()
    return {name: Size(*values) for name, *values in rows}


def counted_since(connection: Connection) -> tuple[str, float] | None:
    """When the counters began, and how many seconds ago; None where nobody knows, or it is not long enough ago."""
    since, seconds = connection.exec_driver_sql(_RESET).one()
    connection.rollback()
    return (since, seconds) if since and seconds >= OLD else None


def rates(before: Mapping[str, Size] | None, now: Mapping[str, Size], seconds: float, since: str | None) -> Rates:
    """What went on in these seconds; without ``before``, since the counters began."""
    found = {}
    for name, size in now.items():
        first = before.get(name, size) if before is not None else Size(None, None, None)
        found[name] = (max(0, size.writes - first.writes) / seconds, max(0, size.reads - first.reads) / seconds)
    return Rates(seconds, since, found)
