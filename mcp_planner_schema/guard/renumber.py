"""Numbers of rows in a table that stays: of its seeds, and of columns that a sequence fills."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, exchange, sequences, twins, write_back
from mcp_planner_schema.guard.back import Back
from mcp_planner_schema.guard.evidence import Column, Table, rows_of
from mcp_planner_schema.guard.manifest import AFTER, Object
from mcp_planner_schema.guard.postcheck import execute, identifier, literal

if TYPE_CHECKING:
    from sqlalchemy import Connection

# The upgrade's own rows under a number that the downgrade has freed, though they are another row than had it: others have taken
# numbers since, or it is one of the kept ones, or the kept one is another of them. What only people have changed is the same row.
_MISPLACED = """
CREATE TEMPORARY TABLE guard_keys ON COMMIT DROP AS
WITH own AS MATERIALIZED (
  SELECT l.{key} AS key, {now} AS said FROM {live} AS l
  WHERE pg_catalog.age(l.xmin) <= pg_catalog.age({began}::pg_catalog.xid8::pg_catalog.xid)
    AND NOT EXISTS (SELECT FROM {stood} AS b WHERE b.key = {hashed})),
kept AS MATERIALIZED (
  SELECT c.{key} AS key, {was} AS said, u.place IS NOT NULL AS free
  FROM {place} AS c LEFT JOIN {untouched} AS u ON u.place = c.ctid WHERE c.{after} IS NULL)
SELECT o.key AS was, NULL::{type} AS target, ({highest:d} + pg_catalog.row_number() OVER (ORDER BY o.key))::{type} AS unused
FROM own AS o JOIN kept AS k ON k.key = o.key
LEFT JOIN (SELECT DISTINCT t.said FROM kept AS t) AS is_kept ON is_kept.said = o.said
LEFT JOIN (SELECT DISTINCT w.said FROM own AS w) AS is_own ON is_own.said = k.said
WHERE k.free AND k.said <> o.said
  AND ((SELECT pg_catalog.bool_or(NOT t.free) FROM kept AS t) OR is_kept.said IS NOT NULL OR is_own.said IS NOT NULL)
"""


def make_way(
    connection: Connection, back: Back, one: Object, table: Table, *, untouched: str, stood: str, moved: bool
) -> None:
    """Give the upgrade's own rows another number, where they have got one of a kept row that is another.

    The downgrade has set the sequence back, and others have taken numbers since. Where a reference would follow that means the
    kept row already, all stays, and the kept rows are no longer among the ``untouched``: they stay in the stash.
    """
    key = _number(one, table)
    if key is None:
        return
    columns, _ = write_back.common(one, table)
    compared = twins.told_apart_by(connection, one, table, columns)
    unique = [] if moved else twins.by_unique(connection, one, table, columns)
    place, name = back.stash.place(one), identifier(key.name)

    def move() -> bool:
        with checksum.reading(connection):
            found = execute(
                connection,
                _MISPLACED.format(
                    key=name, now=twins.told_by("l", compared, unique), was=twins.told_by("c", compared, unique), place=place,
                    live=rows_of(table), began=literal(back.xid), stood=stood, hashed=checksum.row_hash(one.key, "l"),
                    untouched=untouched, after=identifier(AFTER), type=key.type,
                    highest=exchange.highest(connection, back, one, table, key.name),
                ),
            ).rowcount  # fmt: skip
        referring = exchange.referring(connection, back, table, key.name, anew=True) if found else []
        if referring is None or any(each.follows and _is_back(back, each.table) for each in referring):
            return False
        if found:
            exchange.keys(connection, back, one, table, referring)
            exchange.advance(connection, back, one, table)
        execute(connection, "DROP TABLE pg_temp.guard_keys")
        return True

    stands = f"{place} AS c JOIN {rows_of(table)} AS l ON {write_back.same_key(one, table)}"
    freed = f"c.{identifier(AFTER)} IS NULL AND c.ctid IN (SELECT u.place FROM {untouched} AS u)"
    with checksum.reading(connection):
        if not execute(connection, f"SELECT EXISTS (SELECT FROM {stands} WHERE {freed})").scalar_one():
            return
    if not exchange.attempt(connection, move):
        with checksum.reading(connection):
            other = f"NOT {checksum.alike(connection, place, rows_of(table), columns)}"
            theirs = f"USING {stands} WHERE c.ctid = w.place AND {freed} AND {other}"
            execute(connection, f"DELETE FROM {untouched} AS w {theirs}")


def _is_back(back: Back, table: Table) -> bool:
    """Whether something of a table has come back already."""
    return any((one.schema, one.name) == (table.schema, table.name) for one in back.rows() if one.number in back.filled)


def _number(one: Object, table: Table) -> Column | None:
    """The key, where it is a number that is what it was."""
    key = next((each for each in table.columns.values() if (each.name,) == one.key), None)
    same = key is not None and one.types[one.columns.index(key.name)] == key.type
    return key if key is not None and same and key.type in exchange.NUMBERS else None


def seeds(connection: Connection, back: Back, one: Object, table: Table) -> int:
    """Give seeds that the upgrade has written into a table that stays the keys and values that they had, where other rows refer
    to them already (``pg_temp.guard_twins``): nobody else has seen these keys. Gives how many; none where that cannot be."""
    if len(one.key) != 1:
        return 0
    key = next(column for column in table.columns.values() if column.name == one.key[0])
    place, found = back.stash.place(one), 0

    def give() -> bool:
        nonlocal found
        referring = exchange.referring(connection, back, table, key.name, anew=True)
        with checksum.reading(connection):
            found = execute(
                connection,
                f"CREATE TEMPORARY TABLE guard_keys ON COMMIT DROP AS SELECT l.{identifier(key.name)} AS was, "
                f"{write_back.typed(key)} AS target, {write_back.typed(key)} AS unused FROM pg_temp.guard_twins AS t "
                f"JOIN {rows_of(table)} AS l ON l.tableoid = t.part AND l.ctid = t.spot "
                f"JOIN {place} AS c ON c.ctid = t.place WHERE t.referred",
            ).rowcount
        if not found or referring is None:
            return False
        exchange.keys(connection, back, one, table, referring, anew=True)
        with checksum.reading(connection):
            these = "c.ctid IN (SELECT t.place FROM pg_temp.guard_twins AS t WHERE t.referred)"
            write_back.overwrite(connection, place, one, table, these)
        execute(connection, "UPDATE pg_temp.guard_twins SET settled = true WHERE referred")
        execute(connection, "DROP TABLE pg_temp.guard_keys")
        return True

    return found if exchange.attempt(connection, give) else 0


def values(connection: Connection, back: Back, one: Object, table: Table) -> None:
    """A column is there again that a sequence fills: rows that were written since have got numbers that others had, and get
    unused ones; so do for a moment those that have exchanged theirs. Not where somebody refers to them already."""
    given = twins.given(connection, table)
    for column in table.columns.values():
        if column.name not in one.lost or column.name not in given or column.type not in exchange.NUMBERS:
            continue
        if not write_back.keyed(one, table) or column.name in one.key:
            continue
        if exchange.sequences_of(connection, back, table, column.name):
            _renumber(connection, back, one, table, column.name)


def _renumber(connection: Connection, back: Back, one: Object, table: Table, column: str) -> None:
    name, place, live = identifier(column), back.stash.place(one), rows_of(table)
    highest = exchange.highest(connection, back, one, table, column)
    same = write_back.same_key(one, table)
    new = f"NOT EXISTS (SELECT FROM {place} AS c WHERE {same})"
    exchanged = f"EXISTS (SELECT FROM {place} AS c WHERE {same} AND c.{name} <> l.{name})"

    def give() -> bool:
        with write_back.settable(connection, table, [column]):
            written = _to_unused(connection, place, live, name, new, highest)
            _to_unused(connection, place, live, name, exchanged, highest + written)
        for each in exchange.sequences_of(connection, back, table, column) if written else ():
            if each.rising and each.last_value < highest + written:
                sequences.advance(connection, each.schema, each.name, highest + written, True)
        return True

    exchange.attempt(connection, give)


def _to_unused(connection: Connection, place: str, live: str, name: str, which: str, highest: int) -> int:
    """Give rows whose number is a kept one of another's a number that is not used. Gives how many."""
    numbered = f"l.tableoid AS part, l.ctid AS spot, pg_catalog.row_number() OVER (ORDER BY l.{name}) AS n"
    them = f"SELECT {numbered} FROM {live} AS l WHERE {which} AND l.{name} IN (SELECT c.{name} FROM {place} AS c)"
    return write_back.write(
        connection,
        f"WITH them AS ({them}) UPDATE {live} AS l SET {name} = {highest:d} + w.n FROM them AS w "
        "WHERE l.tableoid = w.part AND l.ctid = w.spot",
    )
