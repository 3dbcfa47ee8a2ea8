"""Where a copy may be made: on staging or a developer's server, in place of a database that is one already, or is empty."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import connect
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.postcheck import execute, identifier, literal

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

    from mcp_planner_schema.guard.settings import Settings

MARK = "MCP-Planner's staging copy"
"""What the comment on a database begins with that a later run may replace."""
AGAIN = "scripts/staging-deploy.sh"
_SAID = "SELECT pg_catalog.shobj_description(d.oid, 'pg_database') FROM pg_catalog.pg_database d WHERE d.datname = %s"
_ROWS = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind IN ('r', 'p', 'm', 'f') AND n.nspname !~ '^(pg_|information_schema$)')
"""
# In the server's own words, for a tunnel or a second name leads to the same place.
_WHICH = """
SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()), pg_catalog.current_database()::text
"""


def refuse_elsewhere(given: Settings, target: URL) -> None:
    """Raise :class:`Refused` unless somebody has said that this is staging or development; a guess is not enough."""
    if given.environment == "staging" or (given.environment == "development" and given.disposable):
        return
    problem = (
        "it counts as production"
        if given.environment == "production"
        else "nobody has said that it is staging's server"
    )
    raise misplaced(
        target, problem, f"PLANNER_ENV=staging {AGAIN}   (where it really is one: a tunnel looks like this machine)"
    )


def misplaced(target: URL, problem: str, instead: str) -> Refused:
    """The refusal to put a copy in this place."""
    shown = f"{target.database} at {connect.place(target)}"
    values = {"database": shown, "problem": problem, "instead": instead}
    return Refused([Finding("staging-misplaced", "DATABASE_URL", "", values)], instead.split("   (")[0])


@contextmanager
def server(target: URL) -> Iterator[Connection]:
    """A connection to the server's own database, to make and drop others from; each statement commits."""
    engine = connect.engine(target.set(database="postgres"), "mcp-planner staging")
    try:
        with connect.opened(engine, autocommit=True) as connection:
            execute(connection, "SET search_path = pg_catalog")
            yield connection
    finally:
        engine.dispose()


def exists(connection: Connection, name: str) -> bool:
    """Whether the server has a database of this name."""
    asked = "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = %s)"
    return bool(connection.exec_driver_sql(asked, (name,)).scalar_one())


def refuse_what_is_not_ours(connection: Connection, target: URL, given: Settings, confirm: str) -> None:
    """Raise :class:`Refused` where a database would be dropped that is no copy of ours, holds something, and nobody confirms.

    One that says of itself that it is production's is never dropped.
    """
    from mcp_planner_schema.guard import marker

    name = target.database or ""
    if not exists(connection, name):
        return
    engine = connect.engine(target, "mcp-planner staging")
    try:
        with connect.opened(engine) as there:
            said_by, holds = marker.read(there, given.schema), bool(execute(there, _ROWS).scalar_one())
    finally:
        engine.dispose()
    if said_by and said_by.name == "production":
        raise misplaced(
            target, "its own marker says that it is production's", "correct DATABASE_URL: name staging's database"
        )
    said = str(connection.exec_driver_sql(_SAID, (name,)).scalar() or "")
    if holds and not said.startswith(MARK) and confirm != name:
        raise misplaced(
            target,
            "it holds tables, and no run of this script has made it",
            f"CONFIRM={shlex.quote(name)} {AGAIN}   (if all that is in it may go)",
        )


def which(connection: Connection) -> tuple[str, str]:
    """Which database of which cluster a connection has reached."""
    cluster, name = execute(connection, _WHICH).one()
    connection.rollback()
    return cluster, name


def say_what_it_is(connection: Connection, name: str, told: str) -> None:
    """Write on a database that it is a copy, and what it was made of."""
    execute(connection, f"COMMENT ON DATABASE {identifier(name)} IS {literal(f'{MARK}: {told}')}")
