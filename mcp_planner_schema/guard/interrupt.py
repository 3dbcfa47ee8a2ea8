"""Ctrl-C and SIGTERM: the running statement is cancelled at once, and the step is rolled back.

psycopg2 waits inside libpq, where Python's signal handlers do not run; a thread that is told of the signal by the
interpreter itself sends the cancel request.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def cancelling(cancel: Callable[[], None]) -> Iterator[None]:
    """While inside, SIGINT, SIGTERM and SIGHUP call ``cancel`` and raise KeyboardInterrupt.

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
    handlers = {number: signal.signal(number, _interrupt) for number in taken}
    thread = threading.Thread(target=_listen, args=(reader, taken, cancel), daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        writer.close()
        thread.join(timeout=2)


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _listen(reader: socket.socket, taken: list[signal.Signals], cancel: Callable[[], None]) -> None:
    with reader:
        while received := reader.recv(1):
            if received[0] in taken:
                with contextlib.suppress(Exception):  # the connection may be gone: then there is nothing to cancel
                    cancel()
