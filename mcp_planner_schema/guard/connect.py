"""Connections: one driver whatever the URL says, no password in any message, one sentence for each way to fail."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.findings import Broken, Finding, GuardError, Refused, WrongUse
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

_POOLER = re.compile(r"unsupported startup parameter|pgbouncer", re.IGNORECASE)


def url(settings: Settings) -> URL:
    """The database to work on. Starts the embedded server where nothing names one. Raises :class:`WrongUse`."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    named = settings.url or _embedded(settings)
    try:
        made = make_url(named)
    except (ArgumentError, ValueError):
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


def engine(target: URL, application: str, *, defaults: bool = True) -> Engine:
    """An engine without a pool: every connection is closed where it was opened.

    With ``defaults`` the session's own timeouts are set through libpq, so that those of the role or database are not in
    force where a step's are not (inside ``autocommit_block()``, where an online statement may have to wait for long). A
    transaction-pooling pgbouncer refuses that, and the guard refuses the pooler.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    options: dict[str, object] = {
        "application_name": application[:63],
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    if defaults:
        given = target.query.get("options", "")
        mine = "-c lock_timeout=0 -c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
        options["options"] = f"{given if isinstance(given, str) else ' '.join(given)} {mine}".strip()
        target = target.difference_update_query(["options"])
    asked = {name: value for name, value in options.items() if name not in target.query}
    return create_engine(target, poolclass=NullPool, connect_args=asked, hide_parameters=True)


def masked(text: str, target: URL | None) -> str:
    """``text`` without the password, however it was written into it."""
    from urllib.parse import quote, quote_plus

    password = target.password if target is not None else None
    if password:
        for form in {str(password), quote(str(password), safe=""), quote_plus(str(password))}:
            text = text.replace(form, "***")
    return re.sub(r"(postgres(?:ql)?(?:\+\w+)?://[^:/@\s]*):[^@/\s]*@", r"\1:***@", text)


def failure(error: BaseException, target: URL) -> GuardError:
    """What a failed connection means, in one sentence, and what to type next."""
    original = getattr(error, "orig", None) or error
    said = masked(str(original).strip(), target)
    where = (
        f"{target.host or target.query.get('host', 'the local socket')}:{target.port or target.query.get('port', 5432)}"
    )
    name, user = target.database or target.username or "", target.username or "(the system user)"
    if _POOLER.search(said):
        return Refused(
            [Finding("pooled-connection", where, "", {"problem": said.splitlines()[-1]})],
            "export DATABASE_URL=postgresql://…@<the server itself>/…",
        )
    sentences = (
        (r"password authentication failed|no password supplied|authentication failed",
         f"PostgreSQL at {where} does not accept the password of user {user}.",
         "export DATABASE_URL with the right password, or put it into ~/.pgpass"),
        (r"no pg_hba\.conf entry", f"PostgreSQL at {where} lets nobody in as {user} from here (pg_hba.conf).",
         "ask the server's administrator for a pg_hba.conf entry, then repeat the command"),
        (r'database ".*" does not exist', f"There is no database {name} at {where}.",
         f"createdb -h {target.host or 'localhost'} {name}, then repeat the command"),
        (r'role ".*" does not exist', f"There is no role {user} at {where}.", "correct the user in DATABASE_URL"),
        (r"could not translate host name|Name or service not known|nodename nor servname|Temporary failure in name",
         f"The host {target.host} is not known here.", "correct the host in DATABASE_URL"),
        (r"Connection refused|No such file or directory|could not connect to server",
         f"Nothing listens at {where}.",
         "start the server, or correct DATABASE_URL; make db-start for the embedded one"),
        (r"timeout expired|timed out|No route to host|Network is unreachable",
         f"{where} does not answer within 10 s.", "check host, port and firewall, then repeat the command"),
        (r"too many (clients|connections)|remaining connection slots", f"PostgreSQL at {where} has no free connection.",
         "close some, or raise max_connections, then repeat the command"),
        (r"starting up|shutting down|in recovery mode", f"PostgreSQL at {where} is starting or stopping.",
         "wait a moment, then repeat the command"),
    )  # fmt: skip
    for pattern, sentence, command in sentences:
        if re.search(pattern, said):
            return Broken(sentence, command)
    return Broken(f"PostgreSQL at {where} cannot be reached: {said.splitlines()[0] if said else 'no reason given'}",
                  "correct DATABASE_URL, then repeat the command")  # fmt: skip
