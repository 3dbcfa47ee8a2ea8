"""What has been touched in the catalog since a moment, found without reading anew what has not: that takes long, under locks.

Whatever alters an object writes a new version of a row in the catalog, and whoever wrote it had not committed at that moment
(or is this transaction): the row's xmin is not older than the oldest transaction that ran then. What is dropped leaves no row;
then there are fewer of it than there were. (Only what statistics and ``relhasindex`` say is changed in place.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

# For each catalog which object a row of it belongs to. What PostgreSQL brought has lower numbers than 16384: left out where it
# is much, and where it would be little an index scan would cost more than it.
_COUNTED = (
    ("pg_class", "oid", "relnamespace <> 'pg_toast'::regnamespace"),
    ("pg_constraint", "greatest(conrelid, contypid)", "true"),
    ("pg_trigger", "tgrelid", "NOT tgisinternal"),
    ("pg_policy", "polrelid", "true"),
    ("pg_rewrite", "ev_class", "true"),
    ("pg_inherits", "inhrelid", "true"),
    ("pg_statistic_ext", "stxrelid", "true"),
    ("pg_publication_rel", "prrelid", "true"),
    ("pg_description", "objoid", "objoid >= 16384"),
    ("pg_seclabel", "objoid", "objoid >= 16384"),
    ("pg_namespace", "oid", "true"),
    ("pg_extension", "oid", "true"),
    ("pg_type", "oid", "typtype IN ('e', 'd', 'r')"),
    ("pg_enum", "enumtypid", "oid >= 16384"),
    ("pg_proc", "oid", "oid >= 16384"),
    ("pg_event_trigger", "oid", "true"),
    ("pg_publication", "oid", "true"),
    ("pg_operator", "oid", "oid >= 16384"),
    ("pg_collation", "oid", "oid >= 16384"),
    ("pg_cast", "oid", "oid >= 16384"),
    ("pg_default_acl", "oid", "true"),
    ("pg_opclass", "oid", "oid >= 16384"),
    ("pg_ts_dict", "oid", "oid >= 16384"),
    ("pg_ts_config", "oid", "oid >= 16384"),
    ("pg_ts_config_map", "mapcfg", "mapcfg >= 16384"),
    ("pg_foreign_server", "oid", "true"),
)
# These go only with a row of the others, or where one of them is written.
_WRITTEN = (
    ("pg_attribute", "attrelid", "attnum > 0"),
    ("pg_attrdef", "adrelid", "true"),
    ("pg_index", "indexrelid", "true"),
    ("pg_index", "indrelid", "true"),
    ("pg_trigger", "tgrelid", "tgisinternal"),
    ("pg_sequence", "seqrelid", "true"),
    ("pg_range", "rngtypid", "true"),
    ("pg_aggregate", "aggfnoid::oid", "true"),
    ("pg_foreign_table", "ftrelid", "true"),
)
_NEW = "age(xmin) <= (SELECT age(%(oldest)s::xid))"
_ROWS = " UNION ALL ".join(f"SELECT {at} AS at FROM {name} WHERE {which}" for name, at, which in _COUNTED)
_KNOWN = f"""
SELECT pg_snapshot_xmin(pg_current_snapshot())::xid::text, array_agg(at)::text, array_agg(n)::text,
       array(SELECT n.oid FROM pg_namespace n ORDER BY n.oid)::text,
       array(SELECT n.nspname::text FROM pg_namespace n ORDER BY n.oid)
FROM (SELECT at, count(*) AS n FROM ({_ROWS}) AS row GROUP BY at) AS counted
"""
_MARKED = " UNION ALL ".join(
    f"SELECT {at} AS at, {_NEW} AS new FROM {name} WHERE {which}" for name, at, which in _COUNTED
)
_REST = " UNION ALL ".join(f"SELECT {at} FROM {name} WHERE {which} AND {_NEW}" for name, at, which in _WRITTEN)
# A table is called anew where its schema is, and a column has another type where that is.
_SINCE = f"""
SELECT coalesce(now.at, was.at)::bigint
FROM (SELECT at, count(*) AS n, bool_or(new) AS new FROM ({_MARKED}) AS row GROUP BY at) AS now
FULL JOIN unnest(%(at)s::oid[], %(n)s::bigint[]) AS was (at, n) ON was.at = now.at
WHERE now.new OR now.n IS DISTINCT FROM was.n
UNION SELECT at::bigint FROM ({_REST}) AS rest (at)
UNION SELECT c.oid::bigint FROM unnest(%(schemas)s::oid[], %(names)s::text[]) AS s (oid, name)
JOIN pg_namespace n ON n.oid = s.oid AND n.nspname <> s.name AND left(n.nspname, 3) <> 'pg_'
JOIN pg_class c ON c.relnamespace = n.oid
UNION SELECT a.attrelid::bigint FROM pg_type t JOIN pg_attribute a ON a.atttypid = t.oid
WHERE {_NEW.replace("xmin", "t.xmin")} AND a.attnum > 0
"""
# A row that is seen though its transaction still runs is this transaction's, of whatever savepoint. What is gone was dropped by
# whoever has it locked.
_OWN_ROW = f"""CASE WHEN {_NEW}
    THEN pg_xact_status((pg_current_xact_id()::text::bigint - age(xmin))::text::xid8) = 'in progress' END"""
_OWN = (
    " UNION ".join(
        f"SELECT {at}::bigint FROM {name} WHERE {which} AND {_OWN_ROW}" for name, at, which in (*_COUNTED, *_WRITTEN)
    )
    + """
UNION SELECT coalesce(relation, objid)::bigint FROM pg_locks
WHERE pid = pg_backend_pid() AND mode = 'AccessExclusiveLock' AND locktype IN ('relation', 'object')"""
)


@dataclass(frozen=True)
class Known:
    """A moment: the oldest transaction that ran then, how many rows of the catalog each object had, and the schemas' names."""

    oldest: str
    at: str
    n: str
    schemas: str
    names: list[str]


def known(connection: Connection) -> Known:
    """Remember this moment. To be asked before what is read in full, so that nothing falls in between."""
    with pinned(connection, search_path=SYSTEM_PATH):
        return Known(*connection.exec_driver_sql(_KNOWN).one())


def since(connection: Connection, then: Known) -> frozenset[int]:
    """The objects that were made, altered or dropped since, by this transaction or by others: their OIDs, of any catalog.

    For a column, constraint, index, trigger, policy, rule, or a comment this is what it belongs to. It may name more, which
    only costs a look at it. What was made since and is gone again is not named.
    """
    with pinned(connection, search_path=SYSTEM_PATH):
        return frozenset(connection.exec_driver_sql(_SINCE, vars(then)).scalars())


def others(connection: Connection, then: Known) -> frozenset[int]:
    """Of those that :func:`since` names the ones that this transaction has neither written nor dropped. It must have an id."""
    with pinned(connection, search_path=SYSTEM_PATH):
        own = frozenset(connection.exec_driver_sql(_OWN, vars(then)).scalars())
    return since(connection, then) - own
