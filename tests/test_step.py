"""One step: tried again while only locks are in the way, never after something has become final."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
import pytest

from mcp_planner_schema.guard.findings import Broken, Busy
from tests.conftest import Database, Project
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
