"""Who is in the way: found before a step needs its locks, and ended where somebody has named them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import evidence
from mcp_planner_schema.guard.findings import WrongUse

if TYPE_CHECKING:
    from sqlalchemy import Connection

_LONG = 1.0
"""Seconds in a transaction from which on a session is told of: what is over within the ladder's first burst is nobody's news."""

_LEFT = ("mcp-planner-guard", "pg_dump")
"""Whom nobody is told to end: the guard's own, and a backup."""

# Everybody who holds a table for long. A vacuum against wraparound lets nobody pass, while an ordinary one gives way by itself;
# a replica's standby query shows here by no session at all. What a role may not see of others is null and left out.
_HOLDERS = """
SELECT n.nspname::text, c.relname::text, a.pid, coalesce(a.application_name, ''), coalesce(a.usename::text, ''),
       coalesce(a.state, a.backend_type), extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::bigint, l.mode,
       a.backend_type = 'autovacuum worker'
FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_class c ON c.oid = l.relation
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.granted AND l.locktype = 'relation' AND c.relkind IN ('r', 'p', 'm') AND left(n.nspname, 3) <> 'pg_'
  AND n.nspname <> 'information_schema' AND n.nspname !~ %(own)s
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
  AND a.pid <> ALL (%(ours)s::int4[])
  AND a.xact_start < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(long)s)
  AND (a.backend_type = 'client backend'
       OR a.backend_type = 'autovacuum worker' AND pg_catalog.strpos(a.query, 'to prevent wraparound') > 0)
ORDER BY a.xact_start, 1, 2, l.mode
"""
# The application's name is compared again here: since it was seen in the way, the process may have become another's. What it
# does in a transaction that is younger than that was in nobody's way. State and time of another role's session are null to who
# may not see them.
_NAMED = """
FROM pg_catalog.pg_stat_activity a
WHERE a.pid = ANY (%(pids)s::int4[]) AND a.application_name = %(named)s AND a.datname = pg_catalog.current_database()
  AND coalesce(a.backend_type, 'client backend') = 'client backend' AND a.pid <> pg_catalog.pg_backend_pid()
  AND a.state IS DISTINCT FROM 'idle' AND coalesce(a.xact_start <= %(seen)s::timestamptz, true)
"""
_STATES = "SELECT a.pid, a.state" + _NAMED
_END = (
    """
SELECT CASE WHEN a.state LIKE 'idle in transaction%%' THEN pg_catalog.pg_terminate_backend(a.pid)
            WHEN a.state IS NOT NULL THEN pg_catalog.pg_cancel_backend(a.pid) END
"""
    + _NAMED
)


@dataclass(frozen=True)
class Holder:
    """A session that holds a table, in a mode that pg_locks names. ``age`` is how many seconds it is in its transaction."""

    schema: str
    name: str
    pid: int
    application: str
    user: str
    state: str
    age: int
    mode: str
    vacuum: bool

    @property
    def table(self) -> str:
        """The table as people write it."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"

    @property
    def dump(self) -> bool:
        """Whether it is a backup, which holds every table until it is done."""
        return self.application.startswith("pg_dump")

    def held_of(self, wanted: str | frozenset[str] | set[str]) -> bool:
        """Whether its table is one of these (``schema.name``), or named in a text."""
        if not isinstance(wanted, str):
            return f"{self.schema}.{self.name}" in wanted
        return re.search(rf"(?<!\w){re.escape(self.name)}(?!\w)", wanted) is not None

    def line(self) -> str:
        """For people."""
        who = (
            f"pid {self.pid} ({self.application or 'no name'}, user {self.user or 'unknown'}, {self.state}, "
            f"in its transaction for {self.age} s)"
        )
        if self.vacuum:
            who = f"pid {self.pid}, a vacuum that prevents wraparound and is not to be cancelled, at work for {self.age} s,"
        elif self.dump:
            who = f"pid {self.pid} (a backup by {self.application}, user {self.user or 'unknown'}, for {self.age} s)"
        return f"{self.table} is in use: {who} holds {self.mode}"


def holders(connection: Connection, schema: str, ours: Iterable[int]) -> list[Holder]:
    """Who has held a table for longer than a moment, the oldest first. Reads catalogs only; ``ours`` are the run's own."""
    asked = {"own": evidence.own(schema), "ours": list(ours), "long": _LONG}
    return [Holder(*row) for row in connection.exec_driver_sql(_HOLDERS, asked)]


def beforehand(
    connection: Connection, schema: str, wanted: str | frozenset[str] | set[str], ours: Iterable[int]
) -> list[str]:
    """One line for each session that has held a table for long that a step is about to need. Reads catalogs only.

    ``wanted`` are the tables (``schema.name``), or a text that names them: a revision's source. ``ours`` are the run's own
    processes.
    """
    return [one.line() for one in holders(connection, schema, ours) if one.held_of(wanted)]


def application(asked: str | None) -> str | None:
    """The application whose sessions may be ended, of ``-x cancel_blockers=app=NAME``. Raises :class:`WrongUse`."""
    if asked is None:
        return None
    kind, _, name = asked.partition("=")
    if kind != "app" or not name.strip() or name.startswith("mcp-planner-guard"):
        raise WrongUse(
            f"cancel_blockers={asked} names no application: nobody is ended who was not named.",
            "alembic -x cancel_blockers=app=NAME upgrade head   (the application_name that the waiting line shows)",
        )
    return name.strip()


def offered(repeat: str, applications: Iterable[str]) -> str:
    """The same command, allowed to end what an application does that is in the way; empty where none has a name, or is allowed
    to be ended already."""
    named = next((one for one in applications if one and "$" not in one and not one.startswith(_LEFT)), "")
    asked = shlex.quote(f"app={named}")
    if not named or "cancel_blockers" in repeat.lower():
        return ""
    if repeat.startswith("alembic "):
        return repeat.replace("alembic ", f"alembic -x cancel_blockers={asked} ", 1)
    return f"CANCEL_BLOCKERS={asked} {repeat}" if repeat.startswith("make ") else ""


def told(repeat: str, applications: Iterable[str], before: str) -> str:
    """That in a sentence behind others, after ``before``; empty where there is nothing to offer."""
    command = offered(repeat, applications)
    return f"{before}{command} ends what it does there" if command else ""


def end(connection: Connection, pids: Iterable[int], named: str, seen: Any) -> list[str]:
    """End what the named application's sessions among ``pids`` do; one line for each. ``seen`` is when they were in the way.

    A running statement is cancelled, which ends its transaction; one that sits idle in a transaction has nothing to cancel,
    and its session is ended. Another role's needs pg_signal_backend, and pg_read_all_stats to know which of the two it is.
    """
    asked = {"pids": list(pids), "named": named, "seen": seen}
    lines = []
    for pid, state in connection.exec_driver_sql(_STATES, asked).all():
        done = ended(connection, _END, asked | {"pids": [pid]})
        told = "was ended" if done else "could not be ended" if state else (
            "could not be ended: the deploying role is a member of neither its role nor pg_read_all_stats"
        )  # fmt: skip
        lines.append(f"cancel_blockers: pid {pid} ({named}, {state or 'state unknown'}) {told}")
    return lines


def ended(connection: Connection, sql: str, values: Mapping[str, Any]) -> bool:
    """Whether a statement that ends a session has done so. The server raises an error where the role may not."""
    from sqlalchemy.exc import DBAPIError

    try:
        return connection.exec_driver_sql(sql, dict(values)).scalar() is True
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) != "42501":  # insufficient_privilege
            raise
        return False
