"""Puts one kept object's rows or values in, as far as there is a place for them now, and notes what became of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import (
    by_parents,
    carried,
    checksum,
    defaults,
    evidence,
    flow,
    fresh,
    left,
    meant,
    over_commit,
    refill,
    renumber,
    silence,
    sources,
    twins,
    wal,
    write_back,
)
from mcp_planner_schema.guard.back import Back, anew
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.guard.refill import Filled

if TYPE_CHECKING:
    from sqlalchemy import Connection


_UNSAFE = "55P04"
"""SQLSTATE of a value of an enum that the running transaction has added: unsafe_new_enum_value_usage."""

_TOO_NEW = (
    "they have a value that its enum gets in this very transaction (to give them back: "
    "make migrate-restore VERSION={revision})"
)
_UNKEYED = "the rows that they refer to could not get the keys that they had"
_AWAKE = "the table has triggers, and only its owner may put them to sleep (as that role: make migrate-restore)"
_REFERS = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid
               AND a.attnum = ANY (k.conkey)
               WHERE k.contype = 'f' AND k.conrelid = %s AND k.confrelid = ANY (%s::oid[]) AND a.attname = ANY (%s))
"""


def added(one: Object, table: Table, before: Table | None) -> bool:
    """Whether a column that went is there again and was not before this upgrade, but for one that the server made itself."""
    names = {column.name for column in table.columns.values() if not column.generated} & set(one.lost)
    return bool(
        names - ({column.name for column in before.columns.values() if not column.generated} if before else set())
    )


def rows(
    connection: Connection, back: Back, one: Object, table: Table, *, last: bool = False, cleared: bool = False,
    deleted: bool = False, all_: bool = True,
) -> None:  # fmt: skip
    """Put one object's rows or values in, and note what became of them. ``last``: the body has ended. ``deleted``: rows that the
    downgrade deleted are not to wait for that. Not ``all_``: what somebody has written since gets no value yet, for the body may
    have a newer one."""
    write_back.note_path(connection)
    added_with = defaults.of(connection, back, one, table) if last and one.lost else {}
    silence.ready(connection, table.oid)
    if not silence.may(connection, table.oid):
        back.filled[one.number] = Filled(kept(one), rest=("true",), why=_AWAKE)
        return
    with (
        checksum.reading(connection),
        wal.written_beside(connection),
        silence.of_table(connection, table.oid, evidence.name_of(table)),
    ):
        try:
            filled = _in_savepoint(
                connection,
                functools.partial(
                    _filled,
                    connection,
                    back,
                    one,
                    table,
                    last=last,
                    cleared=cleared,
                    deleted=deleted or last,
                    all_=all_,
                    added_with=added_with,
                ),
            )
        except _TooNew:
            filled = Filled(kept(one), rest=("true",), why=_TOO_NEW.format(revision=back.stash.revision))
        earlier = back.filled.get(one.number, Filled())
        if last:
            given = filled.left < kept(one) or earlier.written + filled.written > 0
            left.note(connection, back.stash, one, filled, given=given)
    if one.kind == "rows" and not one.key:
        filled = replace(filled, left=max(filled.left - earlier.written, 0))
    back.filled[one.number], back.met = replace(filled, written=earlier.written + filled.written), True


class _TooNew(Exception):
    """A kept value uses a label of an enum that this very transaction has added."""


def _in_savepoint(connection: Connection, put_in: Callable[[], Filled]) -> Filled:
    from sqlalchemy.exc import DBAPIError

    connection.exec_driver_sql("SAVEPOINT guard_fill")
    try:
        filled = put_in()
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) != _UNSAFE:
            raise
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_fill; RELEASE SAVEPOINT guard_fill")
        raise _TooNew from error
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_fill")
    return filled


def beside(connection: Connection, back: Back, one: Object, table: Table) -> None:
    """Put in the kept rows of a table whose place is free, among those that are there."""
    write_back.note_path(connection)
    silence.ready(connection, table.oid)
    with checksum.reading(connection), silence.of_table(connection, table.oid, evidence.name_of(table)):
        another, may = meant.another(connection, back, one, table), left.read(connection, back.stash, one)
        filled = refill.beside(connection, back.stash.place(one), one, table, may, another=another)
    back.filled[one.number], back.shapes[one.number], back.met = filled, None, True


def take_out(connection: Connection, back: Back, one: Object, table: Table) -> None:
    """Give columns whose kept values have come back their default again, in the rows where those stand."""
    write_back.note_path(connection)
    silence.ready(connection, table.oid)
    with checksum.reading(connection), silence.of_table(connection, table.oid, evidence.name_of(table)):
        refill.take_out(connection, back.stash.place(one), one, table)


def _filled(
    connection: Connection,
    back: Back,
    one: Object,
    table: Table,
    *,
    last: bool,
    cleared: bool,
    deleted: bool,
    all_: bool,
    added_with: Mapping[str, str],
) -> Filled:
    """The same, while the table's triggers and rules sleep."""
    before, place = back.before.get((one.schema, one.name)), back.stash.place(one)
    may, theirs = left.read(connection, back.stash, one), over_commit.theirs(back, one)
    stays = " OR ".join(filter(None, [theirs, back.fresh.get(one.number)]))
    if last and not back.anyway:
        meant.take_back(connection, back, one, table)
    elif not last:
        meant.asked(connection, back, one, table)
    another = meant.another(connection, back, one, table)
    if one.kind == "table":
        if back.newer(one) or not anew(connection, back, table):
            told = None
            if last and not back.anyway and anew(connection, back, table):
                told = by_parents.told(connection, back, one, table, another)
                told = told or carried.told(connection, back, one, table)
            if told:
                other = " OR ".join(filter(None, [f"NOT {told.unwritten}", theirs]))
                out = f"({another} OR {told.older})"
                filled = refill.exactly(connection, place, one, table, last=True, but=f"({other})", another=out)
                absent = write_back.absent(one, table, write_back.common(one, table)[0])
                older = write_back.count(connection, f"{place} AS c WHERE {told.older} AND {absent}")
                return replace(filled, older=older, barred=filled.barred - older)
            return refill.beside(connection, place, one, table, may, strictly=back.anyway, another=another)
        if theirs and not write_back.keyed(one, table):
            return refill.beside(connection, place, one, table, may, another=another)
        return refill.exactly(
            connection,
            place,
            one,
            table,
            last=last,
            cleared=cleared,
            but=f"({stays})" if stays else "",
            another=another,
        )
    filled = Filled()
    mine, stood = _evidence(connection, back, one), _still(connection, back.stood.get(one.number))
    if deleted and mine and stood:
        moved = back.newer(one) and sources.may_be_in(connection, back, table)
        renumber.make_way(connection, back, one, table, untouched=mine, stood=stood, moved=moved)
        _, stay, written = twins.give_way(
            connection, place, one, table, untouched=mine, stood=stood, moved=moved, began=back.xid,
            exchange=functools.partial(renumber.seeds, connection, back, one, table), followed=back.followed.get(table.oid, 0),
            another=another,
        )  # fmt: skip
        filled = Filled(why=twins.WHY if stay else "", written=written)
    if one.lost:
        new, listed = not before or added(one, table, before), back.touched.get(one.number)
        touched = _still(connection, listed)
        unkeyed = [oid for oid, each in back.unkeyed.items() if back.newer(each)]
        if unkeyed and _refers(connection, one, table, unkeyed):
            return replace(filled, left=kept(one), rest=("true",), why=_UNKEYED)
        # What stands there by the second time the body has put there, and it is set aside at the end.
        again = one.number in back.final or one.number in back.filled
        overwrite = new and touched == listed and (last or not again)
        if overwrite:
            renumber.values(connection, back, one, table)
        unmoved = one.number not in back.filled and back.flow.updated.isdisjoint(flow.parts(connection, [table.oid]))
        if overwrite and not last and unmoved and twins.numbered(connection, table) >= set(one.lost):
            touched, all_ = None, True  # the server has filled them, so none is empty, and nothing was moved there yet
        columns = refill.columns(
            connection,
            place,
            one,
            table,
            may,
            # Where a COMMIT has ended the list, every row may be on it; and what others may have written waits to be set aside.
            overwrite=overwrite,
            last=last and not cleared,
            filling=last,
            untouched=mine,
            touched=touched,
            apart=back.anyway,
            waiting=not all_,
            but=theirs,
            another=another,
            defaults=added_with,
        )
        filled = filled.and_(connection, place, columns)
    if one.kind == "rows":
        # Where no upgrade has made the lost columns, what stands in them was written by people.
        but = one.lost if back.anyway else ()
        deleted = deleted or not (stood or back.afterwards)
        rows = refill.changed(connection, place, one, table, may, mine, deleted=deleted, but=but, another=another)
        filled = filled.and_(connection, place, rows)
    return filled


def not_there(connection: Connection, back: Back, one: Object, table: Table) -> None:
    """All is back: set aside what the upgrade has inserted into a table that stays, and what was not there before."""
    listed = _still(connection, back.stood.get(one.number, back.keys.get(one.number)))
    newer = back.newer(one) and sources.may_be_in(connection, back, table)
    if not listed or not silence.may(connection, table.oid) or flow.into(connection, back.flow, table.oid) is None:
        return
    silence.ready(connection, table.oid)
    with checksum.reading(connection), silence.of_table(connection, table.oid, evidence.name_of(table)):
        gone, aside, stay = twins.not_there(
            connection, back.stash.place(one), one, table, stood=listed, began=back.xid,
            stays=None if newer or not _only_inserted(connection, back, table)
            else functools.partial(fresh.of, connection, back, one, table),
        )  # fmt: skip
    filled = back.filled[one.number]
    back.filled[one.number] = replace(
        filled, removed=filled.removed + gone, inserted=aside or filled.inserted, stay=filled.stay + stay
    )


def _only_inserted(connection: Connection, back: Back, table: Table) -> bool:
    """Whether the body has written no rows there that may be what others have written, in another form."""
    changed = not back.flow.changed.isdisjoint(flow.parts(connection, [table.oid]))
    return not changed or back.changed_since.get(table.oid) is False


def _refers(connection: Connection, one: Object, table: Table, tables: Collection[int]) -> bool:
    """Whether a lost column refers to one of these tables."""
    return bool(connection.exec_driver_sql(_REFERS, (table.oid, list(tables), list(one.lost))).scalar_one())


def settle(connection: Connection, back: Back, one: Object, table: Table) -> None:
    """Values may come from another table, where somebody has written: they are newer, unless the body has never read there, or
    more rows differ than were written: each of those may have let go of one row and taken another. Then each is what the move
    back makes of it, and the kept one says more."""
    touched = _still(connection, back.touched.get(one.number))
    if one.number not in back.crossed or not touched:
        return
    with checksum.reading(connection), silence.unveiled(connection, table.oid, evidence.name_of(table)):
        differ = refill.differing(connection, back.stash.place(one), one, table)
    if not sources.read(back) or differ > 2 * back.changes:
        execute(connection, f"DELETE FROM {touched} AS t WHERE NOT t.own")


def kept(one: Object) -> int:
    """How many rows the copy has, as far as somebody has counted them."""
    return one.checksum.rows if one.checksum else 0


def _evidence(connection: Connection, back: Back, one: Object) -> str | None:
    """The temporary table of untouched rows; None where a body that commits has ended it, and with it all that it said."""
    return _still(connection, back.untouched.get(one.number))


def _still(connection: Connection, name: str | None) -> str | None:
    if name is None:
        return None
    there = connection.exec_driver_sql("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (name,)).scalar_one()
    return name if there else None
