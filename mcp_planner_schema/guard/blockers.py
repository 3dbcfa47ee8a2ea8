"""Who is in the way: found before a step needs its locks, and ended where somebody has named them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import evidence
from mcp_planner_schema.guard.findings import WrongUse

if TYPE_CHECKING:
    from sqlalchemy import Connection

_LONG = 1.0
"""Seconds in a transaction from which on a session is told of: what is over within the ladder's first burst is nobody's news."""

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
# The application's name is compared again here: since it was seen in the way, the process may have become another's.
_END = """
SELECT a.pid, a.state, CASE WHEN a.state LIKE 'idle in transaction%%' THEN pg_catalog.pg_terminate_backend(a.pid)
                            ELSE pg_catalog.pg_cancel_backend(a.pid) END
FROM pg_catalog.pg_stat_activity a
WHERE a.pid = ANY (%(pids)s::int4[]) AND a.application_name = %(named)s AND a.datname = pg_catalog.current_database()
  AND a.backend_type = 'client backend' AND a.pid <> pg_catalog.pg_backend_pid() AND a.state <> 'idle'
"""


def beforehand(
    connection: Connection, schema: str, wanted: str | frozenset[str] | set[str], ours: Iterable[int]
) -> list[str]:
    """One line for each session that has held a table for long that a step is about to need. Reads catalogs only.

    ``wanted`` are the tables (``schema.name``), or a text that names them: a revision's source. ``ours`` are the run's own
    processes.
    """
    asked = {"own": evidence.own(schema), "ours": list(ours), "long": _LONG}
    lines = []
    for space, name, pid, application, user, state, age, mode, vacuum in connection.exec_driver_sql(_HOLDERS, asked):
        if not _named(space, name, wanted):
            continue
        table = name if space == "public" else f"{space}.{name}"
        who = (
            f"pid {pid} ({application or 'no name'}, user {user or 'unknown'}, {state}, in its transaction for {age} s)"
        )
        if vacuum:
            who = f"pid {pid}, a vacuum that prevents wraparound and is not to be cancelled, at work for {age} s,"
        elif application.startswith("pg_dump"):
            who = f"pid {pid} (a backup by {application}, user {user or 'unknown'}, for {age} s)"
        lines.append(f"{table} is in use: {who} holds {mode}")
    return lines


def _named(schema: str, name: str, wanted: str | frozenset[str] | set[str]) -> bool:
    if not isinstance(wanted, str):
        return f"{schema}.{name}" in wanted
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", wanted) is not None


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


def end(connection: Connection, pids: Iterable[int], named: str) -> list[str]:
    """End what the named application's sessions among ``pids`` do; one line for each. Needs pg_signal_backend, or their role.

    A running statement is cancelled, which ends its transaction; one that sits idle in a transaction has nothing to cancel,
    and its session is ended.
    """
    rows = connection.exec_driver_sql(_END, {"pids": list(pids), "named": named}).all()
    return [
        f"cancel_blockers: pid {pid} ({named}, {state}) " + ("was ended" if done else "could not be ended")
        for pid, state, done in rows
    ]
