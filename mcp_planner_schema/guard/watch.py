"""Watches a running step from beside: how long it waits for locks, and for whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Engine

_INTERVAL = 0.04
"""Seconds between two looks: a fifth of the default lock timeout, so that a wait cannot end unseen."""

_TOLD_AFTER, _TOLD_EVERY = 2.0, 30.0
"""Seconds of one wait until people are told of it, and between two lines about it: an online statement has no limit."""

# Asked first, for it costs a tenth of what the other does, and most of the time nobody waits.
_BLOCKED = "SELECT pg_catalog.cardinality(pg_catalog.pg_blocking_pids(%s::int4)) > 0"
_WAITING = """
SELECT b.pid, coalesce(b.application_name, ''), coalesce(b.usename::text, ''), b.state,
       extract(epoch FROM pg_catalog.clock_timestamp() - b.xact_start)::bigint,
       CASE WHEN c.oid IS NULL THEN l.locktype WHEN n.nspname = 'public' THEN c.relname::text
            ELSE pg_catalog.concat(n.nspname::text, '.', c.relname::text) END
FROM pg_catalog.pg_locks l
CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(l.pid)) AS blocking(pid)
JOIN pg_catalog.pg_stat_activity b ON b.pid = blocking.pid
LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE l.pid = %s::int4 AND NOT l.granted
"""


@dataclass
class Waits:
    """What was seen. ``waited`` is in seconds; ``blockers`` has a line for people for each pid, with its newest state."""

    waited: float = 0.0
    blockers: dict[int, str] = field(default_factory=dict)

    def shown(self) -> str:
        """Who was in the way, for a message."""
        return "; ".join(self.blockers.values()) or "a session that has gone"


@contextmanager
def watching(engine: Engine, pid: int, tell: Callable[[str], None] | None = None) -> Iterator[Waits]:
    """While inside, a thread with a connection of its own looks at the backend ``pid``. Reads catalogs only.

    ``tell`` gets one line about a wait that lasts, naming the blocker, and another every half a minute.

    That it fails (no connection free, say) never harms the step: then nothing was seen.
    """
    waits, done = Waits(), threading.Event()
    thread = threading.Thread(target=_look, args=(engine, pid, waits, done, tell), daemon=True)
    thread.start()
    try:
        yield waits
    finally:
        done.set()
        thread.join(timeout=2)


def _look(engine: Engine, pid: int, waits: Waits, done: threading.Event, tell: Callable[[str], None] | None) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    if done.wait(_INTERVAL):
        return  # most steps are over before the first look: no connection is opened for them
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            before = since = time.monotonic()
            next_told = _TOLD_AFTER
            while not done.is_set():
                rows: list[Any] = []
                if connection.exec_driver_sql(_BLOCKED, (pid,)).scalar():
                    rows = list(connection.exec_driver_sql(_WAITING, (pid,)))
                now = time.monotonic()
                if rows:
                    waits.waited += now - before
                else:
                    since, next_told = now, _TOLD_AFTER
                seen = {row[0]: _shown(*row) for row in rows}
                waits.blockers |= seen
                if tell and now - since >= next_told:
                    tell(f"waits for {now - since:.0f} s: {'; '.join(seen.values())}")
                    next_told += _TOLD_EVERY
                before = now
                done.wait(_INTERVAL)
    except SQLAlchemyError:
        return


def _shown(pid: int, application: str, user: str, state: str | None, age: int | None, what: str) -> str:
    """One blocker, for people. State and age are null for a role that may not see them, and for background work."""
    since = f"in its transaction for {age} s" if age is not None else "since when is unknown"
    return (
        f"pid {pid} ({application or 'no name'}, user {user or 'unknown'}, {state or 'unknown'}, {since}) holds {what}"
    )
