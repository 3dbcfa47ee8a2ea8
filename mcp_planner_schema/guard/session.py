"""The session's own settings: read once before the first step and given back at the start of each, so that none leaks.

``SET search_path = …`` in a revision, as pg_dump writes it, is in force until somebody takes it back; so is ``SET ROLE``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import connect
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.postcheck import execute, literal

if TYPE_CHECKING:
    from sqlalchemy import Connection

_READ = """
SELECT pg_catalog.pg_backend_pid(), ARRAY(
  SELECT ARRAY[name, pg_catalog.current_setting(name)] FROM pg_catalog.pg_settings WHERE source = 'session'
  ORDER BY name <> 'session_authorization', name <> 'role', name)
"""


@dataclass(frozen=True)
class Session:
    """What a session had set when the guard got it. ``sql`` puts exactly that in force again."""

    sql: str


def read(connection: Connection) -> Session:
    """Read the settings; ends the transaction it was read in. Raises :class:`Refused` behind a pooler.

    A pooler hands out keys of its own for cancelling, so the process number that libpq was told is not the server's.
    """
    pid, settings = execute(connection, _READ).one()
    told = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]
    wanted = [*_interval(connection), *settings]
    connection.rollback()
    if pid != told:
        problem = f"the server says process {pid}, the connection was told {told}"
        raise Refused(
            [Finding("pooled-connection", "DATABASE_URL", "", {"problem": problem})], connect.DIRECT,
        )  # fmt: skip
    again = ", ".join(f"pg_catalog.set_config({literal(name)}, {literal(value)}, false)" for name, value in wanted)
    return Session("RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL" + (f"; SELECT {again}" if again else ""))


def _interval(connection: Connection) -> list[tuple[str, str]]:
    """Where the server's system can do it: it notices within two seconds that this process was killed, and does not
    finish its statement first. Ends with a broken transaction where it cannot."""
    from sqlalchemy.exc import DBAPIError

    wanted = ("client_connection_check_interval", "2s")
    try:
        execute(connection, f"SET LOCAL {wanted[0]} = '{wanted[1]}'")
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return []
    return [wanted]


def call(connection: Connection, name: str) -> None:
    """Give the session a name that pg_stat_activity shows. Undone if the running transaction is rolled back."""
    execute(connection, f"SELECT pg_catalog.set_config('application_name', {literal(name)}, false)")


def restore(connection: Connection, session: Session) -> None:
    """Put the settings in force again. One round trip, no lock; undone if the running transaction is rolled back."""
    execute(connection, session.sql)
