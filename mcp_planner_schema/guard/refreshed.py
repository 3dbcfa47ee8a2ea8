"""Materialized views that the upgrade has made of tables before their kept rows were back: what they show is computed again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import ladder
from mcp_planner_schema.guard.postcheck import execute

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Each after those that it reads.
_VIEWS = """
WITH RECURSIVE parts (oid) AS (
  SELECT u.oid FROM pg_catalog.unnest(%(tables)s::oid[]) AS u (oid)
  UNION SELECT t.relid::oid FROM pg_catalog.unnest(%(tables)s::oid[]) AS u (oid)
        CROSS JOIN LATERAL pg_catalog.pg_partition_tree(u.oid::pg_catalog.regclass) AS t),
reach (oid, depth) AS (
  SELECT oid, 0 FROM parts
  UNION SELECT r.ev_class, reach.depth + 1 FROM reach JOIN pg_catalog.pg_depend d ON d.refobjid = reach.oid
    AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
  JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid WHERE r.ev_class <> reach.oid)
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname), pg_catalog.pg_has_role(c.relowner, 'USAGE')
FROM reach JOIN pg_catalog.pg_class c ON c.oid = reach.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'm' AND c.relispopulated AND c.oid <> ALL (%(already)s::oid[])
GROUP BY 1, 2, c.oid ORDER BY pg_catalog.max(reach.depth), c.oid
"""


def all_of(connection: Connection, tables: Sequence[int], already: Collection[int]) -> list[str]:
    """Refresh the materialized views of these tables, by OID, that are not among those there were ``already``.

    One that was made WITH NO DATA stays so. They are as new as the upgrade, so nobody else has a lock on them. Gives lines about
    those that cannot be, for they belong to somebody else or their query fails.
    """
    from sqlalchemy.exc import DBAPIError

    if not tables:
        return []
    values = {"tables": list(tables), "already": list(already)}
    found = connection.exec_driver_sql(_VIEWS, values).all()
    left = []
    for name, mine in found:
        connection.exec_driver_sql("SAVEPOINT guard_refresh")
        try:
            if mine:
                execute(connection, f"REFRESH MATERIALIZED VIEW {name}")
        except DBAPIError as error:
            if getattr(error.orig, "pgcode", None) in ladder.TRANSIENT:
                raise
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_refresh")
            mine = False
        connection.exec_driver_sql("RELEASE SAVEPOINT guard_refresh")
        left += [] if mine else [name]
    return [
        f"warning: {name} shows its tables as they were before their rows were back: REFRESH MATERIALIZED VIEW {name}"
        for name in left
    ]
