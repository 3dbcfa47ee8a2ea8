"""Which environment a database says that it is: a copy of production carries production's word, until it is told otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

# The newest row of the guard's table ``environment`` counts. A dump of before that has no such table.
_THERE = "SELECT pg_catalog.to_regclass(%s) IS NOT NULL"
_NEWEST = "SELECT name FROM {schema}.environment ORDER BY number DESC LIMIT 1"
_WRITE = (
    "INSERT INTO {schema}.environment (name, who, host, reason) VALUES (%s, 'somebody', 'somewhere', 'a masked copy')"
)


def read(connection: Connection, schema: str) -> str | None:
    """What the marker says; None where there is none. Ends the transaction it was read in."""
    found = None
    if connection.exec_driver_sql(_THERE, (f"{schema}.environment",)).scalar_one():
        found = connection.exec_driver_sql(_NEWEST.format(schema=schema)).scalar()
    connection.rollback()
    return found


def write(connection: Connection, schema: str, environment: str) -> None:
    """Let the marker say ``environment``, where there is one. In the caller's transaction."""
    if connection.exec_driver_sql(_THERE, (f"{schema}.environment",)).scalar_one():
        connection.exec_driver_sql(_WRITE.format(schema=schema), (environment,))
