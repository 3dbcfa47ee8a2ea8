"""A table in which another tool keeps what it has done, found by its name as a person gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_planner_schema.guard import history
from mcp_planner_schema.guard.postcheck import execute, identifier, literal

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.version_table import VersionTable

_COLUMNS = """
SELECT pg_catalog.array_agg(a.attname::text || ' ' || pg_catalog.format_type(a.atttypid, NULL)
                            ORDER BY a.attname::text COLLATE "C")
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
WHERE c.oid = pg_catalog.to_regclass({name})::pg_catalog.oid AND c.relkind IN ('r', 'p')
  AND a.attnum > 0 AND NOT a.attisdropped
"""
_PLACE = """
SELECT pg_catalog.current_database()::text, n.nspname::text, c.relname::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = pg_catalog.to_regclass({name})::pg_catalog.oid
"""
_IS_HELD = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
  AND classid = 0 AND objid::bigint = {number})
"""


def quoted(table: str) -> str:
    """The table's name for a statement, each part of it as the catalog has it: ``schema_migrations``, ``schema.table``."""
    return ".".join(identifier(part.strip('"')) for part in table.split("."))


def columns(connection: Connection, table: str) -> list[str] | None:
    """Each column's name and type, in the order of the names; None where there is no such table. A view is none: it would run
    its maker's code as whoever reads it."""
    found: list[str] | None = execute(connection, _COLUMNS.format(name=literal(quoted(table)))).scalar_one()
    return found


def refuse_foreign(connection: Connection, schema: str, table: str, repeat: str) -> None:
    """Raise :class:`Broken` where the table, or the guard's ``schema``, is in somebody else's hand, or carries his code: whoever
    reads and writes it would run that. Ask before the first look at it."""
    history.refuse_foreign(connection, schema, quoted(table), repeat)


def place(connection: Connection, table: str) -> tuple[str, str, str]:
    """The database, the schema and the name of the table."""
    database, schema, name = execute(connection, _PLACE.format(name=literal(quoted(table)))).one()
    return database, schema, name


def of_alembic(connection: Connection, own: VersionTable) -> set[tuple[str, str]]:
    """The schema and name of the version table; none where there is none. Without a schema it is the one that this session's
    search_path finds, as Alembic does."""
    name = ".".join(identifier(part) for part in (own.schema, own.name) if part)
    return {(schema, found) for _, schema, found in execute(connection, _PLACE.format(name=literal(name)))}


def full_name(connection: Connection, table: str) -> str:
    """The table's name with its schema, for sessions with another search_path."""
    _, schema, name = place(connection, table)
    return f"{schema}.{name}"


def takes(connection: Connection, *numbers: int) -> bool:
    """Whether all of the tool's advisory locks could be had; then they are held to the end of the transaction."""
    asked = ", ".join(f"pg_catalog.pg_try_advisory_xact_lock({number})" for number in numbers)
    return all(execute(connection, f"SELECT {asked}").one())


def is_held(connection: Connection, number: int) -> bool:
    """Whether somebody has the tool's advisory lock now."""
    return bool(execute(connection, _IS_HELD.format(number=number)).scalar_one())
