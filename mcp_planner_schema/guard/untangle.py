"""Kept rows and the upgrade's own of one table that keep each other out, because a table that stays refers to the upgrade's.

The upgrade has made a lookup table with new keys and filled a column of a table that stays with them. The kept rows have the
same names, so the new ones must go first; nobody can let go of those before the column has its kept values; and those refer to
rows that are not back. So all of it is done at once, and the references are checked at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, clear, evidence, fill, meant, meanwhile, references, silence, write_back
from mcp_planner_schema.guard.back import Back, made
from mcp_planner_schema.guard.clear import Others
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute

if TYPE_CHECKING:
    from sqlalchemy import Connection


_PENDING = "55006"
"""SQLSTATE of an ALTER TABLE while checks are pending: object_in_use."""


class Knotted(Exception):
    """Somebody's row refers to one that would have to go, and would go along."""


def together(connection: Connection, back: Back, there: Sequence[tuple[Object, Table]]) -> dict[int, Others]:
    """Put values of columns back, take out what the upgrade has put into its tables, and let the kept rows in.

    Gives what was found in each of these tables; nothing where there is no such knot, or rows of somebody else's would be left
    without what they refer to: then nothing was done.
    """
    from sqlalchemy.exc import DBAPIError, IntegrityError

    anew = [
        pair
        for pair in made(connection, back)
        if not back.newer(pair[0]) and pair[0].number not in back.theirs | back.fresh
    ]
    lost = [
        (one, table)
        for one, table in there
        if one.lost and fill.added(one, table, back.before.get((one.schema, one.name)))
    ]
    meanwhile.keep_others_out(connection, back, lost)
    if not anew or not lost or any(one.number in back.theirs for one, _ in lost):
        return {}
    before = dict(back.filled)
    connection.exec_driver_sql("SAVEPOINT guard_untangle")
    try:
        found = [others for one, table in anew if (others := clear.set_aside(connection, back, one, table))]
        wrong = {others.table.oid: others for others in found if others.in_the_way}
        if wrong:
            _exchange(connection, back, (anew, lost), wrong)
    except DBAPIError as error:
        if not isinstance(error, IntegrityError) and getattr(error.orig, "pgcode", None) != _PENDING:
            raise
        wrong = {}
    except Knotted:
        wrong = {}
    if not wrong:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_untangle")
        back.filled = before
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_untangle")
    return {others.one.number: others for others in found} if wrong else {}


def _exchange(
    connection: Connection, back: Back, pairs: tuple[Sequence[tuple[Object, Table]], Sequence[tuple[Object, Table]]],
    wrong: dict[int, Others],
) -> None:  # fmt: skip
    anew, lost = pairs
    write_back.note_path(connection)
    order = clear.in_order(connection, [table.oid for _, table in anew]) or {}
    parents_first = sorted(anew, key=lambda pair: order.get(pair[1].oid, 0))
    with ExitStack() as asleep:
        for table in {table.oid: table for _, table in (*anew, *lost)}.values():
            asleep.enter_context(silence.of_table(connection, table.oid, evidence.name_of(table)))
        asleep.enter_context(silence.loops(connection, [table.oid for _, table in (*anew, *lost)]))
        for one, table in lost:
            fill.rows(connection, back, one, table, last=True)
        for one, table in reversed(parents_first):
            if table.oid in wrong:
                with checksum.reading(connection):
                    _make_room(connection, back.stash.place(one), one, table)
        for one, table in parents_first:
            if not one.moved or table.oid in wrong or one.number in back.filled:  # else it is moved back itself
                fill.rows(connection, back, one, table, last=True, cleared=True)
            if table.oid in wrong and write_back.keyed(one, table):
                with checksum.reading(connection):
                    which = f"NOT {meant.another(connection, back, one, table)}"
                    write_back.overwrite(connection, back.stash.place(one), one, table, which)


def _make_room(connection: Connection, place: str, one: Object, table: Table) -> None:
    """Delete what is not as it was kept. Where rows that refer to it would go along, nobody's may do so any more, and a row whose
    key was kept gets its values instead.
    """
    live = evidence.rows_of(table)
    by_key = write_back.keyed(one, table)
    same = write_back.same_key(one, table) if by_key else "false"
    if not write_back.reaches_others(connection, [table.oid]):
        if by_key:
            same += f" AND {checksum.alike(connection, place, live, write_back.common(one, table)[0])}"
        execute(connection, f"DELETE FROM {live} AS l WHERE NOT EXISTS (SELECT FROM {place} AS c WHERE {same})")
        return
    own = f"{live} AS l WHERE NOT EXISTS (SELECT FROM {place} AS c WHERE {same})"
    if execute(
        connection, f"SELECT EXISTS (SELECT FROM {own} AND {references.referred(connection, table.oid)})"
    ).scalar_one():
        raise Knotted
    execute(connection, f"DELETE FROM {own}")
