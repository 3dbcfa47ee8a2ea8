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
SELECT pg_backend_pid(), ARRAY(
  SELECT ARRAY[name, current_setting(name)] FROM pg_catalog.pg_settings WHERE source = 'session'
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
    connection.rollback()
    if pid != told:
        problem = f"the server says process {pid}, the connection was told {told}"
        raise Refused(
            [Finding("pooled-connection", "DATABASE_URL", "", {"problem": problem})], connect.DIRECT,
        )  # fmt: skip
    # The server notices within two seconds that this process was killed, instead of finishing its statement first.
    wanted = [("client_connection_check_interval", "2s"), *settings]
    again = ", ".join(f"set_config({literal(name)}, {literal(value)}, false)" for name, value in wanted)
    return Session(f"RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; SELECT {again}")


def restore(connection: Connection, session: Session) -> None:
    """Put the settings in force again. One round trip, no lock; undone if the running transaction is rolled back."""
    execute(connection, session.sql)
