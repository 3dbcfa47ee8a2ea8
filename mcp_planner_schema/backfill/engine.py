"""The engine: ranges are claimed one after the other, and each is worked off by batches, until none is left.

A batch is one statement and one transaction, which writes the rows and how far it has come; so a run that was killed goes on
with the next batch, and no row is written twice. Between two batches it looks who suffers, and what somebody wants of it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.backfill import batch, bypass, keep, keys, record, rows, waiters
from mcp_planner_schema.backfill.batch import Batch
from mcp_planner_schema.backfill.keys import Leaf, Range
from mcp_planner_schema.backfill.pace import Pace
from mcp_planner_schema.backfill.progress import Progress
from mcp_planner_schema.backfill.record import Claim, Record
from mcp_planner_schema.backfill.spec import Backfill, typed
from mcp_planner_schema.backfill.work import Work, busy, explained, in_time, refuse_endless, refused, unlimited
from mcp_planner_schema.guard import brief, ladder, verified
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.guard.settings import Backfill as Limits

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mcp_planner_schema.guard import journal

_REST = 0.02
"""Seconds after a batch that somebody waited for: who waited comes first."""

SESSION = {"row_security": "off", "synchronous_commit": "off"}
"""What each session of a backfill has set."""

_LOOK_AGAIN = 0.5
"""Seconds between two looks while it waits."""

_LOCKED_TRIES = 40

_FAILURES = 3
"""So often the same batch may fail by its rows until the row is looked for."""

_PASSES = 10
"""So often a table is gone through again where rows were left."""

_LOCKED = "55P03"
_IN_THE_WAY = (*ladder.TRANSIENT, ladder.CANCELED, "40001")
# Classes of SQLSTATE that no smaller batch would help: connection, feature, transaction, rights, names, resources, server.
_NOT_THE_ROW = ("08", "0A", "25", "28", "3D", "3F", "42", "53", "54", "55", "57", "58", "F0", "XX")


def _another_name(step: journal.Step) -> str:
    return (
        f'edit {step.where.split(":")[0]} (another name="…" for the new text, or the former text), then {step.repeat}'
    )


def run(
    connection: Connection, oid: int, target: str, fill: Backfill, *, limits: Limits, deadline: float,
    opened: Callable[[], AbstractContextManager[Connection]], beside: Callable[[], AbstractContextManager[Connection]],
    workers: int = 1, say: Callable[[str], None] = print, events: bool = False, keeping: brief.Keeping | None = None,
    emit: Callable[..., None] | None = None,
) -> int:  # fmt: skip
    """Work the table off with ``connection``, in autocommit, and with further ones; gives how many rows this was.

    Raises :class:`Busy` where rows stay locked or somebody has stopped it, :class:`Refused` where a row cannot be written.
    """
    step = record.step_of(connection)
    leaves = {leaf.told: leaf for leaf in keys.leaves(connection, oid)}
    refuse_endless(step, fill, leaves)
    begun = record.begin(connection, step, fill.name, target, fill.digest(target))
    if begun.digest != fill.digest(target) and not record.anew(connection, begun, fill.digest(target)):
        values = {"name": fill.name, "target": target}
        raise Refused([Finding("backfill-differs", step.where, step.revision, values)], _another_name(step))
    if begun.done and not fill.repeatable:
        say(f"backfill {fill.name}: done before")
        return 0
    for name in keys.foreign(connection, oid):
        say(f"warning: backfill {fill.name} leaves out {name}, whose rows lie on another server")
    _lay_out(connection, begun, leaves)
    if begun.done:
        for leaf in leaves.values():
            record.reopen(connection, begun, leaf)
    already = record.written(connection, begun)
    if begun.resumed:
        say(f"backfill {fill.name} goes on: {already[0]:,} rows were done before")
    if fill.bypass:
        bypass.begin(connection, step, begun, fill, list(leaves.values()), say)
    kept = keep.begin(connection, step, begun, keeping, fill, oid, list(leaves.values())) if keeping else None
    about = {"table": target, "revision": step.revision, "direction": step.direction}
    progress = Progress(fill.name, already[0], record.expected(connection, begun), say, about, events, emit)
    with progress.telling(resumed=begun.resumed), waiters.watching(beside, deadline) as seen:
        workers = 1 if fill.bypass else workers  # each would have the table for itself
        work = Work(fill, begun, leaves, limits, step, progress, seen, kept=kept, workers=workers)
        _together(connection, work, opened)
        while further := {leaf.told: leaf for leaf in keys.leaves(connection, oid) if leaf.told not in work.leaves}:
            work.leaves |= further  # attached meanwhile
            _lay_out(connection, begun, work.leaves)
            _together(connection, work, opened)
        _verified(connection, work, opened)
    return record.written(connection, begun)[1] - already[1]


def _lay_out(connection: Connection, begun: Record, leaves: dict[str, Leaf]) -> None:
    """Ranges for the leaves that have none."""
    for leaf in record.missing(connection, begun, leaves):
        record.lay_out(connection, begun, keys.cut(connection, leaf), first=record.laid_out(connection, begun) + 1)


def prepare(connection: Connection) -> None:
    """Make the session one for batches, see :data:`SESSION`."""
    connection.exec_driver_sql("; ".join(f"SET {name} = {value}" for name, value in SESSION.items()))


def _together(connection: Connection, work: Work, opened: Callable[[], AbstractContextManager[Connection]]) -> None:
    """All ranges, by this connection and those of the other workers. The first failure stops all, and is raised."""
    failed: list[BaseException] = []

    def also() -> None:
        try:
            with opened() as other:
                prepare(other)
                _ranges(other, work)
        except BaseException as error:  # raised by the thread that waits for this one
            failed.append(error)
            work.stop.set()

    threads = [threading.Thread(target=also, daemon=True) for _ in range(work.workers - 1)]
    for thread in threads:
        thread.start()
    try:
        _ranges(connection, work)
        for leaf in [] if failed else work.leaves.values():
            if not leaf.key:
                _pass_again(connection, work, leaf)
    except BaseException:
        work.stop.set()
        raise
    finally:
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]
    if record.left(connection, work.record):
        raise busy(work, "another session works on it")


def _ranges(connection: Connection, work: Work) -> None:
    """Claim and work off, until nobody has left a range."""
    pace = Pace(work.whole, work.fill.most)
    while not work.stop.is_set():
        claimed = record.claim(connection, work.record, work.leaves)
        if claimed is None:
            return
        began = time.monotonic()
        wanted = record.wanted(connection, work.record)
        pace.went(time.monotonic() - began)
        _look_around(connection, work, claimed.range.leaf, wanted, felt=False)
        with work.working():
            _batches(connection, work, pace, claimed)


def _pass_again(connection: Connection, work: Work, leaf: Leaf) -> None:
    """A row without a key may have gone, while it was updated, where the pass had been already, or behind the last block that
    there was: once more, until none is left."""
    for _ in range(_PASSES):
        (written, end), now = record.pass_written(connection, work.record, leaf), keys.pages(connection, leaf)
        if not written and now <= end:
            return
        if now > end:
            further = [Range(leaf, (str(end),), (str(now),))]
            record.lay_out(connection, work.record, further, first=record.laid_out(connection, work.record) + 1)
        if written:
            record.reopen(connection, work.record, leaf)
            work.progress.again(leaf.expected)
        _ranges(connection, work)
    raise busy(
        work, f"the rows of {leaf.told}, which has no key, are changed faster than they can be taken by their places"
    )


def _batches(connection: Connection, work: Work, pace: Pace, mine: Claim) -> None:
    """One range, from where it was left."""
    from sqlalchemy.exc import DBAPIError

    pid = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]  # psycopg2's
    failures = tries = 0
    before = pace.took[-1][1] if pace.took else 0.0  # of the range before, whose end nobody has written down
    while not work.stop.is_set():
        pace.aim(work.target(pace.trip), work.whole)
        one, began = None, time.monotonic()
        try:
            one = batch.following(connection, mine.rest, pace.size)
            asked, began = time.monotonic() - began, time.monotonic()
            if mine.range.leaf.key:  # of a table without one nothing is asked
                pace.went(asked)
            with work.seen.batch(pid), in_time(connection, work, one):
                wanted = batch.write(connection, work.fill, one, mine, work.record.schema, before, work.kept)
        except rows.Failed as failed:
            raise refused(work, "backfill-function", one, failed.row, failed.problem) from failed
        except bypass.Locked as locked:
            raise busy(work, f"somebody keeps {locked} locked") from locked
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            spent = time.monotonic() - began - _not_the_servers(connection)
            code = getattr(error.orig, "pgcode", None) or ""
            if one is None or (code[:2] in _NOT_THE_ROW and code not in _IN_THE_WAY):
                raise explained(work, error, code) from error
            if code != _LOCKED:  # it has worked, and not waited
                work.rest(spent, lambda: record.wanted(connection, work.record))
            if code in _IN_THE_WAY:
                tries = _give_way(work, pace, one, tries)
                _look_around(connection, work, one.range.leaf, record.wanted(connection, work.record), felt=False)
            else:
                failures += 1
                _isolate(work, pace, one, failures, error)
            continue
        before = time.monotonic() - began - connection.info.pop(bypass.WAITED, 0.0)
        busy_for = asked + before - _not_the_servers(connection) - 2 * pace.trip
        tries = 0
        if failures < _FAILURES:  # else it looks for a row: no batch grows beyond what has failed
            failures = 0
            pace.done(one.rows, before, felt=pid in work.seen.felt and not work.fill.bypass)
        if wanted is None:
            return
        work.progress.moved(one.rows)
        if wanted == "run":
            wanted = work.rest(busy_for, lambda: record.wanted(connection, work.record)) or wanted
        if one.last:
            return
        mine = replace(mine, reached=one.reached)
        if work.fill.bypass and pid in work.seen.felt:
            work.stop.wait(before)  # everybody who writes waits for each batch: half of the time is theirs
        _look_around(connection, work, one.range.leaf, wanted, felt=pid in work.seen.felt)


def _not_the_servers(connection: Connection) -> float:
    """Seconds of the last batch in which the server had nothing to do: a lock was waited for, or a function computed."""
    return float(connection.info.pop(bypass.WAITED, 0.0) + connection.info.pop(rows.COMPUTING, 0.0))


def _give_way(work: Work, pace: Pace, one: Batch, tries: int) -> int:
    """A batch met a locked row, or somebody waited for it too long: a smaller one; of one row, a moment later."""
    if one.rows > 1:
        pace.halve()
        time.sleep(_REST)
        return tries
    tries += 1
    if tries == _LOCKED_TRIES:
        raise busy(work, f"it met rows that somebody keeps locked, try {tries}")
    work.say(f"backfill {work.fill.name} waits for a locked row (try {tries} of {_LOCKED_TRIES})")
    work.stop.wait(min(2.0, 0.1 * 1.3**tries) * (0.5 + random.random() / 2))
    return tries


def _isolate(work: Work, pace: Pace, one: Batch, failures: int, error: Any) -> None:
    """Some row of a batch cannot be written: after three failures smaller and smaller batches look for it, and it is named."""
    if failures < _FAILURES:
        return
    if one.rows > 1:
        pace.size = max(1, one.rows // 2)
        return
    said = str(error.orig).strip().split("\n")[0]
    raise refused(work, "backfill-row", one, ", ".join(map(str, one.reached or ("the last one",))), said) from error


def _look_around(connection: Connection, work: Work, leaf: Leaf, wanted: str, *, felt: bool) -> None:
    """Between two batches: give way, wait while somebody suffers, do what somebody wants from another shell."""
    if felt:
        time.sleep(_REST)
    while True:
        if wanted == "stop":
            raise busy(work, "somebody has stopped it")
        paused = wanted == "pause"
        asked = [f"somebody has paused it; next: {typed('resume', work.fill.name)}"] if paused else []
        why = asked or work.feedback.reasons(connection, leaf)
        work.progress.lag, work.progress.beside_others = work.feedback.lag, work.feedback.others
        if work.progress.waits(why, wished=paused):
            record.waits(connection, work.record, work.progress.waits_for)
        if (rate := work.progress.keep()) is not None:
            record.keep_rate(connection, work.record, rate)
        if not why or work.stop.wait(_LOOK_AGAIN):
            return
        wanted = record.wanted(connection, work.record)


def _verified(connection: Connection, work: Work, opened: Callable[[], AbstractContextManager[Connection]]) -> None:
    """Done, when the query says that nothing is left. Rows that came meanwhile are taken by another pass."""
    left = _left(connection, work)
    for _ in range(_PASSES if work.fill.repeatable else 0):
        if not left:
            break
        before = record.written(connection, work.record)[1]
        work.say(f"backfill {work.fill.name}: {left:,} rows are left, once more")
        for leaf in work.leaves.values():
            record.reopen(connection, work.record, leaf)
            work.progress.again(leaf.expected)
        _together(connection, work, opened)
        left = _left(connection, work)
        if record.written(connection, work.record)[1] == before:
            break  # no row meets the predicate any more: what is left is not for this backfill
    if left:
        values = {"name": work.fill.name, "count": f"{left:,}"}
        raise Refused(
            [Finding("backfill-unverified", work.step.where, work.step.revision, values)], work.step.repeat,
            "what was written stays, the version has not moved",
        )  # fmt: skip
    if work.kept:
        with unlimited(connection):
            kept = keep.seal(connection, work.record.schema, work.kept)
        work.say(f"backfill {work.fill.name}: the old values of {kept:,} rows are kept in {work.kept.place}")
    record.finish(connection, work.record, verified.digest(work.fill.verify) if work.fill.verify else None)


def _left(connection: Connection, work: Work) -> int:
    if not work.fill.verify:
        return 0
    with unlimited(connection):
        return int(execute(connection, work.fill.verify).scalar() or 0)
