"""How a table's rows are told apart, and the ranges it is cut into.

Rows are taken in the order of a key, so that one which moves while it is updated is neither missed nor met twice. A table
without a key is taken by its blocks (TID range scans, PostgreSQL 14). A partitioned table's rows are in its partitions, and
each of those is taken by itself.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.backfill.spec import TABLE
from mcp_planner_schema.guard.postcheck import identifier

if TYPE_CHECKING:
    from sqlalchemy import Connection

_ROWS_A_RANGE, _MOST_RANGES = 100_000, 64
"""A range is what a worker takes at once; each ends with a smaller batch, so a few large ones are better than many."""

_SAMPLED = 100
"""Rows that are read, at random, for each range to be cut."""

_MEMBERS = """
WITH RECURSIVE member AS (
    SELECT %s::bigint::oid AS oid UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN member m ON m.oid = i.inhparent)
SELECT c.oid::bigint, n.nspname::text, c.relname::text,
       CASE WHEN c.relpages > 0 AND c.reltuples > 0 THEN c.reltuples / c.relpages * size.pages ELSE c.reltuples END::float8,
       size.pages
FROM member JOIN pg_catalog.pg_class c ON c.oid = member.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (SELECT coalesce(pg_catalog.pg_relation_size(c.oid), 0)
                           / pg_catalog.current_setting('block_size')::int AS pages) AS size
WHERE c.relkind = %s ORDER BY n.nspname, c.relname
"""
# The primary key, or the smallest other key that every row has, with an index that can serve its order. Beside each column stands
# the schema of the operators that the index knows: whoever may create one in the search_path would otherwise be called.
_KEY = """
SELECT ARRAY(SELECT ARRAY[a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), t.typcategory::text, n.nspname::text]
             FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
             JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
             JOIN pg_catalog.pg_opclass c ON c.oid = i.indclass[k.place - 1]
             JOIN pg_catalog.pg_amop o ON o.amopfamily = c.opcfamily AND o.amoplefttype = c.opcintype
               AND o.amoprighttype = c.opcintype AND o.amopstrategy = 5
             JOIN pg_catalog.pg_operator p ON p.oid = o.amopopr JOIN pg_catalog.pg_namespace n ON n.oid = p.oprnamespace
             WHERE k.place <= i.indnkeyatts ORDER BY k.place)
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_am m ON m.oid = x.relam AND m.amname = 'btree'
WHERE i.indrelid = %s::bigint::oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  AND i.indimmediate AND NOT EXISTS (SELECT FROM pg_catalog.unnest(i.indkey::int2[]) AS k(number)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number WHERE NOT a.attnotnull)
  AND NOT EXISTS (SELECT FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
    JOIN pg_catalog.pg_opclass c ON c.oid = i.indclass[k.place - 1]
    WHERE k.place <= i.indnkeyatts AND (i.indcollation[k.place - 1] <> a.attcollation OR NOT c.opcdefault))
ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1
"""


@dataclass(frozen=True)
class Column:
    """One column of a key. ``type`` is as ``format_type`` says it, ``category`` D for dates and times; ``operators`` is the
    schema of those that compare it."""

    name: str
    type: str
    category: str
    operators: str = "pg_catalog"

    @property
    def sql(self) -> str:
        """Quoted, for a statement that has values beside its text."""
        return identifier(self.name).replace("%", "%%")

    def operator(self, sign: str) -> str:
        """SQL: the operator of this sign, and no other of that name."""
        return f"OPERATOR({identifier(self.operators).replace('%', '%%')}.{sign})"

    def text(self, row: str) -> str:
        """SQL: the value in ``row`` as text that is the same whatever DateStyle says."""
        value = f"{row}.{self.sql}"
        return f"pg_catalog.to_json({value}) #>> '{{}}'" if self.category == "D" else f"{value}::text"


@dataclass(frozen=True)
class Leaf:
    """A table with rows of its own. ``rows`` is what the statistics say, for the size that it has now, as the planner does;
    below 0 where they say nothing. ``key`` is empty
    where nothing tells rows apart."""

    oid: int
    schema: str
    name: str
    rows: float
    pages: int
    key: tuple[Column, ...]

    @property
    def sql(self) -> str:
        """Its name, quoted, for a statement that has values beside its text."""
        return f"{identifier(self.schema)}.{identifier(self.name)}".replace("%", "%%")

    @property
    def told(self) -> str:
        """Its name for people, and for the record."""
        if "." in self.schema + self.name:
            return f"{identifier(self.schema)}.{identifier(self.name)}"
        return f"{self.schema}.{self.name}".removeprefix("public.")

    @property
    def expected(self) -> int:
        """About how many rows it has."""
        return int(self.rows) if self.rows > 0 else self.pages * 50


@dataclass(frozen=True)
class Range:
    """Rows whose key is above ``above`` and not above ``up_to``; None is the table's end. Values are text."""

    leaf: Leaf
    above: tuple[str, ...] | None
    up_to: tuple[str, ...] | None

    def sql(self) -> tuple[str, tuple[Any, ...]]:
        """A condition on the columns of the leaf, and its values."""
        parts: list[str] = []
        values: list[str] = []
        for bound, key_sign, block_sign in ((self.above, ">", ">="), (self.up_to, "<=", "<")):
            if bound is None:
                continue
            if self.leaf.key:
                listed = ", ".join(f"{TABLE}.{one.sql}" for one in self.leaf.key)
                given = ", ".join(f"%s::{one.type.replace('%', '%%')}" for one in self.leaf.key)
                several = len({one.operators for one in self.leaf.key}) > 1  # a comparison of rows has one name for all
                sign = key_sign if several else self.leaf.key[0].operator(key_sign)
                parts.append(f"ROW({listed}) {sign} ROW({given})")
                values += bound
            else:
                parts.append(f"{TABLE}.ctid {block_sign} %s::tid")
                values.append(f"({bound[0]},0)")
        return " AND ".join(parts) or "true", tuple(values)


def leaves(connection: Connection, oid: int) -> list[Leaf]:
    """The tables that hold the rows of a table: itself, its partitions, what inherits from it."""
    found = connection.exec_driver_sql(_MEMBERS, (oid, "r")).all()
    return [Leaf(oid, schema, name, rows, pages, _key(connection, oid)) for oid, schema, name, rows, pages in found]


def foreign(connection: Connection, oid: int) -> list[str]:
    """Names of a table's partitions that lie on another server: their rows are not taken."""
    return [f"{row[1]}.{row[2]}" for row in connection.exec_driver_sql(_MEMBERS, (oid, "f"))]


def pages(connection: Connection, leaf: Leaf) -> int:
    """How many blocks the leaf has now."""
    sql = "SELECT pg_catalog.pg_relation_size(%s::bigint::oid) / pg_catalog.current_setting('block_size')::int"
    return int(connection.exec_driver_sql(sql, (leaf.oid,)).scalar() or 0)


def _key(connection: Connection, oid: int) -> tuple[Column, ...]:
    found = connection.exec_driver_sql(_KEY, (oid,)).scalar()
    return tuple(Column(*one) for one in found or ())


def cut(connection: Connection, leaf: Leaf) -> list[Range]:
    """The leaf in ranges of about the same number of rows, in the order of its key. Reads a sample of it."""
    pieces = max(1, min(_MOST_RANGES, leaf.expected // _ROWS_A_RANGE))
    if not leaf.key:  # a row that is written goes elsewhere, so there is an end from the beginning
        last = max(1, leaf.pages)
        ends: list[tuple[str, ...] | None] = [(str(last * place // pieces),) for place in range(pieces + 1)]
        return [Range(leaf, low, high) for low, high in itertools.pairwise(ends) if low != high]
    bounds = _bounds(connection, leaf, pieces) if pieces > 1 else []
    ends = [None, *bounds, None]
    return [Range(leaf, low, high) for low, high in itertools.pairwise(ends)]


def _bounds(connection: Connection, leaf: Leaf, pieces: int) -> list[tuple[str, ...]]:
    share = min(100.0, 100.0 * pieces * _SAMPLED / max(1, leaf.expected))
    listed = ", ".join(one.text("sampled") for one in leaf.key)
    order = ", ".join(f"sampled.{one.sql}" for one in leaf.key)
    sql = f"SELECT {listed} FROM ONLY {leaf.sql} AS sampled TABLESAMPLE SYSTEM (%s) ORDER BY {order}"
    rows = [tuple(row) for row in connection.exec_driver_sql(sql, (share,))]
    found = [rows[len(rows) * place // pieces] for place in range(1, pieces)] if len(rows) > pieces else []
    return list(dict.fromkeys(found))
