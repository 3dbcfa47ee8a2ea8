"""Who is in the way: told before a step needs its locks, ended only where somebody has named them."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from mcp_planner_schema import embedded
from mcp_planner_schema.guard import blockers, deploy_lock
from tests.conftest import Database, Project, _private_folder
from tests.until import until

ADD = 'op.execute("ALTER TABLE busy ADD COLUMN extra int")'
DROP = 'op.execute("ALTER TABLE busy DROP COLUMN extra")'
OLD = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND xact_start < now() - interval '1.1 s'"


@pytest.fixture
def busy(empty: Database, project: Project) -> Database:
    """A database with a table that somebody uses, and a revision that needs it."""
    empty.rows("CREATE TABLE busy (id int PRIMARY KEY)")
    project.configure(lock_attempts="3")
    project.revision("001", "add_extra", ADD, DROP)
    return empty


@contextmanager
def session(database: Database, application: str, statement: str = "SELECT FROM busy") -> Iterator[Any]:
    """A session of an application of that name, in a transaction in which it has run the statement."""
    connection = psycopg2.connect(
        host=database.host, port=database.port, dbname=database.name, user=database.user, application_name=application
    )
    try:
        connection.cursor().execute(statement)
        yield connection
    finally:
        connection.close()


def alive(connection: Any) -> bool:
    """Whether the session still answers."""
    try:
        connection.cursor().execute("SELECT 1")
    except psycopg2.Error:
        return False
    return True


def test_who_holds_a_table_for_long_is_told_beforehand(busy: Database, project: Project) -> None:
    """A report that has been in its transaction for a while is named before the first try; what other tables hold is not."""
    busy.rows("CREATE TABLE elsewhere (id int)")
    with session(busy, "a report") as report, session(busy, "unrelated", "SELECT FROM elsewhere"):
        until(lambda: busy.value(OLD, "a report") and busy.value(OLD, "unrelated"))
        done = project.alembic("upgrade", "head")
        pid = report.info.backend_pid

    before, _, after = done.stderr.partition("waits (try 1")
    assert (
        f"001  busy is in use: pid {pid} (a report, user postgres, idle in transaction, in its transaction for "
        in before
    )
    assert "holds AccessShareLock" in before
    assert "unrelated" not in done.stderr
    assert done.returncode == 75
    assert f"pid {pid} (a report, user postgres, idle in transaction" in after
    once, _, end = after.partition("met a lock it did not get")
    for said in (once, end):
        assert said.count("alembic -x cancel_blockers='app=a report' upgrade head ends what it does there") == 1


@pytest.mark.parametrize(
    ("repeat", "named", "offered"),
    [
        ("make migrate-up", ["", "alice-psql"], "CANCEL_BLOCKERS=app=alice-psql make migrate-up"),
        ("make migrate-up TO=003", ["it's $HOME", "a'b"], """CANCEL_BLOCKERS='app=a'"'"'b' make migrate-up TO=003"""),
        ("make migrate-up CANCEL_BLOCKERS=app=x", ["y"], ""),
        ("make migrate-up", ["", "pg_dump", "mcp-planner-guard 1"], ""),
        ("the same call again", ["y"], ""),
    ],
)
def test_the_command_that_ends_it_is_safe_to_type(repeat: str, named: list[str], offered: str) -> None:
    """The application's name is quoted for the shell; nothing is offered that make would expand, nor a backup's end."""
    assert blockers.offered(repeat, named) == offered


def test_a_backup_is_called_a_backup(busy: Database, project: Project) -> None:
    """pg_dump holds every table for as long as it takes: it is told as what it is."""
    with session(busy, "pg_dump"):
        until(lambda: busy.value(OLD, "pg_dump"))
        done = project.alembic("upgrade", "head")

    assert "busy is in use: pid " in done.stderr
    assert "(a backup by pg_dump, user postgres, for " in done.stderr


def test_only_the_named_application_is_ended(busy: Database, project: Project) -> None:
    """cancel_blockers=app=NAME ends that application's session in the way; another application's stays, in the way."""
    with session(busy, "a report") as report, session(busy, "the till") as till:
        until(lambda: busy.value(OLD, "a report"))
        done = project.alembic("-x", "cancel_blockers=app=a report", "upgrade", "head")
        pid = report.info.backend_pid

        assert f"cancel_blockers: pid {pid} (a report, idle in transaction) was ended" in done.stderr
        assert done.returncode == 75
        assert not alive(report)
        assert alive(till)
    with session(busy, "a report"):
        again = project.alembic("-x", "cancel_blockers=app=a report", "upgrade", "head")
    assert again.returncode == 0, again.stderr


def test_a_running_statement_is_cancelled_and_its_session_stays(busy: Database, project: Project) -> None:
    """What the named application runs just now is cancelled, which gives its lock back; the session goes on."""
    ended: list[str | None] = []

    def work(connection: Any) -> None:
        try:
            connection.cursor().execute("SELECT pg_sleep(60) FROM busy RIGHT JOIN (SELECT) x ON true")
        except psycopg2.Error as error:
            ended.append(error.pgcode)
            connection.rollback()

    with session(busy, "a report", "SELECT 1") as report:
        thread = threading.Thread(target=work, args=(report,))
        thread.start()
        until(lambda: busy.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
        done = project.alembic("-x", "cancel_blockers=app=a report", "upgrade", "head")
        thread.join(30)

        assert done.returncode == 0, done.stderr
        assert ended == ["57014"]
        assert alive(report)


@pytest.mark.parametrize("asked", ["a report", "user=bi", "app=", "app=mcp-planner-guard"])
def test_nobody_is_ended_who_was_not_named(busy: Database, project: Project, asked: str) -> None:
    """Anything but app=NAME is wrong use, told before the first lock; the guard's own sessions have no name to give."""
    done = project.alembic("-x", f"cancel_blockers={asked}", "upgrade", "head")

    assert done.returncode == 2
    assert "names no application" in done.stderr


@pytest.mark.long
def test_a_vacuum_against_wraparound_is_told_and_left_alone(
    tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives way to nobody, so it is named as what it is before the first try, and no switch of ours ends it."""
    folder = _private_folder()
    settings = {
        "autovacuum": "on", "autovacuum_naptime": "1s", "autovacuum_freeze_max_age": "100000",
        "fsync": "off", "synchronous_commit": "off",
    }  # fmt: skip
    server = embedded.start(folder, settings=settings, database="app", say=lambda line: None)
    try:
        database = Database(str(server.socket), server.port, "app")
        monkeypatch.setenv("DATABASE_URL", database.url)
        slowly = "autovacuum_enabled = false, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1"
        rows = "SELECT n AS id, repeat('x', 500) AS what FROM generate_series(1, 50000) n"
        database.rows(f"CREATE TABLE busy WITH ({slowly}) AS {rows}")  # an ordinary vacuum never comes
        database.rows("DO $$ BEGIN FOR n IN 1..120000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
        at_work = (
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' "
            "AND query LIKE '%%public.busy (to prevent wraparound)%%'"
        )
        until(lambda: database.value(at_work + " AND xact_start < now() - interval '1.2 s'"), seconds=120)
        project.configure(lock_attempts="2")
        project.revision("001", "add_extra", ADD, DROP)

        done = project.alembic("-x", "cancel_blockers=app=", "upgrade", "head")
        tried = project.alembic("upgrade", "head")
        still = database.value(at_work)
    finally:
        embedded.stop(folder, mode="immediate")
        shutil.rmtree(folder)

    assert done.returncode == 2
    assert tried.returncode == 75, tried.stderr
    assert "busy is in use: pid " in tried.stderr
    assert ", a vacuum that prevents wraparound and is not to be cancelled, at work for " in tried.stderr
    assert still == 1


def test_a_prepared_transaction_is_called_by_its_name(busy: Database, project: Project) -> None:
    """It has no process and never ends by itself: its name is shown, and it is somebody in the way, so the end is 75."""
    project.configure(lock_attempts="6")  # five with nobody in the way would be the step's own fault
    with session(busy, "a bank", "LOCK TABLE busy IN ROW EXCLUSIVE MODE") as bank:
        bank.cursor().execute("PREPARE TRANSACTION 'left 50% open'")
        done = project.alembic("upgrade", "head")
        busy.rows("ROLLBACK PREPARED 'left 50% open'")

    assert done.returncode == 75, done.stderr
    assert "a prepared transaction 'left 50% open' (user postgres, prepared at " in done.stderr
    assert "holds busy, until somebody says COMMIT PREPARED or ROLLBACK PREPARED" in done.stderr


@pytest.fixture
def deployer(busy: Database) -> Iterator[Database]:
    """The database as a role sees it that owns the table and may neither see nor end what other roles do."""
    role = f"deployer_{busy.name}"
    busy.rows(f"CREATE ROLE {role} LOGIN")
    busy.rows(f"ALTER TABLE busy OWNER TO {role}")
    busy.rows(f"GRANT CREATE ON DATABASE {busy.name} TO {role}")
    busy.rows(f"GRANT CREATE ON SCHEMA public TO {role}")
    yield dataclasses.replace(busy, user=role)
    busy.rows(f"DROP OWNED BY {role} CASCADE")
    busy.rows(f"DROP ROLE {role}")


@pytest.mark.parametrize("granted", ["", "pg_read_all_stats"])
def test_a_role_that_may_end_nobody_says_so_and_goes_on_trying(
    busy: Database, deployer: Database, project: Project, granted: str
) -> None:
    """The server refuses to cancel another role's statement: that is told, and is no failure of its own."""
    if granted:
        busy.rows(f"GRANT {granted} TO {deployer.user}")
    with session(busy, "a report"):
        done = project.alembic("-x", "cancel_blockers=app=a report", "upgrade", "head", DATABASE_URL=deployer.url)

    assert done.returncode == 75, done.stderr
    assert done.stderr.count(") could not be ended") == 2
    assert "met a lock it did not get, try 3: pid " in done.stderr


def test_an_orphan_of_another_role_does_not_stop_the_run(busy: Database, deployer: Database, project: Project) -> None:
    """Anybody can call his session as a run calls its own: what this role may not end is told of, and left alone."""
    with session(busy, f"{deploy_lock.tag(deploy_lock.key('alembic_version', None))} run 7 001", "SELECT 1"):
        done = project.alembic("upgrade", "head", DATABASE_URL=deployer.url)

    assert done.returncode == 0, done.stderr
    assert "could not be ended: it is another role's" in done.stderr


def test_what_the_named_application_began_afterwards_is_left_alone(busy: Database) -> None:
    """It was in the way, has ended that, and is in another transaction by now: that one is nobody's blocker."""
    with session(busy, "a report") as report, busy.connect() as deployer:
        beside = create_engine("postgresql+psycopg2://", creator=lambda: deployer, poolclass=StaticPool).connect()
        seen = busy.value("SELECT clock_timestamp()")
        report.commit()
        report.cursor().execute("SELECT 1")

        lines = blockers.end(beside, [report.info.backend_pid], "a report", seen)

        assert lines == []
        assert alive(report)
        assert blockers.end(beside, [report.info.backend_pid], "a report", busy.value("SELECT clock_timestamp()"))
        assert not alive(report)
