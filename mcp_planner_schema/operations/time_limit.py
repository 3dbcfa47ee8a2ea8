"""How long a script may take by the clock: at its end the running statement is cancelled, and Python code is interrupted.

A statement is cancelled from a thread beside; Python's own code gets a signal, which only a process's main thread can. Elsewhere
such code ends with its next statement.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_AGAIN = 0.5
"""Seconds until what goes on all the same is stopped again: a script may catch what is raised in it."""


class Expired(BaseException):
    """The time is over. Not an Exception: a script that catches those is to end too."""


@contextmanager
def within(seconds: float, cancel: Callable[[], None]) -> Iterator[None]:
    """While inside, no longer than ``seconds``; raises :class:`Expired`. ``cancel`` ends the running statement."""
    done, over = threading.Event(), threading.Event()
    main, polite = threading.main_thread(), True
    interrupts = threading.current_thread() is main and signal.getsignal(signal.SIGALRM) == signal.SIG_DFL

    def stop() -> None:
        pause = seconds
        while not done.wait(pause):
            over.set()
            with contextlib.suppress(Exception):  # the connection may be gone: then there is nothing to cancel
                cancel()
            if interrupts and main.ident is not None:
                signal.pthread_kill(main.ident, signal.SIGALRM)
            pause = _AGAIN

    def interrupt(_: int, frame: FrameType | None) -> None:
        nonlocal polite
        # To raise within SQLAlchemy costs the connection; its statement has just been cancelled, and ends by itself.
        if not done.is_set() and not (polite and _in_a_statement(frame)):
            raise Expired
        polite = False

    before = signal.signal(signal.SIGALRM, interrupt) if interrupts else None
    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    try:
        yield
    except Exception as error:
        if over.is_set():
            raise Expired from error
        raise
    finally:
        try:
            done.set()
        finally:  # the signal may come just now
            done.set()
            thread.join(timeout=2)
            if before is not None:
                signal.signal(signal.SIGALRM, before)
    if over.is_set():
        raise Expired


def _in_a_statement(frame: FrameType | None) -> bool:
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith("sqlalchemy."):
            return True
        frame = frame.f_back
    return False
