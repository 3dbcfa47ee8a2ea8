"""golang-migrate's one row: which version a database is at, whether a file has begun and not ended, and the lock around it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.findings import Broken, Busy, WrongUse
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.interop import table as tables

if TYPE_CHECKING:
    from sqlalchemy import Connection

TABLE = "schema_migrations"
_SALT = 1486364155

_AT_WORK = "golang-migrate is at work in this database. Nothing was changed."


@dataclass(frozen=True)
class Row:
    """``version`` is None where no version is applied; -1 with ``dirty`` where the first one was being reverted."""

    version: int | None
    dirty: bool = False

    def __str__(self) -> str:
        said = "no version" if self.version is None else f"version {self.version}"
        return f"{said}, dirty" if self.dirty else said


def read(connection: Connection, table: str) -> Row:
    """What the table says. Raises :class:`WrongUse` where there is none of golang-migrate's under this name."""
    columns = tables.columns(connection, table)
    if columns is None:
        raise WrongUse(
            f"This database has no table {table}: golang-migrate has not migrated it, or keeps its version under another name "
            "(x-migrations-table).",
            "make migrate-adopt FROM=golang-migrate TABLE=schema.name",
        )
    if columns != ["dirty boolean", "version bigint"]:
        raise WrongUse(
            f"{table} is not golang-migrate's: it has {', '.join(columns)}, and not version bigint, dirty boolean.",
            "make migrate-adopt FROM=golang-migrate TABLE=schema.name",
        )
    rows = execute(connection, f"SELECT version, dirty FROM {tables.quoted(table)}").all()
    if len(rows) > 1:
        said = ", ".join(str(version) for version, _ in rows)
        raise Broken(
            f"{table} holds {len(rows)} rows ({said}); golang-migrate keeps one, and reads any of them.",
            f"DELETE FROM {tables.quoted(table)} WHERE version <> …;   (in psql: all but the true one), then the same command",
        )
    return Row(rows[0][0], rows[0][1]) if rows else Row(None)


def set_to(connection: Connection, table: str, version: int | None) -> None:
    """Say that the database is at ``version``, and clean. Commits nothing; readers are not stopped, as TRUNCATE would."""
    written = (
        f"; INSERT INTO {tables.quoted(table)} (version, dirty) VALUES ({version}, false)"
        if version is not None
        else ""
    )
    execute(connection, f"DELETE FROM {tables.quoted(table)}{written}")


def move(connection: Connection, table: str, before: int | None, version: int | None, repeat: str) -> None:
    """Say that the database is at ``version``, where the row says ``before``, clean. Raises :class:`Busy` where it says something
    else, for golang-migrate may have run a whole file since it was read. One statement; commits nothing."""
    name, here = tables.quoted(table), f"version = {before} AND NOT dirty"
    if before is None:
        written = f"INSERT INTO {name} (version, dirty) SELECT {version}, false WHERE NOT EXISTS (SELECT FROM {name})"
    elif version is None:
        written = f"DELETE FROM {name} WHERE {here}"
    else:
        written = f"UPDATE {name} SET version = {version} WHERE {here}"
    if execute(connection, written).rowcount != 1:
        raise Busy(
            f"golang-migrate's row in {table} does not say {Row(before)} any more: somebody has migrated with golang-migrate "
            "while this step ran. The step was undone.",
            f"make migrate-adopt FROM=golang-migrate KEEP=1, then {repeat}",
        )


def alone(connection: Connection, numbers: Iterable[int], repeat: str) -> None:
    """Hold golang-migrate's ``locks`` to the end of the transaction. Raises :class:`Busy` where one is at work."""
    if not tables.takes(connection, *numbers):
        raise Busy(_AT_WORK, repeat)


def refuse_at_work(connection: Connection, numbers: Iterable[int], repeat: str) -> None:
    """Raise :class:`Busy` where golang-migrate is at work now. Holds nothing."""
    for number in numbers:
        if tables.is_held(connection, number):
            raise Busy(_AT_WORK, repeat)


def locks(connection: Connection, table: str) -> tuple[int, ...]:
    """The numbers of golang-migrate's locks. They are made of the database's name too: with the slash of the URL's path where the
    program was started by itself, and without where an application calls the library."""
    database, schema, name = tables.place(connection, table)
    return tuple(lock_number(schema, name, called) for called in (f"/{database}", database))


def lock_number(*names: str) -> int:
    """What golang-migrate gives to ``pg_advisory_lock()``: made of schema, table and database, in this order."""
    return zlib.crc32("\0".join(names).encode()) * _SALT % 2**32
