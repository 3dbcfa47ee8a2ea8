"""Writes kept rows of which some are not let in, and nobody can ask which: all, then half by half, down to the single row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.postcheck import execute, identifier

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.exc import DBAPIError

TRIES = 5000
"""Statements after which no more rows are tried: a few seconds, and locks are held."""


def listed(
    connection: Connection, place: str, rows: str, which: str = "true", *, name: str = "guard:going"
) -> tuple[str, int]:
    """Make the table of the kept rows ``c`` (``rows`` in FROM) of which ``which`` is true. Gives its name, and how many they are.

    No temporary one, for not every role may make those.
    """
    going = f"{place.partition('.')[0]}.{identifier(name)}"  # a stash's own schema has a name without a dot
    numbered = f"SELECT c.ctid AS place, pg_catalog.row_number() OVER () AS n FROM {rows} WHERE {which}"
    found: int = execute(connection, f"CREATE UNLOGGED TABLE {going} AS {numbered}").rowcount
    return going, found


def write(
    connection: Connection, going: str, rows: int, some: Callable[[str], int], passes: Callable[[DBAPIError], bool]
) -> int:
    """Write the listed rows ``g`` of which the SQL given to ``some`` is true; what fails, and ``passes``, in halves.

    Gives how many it has written, and drops the list. After :data:`TRIES` statements the rest stays as it is. Two rows that have
    exchanged their values are not told apart here.
    """
    from sqlalchemy.exc import DBAPIError

    execute(connection, f"CREATE INDEX ON {going} (n)")
    execute(connection, f"ANALYZE {going}")
    written, halves = 0, [(1, rows)] * (rows > 0)
    for _ in range(TRIES):
        if not halves:
            break
        first, last = halves.pop()
        connection.exec_driver_sql("SAVEPOINT guard_half")
        try:
            written += some(f"g.n BETWEEN {first} AND {last}")
        except DBAPIError as error:
            if not passes(error):
                raise
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_half")
            middle = (first + last) // 2
            halves += [(middle + 1, last), (first, middle)] if last > first else []
        connection.exec_driver_sql("RELEASE SAVEPOINT guard_half")
    execute(connection, f"DROP TABLE {going}")
    return written
