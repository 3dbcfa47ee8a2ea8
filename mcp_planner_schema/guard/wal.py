"""Has the write-ahead log written out from beside while the guard copies rows, so that the copying need not stop for it.

A backend that fills the log's buffers writes them out itself, and copies nothing meanwhile. Where other sessions commit they do
that for it; on a quiet server nobody does, and CREATE TABLE AS takes half as long again (bench/downgrade). So a session of the
guard's commits beside it, asynchronously: it wakes PostgreSQL's own WAL writer and waits for no disk and no standby.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import connect

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_AFTER = 0.05
"""Seconds of work after which that session is opened: most is over by then, and a connection takes a tenth of it. Where nothing
is locked yet it is opened at once: what a short copy has written is then on its way to the disk when COMMIT waits for it."""

_EVERY = 0.005
"""Seconds between two commits: what a processor can write meanwhile is less than the buffers hold (4 MB by default)."""

# A transaction that has no number leaves no record of its commit, and wakes nobody.
_COMMIT = "SELECT pg_catalog.pg_current_xact_id()"


@contextmanager
def written_beside(connection: Connection, *, at_once: bool = False) -> Iterator[None]:
    """While inside, another session commits empty transactions, each of which takes a transaction number and nothing else.

    It begins ``at_once``, or where the work turns out to be long. Changes nothing, and fails nothing: where that session cannot
    be had or is ended, the work goes on without it.
    """
    done, there = threading.Event(), threading.Event()
    after = 0 if at_once else _AFTER
    thread = threading.Thread(target=_commit, args=(connection.engine, done, there, after), daemon=True)
    with contextlib.suppress(RuntimeError):  # the system has no thread left
        thread.start()
    try:
        yield
    finally:
        done.set()
        # Locks are held: a connection that is still being made is not waited for, and ends by itself.
        if there.is_set():
            thread.join(timeout=0.5)


def _commit(engine: Engine, done: threading.Event, there: threading.Event, after: float) -> None:
    if done.wait(after):
        return
    # A caller's own way to connect may raise whatever it likes.
    with (
        contextlib.suppress(Exception),
        connect.opened(connect.own(engine, "mcp-planner-guard"), autocommit=True) as beside,
    ):
        there.set()
        beside.exec_driver_sql("SET synchronous_commit = off")
        while not done.wait(_EVERY):
            beside.exec_driver_sql(_COMMIT)
