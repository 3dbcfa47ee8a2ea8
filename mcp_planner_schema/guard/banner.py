"""Which database this is: shown to whoever is about to work on it, compared with its marker, and named by who would destroy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import marker
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.saying import say

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.settings import Settings

_SIZE = "SELECT pg_catalog.pg_size_pretty(pg_catalog.pg_database_size(pg_catalog.current_database()))"
_TOLD = "database_told"
"""In ``config.attributes``, which last as long as one command: what has been told of the database."""


def met(config: Config, connection: Connection, settings: Settings, *, changes: bool) -> None:
    """:func:`shown` and :func:`compared`, for the first connection of a command. Ends the transaction it has read in."""
    shown(config, connection, settings)
    compared(config, connection, settings, changes=changes)


def shown(config: Config, connection: Connection, settings: Settings) -> None:
    """One line that says environment, database, host and size, once a command, where the environment wants that."""
    if not settings.rules.shows or not _first(config, "shown"):
        return
    size = connection.exec_driver_sql(_SIZE).scalar_one()
    connection.rollback()
    guessed = "" if settings.said else f" (nobody has said PLANNER_ENV, and {settings.why})"
    say(f"{settings.environment}: {place(connection)}, {size}{guessed}")


def compared(config: Config, connection: Connection, settings: Settings, *, changes: bool) -> None:
    """Raise :class:`Refused` where the database says that it is another environment's, and the command ``changes`` something.

    One that only asks goes on, and says so once.
    """
    try:
        if changes:
            marker.require(connection, settings, place(connection))
        elif (found := marker.differing(connection, settings, place(connection))) and _first(config, "differs"):
            say(f"note: what changes this database is refused\n{found.text()}")
    finally:
        connection.rollback()


def _first(config: Config, what: str) -> bool:
    told: set[str] = config.attributes.setdefault(_TOLD, set())
    first = what not in told
    told.add(what)
    return first


def place(connection: Connection) -> str:
    """Database, host and port as libpq has resolved them, from the URL, the environment or a service file."""
    info = connection.connection.dbapi_connection.info  # type: ignore[union-attr]  # it is connected
    return f"{info.dbname} at {info.host or 'the local socket'}:{info.port}"


def confirmed(connection: Connection, settings: Settings, given: Any, deed: str, repeat: str, inside: str = "") -> None:
    """:func:`named` where the environment wants it."""
    if settings.rules.confirms:
        named(connection, settings, given, deed, repeat, inside)


def named(connection: Connection, settings: Settings, given: Any, deed: str, repeat: str, inside: str = "") -> None:
    """Raise :class:`Refused` unless ``given`` is the name of the database, as whoever types it knows it.

    Of something ``inside`` the database that has a name itself, both: ``mcp_task_prod.migration_stash_3``.
    """
    database = str(connection.exec_driver_sql("SELECT pg_catalog.current_database()").scalar_one())
    connection.rollback()
    if given == ".".join(filter(None, (database, inside))):
        return
    said = f"is {str(given)!r}, which names another" if given else "is missing"
    values = {"deed": deed, "environment": settings.environment, "said": said}
    form = ".".join(filter(None, ("…", inside)))
    raise Refused([Finding("unconfirmed", place(connection), "", values)], _with(repeat, form))


def _with(repeat: str, name: str) -> str:
    """The command as it was typed, with the name to fill in: it is not given away, for then nobody would look."""
    command, _, rest = re.sub(r"\s+(-x\s*confirm|CONFIRM)=\S+", "", repeat).partition(" ")
    if command == "make":
        return f"make {rest} CONFIRM={name}"
    if command == "alembic":
        return f"alembic -x confirm={name} {rest}"
    return 'the same call with config.attributes["confirm"]'
