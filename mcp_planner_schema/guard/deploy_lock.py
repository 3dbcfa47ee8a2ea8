"""One deployer at a time: a session advisory lock, asked for again and again on a connection of its own.

Never ``pg_advisory_lock()``: a session that waits inside it holds a snapshot, CREATE INDEX CONCURRENTLY in the lock's
holder waits for that snapshot, and the two wait for each other. Polled in autocommit, the waiting session is idle.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import connect
from mcp_planner_schema.guard.findings import Broken, Busy

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_HOLDER = """
SELECT a.pid, coalesce(a.application_name, ''), a.usename::text,
       CASE WHEN a.backend_start IS NULL THEN 'unknown' ELSE coalesce(pg_catalog.host(a.client_addr), 'local') END,
       coalesce(pg_catalog.date_trunc('second'::text, a.backend_start)::text, 'unknown')
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
  AND (l.classid::bigint << 32 | l.objid::bigint) = %(key)s::int8
"""


def key(version_table: str, version_table_schema: str | None) -> int:
    """The lock's number: a signed 64-bit hash of the version table's name. The server adds the database itself."""
    name = f"mcp_planner_schema.guard:{version_table_schema or ''}.{version_table}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


@contextmanager
def held(
    engine: Engine, number: int, wait: int, say: Callable[[str], None], repeat: str
) -> Iterator[Callable[[], None]]:
    """Hold the lock; yields a function that raises :class:`Broken` if it was lost meanwhile.

    Waits up to ``wait`` milliseconds, telling who holds it, then raises :class:`Busy`. Opens one connection in autocommit
    and closes it at the end, which releases the lock however the run ended.
    """
    with connect.opened(engine, autocommit=True) as connection:
        _acquire(connection, number, wait, say, repeat)
        yield lambda: _still_held(connection, number)


def _acquire(connection: Connection, number: int, wait: int, say: Callable[[str], None], repeat: str) -> None:
    end = time.monotonic() + wait / 1000
    pause, told = 0.05, ""
    while True:
        if connection.exec_driver_sql(
            "SELECT pg_catalog.pg_try_advisory_lock(%(key)s::int8)", {"key": number}
        ).scalar_one():
            return
        holder = _holder(connection, number)
        if holder != told:
            say(f"waiting: another migration runs: {holder}")
            told = holder
        if time.monotonic() >= end:
            raise Busy(f"Another migration still runs after {wait / 1000:g} s: {holder}. Nothing was changed.", repeat)
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)


def _holder(connection: Connection, number: int) -> str:
    row = connection.exec_driver_sql(_HOLDER, {"key": number}).first()
    if row is None:
        return "it is just ending"
    return f"pid {row[0]}, {row[1]}, user {row[2]}, from {row[3]}, since {row[4]}"


def _still_held(connection: Connection, number: int) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        mine = connection.exec_driver_sql(_HOLDER + " AND l.pid = pg_catalog.pg_backend_pid()", {"key": number}).first()
    except SQLAlchemyError:  # also the second question to a connection that is gone
        mine = None
    if mine is None:
        raise Broken(
            "The deployers' lock was lost (its connection was cut). Another run may have begun, so this one stops here; "
            "the finished steps stay.",
            "alembic current   (then repeat the command)",
        )
