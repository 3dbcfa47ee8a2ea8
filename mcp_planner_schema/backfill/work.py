"""What all workers of one backfill share, how long a statement of theirs may take, and what ends them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.backfill import bypass, waiters
from mcp_planner_schema.backfill.batch import Batch
from mcp_planner_schema.backfill.feedback import Feedback
from mcp_planner_schema.backfill.keys import Leaf
from mcp_planner_schema.backfill.progress import Progress
from mcp_planner_schema.backfill.record import Record
from mcp_planner_schema.backfill.spec import Backfill
from mcp_planner_schema.guard import brief, journal
from mcp_planner_schema.guard.findings import Busy, Finding, Refused
from mcp_planner_schema.guard.kept_rows import Kept
from mcp_planner_schema.guard.settings import Backfill as Limits

if TYPE_CHECKING:
    from sqlalchemy import Connection

_LIMIT = 10
"""Times its target that a batch may take where nobody waits behind it."""

_BESIDE_OTHERS = 0.025
"""Of the target, that a batch takes while others are at work: whoever is held up by one is held up for long enough to be among
the slowest hundredth of an application's transactions (bench/README.md)."""

_TRIPS = 10
"""Times a question's way there and back, that a batch takes at least: else where the server is far away it would be all way."""

_ASKED = 0.5
"""Seconds of a rest, after which it is asked whether somebody wants it to end."""

_HELD_UP = 5
"""Times its target, of which a batch is rested from: one that a lock has held up for a minute has done little."""

_A_MINUTE, _A_DAY = 60_000, 86_400_000


@dataclass
class Work:
    """What all workers of one backfill share. ``opened`` gives another connection like the first; ``stop`` ends all
    ``workers``, of which ``active`` are in a range."""

    fill: Backfill
    record: Record
    leaves: dict[str, Leaf]
    limits: Limits
    step: journal.Step
    progress: Progress
    seen: waiters.Waiters
    stop: threading.Event = field(default_factory=threading.Event)
    kept: Kept | None = None
    workers: int = 1
    active: int = 0
    between: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.feedback = Feedback(self.limits, lambda line: self.say(f"backfill {self.fill.name} {line}"))

    @property
    def whole(self) -> float:
        """Seconds that a batch is to take where nobody else is at work."""
        whole = self.limits.target / 1000
        return min(whole, self.seen.deadline / bypass.SHARE) if self.fill.bypass else whole

    def target(self, trip: float) -> float:
        """Seconds that a batch is to take now. ``trip`` is how many a short question takes, there and back.

        One that locks the table costs locks of its own, and of one that a function computes most is not the server's: these
        stay as they are, and rest longer.
        """
        if not self.feedback.others or self.fill.bypass or self.fill.rows:
            return self.whole
        return min(self.whole, max(self.whole * _BESIDE_OTHERS, _TRIPS * trip))

    @contextmanager
    def working(self) -> Iterator[None]:
        """While inside, a worker is in a range."""
        with self.between:
            self.active += 1
        try:
            yield
        finally:
            with self.between:
                self.active -= 1

    def rest(self, seconds: float, wanted: Callable[[], str]) -> str | None:
        """After a batch that kept the server busy for so long: while others are at work, those who work take their share of the
        time, all together. Gives what somebody ``wanted`` meanwhile, None where the rest was too short to ask."""
        if not self.feedback.others:
            return None
        left = min(max(0.0, seconds), _HELD_UP * self.whole) * (max(1, self.active) / self.limits.share - 1)
        while left > _ASKED and not self.stop.wait(_ASKED):
            left -= _ASKED
            if (said := wanted()) != "run":
                return said
        self.stop.wait(max(0.0, left))
        return None

    def say(self, text: str) -> None:
        """A line for people."""
        self.progress.say(text)


def in_time(connection: Connection, work: Work, one: Batch) -> AbstractContextManager[None]:
    """A batch that takes too long is cut in two; one row takes the time that it needs."""
    whole = max(work.limits.target * _LIMIT, 1000) if one.rows > 1 else _A_MINUTE
    share = bypass.LOCK_SHARE if work.fill.bypass else 1
    return limited(connection, max(1, int(work.seen.deadline * 1000 / share)), whole)


@contextmanager
def limited(connection: Connection, lock: int, whole: int) -> Iterator[None]:
    """While inside, statements may wait for ``lock`` and last ``whole`` milliseconds, if a guard sets budgets here."""
    info = connection.info  # asked now: a connection that is gone has none
    info[brief.LIMITS] = lock, whole
    try:
        yield
    finally:
        info.pop(brief.LIMITS, None)


def unlimited(connection: Connection) -> AbstractContextManager[None]:
    """While inside, a statement may read a whole table."""
    return limited(connection, 0, _A_DAY)


def busy(work: Work, why: str) -> Busy:
    """It ends before its end, and the same command goes on."""
    return Busy(
        f"The backfill {work.fill.name} has not come to its end: {why}.\n"
        "The batches before stay and are not written again; the version has not moved.",
        work.step.repeat or "the same command again",
    )


def explained(work: Work, error: Any, code: str) -> Exception:
    """What an error means that no smaller batch would help."""
    said = str(error.orig)
    if code == "42501" and "row-level security" in said:
        values = {"name": work.fill.name, "target": ", ".join(work.leaves)}
        return Refused([Finding("backfill-hidden-rows", work.step.where, work.step.revision, values)], work.step.repeat)
    return error  # type: ignore[no-any-return]


def refuse_endless(step: journal.Step, fill: Backfill, leaves: dict[str, Leaf]) -> None:
    """Raise :class:`Refused` for rows that would be met again: of a table without a key and a predicate, or whose key is set."""
    keyless = [leaf.told for leaf in leaves.values() if not leaf.key]
    if keyless and (fill.statement or fill.where == "true"):
        values = {"name": fill.name, "target": ", ".join(keyless)}
        raise Refused([Finding("backfill-keyless", step.where, step.revision, values)], step.repeat)
    in_key = [name for leaf in leaves.values() for name in (one.name for one in leaf.key) if name in fill.keeps]
    if in_key:
        values = {"name": fill.name, "target": ", ".join(leaves), "column": in_key[0]}
        raise Refused([Finding("backfill-of-key", step.where, step.revision, values)], step.repeat)


def refused(work: Work, code: str, one: Batch | None, row: str, said: str) -> Refused:
    """A row cannot be written, or computed."""
    table = one.range.leaf.told if one else ""
    values = {"name": work.fill.name, "table": table, "error": said, "row": row}
    finding = Finding(code, work.step.where, work.step.revision, values)
    return Refused([finding], work.step.repeat, "the batches before it stay and are not written again")
