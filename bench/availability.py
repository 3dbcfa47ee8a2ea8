"""What an application feels of each change: plain Alembic, plain Alembic with a lock_timeout, and the guard with its operations.

``make bench-availability [ROWS=200000] [CHANGES='create index, check']``. Readers and writers send transactions at a fixed rate
(:mod:`.load`), one more session has read the table and stays in its transaction for 20 seconds, and meanwhile the change is
made by ``alembic upgrade``, each time on a fresh copy of the same database. The numbers go to availability.json and the picture
to availability.svg; a run of some changes replaces theirs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
from alembic.config import Config

from bench import picture
from bench.changes import CHANGES, FILL, TABLES, Change
from bench.load import Record, load, percentile, settle
from bench.side_by_side import create_database, history, server
from mcp_planner_schema import generate

ROWS = 2_000_000
HERE = Path(__file__).resolve().parent
CONTESTANTS = ("plain Alembic", "with lock_timeout", "ours")
ALLOWED = 0.25
"""Seconds that the longest wait may be above that of a time without a change."""

EMPTY = '''\
"""Create nothing.

Version: 001
Description: Where everything stands before
Author: A Tester <tester@example.org>
Date: 2026-01-31
Dependencies: None
Type: schema
Phase: expand
Transaction: single
Reversible: lossless
"""

from alembic import op

from mcp_planner_schema.operations import expect

revision = "001"
down_revision = None
branch_labels = None
depends_on = None

expectations = [expect.query("SELECT 1", equals=1)]


def upgrade() -> None:
    op.execute("SELECT 1")


def downgrade() -> None:
    op.execute("SELECT 1")
'''
_REVISION = '''\
"""Alter steps.

Version: 002
Description: {name}
Author: A Tester <tester@example.org>
Date: 2026-01-31
Dependencies: 001
Type: schema
Phase: {phase}
Transaction: {transaction}
Reversible: stash
"""

import sqlalchemy as sa
from alembic import op

from mcp_planner_schema.operations import expect

revision = "002"
down_revision = "001"
branch_labels = None
depends_on = None

expectations = [{expects}]


def upgrade() -> None:
    {upgrade}


def downgrade() -> None:
    {downgrade}
'''


@dataclass(frozen=True)
class Times:
    """How long things last, in seconds: the load alone, the reader's transaction before the change and at most, what follows."""

    quiet: float = 3.0
    begun: float = 1.0
    reader: float = 20.0
    after: float = 2.0


@dataclass(frozen=True)
class Felt:
    """What readers and writers felt while one change was made in one way. Seconds."""

    change: str
    contestant: str
    rows: int
    seconds: float
    done: bool
    errors: int
    readers: tuple[float, float]
    writers: tuple[float, float]
    said: str = ""

    @property
    def worst(self) -> float:
        """The longest wait of either."""
        return max(self.readers[0], self.writers[0])


def main() -> None:
    """Measure, print the table as it grows, and draw."""
    rows = int(os.environ.get("ROWS") or ROWS)
    wanted = [name.strip() for name in os.environ.get("CHANGES", "").split(",") if name.strip()]
    unknown = set(wanted) - {change.name for change in CHANGES}
    if unknown:
        sys.exit(f"there is no change {sorted(unknown)[0]!r}; known are {', '.join(one.name for one in CHANGES)}")
    changes = [one for one in CHANGES if not wanted or one.name in wanted]
    felt: list[Felt] = []
    for one in measure(rows, changes):
        felt.append(one)
        _keep(felt)  # each time: half an hour's numbers are not lost with the last of them


def _keep(felt: Sequence[Felt]) -> None:
    """Write the numbers and the picture; what is known of other changes, with as many rows, stays. Of idle times the worse."""
    results = HERE / "availability.json"
    known = [Felt(**one) for one in json.loads(results.read_text())] if results.exists() else []
    kept = {(one.change, one.contestant): one for one in known if one.rows == felt[0].rows}
    kept |= {(one.change, one.contestant): one for one in felt}
    kept["nothing", "idle"] = max((one for one in felt if one.contestant == "idle"), key=lambda one: one.worst)
    changes, ways = ["nothing", *(change.name for change in CHANGES)], ["idle", *CONTESTANTS]
    sorted_ = sorted(kept.values(), key=lambda one: (changes.index(one.change), ways.index(one.contestant)))
    results.write_text(
        json.dumps([dataclasses.asdict(dataclasses.replace(one, said="")) for one in sorted_], indent=1) + "\n"
    )
    (HERE / "availability.svg").write_text(picture.draw(sorted_, ALLOWED))


def measure(
    rows: int, changes: Sequence[Change], times: Times = Times(), contestants: Sequence[str] = CONTESTANTS
) -> Iterator[Felt]:
    """Every change in every way, with a time without a change first and last; the table's lines are printed meanwhile."""
    print(f"\nwhat {rows:,} rows' readers and writers wait while a change is made")
    print(
        "| change | how | s | readers wait at most, ms | 99.9 % | writers wait at most, ms | 99.9 % | errors | above idle, ms |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with server() as where, history(0, guarded=True) as guarded, history(0, guarded=False) as plain:
        (guarded / "alembic" / "versions" / "001_create_nothing.py").write_text(EMPTY)
        (plain / "alembic" / "versions" / "001_create_nothing.py").write_text(EMPTY)
        prepare(where, guarded, rows)
        idle = _felt(where, None, "idle", None, rows, times)
        ways = [(change, way) for change in changes for way in contestants]
        yield _printed(idle, idle)
        for change, way in ways:
            project = guarded if way == "ours" else plain
            yield _printed(_felt(where, project, way, change, rows, times), idle)
        yield _printed(_felt(where, None, "idle", None, rows, times), idle)


def prepare(where: Any, project: Path, rows: int) -> None:
    """The database that all are copies of: the tables, their rows, and both tools at revision 001."""
    url = create_database(where, "original")
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(TABLES)
        cursor.execute(FILL.format(rows=rows))
        cursor.execute("VACUUM ANALYZE")
    upgraded(project, url)


def _felt(where: Any, project: Path | None, contestant: str, change: Change | None, rows: int, times: Times) -> Felt:
    url = fresh_copy(where, change)
    folder = Path(tempfile.mkdtemp(prefix="mcp-bench-"))
    target = _write(project, url, contestant, change) if project and change else "head"
    try:
        with load(where.binaries, url, folder, rows, (change or CHANGES[0]).scripts) as records:
            settle(times.quiet)
            with _reader(url, times.reader):
                begun = settle(times.begun)
                if project is None:
                    ended, code, said = settle(times.reader), 0, ""
                else:
                    code, said = _run(project, url, contestant, target)
                    ended = time.time()
            settle(times.after)
        during = {name: record.within(begun, ended + times.after) for name, record in records.items()}
    finally:
        shutil.rmtree(folder)
        if project:
            _forget(project)
    return Felt(
        change.name if change else "nothing",
        contestant,
        rows,
        ended - begun,
        code == 0,
        sum(record.errors for record in during.values()),
        _waits(during["readers"]),
        _waits(during["writers"]),
        said if code else "",
    )


def _waits(record: Record) -> tuple[float, float]:
    return record.worst, percentile(record.transactions, 0.999)


def fresh_copy(where: Any, change: Change | None) -> str:
    """A fresh copy of the original, all written to disk before the load begins."""
    with closing(psycopg2.connect(where.url("postgres").replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("DROP DATABASE IF EXISTS bench WITH (FORCE)")
        cursor.execute("CREATE DATABASE bench TEMPLATE original STRATEGY file_copy")
    url: str = where.url("bench").replace("+psycopg2", "")
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        if change and change.before:
            cursor.execute(change.before)
        cursor.execute("SELECT count(*) FROM steps")
        cursor.execute("CHECKPOINT")
    return url


def _write(project: Path, url: str, contestant: str, change: Change) -> str:
    """The revisions of a change; gives the one to go to."""
    if contestant == "ours" and change.kind:
        with _database(url):
            paths = generate.write(
                Config(project / "alembic.ini"), {"AUTHOR": "A Tester <tester@example.org>", **change.kind}
            )
        return paths[: change.last][-1].name[:3]
    text = _REVISION.format(
        name=change.name,
        phase=change.phase,
        transaction="none" if contestant == "ours" and change.alone else "single",
        expects=change.expects,
        upgrade=change.ours if contestant == "ours" else change.plain,
        downgrade=change.back or "pass",
    )
    (project / "alembic" / "versions" / "002_alter_steps.py").write_text(text)
    return "002"


def _forget(project: Path) -> None:
    for path in (project / "alembic" / "versions").glob("*.py"):
        if not path.name.startswith("001"):
            path.unlink()


def _run(project: Path, url: str, contestant: str, target: str) -> tuple[int, str]:
    """The change as a process. With a lock_timeout it is tried once more, as a person or a pipeline would."""
    timeout = {"PGOPTIONS": "-c lock_timeout=1s"} if contestant == "with lock_timeout" else {}
    for _ in range(2 if timeout else 1):
        done = upgraded(project, url, target, timeout, check=False)
        if done.returncode == 0:
            break
    return done.returncode, done.stdout[-1500:] + done.stderr[-1500:]


def upgraded(
    project: Path, url: str, target: str = "head", more: Mapping[str, str] = {}, *, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """``alembic upgrade`` as a process."""
    return subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", target],
        cwd=project,
        env={**os.environ, "DATABASE_URL": url, **more},
        check=check,
        capture_output=True,
        text=True,
    )


@contextmanager
def _reader(url: str, seconds: float) -> Iterator[None]:
    """A session that has read the table and stays in its transaction so long, or until the change has been made or given up.

    It ends by the server's own clock, so nothing here has to wake up for it.
    """
    with closing(psycopg2.connect(url)) as connection:
        connection.set_session(isolation_level="REPEATABLE READ")
        cursor = connection.cursor()
        cursor.execute("SELECT title FROM steps WHERE id = 1")
        cursor.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{seconds}s'")
        yield


@contextmanager
def _database(url: str) -> Iterator[None]:
    known = os.environ.get("DATABASE_URL")
    os.environ["DATABASE_URL"] = url
    try:
        yield
    finally:
        if known is None:
            del os.environ["DATABASE_URL"]
        else:
            os.environ["DATABASE_URL"] = known


def _printed(felt: Felt, idle: Felt) -> Felt:
    ms = [f"{value * 1000:.0f}" for value in (*felt.readers, *felt.writers)]
    seconds = f"{felt.seconds:.1f}" if felt.done else f"{felt.seconds:.1f}, failed"
    above = f"{max(felt.worst - idle.worst, 0) * 1000:.0f}"
    print(f"| {felt.change} | {felt.contestant} | {seconds} | {' | '.join(ms)} | {felt.errors} | {above} |", flush=True)
    if felt.said and felt.contestant == "ours":
        print(felt.said, file=sys.stderr)
    return felt


if __name__ == "__main__":
    main()
