"""Alembic's version table: its column holds 32 characters, and a longer revision id fails after all the work is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

_ALEMBIC_WIDTH = 32
_WIDTH = """
SELECT a.atttypmod - 4 FROM pg_catalog.pg_attribute a
WHERE a.attrelid = to_regclass(%s) AND a.attname = 'version_num' AND a.atttypid = 'varchar'::regtype AND a.atttypmod > 0
"""


def fit(connection: Connection, name: str, schema: str | None, longest: int) -> None:
    """Make room for an id of ``longest`` characters, before the first step. Commits by autocommit; rewrites nothing."""
    if longest <= _ALEMBIC_WIDTH:
        return
    from sqlalchemy import Column, MetaData, PrimaryKeyConstraint, Table, Text

    key = PrimaryKeyConstraint("version_num", name=f"{name}_pkc")
    table = Table(name, MetaData(), Column("version_num", Text, nullable=False), key, schema=schema)
    table.create(connection, checkfirst=True)
    shown = connection.dialect.identifier_preparer.format_table(table)
    width = connection.exec_driver_sql(_WIDTH, (shown,)).scalar_one_or_none()
    if width is not None and width < longest:
        connection.exec_driver_sql(f"ALTER TABLE {shown} ALTER COLUMN version_num TYPE text")
