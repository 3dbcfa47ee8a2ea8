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
from mcp_planner_schema.guard.postcheck import identifier

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

# Without a schema Alembic means the table that the session's search_path finds, and makes it where that begins.
_FOUND_IN = """
SELECT coalesce((SELECT n.nspname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.oid = pg_catalog.to_regclass(%(name)s)::pg_catalog.oid), current_schema()::text)
"""
_HELD = """
SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
  AND (classid::bigint << 32 | objid::bigint) = %(key)s::int8
"""
_CALLED = "SELECT pg_catalog.set_config('application_name'::text, %(called)s::text, false)"
# Sessions of a run that is over: whoever holds the lock knows that no run of this version table is alive but its own, whose
# sessions are called so only later.
_CALLED_SO = """
FROM pg_catalog.pg_stat_activity a WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
  AND pg_catalog.starts_with(a.application_name, pg_catalog.concat(%(tag)s::text, ' run '))
"""
_ORPHANS = "SELECT a.pid, a.application_name" + _CALLED_SO
_END = "SELECT pg_catalog.pg_terminate_backend(a.pid)" + _CALLED_SO + " AND a.pid = %(pid)s::int4"


def tag(number: int) -> str:
    """What the sessions of all runs under one lock are called by; a run's own add ``run`` and its number, see :func:`called`."""
    return f"mcp-planner-guard {number & 0xFFFFFFFF:08x}"


def called(tag: str, run: int, revision: str = "") -> str:
    """A session's application_name: which run it belongs to, and which revision that is at. 63 bytes at most."""
    return f"{tag} run {run} {revision}".strip().encode()[:63].decode(errors="ignore")


def end_orphans(beside: Connection, number: int) -> list[str]:
    """End the sessions that an earlier run left behind (its process was killed, its host is gone); one line for each.

    To be called under the lock, before a session of this run is called by its tag. What such a session had not committed is
    rolled back by the server.
    """
    from mcp_planner_schema.guard import blockers

    asked = {"tag": tag(number)}
    return [
        f"note: pid {pid} was left behind by {name} and "
        + (
            "was ended"
            if blockers.ended(beside, _END, asked | {"pid": pid})
            else "could not be ended: it is another role's"
        )
        for pid, name in beside.exec_driver_sql(_ORPHANS, asked).all()
    ]


def of(connection: Connection, version_table: str, schema: str | None) -> int:
    """The number of the lock for the version table that this session finds by that name, or would make: one table, one lock."""
    if schema is None:
        named = {"name": identifier(version_table)}
        schema = connection.exec_driver_sql(_FOUND_IN, named).scalar_one()
    return key(version_table, schema)


def key(version_table: str, schema: str | None) -> int:
    """The lock's number: a signed 64-bit hash of the version table's name, by itself the one in ``public``.

    The server adds the database itself.
    """
    name = f"mcp_planner_schema.guard:{schema or 'public'}.{version_table}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def taken(connection: Connection, number: int) -> bool:
    """Whether somebody holds the lock now: the run of its version table that says running is alive."""
    return connection.exec_driver_sql(f"SELECT EXISTS ({_HELD})", {"key": number}).scalar_one() is True


@contextmanager
def held(
    engine: Engine, number: int, wait: int, say: Callable[[str], None], repeat: str
) -> Iterator[Callable[[str], None]]:
    """Hold the lock; yields a function that raises :class:`Broken` if it was lost meanwhile.

    What it is given is what the holder is called by from then on, for those who wait; nothing changes that for "".

    Waits up to ``wait`` milliseconds, telling who holds it, then raises :class:`Busy`. Opens one connection in autocommit
    and closes it at the end, which releases the lock however the run ended.
    """
    with connect.opened(engine, autocommit=True) as connection:
        _acquire(connection, number, wait, say, repeat)
        yield lambda name: _still_held(connection, number, name)


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


def _still_held(connection: Connection, number: int, name: str) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if name:
            connection.exec_driver_sql(_CALLED, {"called": name})
        mine = connection.exec_driver_sql(_HOLDER + " AND l.pid = pg_catalog.pg_backend_pid()", {"key": number}).first()
    except SQLAlchemyError:  # also the second question to a connection that is gone
        mine = None
    if mine is None:
        raise Broken(
            "The deployers' lock was lost (its connection was cut). Another run may have begun, so this one stops here; "
            "the finished steps stay.",
            "alembic current   (then repeat the command)",
        )
