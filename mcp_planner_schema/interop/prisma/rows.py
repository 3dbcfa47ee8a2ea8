"""Prisma's rows: one for each attempt at a migration, whether it has ended, and the lock around it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.interop import table as tables

if TYPE_CHECKING:
    from sqlalchemy import Connection

TABLE = "_prisma_migrations"
LOCK = 72707369
"""What Prisma gives to ``pg_advisory_lock()``, in every database."""

_SHAPE = [
    "applied_steps_count integer",
    "checksum character varying",
    "finished_at timestamp with time zone",
    "id character varying",
    "logs text",
    "migration_name character varying",
    "rolled_back_at timestamp with time zone",
    "started_at timestamp with time zone",
]


@dataclass(frozen=True)
class Row:
    """One attempt. ``failed`` is one that was begun and not ended; one that was rolled back counts for nothing."""

    id: str
    name: str
    checksum: str
    started: str
    finished: bool
    rolled_back: bool
    logs: str

    @property
    def failed(self) -> bool:
        """Whether Prisma does nothing more before it is resolved."""
        return not self.finished and not self.rolled_back

    @property
    def applied(self) -> bool:
        """Whether the migration has been run to its end."""
        return self.finished and not self.rolled_back


def read(connection: Connection, table: str) -> list[Row]:
    """Every attempt, the oldest first. Raises :class:`WrongUse` where there is no table of Prisma's under this name."""
    columns = tables.columns(connection, table)
    if columns is None:
        raise WrongUse(
            f"This database has no table {table}: Prisma Migrate has not migrated it (db push leaves no rows), or keeps them in "
            "another schema.",
            "make migrate-adopt FROM=prisma TABLE=schema._prisma_migrations   (after db push: make migrate-force VERSION=… "
            'REASON="…")',
        )
    if columns != _SHAPE:
        raise WrongUse(
            f"{table} is not Prisma's: it has {', '.join(columns)}.",
            "make migrate-adopt FROM=prisma TABLE=schema._prisma_migrations",
        )
    found = execute(
        connection,
        "SELECT id, migration_name, checksum, started_at::text, finished_at IS NOT NULL, rolled_back_at IS NOT NULL, "
        f"coalesce(logs, '') FROM {tables.quoted(table)} ORDER BY started_at, id",
    )
    return [Row(*one) for one in found]


def resolve(connection: Connection, table: str, failed: Iterable[Row], applied: Iterable[Row]) -> None:
    """Say of attempts that had failed what has become of them, as ``prisma migrate resolve`` does: each is rolled back, and of
    those that are ``applied`` all the same there is a row more that says so. Commits nothing."""
    for row in failed:
        connection.exec_driver_sql(
            f"UPDATE {tables.quoted(table)} SET rolled_back_at = pg_catalog.clock_timestamp() WHERE id = %s", (row.id,)
        )
    for row in applied:
        connection.exec_driver_sql(
            f"INSERT INTO {tables.quoted(table)} (id, checksum, logs, started_at, finished_at, migration_name) VALUES "
            "(%s, %s, '', pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp(), %s)",
            (str(uuid.uuid4()), row.checksum, row.name),
        )
