"""What is told while a backfill runs: a bar on a terminal, a line a minute in a log, an event a line for a machine.

Nothing of a row is ever in it, neither a value nor a key: of an error only its kind is told.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mcp_planner_schema.guard.findings import Busy, Refused

_WINDOW = 60.0
"""Seconds that a rate is taken from: what was an hour ago says nothing about the next one."""

_LINE, _EVENT, _DRAWN, _KEPT = 60.0, 1.0, 0.1, 5.0
"""Seconds between two lines in a log, two events, two drawings of the bar, two notes in the backfill's row."""

_CLEAR = "\r\x1b[K"


def lasting(seconds: float) -> str:
    """A duration for people, by its two largest units."""
    whole = round(seconds)
    if whole < 1:
        return f"{seconds:.1f} s"
    parts = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, whole = divmod(whole, size)
        parts += [f"{count} {unit}"] if count else []
    return " ".join(parts[:2])


def percent(done: int, expected: int) -> int | None:
    """How much of what was expected: 99 at most, for that is an estimate; None where nothing was."""
    return min(99, 100 * done // expected) if expected > 0 else None


def _kind(error: BaseException) -> str:
    kinds = ((KeyboardInterrupt, "interrupted"), (Refused, "refused"), (Busy, "busy"))
    return next((name for kind, name in kinds if isinstance(error, kind)), "broken")


@dataclass
class Rate:
    """Rows a second within the last minute, pauses included."""

    marks: deque[tuple[float, int]] = field(default_factory=deque)

    def at(self, done: int) -> float | None:
        """The rate, now that ``done`` rows are; None in the first moment."""
        now = time.monotonic()
        if not self.marks or now - self.marks[-1][0] >= 1.0:
            self.marks.append((now, done))
        while len(self.marks) > 1 and now - self.marks[1][0] >= _WINDOW:
            self.marks.popleft()
        began, before = self.marks[0]
        return (done - before) / (now - began) if now - began > 0.1 else None


@dataclass
class Progress:
    """One backfill, all its workers together. ``done`` and ``expected`` are rows; ``lag`` is a replica's, in seconds.
    ``beside_others``: other sessions are at work, and it takes its share of the time.

    ``line`` is where lines for people go, ``about`` what every event says, ``events`` whether there are any on stdout; ``emit``
    is told how far it is, for whoever watches the run.
    """

    name: str
    done: int
    expected: int
    line: Callable[[str], None]
    about: dict[str, Any] = field(default_factory=dict)
    events: bool = False
    emit: Callable[..., None] | None = None
    lag: float | None = None
    beside_others: bool = False
    rate: Rate = field(default_factory=Rate)
    _waiting: dict[int, tuple[str, float]] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)
    _wished: bool = False
    _lock: Any = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.rate.at(self.done)
        # Of what began now, the first line comes in a minute, and the first note soon.
        self._last |= {"line": time.monotonic(), "kept": time.monotonic() - _KEPT + 1}
        self._bar = not self.events and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def waits_for(self) -> str | None:
        """What some worker waits for; None where all go on."""
        with self._lock:
            return next((why for why, _ in self._waiting.values()), None)

    def say(self, text: str) -> None:
        """A line for people, that stays."""
        with self._lock:
            self._wipe()
            self.line(text)
            self._draw()

    def moved(self, rows: int) -> None:
        """So many rows more are done."""
        with self._lock:
            self.done += rows
            self.rate.at(self.done)
            if self._due("event", _EVENT):
                self._event("progress", **self._numbers())
            self._tick()
            self._emit()

    def again(self, rows: int) -> None:
        """So many rows are to be gone through once more."""
        with self._lock:
            self.expected += rows

    def waits(self, why: Sequence[str], *, wished: bool = False) -> bool:
        """The calling worker waits for this, or for nothing; gives whether that is new for the backfill as a whole.

        ``wished``: somebody wants it so, and must read how it goes on. Of the rest whoever has found it says so.
        """
        with self._lock:
            me, before = threading.get_ident(), self.waits_for
            since = self._waiting[me][1] if me in self._waiting else time.monotonic()
            if why:
                self._waiting[me] = "; ".join(why), since
            else:
                self._waiting.pop(me, None)
            now = self.waits_for
            if now and not before:
                self._event("waits", waits_for=now)
            if wished and not self._wished:
                self.say(f"backfill {self.name} waits: {now}")
            if before and not now:
                self._event("goes on", waited=round(time.monotonic() - since, 1))
                if self._wished:
                    self.say(f"backfill {self.name} goes on, after {lasting(time.monotonic() - since)}")
            self._wished = bool(now) and (wished or self._wished)
            if now:
                self._tick()
                self._emit()
            return now != before

    def keep(self) -> float | None:
        """The rate, when it is time to note it down for other shells; else None."""
        with self._lock:
            return self.rate.at(self.done) if self._due("kept", _KEPT) else None

    @contextmanager
    def telling(self, *, resumed: bool) -> Iterator[Progress]:
        """While inside, it runs: its begin is told, and how it ends."""
        began, before = time.monotonic(), self.done
        self._event("begun", resumed=resumed, **self._numbers())
        self._draw()
        try:
            yield self
        except BaseException as error:
            codes = [one.code for one in error.findings] if isinstance(error, Refused) else []
            self._ended("failed", reason=_kind(error), findings=codes, rows_done=self.done)
            raise
        self._ended(
            "done",
            rows_done=self.done,
            rows_in_this_run=self.done - before,
            seconds=round(time.monotonic() - began, 1),
        )

    def text(self) -> str:
        """How far it has come, in one line."""
        share, rate = percent(self.done, self.expected), self.rate.at(self.done)
        of = f" of {self.expected:,}" if share is not None else ""
        parts = [f"{self.done:,}{of} rows", f"{share} %" if share is not None else ""]
        parts += [f"{rate:,.0f} rows/s" if rate is not None else "", f"lag {self.lag:.1f} s" if self.lag else ""]
        parts += ["beside others"] if self.beside_others else []
        left = self._left(rate)
        waits = self.waits_for
        parts += [f"waits: {waits}" if waits else f"{lasting(left)} left" if left is not None else ""]
        return ", ".join(filter(None, parts))

    def _left(self, rate: float | None) -> float | None:
        return (self.expected - self.done) / rate if rate and self.expected > self.done else None

    def _numbers(self) -> dict[str, Any]:
        rate = self.rate.at(self.done)
        left = self._left(rate)
        return {
            "rows_done": self.done, "rows_expected": self.expected, "percent": percent(self.done, self.expected),
            "rows_per_second": None if rate is None else round(rate),
            "seconds_left": None if left is None else round(left), "lag": self.lag,
        }  # fmt: skip

    def _due(self, what: str, every: float) -> bool:
        now = time.monotonic()
        if now - self._last.get(what, -every) < every:
            return False
        self._last[what] = now
        return True

    def _event(self, event: str, **values: Any) -> None:
        if self.events:
            at = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
            print(json.dumps({"event": event, "at": at, "backfill": self.name, **self.about, **values}), flush=True)

    def _emit(self) -> None:
        if self.emit is not None and self._due("emitted", _EVENT):
            self.emit("progress", what="backfill", name=self.name, waits_for=self.waits_for, **self._numbers())

    def _ended(self, event: str, **values: Any) -> None:
        with self._lock:
            self._waiting.clear()
            self._wipe()
            self._bar = False
            self._event(event, **values)
            self._last.pop("emitted", None)
            self._emit()

    def _tick(self) -> None:
        if self._bar:
            if self._due("drawn", _DRAWN):
                self._draw()
        elif self._due("line", _LINE):
            self.line(f"backfill {self.name}: {self.text()}")

    def _draw(self) -> None:
        if not self._bar:
            return
        try:
            wide = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        except OSError:
            wide = 80
        text, share = self.text(), percent(self.done, self.expected)
        room = wide - len(self.name) - len(text) - 6
        if share is not None and room >= 10:
            filled = (size := min(room, 30)) * share // 100
            text = f"[{'#' * filled}{'.' * (size - filled)}] {text}"
        # The cursor stays in front, so that a line of somebody else's takes the bar's place.
        sys.stderr.write(f"{_CLEAR}{self.name} {text}"[: wide + len(_CLEAR) - 1] + "\r")
        sys.stderr.flush()

    def _wipe(self) -> None:
        if self._bar:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()
