"""Who is at work: sessions that hold what the run needs, a dump, a vacuum against wraparound, transactions that do not end.

Who holds a table is asked where the runner asks it before each step too, see :mod:`..blockers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import blockers, lock_order
from mcp_planner_schema.guard.findings_preflight import TELLS
from mcp_planner_schema.guard.preflight.asked import Found, Here, Question, found, span

if TYPE_CHECKING:
    from sqlalchemy import Connection

# A session of another role has no xact_start for who may not see it, and is left out. One second is what a holder of a table
# is told from, see blockers.
_THERE = """
EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(NULL) a
        WHERE a.xact_start < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => 1)
          AND a.pid <> ALL (%(ours)s::int4[]) AND a.pid <> pg_catalog.pg_backend_pid())
"""
_LONG = """
SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
    a.pid, coalesce(a.application_name, ''), coalesce(a.usename::text, ''), a.state,
    extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8) ORDER BY a.xact_start)
FROM pg_catalog.pg_stat_activity a
WHERE a.datname = pg_catalog.current_database() AND a.backend_type = 'client backend'
  AND a.pid <> ALL (%(ours)s::int4[]) AND a.pid <> pg_catalog.pg_backend_pid()
  AND a.xact_start < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(long)s)
"""
_PREPARED = """
SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
    pg_catalog.quote_literal(p.gid), p.owner, extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::float8,
    ARRAY(SELECT DISTINCT l.relation::regclass::text FROM pg_catalog.pg_locks own
          JOIN pg_catalog.pg_locks l USING (virtualtransaction) JOIN pg_catalog.pg_class c ON c.oid = l.relation
          WHERE own.pid IS NULL AND own.transactionid = p.transaction AND l.locktype = 'relation'
            AND c.relkind IN ('r', 'p') ORDER BY 1)) ORDER BY p.prepared)
FROM pg_catalog.pg_prepared_xacts p
WHERE p.database = pg_catalog.current_database()
  AND p.prepared < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(long)s)
"""


def ask(connection: Connection, here: Here) -> Iterator[Found]:
    """A finding for each session that holds a table which the pending revisions lock: long, or what will hold it for long.

    Where nobody has traced the revision, the tables that its text names: then it is told, and refuses nothing. Nor does one
    that holds it for less than ``preflight_transaction``.
    """
    wanted = {
        f"{name.schema}.{name.name}"
        for step in here.steps
        for name, mode in step.locks.items()
        if mode in lock_order.STRONG.values()
    }
    named = "\n".join(step.text for step in here.steps if not step.traced)
    limit = here.settings.preflight.transaction / 1000
    told = set()
    for one in blockers.holders(connection, here.settings.schema, here.ours):
        sure = one.held_of(wanted)
        if not (sure or one.held_of(named)) or (one.pid, one.table) in told:
            continue
        told.add((one.pid, one.table))
        code = "vacuum-running" if one.vacuum else "backup-running" if one.dump else "table-in-use"
        # One that is young may end by itself before its step comes; whoever reads this knows whose it is.
        lasts = code != "table-in-use" or one.age >= limit
        yield found(code, one.table, only="" if sure and lasts else TELLS, line=one.line())


def _long(told: Any, here: Here) -> Iterator[Found]:
    for pid, application, user, state, age in told:
        who = f"pid {pid} ({application or 'no name'}, user {user or 'unknown'}, {state})"
        yield found("transaction-long", f"pid {pid}", who=who, age=span(age), pid=pid)


def _prepared(told: Any, here: Here) -> Iterator[Found]:
    for name, owner, age, tables in told:
        holds = f" and holds {', '.join(tables)}" if tables else ""
        yield found(
            "transaction-prepared", name, name=name, owner=owner, age=span(age), tables=holds,
        )  # fmt: skip


LONG = Question(
    "sessions",
    ("transaction-long", "table-in-use", "backup-running", "vacuum-running"),
    lambda here: _LONG,
    _long,
    _THERE,
)
QUESTIONS = (
    LONG,
    Question(
        "prepared transactions", ("transaction-prepared",), lambda here: _PREPARED, _prepared,
        "EXISTS (SELECT FROM pg_catalog.pg_prepared_xact())",
    ),
)  # fmt: skip
