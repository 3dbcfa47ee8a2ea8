"""Gives back what a downgrade kept: tables, columns, changed rows, sequences, rights.

A table that the running upgrade has made becomes what it was; nobody else can have written to it. In a table that was there
before, rows written since stay as they are: a kept row goes in only where nothing stands in its way. The rest stays in the
stash and is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import (
    checksum,
    clear,
    evidence,
    intact,
    ladder,
    left,
    manifest,
    move,
    postponed,
    refill,
    refreshed,
    regrant,
    rights,
    silence,
    since,
    told,
    twins,
    wal,
    write_back,
)
from mcp_planner_schema.guard.back import XID, Back, InTheWay, anew, made, undoable
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.manifest import Object, Stash
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.guard.refill import Filled
from mcp_planner_schema.guard.transaction import OWN

if TYPE_CHECKING:
    from sqlalchemy import Connection

_TABLES = "SELECT oid FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p', 'm')"
_SHAPE = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_partition_tree(%s::oid)"


def later(connection: Connection, schema: str, stash: Stash, who: str, *, dry: bool = False) -> list[str]:
    """Give a stash back into the schema as it is now; rows written meanwhile stay. Gives lines for people.

    Keeps writers away from the tables until the transaction ends. ``dry``: it will be rolled back, so nothing is done that
    would outlast that (``setval()``).
    """
    back = begin(connection, schema, stash, later=True)
    return finish(connection, back, who, dry=dry)


def begin(connection: Connection, schema: str, stash: Stash, *, later: bool = False, afterwards: int = 0) -> Back:
    """Compare the stash with its manifest, lock the tables that are there already, see what was written to them since.

    ``afterwards``: what is to wait for the end of the body, see :class:`Back`. Raises :class:`Refused` where the stash is not
    what the manifest says.
    """
    back = Back(schema, stash, anyway=later, afterwards=afterwards)
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
    back.already = frozenset(connection.exec_driver_sql(_TABLES).scalars())
    if not later:
        _lock_written(connection, stash)
    back.newer = not later and any(since.written_since(connection, one) for one in stash.written)
    for one in back.rows():
        there = back.before.get((one.schema, one.name))
        if back.newer and one.lost and there:
            back.touched[one.number] = since.touched(connection, stash, one, there)
        after = one.left_as
        if after and later:  # by now the table and its columns are called again what they were before the downgrade
            after = {"schema": one.schema, "name": one.name, "columns": {name: name for name in after["columns"]}}
        live = after and evidence.named(connection, after["schema"], after["name"])
        if one.kind == "rows" and live:
            execute(connection, f"LOCK TABLE {evidence.name_of(live)} IN SHARE ROW EXCLUSIVE MODE")
            names = after["columns"]
            with silence.unveiled(connection, live.oid, evidence.name_of(live)):
                mine = back.untouched[one.number] = since.untouched(
                    connection, stash, one, live, names, newer=back.newer
                )
                if not later and (stood := twins.stood(connection, stash.place(one), one, live, names, mine)):
                    back.stood[one.number] = stood
    return back


def _lock_written(connection: Connection, stash: Stash) -> None:
    """Keep writers away from what the downgrade wrote to: what it moved there may go back, as it is looked at now."""
    # SHARE lets readers go on, and whoever makes an index; rows that the upgrade itself writes take their own lock.
    found = [table for one in stash.written if (table := evidence.named(connection, one.schema, one.name))]
    for table in sorted(found, key=lambda one: one.oid):
        execute(connection, f"LOCK TABLE {evidence.name_of(table)} IN SHARE MODE")


def _there(connection: Connection, back: Back) -> dict[tuple[str, str], Table]:
    named = {(one.schema, one.name): evidence.named(connection, one.schema, one.name) for one in back.rows()}
    return {name: found for name, found in named.items() if found}


def come_back(
    connection: Connection, back: Back, *, strictly: bool = False, wanting: bool = False, changed: bool = True
) -> None:
    """Put in what has a place by now: rows of tables that the upgrade has made, values of columns it has added.

    Called after each statement of the upgrade; what does not fit yet (a partition that is missing) waits for the next.
    ``strictly`` lets its error through. Where rows are ``wanting``, those come too that wait for the end otherwise: of moved
    tables, for which the new one has all that it had then, and those that the downgrade has ``changed``.
    """
    from sqlalchemy.exc import DBAPIError

    # What is final already cannot be begun again: from there on no table's rows come in among the body's own.
    back.afterwards = back.afterwards or int(not undoable(connection, back))
    if back.afterwards > 1 and not wanting:
        return
    back.wanted = back.wanted or wanting
    for one, table in _parents_first(connection, back) if wanting else _with_places(connection, back):
        waits = one.number in back.late or one.moved or (one.kind == "table" and back.afterwards)
        if (waits and not wanting) or (back.newer and one.kind == "table"):
            continue
        if one.kind == "table":
            if not anew(connection, back, table):
                continue
        elif not (wanting and changed) and not _added(one, table, back.before.get((one.schema, one.name))):
            continue
        shape = (
            table.oid,
            tuple(table.columns.values()),
            connection.exec_driver_sql(_SHAPE, (table.oid,)).scalar_one(),
        )
        again = wanting and one.number in back.filled and back.filled[one.number].left
        if back.shapes.get(one.number) == shape and not again:
            continue
        back.shapes[one.number] = shape
        connection.exec_driver_sql("SAVEPOINT guard_restore")
        try:
            _fill(connection, back, one, table, deleted=wanting and one.number not in back.stood)
        except DBAPIError:
            if strictly:
                raise
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_restore")
        connection.exec_driver_sql("RELEASE SAVEPOINT guard_restore")


def _with_places(connection: Connection, back: Back) -> list[tuple[Object, Table]]:
    found = [(one, evidence.named(connection, one.schema, one.name)) for one in back.rows()]
    return [(one, table) for one, table in found if table]


def _parents_first(connection: Connection, back: Back) -> list[tuple[Object, Table]]:
    """Each row after those that it refers to, as far as there is such an order."""
    there = _with_places(connection, back)
    order = clear.in_order(connection, [table.oid for _, table in there]) or {}
    return sorted(there, key=lambda pair: order.get(pair[1].oid, 0))


def savepoint(back: Back, verb: str, name: str) -> None:
    """The body has set a savepoint, released it, or gone back to it: what has come back since is out again then."""
    place = next((at for at in reversed(range(len(back.marks))) if back.marks[at][0] == name), len(back.marks))
    if verb == "SAVEPOINT":
        back.marks.append((name, dict(back.filled), dict(back.shapes)))
    elif verb == "RELEASE":
        del back.marks[place:]
    elif place < len(back.marks):
        back.filled, back.shapes = dict(back.marks[place][1]), dict(back.marks[place][2])
        del back.marks[place + 1 :]


def before_commit(connection: Connection, back: Back) -> None:
    """The body is about to commit in the middle: let tables and columns have their rows, and prove what was to be proven.

    So nothing becomes final without them. Where a foreign key waits for rows that the downgrade deleted or changed, those come
    back now, for what is known of them ends with the transaction; an orphan is PostgreSQL's own error. Raises :class:`InTheWay`
    where a row of the body's own was left out.
    """
    if back.in_the_way and undoable(connection, back):
        raise InTheWay
    connection.info[OWN] = True
    try:
        come_back(connection, back, wanting=True, changed=False)
        if back.unproven:
            for one, table in _parents_first(connection, back):
                if one.kind == "rows" or back.newer:
                    _fill(connection, back, one, table, deleted=True)
            postponed.prove(connection, back)
    finally:
        del connection.info[OWN]


def waiting(connection: Connection, back: Back) -> list[int]:
    """The tables that the upgrade has made, by OID, whose moved rows come when its body has ended."""
    if back.newer or back.afterwards or not any(one.moved for one in back.rows()):
        return []
    done = back.filled.keys() | back.late
    return [table.oid for one, table in made(connection, back) if one.moved and one.number not in done]


def take_out(connection: Connection, back: Back) -> None:
    """Take kept rows out of the tables that the upgrade has made again: its next statement finds them as it did the first time.

    Whole tables then wait for :func:`finish`. What the upgrade itself has put there stays, as far as a key tells that.
    """
    back.late = {one.number for one in back.rows() if one.kind == "table"}
    back.shapes.clear()
    pairs = [pair for pair in made(connection, back) if pair[0].number in back.filled]
    _keep_others_out(connection, back, pairs)
    clear.take_out(connection, back, pairs)


def _keep_others_out(connection: Connection, back: Back, pairs: Sequence[tuple[Object, Table]]) -> None:
    """After a commit of the body others may write to what it has made: no row of theirs comes in after it was looked at."""
    if not undoable(connection, back):
        for table in sorted((table for _, table in pairs), key=lambda one: one.oid):
            execute(connection, f"LOCK TABLE {evidence.name_of(table)} IN SHARE ROW EXCLUSIVE MODE")


def finish(connection: Connection, back: Back, who: str, *, dry: bool = False) -> list[str]:
    """Put in whatever is still missing, compare everything with the manifest, write what became of it.

    To be called at the end of the upgrade's body, or by itself for a later restore. Gives lines for people.
    """
    tables = {one.number: evidence.named(connection, one.schema, one.name) for one in back.rows()}
    order = clear.in_order(connection, [table.oid for table in tables.values() if table])
    there = [(one, table) for one in back.rows() if (table := tables[one.number])]
    _keep_others_out(connection, back, made(connection, back))
    already = dict(back.filled)
    cleared = clear.cleared(connection, back)
    if order is None:
        with ExitStack() as asleep:
            for _, table in there:
                asleep.enter_context(silence.of_table(connection, table.oid, evidence.name_of(table)))
            asleep.enter_context(silence.loops(connection, [table.oid for _, table in there]))
            for one, table in there:
                _fill(connection, back, one, table, last=True, cleared=one.number in cleared)
    else:
        for one, table in sorted(there, key=lambda pair: order[pair[1].oid]):
            if swapped := _moved_back(connection, back, one, table):
                back.filled[one.number] = swapped
            else:
                _fill(connection, back, one, table, last=True, cleared=one.number in cleared)
    if not cleared and clear.rest(connection, back):
        for one, table in sorted(there, key=lambda pair: (order or {}).get(pair[1].oid, 0)):
            first = back.filled[one.number]
            _fill(connection, back, one, table, last=True, cleared=True)
            back.filled[one.number] = replace(
                back.filled[one.number], removed=first.removed, displaced=first.displaced, aside=first.aside
            )
    postponed.prove(connection, back)
    for number, others in cleared.items():
        back.filled[number] = replace(
            back.filled[number], removed=others.own, displaced=others.displaced, aside=others.aside
        )
    tables = {one.number: evidence.named(connection, one.schema, one.name) for one in back.rows()}
    early = back.afterwards or back.wanted  # not right after a place for them was made
    changed = [
        table.oid
        for number, table in tables.items()
        if table and (early or back.filled.get(number) != already.get(number))
    ]
    notes: list[str] = []
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
    notes += refreshed.all_of(connection, changed, back.already)
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
    return not any(one.left for one in kept) and any(one.kind == "table" and _kept(one) for one in kept)


def _added(one: Object, table: Table, before: Table | None) -> bool:
    """Whether a column that went is there again and was not before this upgrade."""
    names = {column.name for column in table.columns.values()} & set(one.lost)
    return bool(names - ({column.name for column in before.columns.values()} if before else set()))


def _fill(
    connection: Connection, back: Back, one: Object, table: Table, *, last: bool = False, cleared: bool = False,
    deleted: bool = False,
) -> None:  # fmt: skip
    """Put one object's rows or values in, and note what became of them. ``last``: the body has ended. ``deleted``: rows that the
    downgrade deleted are not to wait for that."""
    write_back.note_path(connection)
    with (
        checksum.reading(connection),
        wal.written_beside(connection),
        silence.of_table(connection, table.oid, evidence.name_of(table)),
    ):
        filled = _filled(connection, back, one, table, last=last, cleared=cleared, deleted=deleted or last)
        earlier = back.filled.get(one.number, Filled())
        if last:
            given = filled.left < _kept(one) or earlier.written + filled.written > 0
            left.note(connection, back.stash, one, filled, given=given)
    back.filled[one.number], back.met = replace(filled, written=earlier.written + filled.written), True


def _filled(
    connection: Connection, back: Back, one: Object, table: Table, *, last: bool, cleared: bool, deleted: bool
) -> Filled:
    """The same, while the table's triggers and rules sleep."""
    before, place = back.before.get((one.schema, one.name)), back.stash.place(one)
    may = left.read(connection, back.stash, one)
    if one.kind == "table":
        if back.newer or not anew(connection, back, table):
            return refill.beside(connection, place, one, table, may)
        return refill.exactly(connection, place, one, table, last=last, cleared=cleared)
    filled = Filled()
    mine, stood = _evidence(connection, back, one), _still(connection, back.stood.get(one.number))
    if deleted and mine and stood:
        gone, stay, written = twins.give_way(connection, place, one, table, untouched=mine, stood=stood)
        filled = Filled(removed=gone, why=twins.WHY if stay else "", written=written)
    if one.lost:
        new, listed = not before or _added(one, table, before), back.touched.get(one.number)
        touched = _still(connection, listed)
        columns = refill.columns(
            connection,
            place,
            one,
            table,
            may,
            overwrite=new and touched == listed,  # where a COMMIT has ended the list, every row may be on it
            last=last,
            untouched=mine,
            touched=touched,
            apart=back.anyway,
        )
        filled = filled.and_(connection, place, columns)
    if one.kind == "rows":
        # Where no upgrade has made the lost columns, what stands in them was written by people.
        but = one.lost if back.anyway else ()
        deleted = deleted or not (stood or back.afterwards)
        rows = refill.changed(connection, place, one, table, may, mine, deleted=deleted, but=but)
        filled = filled.and_(connection, place, rows)
    return filled


def _kept(one: Object) -> int:
    return one.checksum.rows if one.checksum else 0


def _evidence(connection: Connection, back: Back, one: Object) -> str | None:
    """The temporary table of untouched rows; None where a body that commits has ended it, and with it all that it said."""
    return _still(connection, back.untouched.get(one.number))


def _still(connection: Connection, name: str | None) -> str | None:
    if name is None:
        return None
    there = connection.exec_driver_sql("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (name,)).scalar_one()
    return name if there else None


def _moved_back(connection: Connection, back: Back, one: Object, table: Table) -> Filled | None:
    """Put a moved table back as it is; None where it is none, or where that cannot be and its rows are to be put in.

    Rows that the upgrade has put into the new one are set aside first.
    """
    from sqlalchemy.exc import DBAPIError

    if not one.moved or back.newer or one.number in back.filled or not anew(connection, back, table):
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
