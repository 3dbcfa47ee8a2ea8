"""What it costs to fill a column by batches, next to one UPDATE and to the loops that people write; and what others feel of it.

Each contestant fills the same column of a fresh copy of the same table, in turns. Rows a second are counted from the first
statement to the last; the whole command's, with the start of Python, stand beside. Once without the index on ``task_id`` and
once with it: in an index of few values PostgreSQL looks for dead versions whenever a page is full, and between two commits it
finds some, so every batch costs more there and leaves a smaller index. Autovacuum is somebody at work: it is off for the
table, and what ours takes beside it stands by itself, for ours waits for a vacuum. Under load, readers and writers send
transactions at a fixed rate (:mod:`.load`), and their 99th percentile is held against that of a time without a backfill: beside
ours as it is, and with more of the time (``backfill_share``).
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from bench.availability import EMPTY, fresh_copy, prepare
from bench.changes import CHANGES
from bench.load import Record, load, percentile, settle
from bench.side_by_side import history, server

ROWS = 2_000_000
TURNS = 3
LOOP_ENDS = 30.0
"""Seconds after which a loop that people write has shown how fast it is."""
LOAD_ENDS = 60.0
"""Seconds after which ours beside an application is stopped; as long is the time without it, that both meet the same."""

REVISION = '''\
"""Fill note.

Version: 002
Description: Fill a column
Author: A Tester <tester@example.org>
Date: 2026-01-31
Dependencies: 001
Type: data
Phase: migrate
Transaction: none
Reversible: lossless
"""

from alembic import op

from mcp_planner_schema.operations import expect

revision = "002"
down_revision = "001"
branch_labels = None
depends_on = None

expectations = [expect.rows("SELECT FROM steps WHERE legacy <> title", count=0)]


def upgrade() -> None:
    op.backfill("steps", set={"legacy": "filled.title"}, where="filled.legacy IS DISTINCT FROM filled.title")


def downgrade() -> None:
    op.execute("SELECT 1")
'''
SET = "UPDATE steps SET legacy = title WHERE legacy IS DISTINCT FROM title"


def main() -> None:
    """Print rows a second, their ratio to one UPDATE, the memory of the process, and what others feel."""
    rows = int(os.environ.get("ROWS") or ROWS)
    with server() as where, history(0, guarded=True) as project:
        (project / "alembic" / "versions" / "001_create_nothing.py").write_text(EMPTY)
        prepare(where, project, rows)
        (project / "alembic" / "versions" / "002_fill_note.py").write_text(REVISION)
        _alone(where, project, rows, "two indexes", alone("DROP INDEX ix_steps_task_id"))
        _alone(where, project, rows, "and a third one, of few values", alone())
        _alone(where, project, rows, "the same, beside autovacuum", ("SELECT",), only=("one UPDATE", "ours"))
        _under_load(where, project, rows)


def alone(*before: str) -> tuple[str, ...]:
    """What is done to a fresh copy before it is filled with nobody else at work."""
    return (*before, "ALTER TABLE steps SET (autovacuum_enabled = off)")


def _alone(where: Any, project: Path, rows: int, called: str, before: Sequence[str], only: Sequence[str] = ()) -> None:
    print(f"\nfilling a column of {rows:,} rows, {called} (medians of {TURNS} interleaved runs)")
    print("| how | s | rows/s | to one UPDATE | whole command, s | memory grew by, MB | indexes, MB |")
    print("|---|---|---|---|---|---|---|")
    contestants: dict[str, Callable[[str], Done]] = {
        "one UPDATE": _one_update,
        "ours": lambda url: _ours(project, url),
        "1,000 rows by key": lambda url: _loop(url, _by_key),
        "1,000 rows by OFFSET": lambda url: _loop(url, _by_offset),
    }
    found: dict[str, list[tuple[Done, int]]] = {name: [] for name in only or contestants}
    for _ in range(TURNS):
        for name, done in found.items():
            url = fresh_copy(where, None)
            with _cursor(url) as cursor:
                for statement in before:
                    cursor.execute(statement)
                one = contestants[name](url)
                cursor.execute("SELECT pg_indexes_size('steps') / 1024 / 1024")
                done.append((one, cursor.fetchone()[0]))
    usual = statistics.median(one.rate for one, _ in found["one UPDATE"])
    for name, done in found.items():
        rate, seconds, whole = (
            statistics.median(getattr(one, of) for one, _ in done) for of in ("rate", "seconds", "whole")
        )
        grew = f"{max(one.grew for one, _ in done) / 1024:.1f}" if name == "ours" else ""
        size = statistics.median(size for _, size in done)
        print(
            f"| {name} | {seconds:.1f} | {rate:,.0f} | {rate / usual:.2f} | {whole:.1f} | {grew} | {size:.0f} |",
            flush=True,
        )


@dataclass(frozen=True)
class Done:
    """So many rows in so many seconds; ``whole`` with what the command does before and after. ``grew``: kB of memory."""

    rows: int
    seconds: float
    whole: float
    grew: int = 0

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


def _one_update(url: str) -> Done:
    with _cursor(url) as cursor:
        began = time.perf_counter()
        cursor.execute(SET)
        took = time.perf_counter() - began
        return Done(cursor.rowcount, took, took)


def _ours(project: Path, url: str, ends: float = float("inf"), **environment: str) -> Done:
    """The command as a process; its memory is looked at from when it has written the first rows. Stopped after ``ends`` s."""
    began, sizes = time.perf_counter(), list[int]()
    process = subprocess.Popen(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=project, env={**os.environ, "DATABASE_URL": url, **environment}, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with _cursor(url) as cursor:
        stopped = False
        while process.poll() is None:
            time.sleep(0.5)
            if not stopped and time.perf_counter() - began > ends:
                stopped = True
                process.terminate()
            cursor.execute("SELECT to_regclass('migration.backfill_range') IS NOT NULL")
            if cursor.fetchone()[0]:
                cursor.execute("SELECT sum(rows_written) > 0 FROM migration.backfill_range")
                if cursor.fetchone()[0] and process.poll() is None:
                    sizes.append(_resident(process.pid))
        if process.returncode and not stopped:
            sys.exit(process.stderr.read() if process.stderr else "ours failed")
        whole = time.perf_counter() - began
        cursor.execute(
            "SELECT extract(epoch FROM coalesce(b.done_at, max(r.moved_at)) - b.begun_at)::float8, sum(r.rows_written)::bigint "
            "FROM migration.backfill b JOIN migration.backfill_range r ON r.backfill = b.id GROUP BY b.id"
        )
        seconds, rows = cursor.fetchone()
    return Done(rows, seconds, whole, max(sizes) - sizes[0] if sizes else 0)


def _resident(pid: int) -> int:
    """What the process has in memory, in kB."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


def _loop(url: str, batch: Callable[[Any, int, int], tuple[int, int]]) -> Done:
    """Batches until none is left, or it has shown how fast it is; each commits."""
    rows, reached, number, began = 0, 0, 0, time.perf_counter()
    with _cursor(url) as cursor:
        while time.perf_counter() - began < LOOP_ENDS:
            written, reached = batch(cursor, number, reached)
            rows, number = rows + written, number + 1
            if not written:
                break
    took = time.perf_counter() - began
    return Done(rows, took, took)


def _by_key(cursor: Any, number: int, reached: int) -> tuple[int, int]:
    cursor.execute(
        "WITH batch AS (SELECT id FROM steps WHERE id > %s ORDER BY id LIMIT 1000), written AS (UPDATE steps SET legacy = title "
        "FROM batch WHERE steps.id = batch.id) SELECT count(*), max(id) FROM batch",
        (reached,),
    )
    return cursor.fetchone()  # type: ignore[no-any-return]


def _by_offset(cursor: Any, number: int, reached: int) -> tuple[int, int]:
    cursor.execute(
        "UPDATE steps SET legacy = title WHERE id IN (SELECT id FROM steps ORDER BY id LIMIT 1000 OFFSET %s)",
        (number * 1000,),
    )
    return cursor.rowcount, 0


def _under_load(where: Any, project: Path, rows: int) -> None:
    print("\nwhat readers and writers feel of ours (300 transactions a second; latency from the scheduled time)")
    print("| | s | rows/s | 99 %, ms | to idle | 99.9 %, ms | worst, ms | errors |")
    print("|---|---|---|---|---|---|---|---|")
    idle = 0.0
    for turn in range(TURNS):
        for name in ("idle", "ours", "share 0.1", "share 1"):
            url = fresh_copy(where, None)
            folder = Path(tempfile.mkdtemp(prefix="mcp-bench-"))
            try:
                with load(where.binaries, url, folder, rows, CHANGES[0].scripts) as records:
                    begun = settle(3.0)
                    if name == "idle":
                        done = Done(0, LOAD_ENDS, settle(LOAD_ENDS))
                    else:
                        share = {} if name == "ours" else {"PLANNER_BACKFILL_SHARE": name.removeprefix("share ")}
                        done = _ours(project, url, LOAD_ENDS, **share)
                    ended = time.time()
            finally:
                shutil.rmtree(folder)
            both = Record([one for record in records.values() for one in record.within(begun, ended).transactions])
            ninety_nine = percentile(both.transactions, 0.99)
            idle = ninety_nine if name == "idle" else idle
            print(
                f"| {turn + 1}: {name} | {done.seconds:.1f} | {done.rate:,.0f} | {ninety_nine * 1000:.1f} | "
                f"{ninety_nine / idle:.2f} | {percentile(both.transactions, 0.999) * 1000:.1f} | {both.worst * 1000:.0f} | "
                f"{sum(record.errors for record in records.values())} |",
                flush=True,
            )


@contextmanager
def _cursor(url: str) -> Iterator[Any]:
    # Called as the guard's own sessions are: who looks on is not at work.
    with closing(psycopg2.connect(url, application_name="mcp-planner-guard bench")) as connection:
        connection.autocommit = True
        yield connection.cursor()
