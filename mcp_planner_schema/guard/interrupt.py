"""Ctrl-C and SIGTERM: the running statement is cancelled at once, and the step is rolled back. Once: a second one waits.

psycopg2 waits inside libpq, where Python's signal handlers do not run; a thread that is told of the signal by the
interpreter itself sends the cancel request.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def cancelling(cancel: Callable[[], None], *, last: bool = False) -> Iterator[None]:
    """While inside, the first SIGINT, SIGTERM or SIGHUP calls ``cancel`` and raises KeyboardInterrupt.

    Another one meanwhile would cut off the rollback and the row that tells of it: it is answered with a line and nothing else;
    after a first one so to the end of the process where this is the ``last`` thing it does.

    Only in the main thread, and only where the application has no handlers of its own; elsewhere nothing is changed.
    """
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    taken = [number for number in _SIGNALS if signal.getsignal(number) in defaults]
    if threading.current_thread() is not threading.main_thread() or not taken:
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    if before != -1:  # an event loop lives here
        signal.set_wakeup_fd(before)
        reader.close()
        writer.close()
        yield
        return
    stopping = threading.Event()
    handlers = {number: signal.signal(number, functools.partial(_interrupt, stopping)) for number in taken}
    thread = threading.Thread(target=_listen, args=(reader, taken, cancel), daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            # Python's own handler would be gone before the process is.
            signal.signal(number, signal.SIG_IGN if last and stopping.is_set() else handler)
        signal.set_wakeup_fd(-1)
        writer.close()
        thread.join(timeout=2)


def _interrupt(stopping: threading.Event, number: int, _: object) -> None:
    if stopping.is_set():
        # Not through the application's logging: a handler may hold its lock just now.
        os.write(2, b"already stopping: what is not final is being rolled back\n")
        return
    stopping.set()
    raise KeyboardInterrupt(signal.Signals(number).name)


def _listen(reader: socket.socket, taken: list[signal.Signals], cancel: Callable[[], None]) -> None:
    with reader:
        cancelled = False
        while received := reader.recv(1):
            if received[0] in taken and not cancelled:
                cancelled = True
                with contextlib.suppress(Exception):  # the connection may be gone: then there is nothing to cancel
                    cancel()
