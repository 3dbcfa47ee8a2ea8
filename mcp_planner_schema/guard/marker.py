"""Which environment a database belongs to, written into the database itself: the newest row of ``environment``.

``PLANNER_ENV`` says what whoever types a command believes, the marker what is so. They differ behind a tunnel, with a wrong
URL, and where a dump of another database was restored: it brings its marker along. What changes a database is refused then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import environments
from mcp_planner_schema.guard.evidence import own
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, pinned

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from mcp_planner_schema.guard.history import Origin
    from mcp_planner_schema.guard.settings import Settings

TABLES = """
CREATE TABLE IF NOT EXISTS {schema}.environment (
    number       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL CHECK (name IN ('development', 'staging', 'production')),
    id           uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    since        timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    who          text NOT NULL,
    host         text NOT NULL,
    reason       text
);
COMMENT ON TABLE {schema}.environment IS
'Which environment this database belongs to: the newest row counts. A dump that is restored elsewhere brings it along';
COMMENT ON COLUMN {schema}.environment.id IS 'Of this database; its copy has the same until make environment-set is run there';
"""
# No to_regclass(): it fails where the role may not look into the schema, and then there is nothing to compare. A view, a rule
# or a policy would run its maker's code with the rights of whoever asks.
_READABLE = """
SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind = 'r' AND NOT c.relhasrules AND NOT c.relrowsecurity
  AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
"""
_NEWEST = """
SELECT name, id::text, pg_catalog.date_trunc('second'::text, since)::text, who
FROM {schema}.environment ORDER BY number DESC LIMIT 1
"""
# That somebody has rows in it, by what is counted: to ask a table for its size waits for whoever has locked it. Tables of the
# guard's own, and of schemas that nobody has made, say nothing.
_USED = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND left(n.nspname, 3) <> 'pg_'
                 AND n.nspname <> 'information_schema' AND n.nspname !~ %(own)s
                 AND (c.relpages > 0 OR pg_catalog.pg_stat_get_live_tuples(c.oid) > 0)),
       EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = %(schema)s AND c.relname = 'environment'
                 AND NOT (pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                          AND pg_catalog.has_table_privilege(c.oid, 'SELECT')))
"""
_PRODUCTION = """
SELECT EXISTS (SELECT FROM {schema}.event WHERE kind = 'run-started' AND data ->> 'environment' = 'production')
"""
_WRITE = "INSERT INTO {schema}.environment (name, who, host, reason) VALUES (%s, %s, %s, %s)"


@dataclass(frozen=True)
class Marker:
    """The newest row."""

    name: str
    id: str
    since: str
    who: str


def read(connection: Connection, schema: str) -> Marker | None:
    """What the database says of itself; None where it says nothing, or not to this role. Ends no transaction."""
    if not _readable(connection, schema, "environment"):
        return None
    row = connection.exec_driver_sql(_NEWEST.format(schema=schema)).first()
    return Marker(*row) if row else None


def differing(connection: Connection, settings: Settings, where: str) -> Finding | None:
    """The finding where the database says that it is another environment's, or says nothing and should: :func:`_unsaid`."""
    with pinned(connection, search_path=SYSTEM_PATH):
        found = read(connection, settings.schema)
        why = "" if found or settings.rules.confirms else _unsaid(connection, settings)
    if found is None:
        values = {"why": why, "environment": settings.environment}
        return Finding("environment-unsaid", where, "", values) if why else None
    if found.name == settings.environment:
        return None
    told = (
        f"PLANNER_ENV says {settings.environment}"
        if settings.said
        else f"nobody has said PLANNER_ENV, and {settings.why}"
    )
    values = {
        "marked": found.name, "since": found.since, "who": found.who, "environment": settings.environment, "told": told,
    }  # fmt: skip
    return Finding("environment-differs", where, "", values)


def _unsaid(connection: Connection, settings: Settings) -> str:
    """Why a database that says nothing cannot be taken for a harmless one; empty where it can.

    A developer's own server, and a database without rows, is taken for what is said. A role that may not read what is said
    is not asked for more.
    """
    used, hidden = connection.exec_driver_sql(_USED, {"own": own(settings.schema), "schema": settings.schema}).one()
    if hidden:
        return ""
    events = _readable(connection, settings.schema, "event")
    if events and connection.exec_driver_sql(_PRODUCTION.format(schema=settings.schema)).scalar_one():
        return "and runs in production are written down in it"
    host = connection.connection.dbapi_connection.info.host or ""  # type: ignore[union-attr]  # it is connected
    if used and settings.rules.resets and not environments.is_local(host):
        return f"it holds rows, and {host} is not this machine"
    return ""


def _readable(connection: Connection, schema: str, table: str) -> bool:
    return connection.exec_driver_sql(_READABLE, (schema, table)).first() is not None


def require(connection: Connection, settings: Settings, where: str) -> None:
    """Raise :class:`Refused` where the database says that it is another environment's, or does not say what it has to."""
    found = differing(connection, settings, where)
    if found:
        raise Refused([found], "make config   (which database and which environment this is, and who says so)")


def keep(beside: Connection, settings: Settings, who: Origin, say: Callable[[str], None]) -> None:
    """Write the marker where there is none yet, and tell it.

    Only what somebody has said, or what the careful guess takes for production: a server that merely looks like one of this
    machine is marked as nothing.
    """
    if (settings.said or settings.rules.confirms) and read(beside, settings.schema) is None:
        declare(beside, settings.schema, settings.environment, who)
        if settings.rules.marks:
            say(f"marked: this database is {settings.environment} from now on (table {settings.schema}.environment)")


def declare(connection: Connection, schema: str, name: str, who: Origin, reason: str | None = None) -> None:
    """Write that the database belongs to this environment from now on, with an id of its own."""
    connection.exec_driver_sql(_WRITE.format(schema=schema), (name, who.who, who.host, reason))
