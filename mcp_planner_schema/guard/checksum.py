"""Checksum of rows: what must be the same in a table, in its copy, and in the table made anew, on any server and in any session.

The text of a row, not its bytes: PostgreSQL's own record hash takes 1.10 for 1.1, knows enums by OID and stops at json.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from mcp_planner_schema.guard.postcheck import execute, identifier, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

ALGORITHM = "sum-hashtextextended-v1"
"""Written beside every checksum: the number of rows, and the sums over ``hashtextextended`` of their text with seed 0 and 1."""

OUTPUT = {
    "search_path": "pg_catalog, pg_temp",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "row_security": "off",
}
"""What the text of a value depends on, whose functions are meant; rows that row level security hides are to be an error."""


# Piece by piece, for one may be larger than any value; opened to learn its size, and closed before the next.
_LARGE = """
SELECT count(DISTINCT m.oid), coalesce(sum(hashtextextended(p.said, 0)), 0), coalesce(sum(hashtextextended(p.said, 1)), 0)
FROM pg_catalog.pg_largeobject_metadata m
CROSS JOIN LATERAL (SELECT lo_open(m.oid, 262144) AS handle OFFSET 0) o
CROSS JOIN LATERAL (SELECT lo_lseek64(o.handle, 0, 2) AS bytes OFFSET 0) s
CROSS JOIN LATERAL generate_series(0, (s.bytes + lo_close(o.handle)) / 1048576) AS k(piece)
CROSS JOIN LATERAL (SELECT concat_ws(' ', m.oid, k.piece, md5(lo_get(m.oid, k.piece * 1048576, 1048576))) AS said) p
"""


class Checksum(NamedTuple):
    """How many rows, and the sums of two independent hashes of their text. A sum, unlike an xor, sees duplicates."""

    rows: int
    sum_0: int
    sum_1: int


def row_text(columns: Iterable[str], alias: str) -> str:
    """SQL: the text of a row of these columns, in this order."""
    # Not alias::text: that would be the value of a column of that name, where there is one.
    named = ", ".join(f"{alias}.{identifier(name)}" for name in columns)
    return f'ROW({named})::pg_catalog.text COLLATE pg_catalog."C"'


def row_hash(columns: Iterable[str], alias: str) -> str:
    """SQL: one 64-bit number for a row of these columns, in this order."""
    return f"pg_catalog.hashtextextended({row_text(columns, alias)}, 0)"


def of(connection: Connection, rows_of: str, columns: Iterable[str]) -> Checksum:
    """Read ``rows_of`` (a relation as it stands in FROM) once. To be called with :data:`OUTPUT` pinned.

    The columns are taken in the order of their names, so that one dropped and added again changes nothing.
    """
    # OFFSET keeps the planner from writing the text out once for each sum. As a bigint, for with any other zero it does not
    # see that nothing is left out, and takes no parallel workers.
    text = row_text(sorted(columns), "x")
    row = execute(
        connection,
        "SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(pg_catalog.hashtextextended(y.t, 0)), 0), "
        "coalesce(pg_catalog.sum(pg_catalog.hashtextextended(y.t, 1)), 0) "
        f"FROM (SELECT {text} AS t FROM {rows_of} AS x OFFSET bigint '0') AS y",
    ).one()
    return Checksum(row[0], int(row[1]), int(row[2]))


def checksum(connection: Connection, rows_of: str, columns: Iterable[str]) -> Checksum:
    """:func:`of`, with :data:`OUTPUT` pinned meanwhile."""
    with pinned(connection, **OUTPUT):
        return of(connection, rows_of, columns)


def large_objects(connection: Connection) -> Checksum:
    """Of all large objects of the database, numbers and bytes; ``rows`` is how many there are."""
    with pinned(connection, **OUTPUT):
        rows, *sums = execute(connection, _LARGE).one()
    return Checksum(rows, *map(int, sums))
