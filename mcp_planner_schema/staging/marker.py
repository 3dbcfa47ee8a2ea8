"""Which environment a database says that it is: a copy of production carries production's word, until it is told otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

_THERE = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute
               WHERE attrelid = pg_catalog.to_regclass(%s) AND attname = 'environment' AND NOT attisdropped)
"""


def read(connection: Connection, schema: str) -> str | None:
    """What the marker says; None where there is none. Ends the transaction it was read in."""
    found = None
    if connection.exec_driver_sql(_THERE, (f"{schema}.environment",)).scalar_one():
        found = connection.exec_driver_sql(f"SELECT environment::text FROM {schema}.environment LIMIT 1").scalar()
    connection.rollback()
    return found


def write(connection: Connection, schema: str, environment: str) -> None:
    """Let the marker say ``environment``, where there is one. In the caller's transaction."""
    if connection.exec_driver_sql(_THERE, (f"{schema}.environment",)).scalar_one():
        connection.exec_driver_sql(f"UPDATE {schema}.environment SET environment = %s", (environment,))
