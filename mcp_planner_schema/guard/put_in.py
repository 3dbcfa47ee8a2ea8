"""Rows that a downgrade has put into a table that stays, and that the upgrade has left there, though they are where they were.

It moves an archive back, people had changed a row in it, and by its own condition the upgrade does not take that one again.
Before the downgrade it was in one of the two tables, and so it is afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import (
    checksum,
    clear,
    evidence,
    flow,
    ladder,
    manifest,
    references,
    silence,
    since,
    stash,
    write_back,
)
from mcp_planner_schema.guard.back import Back
from mcp_planner_schema.guard.evidence import Table, name_of, rows_of
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute, identifier, literal
from mcp_planner_schema.guard.references import Key
from mcp_planner_schema.guard.since import LARGE

if TYPE_CHECKING:
    from sqlalchemy import Connection

_MAY = """
SELECT pg_catalog.bool_and(pg_catalog.has_table_privilege(%s::oid, p.name))
FROM (VALUES ('SELECT'), ('UPDATE'), ('DELETE')) AS p (name)
"""
_THESE = """
CREATE TEMPORARY TABLE guard_put_in ON COMMIT DROP AS
SELECT l.tableoid AS part, l.ctid AS spot, {now} AS said FROM {live} AS l
WHERE l.xmin = {own}::pg_catalog.xid8::pg_catalog.xid
"""
_AGAIN = """
CREATE TEMPORARY TABLE guard_again ON COMMIT DROP AS
SELECT {was} AS said FROM {place} AS c WHERE {c} IN (SELECT {x} FROM {there} AS x)
"""
_NOT_AGAIN = """
DELETE FROM pg_temp.guard_put_in AS p WHERE NOT EXISTS (SELECT FROM pg_temp.guard_again AS a WHERE a.said = p.said)
"""
# What is equal throughout is not told from each other.
_TWICE = """
DELETE FROM pg_temp.guard_put_in AS p WHERE p.said IN (SELECT {now} FROM {live} AS l GROUP BY 1 HAVING pg_catalog.count(*) > 1)
"""
# Without those that somebody is about to refer to: he holds them.
_HELD = """
CREATE TEMPORARY TABLE guard_held ON COMMIT DROP AS SELECT l.tableoid AS part, l.ctid AS spot FROM {live} AS l
JOIN pg_temp.guard_put_in AS p ON p.part = l.tableoid AND p.spot = l.ctid FOR UPDATE OF l SKIP LOCKED
"""
_REFERRED = """
DELETE FROM pg_temp.guard_held AS p USING {live} AS l, {child} AS r
WHERE l.tableoid = p.part AND l.ctid = p.spot AND {refers}
"""

_ROUNDS = 64
_NOT_HELD = " AND NOT EXISTS (SELECT FROM pg_temp.guard_held AS h WHERE h.part = r.tableoid AND h.spot = r.ctid)"


def take_out(connection: Connection, back: Back) -> list[str]:
    """All is back: set such rows aside and delete them, as far as nobody has written to them since, and none refers to them.

    Only in tables that the downgrade has put nothing but new rows into, where all that both tables have is the same, and both
    are small enough to be read under locks; not where the revision was changed, for it may leave them there on purpose. Gives
    lines for people.
    """
    notes: list[str] = []
    if back.stash.elsewhere or back.edited is not None or not since.may_list(connection):
        return notes
    found = {}
    for number, left in enumerate(back.stash.written, len(back.stash.written) + 1):
        table = evidence.named(connection, left.schema, left.name) if left.grown and left.checksum else None
        if table is not None and table.oid in back.already and _may(connection, table):
            found[table.oid] = table, number
    order = clear.in_order(connection, list(found)) or {}
    for oid in sorted(found, key=lambda oid: (-order.get(oid, 0), -oid)):  # those first that refer to others
        for one in back.rows():
            notes += _tried(connection, back, one, *found[oid])
    return notes


def _tried(connection: Connection, back: Back, one: Object, table: Table, number: int) -> list[str]:
    """The same; where it cannot be done they stay, for the upgrade needs it not."""
    from sqlalchemy.exc import DBAPIError

    connection.exec_driver_sql("SAVEPOINT guard_tried")
    try:
        notes = _taken_out(connection, back, one, table, number)
    except DBAPIError as error:
        if error.connection_invalidated or getattr(error.orig, "pgcode", None) in (*ladder.TRANSIENT, ladder.CANCELED):
            raise
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_tried")
        reason = str(error.orig).partition("\n")[0]
        notes = [
            f"look at {table.shown}: what the downgrade has put there from {one.name} may be there still ({reason})"
        ]
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_tried")
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
    both, kept = _columns(connection, back, one, table, there), sorted(write_back.common(one, there)[0])
    keys = references.to(connection, table.oid)
    if (
        not both
        or not all(key.open for key in keys)
        or max(write_back.size_of(connection, there), one.bytes or 0) > LARGE
    ):
        return []
    silence.ready(connection, table.oid)
    with (
        checksum.reading(connection),
        silence.unveiled(connection, there.oid, name_of(there)),
        silence.of_table(connection, table.oid, name_of(table)),
    ):
        live, now = rows_of(table), checksum.row_text(both, "l")
        own = literal(back.stash.xid.split()[0])
        if not execute(connection, _THESE.format(live=live, now=now, own=own)).rowcount:
            execute(connection, "DROP TABLE pg_temp.guard_put_in")
            return []
        execute(
            connection,
            _AGAIN.format(
                was=checksum.row_text(both, "c"), place=back.stash.place(one), c=checksum.row_text(kept, "c"),
                there=rows_of(there), x=checksum.row_text(kept, "x"),
            ),
        )  # fmt: skip
        execute(connection, _NOT_AGAIN)
        if not table.key:
            execute(connection, _TWICE.format(live=live, now=now))
        execute(connection, _HELD.format(live=live))
        _let_go(connection, live, keys)
        which = "(l.tableoid, l.ctid) IN (SELECT p.part, p.spot FROM pg_temp.guard_held AS p)"
        aside = f"{identifier(back.stash.kept_in)}.{identifier(manifest.aside_relations(one)[2].format(number=number))}"
        values = ", ".join(stash.value(column, "l.") for column in table.columns.values())
        rows = write_back.copied(connection, aside, f"SELECT {values} FROM {live} AS l WHERE {which}")
        if rows:
            execute(connection, f"DELETE FROM {live} AS l WHERE {which}")
        execute(connection, "DROP TABLE pg_temp.guard_put_in, pg_temp.guard_again, pg_temp.guard_held")
    shown = (
        f"removed {rows} rows of {table.shown} that the downgrade had put there, and that are in {there.shown} again"
    )
    return [f"{shown}; what was removed is in {aside}"] if rows else []


def _let_go(connection: Connection, live: str, keys: Sequence[Key]) -> None:
    """Let go of rows that others refer to which stay: of a tree the roots, for their leaves. Of a longer chain all stay."""
    for _ in range(_ROUNDS):
        found = 0
        for key in keys:
            refers = key.match("r", "l") + (_NOT_HELD if key.parent == key.child else "")
            found += execute(connection, _REFERRED.format(live=live, child=key.child_table, refers=refers)).rowcount
        if not found:
            return
    execute(connection, "TRUNCATE pg_temp.guard_held")


def _columns(connection: Connection, back: Back, one: Object, table: Table, there: Table) -> list[str]:
    """The columns that both have; none where the rows of one need not be those of the other.

    A log has a key of its own, or columns that tell when and who; what was moved has its key in both. Where the upgrade itself
    makes the one of the other, it is told what it is.
    """
    names = {column.name for column in table.columns.values() if not column.generated}
    kept = set(write_back.common(one, there)[0])
    moves = not flow.parts(connection, [table.oid]).isdisjoint(flow.into(connection, back.flow, there.oid) or ())
    if not set(table.key) <= kept or len(names & kept) < min(2, len(names)):
        return []
    if names <= kept and (table.key or moves):
        return sorted(names)
    return sorted(names & kept) if moves and kept <= names else []
