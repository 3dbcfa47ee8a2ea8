"""Locks on several tables: one order, whatever the body's own, the hottest table last."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import psycopg2
import pytest
from sqlalchemy import create_engine

from mcp_planner_schema.guard import lock_order, postcheck
from tests.conftest import Database, Project
from tests.until import until

BOTH = {"public.hot": "ACCESS EXCLUSIVE", "public.cold": "ACCESS EXCLUSIVE"}
BODY = 'op.execute("ALTER TABLE hot ADD COLUMN extra int")\nop.execute("ALTER TABLE cold ADD COLUMN extra int")'
BACK = 'op.execute("ALTER TABLE cold DROP COLUMN extra")\nop.execute("ALTER TABLE hot DROP COLUMN extra")'
ORDERED = """SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LOCK TABLE ONLY "public"."cold"%'
             AND wait_event_type = 'Lock'"""


@pytest.fixture
def two(empty: Database, project: Project) -> Iterator[Database]:
    """A database with a table that is read all the time, and one that hardly anybody reads."""
    empty.rows("CREATE TABLE hot (id int)")
    empty.rows("CREATE TABLE cold (id int)")
    for _ in range(3):
        empty.rows("SELECT count(*) FROM hot")
    until(lambda: empty.value("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'hot'") >= 3)
    project.configure(lock_attempts="41")
    with empty.connect():
        yield empty


def stored(project: Project, locks: dict[str, str]) -> None:
    """What a trace has found, beside the revision."""
    folder = project.folder / "alembic" / "locks"
    folder.mkdir()
    found = {"locks": locks, "rewritten": []}
    (folder / "001.json").write_text(json.dumps({"upgrade": found, "downgrade": found}))


def test_on_the_first_try_too(two: Database, project: Project) -> None:
    """One try only, and the body asks for the hot table first: it waits at the cold one, and nobody waits at the hot one."""
    stored(project, BOTH)
    project.configure(lock_attempts="1", lock_timeout="10s", deadline="10s")
    project.revision("001", "add_extra", BODY, BACK)
    thread = threading.Thread(target=project.upgrade)

    with two.connect(autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE cold IN ACCESS SHARE MODE")
        thread.start()
        until(lambda: two.value(ORDERED))
        hot = two.value("SELECT count(*) FROM pg_locks WHERE relation = 'hot'::regclass AND mode LIKE '%%Exclusive%%'")
        holder.rollback()
    thread.join(60)

    assert hot == 0
    assert two.rows("SELECT outcome, attempts FROM migration.history") == [("done", 1)]


def test_what_comes_before_is_done_without_locks(two: Database, project: Project) -> None:
    """A body that reads, writes and makes tables of its own first takes them only where it needs the first of them."""
    stored(project, BOTH)
    asks = (
        "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND mode = 'AccessExclusiveLock' AND relation IN "
    )
    before = [
        "SELECT count(*) FROM hot", "INSERT INTO hot VALUES (1)", "WITH a AS (SELECT 1) SELECT count(*) FROM cold",
        "COMMENT ON TABLE hot IS 'hot'", "CREATE TABLE hotter (cold_id int)", "SAVEPOINT hot",
    ]  # fmt: skip
    held = f"INSERT INTO seen {asks} ('hot'::regclass, 'cold'::regclass)"
    two.rows("CREATE TABLE seen (locks int)")
    lines = [f"op.execute({text!r})" for text in [*before, held, "ALTER TABLE hot ADD COLUMN extra int", held]]
    project.revision("001", "add_extra", "\n".join(lines), BACK)

    project.upgrade()

    assert two.rows("SELECT locks FROM seen") == [(0,), (2,)]


def test_a_downgrade_too_in_its_trial_and_for_real(two: Database, project: Project) -> None:
    """Both times the body's own order does not matter, and what the trial has locked is given back before it runs for real."""
    stored(project, BOTH)
    project.revision("001", "add_extra", BODY, f'op.execute("SELECT 1")\n{BACK}')
    project.upgrade()
    project.configure(lock_attempts="1", lock_timeout="10s", deadline="10s")
    thread = threading.Thread(target=project.downgrade, args=("base",))

    with two.connect(autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE cold IN ACCESS SHARE MODE")
        thread.start()
        until(lambda: two.value(ORDERED))
        holder.rollback()
    thread.join(60)

    assert two.rows("SELECT outcome, attempts FROM migration.history ORDER BY id") == [("done", 1), ("done", 1)]


@pytest.mark.parametrize(
    "text",
    [
        'ALTER TABLE "o""d.d%" ADD COLUMN x int',
        'alter table public."o""d.d%" add x int',
        'DO $$BEGIN LOCK TABLE "o""d.d%"; END$$',
    ],
)
def test_a_table_is_known_by_its_name_in_the_statement(two: Database, text: str) -> None:
    """Quoted as it must be written, with its schema or without, or inside a block."""
    two.rows('CREATE TABLE "o""d.d%" (id int)')
    engine = create_engine(two.url.replace("postgresql:", "postgresql+psycopg2:"))
    wanted = {'public.o"d.d%': "SHARE", "public.hot": "SHARE"}

    with engine.connect() as connection, lock_order.before_needed(connection, wanted):
        postcheck.execute(connection, text)
        taken = connection.exec_driver_sql(
            "SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock' AND pid = pg_backend_pid() AND locktype = 'relation'"
        ).scalar_one()
    engine.dispose()

    assert taken == 2


def test_the_hottest_table_is_locked_last(two: Database, project: Project) -> None:
    """The body asks for the hot table first; from the second try on, nobody waits at it while the cold one is not to be had."""
    stored(project, BOTH)
    project.revision("001", "add_extra", BODY, BACK)
    thread = threading.Thread(target=project.upgrade)

    with two.connect(autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE cold IN ACCESS SHARE MODE")
        thread.start()
        until(lambda: two.value(ORDERED))
        held = "SELECT count(*) FROM pg_locks WHERE relation = 'hot'::regclass AND mode = 'AccessExclusiveLock'"
        hot = [two.value(held) for _ in range(20)]
        holder.rollback()
    thread.join(60)

    assert max(hot) == 0
    assert two.rows("SELECT outcome FROM migration.history") == [("done",)]


def test_without_a_trace_the_second_try_knows(two: Database, project: Project) -> None:
    """Nothing is stored: what the first try was seen to lock is locked in order by the next ones."""
    project.revision("001", "add_extra", BODY, BACK)
    thread = threading.Thread(target=project.upgrade)

    with two.connect(autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE cold IN ACCESS SHARE MODE")
        thread.start()
        until(lambda: two.value(ORDERED))
        holder.rollback()
    thread.join(60)

    assert two.rows("SELECT outcome FROM migration.history") == [("done",)]


@pytest.mark.long
def test_an_application_in_the_other_order_ends_in_no_failure(two: Database, project: Project) -> None:
    """Somebody changes cold and then hot, again and again, each in one transaction: up and down go through, nobody fails."""
    stored(project, BOTH)
    project.revision("001", "add_extra", BODY, BACK, reversible="stash")
    done, failed = threading.Event(), []

    def work() -> None:
        with two.connect(autocommit=False) as connection, connection.cursor() as cursor:
            while not done.is_set():
                try:
                    cursor.execute("INSERT INTO cold VALUES (1)")
                    cursor.execute("INSERT INTO hot VALUES (1)")
                    connection.commit()
                except psycopg2.Error as error:
                    failed.append(error.pgcode)
                    connection.rollback()

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(3):
        project.upgrade()
        project.alembic("stamp", "base")
        two.rows("ALTER TABLE hot DROP COLUMN extra")
        two.rows("ALTER TABLE cold DROP COLUMN extra")
    done.set()
    thread.join(30)

    assert failed == []
    assert two.value("SELECT count(*) FROM migration.history WHERE outcome = 'failed'") == 0


WANTED: list[dict[str, str]] = [
    {}, {"public.hot": "ACCESS EXCLUSIVE"}, {**BOTH, "public.gone": "SHARE"},
    {"public.hot": "ROW EXCLUSIVE", "public.cold": "SHARE"},
]  # fmt: skip


@pytest.mark.parametrize("wanted", WANTED)
def test_what_has_no_order_is_left_alone(two: Database, wanted: dict[str, str]) -> None:
    """One table, a weak lock or a table that is not there: only two strong locks on tables that exist are taken."""
    engine = create_engine(two.url.replace("postgresql:", "postgresql+psycopg2:"))
    count = (
        "SELECT count(*) FROM pg_locks "
        "WHERE mode = 'AccessExclusiveLock' AND pid = pg_backend_pid() AND locktype = 'relation'"
    )

    with engine.connect() as connection:
        lock_order.take(connection, wanted)
        taken = connection.exec_driver_sql(count).scalar_one()
    engine.dispose()

    assert taken == (2 if len(wanted) == 3 else 0)


def test_names_are_quoted(two: Database) -> None:
    """A table with quotes, a dot and a percent sign in its name is locked as it is called."""
    two.rows('CREATE TABLE "o""d.d%" (id int)')
    engine = create_engine(two.url.replace("postgresql:", "postgresql+psycopg2:"))

    with engine.connect() as connection:
        lock_order.take(connection, {'public.o"d.d%': "SHARE", "public.hot": "SHARE"})
        taken = connection.exec_driver_sql(
            "SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock' AND pid = pg_backend_pid() AND locktype = 'relation'"
        ).scalar_one()
    engine.dispose()

    assert taken == 2
