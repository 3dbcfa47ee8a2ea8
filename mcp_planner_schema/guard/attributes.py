"""Values inside values: what a column loses when an attribute of a composite type goes, and nothing happens to its table.

PostgreSQL then writes no row and no file anew, and counts nothing: each row that is read shows less than it did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_planner_schema.guard import damage
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Through arrays, domains, ranges and further composite types; a table's own row type is one as well.
_INSIDE = """
WITH RECURSIVE used (type, at, number) AS (
  SELECT a.atttypid, a.attrelid, a.attnum FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  WHERE c.relkind IN ('r', 'p') AND a.atttypid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped
  UNION
  SELECT n.type, u.at, u.number FROM used u JOIN pg_type t ON t.oid = u.type CROSS JOIN LATERAL (
    SELECT t.typelem UNION ALL SELECT t.typbasetype
    UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
    UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
  ) AS n (type) WHERE n.type <> 0)
SELECT DISTINCT u.at::bigint, u.number, t.typrelid::bigint, a.attnum, a.attname::text, t.oid::regtype::text
FROM used u JOIN pg_type t ON t.oid = u.type JOIN pg_attribute a ON a.attrelid = t.typrelid
WHERE a.attnum > 0 AND NOT a.attisdropped
"""

Inside = dict[tuple[int, int, int, int], tuple[str, str]]
"""By table, column, relation of the type and number of the attribute: what the attribute and its type are called."""


def inside(connection: Connection) -> Inside:
    """Every attribute that the values of some column have. Reads the catalog only."""
    with pinned(connection, search_path=SYSTEM_PATH):
        return {tuple(row[:4]): (row[4], row[5]) for row in connection.exec_driver_sql(_INSIDE)}


def gone(
    connection: Connection, before: Inside, tables: tuple[dict[int, Table], dict[int, Table]], touched: frozenset[int]
) -> tuple[str, ...]:
    """What the running body takes out of values that stay, for people. ``tables`` are those before and now.

    A column that is gone, or of another type now, is found otherwise.
    """
    known = {key: said for key, said in before.items() if key[2] in touched}
    if not known:
        return ()
    old, new = tables
    now = inside(connection)
    found: dict[str, None] = {}
    for key in sorted(known.keys() - now.keys()):
        at, number = key[:2]
        was, is_now = (each[at].columns.get(number) if at in each else None for each in (old, new))
        if was and is_now and was.type == is_now.type and damage.filled(connection, _parts(new, at)):
            attribute, called = known[key]
            found[f"it drops the attribute {attribute} of the type {called}, which {old[at].shown}.{was.name} has"] = (
                None
            )
    return tuple(found)


def _parts(tables: dict[int, Table], at: int) -> list[Table]:
    """The table, or of a partitioned one all that lie below it."""
    found = [tables[at]]
    for one in found:
        found += [part for part in tables.values() if part.parent == one.oid]
    return found
