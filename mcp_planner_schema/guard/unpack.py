"""Takes rows out of an archive: from the scratch database that it was restored into, into a stash of their own.

Nothing of it is run here. Taken are rows, as text, and names, which are quoted; of a type only its number.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any

from mcp_planner_schema.guard import checksum, evidence, sequences, stash
from mcp_planner_schema.guard.client import Impossible
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, identifier, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

# 100 is the database's own collation, whichever that is.
_SHAPE = """
SELECT a.attname::text, a.atttypid::bigint, a.atttypmod, c.collname::text
FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation AND c.oid <> 100
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
"""
_TYPE = "SELECT pg_catalog.format_type(%s, %s), pg_catalog.to_regcollation(%s)::text"
_ENCODING = "SELECT pg_catalog.quote_literal(pg_catalog.current_setting('server_encoding'))"


@dataclass(frozen=True)
class Unpacked:
    """What was copied; ``lines`` say what could not be, and how it differs from what the manifest knows."""

    objects: tuple[Object, ...]
    lines: tuple[str, ...] = ()
    differs: bool = False


def known(scratch: Connection, connection: Connection, place: str, wanted: Sequence[Object]) -> Unpacked:
    """Copy into the new schema ``place`` what a stash's manifest says that it held, if an archive can tell it.

    Objects whose rows are all back are left out. Raises :class:`Impossible` where a table is not in the archive as it was.
    """
    objects, lines, differs = [], [], False
    for one in wanted:
        if not one.relation:
            objects.append(one)
            continue
        if one.left == 0:
            continue
        if one.kind == "rows":
            name = one.name if one.schema == "public" else f"{one.schema}.{one.name}"
            lines.append(
                f"not restored changed rows of {name}: an archive holds every row as it was, and does not tell which of them "
                "the downgrade changed"
            )
            if not one.lost:
                continue
            one = replace(one, kind="columns", left_as=None)
        table = evidence.named(scratch, one.schema, one.name)
        if table is None or not set(one.columns) <= {column.name for column in table.columns.values()}:
            raise Impossible(
                f"restored from it, there is no {one.shown} as the manifest says",
                "take another archive or backup; the stash in the database is independent of the file",
            )
        made = _copy(scratch, connection, place, one, table)
        if one.checksum not in (None, made.checksum):
            differs = True
            lines.append(_difference(one, made))
        objects.append(made)
    return Unpacked(tuple(objects), tuple(lines), differs)


def whole(scratch: Connection, connection: Connection, place: str, schema: str, version_table: str) -> Unpacked:
    """Copy every table that has rows in the archive and a place here, with its sequences; no manifest says which went."""
    objects: list[Object] = []
    lines, states = [], sequences.states(scratch, schema)
    for table in sorted(evidence.snapshot(scratch, schema).values(), key=lambda one: (one.schema, one.name)):
        rows = f"SELECT EXISTS (SELECT FROM {evidence.rows_of(table)})"
        if table.parent or table.name == version_table or not execute(scratch, rows).scalar_one():
            continue
        live = evidence.named(connection, table.schema, table.name)
        if live is None:
            lines.append(f"not restored table {table.shown}: it is not there; its rows stay in the archive")
            continue
        taken = {one.relation for one in objects}
        objects.append(_copy(scratch, connection, place, _object(table, live, len(objects) + 1, taken), table))
        owned = [one for one in states.values() if one.table == table.oid]
        objects += [_sequence(one, number) for number, one in enumerate(owned, len(objects) + 1)]
    return Unpacked(tuple(objects), tuple(lines))


def _object(table: Table, live: Table, number: int, taken: set[str | None]) -> Object:
    """The whole of a table. Its key is the one that it has here: an archive restored without its indexes shows none."""
    names = tuple(column.name for column in table.columns.values())
    return Object(
        number, "table", table.schema, table.name, str(number) if table.name in taken else table.name,
        key=live.key if set(live.key) <= set(names) else (), columns=names,
        types=tuple(column.type for column in table.columns.values()),
    )  # fmt: skip


def _sequence(one: sequences.Sequence, number: int) -> Object:
    return Object(number, "sequence", one.schema, one.name, last_value=one.last_value, is_called=one.is_called)


def _difference(one: Object, made: Object) -> str:
    assert one.checksum
    assert made.checksum
    return (
        f"note: of {one.shown} the archive holds {made.checksum.rows} rows, the downgrade kept {one.checksum.rows}, or other "
        "values: it was written before the table was locked, and others went on writing"
    )


def _copy(scratch: Connection, connection: Connection, schema: str, one: Object, table: Table) -> Object:
    """Copy the columns of one table, in the form in which a stash keeps them, and compare the copy with the original."""
    place = f"{identifier(schema)}.{identifier(one.relation or '')}"
    by_name = {column.name: column for column in table.columns.values()}
    shape = _shape(scratch, connection, table)
    made = ", ".join(f"{identifier(name)} {shape[name]}" for name in one.columns)
    values = ", ".join(stash.value(by_name[name]) for name in one.columns)
    rows = evidence.rows_of(table)
    execute(connection, f"CREATE TABLE {place} ({made})")
    stash.close(connection, place)
    with checksum.reading(scratch), checksum.reading(connection):
        # Whatever encoding the client's environment names, the text goes over as it stands there.
        encoding = f"WITH (ENCODING {scratch.exec_driver_sql(_ENCODING).scalar_one()})"
        _stream(
            scratch,
            f"COPY (SELECT {values} FROM {rows}) TO STDOUT {encoding}",
            connection,
            f"COPY {place} FROM STDIN {encoding}",
        )
        original = checksum.of(scratch, rows, one.columns)
        copied = checksum.of(connection, place, one.columns)
        size = stash.size(connection, place)
    if copied != original:
        raise Impossible(f"copied from it, {one.shown} has other rows", "repeat the command")
    return replace(one, moved=False, structure=None, checksum=copied, bytes=size, restored=None, left=None)


def _shape(scratch: Connection, connection: Connection, table: Table) -> dict[str, str]:
    """For each column its type in the copy, written by the database that is to have it."""
    builtin = {column.name for column in table.columns.values() if column.builtin}
    found = {}
    with pinned(connection, search_path=SYSTEM_PATH):
        for name, number, modifier, collation in scratch.exec_driver_sql(_SHAPE, (table.oid,)):
            if name not in builtin:
                found[name] = 'pg_catalog.text COLLATE pg_catalog."C"'
                continue
            named = collation and f"pg_catalog.{identifier(collation)}"
            type_, here = connection.exec_driver_sql(_TYPE, (number, modifier, named)).one()
            found[name] = type_ + (f" COLLATE pg_catalog.{here}" if here else "")
    return found


def _stream(source: Connection, read: str, target: Connection, write: str) -> None:
    """COPY out of one database into the other through a pipe: as much is in memory as a pipe holds.

    Raises what stopped it; an error of the server's as a :class:`DBAPIError` of SQLAlchemy's, as every other statement would.
    """
    reading, writing = os.pipe()
    stopped: list[Exception] = []

    def send() -> None:
        # Noted before the other end sees that nothing more comes: half of the rows must not pass for all of them.
        with suppress(BrokenPipeError), os.fdopen(writing, "wb") as end:
            try:
                _copy_expert(source, read, end)
            except Exception as error:
                stopped.append(error)

    sender = threading.Thread(target=send, name="archive")
    sender.start()
    try:
        with os.fdopen(reading, "rb") as file:
            _receive(target, write, file)
    except BaseException:
        if stopped and not isinstance(stopped[0], BrokenPipeError):
            raise stopped[0] from None
        source.connection.dbapi_connection.cancel()  # type: ignore[union-attr]  # nobody wants the rest
        raise
    finally:
        sender.join()
    if stopped:
        raise stopped[0]


def _receive(target: Connection, write: str, file: IO[bytes]) -> None:
    """psycopg2 makes an error of the server's of whatever read() raises: Ctrl-C is to stay what it is."""
    stops: list[BaseException] = []

    def read(size: int) -> bytes:
        try:
            return file.read(size)
        except BaseException as stop:
            stops.append(stop)
            raise

    try:
        _copy_expert(target, write, SimpleNamespace(read=read))
    except Exception:
        if stops:
            raise stops[0] from None
        raise


def _copy_expert(connection: Connection, sql: str, file: Any) -> None:
    from psycopg2 import Error
    from sqlalchemy.exc import DBAPIError

    driver: Any = connection.connection.dbapi_connection
    try:
        with driver.cursor() as cursor:
            cursor.copy_expert(sql, file)
    except Error as error:
        raise DBAPIError("COPY", None, error) from error
