"""Budgets: how long a step may wait and work, said to the server at the start of its transaction."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import brief
from mcp_planner_schema.guard.settings import Budgets

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Statements that block nobody while they wait: for other sessions' snapshots, or for a lock that readers and writers do
# not need. lock_timeout counts that wait too: it would kill them and leave an INVALID index behind. DETACH PARTITION …
# CONCURRENTLY is none of them: it ends with a lock that stops readers.
_ONLINE = re.compile(
    r"(CREATE\s+(UNIQUE\s+)?INDEX\s+CONCURRENTLY\b|DROP\s+INDEX\s+CONCURRENTLY\b"
    r"|REINDEX\s*(\([^)]*\))?\s*(INDEX|TABLE|SCHEMA|DATABASE)\s+CONCURRENTLY\b|REINDEX\s*\([^)]*\bCONCURRENTLY\b(?!\s+(OFF|FALSE|0))"
    r"|REFRESH\s+MATERIALIZED\s+VIEW\s+CONCURRENTLY\b"
    r"|ALTER\s+TABLE\s+[^,]*?\bVALIDATE\s+CONSTRAINT\s+[^,\s]+\s*$|ANALYZE\b|VACUUM\b(?!\s*\(?[^)]*\bFULL\b))",
    re.IGNORECASE,
)
_SERVERS = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
_NOT_CODE = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)


def of_revision(settings: Budgets, own: Mapping[str, int]) -> Budgets:
    """The settings' budgets, with what the revision's own ``budgets`` says instead."""
    return dataclasses.replace(settings, **own)


def statements(budgets: Budgets) -> list[str]:
    """``SET LOCAL`` for each budget the server knows: gone with the transaction, so nothing leaks into the next revision."""
    return [f"SET LOCAL {name} = '{getattr(budgets, name)}ms'" for name in _SERVERS]


def online(statement: str) -> bool:
    """Whether a statement may wait for long without anybody waiting behind it. Comments and literals do not count."""
    code = _NOT_CODE.sub(" ", statement).strip().rstrip("; \n\t")
    return ";" not in code and _ONLINE.match(code) is not None


def apply(connection: Connection, budgets: Budgets) -> None:
    """Put the budgets in force for the running transaction. One round trip, no lock."""
    connection.exec_driver_sql("; ".join(statements(budgets)))


@contextmanager
def in_autocommit(connection: Connection, budgets: Budgets, own: Mapping[str, int]) -> Iterator[None]:
    """While inside, statements in ``autocommit_block()`` get a budget too: SET LOCAL has ended with its transaction.

    A blocking statement gets the step's lock and statement timeouts, or the limits that :mod:`.brief` was told; an
    online one no lock timeout, and ``online_timeout`` or the statement timeout that the revision's ``own`` budgets name. What
    was set is in force until the session is restored, before the next step.
    """
    from sqlalchemy import event

    mine = connection.connection.dbapi_connection

    def before(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if cursor.connection is mine and mine is not None and mine.autocommit:
            if online(statement):
                lock, whole = 0, own.get("statement_timeout", budgets.online_timeout)
            elif brief.LIMITS in conn.info:
                lock, whole = conn.info[brief.LIMITS]
            else:
                lock, whole = budgets.lock_timeout, budgets.statement_timeout
            cursor.execute(f"SET lock_timeout = '{lock}ms'; SET statement_timeout = '{whole}ms'")

    # The event is the engine's: autocommit_block() works on a copy of the connection that does not know this one's events.
    engine = connection.engine
    event.listen(engine, "before_cursor_execute", before)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", before)
