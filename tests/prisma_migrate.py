"""Prisma Migrate's rules for folder, rows and lock, as its source (6.19) has them, for tests where the program cannot be had.

The same order, the same rows before and after each file, the same lock. Held against the program itself by
``test_the_program_and_the_executor_agree``, where there is one.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2

from mcp_planner_schema.interop.prisma import folder
from tests.conftest import Database

LOCK = 72707369
TABLE = """
CREATE TABLE _prisma_migrations (
    id                  VARCHAR(36) PRIMARY KEY NOT NULL,
    checksum            VARCHAR(64) NOT NULL,
    finished_at         TIMESTAMPTZ,
    migration_name      VARCHAR(255) NOT NULL,
    logs                TEXT,
    rolled_back_at      TIMESTAMPTZ,
    started_at          TIMESTAMPTZ NOT NULL DEFAULT now(),
    applied_steps_count INTEGER NOT NULL DEFAULT 0
)"""


class Failed(Exception):
    """What the program prints behind ``Error: ``, and ends with 1."""


class Prisma:
    """One call of the program after the other. ``adapter``: a driver adapter sends a file statement by statement, cut at each
    semicolon; the engine that Prisma brings itself sends it as one query."""

    def __init__(self, migrations: Path, database: Database, *, adapter: bool = False) -> None:
        self.folder, self.database, self.adapter = migrations, database, adapter

    def deploy(self, upto: str | None = None) -> list[str]:
        """``prisma migrate deploy``; ``upto`` as if the folder ended there."""
        with self._locked() as cursor:
            self._prepare(cursor)
            cursor.execute("SELECT migration_name, finished_at, rolled_back_at FROM _prisma_migrations")
            rows = cursor.fetchall()
            failed = [name for name, finished, back in rows if finished is None and back is None]
            if failed:
                raise Failed(f"P3009: migrate found failed migrations in the target database: {failed}")
            there = {name for name, _, back in rows if back is None}
            done = []
            for name in self._names():
                if name not in there:
                    self._apply(cursor, name)
                    done.append(name)
                if name == upto:
                    break
            return done

    def resolve(self, *, applied: str | None = None, rolled_back: str | None = None) -> None:
        """``prisma migrate resolve``."""
        with self._locked() as cursor:
            name = applied or rolled_back
            cursor.execute("SELECT to_regclass('_prisma_migrations')")
            if cursor.fetchone() == (None,):
                cursor.execute(TABLE)
            cursor.execute("SELECT id, finished_at IS NOT NULL, rolled_back_at IS NOT NULL FROM _prisma_migrations "
                           "WHERE migration_name = %s", (name,))  # fmt: skip
            rows = cursor.fetchall()
            if applied and any(finished for _, finished, _ in rows):
                raise Failed(f"P3008: The migration `{name}` is already recorded as applied in the database.")
            if rolled_back and not any(not finished and not back for _, finished, back in rows):
                raise Failed(f"P3012: Migration `{name}` cannot be rolled back because it is not in a failed state.")
            for id_, finished, back in rows:
                if not finished and not back:
                    cursor.execute("UPDATE _prisma_migrations SET rolled_back_at = now() WHERE id = %s", (id_,))
            if applied:
                cursor.execute(
                    "INSERT INTO _prisma_migrations (id, checksum, logs, started_at, finished_at, migration_name) "
                    "VALUES (%s, %s, '', now(), now(), %s)", (str(uuid.uuid4()), self._checksum(applied), applied),
                )  # fmt: skip

    def _names(self) -> list[str]:
        return sorted((path.name for path in self.folder.iterdir() if path.is_dir()), key=folder.order)

    def _script(self, name: str) -> str:
        return (self.folder / name / "migration.sql").read_bytes().decode()

    def _checksum(self, name: str) -> str:
        return hashlib.sha256(self._script(name).encode()).hexdigest()

    def _prepare(self, cursor: Any) -> None:
        cursor.execute("SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema()")
        tables = [name for (name,) in cursor.fetchall()]
        if "_prisma_migrations" not in tables:
            if tables:
                raise Failed("P3005: The database schema is not empty.")
            cursor.execute(TABLE)

    def _apply(self, cursor: Any, name: str) -> None:
        id_, script = str(uuid.uuid4()), self._script(name)
        cursor.execute(
            "INSERT INTO _prisma_migrations (id, checksum, started_at, migration_name) "
            "VALUES (%s, %s, clock_timestamp(), %s)", (id_, self._checksum(name), name),
        )  # fmt: skip
        parts = [part.strip("\ufeff \t\r\n") for part in script.split(";")] if self.adapter else [script]
        try:
            for part in parts:
                if part:
                    cursor.execute(part)
        except psycopg2.Error as error:
            if "empty query" not in str(error):  # of comments alone: the server has nothing against it
                said = f"Database error code: {error.pgcode}\n\nDatabase error:\nERROR: {error.diag.message_primary}"
                cursor.execute("UPDATE _prisma_migrations SET logs = %s WHERE id = %s", (said, id_))
                raise Failed(f"P3018: {error.diag.message_primary}") from error
        cursor.execute("UPDATE _prisma_migrations SET applied_steps_count = 1, finished_at = clock_timestamp() WHERE id = %s",
                       (id_,))  # fmt: skip

    @contextmanager
    def _locked(self) -> Iterator[Any]:
        connection = psycopg2.connect(host=self.database.host, port=self.database.port, dbname=self.database.name,
                                      user=self.database.user, application_name="prisma")  # fmt: skip
        connection.autocommit = True
        try:
            cursor = connection.cursor()
            cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
            yield cursor
        finally:
            connection.close()
