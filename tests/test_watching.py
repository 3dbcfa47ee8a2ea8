"""Logs, the sensitive log, and how far a long statement is: told to whom it concerns, and to nobody else."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from mcp_planner_schema.guard import ladder, sensitive, underway, watch
from mcp_planner_schema.guard.findings import Busy
from tests.conftest import Database, Project, some
from tests.until import until

SECRET = "SELECT 'a secret of the holder', * FROM a"


@pytest.fixture
def held(empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose second revision needs the table a."""
    monkeypatch.setattr(ladder, "_BETWEEN_TRIES", 0.01)
    project.configure(lock_timeout="100ms")  # before the deadline: the server says that it was a lock
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    project.upgrade()
    project.revision("002", "alter_a", 'op.execute("ALTER TABLE a ADD b int")', 'op.execute("ALTER TABLE a DROP b")')
    return project


def test_a_machine_reads_an_object_a_line(empty: Database, held: Project, capfd: pytest.CaptureFixture[str]) -> None:
    """Everything on stderr is JSON: run, revision, duration, locks, blockers, tries, and how it failed at last."""
    held.configure(log_format="json")
    with empty.connect(autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute(SECRET)
        busy = held.alembic("upgrade", "head")
        pid = holder.info.backend_pid
    capfd.readouterr()
    held.upgrade()
    done = capfd.readouterr().err

    first = [json.loads(line) for line in busy.stderr.splitlines()]
    by_kind = {one["kind"]: one for one in first}
    assert busy.returncode == 75
    assert by_kind["try-failed"]["blockers"][0].startswith(f"pid {pid} (the test, user postgres, idle in transaction, ")
    assert (
        by_kind["try-failed"] | {"sqlstate": "55P03", "run": 2, "revision": "002", "attempt": 1}
        == by_kind["try-failed"]
    )
    assert by_kind["error"]["exit"] == 75
    assert by_kind["error"]["next"] == "alembic upgrade head"
    second = {one["kind"]: one for one in map(json.loads, done.splitlines())}
    assert (
        second["step-done"] | {"run": 3, "revision": "002", "locks": {"public.a": "ACCESS EXCLUSIVE"}}
        == second["step-done"]
    )
    assert second["step-done"]["duration_ms"] > 0
    assert second["step-done"]["text"].startswith("upgrade   002_alter_a")
    assert "a secret of the holder" not in busy.stderr + done


def test_the_applications_logging_stays_its_own(
    empty: Database, held: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """No handler is added, no level changed, no logger silenced; what is told goes where the application has it."""
    root, mine = logging.getLogger(), logging.getLogger("application")
    got: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            got.append(record.getMessage())

    handler = Handler()
    root.addHandler(handler)
    before = (list(root.handlers), root.level, mine.disabled, mine.handlers, logging.root.manager.disable)
    level = logging.getLogger("mcp_planner_schema").level
    logging.getLogger("mcp_planner_schema").setLevel(logging.INFO)
    try:
        held.configure(log_format="json")
        held.upgrade()
        after = (list(root.handlers), root.level, mine.disabled, mine.handlers, logging.root.manager.disable)
    finally:
        root.removeHandler(handler)
        logging.getLogger("mcp_planner_schema").setLevel(level)

    assert after == before
    assert next(json.loads(one)["kind"] for one in got if one.startswith('{"at"')) == "run-started"
    assert capsys.readouterr().err == ""


def test_queries_of_others_are_in_the_sensitive_log_and_nowhere_else(
    empty: Database, held: Project, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its file is for its owner only; neither what is told nor what is stored has a word of them."""
    log = tmp_path / "sensitive.log"
    held.configure(sensitive_log=str(log))

    with empty.connect(autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute(SECRET)
        with pytest.raises(Busy) as caught:
            held.upgrade()
        pid = holder.info.backend_pid

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {(one["run"], one["revision"], one["pid"], one["query"]) for one in lines} == {(2, "002", pid, SECRET)}
    assert log.stat().st_mode & 0o777 == 0o600
    assert "a secret of the holder" not in capfd.readouterr().err + caught.value.text()
    everything = (
        "SELECT (SELECT string_agg(e::text, '') FROM migration.event e) || (SELECT string_agg(r::text, '') FROM migration.run r)"
        " || (SELECT string_agg(h::text, '') FROM migration.history h)"
    )
    assert "a secret of the holder" not in empty.value(everything)


def test_a_sensitive_log_that_others_may_read_is_not_written(
    empty: Database, held: Project, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One warning says which mode it needs; a link is followed as little."""
    log, link = tmp_path / "sensitive.log", tmp_path / "link.log"
    log.touch(0o644)
    link.symlink_to(tmp_path / "elsewhere.log")

    for path in (log, link):
        held.configure(sensitive_log=str(path))
        with empty.connect(autocommit=False) as holder, holder.cursor() as cursor:
            cursor.execute(SECRET)
            with pytest.raises(Busy):
                held.upgrade()

    said = capfd.readouterr().err
    assert said.count("warning: the sensitive log is not written") == 2
    assert f"chmod 600 {log}" in said
    assert (log.read_text(), (tmp_path / "elsewhere.log").exists()) == ("", False)


def test_a_sensitive_log_that_is_no_file_holds_nobody_up(tmp_path: Path) -> None:
    """A pipe that nobody reads is refused, and not waited for."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)

    for opened in (True, False):
        with pytest.raises(OSError, match="is no file" if opened else "No such device"):
            sensitive.note(str(tmp_path / "pipe"), 1, "001", {1: "SELECT"})
        if opened:
            os.close(reader)


def index(project: Project, body: str = "op.create_index_concurrently('ix', 't', ['k'])") -> None:
    """A revision that builds an index on t."""
    project.revision(
        "001", "add_index", body, "op.drop_index_concurrently('ix', 't')", transaction="none",
        expectations="expect.index('ix')",
    )  # fmt: skip


def test_how_far_an_index_build_is_comes_from_the_server(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Phase, blocks and share of a real build are told while it goes on."""
    monkeypatch.setattr(underway, "AFTER", 0.0)
    monkeypatch.setattr(underway, "EVERY", 0.01)
    empty.rows(
        "CREATE TABLE t (id int, k text); INSERT INTO t SELECT n, repeat('x', 300) FROM generate_series(1, 60000) n"
    )
    # Half a second at least, however fast the machine: it sleeps for every hundredth row.
    empty.rows(
        "CREATE FUNCTION slow(k int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS "
        "$$BEGIN IF k % 100 = 0 THEN PERFORM pg_sleep(0.001); END IF; RETURN k; END$$"
    )
    index(project, "op.create_index_concurrently('ix', 't', [sa.text('slow(id)')])")

    project.upgrade()

    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("001  index ix on t: ")]
    scanning = [line for line in lines if "building index: scanning table, " in line]
    assert scanning, lines
    assert all(re.search(r"scanning table, [\d,]+ of 2,\d{3} blocks \(\d+ %\)$", line) for line in scanning), scanning


def test_a_watcher_that_was_cut_off_is_in_nobodys_way(empty: Database, project: Project) -> None:
    """Its next session is in autocommit too: in a transaction it would be waited for by the very build that it watches."""
    empty.rows("CREATE TABLE t (id int, k text); INSERT INTO t SELECT n, 'x' FROM generate_series(1, 2000) n")
    empty.rows(
        "CREATE FUNCTION slow(k int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS "
        "$$BEGIN IF k % 4 = 0 THEN PERFORM pg_sleep(0.002); END IF; RETURN k; END$$"
    )
    index(project, "op.create_index_concurrently('ix', 't', [sa.text('slow(id)')])")
    runs = list[subprocess.CompletedProcess[str]]()
    thread = threading.Thread(target=lambda: runs.append(project.alembic("upgrade", "head")))
    thread.start()
    until(lambda: runs or empty.rows("SELECT pid FROM pg_stat_progress_create_index WHERE phase LIKE 'building%'"))
    assert not runs, runs

    until(lambda: runs or empty.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
          f"query LIKE 'EXECUTE {watch._NAME}%' AND application_name LIKE 'mcp-planner-guard%'"))  # fmt: skip
    assert not runs, runs
    thread.join(20)
    if thread.is_alive():
        empty.rows("SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index")
        thread.join()

    assert [one.returncode for one in runs] == [0], runs


@pytest.mark.long
def test_a_build_that_takes_long_is_told_after_five_seconds(
    empty: Database, project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    """At the real pace: nothing before, then a line every ten seconds, each further than the one before."""
    empty.rows("CREATE TABLE t (id int, k int); INSERT INTO t SELECT n, n FROM generate_series(1, 20000) n")
    empty.rows(
        "CREATE FUNCTION slow(k int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS "
        "$$BEGIN IF current_setting('application_name') LIKE '%guard%' THEN PERFORM pg_sleep(0.001); END IF; RETURN k; END$$"
    )
    index(project, "op.create_index_concurrently('ix', 't', [sa.text('slow(k)')])")

    project.upgrade()

    shares = [
        int(line.rpartition("(")[2].removesuffix(" %)"))
        for line in capfd.readouterr().err.splitlines() if "building index: scanning table" in line
    ]  # fmt: skip
    assert len(shares) >= 2
    assert shares == sorted(set(shares))


SLOW = """
CREATE FUNCTION slow(k int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
$$BEGIN IF current_setting('application_name') = 'slow' THEN PERFORM pg_sleep(0.01); END IF; RETURN k; END$$;
CREATE TABLE t (id int, k text);
INSERT INTO t SELECT n, repeat('x', 300) FROM generate_series(1, 3000) n;
CREATE INDEX ix ON t (slow(id));
"""
THROTTLED = "SET vacuum_cost_delay = '20ms'; SET vacuum_cost_limit = 5; SET vacuum_cost_page_dirty = 5; "
STATEMENTS = {
    "VACUUM": (THROTTLED, "VACUUM t", r"VACUUM of t: scanning heap, \d+ of 125 blocks \(\d+ %\)"),
    "VACUUM FULL": ("", "VACUUM FULL t", r"VACUUM FULL of t: rebuilding index, \d+ of 125 blocks \(\d+ %\)"),
    "CLUSTER": ("", "CLUSTER t USING ix", r"CLUSTER of t: rebuilding index.*"),
    "ANALYZE": (THROTTLED, "ANALYZE t (k)", r"ANALYZE of t: acquiring sample rows, \d+ of 125 blocks \(\d+ %\)"),
    "REINDEX": ("", "REINDEX INDEX ix", r"index ix on t: building index: scanning table, \d+ of 125 blocks \(\d+ %\)"),
    "COPY": ("", "COPY (SELECT slow(id) FROM t) TO STDOUT", r"COPY TO: pipe, \d+ rows"),
}


@pytest.mark.parametrize("what", some(STATEMENTS))
def test_the_server_says_how_far_each_kind_of_long_statement_is(empty: Database, what: str) -> None:
    """A session at work is looked at from another one: phase, how many of how many, and of which table."""
    empty.rows(SLOW)
    before, statement, expected = STATEMENTS[what]

    with empty.connect() as worker, worker.cursor() as cursor, opened(empty) as beside:
        for one in filter(None, [*before.split("; "), "SET application_name = 'slow'"]):
            cursor.execute(one)
        thread = threading.Thread(target=lambda: run(cursor, statement))
        thread.start()
        pid, seen = worker.info.backend_pid, set[str]()

        def found() -> bool:
            at = underway.look(beside, pid)
            seen.update([at.line()] if at else [])
            return any(re.fullmatch(expected, line) for line in seen)

        try:
            until(found)
        finally:
            empty.rows("SELECT pg_cancel_backend(%s)", pid)
            thread.join(30)


def run(cursor: Any, statement: str) -> None:
    """Run it until it is cancelled."""
    with contextlib.suppress(psycopg2.errors.QueryCanceled):
        if statement.startswith("COPY"):
            cursor.copy_expert(statement, io.StringIO())
        else:
            cursor.execute(statement)


@contextmanager
def opened(database: Database) -> Iterator[Connection]:
    """The watcher's connection, as a run opens it."""
    engine = create_engine(database.url.replace("postgresql:", "postgresql+psycopg2:"), poolclass=NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


@pytest.mark.long
def test_an_online_statement_that_waits_for_an_old_snapshot_says_for_whom(
    empty: Database, project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    """CREATE INDEX CONCURRENTLY waits for a transaction that never touched the table: its pid is told after two seconds, at the
    usual pace, and stored."""
    empty.rows("CREATE TABLE t (id int, k int); INSERT INTO t SELECT n, n FROM generate_series(1, 100) n")
    index(project)
    thread = threading.Thread(target=project.upgrade)
    said = ""

    with empty.connect(autocommit=False) as older, older.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        pid = older.info.backend_pid
        thread.start()

        def told() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return f"waits for 2 s: pid {pid} (the test, user postgres, idle in transaction, " in said

        until(told)
        older.rollback()
    thread.join(30)

    waiting = empty.rows("SELECT data ->> 'blockers' FROM migration.event WHERE kind = 'waiting' AND revision = '001'")
    assert len(waiting) == 1
    assert f"pid {pid} (the test" in waiting[0][0]


@pytest.mark.long
def test_a_killed_run_is_ended_by_the_next_one_that_finds_it(empty: Database, project: Project) -> None:
    """Its last event is written for it: interrupted."""
    project.revision(
        "001", "create_a", "op.execute('SELECT pg_advisory_xact_lock(4711)')", "op.execute('DROP TABLE a')"
    )
    project.configure(lock_timeout="60s", statement_timeout="60s")
    with empty.connect() as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(4711)")
        process = subprocess.Popen([sys.executable, "-m", "alembic", "upgrade", "head"], cwd=project.folder)
        until(lambda: empty.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        process.kill()
        process.wait()
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')

    project.upgrade()

    ends = empty.rows("SELECT run_id, data ->> 'outcome' FROM migration.event WHERE kind = 'run-ended' ORDER BY id")
    assert ends == [(1, "interrupted"), (2, "done")]
