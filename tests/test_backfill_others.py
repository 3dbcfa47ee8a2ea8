"""A backfill beside an application: it takes its share of the time, in small batches, while other sessions are at work."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from mcp_planner_schema.backfill import keys
from mcp_planner_schema.backfill.feedback import Feedback
from mcp_planner_schema.backfill.pace import Pace
from mcp_planner_schema.backfill.spec import Backfill, Bypass, Rows
from mcp_planner_schema.backfill.waiters import Waiters
from mcp_planner_schema.backfill.work import Work
from mcp_planner_schema.guard.findings import Busy
from mcp_planner_schema.guard.settings import Backfill as Limits
from tests.conftest import Database, Project
from tests.test_backfill import ROWS, begin, ordinary  # noqa: F401  # a fixture
from tests.until import until

FILL = 'op.backfill("t", set={"n": "length(md5(repeat(filled.id::text, 30000)))"})'
SHARE = "takes 20% of the time, in small batches, for others are at work (backfill_share)"
BLIND = (
    "cannot see what other sessions do, and takes them to be at work: GRANT pg_read_all_stats to the role that migrates"
)
# Of the time from the first batch to the last that all workers were in a batch, and how many rows a batch had.
TOOK = """
SELECT sum(seconds) / extract(epoch FROM done_at - begun_at)::float8, (sum(rows_seen) / sum(batches))::int,
       sum(rows_written)::int, sum(seconds)
FROM migration.backfill b JOIN migration.backfill_range r ON r.backfill = b.id GROUP BY done_at, begun_at
"""


@contextmanager
def at_work(database: Database) -> Iterator[None]:
    """Another session asks something several times a second."""
    done = threading.Event()

    def work() -> None:
        with database.connect() as connection, connection.cursor() as cursor:
            while not done.wait(0.2):
                cursor.execute("SELECT 1")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def asking(database: Database, share: float = 0.2) -> Iterator[Any]:
    """What a backfill of t would see of others between two batches; what it has said."""
    made = sa.create_engine(
        database.url.replace("postgresql:", "postgresql+psycopg2:"), poolclass=sa.NullPool,
        connect_args={"application_name": "mcp-planner-guard"},
    )  # fmt: skip
    with made.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (id int PRIMARY KEY)")
        oid = connection.exec_driver_sql("SELECT 't'::regclass::oid::bigint").scalar_one()
        said: list[str] = []
        feedback, leaf = (
            Feedback(Limits(1, 3_600_000, 600_000, share=share), said.append),
            keys.leaves(connection, oid)[0],
        )

        def others() -> bool:
            feedback._free.clear()  # it asks each time
            assert feedback.reasons(connection, leaf) == []
            return feedback.others

        yield others, said


@pytest.mark.parametrize(
    ("workers", "alone"), [("1", True), ("1", False), pytest.param("3", False, marks=pytest.mark.long)]
)
def test_it_takes_its_share_beside_others(
    empty: Database,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    workers: str,
    alone: bool,
) -> None:
    """All workers together: a fifth of the time in small batches; all of it, in large ones, where nobody else is there."""
    monkeypatch.setattr(keys, "_ROWS_A_RANGE", 500)
    monkeypatch.setattr(keys, "_SAMPLED", 1000)  # of a table of few blocks a sample of some may have none
    begin(project, FILL, rows=ROWS.format(count=1_500))
    project.configure(backfill_share="0.2")
    empty.rows("ANALYZE t")

    if alone:
        project.upgrade(workers=workers)
    else:
        with at_work(empty):
            project.upgrade(workers=workers)

    ((share, size, rows, seconds),) = empty.rows(TOOK)
    said = capfd.readouterr()
    assert rows == 1_500
    assert (said.out + said.err).count(SHARE) == (0 if alone else 1)
    if alone:
        assert size > 150
    else:
        assert (0.05 < share < 0.25, size < 150) == (True, True), (share, size, seconds)


def test_the_guard_is_not_at_work_beside_itself(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor where the URL gives every session a name: with three workers, a watcher and the deploy lock nobody else is there."""
    monkeypatch.setattr(keys, "_ROWS_A_RANGE", 500)
    monkeypatch.setattr(keys, "_SAMPLED", 1000)  # of a table of few blocks a sample of some may have none
    begin(project, FILL, rows=ROWS.format(count=1_500))
    project.configure(backfill_share="0.2")
    empty.rows("ANALYZE t")
    monkeypatch.setenv("DATABASE_URL", f"{empty.url}{'&' if '?' in empty.url else '?'}application_name=app")

    project.upgrade(workers="3")

    said = capfd.readouterr()
    assert SHARE not in said.out + said.err
    assert empty.value("SELECT count(*) FROM t WHERE n = 32") == 1_500


def test_it_is_stopped_from_another_shell_while_it_rests(empty: Database, project: Project) -> None:
    """A rest of many seconds ends within one, and no batch comes behind it."""
    begin(project, 'op.backfill("t", set={"n": "length(md5(repeat(filled.id::text, 1000000)))"}, batch=200)')
    project.configure(backfill_share="0.01")
    ended = list[BaseException]()

    def run() -> None:
        with pytest.raises(Busy) as stopped:
            project.upgrade()
        ended.append(stopped.value)

    thread = threading.Thread(target=run)
    with at_work(empty):
        thread.start()
        until(lambda: empty.value("SELECT to_regclass('migration.backfill_range') IS NOT NULL")
              and empty.value("SELECT coalesce(sum(batches), 0) FROM migration.backfill_range") >= 1)  # fmt: skip
        empty.rows("UPDATE migration.backfill SET wanted = 'stop'")
        before, began = empty.value("SELECT sum(batches) FROM migration.backfill_range"), time.monotonic()
        thread.join()
        took = time.monotonic() - began

    assert "somebody has stopped it" in str(ended[0])
    assert empty.value("SELECT sum(batches) FROM migration.backfill_range") == before == 1
    assert took < 5


def test_who_is_at_work(empty: Database) -> None:
    """Who runs a statement, or has asked one within two seconds; not who only holds a connection, nor the guard."""
    with asking(empty) as (others, said), empty.connect() as person, person.cursor() as cursor:
        until(lambda: not others())  # it has connected, and asks nothing
        said.clear()
        assert not others()
        cursor.execute("SELECT 1")
        assert others()
        until(lambda: not others())

        def sleep() -> None:
            with pytest.raises(psycopg2.errors.QueryCanceled):
                cursor.execute("SELECT count(*) FROM generate_series(1, 10000000000)")

        busy = threading.Thread(target=sleep)
        busy.start()
        threading.Event().wait(3)
        assert others()  # its statement has begun three seconds ago
        cursor.connection.cancel()
        busy.join()
        assert said == []  # told when it has connected, and once


def test_nobody_asks_who_is_at_work_where_it_takes_all_the_time(empty: Database) -> None:
    """With a share of 1 it goes on as if it were alone."""
    with asking(empty, share=1.0) as (others, said), at_work(empty):
        threading.Event().wait(0.5)
        assert not others()
        assert said == []


def test_whose_work_cannot_be_seen_is_taken_to_be_at_work(
    ordinary: Database,  # noqa: F811
    empty: Database,
) -> None:
    """An ordinary role sees no other role's state: it is careful, says why once, and what would change that."""
    with asking(ordinary) as (others, said), empty.connect() as person:
        assert others()
        assert others()
        assert [line for line in said if "sessions" in line] == [BLIND]
        empty.rows(f"GRANT pg_read_all_stats TO {ordinary.user}")
        until(lambda: not others())
        person.close()


def test_waiting_for_a_lock_is_no_work(empty: Database) -> None:
    """Who has waited for longer than two seconds, as a leader in waiting does, keeps no backfill slow."""
    with asking(empty) as (others, _), empty.connect() as leader, empty.connect() as second:
        leader.cursor().execute("SELECT pg_advisory_lock(1)")
        waiting = threading.Thread(target=lambda: second.cursor().execute("SELECT pg_advisory_lock(1)"))
        waiting.start()
        assert others()
        until(lambda: not others())
        assert waiting.is_alive()
        leader.cursor().execute("SELECT pg_advisory_unlock(1)")
        waiting.join()


@pytest.mark.parametrize(
    ("others", "given", "trip", "target"),
    [
        (False, {}, 0.5, 0.2),
        (True, {}, 0.0, 0.005),
        (True, {}, 0.001, 0.01),
        (True, {}, 0.01, 0.1),  # far away: a batch that takes as long as the way costs the server nothing
        (True, {}, 1.0, 0.2),
        (True, {"rows": Rows(lambda batch: [], (), ())}, 0.0, 0.2),
        (True, {"bypass": Bypass(("x",), "a reason")}, 0.0, 0.1),
    ],
)  # fmt: skip
def test_how_long_a_batch_is_to_take(others: bool, given: Any, trip: float, target: float) -> None:
    """A fortieth beside others, never less than ten ways; what locks the table, or is computed, stays as it is."""
    work = Work.__new__(Work)
    work.fill = Backfill("b", "n = 1", **given)
    work.limits, work.seen = Limits(200, 1, 1, share=0.2), Waiters(0.2)
    work.feedback = Feedback(work.limits, lambda line: None, others=others)

    assert work.target(trip) == pytest.approx(target)


def test_a_batch_is_smaller_at_once_and_grows_again() -> None:
    """A target of a tenth cuts the next batch to what takes so long; back at the whole one it grows by a fifth each."""
    pace = Pace(0.2, 10**9)
    pace.aim(0.02, 0.2)
    assert pace.size == 200  # nothing is known yet
    pace.done(200, 0.02, felt=False)
    sizes = []
    pace.aim(0.2, 0.2)
    for _ in range(20):
        sizes.append(pace.size)
        pace.done(pace.size, pace.size / 10_000, felt=False)
    assert all(after <= before * 1.2 + 1 for before, after in itertools.pairwise(sizes))
    assert 1_700 < sizes[-1] < 2_000
    for _ in range(3):  # there and back again
        pace.aim(0.02, 0.2)
        assert 170 < pace.size < 200
        pace.aim(0.2, 0.2)


@pytest.mark.parametrize("size", [1, 2_000])
@pytest.mark.parametrize(
    ("fixed", "a_row", "least"), [(0.05, 1e-5, 1_000), (0.0, 1e-3, 12), (0.0, 1e-5, 1_000), (0.0, 0.1, 1)]
)
def test_what_a_batch_costs_by_itself_does_not_make_it_smaller_and_smaller(
    fixed: float, a_row: float, least: int, size: int
) -> None:
    """Beside others too: where to begin takes longer than a small batch is to take, it is larger; else it keeps the target."""
    pace, sizes = Pace(0.2, 10**9, size), list[int]()
    for _ in range(200):
        pace.aim(0.02, 0.2)
        sizes.append(pace.size)
        pace.done(pace.size, fixed + pace.size * a_row, felt=False)

    assert sum(sizes[100:]) / 100 >= least
    assert max(sizes[100:]) * a_row < 0.25
