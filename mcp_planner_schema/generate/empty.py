"""Trying on nothing: what PostgreSQL makes of a type, a default or a definition, seen on an empty temporary table.

Definitions are never rewritten as text. They are built on the copy, and PostgreSQL itself shows what has become of them.
Nothing is left of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.postcheck import CATALOG_PATH, execute, identifier, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection


@contextmanager
def nothing(connection: Connection) -> Iterator[None]:
    """What is done inside is undone at the end."""
    execute(connection, "SAVEPOINT twin")
    try:
        yield
    finally:
        execute(connection, "ROLLBACK TO SAVEPOINT twin; RELEASE SAVEPOINT twin")


@contextmanager
def twin(connection: Connection, schema: str, table: str) -> Iterator[str]:
    """An empty temporary copy of the table, of the same name; gives that as SQL."""
    name = f"pg_temp.{identifier(table)}"
    with nothing(connection):
        copied = f"{identifier(schema)}.{identifier(table)}"
        execute(connection, f"CREATE TEMPORARY TABLE {identifier(table)} (LIKE {copied} INCLUDING GENERATED)")
        yield name


def type_of(connection: Connection, type_sql: str) -> tuple[str, str]:
    """The type as ``format_type`` shows it: with its schema, and as psql shows it. Raises the server's error."""
    asked = (
        "SELECT pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute "
        "WHERE attrelid = 'pg_temp.twin'::regclass AND attnum = 1"
    )
    with nothing(connection):
        with pinned(connection, search_path=CATALOG_PATH):
            execute(connection, f"CREATE TEMPORARY TABLE twin (c {type_sql})")
            shown = str(execute(connection, asked).scalar_one())
        return str(execute(connection, asked).scalar_one()), shown


def default_of(connection: Connection, type_sql: str, value: str) -> str:
    """``value`` as psql shows it when it is the default of a column of that type."""
    with nothing(connection), pinned(connection, search_path=CATALOG_PATH):
        execute(connection, f"CREATE TEMPORARY TABLE twin (c {type_sql} DEFAULT {value})")
        asked = (
            "SELECT pg_catalog.pg_get_expr(adbin, adrelid) FROM pg_catalog.pg_attrdef "
            "WHERE adrelid = 'pg_temp.twin'::regclass"
        )
        return str(execute(connection, asked).scalar_one())


def volatile(connection: Connection, type_sql: str, default: str) -> bool:
    """Whether a default differs from row to row."""
    with nothing(connection):
        execute(connection, "CREATE TEMPORARY TABLE twin ()")
        asked = "SELECT c.relfilenode FROM pg_catalog.pg_class c WHERE c.oid = 'pg_temp.twin'::regclass"
        before = execute(connection, asked).scalar_one()
        execute(connection, f"ALTER TABLE pg_temp.twin ADD COLUMN c {type_sql} DEFAULT {default}")
        return bool(execute(connection, asked).scalar_one() != before)
