"""Makes room for kept rows in tables that an upgrade has made and filled itself, so that they go in as they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, evidence, meant, references, silence, write_back
from mcp_planner_schema.guard.back import Back, made
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute

if TYPE_CHECKING:
    from sqlalchemy import Connection

# A key may be a partition's own, or refer to one by itself: it is its table's.
_REFERS = """
WITH these AS MATERIALIZED (
  SELECT u.oid AS root, u.oid FROM pg_catalog.unnest(%(oids)s::oid[]) AS u (oid)
  UNION SELECT u.oid, t.relid::oid FROM pg_catalog.unnest(%(oids)s::oid[]) AS u (oid)
        CROSS JOIN LATERAL pg_catalog.pg_partition_tree(u.oid::pg_catalog.regclass) AS t)
SELECT DISTINCT child.root::bigint, parent.root::bigint FROM pg_catalog.pg_constraint k
JOIN these AS child ON child.oid = k.conrelid JOIN these AS parent ON parent.oid = k.confrelid
WHERE k.contype = 'f' AND child.root <> parent.root
"""
# Of a table that another's foreign key refers to, be that one empty, and of one with checks pending.
_NO_TRUNCATE = ("0A000", "55006")
_FEW = 10
"""Where less than one row in so many is another, each is dealt with by itself; else the table is emptied."""


@dataclass(frozen=True)
class Others:
    """Rows of a table made anew that are not as they were kept: ``displaced`` in all, ``own`` by keys that were not there.

    Copies of them are in ``aside``. ``few``: each can be dealt with by itself. Not ``in_the_way``: there are none.
    """

    one: Object
    table: Table
    displaced: int
    own: int
    aside: str
    few: bool
    in_the_way: bool


def cleared(connection: Connection, back: Back) -> dict[int, Others]:
    """Set aside what the upgrade has put into the tables that it has made and is not as it was, and take it out.

    Gives what was found in each table that has room now. Where rows of somebody else's tables refer to it nothing is taken out,
    and each table is filled as far as that goes.
    """
    from sqlalchemy.exc import IntegrityError

    write_back.note_path(connection)
    anew = [
        pair
        for pair in made(connection, back)
        if not back.newer(pair[0]) and pair[0].number not in back.theirs | back.fresh
    ]
    anew = [pair for pair in anew if not write_back.wants_more(connection, *pair)]
    connection.exec_driver_sql("SAVEPOINT guard_clear")
    found = [others for one, table in anew if (others := set_aside(connection, back, one, table))]
    wrong = [others for others in found if others.in_the_way]
    oids = [table.oid for _, table in anew]
    try:
        done = not wrong or _singly(connection, back, oids, wrong) or _together(connection, anew, wrong)
    except IntegrityError:
        done = False
    if not done:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_clear")
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_clear")
    return {others.one.number: others for others in found} if done else {}


def set_aside(connection: Connection, back: Back, one: Object, table: Table) -> Others | None:
    """What of a table is not as it was kept; None where it is empty."""
    place = back.stash.place(one)
    with checksum.reading(connection), silence.unveiled(connection, table.oid, evidence.name_of(table)):
        if write_back.empty(connection, table):
            return None
        by_key = write_back.keyed(one, table)
        if not by_key and write_back.same(connection, place, one, table, write_back.common(one, table)[0]):
            return Others(one, table, 0, 0, "", few=True, in_the_way=False)
        shared = sorted({column.name for column in table.columns.values()} & set(one.columns))
        displaced, aside = write_back.set_aside(connection, place, one, table, shared)
        own = write_back.own(connection, place, one, table) if displaced else 0
    kept = one.checksum.rows if one.checksum else 0
    few = by_key and displaced * _FEW <= kept and (not one.moved or one.number in back.filled)
    return Others(one, table, displaced, own, aside, few=few, in_the_way=displaced > 0 or not by_key)


def _singly(connection: Connection, back: Back, oids: Sequence[int], wrong: Sequence[Others]) -> bool:
    """Delete rows that were not there before and give the others their values; False where that cannot be, or costs more.

    ``oids`` are all tables that the upgrade has made.
    """
    from sqlalchemy.exc import IntegrityError

    if not all(others.few for others in wrong):
        return False
    order = in_order(connection, oids) or {}
    parents_first = sorted(wrong, key=lambda others: order.get(others.table.oid, 0))
    connection.exec_driver_sql("SAVEPOINT guard_singly")
    try:
        with _asleep(connection, [others.table for others in wrong]):
            done = all(
                write_back.remove(connection, back.stash.place(each.one), each.one, each.table, oids) == each.own
                for each in reversed(parents_first)
            )
            for each in parents_first:
                which = f"NOT {meant.another(connection, back, each.one, each.table)}"
                write_back.overwrite(connection, back.stash.place(each.one), each.one, each.table, which)
    except IntegrityError:
        done = False
    if not done:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_singly")
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_singly")
    return done


def _together(connection: Connection, anew: Sequence[tuple[Object, Table]], wrong: Sequence[Others]) -> bool:
    """Empty the tables, and with them those of the upgrade's that refer to them: their rows come back after those."""
    going = {others.table.oid for others in wrong}
    refers = among(connection, [table.oid for _, table in anew])
    while more := {child for child, parent in refers if parent in going} - going:
        going |= more
    return empty(connection, [table for _, table in anew if table.oid in going])


def rest(connection: Connection, back: Back) -> int:
    """Delete rows that the upgrade has made and that were not there, where others referred to them until theirs were back.

    Not where newer rows refer to one, or would go along.

    Gives how many.
    """
    gone = 0
    anew = [
        pair
        for pair in made(connection, back)
        if not back.newer(pair[0]) and pair[0].number not in back.theirs | back.fresh
    ]
    oids = [table.oid for _, table in anew]
    for one, table in anew:
        filled = back.filled[one.number]
        if filled.displaced > filled.removed and write_back.keyed(one, table):
            with _asleep(connection, [table]):
                place, free = back.stash.place(one), f"NOT {references.referred(connection, table.oid)}"
                removed = write_back.remove(connection, place, one, table, oids)
                removed = removed or write_back.remove(connection, place, one, table, oids, which=free)
            back.filled[one.number] = replace(filled, removed=filled.removed + removed)
            gone += removed
    return gone


def take_out(connection: Connection, back: Back, filled: Sequence[tuple[Object, Table]]) -> bool:
    """Take the kept rows out of these tables: all at once where they hold no others, else those that are as they were kept.

    One that is another by now stays, and so do all of a table without a key: after a commit they may be somebody's. False where
    a row of another table refers to one of them: then nothing was done.
    """
    from sqlalchemy.exc import IntegrityError

    tables = [table for _, table in filled]
    if write_back.reaches_others(connection, [table.oid for table in tables]):
        return False
    done = True
    connection.exec_driver_sql("SAVEPOINT guard_take_out")
    try:
        if all(_as_kept(connection, back, one, table) for one, table in filled):
            empty(connection, tables)
            filled = ()
        order = in_order(connection, [table.oid for table in tables]) or {}
        with _asleep(connection, tables):
            for one, table in sorted(filled, key=lambda pair: -order.get(pair[1].oid, 0)):
                if write_back.keyed(one, table):
                    place, live = back.stash.place(one), evidence.rows_of(table)
                    alike = checksum.alike(connection, place, live, write_back.common(one, table)[0])
                    kept = f"EXISTS (SELECT FROM {place} AS c WHERE {write_back.same_key(one, table)} AND {alike})"
                    execute(connection, f"DELETE FROM {live} AS l WHERE {kept}")
    except IntegrityError:
        done = False
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_take_out")
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_take_out")
    return done


def _as_kept(connection: Connection, back: Back, one: Object, table: Table) -> bool:
    place = back.stash.place(one)
    with checksum.reading(connection), silence.unveiled(connection, table.oid, evidence.name_of(table)):
        return write_back.same(connection, place, one, table, write_back.common(one, table)[0])


def empty(connection: Connection, tables: Sequence[Table]) -> bool:
    """Take all rows out of these tables; False where rows of other tables would go along."""
    if write_back.reaches_others(connection, [table.oid for table in tables]):
        return False
    if tables and not _truncated(connection, tables):
        order = in_order(connection, [table.oid for table in tables]) or {}
        with _asleep(connection, tables):
            for table in sorted(tables, key=lambda one: -order.get(one.oid, 0)):
                execute(connection, f"DELETE FROM {evidence.rows_of(table)}")
    return True


def _truncated(connection: Connection, tables: Sequence[Table]) -> bool:
    """Empty them at once, which leaves no dead rows behind; False where PostgreSQL allows only DELETE."""
    from sqlalchemy.exc import DBAPIError

    done = True
    connection.exec_driver_sql("SAVEPOINT guard_truncate")
    try:
        with checksum.reading(connection), ExitStack() as asleep:
            for table in tables:
                asleep.enter_context(silence.of_table(connection, table.oid, evidence.name_of(table)))
            execute(connection, f"TRUNCATE TABLE {', '.join(map(evidence.rows_of, tables))}")
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) not in _NO_TRUNCATE:
            raise
        done = False
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_truncate")
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_truncate")
    return done


@contextmanager
def _asleep(connection: Connection, tables: Sequence[Table]) -> Iterator[None]:
    """While inside, triggers of these tables sleep, and their references to each other wait for the end."""
    for table in tables:
        silence.ready(connection, table.oid)
    with checksum.reading(connection), ExitStack() as asleep:
        for table in tables:
            asleep.enter_context(silence.of_table(connection, table.oid, evidence.name_of(table)))
        asleep.enter_context(silence.loops(connection, [table.oid for table in tables]))
        yield


def among(connection: Connection, oids: Iterable[int]) -> list[tuple[int, int]]:
    """Which of these tables refers to which."""
    return [(child, parent) for child, parent in connection.exec_driver_sql(_REFERS, {"oids": list(oids)})]


def in_order(connection: Connection, oids: Sequence[int]) -> dict[int, int] | None:
    """Places in an order in which every row finds those it refers to; None where tables refer to each other in a circle."""
    from graphlib import CycleError, TopologicalSorter

    graph: dict[int, set[int]] = {oid: set() for oid in oids}
    for child, parent in among(connection, oids):
        graph[child].add(parent)
    try:
        return {oid: place for place, oid in enumerate(TopologicalSorter(graph).static_order())}
    except CycleError:
        return None
