"""How far a step has come: filled while it runs, read for its history row and for the line people see."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import body, evidence, history, lineage, source, watch
from mcp_planner_schema.guard.deadline import Clock
from mcp_planner_schema.guard.judge import Judged
from mcp_planner_schema.guard.transaction import Seen

if TYPE_CHECKING:
    from alembic.runtime.migration import RevisionStep, StampStep
    from alembic.script import Script
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.archive import Archive
    from mcp_planner_schema.guard.fingerprint import Picture

    Step = RevisionStep | StampStep


_COUNTERS = """
SELECT c.oid::bigint, pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid) + pg_catalog.pg_stat_get_xact_tuples_updated(c.oid)
       + pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid)
FROM pg_catalog.pg_class c WHERE c.relkind = 'r' AND c.oid >= 16384
"""
_TOUCHED = """
SELECT pg_catalog.pg_current_xact_id_if_assigned()::text, ARRAY(
  SELECT DISTINCT relation::oid::bigint FROM pg_catalog.pg_locks
  WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND relation >= 16384 AND mode <> 'AccessShareLock')
"""


@dataclass
class Progress:
    """One step over all its attempts. Times are of ``time.monotonic()`` in seconds, ``hold_ms`` in milliseconds: see ``held()``.

    ``row_xid`` is the transaction that the attempt's row of ``history`` was written in, its last statement: empty before that.
    ``own`` are the revision's budgets. ``checksum`` is computed before the first attempt: it takes long enough to be felt under
    a lock. ``rehearsed``: whatever happens to it, it is rolled back. ``restored``: what an earlier downgrade kept came back in
    it; ``wrote`` are tables of which it has written what nobody else had written to since, ``handed``
    what a downgrade has read and made (see :mod:`.handed_on`). ``known`` are the locks that its
    trace has found, by table. ``scripts`` are those that it has run, ``bypassed`` says what its backfills have silenced,
    ``noted`` is what is kept of the revisions that are applied by it. ``locks`` are those that it held at its end, ``wal_from``
    is where the server's WAL stood
    when the attempt began. ``late``: the last try was ended by its deadline; ``slow`` counts the tries at the end that were,
    with nobody in the way. ``picture`` is what the catalog was like at its end. ``in_the_way``: the last try failed among rows
    that had come back; ``afterwards``: so they come back after the body (see ``Back``). ``before_commit`` is to be called
    before the body commits in the middle.
    """

    name: str
    direction: str
    description: str | None
    judged: Judged | None
    began: float = field(default_factory=time.monotonic)
    started_at: Any = None
    hold_from: float = 0.0
    hold_ms: float = 0.0
    attempts: int = 0
    waits: watch.Waits = field(default_factory=watch.Waits)
    seen: Seen = field(default_factory=Seen)
    rows: int | None = None
    committed: bool = False
    skipped: bool = False
    heads: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    checksum: str | None = None
    row_xid: str = ""
    own: dict[str, int] = field(default_factory=dict)
    archive: Archive | None = None
    rehearsed: bool = False
    restored: bool = False
    wrote: tuple[int, ...] = ()
    handed: dict[str, Any] = field(default_factory=dict)
    clock: Clock = field(default_factory=lambda: Clock(math.inf))
    known: dict[str, str] = field(default_factory=dict)
    locks: dict[str, str] = field(default_factory=dict)
    wal_from: str = ""
    late: bool = False
    slow: int = 0
    in_the_way: bool = False
    afterwards: int = 0
    before_commit: Callable[[], None] | None = None
    scripts: list[dict[str, Any]] = field(default_factory=list)
    bypassed: list[str] = field(default_factory=list)
    picture: Picture | None = None
    noted: list[lineage.Noted] = field(default_factory=list)

    @property
    def parts(self) -> bool:
        """Whether it commits in the middle: then it holds each lock for a part of its time."""
        header = self.judged.header if self.judged else None
        return header is not None and header.transaction == "none"

    def held(self) -> float:
        """Milliseconds for which it may have held a lock at most: its last try; where it commits in the middle, the longest
        that a lock was seen which readers or writers wait for."""
        if self.parts:
            return max(self.clock.longest, self.clock.held()) * 1000
        return (time.monotonic() - self.hold_from) * 1000 if self.hold_from else 0.0

    @property
    def where(self) -> str:
        """The place findings point to: the file's header, or the name of what has no file."""
        return self.judged.source.shown + ":1" if self.judged and self.judged.source else self.name


def of(step: Step, judged: Judged | None, reason: str | None) -> Progress:
    """A step that has not begun. ``reason`` is why a version is stamped, where somebody has said so."""
    header = judged.header if judged else None
    direction = direction_of(step)
    described = header.description if header else reason if direction == "stamp" else step.doc
    progress = Progress(name_of(step), direction, described, judged)
    progress.checksum = source.checksum(judged.source, judged.sql) if judged and judged.source else None
    progress.own = body.budgets(judged.source) if judged and judged.source else {}
    return progress


def direction_of(step: Step) -> str:
    """``upgrade``, ``downgrade`` or ``stamp``."""
    return "stamp" if step.info.is_stamp else "upgrade" if step.is_upgrade else "downgrade"


def name_of(step: Step) -> str:
    """The revision a step is about: the one it applies or takes back, or the stamped one."""
    info = step.info
    ids = info.destination_revision_ids if info.is_stamp else info.up_revision_ids
    return ", ".join(ids) or "base"


def script_of(step: Step) -> Script:
    """The revision file behind a step; a stamp has none."""
    script: Script = step.revision  # type: ignore[union-attr]  # callers have asked direction_of() first
    return script


def entry(progress: Progress, outcome: str, error: str | None = None) -> history.Entry:
    """The row of ``history`` for a step that ends now."""
    header = progress.judged.header if progress.judged else None
    judged, whole = progress.judged, outcome == "done" and not progress.committed
    return history.Entry(
        revision=progress.name,
        direction=progress.direction,
        outcome=outcome,
        description=progress.description,
        author=header.author if header else None,
        started_at=progress.started_at or dt.datetime.now(dt.UTC),
        duration_ms=(time.monotonic() - progress.began) * 1000,
        lock_wait_ms=progress.waits.waited * 1000,
        hold_ms=progress.hold_ms,
        attempts=progress.attempts,
        rows_touched=progress.rows,
        checksum=progress.checksum,
        source=source.kept(judged.source, judged.sql) if judged and judged.source else None,
        waivers=(*(map(str, header.waivers) if header else ()), *progress.bypassed),
        error=error,
        scripts=tuple(progress.scripts),
        xid=progress.seen.xid if whole and progress.wrote else None,
        wrote=progress.wrote if whole else (),
        handed=progress.handed if whole else {},
    )


def touched(connection: Connection) -> tuple[str | None, list[int]]:
    """The running transaction's id, if it has one, and the tables it holds more than a reader's lock on."""
    xid, tables = connection.exec_driver_sql(_TOUCHED).one()
    return xid, tables


def counters(connection: Connection) -> dict[int, int]:
    """Row counters that earlier transactions of this session have left behind, of every table: only differences count."""
    return {oid: count or 0 for oid, count in connection.exec_driver_sql(_COUNTERS)}


def written(connection: Connection, tables: list[int], before: dict[int, int], schema: str) -> dict[int, int]:
    """Rows inserted, updated and deleted since ``before``, of those of these tables that have any, without the guard's own."""
    counted = connection.exec_driver_sql(
        f"{_COUNTERS} AND c.oid = ANY (%s::oid[]) "
        "AND c.relnamespace NOT IN (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname ~ %s)",
        (tables, evidence.own(schema)),
    )
    return {oid: count - before.get(oid, 0) for oid, count in counted if count > before.get(oid, 0)}


def line(progress: Progress) -> str:
    """The line of a finished step."""
    path = progress.judged.path.stem if progress.judged else progress.name
    took = (time.monotonic() - progress.began) * 1000
    at_once = " at a time" if progress.parts else ""
    parts = [f"{progress.direction:<9} {path:<44} {took:7.0f} ms  held {progress.hold_ms:5.0f} ms{at_once}"]
    if progress.skipped:
        parts.append("skipped (not for this environment)")
    if progress.attempts > 1:
        parts.append(f"{progress.attempts} tries")
    if progress.rows:
        parts.append(f"{progress.rows} rows")
    return "  ".join(parts)
