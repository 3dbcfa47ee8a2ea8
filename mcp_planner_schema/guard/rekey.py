"""Gives rows that an upgrade has written the keys that they had, and lets those follow that refer to them.

An upgrade makes a lookup table anew, and the server gives its rows other keys than they had: of a random default, or in another
order. A kept row and the upgrade's are the same where what is unique in them, or all but what the server fills, is equal. With
its own key the upgrade's row is in the kept one's way, and what it has meanwhile filled in elsewhere would mean another row.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, clear, evidence, exchange, fresh, silence, since, twins, write_back
from mcp_planner_schema.guard.back import Back, made, undoable
from mcp_planner_schema.guard.evidence import Column, Table, name_of, rows_of
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute, identifier

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Columns of a table that refer to rows which have not got their keys.
_UNSETTLED = """
SELECT DISTINCT a.attname::text FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)
WHERE k.contype = 'f' AND k.conrelid = %s AND k.confrelid = ANY (%s::oid[])
"""
# Equal rows pair off by number; who is what it was already, does not take part. Without anything that tells a row it has no pair,
# and keeps its key. Of rows that are like others, those who refer to them tell more: a row with a kept value refers to the kept
# one, and what is referred to by others only is new.
_PAIRS = """
CREATE TEMPORARY TABLE guard_keys ON COMMIT DROP AS
WITH kept AS MATERIALIZED (SELECT {kept} AS key, {was} AS said FROM {place} AS c),
live AS MATERIALIZED (SELECT l.{key} AS key, {now} AS said FROM {live} AS l),
vague AS MATERIALIZED (SELECT said FROM kept GROUP BY said HAVING pg_catalog.count(*) > 1
                       UNION SELECT said FROM live GROUP BY said HAVING pg_catalog.count(*) > 1),
refers AS MATERIALIZED (SELECT l.key AS was, l.key AS target FROM live AS l WHERE false{refers}),
alike AS MATERIALIZED (
  SELECT DISTINCT r.was, k.key AS target FROM refers AS r JOIN live AS l ON l.key = r.was
  JOIN vague AS v ON v.said = l.said JOIN kept AS k ON k.key = r.target AND k.said = l.said),
sure AS MATERIALIZED (
  SELECT o.was, o.target FROM (SELECT a.was, a.target, pg_catalog.count(*) OVER (PARTITION BY a.was) AS kepts,
                                      pg_catalog.count(*) OVER (PARTITION BY a.target) AS lives FROM alike AS a) AS o
  WHERE o.kepts = 1 AND o.lives = 1),
mine AS MATERIALIZED (
  SELECT l.key, l.said, v.said IS NOT NULL AND o.was IS NOT NULL AND a.was IS NULL AS others
  FROM live AS l LEFT JOIN vague AS v ON v.said = l.said LEFT JOIN (SELECT DISTINCT r.was FROM refers AS r) AS o ON o.was = l.key
  LEFT JOIN (SELECT DISTINCT e.was FROM alike AS e) AS a ON a.was = l.key
  WHERE NOT EXISTS (SELECT FROM sure AS t WHERE t.was = l.key)),
free AS MATERIALIZED (
  SELECT m.key, m.said, true AS others FROM mine AS m WHERE m.others
  UNION ALL SELECT m.key, m.said, false FROM mine AS m
  WHERE NOT m.others AND NOT EXISTS (SELECT FROM kept AS c WHERE m.key = c.key AND m.said = c.said)),
k AS (SELECT key, said, pg_catalog.row_number() OVER (PARTITION BY said ORDER BY key) AS n FROM kept
      WHERE NOT EXISTS (SELECT FROM sure AS t WHERE t.target = kept.key)
        AND NOT EXISTS (SELECT FROM mine WHERE mine.key = kept.key AND mine.said = kept.said AND NOT mine.others)),
a AS (SELECT key, said, others, pg_catalog.row_number() OVER (PARTITION BY said, others ORDER BY key) AS n FROM free),
pairs AS (SELECT a.key AS was, a.said, k.key AS target FROM a LEFT JOIN k ON k.said = a.said AND k.n = a.n AND NOT a.others
          UNION ALL SELECT t.was, l.said, t.target FROM sure AS t JOIN live AS l ON l.key = t.was WHERE t.was <> t.target)
SELECT p.was, p.target, {unused} AS unused FROM pairs AS p
LEFT JOIN (SELECT DISTINCT q.target FROM pairs AS q) AS q ON q.target = p.was LEFT JOIN kept AS h ON h.key = p.was
WHERE p.target IS NOT NULL OR q.target IS NOT NULL{others}
"""
_OTHERS = " OR (p.said IS NOT NULL AND h.key IS NOT NULL)"


class _Ambiguous(Exception):
    """By one unique index a row is this kept one, and by another that."""


def all_of(connection: Connection, back: Back) -> None:
    """Give the upgrade's rows their kept keys, in the tables that it has made and whose keys the server makes (numbers, uuids).

    A row that is none of the kept ones, and has a key that one of these had, gets a new one where its table may hold newer rows,
    or that key is another's now. Nothing where others may have seen rows of it already. What cannot be done stays as it is, and
    is noted in ``back.unkeyed``, for kept rows may therefore refer to other rows than they did.
    """
    tables = [pair for pair in made(connection, back) if undoable(connection, back) or _unseen(connection, pair[1])]
    order = clear.in_order(connection, [table.oid for _, table in tables]) or {}
    unsettled = {table.oid for _, table in tables}
    for one, table in sorted(tables, key=lambda pair: order.get(pair[1].oid, 0)):
        came = one.number in back.filled and one.number in back.shapes
        unused = "" if came else _unused(connection, back, one, table)
        others = _OTHERS if unused and (back.newer(one) or fresh.may_be(connection, back, table)) else ""
        if unused and not _give(connection, back, one, table, (unused, others), unsettled):
            back.unkeyed[table.oid] = one
        if order:
            unsettled.discard(table.oid)


def _unseen(connection: Connection, table: Table) -> bool:
    """Whether all rows of a table are the running transaction's own: what it sees of one that has not ended is."""
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        return not execute(
            connection, f"SELECT EXISTS (SELECT FROM {rows_of(table)} AS l WHERE {since.by_others()})"
        ).scalar_one()


def _unused(connection: Connection, back: Back, one: Object, table: Table) -> str:
    """SQL: a key that nobody has or had; empty where the server has not made the keys, but the body itself."""
    column = next((each for each in table.columns.values() if (each.name,) == one.key), None)
    if column is None or column.name not in twins.given(connection, table):
        return ""
    if column.type not in (*exchange.NUMBERS, "uuid") or one.types[one.columns.index(column.name)] != column.type:
        return ""
    place, live = back.stash.place(one), rows_of(table)
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        if write_back.empty(connection, table):
            return ""
        if column.type == "uuid":  # two random ones are never the same
            same = f"{place} AS c JOIN {live} AS l ON {write_back.same_key(one, table)}"
            own = not execute(connection, f"SELECT EXISTS (SELECT FROM {same})").scalar_one()
            return "pg_catalog.gen_random_uuid()" if own else ""
        if table.oid not in back.numbered:
            return ""
        highest = exchange.highest(connection, back, one, table, column.name)
    return f"({highest:d} + pg_catalog.row_number() OVER ())::{column.type}"


def _give(
    connection: Connection, back: Back, one: Object, table: Table, which: tuple[str, str], unsettled: Collection[int]
) -> bool:
    """Exchange the keys of one table; False where that cannot be, and then nothing was done. ``which`` is SQL: an unused key, and
    which rows without a pair get one."""
    write_back.note_path(connection)

    def give() -> bool:
        if one.moved and not which[1] and _lone(connection, back, table, one.key[0]):
            return True
        try:
            found = _paired(connection, back, one, table, which, unsettled)
        except _Ambiguous:
            return False
        referring = exchange.referring(connection, back, table, one.key[0]) if found else []
        if referring is None:
            return False
        if found:
            exchange.keys(connection, back, one, table, referring)
            exchange.advance(connection, back, one, table)
        execute(connection, "DROP TABLE IF EXISTS pg_temp.guard_keys")
        return True

    return exchange.attempt(connection, give)


def _lone(connection: Connection, back: Back, table: Table, key: str) -> bool:
    """Whether nobody refers to a row of the table: a moved one then takes its place whole, and is not to be read for this."""
    found = exchange.referring(connection, back, table, key) or ()
    return all(write_back.empty(connection, reference.table) for reference in found)


def _paired(
    connection: Connection, back: Back, one: Object, table: Table, which: tuple[str, str], unsettled: Collection[int]
) -> int:
    """Make the temporary table of rows that are to have another key: theirs, the kept one, an unused one. Gives how many.

    What refers to rows that are ``unsettled`` themselves, tells no row from another.
    """
    columns, _ = write_back.common(one, table)
    blind = set(connection.exec_driver_sql(_UNSETTLED, (table.oid, list(unsettled))).scalars())
    by_unique = twins.by_unique(connection, one, table, [name for name in columns if name not in blind])
    compared = twins.told_apart_by(connection, one, table, columns)
    if not (by_unique or compared):
        return 0
    if blind & set(compared):
        compared = []
    if not (by_unique or compared):
        raise _Ambiguous
    key = next(column for column in table.columns.values() if column.name == one.key[0])
    refers, others = ("", []) if by_unique else _refers(connection, back, table, key)
    with checksum.reading(connection), ExitStack() as unveiled:
        for each in (table, *others):
            unveiled.enter_context(silence.unveiled(connection, each.oid, name_of(each)))
        rows: int = execute(
            connection,
            _PAIRS.format(
                kept=write_back.typed(key), key=identifier(key.name), place=back.stash.place(one), live=rows_of(table),
                was=_told_by("c", compared, by_unique), now=_told_by("l", compared, by_unique),
                unused=which[0], others=which[1], refers=refers,
            ),
        ).rowcount  # fmt: skip
        for unique in twins.uniques(connection, one, table, [name for name in columns if name not in blind]):
            other = f"pg_temp.guard_keys AS m JOIN {rows_of(table)} AS l ON l.{identifier(key.name)} = m.was"
            same = f"{_told_by('c', [], unique)} = {_told_by('l', [], unique)} AND c.{identifier(key.name)} <> m.target"
            asked = f"SELECT EXISTS (SELECT FROM {other} JOIN {back.stash.place(one)} AS c ON {same})"
            if rows and execute(connection, asked).scalar_one():
                raise _Ambiguous
    return rows


def _refers(connection: Connection, back: Back, table: Table, key: Column) -> tuple[str, list[Table]]:
    """SQL: for each row that refers to one of the table by a lost column, what it refers to, and what it has referred to; and the
    tables of these rows."""
    found, tables = "", []
    for one in back.rows():
        other = evidence.named(connection, one.schema, one.name) if one.lost else None
        if other is None or not write_back.keyed(one, other):
            continue
        asked = {"key": key.name, "oid": table.oid}
        for oid, *_, name in connection.exec_driver_sql(exchange.REFERRING, asked).all():
            if oid == other.oid and name in one.lost and write_back.fits(one, other, name):
                same, column = write_back.same_key(one, other, now="r"), identifier(name)
                tables.append(other)
                found += (
                    f" UNION ALL SELECT r.{column}, c.{column} FROM {rows_of(other)} AS r "
                    f"LEFT JOIN {back.stash.place(one)} AS c ON {same} WHERE r.{column} IS NOT NULL"
                )
    return found, tables


def _told_by(alias: str, compared: list[str], unique: list[str]) -> str:
    """SQL: what tells a row; NULL, which is like no other, where nothing does."""
    if compared:
        return twins.told_by(alias, compared, unique)
    there = [f"{alias}.{identifier(name)} IS NOT NULL" for name in unique]
    return f"(CASE WHEN {' AND '.join(there) or 'false'} THEN {checksum.row_text(unique, alias)} END)"
