"""A thread of its own for what may be slow: who asks for it is not held up, it is done in order, and the end waits so long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

MOST = 1000
"""How much may wait to be done. What comes when as much waits is left out."""

_POLL = 0.05
"""Seconds between two looks at the thread at the end: between them a signal is heard."""


class Apart:
    """Does what it is given. The thread begins with the first task, and does not keep a process from ending."""

    def __init__(self) -> None:
        # put() of a SimpleQueue can be interrupted by a signal at any point; that of a Queue may hold its lock just then.
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._beginning = threading.Lock()

    def do(self, task: Callable[[], None]) -> bool:
        """Have it done when its turn comes, and return at once. False: too much waits already. A task raises nothing."""
        if self._tasks.qsize() >= MOST:
            return False
        self._tasks.put(task)
        if self._thread is None:
            with self._beginning:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, daemon=True)
                    self._thread.start()
        return True

    def close(self, seconds: float) -> bool:
        """Wait until all is done, and no longer than this. Gives whether it is."""
        if self._thread is None:
            return True
        self._tasks.put(None)
        end = time.monotonic() + seconds
        while self._thread.is_alive() and time.monotonic() < end:
            self._thread.join(_POLL)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
