"""Who waits behind a running batch: seen from beside, and not for long.

A batch has locked the rows that it has written, and whoever wants to change one of them waits for its end. One thread looks
after the batches of all workers. A batch that somebody has waited for as long as the deadline allows is cancelled; it is
undone, and tried again in two halves.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

_INTERVAL = 0.025
"""Seconds between two looks: an eighth of the default deadline."""

_RESTS = 10
"""Times what a look has taken, that it rests: where thousands of locks are held, to read them takes long."""

_SHARE = 0.6
"""Of the deadline, that somebody waits until the batch is cancelled: to be seen, cancelled and undone takes the rest."""

_LOST = 0.5
"""Seconds until a connection that was lost is asked for anew."""

_LOOK = """
SELECT blocking.pid, pg_catalog.max(extract(epoch FROM pg_catalog.clock_timestamp() - l.waitstart))::float8
FROM pg_catalog.pg_locks l CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(l.pid)) AS blocking (pid)
WHERE NOT l.granted AND blocking.pid = ANY (%(own)s::int4[]) AND l.pid <> ALL (%(own)s::int4[])
GROUP BY blocking.pid
"""
_CANCEL = "SELECT pg_catalog.pg_cancel_backend(%s::int4)"


@dataclass
class Waiters:
    """What was seen. ``running`` are the workers' backends that are in a batch; ``felt`` those that somebody waited for."""

    deadline: float
    running: set[int] = field(default_factory=set)
    felt: set[int] = field(default_factory=set)
    between: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def batch(self, pid: int) -> Iterator[None]:
        """While inside, the backend ``pid`` may be cancelled; what it sends next is not."""
        with self.between:
            self.felt.discard(pid)
            self.running.add(pid)
        try:
            yield
        finally:
            with self.between:
                self.running.discard(pid)

    def look(self, beside: Connection) -> None:
        """Look once, and cancel what somebody has waited for too long."""
        own = list(self.running)
        if not own:
            return
        rows = beside.exec_driver_sql(_LOOK, {"own": own}).all()
        for pid, seconds in rows:
            with self.between:
                if pid in self.running:
                    self.felt.add(pid)
                    if (seconds or 0.0) >= self.deadline * _SHARE:
                        beside.exec_driver_sql(_CANCEL, (pid,))


@contextmanager
def watching(opened: Callable[[], AbstractContextManager[Connection]], deadline: float) -> Iterator[Waiters]:
    """While inside, a thread looks, on a connection of its own. That it fails harms nothing: batches have their own limit."""
    from sqlalchemy.exc import SQLAlchemyError

    from mcp_planner_schema.guard.findings import GuardError

    waiters, done = Waiters(deadline), threading.Event()

    def on() -> None:
        while not done.wait(_LOST if waiters.running else _INTERVAL):
            with contextlib.suppress(SQLAlchemyError, GuardError), opened() as beside:
                pause = _INTERVAL
                while not done.wait(pause):
                    began = time.monotonic()
                    waiters.look(beside)
                    pause = max(_INTERVAL, _RESTS * (time.monotonic() - began))

    thread = threading.Thread(target=on, daemon=True)
    thread.start()
    try:
        yield waiters
    finally:
        done.set()
        thread.join(timeout=2)
