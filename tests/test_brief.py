"""Brief transactions of operations: held to the deadline, tried again one by one, while the step itself never is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mcp_planner_schema.guard import watch
from mcp_planner_schema.guard.findings import Broken, Busy, Refused
from tests.conftest import Database, Project
from tests.until import until

BRIEF = "from mcp_planner_schema.guard import brief\n"


@pytest.fixture
def busy(empty: Database, project: Project) -> Iterator[Database]:
    """A database with a table that somebody else uses."""
    empty.rows("CREATE TABLE busy (id int PRIMARY KEY)")
    project.configure(lock_attempts="4")
    with empty.connect():
        yield empty


def revision(project: Project, *statements: str) -> None:
    """A revision whose body is these brief transactions."""
    body = "\n".join(f"brief.run(op.get_context(), {one!r})" for one in statements)
    path = project.revision("001", "add_extra", body, 'op.execute("SELECT 1")', transaction="none",
                            reversible="lossless", extra="Waive: import-application | a test | 2027-01-01\n"
                                                         "")  # fmt: skip
    text = path.read_text().replace("from alembic import op\n", f"from alembic import op\n{BRIEF}")
    path.write_text(text)


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Another session holds the table while inside."""
    with database.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE busy IN ROW EXCLUSIVE MODE")
        yield


def test_it_commits_by_itself_and_is_not_done_again(busy: Database, project: Project) -> None:
    """The first one is final when the second fails; the error says what is done."""
    revision(project, "ALTER TABLE busy ADD COLUMN extra int; CREATE TABLE more (id int)", "SELECT 1/0")

    with pytest.raises(Broken, match="Part of the step had committed"):
        project.upgrade()

    assert busy.value("SELECT to_regclass('more')") == "more"
    assert busy.value("SELECT count(*) FROM alembic_version") == 0


def test_all_or_nothing_of_several_statements(busy: Database, project: Project) -> None:
    """Several statements in one text are one transaction."""
    revision(project, "ALTER TABLE busy ADD COLUMN extra int; SELECT 1/0")

    with pytest.raises(Broken, match="division by zero"):
        project.upgrade()

    assert busy.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'busy'::regclass AND attname = 'extra'") == 0


def test_a_lock_in_the_way_costs_tries_of_this_one_only(
    busy: Database, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """The holder is named at each try; when it has gone, the statement is done, once."""
    project.configure(lock_attempts="30")
    revision(project, "CREATE TABLE once (id int)", "ALTER TABLE busy ADD COLUMN extra int")
    failures: list[BaseException] = []

    def upgrade() -> None:
        try:
            project.upgrade()
        except BaseException as error:
            failures.append(error)

    with locked(busy):
        thread = threading.Thread(target=upgrade)
        thread.start()
        said = until(lambda: (text := capsys.readouterr().err) and "waits (try 1 of 30): pid " in text and text)
    thread.join(30)

    assert not failures
    assert "(the test, user postgres, idle in transaction, in its transaction for " in said
    assert busy.rows("SELECT outcome, attempts FROM migration.history") == [("done", 1)]
    assert busy.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'busy'::regclass AND attname = 'extra'") == 1


def test_a_lock_that_stays_is_75(busy: Database, project: Project) -> None:
    """At the ladder's end: Busy, the holder's name, and that what is done stays done."""
    revision(project, "CREATE TABLE once (id int)", "ALTER TABLE busy ADD COLUMN extra int")

    with locked(busy), pytest.raises(Busy, match=r"try 4: pid .*\n.*is not done again"):
        project.upgrade()

    assert busy.value("SELECT to_regclass('once')") == "once"


def test_work_that_needs_longer_than_the_deadline_is_refused(busy: Database, project: Project) -> None:
    """Half a second under ACCESS EXCLUSIVE, with nobody in the way: a whole burst, then the finding."""
    project.configure(lock_attempts="41")
    revision(project, "ALTER TABLE busy ADD COLUMN extra int; SELECT pg_sleep(0.5)")

    with pytest.raises(Refused, match="deadline-missed"):
        project.upgrade()

    assert busy.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'busy'::regclass AND attname = 'extra'") == 0


def test_a_cancel_that_comes_late_does_not_meet_the_next_statement(
    busy: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement ends just while the watcher cancels it: the index that is built next is not what is cancelled."""
    busy.rows("CREATE TABLE big AS SELECT n FROM generate_series(1, 200000) n")
    monkeypatch.setattr(watch, "_CANCEL", "SELECT pg_catalog.pg_sleep(0.25), pg_catalog.pg_cancel_backend(%s::int4)")
    revision(project, "SET statement_timeout = 0; LOCK TABLE busy; SELECT pg_sleep(0.3)")
    path = project.versions / "001_add_extra.py"
    path.write_text(path.read_text().replace("\n\n\ndef downgrade", '\n    op.create_index_concurrently("ix", "big", ["n"])'
                                             "\n\n\ndef downgrade"))  # fmt: skip

    project.upgrade()

    assert busy.rows("SELECT indisvalid FROM pg_index WHERE indrelid = 'big'::regclass") == [(True,)]
