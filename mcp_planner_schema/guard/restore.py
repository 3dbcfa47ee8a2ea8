"""Gives back what a downgrade kept: tables, columns, changed rows, sequences, rights.

A table that the running upgrade has made becomes what it was; nobody else can have written to it. In a table that was there
before, rows written since stay as they are: a kept row goes in only where nothing stands in its way. The rest stays in the
stash and is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import (
    checksum,
    definition,
    evidence,
    manifest,
    move,
    refill,
    sequences,
    silence,
    trial,
    twins,
)
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.manifest import AFTER, Object, Stash, Written
from mcp_planner_schema.guard.postcheck import execute, identifier, literal
from mcp_planner_schema.guard.refill import Filled

if TYPE_CHECKING:
    from sqlalchemy import Connection

_KEPT = """
SELECT c.relkind::text, array(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(%s)::oid
"""
_SHAPE = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_partition_tree(%s::oid)"
_REFERS = """
SELECT DISTINCT k.conrelid::bigint, k.confrelid::bigint FROM pg_catalog.pg_constraint k
WHERE k.contype = 'f' AND k.conrelid = ANY (%(oids)s::oid[]) AND k.confrelid = ANY (%(oids)s::oid[]) AND k.conrelid <> k.confrelid
"""


@dataclass
class Back:
    """A stash on its way back. ``before`` are the tables it is about as they stood before the upgrade, by (schema, name).

    ``untouched`` names, for an object's number, the temporary table of those kept rows whose place nobody has written to
    since, ``stood`` the one of the keys in use, where the server makes them; ``shapes`` what a table looked like when its rows
    were last put in, and ``filled`` the outcome. ``late`` are the objects that wait for the end of the body.
    """

    schema: str
    stash: Stash
    before: dict[tuple[str, str], Table] = field(default_factory=dict)
    untouched: dict[int, str] = field(default_factory=dict)
    stood: dict[int, str] = field(default_factory=dict)
    shapes: dict[int, object] = field(default_factory=dict)
    filled: dict[int, Filled] = field(default_factory=dict)
    newer: bool = False
    touched: dict[int, str] = field(default_factory=dict)
    late: set[int] = field(default_factory=set)

    def rows(self) -> list[Object]:
        """The objects that hold rows, but for those whose rows are all back: a row deleted since then stays deleted."""
        return [one for one in self.stash.objects if one.relation and one.left != 0]

    def changed(self) -> bool:
        """Whether rows came back, or rows of the upgrade's gave way to those that were there before, be they none."""
        kept = {one.number: (one.kind, one.checksum.rows if one.checksum else 0) for one in self.rows()}
        return any(
            kept[number][0] == "table" or filled.removed or filled.left < kept[number][1]
            for number, filled in self.filled.items()
        )


def later(connection: Connection, schema: str, stash: Stash, who: str, *, dry: bool = False) -> list[str]:
    """Give a stash back into the schema as it is now; rows written meanwhile stay. Gives lines for people.

    Keeps writers away from the tables until the transaction ends. ``dry``: it will be rolled back, so nothing is done that
    would outlast that (``setval()``).
    """
    back = begin(connection, schema, stash, later=True)
    return finish(connection, back, who, dry=dry)


def begin(connection: Connection, schema: str, stash: Stash, *, later: bool = False) -> Back:
    """Compare the stash with its manifest, lock the tables that are there already, see what was written to them since.

    Raises :class:`Refused` where the stash is not what the manifest says.
    """
    back = Back(schema, stash)
    check(connection, stash)
    back.before = _there(connection, back)
    if later:
        for found in sorted(back.before.values(), key=lambda table: table.oid):
            execute(connection, f"LOCK TABLE {evidence.name_of(found)} IN SHARE ROW EXCLUSIVE MODE")
        back.before = _there(connection, back)  # as nobody can change them any more
    back.newer = not later and any(_written_since(connection, one) for one in stash.written)
    for one in back.rows():
        there = back.before.get((one.schema, one.name))
        if back.newer and one.lost and there:
            back.touched[one.number] = _touched(connection, stash, one, there)
        left = one.left_as
        if left and later:  # by now the table and its columns are called again what they were before the downgrade
            left = {"schema": one.schema, "name": one.name, "columns": {name: name for name in left["columns"]}}
        live = left and evidence.named(connection, left["schema"], left["name"])
        if one.kind == "rows" and live:
            execute(connection, f"LOCK TABLE {evidence.name_of(live)} IN SHARE ROW EXCLUSIVE MODE")
            names = left["columns"]
            with silence.unveiled(connection, live.oid, evidence.name_of(live)):
                mine = back.untouched[one.number] = _untouched(connection, back, one, live, names)
                if not later and (stood := twins.stood(connection, stash.place(one), one, live, names, mine)):
                    back.stood[one.number] = stood
    return back


def _there(connection: Connection, back: Back) -> dict[tuple[str, str], Table]:
    named = {(one.schema, one.name): evidence.named(connection, one.schema, one.name) for one in back.rows()}
    return {name: found for name, found in named.items() if found}


def check(connection: Connection, stash: Stash) -> None:
    """Raise :class:`Refused` where a kept table's rows are not those of the manifest. Reads each of them once."""
    wrong = damaged(connection, stash)
    if wrong:
        values = {"problem": "; ".join(wrong), "stash": str(stash.id), "place": stash.kept_in}
        raise Refused(
            [Finding("stash-damaged", stash.kept_in, stash.revision, values)], f"make migrate-stash-show ID={stash.id}"
        )


def damaged(connection: Connection, stash: Stash) -> list[str]:
    """What of a stash is not as its manifest says. A moved table without checksums need only be there."""
    wrong = []
    with checksum.reading(connection):
        for one in stash.objects:
            if one.relation is None or (one.checksum is None and not one.moved):
                continue
            place = stash.place(one)
            there = connection.exec_driver_sql(_KEPT, (place,)).first()
            if there is None:
                wrong.append(f"{place} is gone")
            elif there.relkind not in ("r", "p"):  # reading a view would run what somebody has written
                wrong.append(f"{place} is no table")
            elif missing := sorted(set(one.columns) - set(there.columns)):
                wrong.append(f"{place} has no column {', '.join(missing)}")
            elif one.checksum:
                found = checksum.of(connection, place, one.columns)
                if found != one.checksum:
                    wrong.append(
                        f"{place} has {found.rows} rows (kept: {one.checksum.rows}), or other values than were kept"
                    )
    return wrong


def come_back(connection: Connection, back: Back, *, strictly: bool = False, wanting: bool = False) -> None:
    """Put in what has a place by now: rows of tables that the upgrade has made, values of columns it has added.

    Called after each statement of the upgrade; what does not fit yet (a partition that is missing) waits for the next.
    ``strictly`` lets its error through. A moved table waits for the end, when the new one has all that it had, unless rows are
    ``wanting``.
    """
    from sqlalchemy.exc import DBAPIError

    for one in back.rows():
        table = evidence.named(connection, one.schema, one.name)
        before = back.before.get((one.schema, one.name))
        if (
            table is None
            or one.number in back.late
            or (back.newer and one.kind == "table")
            or (one.moved and not wanting)
        ):
            continue
        if one.kind == "table":
            if before and before.oid == table.oid:
                continue
        elif not _added(one, table, before):
            continue
        shape = (
            table.oid,
            tuple(table.columns.values()),
            connection.exec_driver_sql(_SHAPE, (table.oid,)).scalar_one(),
        )
        if back.shapes.get(one.number) == shape:
            continue
        back.shapes[one.number] = shape
        connection.exec_driver_sql("SAVEPOINT guard_restore")
        try:
            back.filled[one.number] = _fill(connection, back, one, table)
        except DBAPIError:
            if strictly:
                raise
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_restore")
        connection.exec_driver_sql("RELEASE SAVEPOINT guard_restore")


def waiting(connection: Connection, back: Back) -> list[int]:
    """The tables that the upgrade has made, by OID, whose moved rows come when its body has ended."""
    if back.newer or not any(one.moved for one in back.rows()):
        return []
    done = back.filled.keys() | back.late
    return [table.oid for one, table in _made(connection, back) if one.moved and one.number not in done]


def take_out(connection: Connection, back: Back) -> None:
    """Empty the tables that the upgrade has made again: its next statement finds them as it did the first time.

    Whole tables then wait for :func:`finish`.
    """
    back.late = {one.number for one in back.rows() if one.kind == "table"}
    _empty(connection, [table for one, table in _made(connection, back) if one.number in back.filled])


def finish(connection: Connection, back: Back, who: str, *, dry: bool = False) -> list[str]:
    """Put in whatever is still missing, compare everything with the manifest, write what became of it.

    To be called at the end of the upgrade's body, or by itself for a later restore. Gives lines for people.
    """
    tables = {one.number: evidence.named(connection, one.schema, one.name) for one in back.rows()}
    order = _in_order(connection, [table.oid for table in tables.values() if table])
    there = [(one, table) for one in back.rows() if (table := tables[one.number])]
    removed = _cleared(connection, back)
    if order is None:
        with ExitStack() as asleep:
            for _, table in there:
                asleep.enter_context(silence.of_table(connection, table.oid, evidence.name_of(table)))
            asleep.enter_context(silence.loops(connection, [table.oid for _, table in there]))
            for one, table in there:
                back.filled[one.number] = _fill(connection, back, one, table, last=True)
    else:
        for one, table in sorted(there, key=lambda pair: order[pair[1].oid]):
            swapped = _moved_back(connection, back, one, table)
            back.filled[one.number] = swapped or _fill(connection, back, one, table, last=True)
    for number, (rows, displaced, aside) in removed.items():
        back.filled[number] = replace(back.filled[number], removed=rows, displaced=displaced, aside=aside)
    tables = {one.number: evidence.named(connection, one.schema, one.name) for one in back.rows()}
    notes = []
    for one in back.rows():
        found = tables[one.number]
        notes += _told(connection, back, one, found)
        if found and one.kind == "table" and (one.schema, one.name) not in back.before:
            definition.grant(connection, evidence.name_of(found), one.grants)
    notes += _sequences(connection, back, dry=dry) + _not_again(connection, back)
    left = any(filled.left or filled.missing for filled in back.filled.values()) or not all(tables.values())
    manifest.mark(connection, back.schema, back.stash.id, "partly restored" if left else "restored", who)
    return notes


def _made(connection: Connection, back: Back) -> list[tuple[Object, Table]]:
    """The kept tables that the running upgrade has made again."""
    found = [(one, evidence.named(connection, one.schema, one.name)) for one in back.rows() if one.kind == "table"]
    before = {key: table.oid for key, table in back.before.items()}
    return [(one, table) for one, table in found if table and before.get((one.schema, one.name)) != table.oid]


def _cleared(connection: Connection, back: Back) -> dict[int, tuple[int, int, str]]:
    """Where the upgrade has made rows that were not there, set those aside and empty its tables.

    Gives for each object how many rows were not there before, how many were set aside, and where.

    One by one they could not go where the upgrade's own rows refer to each other. Where somebody else's refer to them they
    stay, and each table is filled as far as that goes.
    """
    from sqlalchemy.exc import IntegrityError

    if back.newer:
        return {}
    made, own, aside = _made(connection, back), {}, {}
    for one, table in made:
        with checksum.reading(connection), silence.of_table(connection, table.oid, evidence.name_of(table)):
            own[one.number] = refill.own(connection, back.stash.place(one), one, table)
    if not any(own.values()):
        return {}
    connection.exec_driver_sql("SAVEPOINT guard_clear")
    try:
        for one, table in made:
            shared = sorted({column.name for column in table.columns.values()} & set(one.columns))
            with (
                checksum.reading(connection),
                silence.of_table(connection, table.oid, evidence.name_of(table)),
            ):
                aside[one.number] = refill.set_aside(connection, back.stash.place(one), one, table, shared)
        emptied = _empty(connection, [table for _, table in made])
    except IntegrityError:
        emptied = False
    if not emptied:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_clear")
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_clear")
    return {number: (rows, *aside[number]) for number, rows in own.items()} if emptied else {}


def _empty(connection: Connection, tables: Sequence[Table]) -> bool:
    """Delete the rows of these tables, those that refer first; False where rows of other tables would go along."""
    oids = [table.oid for table in tables]
    if refill.reaches_others(connection, oids):
        return False
    order = _in_order(connection, oids) or dict.fromkeys(oids, 0)
    with checksum.reading(connection), ExitStack() as asleep:
        for table in tables:
            asleep.enter_context(silence.of_table(connection, table.oid, evidence.name_of(table)))
        asleep.enter_context(silence.loops(connection, oids))
        for table in sorted(tables, key=lambda one: -order[one.oid]):
            execute(connection, f"DELETE FROM {evidence.rows_of(table)}")
    return True


def _added(one: Object, table: Table, before: Table | None) -> bool:
    """Whether a column that went is there again and was not before this upgrade."""
    names = {column.name for column in table.columns.values()} & set(one.lost)
    return bool(names - ({column.name for column in before.columns.values()} if before else set()))


def _fill(connection: Connection, back: Back, one: Object, table: Table, *, last: bool = False) -> Filled:
    """Put one object's rows or values in, with the table's triggers and rules asleep. ``last``: the body has ended."""
    before = back.before.get((one.schema, one.name))
    made = before is None or before.oid != table.oid
    place = back.stash.place(one)
    path = execute(connection, "SELECT pg_catalog.current_setting('search_path')").scalar_one()
    connection.info[refill.PATH] = f"pg_catalog, {path or 'pg_temp'}"
    with checksum.reading(connection), silence.of_table(connection, table.oid, evidence.name_of(table)):
        if one.kind == "table":
            return (
                refill.exactly(connection, place, one, table, last=last)
                if made and not back.newer
                else refill.beside(connection, place, one, table)
            )
        filled = Filled()
        mine, stood = _evidence(connection, back, one), _still(connection, back.stood.get(one.number))
        if last and mine and stood:
            gone, stay = twins.give_way(connection, place, one, table, untouched=mine, stood=stood)
            filled = Filled(removed=gone, why=twins.WHY if stay else "")
        if one.lost:
            new = not before or _added(one, table, before)
            columns = refill.columns(
                connection,
                place,
                one,
                table,
                overwrite=new,
                last=last,
                untouched=mine,
                touched=_still(connection, back.touched.get(one.number)),
            )
            filled = filled.and_(columns)
        if one.kind == "rows":
            filled = filled.and_(refill.changed(connection, place, one, table, mine, deleted=last or not stood))
        return filled


def _evidence(connection: Connection, back: Back, one: Object) -> str | None:
    """The temporary table of untouched rows; None where a body that commits has ended it, and with it all that it said."""
    return _still(connection, back.untouched.get(one.number))


def _still(connection: Connection, name: str | None) -> str | None:
    if name is None:
        return None
    there = connection.exec_driver_sql("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (name,)).scalar_one()
    return name if there else None


def _since(stash: Stash) -> str:
    """SQL: that the row ``l`` was written after the downgrade."""
    return f"pg_catalog.age(l.xmin) < pg_catalog.age({literal(stash.xid)}::pg_catalog.xid8::pg_catalog.xid)"


def _written_since(connection: Connection, left: Written) -> bool:
    """Whether a table is not as the downgrade has left it. Other steps back and up again change nothing in it."""
    table = evidence.named(connection, left.schema, left.name)
    if table is None:
        return False
    if not set(left.columns) <= {column.name for column in table.columns.values()}:
        return True
    with checksum.reading(connection), silence.unveiled(connection, table.oid, evidence.name_of(table)):
        return checksum.of(connection, evidence.rows_of(table), left.columns) != left.checksum


def _touched(connection: Connection, stash: Stash, one: Object, live: Table) -> str:
    """Make the temporary table of the kept rows whose own row was written after the downgrade. Gives its name."""
    name = f"guard_touched_{one.number}"
    with checksum.reading(connection):
        execute(
            connection,
            f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS SELECT c.ctid AS place FROM {stash.place(one)} AS c "
            f"JOIN {evidence.rows_of(live)} AS l ON {refill.same_key(one.key, live) if one.key else 'false'} "
            f"WHERE {_since(stash)}",
        )
    return f"pg_temp.{name}"


def _untouched(connection: Connection, back: Back, one: Object, live: Table, names: dict[str, str]) -> str:
    """Make the temporary table of the kept rows in whose place stands exactly what the downgrade left. Gives its name.

    ``names`` says what their columns are called in ``live``. Where somebody has written to what the downgrade wrote to, nobody
    may have written to the row at all: what the downgrade has put into a column that was new then is in no copy.
    """
    name, place = f"pg_temp.guard_untouched_{one.number}", back.stash.place(one)
    since = f" AND NOT {_since(back.stash)}" if back.newer else ""
    there = {column.name for column in live.columns.values()}
    with checksum.reading(connection):
        if not one.key:
            condition = "true"  # only deleted rows are kept of a table without key, and they stand in nobody's way
        elif not set(names.values()) <= there:
            condition = "false"
        else:
            key = refill.same_key(one.key, live, names)
            now = checksum.row_hash([names[column] for column in sorted(names)], "l")
            rows, after = evidence.rows_of(live), identifier(AFTER)
            condition = (
                f"CASE WHEN c.{after} IS NULL THEN NOT EXISTS (SELECT FROM {rows} AS l WHERE {key}) "
                f"ELSE EXISTS (SELECT FROM {rows} AS l WHERE {key} AND {now} = c.{after}{since}) END"
            )
        execute(
            connection,
            f"CREATE TEMPORARY TABLE {name.removeprefix('pg_temp.')} ON COMMIT DROP AS "
            f"SELECT c.ctid AS place FROM {place} AS c WHERE {condition}",
        )
    return name


def _in_order(connection: Connection, oids: Sequence[int]) -> dict[int, int] | None:
    """Places in an order in which every row finds those it refers to; None where tables refer to each other in a circle."""
    from graphlib import CycleError, TopologicalSorter

    graph: dict[int, set[int]] = {oid: set() for oid in oids}
    for child, parent in connection.exec_driver_sql(_REFERS, {"oids": list(oids)}):
        graph[child].add(parent)
    try:
        return {oid: place for place, oid in enumerate(TopologicalSorter(graph).static_order())}
    except CycleError:
        return None


def _moved_back(connection: Connection, back: Back, one: Object, table: Table) -> Filled | None:
    """Put a moved table back as it is; None where it is none, or where that cannot be and its rows are to be put in.

    Rows that the upgrade has put into the new one are set aside first.
    """
    from sqlalchemy.exc import DBAPIError

    before = back.before.get((one.schema, one.name))
    if not one.moved or back.newer or one.number in back.filled or (before and before.oid == table.oid):
        return None
    lines = frozenset((kind, name, text) for kind, name, text in one.structure)
    done, filled = False, Filled(swapped=True)
    connection.exec_driver_sql("SAVEPOINT guard_swap")
    try:
        if not refill.empty(connection, table):
            with checksum.reading(connection):
                displaced, aside = refill.set_aside(connection, back.stash.place(one), one, table, sorted(one.columns))
            filled = replace(filled, displaced=displaced, aside=aside)
        done = move.back(connection, back.schema, (back.stash.kept_in, one.relation or ""), table, lines)
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) in trial.TRANSIENT:
            raise
    if not done:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_swap")
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_swap")
    return filled if done else None


def _told(connection: Connection, back: Back, one: Object, table: Table | None) -> list[str]:
    filled = back.filled.get(one.number)
    if filled and filled.swapped:
        manifest.emptied(connection, back.schema, back.stash.id, one.number)
        return [f"restored {one.shown}: moved back", *_displaced(one, filled)]
    kept = one.checksum.rows if one.checksum else refill.count(connection, back.stash.place(one))
    if table is None:
        manifest.mark_object(connection, back.schema, back.stash.id, one.number, 0, kept)
        return (
            [f"not restored {one.shown}: it is not there; {kept} rows stay in {back.stash.place(one)}"] if kept else []
        )
    assert filled is not None
    manifest.mark_object(connection, back.schema, back.stash.id, one.number, kept - filled.left, filled.left)
    lines = [f"restored {one.shown}: {kept - filled.left} rows"]
    lines += _displaced(one, filled)
    if filled.removed:
        lines.append(
            f"removed {filled.removed} rows of {one.name} that the upgrade made and that were not there before"
        )
    if filled.missing:
        lines.append(
            f"not restored column {', '.join(filled.missing)} of {one.name}: it is not there, or of another type"
        )
    if filled.left:
        lines.append(
            f"left: {filled.left} rows stay in {back.stash.place(one)}: {filled.why or 'newer ones are in their place'}"
        )
    return lines


def _displaced(one: Object, filled: Filled) -> list[str]:
    written = f"{filled.displaced} rows of {one.name} that the upgrade had written"
    return [f"replaced: {written}; they are in {filled.aside}"] if filled.displaced else []


def _sequences(connection: Connection, back: Back, *, dry: bool) -> list[str]:
    """Set each kept sequence to the greater of what it was and what it is; ``dry`` only says which would be missing."""
    wanted = [one for one in back.stash.objects if one.kind == "sequence"]
    now = {(one.schema, one.name): one for one in sequences.states(connection, back.schema).values()} if wanted else {}
    lines = []
    for one in wanted:
        found = now.get((one.schema, one.name))
        if found is None:
            lines.append(f"not restored {one.shown}: it is not there; it stood at {one.last_value}")
            continue
        assert one.last_value is not None
        assert one.is_called is not None
        was = sequences.Sequence(0, one.schema, one.name, 0, "", found.rising, one.last_value, one.is_called)
        if found.behind(was) and not dry:
            sequences.advance(connection, one.schema, one.name, one.last_value, one.is_called)
    return lines


def _not_again(connection: Connection, back: Back) -> list[str]:
    """What went along with the downgrade and has not come back with the upgrade: for people, nothing here is run."""
    wanted = [one.name for one in back.stash.objects if one.kind == "definition"]
    if not wanted:
        return []
    tables = evidence.snapshot(connection, back.schema)
    there = {
        f"{shown} of {tables[table].shown}" if table in tables else shown
        for shown, table in evidence.beside(connection).values()
    }
    return [
        f"not there again: {shown} (its definition: make migrate-stash-show ID={back.stash.id})"
        for shown in wanted
        if shown not in there
    ]
