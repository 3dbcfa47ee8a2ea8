"""Watches a running step from beside: how long it waits for locks, and for whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Engine

_INTERVAL = 0.04
"""Seconds between two looks: a fifth of the default lock timeout, so that a wait cannot end unseen."""

_WAITING = """
SELECT b.pid, coalesce(b.application_name, ''), coalesce(b.usename::text, ''), coalesce(b.state, ''),
       round(extract(epoch FROM clock_timestamp() - b.xact_start))::bigint, coalesce(l.relation::regclass::text, l.locktype)
FROM pg_catalog.pg_locks l
CROSS JOIN LATERAL unnest(pg_catalog.pg_blocking_pids(l.pid)) AS blocking(pid)
JOIN pg_catalog.pg_stat_activity b ON b.pid = blocking.pid
WHERE l.pid = %s AND NOT l.granted
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
def watching(engine: Engine, pid: int) -> Iterator[Waits]:
    """While inside, a thread with a connection of its own looks at the backend ``pid``. Reads catalogs only.

    That it fails (no connection free, say) never harms the step: then nothing was seen.
    """
    waits, done = Waits(), threading.Event()
    thread = threading.Thread(target=_look, args=(engine, pid, waits, done), daemon=True)
    thread.start()
    try:
        yield waits
    finally:
        done.set()
        thread.join(timeout=2)


def _look(engine: Engine, pid: int, waits: Waits, done: threading.Event) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    if done.wait(_INTERVAL):
        return  # most steps are over before the first look: no connection is opened for them
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            before = time.monotonic()
            while not done.is_set():
                rows: list[Any] = list(connection.exec_driver_sql(_WAITING, (pid,)))
                now = time.monotonic()
                if rows:
                    waits.waited += now - before
                for blocker, application, user, state, age, what in rows:
                    waits.blockers[blocker] = (
                        f"pid {blocker} ({application or 'no name'}, user {user}, {state or 'background'}, "
                        f"in its transaction for {age or 0} s) holds {what}"
                    )
                before = now
                done.wait(_INTERVAL)
    except SQLAlchemyError:
        return
