"""While the guard copies rows, a session of its own has the write-ahead log written out; nothing depends on that it can."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from mcp_planner_schema.guard import connect, wal
from tests.conftest import Database, Project
from tests.until import until

BESIDE = "SELECT pid, query FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'mcp-planner-guard'"
ASYNCHRONOUS = "SET synchronous_commit = off"
NEXT = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"


@pytest.fixture
def session(empty: Database) -> Iterator[sa.Connection]:
    """A connection of the guard's kind."""
    yield from _session(empty.url)


def _session(url: str) -> Iterator[sa.Connection]:
    engine = connect.engine(sa.make_url(url).set(drivername="postgresql+psycopg2"), "the test")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The engines that were asked for a session beside."""
    asked: list[Any] = []
    own = connect.own
    monkeypatch.setattr(connect, "own", lambda engine, *name: asked.append(engine) or own(engine, *name))
    return asked


def test_long_work_has_commits_beside_it(empty: Database, session: sa.Connection) -> None:
    """Meanwhile many small transactions end, without waiting for the disk, and afterwards nothing of it is left."""
    (before,) = empty.rows(NEXT)[0]

    with wal.written_beside(session):
        until(lambda: empty.rows(BESIDE))
        time.sleep(0.5)
        ((_, query),) = empty.rows(BESIDE)
        (after,) = empty.rows(NEXT)[0]

    assert query == wal._COMMIT
    assert after - before > 20
    until(lambda: not empty.rows(BESIDE))


def test_short_work_has_no_session_beside_it(session: sa.Connection, opened: list[Any]) -> None:
    """What is over in a moment opens no connection for it."""
    with wal.written_beside(session):
        session.exec_driver_sql("SELECT")

    assert opened == []


def test_work_whose_session_beside_is_ended_goes_on(empty: Database, session: sa.Connection) -> None:
    """An administrator who ends that session, or a server that does, ends nothing else."""
    with wal.written_beside(session):
        ((pid, _),) = until(lambda: empty.rows(BESIDE))
        empty.rows("SELECT pg_terminate_backend(%s)", pid)
        until(lambda: not empty.rows(BESIDE))
        done = session.exec_driver_sql("SELECT 1").scalar_one()

    assert done == 1


def test_work_without_a_second_connection_goes_on(empty: Database, opened: list[Any]) -> None:
    """A role that may have one connection only does the same work, and nothing is said of it."""
    role = f"one_{uuid.uuid4().hex[:12]}"
    empty.rows(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1")
    try:
        for session in _session(empty.url.replace("//postgres@", f"//{role}@")):
            session.exec_driver_sql("SELECT")
            with wal.written_beside(session):
                until(lambda: opened)
                done = session.exec_driver_sql("SELECT pg_sleep(0.2), 1").one()[1]
    finally:
        until(lambda: not empty.rows("SELECT FROM pg_stat_activity WHERE usename = %s", role))
        empty.rows(f"DROP ROLE {role}")

    assert done == 1


def test_a_downgrade_and_the_way_up_are_helped(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While rows are copied or put back such commits do happen, none waits for the disk, and all rows are there."""
    monkeypatch.setenv("DATABASE_URL", empty.url)
    monkeypatch.setattr(wal, "_AFTER", 0.0)
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        if threading.current_thread() is not threading.main_thread() and statement in (wal._COMMIT, ASYNCHRONOUS):
            sent.append(statement)

    create = "CREATE TABLE a AS SELECT n AS id, repeat('x', 100) AS v FROM generate_series(1, 1000000) n"
    project.revision("001", "create_things", f'op.execute("{create}")', 'op.drop_table("a")')
    project.configure(stash_move_above="never")
    project.upgrade()

    sa.event.listen(Engine, "before_cursor_execute", note)
    try:
        project.downgrade("base")
        down, sent[:] = list(sent), []
        project.upgrade()
    finally:
        sa.event.remove(Engine, "before_cursor_execute", note)

    assert empty.rows("SELECT count(*), count(DISTINCT id) FROM a") == [(1_000_000, 1_000_000)]
    for one in (down, sent):
        assert one[0] == ASYNCHRONOUS
        assert one.count(wal._COMMIT) > 5


def test_a_connection_that_is_slow_to_come_is_not_waited_for(
    session: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work's locks are not held for it, and it is closed as soon as it is there."""
    own, ended = connect.own, threading.Event()

    def slow(engine: Any, *name: Any) -> Any:
        time.sleep(1)
        ended.set()
        return own(engine, *name)

    monkeypatch.setattr(connect, "own", slow)
    began = time.monotonic()
    with wal.written_beside(session, at_once=True):
        session.exec_driver_sql("SELECT")
    took = time.monotonic() - began

    assert took < 0.9
    assert ended.wait(20)
