"""Kept references whose number another row has by now: who was an editor is not to be what came in the editor's place."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mcp_planner_schema.guard import (
    checksum,
    evidence,
    exchange,
    manifest,
    references,
    silence,
    since,
    twins,
    write_back,
)
from mcp_planner_schema.guard.back import Back
from mcp_planner_schema.guard.evidence import Table, rows_of
from mcp_planner_schema.guard.manifest import AFTER, Object
from mcp_planner_schema.guard.postcheck import execute, identifier, literal

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Connection

_GONE = f"c.{identifier(AFTER)} IS NULL"
_OTHERS = (
    "s.state IN ('kept', 'partly restored') AND s.direction = 'downgrade' AND s.id > %s "
    "AND s.version_table = (SELECT o.version_table FROM {schema}.stash AS o WHERE o.id = %s)"
)


def holds(connection: Connection, back: Back, one: Object, table: Table) -> bool:
    """Whether there is a row of which :func:`another` is true."""
    with checksum.reading(connection):
        which = another(connection, back, one, table)
        found = (
            which != "false"
            and execute(
                connection, f"SELECT EXISTS (SELECT FROM {back.stash.place(one)} AS c WHERE {which})"
            ).scalar_one()
        )
    return bool(found)


def asked(connection: Connection, back: Back, one: Object, table: Table) -> None:
    """Rows are put in while the body runs: note by which keys it was asked what they mean, for more may come."""
    if _deleted(connection, back):
        back.asked[one.number] = frozenset((key.parent, *key.own) for key in references.of(connection, table.oid))


def another(
    connection: Connection, back: Back, one: Object, table: Table, but: Collection[tuple[object, ...]] = ()
) -> str:
    """SQL: that the kept row ``c`` refers to a row that a downgrade has deleted, and whose key another row has by now.

    ``false`` where there is none. The keys are in temporary tables. To be called with OUTPUT pinned, and again whenever rows are
    put in: while the body runs, what is to have the key may not be back yet. ``but`` these keys: see :func:`asked`.
    """
    deleted = _deleted(connection, back)
    if not deleted:
        return "false"
    there, (columns, _) = {column.name: column for column in table.columns.values()}, write_back.common(one, table)
    found: list[str] = []
    for key in references.of(connection, table.oid):
        if (key.parent, *key.own) in but:
            continue
        gone = [each for each in deleted.get(key.parent_name, ()) if set(key.theirs) == set(each.one.key)]
        if not gone or not set(key.own) <= set(columns) or not (parent := evidence.named(connection, *key.parent_name)):
            continue
        for each in gone:
            name = f"guard_another_{one.number}_{len(found)}"
            if _list(connection, back, each, parent, name):
                match = key.match(lambda column: write_back.typed(there[column]), "n")
                found.append(f"EXISTS (SELECT FROM pg_temp.{name} AS n WHERE {match})")
    if not found:
        return "false"
    return _with_those_below(connection, back, one, table, f"({' OR '.join(found)})")


def _with_those_below(connection: Connection, back: Back, one: Object, table: Table, which: str) -> str:
    """The same, and of a tree in one table also those kept rows whose parent is one of these: it does not come back."""
    itself = [key for key in references.of(connection, table.oid) if key.parent == key.child]
    if not itself or not write_back.keyed(one, table):
        return which
    place, name = back.stash.place(one), f"pg_temp.guard_held_{one.number}"
    execute(connection, f"DROP TABLE IF EXISTS {name}")
    held = f"SELECT c.ctid AS place FROM {place} AS c WHERE {which}"
    short = name.removeprefix("pg_temp.")
    added: int = execute(connection, f"CREATE TEMPORARY TABLE {short} ON COMMIT DROP AS {held}").rowcount
    there = {column.name: column for column in table.columns.values()}
    while added:
        added = 0
        for key in itself:
            parent = " AND ".join(
                f"k.{identifier(b)} OPERATOR(pg_catalog.=) c.{identifier(a)}" for a, b, *_ in key.pairs
            )
            live = f"SELECT FROM {rows_of(table)} AS r WHERE {key.match(lambda column: write_back.typed(there[column]), 'r')}"
            added += execute(
                connection,
                f"INSERT INTO {name} SELECT c.ctid FROM {place} AS c JOIN {place} AS k ON {parent} "
                f"JOIN {name} AS h ON h.place = k.ctid WHERE NOT EXISTS ({live}) "
                f"AND NOT EXISTS (SELECT FROM {name} AS o WHERE o.place = c.ctid)",
            ).rowcount
    return f"(c.ctid IN (SELECT h.place FROM {name} AS h))"


def take_back(connection: Connection, back: Back, one: Object, table: Table) -> None:
    """The body has ended: take out what is back and refers to another row, or to none. The key was made by a statement of its
    own, and could not be asked before. Where that cannot be, it is noted in ``back.misled``. What the body has put in stays.
    """
    if one.number not in back.filled or not back.filled[one.number].written:
        return
    columns, _ = write_back.common(one, table)
    lost = [name for name in one.lost if name in columns]
    which = another(connection, back, one, table, back.asked.get(one.number, ()))
    conditions = [which] * (which != "false") + _to_none(connection, table, lost if one.kind != "table" else columns)
    if not conditions or not write_back.keyed(one, table):
        return
    which = f"({' OR '.join(conditions)})"
    place, live = back.stash.place(one), rows_of(table)
    names = columns if one.kind == "table" else lost or [name for name in columns if name not in one.key]
    there = f"{write_back.same_key(one, table)} AND {checksum.alike(connection, place, live, names)} AND {which}"
    if one.kind == "rows" and not lost:
        there += f" AND NOT {_GONE}"
    if listed := back.touched.get(one.number):
        there += f" AND NOT EXISTS (SELECT FROM {listed} AS t WHERE t.place = c.ctid AND t.own AND NOT t.given)"
    found = write_back.count(connection, f"{place} AS c JOIN {live} AS l ON {there}")
    if not found:
        return
    if one.kind == "table" and not write_back.reaches_others(connection, [table.oid]):
        sql = f"DELETE FROM {live} AS l USING {place} AS c WHERE {there}"
    elif lost:
        empty = ", ".join(f"{identifier(name)} = DEFAULT" for name in lost)
        sql = f"UPDATE {live} AS l SET {empty} FROM {place} AS c WHERE {there}"
    else:
        sql = ""
    if not sql or not exchange.attempt(connection, lambda: write_back.write(connection, sql) == found):
        back.misled.append(
            f"warning: {found} rows of {one.name} refer to one that is not back (but to none, or to another); look at them "
            f"(what they meant: make migrate-stash-show ID={back.stash.id})"
        )


def _to_none(connection: Connection, table: Table, columns: Sequence[str]) -> list[str]:
    """SQL, for each key that is not validated yet: that the kept row ``c`` refers to a row of another table that is not there."""
    there, found = {column.name: column for column in table.columns.values()}, []
    for key in references.of(connection, table.oid):
        if not key.validated and key.parent != key.child and key.parent_open and set(key.own) <= set(columns):
            given = " AND ".join(f"c.{identifier(name)} IS NOT NULL" for name in key.own)
            match = key.match(lambda name: write_back.typed(there[name]), "r")
            found.append(f"({given} AND NOT EXISTS (SELECT FROM {key.parent_table} AS r WHERE {match}))")
    return found


class _Deleted(NamedTuple):
    """An object that holds deleted rows, and where its copy is."""

    one: Object
    place: str


def _deleted(connection: Connection, back: Back) -> dict[tuple[str, str], list[_Deleted]]:
    """The objects with rows that this downgrade has deleted, or one after it, and that are not all back, by table.

    What was deleted before this stash was made, no value of it can have meant.
    """
    if back.deleted is None:
        back.deleted = {}
        found = [(back.stash, one) for one in back.rows()]
        if back.stash.id:
            others = manifest.read(connection, back.schema, _OTHERS.format(schema=back.schema), (back.stash.id,) * 2)
            found += [(each, one) for each in others for one in each.objects if one.relation and one.left != 0]
        for stash, one in found:
            if one.kind != "rows" or not one.key:
                continue
            place = stash.place(one)
            there = f"SELECT pg_catalog.to_regclass({literal(place)}) IS NOT NULL"
            if not execute(connection, there).scalar_one():
                continue
            if execute(connection, f"SELECT EXISTS (SELECT FROM {place} AS c WHERE {_GONE})").scalar_one():
                back.deleted.setdefault((one.schema, one.name), []).append(_Deleted(one, place))
    return back.deleted


def _list(connection: Connection, back: Back, gone: _Deleted, table: Table, name: str) -> int:
    """Make the temporary table of the keys of deleted rows that another row has. Gives how many."""
    one, place = gone
    columns, _ = write_back.common(one, table)
    if not set(one.key) <= set(columns):
        return 0
    compared, unique = (
        twins.told_apart_by(connection, one, table, columns),
        twins.by_unique(connection, one, table, columns),
    )
    keys = ", ".join(f"l.{identifier(column)}" for column in one.key)
    other = f"{twins.told_by('c', compared, unique)} <> {twins.told_by('l', compared, unique)}"
    # Under a key of its own text the upgrade's row is the same one.
    if not set(one.key) <= set(twins.given(connection, table)):
        free = back.untouched.get(one.number) if place == back.stash.place(one) else None
        there = free and execute(connection, f"SELECT pg_catalog.to_regclass({literal(free)}) IS NOT NULL").scalar_one()
        taken = f"NOT EXISTS (SELECT FROM {free} AS u WHERE u.place = c.ctid)" if there else since.by_others()
        other += f" AND CASE WHEN {other} THEN {taken} ELSE false END"
    execute(connection, f"DROP TABLE IF EXISTS pg_temp.{name}")
    with silence.unveiled(connection, table.oid, evidence.name_of(table)):
        return int(
            execute(
                connection,
                f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS SELECT {keys} FROM {place} AS c "
                f"JOIN {rows_of(table)} AS l ON {write_back.same_key(one, table)} "
                f"WHERE {_GONE} AND {other}",
            ).rowcount
        )
