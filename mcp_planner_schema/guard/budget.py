"""Budgets: how long a step may wait and work, said to the server at the start of its transaction."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.settings import Budgets

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Statements that wait for other sessions' snapshots by design. lock_timeout counts that wait too: it would kill them and
# leave an INVALID index behind.
_ONLINE = re.compile(r"\bCONCURRENTLY\b|\bVALIDATE\s+CONSTRAINT\b|^\s*(VACUUM|ANALYZE)\b", re.IGNORECASE)


def of_revision(settings: Budgets, own: Mapping[str, int]) -> Budgets:
    """The settings' budgets, with what the revision's own ``budgets`` says instead."""
    return dataclasses.replace(settings, **own)


def statements(budgets: Budgets) -> list[str]:
    """``SET LOCAL`` for each budget: gone at the end of the transaction, so nothing leaks into the next revision."""
    return [f"SET LOCAL {name} = '{value}ms'" for name, value in dataclasses.asdict(budgets).items()]


def apply(connection: Connection, budgets: Budgets) -> None:
    """Put the budgets in force for the running transaction. One round trip, no lock."""
    connection.exec_driver_sql("; ".join(statements(budgets)))


@contextmanager
def in_autocommit(connection: Connection, budgets: Budgets) -> Iterator[None]:
    """While inside, statements in ``autocommit_block()`` get a budget too: SET LOCAL has ended with its transaction.

    A blocking statement gets the step's lock and statement timeouts; one that is made to wait (CONCURRENTLY, VALIDATE)
    gets none. The session's defaults come back after each.
    """
    from sqlalchemy import event

    mine = connection.connection.dbapi_connection

    def before(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if cursor.connection is mine and conn.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            online = _ONLINE.search(statement) is not None
            cursor.execute(
                f"SET lock_timeout = '{0 if online else budgets.lock_timeout}ms'; "
                f"SET statement_timeout = '{0 if online else budgets.statement_timeout}ms'"
            )

    # The event is the engine's: autocommit_block() works on a copy of the connection that does not know this one's events.
    engine = connection.engine
    event.listen(engine, "before_cursor_execute", before)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", before)
        if not connection.closed and not connection.invalidated:
            # Outside a transaction SET is kept; inside one that is rolled back there was none to undo.
            connection.exec_driver_sql("SET lock_timeout = 0; SET statement_timeout = 0")
            connection.commit()
