"""Rows that a downgrade has put into a table that stays, and that the upgrade has left there, though they are where they were.

It moves an archive back, people had changed a row in it, and by its own condition the upgrade does not take that one again.
Before the downgrade it was in one of the two tables, and so it is afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, evidence, manifest, references, silence, stash, write_back
from mcp_planner_schema.guard.back import Back
from mcp_planner_schema.guard.evidence import Table, name_of, rows_of
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute, identifier, literal
from mcp_planner_schema.guard.since import LARGE

if TYPE_CHECKING:
    from sqlalchemy import Connection

_MAY = """
SELECT pg_catalog.bool_and(pg_catalog.has_table_privilege(%s::oid, p.name))
FROM (VALUES ('SELECT'), ('UPDATE'), ('DELETE')) AS p (name)
"""
# Without those that somebody is about to refer to: he holds them. What is equal throughout is not told from each other.
_THESE = """
CREATE TEMPORARY TABLE guard_put_in ON COMMIT DROP AS
SELECT l.tableoid AS part, l.ctid AS spot FROM {live} AS l WHERE l.xmin = {own}::pg_catalog.xid8::pg_catalog.xid
  AND EXISTS (SELECT FROM {there} AS x JOIN {place} AS c ON {x} = {c} WHERE {was} = {now})
FOR UPDATE OF l SKIP LOCKED
"""
_TWICE = """
DELETE FROM pg_temp.guard_put_in AS p USING {live} AS l
WHERE l.tableoid = p.part AND l.ctid = p.spot
  AND {now} IN (SELECT {now} FROM {live} AS l GROUP BY 1 HAVING pg_catalog.count(*) > 1)
"""


def take_out(connection: Connection, back: Back) -> list[str]:
    """All is back: set such rows aside and delete them, as far as nobody has written to them since, and none refers to them.

    Only in tables that the downgrade has put nothing but new rows into, and that are small enough to be read under locks, where
    all that both tables have is the same. Gives lines for people.
    """
    notes: list[str] = []
    if back.stash.elsewhere:
        return notes
    for number, left in enumerate(back.stash.written, len(back.stash.written) + 1):
        table = evidence.named(connection, left.schema, left.name) if left.grown and left.checksum else None
        if table is None or table.oid not in back.already or not _may(connection, table):
            continue
        for one in back.rows():
            notes += _taken_out(connection, back, one, table, number)
    return notes


def _may(connection: Connection, table: Table) -> bool:
    if not connection.exec_driver_sql(_MAY, (table.oid,)).scalar_one():
        return False
    return silence.may(connection, table.oid) and write_back.size_of(connection, table) <= LARGE


def _taken_out(connection: Connection, back: Back, one: Object, table: Table, number: int) -> list[str]:
    """Those that stand in the table of one object again."""
    there = evidence.named(connection, one.schema, one.name)
    filled = back.filled.get(one.number)
    if one.kind != "table" or not one.read or there is None or there.oid == table.oid or not filled or filled.swapped:
        return []
    names = {column.name: column for column in table.columns.values() if not column.generated}
    kept, _ = write_back.common(one, there)
    both = sorted(names.keys() & set(kept))
    if len(both) < min(2, len(names)) or not (names.keys() <= set(kept) or set(kept) <= names.keys()):
        return []
    silence.ready(connection, table.oid)
    with (
        checksum.reading(connection),
        silence.unveiled(connection, there.oid, name_of(there)),
        silence.of_table(connection, table.oid, name_of(table)),
    ):
        live, now = rows_of(table), checksum.row_text(both, "l")
        parts = {
            "live": live, "now": now, "was": checksum.row_text(both, "c"), "own": literal(back.stash.xid.split()[0]),
            "there": rows_of(there), "place": back.stash.place(one),
            "x": checksum.row_text(sorted(kept), "x"), "c": checksum.row_text(sorted(kept), "c"),
        }  # fmt: skip
        found = execute(connection, _THESE.format(**parts)).rowcount
        if found and not (table.key and set(table.key) <= set(both)):
            execute(connection, _TWICE.format(**parts))
        these = "EXISTS (SELECT FROM pg_temp.guard_put_in AS p WHERE p.part = l.tableoid AND p.spot = l.ctid)"
        which = f"{these} AND NOT {references.referred(connection, table.oid)}"
        aside = f"{identifier(back.stash.kept_in)}.{identifier(manifest.aside_relations(one)[2].format(number=number))}"
        values = ", ".join(stash.value(column, "l.") for column in table.columns.values())
        rows = write_back.copied(connection, aside, f"SELECT {values} FROM {live} AS l WHERE {which}") if found else 0
        if rows:
            execute(connection, f"DELETE FROM {live} AS l WHERE {which}")
        execute(connection, "DROP TABLE pg_temp.guard_put_in")
    shown = (
        f"removed {rows} rows of {table.shown} that the downgrade had put there, and that are in {there.shown} again"
    )
    return [f"{shown}; what was removed is in {aside}"] if rows else []
