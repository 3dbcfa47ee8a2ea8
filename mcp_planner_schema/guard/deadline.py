"""The deadline: from a step's first strong lock to its COMMIT there is one budget, for waiting and holding together.

What an application feels is both. ``lock_timeout`` counts each lock anew and ends with the wait, while locks are held to
COMMIT: three waits of 150 ms and the work between them are half a second to a query that came first. So a clock starts
when the step is seen to hold or to wait for a lock that readers or writers would wait for, on a table that others know;
before each further statement the time left is what the server is told, and the watcher (:mod:`.watch`) cancels a statement
that the clock runs out on. Where no other session is in the database, and no replica replays its locks, nobody can feel
them: then it does not run out, until somebody comes.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import lock_order

if TYPE_CHECKING:
    from sqlalchemy import Connection

_STEP = 0.01
"""Seconds that must have gone before the server is told again how much is left: a round trip is not free."""

_ROLLBACK_AFTER = 1.0
"""Seconds to wait for a watcher that cancels just now: locks are not held on to because its connection hangs."""

_UNDONE = re.compile(r"\bROLLBACK\b", re.IGNORECASE)


class Missed(Exception):
    """The time from the first strong lock on is over. The transaction is to be rolled back."""


@dataclass
class Clock:
    """One attempt's clock. Times are in seconds of ``time.monotonic()``.

    ``limit`` is the time there is, ``usual`` what it is where no rows are kept or given back, ``wait`` what one lock may be
    waited for, however long it may then be held; ``began`` is when, None while nothing strong is held. ``lock`` is the first
    strong lock seen, for people; ``locks`` all of them by table (``schema.name``). ``missed``: the watcher has cancelled the
    statement that ran, ``cancelled`` is when it did so last; ``ended`` is why it has ended the session, where it has. ``longest``
    is the longest time seen from a first strong lock to its end, ``cleared`` when there was none for the last time, ``last`` how
    long they were held before that. ``keeping``: rows are kept or given back, and ``limit`` is what that is allowed. ``alone``:
    nobody is there to feel it. ``calm``: what runs takes no strong lock, and is looked at less often. ``between`` is held by the
    watcher while it cancels, so that what is sent next is sent after that.
    """

    limit: float
    usual: float = 0.0
    wait: float = math.inf
    began: float | None = None
    lock: str = ""
    locks: dict[str, str] = field(default_factory=dict)
    missed: bool = False
    cancelled: float = 0.0
    ended: str = ""
    running: bool = True
    longest: float = 0.0
    cleared: float = 0.0
    last: float = 0.0
    keeping: bool = False
    alone: bool = False
    calm: bool = False
    between: Any = field(default_factory=threading.Lock)

    def saw(self, locks: dict[str, str], since: float, asked: float, *, alone: bool) -> None:
        """Strong locks are held or waited for, the first of them not before ``since``; or none any more.

        ``asked`` is when the question was sent: what it saw may have been given back meanwhile.
        """
        if asked <= self.cleared:
            return
        self.alone = alone
        if not locks:
            self.restart(asked)
            return
        self.locks = lock_order.stronger(self.locks, locks)
        if self.began is None:
            self.began = max(since, self.cleared)
            name, mode = next(iter(locks.items()))
            self.lock = f"{mode} on {name.removeprefix('public.')}"

    def allow(self, limit: float) -> None:
        """Give as much time as whoever runs this allows for keeping or giving back rows."""
        self.limit = max(self.limit, limit)

    def restart(self, at: float | None = None) -> None:
        """Nothing strong is held, or was ``at`` that time: the next strong lock is the first one again."""
        with self.between:
            if self.began is not None:
                self.last = self.held()
                self.longest = max(self.longest, self.last)
            self.began, self.missed = None, False
            self.cleared = max(self.cleared, time.monotonic() if at is None else at)

    def held(self) -> float:
        """Seconds since the first strong lock; 0 where there is none."""
        return time.monotonic() - self.began if self.began is not None else 0.0

    def left(self) -> float | None:
        """Seconds until the deadline, None while the clock does not run, or nobody would feel that it ran out."""
        began = self.began
        return None if began is None or not self.running or self.alone else self.limit - (time.monotonic() - began)

    def over(self) -> bool:
        """Whether an error of now may be the deadline's: it was missed, or so little is left that the server ended it."""
        held = self.last if self.began is None else self.held()  # an error gives the locks back by itself
        return self.missed or held >= self.limit - 2 * _STEP

    def stop(self) -> None:
        """COMMIT comes next, and is not to be cancelled. Raises :class:`Missed` where it would come too late."""
        while not self.between.acquire(timeout=_STEP):  # a watcher that hangs does so while it cancels
            if self.missed:
                raise Missed(self.told())
        try:
            if self.missed or ((left := self.left()) is not None and left <= 0):
                self.missed = True
                raise Missed(self.told())
            self.longest = max(self.longest, self.held())
            self.running = False
        finally:
            self.between.release()

    def end(self) -> None:
        """ROLLBACK comes next, and is not to be cancelled either."""
        waited = self.between.acquire(timeout=_ROLLBACK_AFTER)
        self.running = False
        if waited:
            self.between.release()

    def told(self) -> str:
        """What has happened, for people."""
        return f"it had {self.lock or 'its first strong lock'} for more than {self.limit * 1000:.0f} ms"


@contextmanager
def shrinking(connection: Connection, clock: Clock, usual: str) -> Iterator[None]:
    """While inside, each statement on ``connection`` gets no more time than the clock has left; ``usual`` is the SQL for the
    budgets that hold where it does not run.

    Raises :class:`Missed` before a statement for which there is none. In autocommit each statement is a transaction, and the
    clock starts anew with it. A lock is waited for no longer than the clock's ``wait``: while somebody waits for a strong one,
    everybody behind him does.
    """
    from psycopg2.extensions import TRANSACTION_STATUS_INERROR
    from sqlalchemy import event

    mine: Any = connection.connection.dbapi_connection
    told, by_itself = math.inf, False

    def tell(sql: str) -> None:
        with mine.cursor() as own:  # the statement's own may be one of the server's, which runs nothing else
            own.execute(sql)

    def before(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal told, by_itself
        if cursor.connection is not mine:
            return
        if mine.info.transaction_status == TRANSACTION_STATUS_INERROR:
            told = math.inf  # what it was told goes with the savepoint that is rolled back
            return
        if mine.autocommit or by_itself:
            clock.restart()
            by_itself, told = mine.autocommit, math.inf
            return
        left = clock.left()
        if left is None:
            if told != math.inf:
                tell(usual)
            told = math.inf
            return
        if left <= 0:
            clock.missed = True
            raise Missed(clock.told())
        if abs(told - left) > _STEP:
            told = left
            lock, whole = (max(1, int(time * 1000)) for time in (min(left, clock.wait), left))
            tell(f"SET LOCAL lock_timeout = '{lock}ms'; SET LOCAL statement_timeout = '{whole}ms'")
        if _UNDONE.search(statement):
            told = math.inf

    engine = (
        connection.engine
    )  # autocommit_block() works on a copy of the connection that does not know this one's events
    event.listen(engine, "before_cursor_execute", before)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", before)
