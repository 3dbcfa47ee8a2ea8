"""Gives back what a downgrade kept: tables, columns, changed rows, sequences, rights.

A table that the running upgrade has made becomes what it was; nobody else can have written to it. In a table that was there
before, rows written since stay as they are: a kept row goes in only where nothing stands in its way. The rest stays in the
stash and is reported.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from mcp_planner_schema.guard import (
    beside_newer,
    carried,
    checksum,
    clear,
    evidence,
    fill,
    fresh,
    handed_on,
    intact,
    ladder,
    lock_order,
    manifest,
    meant,
    meanwhile,
    move,
    over_commit,
    postponed,
    put_in,
    refreshed,
    regrant,
    rekey,
    rights,
    silence,
    since,
    sources,
    told,
    twins,
    untangle,
    write_back,
)
from mcp_planner_schema.guard.back import XID, Back, anew, made
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.manifest import Object, Stash
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.guard.refill import Filled

if TYPE_CHECKING:
    from sqlalchemy import Connection

_TABLES = "SELECT oid::bigint, relnatts FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p', 'm')"


class Now(NamedTuple):
    """What has happened since the stash was made: the revision's text as it was, if another, and the xids and tables of other
    steps; whether other stashes wait for theirs."""

    edited: str | None = None
    steps: tuple[tuple[int, int, frozenset[int]], ...] = ()
    others: bool = False


def later(connection: Connection, schema: str, stash: Stash, who: str, *, dry: bool = False) -> list[str]:
    """Give a stash back into the schema as it is now; rows written meanwhile stay. Gives lines for people.

    Keeps writers away from the tables until the transaction ends. ``dry``: it will be rolled back, so nothing is done that
    would outlast that (``setval()``).
    """
    back = begin(connection, schema, stash, later=True)
    return finish(connection, back, who, dry=dry)


def begin(
    connection: Connection,
    schema: str,
    stash: Stash,
    *,
    later: bool = False,
    afterwards: int = 0,
    now: Now | None = None,
) -> Back:
    """Compare the stash with its manifest, lock the tables that are there already, see what was written to them since.

    ``afterwards``: what is to wait for the end of the body, see :class:`Back`. Raises :class:`Refused` where the stash is not
    what the manifest says.
    """
    edited, steps, others = now or Now()
    back = Back(schema, stash, anyway=later, afterwards=afterwards, edited=edited, steps=steps)
    back.xid = connection.exec_driver_sql(XID).scalar_one()
    if any(one.kind == "rows" or one.lost for one in back.rows()):
        since.require_lists(connection, stash)
    intact.check(connection, stash)
    back.before = _there(connection, back)
    if later:
        for found in sorted(back.before.values(), key=lambda table: table.oid):
            execute(connection, f"LOCK TABLE {evidence.name_of(found)} IN SHARE ROW EXCLUSIVE MODE")
        back.before = _there(connection, back)  # as nobody can change them any more
    back.others = regrant.everything(connection, schema, stash.rights)
    back.natts = dict(tuple(row) for row in connection.exec_driver_sql(_TABLES))
    back.already = frozenset(back.natts)
    if not later:
        changed = _lock_written(connection, stash)
        back.sources = tuple(table.oid for table in changed)
        back.changes = since.changes(connection, stash, changed)
        carried.listed(connection, back, changed)
    for one in back.rows():
        there = back.before.get((one.schema, one.name))
        if others and there and not later:
            fresh.before(connection, back, [there.oid])  # asked of this step by one that follows
        if back.newer(one) and one.lost and there:
            every = any(oid != there.oid for oid in back.sources)
            back.crossed |= {one.number} if every else set()
            back.touched[one.number] = since.touched(connection, stash, one, there, every=every)
        after = one.left_as
        if after and later:  # by now the table and its columns are called again what they were before the downgrade
            after = {"schema": one.schema, "name": one.name, "columns": {name: name for name in after["columns"]}}
        live = after and evidence.named(connection, after["schema"], after["name"])
        if one.kind == "rows" and live:
            execute(connection, f"LOCK TABLE {evidence.name_of(live)} IN SHARE ROW EXCLUSIVE MODE")
            names = after["columns"]
            back.stays[one.number] = live, names
            with silence.unveiled(connection, live.oid, evidence.name_of(live)):
                mine = back.untouched[one.number] = since.untouched(
                    connection, stash, one, live, names, newer=back.newer(one)
                )
                if not later and (stood := twins.stood(connection, stash.place(one), one, live, names, mine)):
                    back.stood[one.number] = stood
                elif not later and (listed := twins.keys(connection, stash.place(one), one, live, names, mine)):
                    back.keys[one.number] = listed
    return back


def _lock_written(connection: Connection, stash: Stash) -> list[Table]:
    """Keep writers away from what the downgrade put rows into: what it moved there may go back, as it is looked at now.

    Gives those that others have written to since, or may have: a log that this role may only write is not its own to lock.
    """
    # SHARE lets readers go on, and whoever makes an index; rows that the upgrade itself writes take their own lock.
    found = [(one, table) for one in stash.written if (table := evidence.named(connection, one.schema, one.name))]
    may = lock_order.lockable(connection, [table.oid for _, table in found])
    for one, table in sorted(found, key=lambda pair: pair[1].oid):
        if table.oid in may and one.checksum:
            execute(connection, f"LOCK TABLE {evidence.name_of(table)} IN SHARE MODE")
    return [table for one, table in found if table.oid not in may or since.written_since(connection, one, table)]


def _there(connection: Connection, back: Back) -> dict[tuple[str, str], Table]:
    named = {(one.schema, one.name): evidence.named(connection, one.schema, one.name) for one in back.rows()}
    return {name: found for name, found in named.items() if found}


def finish(connection: Connection, back: Back, who: str, *, dry: bool = False) -> list[str]:
    """Put in whatever is still missing, compare everything with the manifest, write what became of it.

    To be called at the end of the upgrade's body, or by itself for a later restore. Gives lines for people.
    """
    connection.info[beside_newer.LAST] = True
    try:
        return _finish(connection, back, who, dry=dry)
    finally:
        del connection.info[beside_newer.LAST]


def _finish(connection: Connection, back: Back, who: str, *, dry: bool) -> list[str]:
    if back.ended:
        over_commit.go_on(connection, back)
    tables = {one.number: evidence.named(connection, one.schema, one.name) for one in back.rows()}
    order = clear.in_order(connection, [table.oid for table in tables.values() if table])
    there = [(one, table) for one in back.rows() if (table := tables[one.number])]
    meanwhile.keep_others_out(connection, back, made(connection, back))
    if not back.anyway:
        sources.settle(connection, back)
        rekey.all_of(connection, back)
        fresh.settle(connection, back)
        for one, table in there:
            fill.settle(connection, back, one, table)
    already = dict(back.filled)
    cleared = {}
    if not any(meant.holds(connection, back, one, table) for one, table in there):
        cleared = clear.cleared(connection, back) or untangle.together(connection, back, there)
    columns = {number: filled for number, filled in back.filled.items() if filled.aside and number not in cleared}
    settled, followed = cleared.keys() | columns.keys(), dict(back.followed)
    if order is None:
        with ExitStack() as asleep:
            for _, table in there:
                asleep.enter_context(silence.of_table(connection, table.oid, evidence.name_of(table)))
            asleep.enter_context(silence.loops(connection, [table.oid for _, table in there]))
            for one, table in there:
                fill.rows(connection, back, one, table, last=True, cleared=one.number in settled)
    else:
        for one, table in sorted(there, key=lambda pair: order[pair[1].oid]):
            if swapped := _moved_back(connection, back, one, table):
                back.filled[one.number] = swapped
            else:
                # What has followed a row to another key is not as it was cleared.
                same = back.followed.get(table.oid) == followed.get(table.oid)
                fill.rows(connection, back, one, table, last=True, cleared=one.number in settled and same)
    if not cleared and clear.rest(connection, back):
        for one, table in sorted(there, key=lambda pair: (order or {}).get(pair[1].oid, 0)):
            first = back.filled[one.number]
            fill.rows(connection, back, one, table, last=True, cleared=True)
            back.filled[one.number] = replace(
                back.filled[one.number],
                removed=first.removed,
                displaced=first.displaced,
                aside=first.aside,
                inserted=first.inserted,
            )
    for one, table in sorted(there, key=lambda pair: -(order or {}).get(pair[1].oid, 0)):
        if not back.anyway and one.number in back.filled:
            fill.not_there(connection, back, one, table)
    aside = [] if back.anyway else put_in.take_out(connection, back) + handed_on.set_aside(connection, back)
    postponed.prove(connection, back)
    over_commit.end(connection, back)
    for number, first in columns.items():
        back.filled[number] = replace(back.filled[number], displaced=first.displaced, aside=first.aside)
    for number, others in cleared.items():
        back.filled[number] = replace(
            back.filled[number], removed=others.own, displaced=others.displaced, aside=others.aside
        )
    tables = {one.number: evidence.named(connection, one.schema, one.name) for one in back.rows()}
    early = back.afterwards or back.wanted or back.compound  # not right after a place for them was made
    changed = [
        table.oid
        for number, table in tables.items()
        if table and (early or number in cleared or back.filled.get(number) != already.get(number))
    ]
    notes = told.unkeyed(back) + list(dict.fromkeys(back.misled))
    for one in back.rows():
        found = tables[one.number]
        notes += told.of_object(connection, back, one, found)
        if found and one.grants and not back.anyway:
            grants = rights.on_columns(one.grants, one.lost)
            notes += regrant.give(connection, found.oid, rights.Rights("TABLE", one.name, grants))
    if not back.anyway:
        lines = regrant.give_again(connection, back.stash.rights, back.others)
        notes += [*lines, f"what rights there were: make migrate-stash-show ID={back.stash.id}"] if lines else []
    elif any(one.grants or one.lacks for one in back.stash.rights):
        notes.append(f"rights are given by an upgrade only; what they were: make migrate-stash-show ID={back.stash.id}")
    notes += aside + refreshed.all_of(connection, changed, back.already - back.flow.rewritten - back.flow.into.keys())
    notes += told.of_sequences(connection, back, dry=dry) + told.not_again(connection, back)
    waits = any(filled.left or filled.missing for filled in back.filled.values()) or not all(tables.values())
    if not waits and _only_here(back):
        waits = True
        notes.append(
            f"stash {back.stash.id} stays partly restored: values of columns that were not there when its rows came back are "
            f"nowhere else (make migrate-stash-show ID={back.stash.id})"
        )
    manifest.mark(connection, back.schema, back.stash.id, "partly restored" if waits else "restored", who)
    return notes


def _only_here(back: Back) -> bool:
    """Whether all rows were back before this try, without all of their columns: with the rows of a table only they come back."""
    if back.stash.state != "partly restored" or any(filled.written for filled in back.filled.values()):
        return False
    kept = [one for one in back.stash.objects if one.relation]
    return not any(one.left for one in kept) and any(one.kind == "table" and fill.kept(one) for one in kept)


def _moved_back(connection: Connection, back: Back, one: Object, table: Table) -> Filled | None:
    """Put a moved table back as it is; None where it is none, or where that cannot be and its rows are to be put in.

    Rows that the upgrade has put into the new one are set aside first.
    """
    from sqlalchemy.exc import DBAPIError

    if not one.moved or one.number in back.filled or not anew(connection, back, table):
        return None
    if one.number in back.theirs or one.number in back.fresh:
        return None
    lines = frozenset((kind, name, text) for kind, name, text in one.structure)
    done, filled = False, Filled(swapped=True)
    connection.exec_driver_sql("SAVEPOINT guard_swap")
    try:
        if not write_back.empty(connection, table):
            with checksum.reading(connection):
                displaced, aside = write_back.set_aside(
                    connection, back.stash.place(one), one, table, sorted(one.columns)
                )
            filled = replace(filled, displaced=displaced, aside=aside)
        # A line of the comparison too; what becomes of them is told at the end.
        for right, oid in rights.standing(connection, back.stash.rights).items():
            if oid == table.oid:
                regrant.give(connection, oid, right)
        done = move.back(connection, back.schema, (back.stash.kept_in, one.relation or ""), table, lines)
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) in ladder.TRANSIENT:
            raise
    if not done:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_swap")
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_swap")
    return filled if done else None
