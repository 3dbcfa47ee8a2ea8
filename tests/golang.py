"""golang-migrate's rules for files, row and lock, as its source (v4) has them, for tests where the program cannot be had.

The same order, one simple query for each file, the same row before and after it, the same errors in the same words. Held
against the program itself by ``test_the_program_and_the_executor_agree``, where there is one.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from tests.conftest import Database

NIL = -1
_NAME = re.compile(r"^([0-9]+)_(.*)\.(down|up)\.(.*)$")


class Failed(Exception):
    """What the program prints behind ``error: ``, and ends with 1."""


@dataclass(frozen=True)
class Step:
    """One file that is to be run, and the version to be written; ``body`` is None where there is no such file."""

    version: int
    target: int
    body: str | None


class Source:
    """The folder: a file whose name does not match is passed over, two of a version and direction are an error."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[int, dict[str, Path]] = {}
        for path in sorted(folder.iterdir()):
            match = _NAME.match(path.name)
            if path.is_dir() or not match:
                continue
            if match[3] in self.files.setdefault(int(match[1]), {}):
                raise Failed(f"duplicate migration file: {path.name}")
            self.files[int(match[1])][match[3]] = path
        self.index = sorted(self.files)

    def read(self, version: int, direction: str) -> str | None:
        """The text, as it is sent; None where there is no file."""
        path = self.files[version].get(direction)
        return None if path is None else path.read_bytes().decode()

    def exists(self, version: int) -> None:
        """Raise where no file has the version."""
        if version not in self.files:
            raise Failed(
                f"no migration found for version {version}: read down for version {version} .: file does not exist"
            )

    def prev(self, version: int) -> int | None:
        """The version before."""
        place = self.index.index(version)
        return self.index[place - 1] if place else None

    def next(self, version: int) -> int | None:
        """The version behind."""
        place = self.index.index(version)
        return self.index[place + 1] if place + 1 < len(self.index) else None


class Migrate:
    """One call of the program after the other, each with a connection of its own."""

    def __init__(self, folder: Path, database: Database, *, table: str = "schema_migrations", multi: bool = False,
                 statement_timeout: int = 0) -> None:  # fmt: skip
        self.source, self.database, self.table, self.multi = Source(folder), database, table, multi
        self.statement_timeout = statement_timeout
        self.ran: list[str] = []
        self._schema = "public"

    # --- the commands ---------------------------------------------------------------------------------------------

    def up(self, limit: int | None = None) -> None:
        """``migrate up [N]``."""
        self._run(lambda at: self._up(at, limit))

    def down(self, limit: int | None = None) -> None:
        """``migrate down N``, or ``down -all``."""
        self._run(lambda at: self._down(at, limit))

    def goto(self, version: int) -> None:
        """``migrate goto V``."""
        self._run(lambda at: self._goto(at, version))

    def force(self, version: int) -> None:
        """``migrate force V``."""
        if version < NIL:
            raise Failed("version must be >= -1")
        with self._locked() as cursor:
            self._set(cursor, version, dirty=False)

    def version(self) -> tuple[int, bool]:
        """``migrate version``."""
        with self._opened() as cursor:
            version, dirty = self._version(cursor)
        if version == NIL and not dirty:
            raise Failed("no migration")
        return version, dirty

    def drop(self) -> None:
        """``migrate drop -f``: the tables of the current schema, one by one, and nothing else."""
        with self._locked() as cursor:
            cursor.execute(
                "SELECT table_name FROM information_schema.tables WHERE table_schema=(SELECT current_schema())"
                " AND table_type='BASE TABLE'"
            )
            for (name,) in cursor.fetchall():
                cursor.execute(f'DROP TABLE IF EXISTS "{name}" CASCADE')

    # --- what they go through -------------------------------------------------------------------------------------

    def _up(self, at: int, limit: int | None) -> Iterator[Step]:
        if at >= 0:
            self.source.exists(at)
        if limit == 0:
            raise Failed("no change")
        count = 0
        while limit is None or count < limit:
            next_one = (self.source.index or [None])[0] if at == NIL else self.source.next(at)
            if next_one is None:
                if at == NIL:
                    raise Failed("first .: file does not exist")
                if limit is None and count == 0:
                    raise Failed("no change")
                if limit is None:
                    return
                raise Failed("file does not exist" if count == 0 else f"limit {limit - count} short")
            yield Step(next_one, next_one, self.source.read(next_one, "up"))
            at, count = next_one, count + 1

    def _down(self, at: int, limit: int | None) -> Iterator[Step]:
        if at >= 0:
            self.source.exists(at)
        if limit == 0 or (at == NIL and limit is None):
            raise Failed("no change")
        if at == NIL:
            raise Failed("file does not exist")
        count = 0
        while limit is None or count < limit:
            before = self.source.prev(at)
            if before is None:
                yield Step(self.source.index[0], NIL, self.source.read(self.source.index[0], "down"))
                count += 1
                if limit is not None and count < limit:
                    raise Failed(f"limit {limit - count} short")
                return
            yield Step(at, before, self.source.read(at, "down"))
            at, count = before, count + 1

    def _goto(self, at: int, to: int) -> Iterator[Step]:
        for one in (at, to):
            if one >= 0:
                self.source.exists(one)
        if at == to:
            raise Failed("no change")
        while at < to:
            next_one = self.source.index[0] if at == NIL else self.source.next(at)
            assert next_one is not None
            yield Step(next_one, next_one, self.source.read(next_one, "up"))
            at = next_one
        while at > to:
            before = self.source.prev(at)
            yield Step(at, NIL if before is None else before, self.source.read(at, "down"))
            at = NIL if before is None else before

    # --- the database ---------------------------------------------------------------------------------------------

    def _run(self, steps: Any) -> None:
        with self._locked() as cursor:
            at, dirty = self._version(cursor)
            if dirty:
                raise Failed(f"Dirty database version {at}. Fix and force version.")
            for step in steps(at):
                self._set(cursor, step.target, dirty=True)
                if step.body is not None:
                    self._send(cursor, step.body)
                self._set(cursor, step.target, dirty=False)
                self.ran.append(f"{step.version}/{'u' if step.target == step.version else 'd'}")

    def _send(self, cursor: Any, body: str) -> None:
        # x-multi-statement cuts at each semicolon, whatever it stands in.
        queries = [part + ";" for part in body.split(";")] if self.multi else [body]
        if self.multi and not body.rstrip().endswith(";"):
            queries[-1] = queries[-1].removesuffix(";")
        for query in queries:
            if not query.strip(" \t\r\n"):
                continue
            if query.strip() == ";" and self.multi:
                continue
            try:
                if self.statement_timeout:
                    cursor.execute(f"SET statement_timeout = {self.statement_timeout}")  # the program cancels by itself
                cursor.execute(query)
            except psycopg2.ProgrammingError as error:
                if "empty query" not in str(error):
                    raise Failed(f"migration failed: {error.diag.message_primary or error}") from error
            except psycopg2.Error as error:
                raise Failed(f"migration failed: {error.diag.message_primary or error}") from error

    def _set(self, cursor: Any, version: int, *, dirty: bool) -> None:
        cursor.execute("BEGIN")
        cursor.execute(f'TRUNCATE "{self._schema}"."{self.table}"')
        if version >= 0 or dirty:
            cursor.execute(
                f'INSERT INTO "{self._schema}"."{self.table}" (version, dirty) VALUES (%s, %s)', (version, dirty)
            )
        cursor.execute("COMMIT")

    def _version(self, cursor: Any) -> tuple[int, bool]:
        cursor.execute(f'SELECT version, dirty FROM "{self._schema}"."{self.table}" LIMIT 1')
        return cursor.fetchone() or (NIL, False)

    def _opened(self) -> Any:
        return _Session(self, locked=False)

    def _locked(self) -> Any:
        return _Session(self, locked=True)


class _Session:
    def __init__(self, of: Migrate, *, locked: bool) -> None:
        self.of, self.locked = of, locked

    def __enter__(self) -> Any:
        of = self.of
        self.connection = psycopg2.connect(host=of.database.host, port=of.database.port, dbname=of.database.name,
                                           user=of.database.user, application_name="golang-migrate")  # fmt: skip
        self.connection.autocommit = True
        cursor = self.cursor = self.connection.cursor()
        cursor.execute("SELECT current_schema()")
        of._schema = cursor.fetchone()[0]
        number = zlib.crc32(f"{of._schema}\0{of.table}\0/{of.database.name}".encode()) * 1486364155 % 2**32
        if self.locked:
            cursor.execute("SELECT pg_advisory_lock(%s)", (number,))
        cursor.execute(
            f'CREATE TABLE IF NOT EXISTS "{of._schema}"."{of.table}"'
            " (version bigint not null primary key, dirty boolean not null)"
        )
        return cursor

    def __exit__(self, *_: object) -> None:
        self.connection.close()
