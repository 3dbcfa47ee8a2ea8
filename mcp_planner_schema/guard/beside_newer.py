"""Gives rows their kept values where a unique index would let in only one of two: the newer row stays, the kept one in the stash.

One statement for all of them fails for one that meets another row, and for two that have exchanged their values meanwhile. So
those are found that meet none but each other; what must be unique in them is emptied first, and then all have their values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import ladder, write_back
from mcp_planner_schema.guard.evidence import Table, name_of, rows_of
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute, identifier

if TYPE_CHECKING:
    from sqlalchemy import Connection

_UNIQUE = """
SELECT (SELECT pg_catalog.array_agg(a.attname::text ORDER BY u.place)
        FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY AS u (n, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.n WHERE u.place <= i.indnkeyatts)
FROM pg_catalog.pg_index i WHERE i.indrelid = %s AND i.indisunique AND i.indexprs IS NULL ORDER BY i.indexrelid
"""
_REQUIRED = (
    "SELECT attname::text FROM pg_catalog.pg_attribute WHERE attrelid = %s AND attnotnull AND attname = ANY (%s)"
)


def update(
    connection: Connection, place: str, one: Object, table: Table, names: Sequence[str], kept_rows: str, which: str
) -> int:
    """Set columns of rows ``l`` to their kept values ``c`` (``kept_rows`` in FROM), where ``which`` is true. Gives how many.

    A row whose reference is gone stays as it is, and so does one that meets another by a unique index.
    """
    from sqlalchemy.exc import DBAPIError, IntegrityError

    there = {column.name: column for column in table.columns.values()}
    settings = ", ".join(f"{identifier(name)} = {write_back.typed(there[name])}" for name in names)
    written, meets = 0, False
    connection.exec_driver_sql("SAVEPOINT guard_update")
    try:
        written = write_back.with_references(
            connection, place, table, names,
            lambda also: f"UPDATE {rows_of(table)} AS l SET {settings} FROM {kept_rows} WHERE {which} AND {also}",
        )  # fmt: skip
    except IntegrityError as error:
        if getattr(error.orig, "pgcode", "") != "23505":
            raise
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_update")
        meets = True
    if meets:
        try:
            written = _apart(connection, place, one, table, names, settings, kept_rows, which)
        except DBAPIError as error:
            if getattr(error.orig, "pgcode", None) in ladder.TRANSIENT:
                raise
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_update")
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_update")
    return written


def _apart(
    connection: Connection, place: str, one: Object, table: Table, names: Sequence[str], settings: str, kept_rows: str,
    which: str,
) -> int:  # fmt: skip
    live, key = rows_of(table), write_back.same_key(one.key, table)
    there = {column.name: column for column in table.columns.values()}
    going = f'{place.partition(".")[0]}."guard:going"'  # a stash's own schema has a name without a dot
    execute(
        connection,
        f"CREATE UNLOGGED TABLE {going} AS SELECT c.ctid AS place FROM {kept_rows}, {live} AS l WHERE {which}",
    )
    unique = [found for found in connection.exec_driver_sql(_UNIQUE, (table.oid,)).scalars() if set(found) & set(names)]
    theirs = write_back.same_key(one.key, table, kept="k", now="x")
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
    emptied = sorted({name for columns in unique for name in columns} & set(names))
    required = list(connection.exec_driver_sql(_REQUIRED, (table.oid, emptied)).scalars())
    for name in required:
        execute(connection, f"ALTER TABLE {name_of(table)} ALTER {identifier(name)} DROP NOT NULL")
    these = f"{place} AS c JOIN {going} AS g ON g.place = c.ctid"
    empty = ", ".join(f"{identifier(name)} = NULL" for name in emptied)
    execute(connection, f"UPDATE {live} AS l SET {empty} FROM {these} WHERE {key}")
    written: int = execute(connection, f"UPDATE {live} AS l SET {settings} FROM {these} WHERE {key}").rowcount
    for name in required:
        execute(connection, f"ALTER TABLE {name_of(table)} ALTER {identifier(name)} SET NOT NULL")
    execute(connection, f"DROP TABLE {going}")
    return written
