"""Who else suffers from a backfill: other sessions, replicas, the WAL that slots and the archive keep, vacuum, locks.

Asked after each batch, of small ones not after each. Of the WAL that a slot keeps only that counts which was written since the
backfill began: a slot that was forgotten long ago suffers no more from it. What may never end (a vacuum, a lock, dead rows) is
given way to for so long at once, and then no more until it was gone: the shape is that of GitLab's batched background
migrations, which hold ten minutes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.backfill import question
from mcp_planner_schema.backfill.keys import Leaf
from mcp_planner_schema.backfill.question import Question
from mcp_planner_schema.backfill.replay import Replay
from mcp_planner_schema.guard import replication
from mcp_planner_schema.guard.settings import Backfill as Limits

if TYPE_CHECKING:
    from sqlalchemy import Connection

_TELL = 60.0
"""Seconds between two lines about the same."""

_BEFORE = 0.8
"""Of the limit: what a replica may need for what is written, for another batch comes on top of it."""


@dataclass(frozen=True)
class Reason:
    """Why to wait. ``kind`` and ``of`` tell it from others. ``held``: it may never end; ``table``: it is about this one only."""

    kind: str
    text: str
    of: object = None
    table: int | None = None
    held: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """The same one at another look has the same."""
        return self.kind, self.of, self.table


@dataclass
class Feedback:
    """What was seen so far of those who may suffer. All workers share it.

    ``lag`` is how many seconds the last replica lies behind; None where there is none, or none that can be seen. ``others``:
    other sessions are at work on the server, and get the time that ``limits.share`` leaves them.
    """

    limits: Limits
    say: Callable[[str], None]
    lag: float | None = None
    others: bool = False

    def __post_init__(self) -> None:
        self._question = Question(self.say)
        if self.limits.share >= 1:  # it takes all the time whoever is there
            self._question.parts.remove(question.SESSIONS)
        self._replay = Replay(self.limits.lag / 1000)
        self._first: dict[str, Any] = {}
        self._since: dict[tuple[object, ...], float] = {}
        self._told: dict[object, float] = {}
        self._free: dict[int, float] = {}
        self._between = threading.Lock()

    def reasons(self, connection: Connection, leaf: Leaf) -> list[str]:
        """Why not to write the leaf now, each for people; none where nobody suffers. One round trip; says what is new.

        Not asked again within half a batch's time: else it would take a good part of what a small batch takes.
        """
        if time.monotonic() - self._free.get(leaf.oid, float("-inf")) < self.limits.target / 2000:
            return []
        found, now = self._question.ask(connection, leaf.oid), time.monotonic()
        if not found:  # it could not be asked this time
            return []
        with self._between:
            self._sessions(found.get(question.SESSIONS, (False, self.limits.share < 1)), now)
            reasons = list(self._held(list(self._reasons(found, leaf, now)), leaf, now))
            for reason in reasons:
                self._tell(reason.kind, f"waits: {reason.text}", now)
            if not reasons:
                self._free[leaf.oid] = now
        return [reason.text for reason in reasons]

    def _sessions(self, found: Sequence[bool], now: float) -> None:
        seen, unseen = found
        self.others = seen or unseen
        never = float("inf")
        if unseen and not seen:
            hint = "GRANT pg_read_all_stats to the role that migrates"
            self._tell(
                "sessions", f"cannot see what other sessions do, and takes them to be at work: {hint}", now, again=never
            )
        if self.others:
            told = (
                f"takes {self.limits.share:.0%} of the time, in small batches, for others are at work (backfill_share)"
            )
            self._tell("others", told, now, again=never)

    def _reasons(self, found: dict[str, Any], leaf: Leaf, now: float) -> Iterator[Reason]:
        written, ahead = found.get(question.WRITTEN, (None, None))
        if written is not None:
            self._first.setdefault(question.WRITTEN, written)
            yield from self._replicas(found.get(question.REPLICAS, []), written, ahead, now)
            yield from self._slots(found.get(question.SLOTS, []), written)
            yield from self._archive(found.get(question.ARCHIVE), written)
        yield from self._locks(found.get(question.LOCKS, []), leaf)
        dead, live = found.get(question.DEAD, (0, 1))
        share, limit = dead / (dead + live), self.limits.dead_tuples
        if share > limit:
            text = f"{share:.0%} of the rows of {leaf.told} are dead (limit {limit:.0%})"
            yield Reason("dead tuples", text, table=leaf.oid, held=True)

    def _replicas(self, found: list[Any], written: int, ahead: int, now: float) -> Iterator[Reason]:
        replay, limit = self._replay, self.limits.lag / 1000
        replay.wrote(written, now)
        replay.forget({pid: replayed for pid, _, _, replayed, _ in found if replayed is not None})
        lags = []
        for pid, name, address, replayed, told in found:
            if replayed is None:
                hint = "GRANT pg_read_all_stats to the role that migrates"
                self._tell("unseen", f"cannot see how far replicas lie behind: {hint}", now, again=float("inf"))
                continue
            if name in self.limits.lag_except:
                continue
            shown = f"{name or ''} {address or ''}".strip() if name in (None, "", "walreceiver") else name
            behind, needs = replay.behind(replayed, told, now), replay.needs(pid, replayed, written, ahead, now)
            lags.append(behind)
            if behind > limit:
                yield Reason("replica", f"replica {shown} replays {_time(behind)} behind (limit {_time(limit)})", pid)
            elif needs > limit * _BEFORE:
                allowed = f"limit {_time(limit * _BEFORE)}, so that the next batch lies {_time(limit)} behind at most"
                text = f"replica {shown} needs {_time(needs)} to replay what is written ({allowed})"
                yield Reason("replica", text, pid)
        self.lag = max(lags, default=None)

    def _slots(self, found: list[Any], written: int) -> Iterator[Reason]:
        limit = self.limits.slot_wal
        lost = self._first.setdefault(question.SLOTS, {name for name, _, status, _ in found if status == "lost"})
        for name, active, status, kept_from in found:
            shown = f"slot {name}" if active else f"slot {name} (nobody reads it)"
            if status in replication.LEFT_OUT and name not in lost:
                yield Reason("slot", f"{shown} is {status}: its WAL is not kept any more", name, held=True)
            elif kept_from is not None and limit is not None:
                kept = written - max(kept_from, self._first[question.WRITTEN])
                if kept > limit:
                    text = f"{shown} keeps {_size(kept)} of WAL that were written meanwhile (limit {_size(limit)})"
                    yield Reason("slot", text, name)

    def _archive(self, found: Any, written: int) -> Iterator[Reason]:
        if found is None:
            return
        last, size, failed, fails, file = found
        current = written // size
        known = self._first.setdefault(question.ARCHIVE, {"archived": current - 1, "failed": failed})
        number = _segment(last or "", size)
        if number is not None:
            known["archived"] = number
        waiting, limit = current - known["archived"] - 1, self.limits.archive_queue
        if waiting > limit:
            text = f"{waiting:,} WAL segments wait to be archived (limit {limit:,})"
            yield Reason("archive", f"{text}; {file} fails" if fails else text)
        elif fails and failed > known["failed"]:
            yield Reason("archive", f"the archive fails at {file}, {waiting} wait behind it", file, held=True)

    def _locks(self, found: list[Any], leaf: Leaf) -> Iterator[Reason]:
        for pid, mode, granted, query in found:
            if mode == question.OF_A_VACUUM:
                wraparound = " (to prevent wraparound)" if "(to prevent wraparound)" in (query or "") else ""
                yield Reason("vacuum", f"a vacuum{wraparound} works on {leaf.told}", pid, leaf.oid, held=True)
            else:
                who = f"pid {pid}" if pid else "a prepared transaction"
                verb = "holds" if granted else "waits for"
                yield Reason("lock", f"{who} {verb} {mode} on {leaf.told}", pid, leaf.oid, held=True)

    def _held(self, found: list[Reason], leaf: Leaf, now: float) -> Iterator[Reason]:
        """Of what may never end only what has not been given way to for long enough. What has gone begins anew."""
        limit, there = self.limits.hold / 1000, {reason.key for reason in found if reason.held}
        for gone in [key for key in self._since if key not in there and key[-1] in (None, leaf.oid)]:
            del self._since[gone]
            self._told.pop(gone, None)
        for reason in found:
            given = now - self._since.setdefault(reason.key, now) if reason.held else 0.0
            if given > limit:
                self._tell(
                    reason.key, f"goes on after a hold of {_time(limit)}: {reason.text}", now, again=float("inf")
                )
            elif reason.held:
                yield replace(reason, text=f"{reason.text}, given way for {_time(given)} (limit {_time(limit)})")
            else:
                yield reason

    def _tell(self, what: object, line: str, now: float, *, again: float = _TELL) -> None:
        if now - self._told.get(what, float("-inf")) >= again:
            self._told[what] = now
            self.say(line)


def _segment(name: str, size: int) -> int | None:
    """The number of a WAL segment by its file's name; None for a timeline's history."""
    try:
        return int(name[8:16], 16) * (2**32 // size) + int(name[16:24], 16)
    except ValueError:
        return None


def _time(seconds: float) -> str:
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f}".removesuffix(".0") + " s"


def _size(size: int) -> str:
    unit = next((unit for unit in (1024**3, 1024**2) if size >= unit), 1024)
    return f"{size / unit:.1f}".removesuffix(".0") + {1024**3: " GB", 1024**2: " MB", 1024: " kB"}[unit]
