"""What became of a step's transaction: which statements are final, whether the body has ended it, what broke it first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection

# The last two are the guard's own: what it has the session plan, and what postcheck.pinned() sends, settings for the time being.
_CHANGES_NOTHING = re.compile(
    r"\s*((SELECT|SHOW|SET|RESET|COMMIT|ROLLBACK|END|ABORT|BEGIN|START)\b"
    r"|(PREPARE|EXECUTE) mcp_planner_guard_\w+|WITH before AS MATERIALIZED \(SELECT pg_catalog\.current_setting)",
    re.IGNORECASE,
)


OWN = "mcp_planner_guard.own"
"""Stands in ``connection.info`` while the guard's own statements run among the body's."""

ELSEWHERE = "mcp_planner_guard.elsewhere"
"""Stands in ``connection.info`` with the tables, by OID, that an operation of the body fills over other connections."""


class Ended(Exception):
    """The revision's body ended the step's transaction itself; what follows would be final statement by statement."""


@dataclass
class Seen:
    """One attempt's transaction. ``final`` and ``pending`` are statements; ``cause`` is the last error that was no echo."""

    xid: str = ""
    final: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    cause: BaseException | None = None


@contextmanager
def observed(connection: Connection, seen: Seen) -> Iterator[None]:
    """While inside, the statements on ``connection`` are noted. Sends none of its own.

    Raises :class:`Ended` right after a raw COMMIT or ROLLBACK: psycopg2 believes to be in a transaction still, sends no
    BEGIN, and each later statement would commit by itself.
    """
    from psycopg2.extensions import TRANSACTION_STATUS_IDLE
    from sqlalchemy import event

    mine: Any = connection.connection.dbapi_connection

    def after(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if cursor.connection is not mine or OWN in conn.info:
            return
        if not _CHANGES_NOTHING.match(statement):
            (seen.final if mine.autocommit else seen.pending).append(" ".join(statement.split()))
        if not mine.autocommit and mine.info.transaction_status == TRANSACTION_STATUS_IDLE:
            raise Ended(" ".join(statement.split())[:80])

    def failed(context: Any) -> None:
        # In a broken transaction every statement fails with 25P02; the error before it is the one to tell.
        ours = context.connection is not None and context.connection.connection.dbapi_connection is mine
        if ours and getattr(context.original_exception, "pgcode", None) not in (None, "25P02"):
            seen.cause = context.original_exception

    def committed(conn: Any) -> None:
        if not conn.invalidated and conn.connection.dbapi_connection is mine:
            seen.final += seen.pending
            seen.pending.clear()

    def rolled_back(conn: Any) -> None:
        if not conn.invalidated and conn.connection.dbapi_connection is mine:
            seen.pending.clear()

    # The engine's events: autocommit_block() changes the connection they would otherwise hang on.
    engine = connection.engine
    listeners = (
        ("after_cursor_execute", after), ("handle_error", failed), ("commit", committed), ("rollback", rolled_back),
    )  # fmt: skip
    for name, listener in listeners:
        event.listen(engine, name, listener)
    try:
        yield
    finally:
        for name, listener in listeners:
            event.remove(engine, name, listener)


def finish(connection: Connection) -> None:
    """Roll back what is left of a transaction that SQLAlchemy takes for ended: a ROLLBACK that the watcher has cancelled ends
    none, and every statement of the next try would fail in it. Nothing may cancel any more."""
    from psycopg2.extensions import TRANSACTION_STATUS_IDLE

    if connection.invalidated or connection.closed:
        return
    driver: Any = connection.connection.dbapi_connection
    if not driver.closed and driver.info.transaction_status != TRANSACTION_STATUS_IDLE:
        driver.rollback()
