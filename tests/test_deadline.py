"""The deadline: waiting and holding together, from a step's first strong lock to its COMMIT."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mcp_planner_schema.guard import deadline, ladder, watch
from mcp_planner_schema.guard.findings import Broken, Busy, Refused
from tests.conftest import Database, Project
from tests.until import until

ADD = 'op.execute("ALTER TABLE busy ADD COLUMN extra int")'
DROP = 'op.execute("ALTER TABLE busy DROP COLUMN extra")'


@pytest.fixture
def busy(empty: Database, project: Project) -> Iterator[Database]:
    """A database with a table that everybody uses, and somebody who is there."""
    empty.rows("CREATE TABLE busy (id int PRIMARY KEY)")
    empty.rows("INSERT INTO busy VALUES (1)")
    project.configure(lock_attempts="41")
    with empty.connect():
        yield empty


@contextmanager
def queries(database: Database) -> Iterator[list[float]]:
    """Somebody reads the table every few milliseconds; gives how long each query took, in seconds."""
    took: list[float] = []
    done = threading.Event()

    def read() -> None:
        with database.connect() as connection, connection.cursor() as cursor:
            while not done.is_set():
                began = time.monotonic()
                cursor.execute("SELECT count(*) FROM busy")
                took.append(time.monotonic() - began)
                time.sleep(0.002)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        until(lambda: took)
        yield took
    finally:
        done.set()
        thread.join(10)


def test_a_step_that_holds_too_long_is_rolled_back_and_refused(busy: Database, project: Project) -> None:
    """ALTER TABLE, then half a second of work: cancelled at the deadline five times, then refused; no query waited longer."""
    project.revision("001", "add_extra", f'{ADD}\nop.execute("SELECT pg_sleep(0.5)")', DROP)

    with queries(busy) as took:
        done = project.alembic("upgrade", "head")

    assert done.returncode == 3, done.stderr
    assert "deadline-missed" in done.stderr
    assert "it held ACCESS EXCLUSIVE on busy and needed more than 200 ms to its end, 5 times" in done.stderr
    assert done.stderr.count("it had ACCESS EXCLUSIVE on busy for more than 200 ms") == 4
    assert busy.rows("SELECT outcome, attempts FROM migration.history") == [("failed", 5)]
    assert busy.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'busy'::regclass AND attname = 'extra'") == 0
    assert max(took) < 0.45  # 0.2 s, and what a machine of two cores adds: without the deadline it is more than 0.5 s


def test_many_small_statements_share_one_deadline(busy: Database, project: Project) -> None:
    """Each statement is short and would pass any timeout of its own; together they hold the lock too long."""
    project.revision("001", "add_extra", f'{ADD}\nfor _ in range(20):\n    op.execute("SELECT pg_sleep(0.05)")', DROP)

    with pytest.raises(Refused, match="deadline-missed"):
        project.upgrade()

    assert busy.value("SELECT max(hold_ms) < 450 FROM migration.history") is True


def test_what_was_waited_for_counts_too(busy: Database, project: Project) -> None:
    """Three tables, each held by somebody for a part of the deadline: every wait is allowed, their sum is not."""
    for name in ("first", "second", "third"):
        busy.rows(f"CREATE TABLE {name} (id int)")
    body = "\n".join(f'op.execute("LOCK TABLE {name}")' for name in ("first", "second", "third"))
    project.configure(lock_timeout="190ms", lock_attempts="1")
    project.revision("001", "add_extra", f'{body}\nop.execute("SELECT 1")', 'op.execute("SELECT 1")')
    held = [busy.connect(autocommit=False) for _ in range(3)]
    connections = [one.__enter__() for one in held]
    for connection, name in zip(connections, ("first", "second", "third"), strict=True):
        connection.cursor().execute(f"LOCK TABLE {name}")

    over = threading.Event()

    def let_go() -> None:
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
        for connection, name in zip(connections, ("first", "second", "third"), strict=True):
            until(lambda name=name: over.is_set() or busy.value(waiting, name))  # type: ignore[misc]
            time.sleep(0.09)
            connection.rollback()

    thread = threading.Thread(target=let_go)
    thread.start()
    with pytest.raises(Busy, match="met a lock it did not get, try 1"):
        project.upgrade()
    over.set()
    thread.join(10)
    for one in held:
        one.__exit__(None, None, None)

    assert busy.value("SELECT hold_ms < 350 FROM migration.history") is True


def test_where_nobody_is_there_nobody_can_feel_it(empty: Database, project: Project) -> None:
    """Alone in the database a step holds its locks as long as it takes; from when a session comes on, that does not wait."""
    empty.rows("CREATE TABLE busy (id int PRIMARY KEY)")
    project.revision("001", "add_extra", f'{ADD}\nop.execute("SELECT pg_sleep(0.5)")', DROP)
    project.revision("002", "fill_busy", 'op.execute("LOCK TABLE busy")\nop.execute("SELECT pg_sleep(30)")',
                     'op.execute("SELECT 1")')  # fmt: skip
    project.configure(statement_timeout="1min", lock_attempts="1")
    failures: list[BaseException] = []

    def upgrade() -> None:
        try:
            project.upgrade()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=upgrade)
    thread.start()
    server = dataclasses.replace(empty, name="postgres")
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND query LIKE '%%pg_sleep(30)%%'"
    until(lambda: server.value(sleeping, empty.name))
    time.sleep(0.5)
    still = server.value(sleeping, empty.name)
    with empty.connect() as late, late.cursor() as cursor:
        began = time.monotonic()
        cursor.execute("SELECT count(*) FROM busy")
        waited = time.monotonic() - began
    thread.join(30)

    assert empty.rows("SELECT revision, outcome FROM migration.history ORDER BY id") == [
        ("001", "done"),
        ("002", "failed"),
    ]
    assert still == 1
    assert waited < 0.4
    assert [type(one) for one in failures] == [Busy]


def test_new_tables_do_not_start_the_clock(busy: Database, project: Project) -> None:
    """What nobody else can see stops nobody: a step that fills a table of its own takes its time."""
    body = 'op.execute("CREATE TABLE mine (id int)")\nop.execute("LOCK TABLE mine")\nop.execute("SELECT pg_sleep(0.5)")'
    project.revision("001", "create_mine", body, 'op.drop_table("mine")')

    project.upgrade()

    assert busy.rows("SELECT outcome, attempts FROM migration.history") == [("done", 1)]


@pytest.mark.parametrize("mode", ["ACCESS SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE"])
def test_locks_that_stop_no_query_do_not_start_the_clock(busy: Database, project: Project, mode: str) -> None:
    """Reading, writing and what VALIDATE takes may go on as long as the statement may."""
    body = f'op.execute("LOCK TABLE busy IN {mode} MODE")\nop.execute("SELECT pg_sleep(0.5)")'
    project.revision("001", "fill_busy", body, 'op.execute("SELECT 1")')

    project.upgrade()

    assert busy.rows("SELECT outcome, attempts FROM migration.history") == [("done", 1)]


@pytest.mark.parametrize("mode", ["SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE"])
def test_locks_that_stop_writers_start_the_clock(busy: Database, project: Project, mode: str) -> None:
    """Who may read all the time may still not write: such a lock is held no longer than the deadline either."""
    body = f'op.execute("LOCK TABLE busy IN {mode} MODE")\nop.execute("SELECT pg_sleep(0.5)")'
    project.revision("001", "fill_busy", body, 'op.execute("SELECT 1")')

    with pytest.raises(Refused, match="deadline-missed"):
        project.upgrade()


def test_a_revision_has_a_deadline_of_its_own(busy: Database, project: Project) -> None:
    """budgets = {"deadline": …} gives one step more time; the next one has the usual again."""
    hold = f'{ADD}\nop.execute("SELECT pg_sleep(0.4)")'
    project.revision("001", "add_extra", hold, DROP, more='budgets = {"deadline": "5s"}\n')
    project.revision("002", "add_more", hold.replace("extra", "more"), DROP.replace("extra", "more"))

    with pytest.raises(Refused, match="deadline-missed"):
        project.upgrade()

    assert busy.value("SELECT version_num FROM alembic_version") == "001"


def test_a_body_that_lifts_its_timeouts_is_cancelled_all_the_same(busy: Database, project: Project) -> None:
    """statement_timeout = 0 in one text with the lock and the work: the watcher ends it from outside."""
    text = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; LOCK TABLE busy; SELECT pg_sleep(5)"
    project.revision("001", "fill_busy", f'op.execute("{text}")', 'op.execute("SELECT 1")')

    with queries(busy) as took, pytest.raises(Refused, match="deadline-missed"):
        project.upgrade()

    assert max(took) < 0.45


def test_a_downgrade_that_keeps_nothing_has_the_deadline_too(busy: Database, project: Project) -> None:
    """Dropping an index and working on under its lock: the trial is ended by the deadline, and nothing is left of it."""
    project.revision("001", "create_ix", 'op.execute("CREATE INDEX ix ON busy (id)")',
                     'op.execute("DROP INDEX ix")\nop.execute("SELECT pg_sleep(0.6)")')  # fmt: skip
    project.upgrade()

    with pytest.raises(Refused, match="deadline-missed"):
        project.downgrade("base")

    assert busy.value("SELECT to_regclass('ix')") == "ix"


def test_a_downgrade_that_takes_longer_than_allowed_is_refused_beforehand(
    busy: Database, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sample says how long copying takes; more than hold_limit is refused before a lock is taken, and allowed by hand."""
    project.configure(hold_limit="5ms", stash_move_above="never")
    project.revision("001", "create_big", 'op.execute("CREATE TABLE big (id int, what text)")', 'op.drop_table("big")')
    project.upgrade()
    busy.rows("INSERT INTO big SELECT n, repeat('x', 500) FROM generate_series(1, 40000) n")

    done = project.alembic("downgrade", "base")
    allowed = project.alembic("-x", "hold_limit=2min", "downgrade", "base")

    assert done.returncode == 3, done.stderr
    assert "hold-limit" in done.stderr
    assert "kept by copying big: about " in done.stderr
    assert "next: alembic -x hold_limit=" in done.stderr
    assert allowed.returncode == 0, allowed.stderr
    assert busy.value("SELECT count(*) FROM migration_stash_1.big") == 40000


def test_keeping_that_takes_longer_than_allowed_is_undone(busy: Database, project: Project) -> None:
    """Where nothing was foreseen, the limit ends the copy all the same: nothing is lost, and it is not tried again."""
    project.configure(hold_limit="400ms")
    project.revision("001", "create_big", 'op.execute("CREATE TABLE big (id int)")',
                     'op.drop_table("big")\nop.execute("LOCK TABLE busy")\n'
                     'op.execute("SELECT CASE WHEN EXISTS (SELECT FROM pg_namespace WHERE nspname LIKE \'migration_stash%\') '
                     'THEN pg_sleep(5) END")')  # fmt: skip
    project.upgrade()
    busy.rows("INSERT INTO big VALUES (1)")

    with pytest.raises(Refused, match="takes longer, and 400 ms are allowed") as refused:
        project.downgrade("base")

    assert (
        refused.value.next_command
        == "write hold_limit = 5min into alembic.ini, then the same call again   (when nobody works)"
    )
    assert busy.value("SELECT count(*) FROM big") == 1
    assert busy.value("SELECT attempts FROM migration.history ORDER BY id DESC LIMIT 1") == 1


def test_while_rows_are_kept_no_lock_is_waited_for_longer(busy: Database, project: Project) -> None:
    """Copying may take its ten seconds; behind a reader who came meanwhile the DROP waits no longer than any other step does."""
    project.configure(lock_attempts="1", stash_move_above="never")
    project.revision("001", "add_extra", ADD, DROP)
    project.upgrade()
    busy.rows("INSERT INTO busy SELECT n, n FROM generate_series(2, 200000) n")
    copying = "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('migration_stash_1')"
    active = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' "
        "AND query LIKE '%%migration_stash_1%%' AND pid <> pg_backend_pid()"
    )
    failures: list[BaseException] = []

    def downgrade() -> None:
        try:
            project.downgrade("base")
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=downgrade)
    with queries(busy) as took, busy.connect(autocommit=False) as report, report.cursor() as cursor:
        thread.start()
        until(lambda: busy.value(active))
        cursor.execute("SELECT FROM busy LIMIT 1")
        thread.join(30)

    assert [type(one) for one in failures] == [Busy]
    assert busy.value(copying) == 0
    assert max(took) < 0.45  # without: what was left of the ten seconds


def test_a_body_that_survives_its_cancelling_is_cancelled_again(busy: Database, project: Project) -> None:
    """WHEN OTHERS does not catch query_canceled, but its own name does: what runs then is cancelled as well."""
    project.configure(lock_attempts="1")
    body = "BEGIN PERFORM pg_sleep(5); EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(5); END;"
    project.revision(
        "001", "fill_busy", f'op.execute("DO $$BEGIN LOCK TABLE busy; {body} END$$")', 'op.execute("SELECT 1")'
    )

    with queries(busy) as took, pytest.raises(Busy, match="ACCESS EXCLUSIVE on busy for more than 200 ms"):
        project.upgrade()

    assert max(took) < 0.6


@pytest.mark.long
def test_a_body_that_works_in_python_under_its_lock_is_ended(busy: Database, project: Project) -> None:
    """Between two statements no cancel reaches it: a second after the deadline its session is ended, nothing is left of it."""
    project.revision("001", "add_extra", f"{ADD}\nimport time\ntime.sleep(4)", DROP)

    with queries(busy) as took:
        done = project.alembic("upgrade", "head")

    assert done.returncode == 1, done.stderr
    assert (
        "the guard has ended its session: it had ACCESS EXCLUSIVE on busy for more than 200 ms, and nothing was asked of the "
        "server for a second after.\nThe step was rolled back whole"
    ) in done.stderr
    assert "(what takes long comes before its first strong lock), then alembic upgrade head" in done.stderr
    assert busy.rows("SELECT outcome, attempts FROM migration.history") == [("failed", 1)]
    assert busy.value("SELECT state FROM migration.run") == "failed"
    assert busy.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'busy'::regclass AND attname = 'extra'") == 0
    assert 1.0 < max(took) < 2.2


def test_a_body_that_catches_every_cancelling_is_ended(busy: Database, project: Project) -> None:
    """A loop around WHEN query_canceled goes on after each: two seconds after the deadline its session is ended."""
    loop = "LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;"
    text = f"SET LOCAL statement_timeout = 0; DO $$BEGIN LOCK TABLE busy; {loop} END$$"
    project.revision("001", "fill_busy", f"op.execute({text!r})", 'op.execute("SELECT 1")')

    with queries(busy) as took, pytest.raises(Broken, match="for more than 200 ms, and no cancelling ended it"):
        project.upgrade()

    assert busy.rows("SELECT outcome, attempts FROM migration.history") == [("failed", 1)]
    assert 2.0 < max(took) < 3.5


def test_a_downgrade_that_works_in_python_is_ended_in_its_trial(busy: Database, project: Project) -> None:
    """The trial holds the body's locks like the step itself."""
    project.revision("001", "create_ix", 'op.execute("CREATE INDEX ix ON busy (id)")',
                     'op.execute("DROP INDEX ix")\nimport time\ntime.sleep(4)')  # fmt: skip
    project.upgrade()

    with queries(busy) as took, pytest.raises(Broken, match="nothing was asked of the server"):
        project.downgrade("base")

    assert busy.value("SELECT to_regclass('ix')") == "ix"
    assert max(took) < 2.2


@pytest.mark.long
def test_alone_or_while_rows_are_kept_python_may_take_its_time(empty: Database, project: Project) -> None:
    """Nobody is there to feel it; and what keeps rows has hold_limit, and is never ended in the middle."""
    empty.rows("CREATE TABLE busy (id int PRIMARY KEY)")
    slow = "import time\ntime.sleep(1.6)"
    project.revision("001", "add_extra", f"{ADD}\n{slow}", DROP)
    project.upgrade()
    project.configure(hold_limit="300ms")
    kept = "SELECT 1 FROM pg_namespace WHERE starts_with(nspname, 'migration_stash')"
    project.revision(
        "002", "create_big", 'op.execute("CREATE TABLE big AS SELECT 1 AS id")',
        f'op.drop_table("big")\nop.execute("LOCK TABLE busy")\nif op.get_bind().exec_driver_sql("{kept}").first():\n'
        "    import time\n    time.sleep(2)",
    )  # fmt: skip
    project.upgrade()

    with empty.connect(), pytest.raises(Refused, match="hold-limit"):
        project.downgrade("001")

    assert empty.value("SELECT count(*) FROM big") == 1


def test_what_is_checked_at_commit_has_the_deadline_too(busy: Database, project: Project) -> None:
    """A deferred trigger that takes a second and a half is fired before COMMIT, where it can be cancelled."""
    project.configure(lock_attempts="1")
    busy.rows(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1.5); RETURN NULL; END'"
    )
    busy.rows("CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON busy DEFERRABLE INITIALLY DEFERRED "
              "FOR EACH ROW EXECUTE FUNCTION slow()")  # fmt: skip
    project.revision(
        "001", "fill_busy", 'op.execute("LOCK TABLE busy; INSERT INTO busy VALUES (2)")', 'op.execute("SELECT 1")'
    )

    with queries(busy) as took, pytest.raises(Busy):
        project.upgrade()

    assert busy.value("SELECT count(*) FROM busy") == 1
    assert max(took) < 0.45


def test_a_watcher_that_is_cut_off_comes_back(busy: Database, project: Project) -> None:
    """Its session is ended in the middle of the step: the lock that is taken after that is held no longer than any."""
    project.configure(lock_attempts="1")
    kill = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() "
        f"AND query LIKE 'EXECUTE {watch._NAME}%' AND pid <> pg_backend_pid()"
    )
    body = (
        f'op.execute("SELECT pg_sleep(0.1)")\nop.execute("{kill}")\nop.execute("LOCK TABLE busy; SELECT pg_sleep(2)")'
    )
    project.revision("001", "fill_busy", body, 'op.execute("SELECT 1")')

    with queries(busy) as took, pytest.raises(Busy):
        project.upgrade()

    assert max(took) < 0.6


def test_a_view_is_refreshed_for_as_long_as_it_takes(busy: Database, project: Project) -> None:
    """REFRESH … CONCURRENTLY locks a materialized view against another REFRESH only: no deadline."""
    busy.rows(
        "CREATE MATERIALIZED VIEW seen AS SELECT n, (SELECT pg_sleep(0.2 * n) IS NULL) FROM generate_series(1, 2) n"
    )
    busy.rows("CREATE UNIQUE INDEX ON seen (n)")
    refresh = 'with op.get_context().autocommit_block():\n    op.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY seen")'
    project.revision("001", "fill_seen", refresh, 'op.execute("SELECT 1")', transaction="none", reversible="lossless")

    project.upgrade()

    assert busy.rows("SELECT outcome FROM migration.history") == [("done",)]


def test_after_a_rolled_back_savepoint_the_server_is_told_again(busy: Database, project: Project) -> None:
    """SET LOCAL goes with its savepoint, the lock that was there before stays: the next statement has its limit again."""
    project.configure(lock_attempts="1")
    limit = "current_setting('statement_timeout')"
    body = (
        'op.execute("LOCK TABLE busy")\nop.execute("SAVEPOINT mine")\nop.execute("SELECT pg_sleep(0.06)")\n'
        'op.execute("SELECT 1")\nop.execute("ROLLBACK TO SAVEPOINT mine")\n'
        f'op.execute("CREATE TABLE told AS SELECT {limit} AS of")'
    )
    project.revision("001", "fill_busy", body, 'op.execute("SELECT 1")')

    project.upgrade()

    assert 0 < int(busy.value("SELECT of FROM told").removesuffix("ms")) < 150


def test_rows_are_fetched_by_a_cursor_of_the_servers_under_the_clock(busy: Database, project: Project) -> None:
    """A server-side cursor runs one statement in its life: what the server is told of the time left goes beside it."""
    project.revision("001", "fill_busy", 'op.execute("LOCK TABLE busy; SELECT pg_sleep(0.06)")\n'
                     'op.get_bind().exec_driver_sql("SELECT * FROM busy", execution_options={"stream_results": True})',
                     'op.execute("SELECT 1")')  # fmt: skip

    project.upgrade()

    assert busy.rows("SELECT outcome, attempts FROM migration.history") == [("done", 1)]


def test_hold_limit_is_a_duration(busy: Database, project: Project) -> None:
    """A number without a unit is wrong use, said before anything is done."""
    project.revision("001", "add_extra", ADD, DROP)

    done = project.alembic("-x", "hold_limit=5", "upgrade", "head")

    assert done.returncode == 2
    assert "a duration is a number with its unit" in done.stderr


def test_the_ladder_is_half_an_hour_in_bursts() -> None:
    """41 tries: bursts of five, longer and longer pauses between; half an hour at most, a quarter at least."""
    pauses = [ladder.pause(tries) for tries in range(1, 41)]

    assert sum(pauses[place] for place in range(40) if (place + 1) % 5) < 4
    assert 900 < sum(pauses) + 41 * 0.2 <= 1800
    assert [round(pauses[place] / rung, 1) >= 0.5 for place, rung in ((4, 2), (9, 5), (39, 600))] == [True] * 3
    assert max(ladder.pause(45) for _ in range(100)) <= 600


def test_the_clock_counts_from_the_first_strong_lock() -> None:
    """It starts once, forgets what was seen before the locks were given back, and lets no COMMIT pass that is too late."""
    clock = deadline.Clock(60, 60)
    locks = {"public.busy": "ACCESS EXCLUSIVE"}
    asked = time.monotonic()

    clock.saw(locks, asked - 1, asked, alone=False)
    first = clock.held()
    clock.saw(locks, asked, asked, alone=False)
    again = clock.held()
    clock.restart()
    clock.saw(locks, asked, asked, alone=False)

    assert 1 <= first <= again
    assert clock.left() is None
    clock.limit = 0.0
    clock.saw(locks, time.monotonic(), time.monotonic(), alone=True)
    assert clock.left() is None
    clock.saw(locks, time.monotonic(), time.monotonic(), alone=False)
    with pytest.raises(deadline.Missed, match="ACCESS EXCLUSIVE on busy for more than 0 ms"):
        clock.stop()


def test_a_weaker_lock_that_is_seen_later_is_not_taken_for_the_one_that_is_needed() -> None:
    """The first look at the next try sees SHARE only: what was known to become ACCESS EXCLUSIVE is asked for at once."""
    clock = deadline.Clock(60, locks={"public.busy": "ACCESS EXCLUSIVE"})

    clock.saw({"public.busy": "SHARE", "public.more": "SHARE"}, time.monotonic(), time.monotonic(), alone=False)

    assert clock.locks == {"public.busy": "ACCESS EXCLUSIVE", "public.more": "SHARE"}
