"""Puts kept rows back into a table: a whole one, values of columns, changed rows. Generated columns make themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import beside_newer, checksum, write_back
from mcp_planner_schema.guard.evidence import Table, rows_of
from mcp_planner_schema.guard.left import ROW, Left
from mcp_planner_schema.guard.manifest import AFTER, Object
from mcp_planner_schema.guard.postcheck import execute, identifier

if TYPE_CHECKING:
    from sqlalchemy import Connection

_EMPTY = "23502"
"""SQLSTATE of a row without a value that must be there: not_null_violation."""

_WANTING = "the table has a column by now that must have a value, and they have none"
_UNFIT = "the table lets in no more what they are (a CHECK, a narrower type), or newer ones are in their place"
_UNKNOWN = "nobody can tell what was written to them since"


@dataclass(frozen=True)
class Filled:
    """What became of one object's rows: ``left`` did not go back, ``removed`` were the upgrade's own and had not been there.

    Of those left, ``gone`` have been deleted since the downgrade, ``barred`` were not let in, and ``older`` ones belong to whom
    has newer ones by now; newer ones stand in the place of the others, unless ``why`` says why. ``missing`` are columns without
    a place. ``displaced`` rows had other values that the upgrade itself had put there; those are kept in ``aside``, and in
    ``inserted`` removed rows of a table that stays, of which ``stay`` more were not there before.
    ``swapped``: the table itself came back. ``written`` rows were put in or changed. ``rest`` is SQL of those left, conditions
    on the kept rows ``c`` of which one is true, and ``which`` the same for each part of them (see :mod:`.left`), where they
    have a key.
    """

    left: int = 0
    removed: int = 0
    missing: tuple[str, ...] = ()
    displaced: int = 0
    aside: str = ""
    why: str = ""
    swapped: bool = False
    written: int = 0
    gone: int = 0
    barred: int = 0
    older: int = 0
    rest: tuple[str, ...] = ()
    which: Mapping[str, str] = field(default_factory=dict)
    inserted: str = ""
    stay: int = 0

    def and_(self, connection: Connection, place: str, other: Filled) -> Filled:
        """Both together, ``other`` right after this one: what it has put back is not left any more, and no row counts twice."""
        rest = tuple(condition for one in (self, other) if one.left for condition in one.rest)
        return Filled(
            _count(connection, place, rest) if self.left else other.left,
            self.removed + other.removed, tuple({*self.missing, *other.missing}), self.displaced + other.displaced,
            self.aside or other.aside, self.why or other.why, written=self.written + other.written,
            gone=self.gone + other.gone, barred=self.barred + other.barred, older=self.older + other.older, rest=rest,
            which={**self.which, **other.which},
            inserted=self.inserted or other.inserted, stay=self.stay + other.stay,
        )  # fmt: skip


def exactly(
    connection: Connection, place: str, one: Object, table: Table, *, last: bool, cleared: bool = False, but: str = "",
    another: str = "false",
) -> Filled:  # fmt: skip
    """Make the table what the copy is: for a table that nobody but the running upgrade can have written to.

    Not ``last``, its further statements may still need rows that it has made: none of them goes or changes yet. ``cleared``:
    those that were not to be there are gone already, and those that are there are as they were. ``but``: rows ``l`` of which this
    is true (SQL) are somebody else's all the same, and stay. ``another``: see :func:`.meant.another`.
    """
    mine = f"NOT {but}" if but else "true"
    if another != "false" and write_back.keyed(one, table):  # in the place of what is not to come back
        mine += f" AND NOT EXISTS (SELECT FROM {place} AS c WHERE {write_back.same_key(one, table)} AND {another})"
    columns, missing = write_back.common(one, table)
    removed, displaced, aside, which = 0, 0, "", write_back.absent(one, table, columns)
    if not write_back.empty(connection, table):
        if write_back.same(connection, place, one, table, columns):
            return Filled(missing=missing)
        if not last and not one.key:
            return Filled(missing=missing)
        if last and not cleared:
            displaced, aside = write_back.set_aside(connection, place, one, table, sorted(columns), mine)
            if displaced or not write_back.keyed(one, table):
                removed = write_back.remove(connection, place, one, table, which=mine)
        if displaced and write_back.keyed(one, table):
            free, where = write_back.others(connection, place, one, table, f"{mine} AND NOT {another}")
            if free:
                beside_newer.update(connection, place, one, table, free, f"{place} AS c", where)
        if not (one.key and set(one.key) <= set(columns)):  # those that an earlier try has put in are there
            which = _surplus(place, table, columns)
    written, why = _insert(connection, place, one, table, columns, f"{which} AND NOT {another}")
    filled = Filled(removed=removed, missing=missing, displaced=displaced, aside=aside, written=written, why=why)
    if write_back.same(connection, place, one, table, columns):
        return filled
    return _left(connection, place, one, table, columns, filled, Left(one.key))


def _insert(
    connection: Connection, place: str, one: Object, table: Table, columns: Sequence[str], which: str
) -> tuple[int, str]:
    """Insert kept rows; gives how many, and why others could not."""
    from sqlalchemy.exc import DBAPIError

    why = ""
    connection.exec_driver_sql("SAVEPOINT guard_insert")
    try:
        written = write_back.insert(connection, place, one, table, columns, which)
    except DBAPIError as error:
        code = getattr(error.orig, "pgcode", "")
        if code != _EMPTY and not beside_newer.unfit(connection, error):
            raise
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_insert")
        must = write_back.required(connection, table, columns)
        none = f"pg_catalog.num_nulls({', '.join(f'c.{identifier(name)}' for name in must)}) > 0" if must else "false"
        wants = code == _EMPTY and write_back.wants_more(connection, one, table)
        if code == _EMPTY and not wants and not write_back.count(connection, f"{place} AS c WHERE {none}"):
            raise
        why, written = _WANTING if code == _EMPTY else _UNFIT, 0
        try:
            if not wants:
                some = f"{which} AND NOT ({none})"
                written = beside_newer.insert(connection, place, one, table, columns, some)
        except DBAPIError as other:  # of those that fit each may want a value
            if getattr(other.orig, "pgcode", "") != _EMPTY or not write_back.wants_more(connection, one, table):
                raise
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_insert")
            why = _WANTING
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_insert")
    return written, why


def _strictly(
    connection: Connection, place: str, one: Object, table: Table, columns: Sequence[str], which: str
) -> tuple[int, str]:
    return write_back.insert(connection, place, one, table, columns, which), ""


def beside(
    connection: Connection, place: str, one: Object, table: Table, may: Left, *, strictly: bool = False,
    another: str = "false",
) -> Filled:  # fmt: skip
    """Put in the rows that ``may`` go back and whose place is free; what stands there stays.

    ``strictly``: where they lack a value that must be there by now, it is an error. ``another``: see :func:`.meant.another`.
    """
    columns, missing = write_back.common(one, table)
    put_in = _strictly if strictly else _insert
    absent = f"{write_back.absent(one, table, columns)} AND {may.of(ROW)}"
    free = absent if one.key else _surplus(place, table, columns)
    written, why = put_in(connection, place, one, table, columns, f"{free} AND NOT {another}")
    filled = Filled(missing=missing, written=written, why=why)
    return _left(connection, place, one, table, columns, filled, may)


def columns(
    connection: Connection, place: str, one: Object, table: Table, may: Left, *, overwrite: bool, last: bool,
    untouched: str | None, touched: str | None, apart: bool, waiting: bool = False, but: str = "", filling: bool = False,
    another: str = "false", defaults: Mapping[str, str] | None = None,
) -> Filled:  # fmt: skip
    """Put the values of columns that ``may`` go back to the rows they belong to, by primary key.

    ``overwrite``: the columns are new, whatever is in them was put there by the upgrade itself, but for the rows ``l`` of which
    ``but`` is true (SQL); else only an empty one takes its value again. ``last``: what the upgrade has put there is set aside
    first. A row that the downgrade itself has changed may have got another's key: it takes its value only while it is as the
    downgrade left it (``untouched``). One that was written since (``touched``) and has a value, has it from the upgrade, and is
    newer; ``waiting``: an empty one gets none yet, for the body may have one for it. ``apart``: each value of a row goes
    back by itself, not only all of them together. ``filling``: the body has ended, and an empty one gets its value in any case.
    ``another``: see :func:`.meant.another`. ``defaults``: SQL that a row ``l`` has what a column was added with, as good as
    nothing, see :mod:`.defaults`.
    """
    there = {column.name: column for column in table.columns.values()}
    back = [name for name in one.lost if write_back.fits(one, table, name) and not there[name].generated]
    missing = tuple(name for name in one.lost if not write_back.fits(one, table, name))
    kept = one.checksum.rows if one.checksum else 0
    if not one.key or not set(one.key) <= set(there) or set(one.key) & set(one.lost):
        why = "the rows had no key that is still there" if kept else ""
        return Filled(kept, missing=missing, why=why, rest=("true",))
    key, live = write_back.same_key(one, table), rows_of(table)
    displaced, aside, written = 0, "", 0
    defaults = defaults or {}
    if back and last and overwrite:
        # What is empty, or as kept by now, the body has not written.
        other = " OR ".join(
            f"NOT ({_empty([name], defaults)} OR {checksum.alike(connection, place, live, [name])})" for name in back
        )
        only = f" AND NOT EXISTS (SELECT FROM {touched} AS t WHERE t.place = c.ctid)" if touched else ""
        mine = f"EXISTS (SELECT FROM {place} AS c WHERE {key} AND ({other}){only}){f' AND NOT {but}' * bool(but)}"
        displaced, aside = write_back.set_aside(connection, place, one, table, sorted(back), mine)
    if back:
        written = _set(
            connection, place, one, table, back, may, overwrite, untouched, touched,
            waiting=waiting, but=but, filling=filling, another=another, defaults=defaults,
        )  # fmt: skip
    # One column of a row that was written goes back by itself where the others are as kept or empty: no two go together
    # that never were.
    alone = back if apart else [name for name in back if name in defaults and overwrite and touched]
    if alone and len(back) > 1:
        alike = {
            name: f"({_empty([name], defaults)} OR {checksum.alike(connection, place, live, [name])})" for name in back
        }
        touched_only = ["t.place IS NOT NULL"] * (not apart)
        each = {
            one_of: " AND ".join([*touched_only, *(alike[name] for name in back if name != one_of and not apart)])
            for one_of in alone
        }
        written += _each(connection, place, one, table, each, may, untouched, touched, another, defaults, filling, but)
    there_again = f"EXISTS (SELECT FROM {live} AS l WHERE {key})"

    def others(names: Sequence[str]) -> str:
        return f"NOT EXISTS (SELECT FROM {live} AS l WHERE {key} AND {_alike(connection, place, table, names)})"

    homeless = {name: f"pg_catalog.num_nonnulls(c.{identifier(name)}) > 0 AND {may.of(name)}" for name in missing}
    which = homeless | {name: f"{others([name])} AND {may.of(name)}" for name in back}
    not_so = [which[name] for name in back] if apart else [others(back)] * bool(back)
    if one.kind == "rows" and not may.listed:  # those that went are put in after this, with all of their values
        not_so = [f"{there_again} AND {found}" for found in not_so]
    rest = (*homeless.values(), *not_so)
    left = _count(connection, place, rest)
    filled = Filled(left, missing=missing, displaced=displaced, aside=aside, written=written, rest=rest, which=which)
    if missing:
        return replace(filled, why="their column is not there" if left else "")
    if one.kind == "rows" or not left:
        return filled
    return replace(filled, gone=_count(connection, place, [f"{found} AND NOT {there_again}" for found in rest]))


def _alike(connection: Connection, place: str, table: Table, names: Sequence[str]) -> str:
    """SQL: that the kept row ``c`` and the row ``l`` are alike in these columns; a kept NULL where there must be a value is."""
    must, live = write_back.required(connection, table, names), rows_of(table)
    others = [name for name in names if name not in must]
    each = [checksum.alike(connection, place, live, others)] if others else []
    each += [
        f"(pg_catalog.num_nonnulls(c.{identifier(name)}) = 0 OR {checksum.alike(connection, place, live, [name])})"
        for name in must
    ]
    return f"({' AND '.join(each) or 'true'})"


def differing(connection: Connection, place: str, one: Object, table: Table) -> int:
    """How many rows have a value in a lost column that is not their kept one."""
    there = {column.name: column for column in table.columns.values()}
    back = [name for name in one.lost if write_back.fits(one, table, name) and not there[name].generated]
    if not back or not write_back.keyed(one, table):
        return 0
    same, live = checksum.alike(connection, place, rows_of(table), back), rows_of(table)
    given = f"pg_catalog.num_nonnulls({', '.join(f'l.{identifier(name)}' for name in back)}) > 0"
    key = write_back.same_key(one, table)
    return write_back.count(connection, f"{place} AS c JOIN {live} AS l ON {key} WHERE {given} AND NOT {same}")


def take_out(connection: Connection, place: str, one: Object, table: Table) -> None:
    """Give lost columns that have their kept values their default again."""
    back = [column.name for column in table.columns.values() if column.name in one.lost and not column.generated]
    key, alike = write_back.same_key(one, table), checksum.alike(connection, place, rows_of(table), back)
    defaults = ", ".join(f"{identifier(name)} = DEFAULT" for name in back)
    with write_back.settable(connection, table, back):
        execute(connection, f"UPDATE {rows_of(table)} AS l SET {defaults} FROM {place} AS c WHERE {key} AND {alike}")


def _each(
    connection: Connection, place: str, one: Object, table: Table, names: Mapping[str, str], may: Left, untouched: str | None,
    touched: str | None, another: str, defaults: Mapping[str, str], filling: bool, but: str,
) -> int:  # fmt: skip
    """Set each column by itself, where not all of a row could go back; those that a constraint has together stay left.

    ``names`` gives for each a condition (SQL), empty where there is none.
    """
    from sqlalchemy.exc import IntegrityError

    bound = [set(found) & set(one.lost) for found in connection.exec_driver_sql(_BOUND, (table.oid,)).scalars()]
    together = {name for found in bound if len(found) > 1 for name in found}
    written = 0
    for name in [each for each in names if each not in together]:
        connection.exec_driver_sql("SAVEPOINT guard_each")
        try:
            set_ = _set(
                connection, place, one, table, [name], may, False, untouched, touched,
                another=another, defaults=defaults, filling=filling, but=but, only=names[name],
            )  # fmt: skip
            written = max(written, set_)
        except IntegrityError:
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_each")
        connection.exec_driver_sql("RELEASE SAVEPOINT guard_each")
    return written


def _count(connection: Connection, place: str, conditions: Sequence[str]) -> int:
    """How many kept rows fulfil one of these conditions."""
    # Below an OR tables would not be joined but asked for each row, which no index may serve.
    found = [f"SELECT c.tableoid, c.ctid FROM {place} AS c WHERE {condition}" for condition in conditions]
    return write_back.count(connection, f"({' UNION '.join(found)}) AS u") if found else 0


def _set(
    connection: Connection, place: str, one: Object, table: Table, names: Sequence[str], may: Left, overwrite: bool,
    untouched: str | None, touched: str | None, *, waiting: bool = False, but: str = "", filling: bool = False,
    another: str, defaults: Mapping[str, str] | None = None, only: str = "",
) -> int:  # fmt: skip
    """Set these columns to their kept values, all of a row together, where :func:`columns` says so. Gives in how many rows."""
    there = {column.name: column for column in table.columns.values()}
    key, live = write_back.same_key(one, table), rows_of(table)
    empty = _empty(names, defaults or {})
    theirs = f"({_empty(names, {})} OR NOT {but})" if but else "true"  # a default that others have set is their own
    free = " AND ".join(
        [theirs if overwrite else f"{empty} AND {theirs}", *map(may.of, names), *([only] if only else [])]
    )
    # Joined, and not asked for in a condition: below an OR a list that is larger than work_mem is read once for each row.
    kept_rows = f"{place} AS c" + "".join(
        f" LEFT JOIN {listed} AS {alias} ON {alias}.place = c.ctid"
        for alias, listed in (("t", touched), ("u", untouched))
        if listed
    )
    if touched and not waiting:
        lost = f"FROM {place} AS c, {live} AS l WHERE c.ctid = t.place AND {key} AND {empty}"
        execute(connection, f"UPDATE {touched} AS t SET given = true {lost}")
    if touched:
        free += " AND t.place IS NULL" if waiting else f" AND ({empty} OR t.place IS NULL)"
    if one.kind == "rows":
        stayed = sorted(name for name in one.columns if name not in one.lost)
        unchanged = f"c.{identifier(AFTER)} = {checksum.row_hash(stayed, 'c')}"
        kept = [name for name in stayed if name != AFTER]
        again = "false"
        if set(one.key) < set(kept) <= set(there):  # it is what it was before, put back by an earlier try
            again = checksum.alike(connection, place, live, kept)
        stays = (
            f" OR (c.{identifier(AFTER)} IS NOT NULL AND {empty})" if filling else ""
        )  # the downgrade had left it there
        free += f" AND ({unchanged} OR {again}{' OR u.place IS NOT NULL' if untouched else ''}{stays})"
    same = _alike(connection, place, table, names)
    # Not what is so already: each row written anew is written into every index, and leaves a dead one behind.
    which = f"{key} AND NOT {same} AND {free} AND NOT {another}"
    with write_back.settable(connection, table, names):
        written = beside_newer.update(connection, place, one, table, names, kept_rows, which)
    if touched and not waiting:  # one that was not let in has not come back
        other = f"FROM {place} AS c, {live} AS l WHERE c.ctid = t.place AND {key} AND t.given AND NOT {same}"
        execute(connection, f"UPDATE {touched} AS t SET given = false {other}")
    return written


def _empty(names: Sequence[str], defaults: Mapping[str, str]) -> str:
    """SQL: that the row ``l`` has nothing in these columns, or what they were added with."""
    each = [
        f"(pg_catalog.num_nonnulls(l.{identifier(name)}) = 0 OR {has_it})"
        for name, has_it in defaults.items()
        if name in names
    ]
    others = [f"l.{identifier(name)}" for name in names if name not in defaults]
    return " AND ".join([f"pg_catalog.num_nonnulls({', '.join(others)}) = 0"] * bool(others) + each)


def changed(
    connection: Connection, place: str, one: Object, table: Table, may: Left, untouched: str | None, *, deleted: bool,
    but: Sequence[str], another: str = "false",
) -> Filled:  # fmt: skip
    """Put changed and deleted rows back that ``may`` go, where nobody has written since; ``untouched`` lists these places.

    Not ``deleted``, the deleted ones wait for the end of the body. What stands in the columns ``but`` of a row stays there.
    ``another``: see :func:`.meant.another`.
    """
    columns, missing = write_back.common(one, table)
    mine = f"c.ctid IN (SELECT u.place FROM {untouched} AS u)" if untouched else "false"
    if not one.key and one.restored:
        return Filled(one.left or 0, why="without a primary key nobody can tell which of them are back already")
    mine = f"{mine} AND {may.of(ROW)} AND NOT {another}"
    overwritten = 0
    if one.key:
        free, where = write_back.others(connection, place, one, table, mine, but=but)
        if free:
            overwritten = beside_newer.update(connection, place, one, table, free, f"{place} AS c", where)
    inserted = 0
    if deleted:
        inserted = write_back.insert(
            connection, place, one, table, columns, f"{mine} AND {write_back.absent(one, table, columns)}"
        )
    if not one.key:
        unknown = "without a key nobody knows which rows they were" if one.checksum and not untouched else ""
        left = (one.checksum.rows if one.checksum else 0) - inserted
        return Filled(left, missing=missing, why=unknown, written=inserted, rest=("true",))
    stayed = [name for name in columns if name not in but]
    filled = _left(connection, place, one, table, stayed, Filled(missing=missing, written=overwritten + inserted), may)
    return replace(filled, why=_UNKNOWN) if filled.left and not untouched else filled


# Of equal rows without a key, as many as the copy has more than the table.
_BOUND = """
SELECT array(SELECT a.attname::text FROM pg_catalog.unnest(k.conkey) AS u (n)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n)
FROM pg_catalog.pg_constraint k WHERE k.conrelid = %s AND k.contype IN ('c', 'f')
"""
_SURPLUS = """
SELECT a.ctid FROM (SELECT c.ctid, {was} AS t, pg_catalog.row_number() OVER (PARTITION BY {was}) AS n FROM {place} AS c) AS a
LEFT JOIN (SELECT {now} AS t, pg_catalog.count(*) AS n FROM {live} AS l GROUP BY 1) AS b ON a.t = b.t
WHERE a.n > coalesce(b.n, 0)
"""


def _surplus(place: str, table: Table, columns: Sequence[str]) -> str:
    """SQL: that the kept row ``c`` is one of those that the table has fewer of."""
    was, now = checksum.row_text(sorted(columns), "c"), checksum.row_text(sorted(columns), "l")
    return f"c.ctid IN ({_SURPLUS.format(place=place, live=rows_of(table), was=was, now=now)})"


def _left(
    connection: Connection, place: str, one: Object, table: Table, columns: Sequence[str], filled: Filled, may: Left
) -> Filled:
    """How many kept rows that ``may`` go back are not in the table as they are in the copy."""
    live = rows_of(table)
    if not (one.key and set(one.key) <= set(columns)):
        was, now = checksum.row_text(sorted(columns), "c"), checksum.row_text(sorted(columns), "l")
        left = write_back.count(connection, f"({_SURPLUS.format(place=place, live=live, was=was, now=now)}) AS s")
        return replace(filled, left=left, barred=left)
    key, alike = write_back.same_key(one, table), checksum.alike(connection, place, live, columns)
    rest = f"NOT EXISTS (SELECT FROM {live} AS l WHERE {key} AND {alike}) AND {may.of(ROW)}"
    left = write_back.count(connection, f"{place} AS c WHERE {rest}")
    filled = replace(filled, rest=(rest,), which={ROW: rest})
    if not left:
        return filled
    absent = f"{place} AS c WHERE NOT EXISTS (SELECT FROM {live} AS l WHERE {key}) AND {may.of(ROW)}"
    nowhere = write_back.count(connection, absent)
    # Where the downgrade had left a row, and there is none, somebody has deleted it.
    gone = write_back.count(connection, f"{absent} AND c.{identifier(AFTER)} IS NOT NULL") if one.kind == "rows" else 0
    return replace(filled, left=left, gone=gone, barred=nowhere - gone)
