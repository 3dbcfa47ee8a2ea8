"""The watcher: sees who blocks a backend, and never harms the step."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from mcp_planner_schema.guard import deadline, watch
from tests.conftest import Database
from tests.until import until


@contextmanager
def watched(database: Database) -> Iterator[Connection]:
    """The watcher's connection, as a run opens it."""
    engine = create_engine(database.url.replace("postgresql:", "postgresql+psycopg2:"), poolclass=NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


def test_it_names_the_blocker_and_counts_the_wait(empty: Database) -> None:
    """While one session waits for another, the watcher has the blocker's pid, name and user, and the time."""
    empty.rows("CREATE TABLE busy (id int)")
    with (
        empty.connect(autocommit=False) as holder, empty.connect() as waiter,
        holder.cursor() as holding, waiter.cursor() as waiting,
    ):  # fmt: skip
        holding.execute("LOCK TABLE busy")
        thread = threading.Thread(target=lambda: waiting.execute("SELECT * FROM busy"))
        with watched(empty) as beside, watch.watching(beside, waiter.info.backend_pid) as waits:
            thread.start()
            until(lambda: waits.blockers and waits.waited > 0.05)
            holder.rollback()
            thread.join(10)
        pid = holder.info.backend_pid

    assert waits.shown().startswith(f"pid {pid} (the test, user postgres, idle in transaction, in its transaction for ")
    assert waits.shown().endswith(" s) holds busy")


@pytest.mark.parametrize("calm", [True, False])
def test_what_takes_no_strong_lock_is_looked_at_less_often(
    empty: Database, monkeypatch: pytest.MonkeyPatch, calm: bool
) -> None:
    """Ten times a second; once it holds one as often as any step, and its clock begins no later than that was taken."""
    looks, once = list[float](), watch._Look._once

    def counted(look: watch._Look, before: float) -> dict[int, str]:
        looks.append(time.monotonic())
        return once(look, before)

    monkeypatch.setattr(watch._Look, "_once", counted)
    clock = deadline.Clock(60, calm=calm)
    with watched(empty) as beside, empty.connect() as step, step.cursor() as cursor:
        cursor.execute("CREATE TABLE busy (id int)")
        with watch.watching(beside, step.info.backend_pid, clock=clock):
            threading.Event().wait(1)
            before = len(looks)
            cursor.execute("BEGIN; LOCK TABLE busy")
            taken = time.monotonic()
            until(lambda: clock.began)
            threading.Event().wait(1)

    assert (before <= 15) is calm
    assert len(looks) - before > 12
    assert clock.began is not None
    assert clock.began <= taken


def test_a_session_that_has_forgotten_all_is_told_again(empty: Database) -> None:
    """Somebody's DISCARD ALL between two steps: what the watcher had prepared is prepared anew."""
    with watched(empty) as beside, empty.connect() as step, step.cursor() as cursor:
        cursor.execute("CREATE TABLE busy (id int)")
        for _ in range(2):
            clock = deadline.Clock(60)
            with watch.watching(beside, step.info.backend_pid, clock=clock):
                cursor.execute("BEGIN; LOCK TABLE busy")
                until(lambda clock=clock: clock.began)  # type: ignore[misc]
            cursor.execute("ROLLBACK")
            beside.exec_driver_sql("DISCARD ALL")


def test_it_sees_nothing_when_its_connection_is_cut(empty: Database) -> None:
    """The watcher's own session is ended: the step goes on, nothing was seen, nothing is raised; the next step is seen again."""
    with watched(empty) as beside, empty.connect() as step:
        driver: Any = beside.connection.dbapi_connection
        empty.rows("SELECT pg_terminate_backend(%s)", driver.info.backend_pid)

        with watch.watching(beside, step.info.backend_pid) as waits:
            until(lambda: beside.invalidated)
        again = deadline.Clock(60)
        with step.cursor() as cursor, watch.watching(beside, step.info.backend_pid, clock=again):
            cursor.execute("CREATE TABLE busy (id int)")
            cursor.execute("BEGIN; LOCK TABLE busy")
            until(lambda: again.began)

    assert waits.shown() == "a session that has gone"


def test_a_wait_that_lasts_is_told(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement without a limit waits: one line names the blocker, another follows later, none is told of a short wait.

    To a role that may not look at others' sessions, state and time of the blocker are unknown.
    """
    monkeypatch.setattr(watch, "_TOLD_AFTER", 0.3)
    monkeypatch.setattr(watch, "_TOLD_EVERY", 0.2)
    empty.rows("CREATE TABLE busy (id int)")
    role = f"least_{empty.name}"
    empty.rows(f"CREATE ROLE {role} LOGIN")
    told: list[str] = []

    with (
        empty.connect(autocommit=False) as holder, empty.connect() as waiter,
        holder.cursor() as holding, waiter.cursor() as waiting,
    ):  # fmt: skip
        holding.execute("LOCK TABLE busy")
        thread = threading.Thread(target=lambda: waiting.execute("SELECT * FROM busy"))
        with (
            watched(dataclasses.replace(empty, user=role)) as beside,
            watch.watching(beside, waiter.info.backend_pid, told.append) as waits,
        ):
            thread.start()
            until(lambda: waits.waited > 0.1)
            early = list(told)
            until(lambda: len(told) > 1)
            holder.rollback()
            thread.join(10)
        pid = holder.info.backend_pid
    empty.rows(f"DROP ROLE {role}")

    assert early == []
    assert told[0] == f"waits for 0 s: pid {pid} (the test, user postgres, unknown, since when is unknown) holds busy"
