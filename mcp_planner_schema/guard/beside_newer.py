"""Gives rows their kept values where a unique index would let in only one of two: the newer row stays, the kept one in the stash.

One statement for all of them fails for one that meets another row, and for two that have exchanged their values meanwhile. So
those are found that meet none but each other; what must be unique in them is emptied first, and then all have their values. What
an index of expressions, of some rows only or an exclusion constraint lets in, is not asked but tried: all, then half by half.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import halves, postponed, write_back
from mcp_planner_schema.guard.evidence import Table, name_of, rows_of
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute, identifier

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.exc import DBAPIError

_UNIQUE = """
SELECT (SELECT pg_catalog.array_agg(a.attname::text ORDER BY u.place)
        FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY AS u (n, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.n WHERE u.place <= i.indnkeyatts)
FROM pg_catalog.pg_index i
WHERE i.indrelid = %s AND i.indisunique AND i.indexprs IS NULL AND i.indpred IS NULL ORDER BY i.indexrelid
"""
# Columns of unique indexes and of exclusions, also those that an expression is made of.
_DEPENDS = """
SELECT DISTINCT a.attname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid
WHERE i.indrelid = %s AND (i.indisunique OR i.indisexclusion) AND NOT i.indisprimary AND a.attnum > 0
  AND (a.attnum = ANY (i.indkey) OR EXISTS (
    SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = i.indexrelid
      AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum))
"""
_REQUIRED = """
SELECT a.attname::text, coalesce(pg_catalog.quote_ident(k.conname), '') FROM pg_catalog.pg_attribute a
LEFT JOIN pg_catalog.pg_constraint k ON k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum]
WHERE a.attrelid = %s AND a.attnotnull AND a.attname = ANY (%s)
"""
# Who refers to a row by what would be empty for a moment, and would follow.
_FOLLOWS = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid
               AND a.attnum = ANY (k.confkey)
               WHERE k.contype = 'f' AND k.confrelid = %s AND k.confupdtype IN ('c', 'n', 'd') AND a.attname = ANY (%s))
"""
_BARS = ("42P16", "42601", "55000", "55006")
"""SQLSTATEs of a column that cannot be empty for a moment, or of a table whose checks are pending."""


_MEETS = ("23505", "23P01")
"""SQLSTATEs of a row that meets another: unique_violation and exclusion_violation."""

_REFERRED = "23503"
"""SQLSTATE of a row that others refer to by what would change: foreign_key_violation."""

_UNFIT = ("23514", "22001", "22026", "22003", "22007", "22008", "22P02")
"""SQLSTATEs of a row that a changed revision lets in no more: a CHECK, a narrower type, a label that is gone."""


LAST = "mcp_planner_guard.last"  # in connection.info when the body has ended, and no partition is to come any more


def unfit(connection: Connection, error: DBAPIError) -> bool:
    """Whether it is that of a row which a changed revision lets in no more; not of one whose partition may still be made."""
    code, diagnosed = getattr(error.orig, "pgcode", None), getattr(error.orig, "diag", None)
    named = bool(diagnosed and diagnosed.constraint_name)
    return code in _UNFIT and (code != "23514" or named or LAST in connection.info)


class NoRoom(Exception):
    """What must be unique cannot be empty for a moment: then all of these rows stay as they are."""


def update(
    connection: Connection, place: str, one: Object, table: Table, names: Sequence[str], kept_rows: str, which: str
) -> int:
    """Set columns of rows ``l`` to their kept values ``c`` (``kept_rows`` in FROM), where ``which`` is true. Gives how many.

    A row whose reference is gone stays as it is, and so does one that meets another by a unique index, or that others refer to.
    """
    from sqlalchemy.exc import DBAPIError, IntegrityError

    there = {column.name: column for column in table.columns.values()}
    must = write_back.required(connection, table, names)
    settings = ", ".join(
        f"{identifier(name)} = CASE WHEN pg_catalog.num_nonnulls(c.{identifier(name)}) = 0 THEN l.{identifier(name)} "
        f"ELSE CAST(c.{identifier(name)} AS {must[name]}) END"
        if name in must
        else f"{identifier(name)} = {write_back.typed(there[name])}"
        for name in names
    )
    connection.exec_driver_sql("SAVEPOINT guard_update")
    for attempt in (_at_once, _apart, _exchanged, _half_by_half):
        try:
            written = attempt(connection, place, one, table, names, settings, kept_rows, which)
            connection.exec_driver_sql("RELEASE SAVEPOINT guard_update")
            return written
        except DBAPIError as error:
            code = getattr(error.orig, "pgcode", None)
            known = (
                code in (*_MEETS, _REFERRED) or unfit(connection, error)
                if attempt is _at_once
                else isinstance(error, IntegrityError) or code in _BARS or unfit(connection, error)
            )
            if not known:
                raise
        except NoRoom:
            pass
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_update")
    raise AssertionError("the last attempt gives way row by row")


def _at_once(
    connection: Connection, place: str, one: Object, table: Table, names: Sequence[str], settings: str, kept_rows: str,
    which: str,
) -> int:  # fmt: skip
    return write_back.with_references(
        connection, place, table, names,
        lambda also: f"UPDATE {rows_of(table)} AS l SET {settings} FROM {kept_rows} WHERE {which} AND {also}",
    )  # fmt: skip


def _exchanged(
    connection: Connection, place: str, one: Object, table: Table, names: Sequence[str], settings: str, kept_rows: str,
    which: str,
) -> int:  # fmt: skip
    """Write all of them, where they meet none but each other by an index of whatever kind: its columns are empty for a moment."""
    depends = [name for name in connection.exec_driver_sql(_DEPENDS, (table.oid,)).scalars() if name in names]
    if not depends:
        raise NoRoom
    going, _ = halves.listed(connection, place, f"{kept_rows}, {rows_of(table)} AS l", which)
    these, key = f"{place} AS c JOIN {going} AS g ON g.place = c.ctid", write_back.same_key(one, table)
    written = _all_of(connection, place, table, names, (settings, these, key), [depends])
    execute(connection, f"DROP TABLE {going}")
    return written


def _half_by_half(
    connection: Connection, place: str, one: Object, table: Table, names: Sequence[str], settings: str, kept_rows: str,
    which: str,
) -> int:  # fmt: skip
    """Write all but those that meet another row: what fails is tried in halves, down to the single row. Gives how many.

    See :mod:`.halves`.
    """
    key, live = write_back.same_key(one, table), rows_of(table)
    going, rows = halves.listed(connection, place, f"{kept_rows}, {live} AS l", which)
    some = f"UPDATE {live} AS l SET {settings} FROM {place} AS c JOIN {going} AS g ON g.place = c.ctid WHERE {key}"
    return halves.write(
        connection, going, rows,
        lambda these: write_back.with_references(connection, place, table, names, f"{some} AND {these} AND ".__add__),
        functools.partial(_passes, connection),
    )  # fmt: skip


def insert(connection: Connection, place: str, one: Object, table: Table, columns: Sequence[str], which: str) -> int:
    """Insert kept rows where one of them is not let in: all but those. Gives how many."""
    going, rows = halves.listed(connection, place, f"{place} AS c", which)
    listed = f"c.ctid IN (SELECT g.place FROM {going} AS g WHERE "
    return halves.write(
        connection, going, rows,
        lambda these: write_back.insert(connection, place, one, table, columns, f"{listed}{these})"),
        functools.partial(_passes, connection),
    )  # fmt: skip


def _passes(connection: Connection, error: DBAPIError) -> bool:
    return unfit(connection, error) or getattr(error.orig, "pgcode", "") in (*_MEETS, _REFERRED)


def _apart(
    connection: Connection, place: str, one: Object, table: Table, names: Sequence[str], settings: str, kept_rows: str,
    which: str,
) -> int:  # fmt: skip
    live, key = rows_of(table), write_back.same_key(one, table)
    there = {column.name: column for column in table.columns.values()}
    going, _ = halves.listed(connection, place, f"{kept_rows}, {rows_of(table)} AS l", which)
    unique = [found for found in connection.exec_driver_sql(_UNIQUE, (table.oid,)).scalars() if set(found) & set(names)]
    theirs = write_back.same_key(one, table, kept="k", now="x")
    stays = f"NOT EXISTS (SELECT FROM {going} AS o JOIN {place} AS k ON k.ctid = o.place WHERE {theirs})"
    found = True
    while found:
        found = False
        for columns in unique:
            met = " AND ".join(
                f"x.{identifier(name)} = {write_back.typed(there[name]) if name in names else f'l.{identifier(name)}'}"
                for name in columns
            )
            sql = (
                f"DELETE FROM {going} AS g USING {place} AS c, {live} AS l, {live} AS x "
                f"WHERE g.place = c.ctid AND {key} AND {met} AND {stays}"
            )
            found = execute(connection, sql).rowcount > 0 or found
    these = f"{place} AS c JOIN {going} AS g ON g.place = c.ctid"
    written = write_back.count(connection, f"{going} AS g")
    if written:
        written = _all_of(connection, place, table, names, (settings, these, key), unique)
    execute(connection, f"DROP TABLE {going}")
    return written


def _all_of(
    connection: Connection, place: str, table: Table, names: Sequence[str], parts: tuple[str, str, str],
    unique: Sequence[Sequence[str]],
) -> int:  # fmt: skip
    """Write those that meet none but each other: as they are, or, where two have exchanged their values, empty for a moment."""
    from sqlalchemy.exc import IntegrityError

    settings, these, key = parts
    live = rows_of(table)

    def write() -> int:
        return write_back.with_references(
            connection, place, table, names,
            lambda also: f"UPDATE {live} AS l SET {settings} FROM {these} WHERE {key} AND {also}",
        )  # fmt: skip

    connection.exec_driver_sql("SAVEPOINT guard_all_of")
    try:
        written = write()
    except IntegrityError as error:
        if getattr(error.orig, "pgcode", "") not in _MEETS:
            raise
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_all_of")
        written = -1
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_all_of")
    if written >= 0:
        return written
    emptied = sorted({name for columns in unique for name in columns} & set(names))
    if connection.exec_driver_sql(_FOLLOWS, (table.oid, emptied)).scalar():
        raise NoRoom
    required = [
        postponed.Required(name_of(table), name, called)
        for name, called in connection.exec_driver_sql(_REQUIRED, (table.oid, emptied)).all()
    ]
    for one in required:
        execute(connection, f"ALTER TABLE {one.table} ALTER {identifier(one.column)} DROP NOT NULL")
    empty = ", ".join(f"{identifier(name)} = NULL" for name in emptied)
    rows: int = execute(connection, f"UPDATE {live} AS l SET {empty} FROM {these} WHERE {key}").rowcount
    if write() < rows:  # one is still empty
        raise NoRoom
    postponed.require(connection, postponed.Relaxed("", required=tuple(required)))
    return rows
