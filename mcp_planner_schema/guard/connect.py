"""Connections: one driver whatever the URL says, no password in any message, one sentence for each way to fail."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.findings import Broken, Busy, Finding, GuardError, Refused, WrongUse
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

DIRECT = "export DATABASE_URL=postgresql://…@<the server itself>/…, then repeat the command"
OLDEST = 14
"""The oldest major version of PostgreSQL that the guard works on."""

_NAMED = 'config.attributes["connection"]'
_EXAMPLE = f"{_NAMED} = create_engine('postgresql+psycopg2://…').connect()"
_POOLER = re.compile(r"unsupported startup parameter|pgbouncer", re.IGNORECASE)
# In force on every connection of ours from its first statement on, whatever role and database say. The lock timeout is
# for the guard's own small statements: a step sets its budgets itself, an autocommit_block() too.
_DEFAULTS = {
    "lock_timeout": "3s",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",  # the deployers' lock sits on an idle connection
    # A client whose host is gone lets go of the deployers' lock within a minute, not after two hours.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    # A role's default of another would read what was true before the locks. The space is escaped for libpq.
    "default_transaction_isolation": "read\\ committed",
}


def url(settings: Settings) -> URL:
    """The database to work on. Starts the embedded server where nothing names one. Raises :class:`WrongUse`."""
    from mcp_planner_schema.guard import address

    named = settings.url or _embedded(settings)
    try:
        made = address.parse(named)
    except ValueError:
        raise WrongUse(
            "DATABASE_URL is no database URL (it is not shown: it may hold a password).",
            "export DATABASE_URL=postgresql://user@host:5432/database",
        ) from None
    if made.get_backend_name() not in ("postgresql", "postgres"):
        raise WrongUse(
            f"DATABASE_URL names {made.get_backend_name()}; the guard works on PostgreSQL only.",
            "export DATABASE_URL=postgresql://user@host:5432/database",
        )
    return made.set(drivername="postgresql+psycopg2")


def _embedded(settings: Settings) -> str:
    if not settings.embedded:
        raise WrongUse(
            "No database is named: DATABASE_URL is not set, and alembic.ini has no sqlalchemy.url.",
            "export DATABASE_URL=postgresql://user@host:5432/database",
        )
    from pathlib import Path

    from mcp_planner_schema import embedded

    try:
        return embedded.start(Path(settings.embedded)).url()
    except embedded.EmbeddedError as error:
        raise Broken(str(error), "make db-status") from error


def engine(target: URL, application: str) -> Engine:
    """An engine without a pool: every connection is closed where it was opened.

    The session's own timeouts are set through libpq, so that those of the role or database are never in force. A
    transaction-pooling pgbouncer refuses that, and the guard refuses the pooler. ``application`` is its name whatever the URL
    says: by it the guard's sessions are told from an application's, from their first moment on.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    given = target.query.get("options", "")
    mine = " ".join(f"-c {name}={value}" for name, value in _DEFAULTS.items())
    options: dict[str, object] = {
        "application_name": application[:63],
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    if _several_hosts(target):
        options["target_session_attrs"] = "read-write"  # the primary, wherever it is now
    target = target.difference_update_query(["options", "application_name"])
    asked = {name: value for name, value in options.items() if name not in target.query}
    asked["options"] = f"{given if isinstance(given, str) else ' '.join(given)} {mine}".strip()
    return create_engine(
        target,
        poolclass=NullPool,
        connect_args=asked,
        hide_parameters=True,
    )


@contextmanager
def borrowed(given: Any) -> Iterator[Connection]:
    """The connection to work on behind what a caller has handed over, which may be an engine as well: pytest-alembic does that.

    A connection of the caller's stays open; one of his engine is closed at the end. An engine of another driver, an
    asynchronous one too, says where the database is, and the guard connects there as it always does.
    Raises :class:`WrongUse` for anything else.
    """
    from sqlalchemy import Connection, Engine

    from mcp_planner_schema.guard import address

    inner = getattr(given, "sync_engine", given)
    if isinstance(inner, Engine) and inner.dialect.name == "postgresql" and inner.dialect.driver != "psycopg2":
        inner = engine(address.for_libpq(inner.url).set(drivername="postgresql+psycopg2"), "mcp-planner-guard")
    if isinstance(given, Connection):
        yield given
    elif isinstance(inner, Engine):
        with opened(inner) as connection:
            yield connection
    elif hasattr(given, "connect"):  # a stand-in for an engine, which gives a connection that somebody holds
        with given.connect() as connection:
            yield connection
    else:
        raise WrongUse(f"{_NAMED} is {type(given).__name__}, not a SQLAlchemy Connection or Engine.", _EXAMPLE)


def beside(given: Connection) -> Engine:
    """:func:`own` for the engine behind a caller's connection.

    Raises :class:`WrongUse` for a connection that the guard cannot work on: another driver, or autocommit; :class:`Refused`
    for a server that is too old.
    """
    named, example = _NAMED, _EXAMPLE
    if given.dialect.name != "postgresql" or given.dialect.driver != "psycopg2":
        raise WrongUse(
            f"{named} uses {given.dialect.name}+{given.dialect.driver}; the guard needs postgresql+psycopg2.", example
        )
    if given.connection.dbapi_connection.autocommit:  # type: ignore[union-attr]
        raise WrongUse(f"{named} is in autocommit: no step of it could be rolled back.", example)
    version = given.connection.dbapi_connection.server_version  # type: ignore[union-attr]
    if version // 10000 < OLDEST:
        raise too_old(named, ".".join(map(str, divmod(version, 10000))), "repeat the call")
    return own(given.engine, "mcp-planner-guard")


def own(engine: Engine, application: str = "") -> Engine:
    """An engine for the guard's own statements: it connects like ``engine``, but has no pool, which may have one place.

    Its search_path holds nothing that somebody else may have put a function into, and its timeouts are the guard's; so is
    the name, where ``application`` gives one.
    """
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import NullPool

    settings = {**_DEFAULTS, "search_path": "pg_catalog"} | ({"application_name": application} if application else {})
    sql = "; ".join(f"SET {name} = '{value.replace(chr(92), '')}'" for name, value in settings.items())

    def prepare(dbapi: Any, _: object) -> None:
        with dbapi.cursor() as cursor:
            cursor.execute(sql)
        dbapi.commit()

    made = create_engine(engine.url, creator=engine.pool._creator, poolclass=NullPool, hide_parameters=True)
    event.listen(made, "connect", prepare)
    return made


def _several_hosts(target: URL) -> bool:
    named = target.query.get("host", "")
    return not isinstance(named, str) or "," in named or "," in (target.host or "")


@contextmanager
def opened(engine: Engine, *, autocommit: bool = False) -> Iterator[Connection]:
    """A connection, closed at the end. Raises a :class:`GuardError` of one sentence where there is none to be had.

    One that was lost is made anew, by SQLAlchemy, when it is used after ``rollback()``. ``autocommit`` holds for that one too.
    """
    from sqlalchemy import event
    from sqlalchemy.exc import OperationalError

    try:
        connection = engine.connect()
    except OperationalError as error:
        raise failure(error, engine.url) from None
    with connection:
        if autocommit:
            event.listen(connection, "begin", _without_transaction)
            connection.execution_options(isolation_level="AUTOCOMMIT")
        yield connection


def _without_transaction(connection: Connection) -> None:
    # SQLAlchemy sets the isolation level once, on the session that was there then. Of a session in its place a statement would
    # begin a transaction, and whatever builds an index CONCURRENTLY would wait for its end for ever.
    connection.connection.dbapi_connection.autocommit = True  # type: ignore[union-attr]


def masked(text: str, target: URL | None) -> str:
    """``text`` without the password, however it was written into it."""
    from urllib.parse import quote, quote_plus

    password = str(target.password) if target is not None and target.password else None
    if password:
        forms = {password, quote(password), quote(password, safe=""), quote_plus(password)}
        for form in sorted(forms, key=len, reverse=True):
            text = re.sub(re.escape(form), "***", text, flags=re.IGNORECASE)
    text = re.sub(r"(\b[a-z][\w+]*://[^:/@\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"\b((?:(?:ssl)?password|passwd|pwd)\s*=\s*)('[^']*'|[^\s&]+)", r"\1***", text, flags=re.IGNORECASE)


def psql(given: Settings, sql: str, environ: Mapping[str, str] = os.environ) -> str:
    """A command for people that runs a statement on the database. No password; psql knows no ``postgresql+psycopg2:``."""
    from mcp_planner_schema.guard import address

    if given.url is None:
        return f"echo {shlex.quote(sql)} | make db-shell"
    place = shlex.quote(_without_password(given.url))
    if environ.get("DATABASE_URL", "").strip() == given.url and address.is_for_libpq(given.url):
        scheme = given.url.partition(":")[0]
        place = '"postgresql:${DATABASE_URL#*:}"' if "+" in scheme else '"$DATABASE_URL"'
    return f"psql {place} -c {shlex.quote(sql)}"


def _without_password(text: str) -> str:
    from mcp_planner_schema.guard import address

    named = address.parse(text).difference_update_query(["password", "sslpassword"])
    return named._replace(drivername="postgresql", password=None).render_as_string()


def outside(error: BaseException, target: URL, repeat: str) -> GuardError:
    """What an error of the server means that met the guard between steps: a lost connection, a lock, a missing right."""
    said = masked(str(getattr(error, "orig", None) or error).strip(), target).split("\n")[0]
    if getattr(getattr(error, "orig", None), "pgcode", None) == "55P03":
        return Busy(f"Another session holds a lock that the guard needs, and did not let go of it: {said}", repeat)
    if getattr(error, "connection_invalidated", False):
        return Broken(
            f"The connection to the server was lost ({said}). What had not been committed is undone; finished steps stay.",
            repeat,
        )
    return Broken(f"PostgreSQL says: {said}", repeat)


def place(target: URL) -> str:
    """``host:port`` for people, also where the URL names a socket's folder."""
    return (
        f"{target.host or target.query.get('host', 'the local socket')}:{target.port or target.query.get('port', 5432)}"
    )


def too_old(where: str, version: str, repeat: str) -> Refused:
    """A server on which the guard cannot even connect as it does."""
    finding = Finding("server-too-old", where, "", {"version": version, "oldest": str(OLDEST)})
    return Refused([finding], f"use PostgreSQL {OLDEST} or newer, then {repeat}")


def _asked(target: URL, name: str, otherwise: str | None) -> str:
    """What libpq goes by: what the query says counts before what stands at its place in the URL."""
    asked = target.query.get(name)
    return (asked if isinstance(asked, str) else asked[-1] if asked else otherwise) or ""


def _createdb(target: URL, name: str) -> str:
    host, _, port = place(target).rpartition(":")
    user = _asked(target, "user", target.username)
    named = target.host or "host" in target.query
    parts = [*(["-h", host] if named else []), "-p", port, *(["-U", user] if user else []), name]
    return f"createdb {shlex.join(parts)}"


def failure(error: BaseException, target: URL) -> GuardError:
    """What a failed connection means, in one sentence, and what to type next."""
    original = getattr(error, "orig", None) or error
    told = str(original).strip()
    said = masked(told, target)
    where = place(target)
    user = _asked(target, "user", target.username) or "(the system user)"
    name = _asked(target, "dbname", target.database) or _asked(target, "user", target.username) or ""
    if _POOLER.search(told):
        return Refused(
            [Finding("pooled-connection", where, "", {"problem": said.splitlines()[-1]})],
            DIRECT,
        )
    # The server says so before it lets anybody in: a setting of ours came with 14.
    if any(f'unrecognized configuration parameter "{name}"' in told for name in _DEFAULTS):
        return too_old(where, f"older than {OLDEST}", "repeat the command")
    sentences = (
        (r"password authentication failed|no password supplied|authentication failed",
         f"PostgreSQL at {where} does not accept the password of user {user}.",
         "export DATABASE_URL with the right password, or put it into ~/.pgpass or .env"),
        (r"definition of service .* not found|service file .* not found",
         f"No service file has the service {target.query.get('service', 'that PGSERVICE names')}.",
         "export PGSERVICEFILE=…/pg_service.conf (or write it into .env), or correct the service in DATABASE_URL"),
        (r"no pg_hba\.conf entry", f"PostgreSQL at {where} lets nobody in as {user} from here (pg_hba.conf).",
         "ask the server's administrator for a pg_hba.conf entry, then repeat the command"),
        (r"permission denied for database", f"The role {user} may not connect to {name} at {where}.",
         f"GRANT CONNECT ON DATABASE {name} TO {user};   (in psql, as its owner), then repeat the command"),
        (r'database ".*" does not exist', f"There is no database {name} at {where}.",
         f"{_createdb(target, name)}, then repeat the command"),
        (r'role ".*" does not exist', f"There is no role {user} at {where}.", "correct the user in DATABASE_URL"),
        (r"could not translate host name|Name or service not known|nodename nor servname|Temporary failure in name",
         f"The host {target.host} is not known here.", "correct the host in DATABASE_URL"),
        (r"Connection refused|No such file or directory|could not connect to server",
         f"Nothing listens at {where}.",
         "start the server, or correct DATABASE_URL"),
        (r"timeout expired|timed out|No route to host|Network is unreachable",
         f"{where} does not answer.", "check host, port and firewall, then repeat the command"),
        (r"too many connections for (role|database)", f"The role {user}, or all of them in {name}, may have no more connections.",
         "close some, or ALTER ROLE … CONNECTION LIMIT …; (or DATABASE …), then repeat the command"),
        (r"too many (clients|connections)|remaining connection slots", f"PostgreSQL at {where} has no free connection.",
         "close some, or raise max_connections, then repeat the command"),
        (r"starting up|shutting down|in recovery mode", f"PostgreSQL at {where} is starting or stopping.",
         "wait a moment, then repeat the command"),
    )  # fmt: skip
    for pattern, sentence, command in sentences:
        if re.search(pattern, told):
            return Broken(sentence, command)
    return Broken(f"PostgreSQL at {where} cannot be reached: {said.splitlines()[0] if said else 'no reason given'}",
                  "correct DATABASE_URL, then repeat the command")  # fmt: skip
