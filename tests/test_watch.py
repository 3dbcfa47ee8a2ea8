"""The watcher: sees who blocks a backend, and never harms the step."""

from __future__ import annotations

import dataclasses
import threading

import pytest
from sqlalchemy import create_engine

from mcp_planner_schema.guard import watch
from tests.conftest import Database
from tests.until import until


def test_it_names_the_blocker_and_counts_the_wait(empty: Database) -> None:
    """While one session waits for another, the watcher has the blocker's pid, name and user, and the time."""
    empty.rows("CREATE TABLE busy (id int)")
    engine = create_engine(empty.url.replace("postgresql:", "postgresql+psycopg2:"))

    with (
        empty.connect(autocommit=False) as holder, empty.connect() as waiter,
        holder.cursor() as holding, waiter.cursor() as waiting,
    ):  # fmt: skip
        holding.execute("LOCK TABLE busy")
        thread = threading.Thread(target=lambda: waiting.execute("SELECT * FROM busy"))
        with watch.watching(engine, waiter.info.backend_pid) as waits:
            thread.start()
            until(lambda: waits.blockers and waits.waited > 0.05)
            holder.rollback()
            thread.join(10)
        pid = holder.info.backend_pid
    engine.dispose()

    assert waits.shown().startswith(f"pid {pid} (the test, user postgres, idle in transaction, in its transaction for ")
    assert waits.shown().endswith(" s) holds busy")


def test_it_sees_nothing_when_it_cannot_connect() -> None:
    """An engine without a server: the step goes on, nothing was seen, nothing is raised."""
    engine = create_engine("postgresql+psycopg2://nobody@127.0.0.1:1/none")

    with watch.watching(engine, 1) as waits:
        until(lambda: threading.active_count() >= 1)

    assert waits.shown() == "a session that has gone"
    engine.dispose()


def test_a_wait_that_lasts_is_told(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement without a limit waits: one line names the blocker, another follows later, none is told of a short wait.

    To a role that may not look at others' sessions, state and time of the blocker are unknown.
    """
    monkeypatch.setattr(watch, "_TOLD_AFTER", 0.3)
    monkeypatch.setattr(watch, "_TOLD_EVERY", 0.2)
    empty.rows("CREATE TABLE busy (id int)")
    role = f"least_{empty.name}"
    empty.rows(f"CREATE ROLE {role} LOGIN")
    engine = create_engine(dataclasses.replace(empty, user=role).url.replace("postgresql:", "postgresql+psycopg2:"))
    told: list[str] = []

    with (
        empty.connect(autocommit=False) as holder, empty.connect() as waiter,
        holder.cursor() as holding, waiter.cursor() as waiting,
    ):  # fmt: skip
        holding.execute("LOCK TABLE busy")
        thread = threading.Thread(target=lambda: waiting.execute("SELECT * FROM busy"))
        with watch.watching(engine, waiter.info.backend_pid, told.append) as waits:
            thread.start()
            until(lambda: waits.waited > 0.1)
            early = list(told)
            until(lambda: len(told) > 1)
            holder.rollback()
            thread.join(10)
        pid = holder.info.backend_pid
    engine.dispose()
    empty.rows(f"DROP ROLE {role}")

    assert early == []
    assert told[0] == f"waits for 0 s: pid {pid} (the test, user postgres, unknown, since when is unknown) holds busy"
