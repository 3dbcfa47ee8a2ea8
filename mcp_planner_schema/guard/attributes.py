"""Values inside values: what a column loses when an attribute of a composite type goes, and nothing happens to its table.

PostgreSQL then writes no row and no file anew, and counts nothing: each row that is read shows less than it did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mcp_planner_schema.guard import checksum
from mcp_planner_schema.guard.damage import Harm
from mcp_planner_schema.guard.evidence import Table, rows_of
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, identifier, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Through arrays, domains, ranges and further composite types; a table's own row type is one as well.
_INSIDE = """
WITH RECURSIVE used (type, at, number, own) AS (
  SELECT a.atttypid, a.attrelid, a.attnum, a.atttypid FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  WHERE c.relkind IN ('r', 'p') AND a.atttypid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped
  UNION
  SELECT n.type, u.at, u.number, u.own FROM used u JOIN pg_type t ON t.oid = u.type CROSS JOIN LATERAL (
    SELECT t.typelem UNION ALL SELECT t.typbasetype
    UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
    UNION ALL SELECT r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid
    UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
  ) AS n (type) WHERE n.type <> 0)
SELECT DISTINCT u.at::bigint, u.number, u.own::bigint, t.typrelid::bigint, a.attnum, a.attname::text, t.oid::regtype::text,
  t.oid = u.own
FROM used u JOIN pg_type t ON t.oid = u.type JOIN pg_attribute a ON a.attrelid = t.typrelid
WHERE a.attnum > 0 AND NOT a.attisdropped
"""
_STILL = """
SELECT a.attrelid::bigint, a.attnum, a.atttypid::bigint FROM pg_attribute a
WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
"""


class Inside(NamedTuple):
    """An attribute that the values of a column may have. ``at``, ``number`` and ``own`` are the column's table, number and type,
    ``relation`` and ``place`` the attribute's; ``direct``: the column is of that composite type itself."""

    at: int
    number: int
    own: int
    relation: int
    place: int
    name: str
    type: str
    direct: bool


def inside(connection: Connection) -> frozenset[Inside]:
    """Every attribute that the values of some column may have. Reads the catalog only."""
    with pinned(connection, search_path=SYSTEM_PATH):
        return frozenset(Inside(*row) for row in connection.exec_driver_sql(_INSIDE))


def gone(
    connection: Connection, before: frozenset[Inside], tables: tuple[dict[int, Table], dict[int, Table]],
    touched: frozenset[int],
) -> list[Inside]:  # fmt: skip
    """Those that the running body has taken out of columns that stay as they are. ``tables`` are those before and now.

    A column that is gone, or of another type now, is found otherwise.
    """
    known = {(one.at, one.number, one.relation, one.place): one for one in before if one.relation in touched}
    if not known:
        return []
    with pinned(connection, search_path=SYSTEM_PATH):
        asked = connection.exec_driver_sql(_STILL, (sorted({one.at for one in known.values()}),))
        stay = {tuple(row) for row in asked}
    there = {(one.at, one.number, one.relation, one.place) for one in inside(connection)}
    return [
        one
        for key, one in sorted(known.items())
        if key not in there and one.at in tables[0] and (one.at, one.number, one.own) in stay
    ]


def harms(connection: Connection, tables: dict[int, Table], found: list[Inside]) -> tuple[Harm, ...]:
    """What that does to tables some value of which really has one. To be asked after the rollback; reads the rows of these."""
    what: dict[int, dict[str, None]] = {}
    for one in found:
        table = tables[one.at]
        if table.kind == "p":
            continue  # its partitions have the column too
        column = f"x.{identifier(table.columns[one.number].name)}"
        # Below an array or a domain no name leads to it.
        value = f"({column}).{identifier(one.name)}" if one.direct else column
        if _hidden(connection, table) or _some(connection, table, value):
            said = f"{table.columns[one.number].name} without the attribute {one.name} of {one.type}"
            what.setdefault(one.at, {})[said] = None
    return tuple(Harm(tables[at], tuple(said)) for at, said in sorted(what.items()))


def _hidden(connection: Connection, table: Table) -> bool:
    asked = "SELECT pg_catalog.row_security_active(%s::pg_catalog.oid)"
    return bool(connection.exec_driver_sql(asked, (table.oid,)).scalar())


def _some(connection: Connection, table: Table, value: str) -> bool:
    with checksum.reading(connection):
        asked = f"SELECT EXISTS (SELECT FROM {rows_of(table)} AS x WHERE pg_catalog.num_nonnulls({value}) > 0)"
        return bool(execute(connection, asked).scalar_one())
