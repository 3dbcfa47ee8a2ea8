"""One step: tried again while only locks are in the way, never after something has become final."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest
from alembic import command
from psycopg2.extensions import TRANSACTION_STATUS_INERROR
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2

from mcp_planner_schema import embedded
from mcp_planner_schema.guard import declare
from mcp_planner_schema.guard.findings import Broken, Busy
from tests.conftest import Database, Project, _private_folder
from tests.until import until

ADD = 'op.execute("ALTER TABLE busy ADD COLUMN extra int")'
DROP = 'op.execute("ALTER TABLE busy DROP COLUMN extra")'
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


@pytest.fixture
def busy(empty: Database, project: Project) -> Database:
    """A database with the table that others hold locks on."""
    empty.rows("CREATE TABLE busy (id int PRIMARY KEY)")
    project.configure(lock_attempts="30")
    return empty


@contextmanager
def locked(database: Database, statement: str = "LOCK TABLE busy") -> Iterator[None]:
    """Another session really holds a lock while inside."""
    with database.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        yield


def test_a_rollback_that_was_cancelled_ends_no_step(
    busy: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server was told to cancel just then, and the transaction is still there: the next try begins with one of its own."""
    project.revision("001", "add_extra", ADD, DROP, expectations='expect.column("busy", "extra")')
    rolled_back, left = PGDialect_psycopg2.do_rollback, []

    def cancelled(dialect: Any, connection: Any) -> None:
        driver = getattr(connection, "dbapi_connection", connection)
        if not left and driver.info.transaction_status == TRANSACTION_STATUS_INERROR:
            left.append(connection)
        else:
            rolled_back(dialect, connection)

    monkeypatch.setattr(PGDialect_psycopg2, "do_rollback", cancelled)
    with locked(busy):
        one = threading.Thread(target=project.upgrade)
        one.start()
        until(lambda: bool(left))
    one.join()

    assert len(left) == 1
    assert busy.value("SELECT version_num FROM alembic_version") == "001"


def test_a_lock_that_is_released_costs_a_retry(
    busy: Database, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """The step meets 55P03, says for whom it waits, is rolled back whole and succeeds when the blocker has gone."""
    project.revision("001", "create_a", f'op.execute("CREATE TABLE a (id int)")\n{ADD}', DROP,
                     expectations='expect.column("busy", "extra")')  # fmt: skip
    failures: list[BaseException] = []

    def upgrade() -> None:
        try:
            project.upgrade()
        except BaseException as error:
            failures.append(error)

    with locked(busy):
        thread = threading.Thread(target=upgrade)
        thread.start()
        until(lambda: busy.value(WAITING))
        seen = until(lambda: capsys.readouterr().err)
    thread.join(30)

    assert not failures
    assert "001  waits (try 1 of 30): pid " in seen
    assert "(the test, user postgres, idle in transaction, in its transaction for " in seen
    assert "holds busy" in seen
    attempts, wait, outcome = busy.rows("SELECT attempts, lock_wait_ms, outcome FROM migration.history")[0]
    assert attempts > 1
    assert wait > 0
    assert outcome == "done"
    assert busy.value("SELECT count(*) FROM migration.history") == 1


def test_a_lock_that_stays_ends_with_75_and_the_blockers_name(busy: Database, project: Project) -> None:
    """After lock_attempts tries: exit 75, who holds it, the command to repeat; nothing of the step is left."""
    project.configure(lock_attempts="2")
    project.revision("001", "create_a", f'op.execute("CREATE TABLE a (id int)")\n{ADD}', DROP)

    with locked(busy):
        done = project.alembic("upgrade", "head")

    assert done.returncode == 75
    assert "met a lock it did not get, try 2: pid " in done.stderr
    assert "the test, user postgres" in done.stderr
    assert done.stderr.strip().endswith("next: alembic upgrade head")
    assert busy.value("SELECT to_regclass('a')") is None
    assert busy.rows("SELECT outcome, attempts FROM migration.history") == [("failed", 2)]


def test_a_real_deadlock_is_tried_again(busy: Database, project: Project) -> None:
    """PostgreSQL picks the step as victim (40P01); the other session ends, and the second try succeeds."""
    project.configure(lock_timeout="20s")
    busy.rows("CREATE TABLE other (id int)")
    body = 'op.execute("SET LOCAL deadlock_timeout = \'50ms\'")\nop.execute("LOCK TABLE other")\n' + ADD
    project.revision("001", "create_a", body, DROP)
    ended: list[BaseException | None] = []

    def second() -> None:
        # Its own deadlock_timeout is long, so that the step finds the deadlock and is the victim.
        with busy.connect(autocommit=False) as connection, connection.cursor() as cursor:
            cursor.execute("SET deadlock_timeout = '30s'")
            cursor.execute("LOCK TABLE busy")
            ready.set()
            until(lambda: busy.value(WAITING))
            try:
                cursor.execute("LOCK TABLE other")
                ended.append(None)
            except psycopg2.Error as error:
                ended.append(error)

    ready, thread = threading.Event(), threading.Thread(target=second)
    thread.start()
    ready.wait(10)
    project.upgrade()
    thread.join(30)

    assert ended == [None]
    assert busy.value("SELECT attempts FROM migration.history WHERE outcome = 'done'") > 1


@pytest.mark.parametrize(
    "commit",
    [
        "with op.get_context().autocommit_block():\n    op.execute('CREATE TABLE inside (id int)')",
        'op.execute("COMMIT")',
        "op.get_bind().commit()",
        'op.execute("INSERT INTO busy VALUES (1); COMMIT; BEGIN")',
    ],
    ids=["autocommit_block", "COMMIT", "commit()", "COMMIT; BEGIN"],
)
def test_a_step_that_committed_is_never_tried_again(busy: Database, project: Project, commit: str) -> None:
    """A lock after a commit, whichever way it was committed, ends the run with 1 after one try, and says what is done."""
    project.configure(headers="optional")
    project.write(
        "a.py",
        "from alembic import op\nrevision = 'a'\ndown_revision = None\n\n\ndef upgrade():\n"
        "    op.execute('CREATE TABLE made (id int)')\n"
        + "".join(f"    {line}\n" for line in f"{commit}\n{ADD}".split("\n")),
    )

    with locked(busy, "LOCK TABLE busy IN SHARE UPDATE EXCLUSIVE MODE"):
        done = project.alembic("upgrade", "head")

    assert done.returncode == 1, done.stderr
    assert "Part of the step had committed before it failed and stays" in done.stderr
    assert "CREATE TABLE made (id int)" in done.stderr
    assert "Traceback" not in done.stderr
    assert busy.value("SELECT to_regclass('made')::text") == "made"
    assert busy.rows("SELECT outcome, attempts FROM migration.history") == [("failed", 1)]
    assert busy.rows("SELECT * FROM alembic_version") == []


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "INSERT INTO busy VALUES (7); COMMIT", "COMMIT; BEGIN"])
def test_a_body_that_ends_its_transaction_is_an_error(busy: Database, project: Project, end: str) -> None:
    """A raw COMMIT or ROLLBACK in an upgrade is noticed before the next statement could commit by itself."""
    project.revision("001", "create_a", f'op.execute("{end}")\nop.execute("CREATE TABLE late (id int)")', DROP)

    with pytest.raises(Broken, match="ended the step's transaction") as caught:
        project.upgrade()

    assert caught.value.next_command.startswith("edit ")
    assert busy.value("SELECT to_regclass('late')") is None
    assert busy.value("SELECT outcome FROM migration.history") == "failed"


def test_a_commit_by_the_bind_is_an_error(busy: Database, project: Project) -> None:
    """op.get_bind().commit() without any failure is noticed too: stock Alembic would lose the version row."""
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")\nop.get_bind().commit()', DROP)

    with pytest.raises(Broken, match="ended the step's transaction"):
        project.upgrade()

    assert busy.rows("SELECT * FROM alembic_version") == []


def test_a_savepoint_may_be_rolled_back(busy: Database, project: Project) -> None:
    """An error inside begin_nested() that the body handles is no failure."""
    body = (
        "try:\n    with op.get_bind().begin_nested():\n        op.execute('SELECT 1/0')\nexcept Exception:\n    pass\n"
        + ADD
    )
    project.revision("001", "create_a", body, DROP)

    project.upgrade()

    assert busy.value("SELECT version_num FROM alembic_version") == "001"


def test_an_empty_database_stays_empty_when_the_first_step_fails(empty: Database, project: Project) -> None:
    """The version table is made in the first step's transaction: a failure leaves nothing in public."""
    project.revision("001", "create_a", 'op.execute("SELECT 1/0")', DROP)

    with pytest.raises(Broken):
        project.upgrade()

    assert empty.rows("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []


def test_a_deadlocked_or_blocked_downgrade_is_tried_again(busy: Database, project: Project) -> None:
    """A downgrade that meets a lock in its trial ends with 75 and leaves everything as it was."""
    project.configure(lock_attempts="2")
    project.revision("001", "create_a", ADD, DROP)
    project.upgrade()

    with locked(busy), pytest.raises(Busy, match="the test"):
        project.downgrade("base")

    assert busy.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'busy'::regclass AND attname = 'extra'") == 1


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("INSERT INTO busy VALUES (1), (1)", "(table busy, constraint busy_pkey)"),
        ("INSERT INTO busy VALUES (NULL)", "(table busy)"),
    ],
)
def test_no_rows_contents_in_an_error(busy: Database, project: Project, body: str, shown: str) -> None:
    """DETAIL holds the row itself; message, table and constraint are told, in the terminal and in the history."""
    busy.rows("ALTER TABLE busy ALTER id TYPE text, ADD COLUMN secret text DEFAULT 'jane@example.org'")
    body = body.replace("1", "'joe@example.org'")
    project.revision("001", "create_a", f'op.execute("{body}")', DROP)

    done = project.alembic("upgrade", "head")

    kept = busy.rows("SELECT r.error, h.error FROM migration.run r JOIN migration.history h ON h.run_id = r.id")
    assert done.returncode == 1
    assert shown in done.stderr
    assert "@example.org" not in done.stderr + str(kept)


def test_what_was_skipped_on_the_way_up_is_skipped_on_the_way_down(
    busy: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Skipped in production, taken back in a copy that has become development: its downgrade does not run. Applied, it does."""

    def becomes(environment: str) -> None:
        monkeypatch.setenv("PLANNER_ENV", environment)
        declare.declare(project.config(repeat="make environment-set"), environment, busy.name)

    project.configure(backup_age="never")
    busy.rows("INSERT INTO busy VALUES (1)")
    project.revision("001", "create_a", 'op.execute("INSERT INTO busy VALUES (2)")', 'op.execute("INSERT INTO busy VALUES (3)")',
                     type="data", extra="Environments: development")  # fmt: skip
    monkeypatch.setenv("PLANNER_ENV", "production")
    project.upgrade()

    becomes("development")
    project.downgrade("base")
    kept = busy.rows("SELECT id FROM busy")
    project.upgrade()
    becomes("production")
    command.downgrade(project.config(confirm=busy.name), "base")

    assert kept == [(1,)]
    assert busy.rows("SELECT direction, outcome FROM migration.history ORDER BY id") == [
        ("upgrade", "skipped"), ("downgrade", "skipped"), ("upgrade", "done"), ("downgrade", "done"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def waiting_for_a_standby() -> Iterator[Database]:
    """A server whose synchronous standby never comes: a COMMIT with synchronous_commit on waits after it is final."""
    folder = _private_folder()
    settings = {"synchronous_standby_names": "nobody", "synchronous_commit": "off", "fsync": "off"}
    server = embedded.start(folder, settings=settings, database="app", say=lambda _: None)
    try:
        yield Database(str(server.socket), server.port, "app")
    finally:
        embedded.stop(folder, mode="immediate")
        shutil.rmtree(folder)


@pytest.mark.parametrize("last", [True, False], ids=["last step", "a step follows"])
def test_a_commit_whose_answer_is_lost_is_no_failure(
    waiting_for_a_standby: Database, project: Project, last: bool
) -> None:
    """The backend is terminated while COMMIT waits for the standby: the step is final, is told so, and no row says failed."""
    server = waiting_for_a_standby
    server.rows("DROP TABLE IF EXISTS alembic_version, a, b")
    server.rows("DROP SCHEMA IF EXISTS migration CASCADE")
    body = 'op.execute("CREATE TABLE a (id int)")\nop.execute("SET LOCAL synchronous_commit = on")'
    project.revision("001", "create_a", body, 'op.drop_table("a")')
    if not last:
        project.revision("002", "create_b", 'op.execute("CREATE TABLE b (id int)")', 'op.drop_table("b")')
    shell = subprocess.Popen([sys.executable, "-m", "alembic", "upgrade", "+1" if last else "+2"], cwd=project.folder,
                             text=True, stderr=subprocess.PIPE, env={**os.environ, "DATABASE_URL": server.url})  # fmt: skip

    until(lambda: server.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))
    server.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
    _, stderr = shell.communicate(timeout=30)

    assert shell.returncode == (0 if last else 1), stderr
    assert "001  the step is final; only its acknowledgement was lost" in stderr
    assert "has not moved" not in stderr
    assert server.rows("SELECT revision, outcome FROM migration.history") == [("001", "done")]
    state, heads = server.rows("SELECT state, to_heads FROM migration.run")[0]
    assert (state, heads) == ("done" if last else "failed", ["001"])
    assert last or stderr.strip().endswith("next: alembic upgrade 002")
