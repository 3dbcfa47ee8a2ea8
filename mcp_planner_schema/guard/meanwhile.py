"""What comes back while the body of an upgrade runs: after a statement, before a commit, and out again where it is in the way."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import (
    checksum,
    clear,
    evidence,
    fill,
    fills,
    flow,
    ladder,
    over_commit,
    postponed,
    rekey,
    sequences,
    silence,
    sources,
    twins,
    write_back,
)
from mcp_planner_schema.guard.back import Back, InTheWay, anew, made, undoable
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.guard.transaction import OWN

if TYPE_CHECKING:
    from sqlalchemy import Connection

_REFERRED = "SELECT DISTINCT confrelid::bigint FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conname = ANY (%s)"
_SHAPE = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_partition_tree(%s::oid)"


def come_back(
    connection: Connection, back: Back, *, strictly: bool = False, wanting: bool = False, changed: bool = True,
    all_: bool | None = None,
) -> None:  # fmt: skip
    """Put in what has a place by now: rows of tables that the upgrade has made, values of columns it has added.

    Called after each statement of the upgrade; what does not fit yet (a partition that is missing) waits for the next.
    ``strictly`` lets its error through. Where rows are ``wanting``, those come too that wait for the end otherwise: of moved
    tables, for which the new one has all that it had then, and those that the downgrade has ``changed``. ``all_``: also what the
    body may have newer values for (``Back.waits``); where rows are wanting it is so.
    """
    from sqlalchemy.exc import DBAPIError

    # What is final already cannot be begun again: from there on no table's rows come in among the body's own.
    back.afterwards = back.afterwards or int(not undoable(connection, back))
    if back.afterwards > 1 and not wanting:
        return
    back.wanted = back.wanted or wanting
    all_ = wanting or strictly if all_ is None else all_
    for one, table in _parents_first(connection, back) if wanting else _with_places(connection, back):
        waits = one.number in back.late or one.moved or (one.kind == "table" and back.afterwards)
        if (waits and not wanting) or (one.kind == "table" and back.newer(one)):
            continue
        if one.kind == "table":
            if not anew(connection, back, table):
                continue
        elif not (wanting and changed) and not fill.added(one, table, back.before.get((one.schema, one.name))):
            continue
        shape = (
            table.oid,
            tuple(table.columns.values()),
            connection.exec_driver_sql(_SHAPE, (table.oid,)).scalar_one(),
        )
        again = wanting and one.number in back.filled and back.filled[one.number].left
        again = again or (all_ and one.number in back.waits)
        if back.shapes.get(one.number) == shape and not again:
            continue
        if one.kind == "table" and _in_the_way(connection, back, one, table):
            continue
        back.shapes[one.number] = shape
        sources.look(connection, back, handed=False)  # what the body has done, before the guard does something
        connection.exec_driver_sql("SAVEPOINT guard_restore")
        try:
            fill.rows(connection, back, one, table, deleted=wanting and one.number not in back.stood, all_=all_)
            if all_ or one.number not in back.touched:
                back.waits.pop(one.number, None)
            else:
                names = frozenset(column.name for column in table.columns.values())
                back.waits[one.number] = fills.Waiting(table.name, tuple(one.lost), names)
        except DBAPIError as error:
            if strictly:
                raise
            if getattr(error.orig, "pgcode", None) == _DENIED:  # the body acts as another role for a while
                del back.shapes[one.number]
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_restore")
        connection.exec_driver_sql("RELEASE SAVEPOINT guard_restore")
        sources.note(connection, back)


def _in_the_way(connection: Connection, back: Back, one: Object, table: Table) -> bool:
    """Whether one statement, a block or a function, has filled a table and others as well, and has given rows keys of kept ones
    that are others: what it has written elsewhere means its own. Then no kept row comes in among them."""
    first = one.number not in back.filled and not back.afterwards
    if not (first and back.compound and write_back.keyed(one, table)):
        return False
    others = back.flow.into.keys() - flow.parts(connection, [table.oid])
    if not others or write_back.empty(connection, table):
        return False
    columns, _ = write_back.common(one, table)
    compared, unique = (
        twins.told_apart_by(connection, one, table, columns),
        twins.by_unique(connection, one, table, columns),
    )
    same = write_back.same_key(one, table)
    with checksum.reading(connection), silence.unveiled(connection, table.oid, evidence.name_of(table)):
        differ = f"{twins.told_by('c', compared, unique)} <> {twins.told_by('l', compared, unique)}"
        both = f"{back.stash.place(one)} AS c JOIN {evidence.rows_of(table)} AS l ON {same}"
        asked = f"SELECT EXISTS (SELECT FROM {both} WHERE {differ})"
        back.in_the_way = back.in_the_way or bool(execute(connection, asked).scalar_one())
    return back.in_the_way


_DENIED = "42501"
"""SQLSTATE of what the role may not do: insufficient_privilege."""


def moving(connection: Connection, back: Back) -> list[int]:
    """The tables that the upgrade has made, by OID, whose moved rows come when its body has ended."""
    if back.afterwards or not any(one.moved for one in back.rows()):
        return []
    done = back.filled.keys() | back.late
    return [table.oid for one, table in made(connection, back) if one.moved and one.number not in done]


def take_out(connection: Connection, back: Back) -> None:
    """Take kept rows out of the tables that the upgrade has made again: its next statement finds them as it did the first time.

    Whole tables then wait for :func:`.restore.finish`. What the upgrade itself has put there stays, as far as a key tells that.
    """
    back.late = {one.number for one in back.rows() if one.kind == "table"}
    # Not once more: by now there may be a row of the body's own that is like a kept one.
    pairs = [pair for pair in made(connection, back) if pair[0].number in back.filled.keys() & back.shapes.keys()]
    back.shapes.clear()
    if not pairs:
        return
    keep_others_out(connection, back, pairs)
    if clear.take_out(connection, back, pairs) or _columns_too(connection, back, pairs):
        _set_back(connection, back)


def _columns_too(connection: Connection, back: Back, pairs: Sequence[tuple[Object, Table]]) -> bool:
    """The same, where the values of a column refer to those rows: they give way to the column's default. All or nothing."""
    from sqlalchemy.exc import IntegrityError

    done = False
    connection.exec_driver_sql("SAVEPOINT guard_columns_too")
    try:
        for one, table in _with_places(connection, back):
            before = back.before.get((one.schema, one.name))
            if one.lost and one.key and one.number in back.filled and fill.added(one, table, before):
                fill.take_out(connection, back, one, table)
        done = clear.take_out(connection, back, pairs)
    except IntegrityError:
        pass
    if not done:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_columns_too")
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_columns_too")
    return done


def keep_others_out(connection: Connection, back: Back, pairs: Sequence[tuple[Object, Table]]) -> None:
    """After a commit of the body others may write to what it has made: no row of theirs comes in after it was looked at.

    Such a step is not begun again for a lock, so this is tried more than once. Raises the driver's error after that.
    """
    from sqlalchemy.exc import DBAPIError

    if not pairs or undoable(connection, back):
        return
    tables = sorted({table.oid: table for _, table in pairs}.values(), key=lambda one: one.oid)
    for tries in itertools.count(1):
        connection.exec_driver_sql("SAVEPOINT guard_keep_out")
        try:
            for table in tables:
                execute(connection, f"LOCK TABLE {evidence.name_of(table)} IN SHARE ROW EXCLUSIVE MODE")
        except DBAPIError as error:
            if getattr(error.orig, "pgcode", None) not in ladder.TRANSIENT or tries >= ladder.HOPELESS:
                raise
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_keep_out")
            time.sleep(ladder.pause(tries))
        else:
            connection.exec_driver_sql("RELEASE SAVEPOINT guard_keep_out")
            return


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
        if back.ended:  # two commits, and no statement between them
            over_commit.go_on(connection, back)
        sources.settle(connection, back)
        rekey.all_of(connection, back)
        come_back(connection, back, wanting=True, changed=False, all_=bool(back.unproven))
        _advance(connection, back)
        if back.unproven:
            referred = connection.exec_driver_sql(_REFERRED, ([name for *_, name in back.unproven],)).scalars().all()
            for one, table in _parents_first(connection, back):
                # Of rows without a key nobody would know afterwards that they are back.
                if (one.kind == "rows" and (one.key or table.oid in referred)) or back.newer(one):
                    fill.rows(connection, back, one, table, deleted=True)
            postponed.prove(connection, back)
        over_commit.leave(connection, back)
    finally:
        del connection.info[OWN]


def _advance(connection: Connection, back: Back) -> None:
    """Set the sequences of tables whose rows are back to where they stood: somebody may write there as soon as it is final."""
    rows = {table.oid for one, table in made(connection, back) if one.number in back.filled}
    wanted = {(one.schema, one.name): one for one in back.stash.objects if one.kind == "sequence"}
    for found in sequences.called(connection, back.schema, wanted).values():
        one = wanted[found.schema, found.name]
        assert one.last_value is not None
        assert one.is_called is not None
        was = replace(found, last_value=one.last_value, is_called=one.is_called)
        if found.table in rows and found.behind(was):
            sequences.advance(connection, found.schema, found.name, one.last_value, one.is_called)
            back.advanced[found.oid] = found, was


def _set_back(connection: Connection, back: Back) -> None:
    """The same sequences, where nobody has taken a value since: the upgrade's seeds are to get the keys that they had."""
    names = [(before.schema, before.name) for before, _ in back.advanced.values()]
    now = sequences.called(connection, back.schema, names)
    unused = {oid: before for oid, (before, after) in back.advanced.items() if now.get(oid) == after}
    sequences.undo(connection, unused, now)
    back.advanced.clear()


def _with_places(connection: Connection, back: Back) -> list[tuple[Object, Table]]:
    found = [(one, evidence.named(connection, one.schema, one.name)) for one in back.rows()]
    return [(one, table) for one, table in found if table]


def _parents_first(connection: Connection, back: Back) -> list[tuple[Object, Table]]:
    """Each row after those that it refers to, as far as there is such an order."""
    there = _with_places(connection, back)
    order = clear.in_order(connection, [table.oid for _, table in there]) or {}
    return sorted(there, key=lambda pair: order.get(pair[1].oid, 0))
