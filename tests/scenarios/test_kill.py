"""Killed at any point of a downgrade or a restore, a database is exactly as before or exactly as after, its stash too."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from mcp_planner_schema import embedded
from mcp_planner_schema.guard import checksum, manifest, restore
from mcp_planner_schema.guard.postcheck import pinned
from tests.conftest import Database, Project, _private_folder
from tests.test_stash import sql
from tests.until import until

POINTS = 10
ROUNDS = 2

# Runs the command given; at the n-th statement or commit of the run (0: never) it says so and is killed a moment later, or
# waits for what the test does to the server. The number of all of them is its last line.
DRIVER = """
import os, random, signal, sys, threading, time
from sqlalchemy import event
from sqlalchemy.engine import Engine
from alembic.config import CommandLine

at, kind, pause = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
count = 0

def die():
    time.sleep(pause)
    os.kill(os.getpid(), signal.SIGKILL)

def reached(connection):
    global count
    count += 1
    if count != at:
        return
    if kind == "client":
        threading.Thread(target=die, daemon=True).start()
    else:
        info = connection.connection.dbapi_connection.info
        print("here", info.backend_pid, flush=True)
        if kind == "server":
            sys.stdin.readline()

event.listen(Engine, "before_cursor_execute", lambda connection, *rest: reached(connection))
event.listen(Engine, "commit", reached)
try:
    CommandLine("alembic").main(sys.argv[4:])
finally:
    print("statements", count, flush=True)
"""

SETUP = """
CREATE TYPE mood AS ENUM ('sad', 'so so');
CREATE TABLE stays (id int PRIMARY KEY, v text, mood mood, gone int);
CREATE TABLE child (id serial PRIMARY KEY, stays int REFERENCES stays, up int REFERENCES child, t text);
INSERT INTO stays SELECT n, 'v' || n, 'so so', n FROM generate_series(1, 2000) n;
INSERT INTO child (stays, up, t) SELECT n, nullif(n - 1, 0), repeat('x', 100) FROM generate_series(1, 2000) n;
"""
UP = """
op.execute("ALTER TABLE stays ADD gone int")
op.execute("CREATE TABLE child (id serial PRIMARY KEY, stays int REFERENCES stays, up int REFERENCES child, t text)")
op.execute("COMMENT ON TABLE stays IS 'up'")
"""
DOWN = """
op.execute("COMMENT ON TABLE stays IS NULL")
op.execute("UPDATE stays SET v = 'gone' WHERE id % 2 = 0")
op.execute("DELETE FROM child; DELETE FROM stays WHERE id > 1900")
op.execute("ALTER TABLE stays DROP gone")
op.execute("DROP TABLE child")
"""


class Killed:
    """A server of the test's own, a history of two revisions, and two databases: up and filled, and gone back."""

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project, self.monkeypatch, self.number = project, monkeypatch, 0
        self.folder = _private_folder()
        self.start()
        project.revision(
            "001", "create_things", sql("SELECT 1"), "raise NotImplementedError", reversible="forward-only: base"
        )
        base = sql(
            "CREATE TYPE mood AS ENUM ('sad', 'so so'); CREATE TABLE stays (id int PRIMARY KEY, v text, mood mood)"
        )
        project.revision("001", "create_things", base, "raise NotImplementedError", reversible="forward-only: the base")
        project.revision("002", "alter_things", UP, DOWN)
        up = self.made("up")
        monkeypatch.setenv("DATABASE_URL", up.url)
        project.upgrade()
        up.rows(
            "INSERT INTO stays SELECT n, 'v' || n, 'so so', n FROM generate_series(1, 2000) n; "
            "INSERT INTO child (stays, up, t) SELECT n, nullif(n - 1, 0), repeat('x', 100) FROM generate_series(1, 2000) n"
        )
        down = self.made("down", "up")
        monkeypatch.setenv("DATABASE_URL", down.url)
        project.downgrade("-1")

    def start(self) -> None:
        """Start the server, again after it was killed."""
        settings = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "synchronous_commit": "on"}
        self.server = embedded.start(self.folder, settings=settings, database=None, say=lambda line: None)

    def made(self, name: str, template: str = "template0") -> Database:
        """A new database, cloned."""
        self.maintenance().rows(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return Database(str(self.server.socket), self.server.port, name)

    def maintenance(self) -> Database:
        """Where databases are made."""
        return Database(str(self.server.socket), self.server.port, "postgres")

    def end(self) -> None:
        """Stop and remove the server."""
        embedded.stop(self.folder, mode="immediate")
        shutil.rmtree(self.folder)

    def run(self, database: Database, words: list[str], at: int, kind: str, pause: float) -> tuple[int, int]:
        """Run alembic and kill at a point; gives the exit code and the number of statements (0 where it did not end)."""
        driver = self.project.folder / "driver.py"
        driver.write_text(DRIVER)
        running = subprocess.Popen(
            [sys.executable, str(driver), str(at), kind, str(pause), *words], cwd=self.project.folder, text=True,
            env={**os.environ, "DATABASE_URL": database.url}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert running.stdout is not None
        line = running.stdout.readline()
        if line.startswith("here") and kind == "backend":
            time.sleep(pause)
            self.maintenance().rows("SELECT pg_terminate_backend(%s)", int(line.split()[1]))
        elif line.startswith("here"):
            embedded.stop(self.folder, mode="immediate")
            self.start()
        rest, _ = running.communicate("\n", timeout=60)
        counted = [one for one in (line + rest).splitlines() if one.startswith("statements")]
        return running.returncode, int(counted[-1].split()[1]) if counted else 0


@pytest.fixture
def killed(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Killed]:
    """The server and its two databases."""
    made = Killed(project, monkeypatch)
    yield made
    made.end()


def picture(database: Database) -> dict[str, Any]:
    """Everything that must be as before or as after: rows, version, columns, stash. Damage and leftovers fail at once."""
    engine = sa.create_engine(database.url.replace("postgresql:", "postgresql+psycopg2:"), poolclass=sa.pool.NullPool)
    with engine.connect() as connection, connection.begin(), pinned(connection, **checksum.OUTPUT):
        tables = connection.exec_driver_sql(
            "SELECT relname::text, array(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 "
            "AND NOT attisdropped ORDER BY 1) FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        ).all()
        seen: dict[str, Any] = {
            name: (columns, checksum.of(connection, f'public."{name}"', columns)) for name, columns in tables
        }
        stashes = manifest.read(connection, "migration")
        assert [restore.damaged(connection, one) for one in stashes] == [[] for _ in stashes]
        schemas = connection.exec_driver_sql(
            "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'migration\\_stash\\_%%'"
        )
        assert sorted(schemas.scalars()) == sorted(one.kept_in for one in stashes)
        seen["stash"] = [
            (one.revision, one.state, [(o.kind, o.name, o.checksum) for o in one.objects]) for one in stashes
        ]
        seen["comment"] = connection.exec_driver_sql("SELECT obj_description('public.stays'::regclass)").scalar()
    return seen


@pytest.mark.long
@pytest.mark.parametrize("kind", ["client", "backend", "server"])
@pytest.mark.parametrize("way", ["downgrade", "restore"])
def test_killed_anywhere_it_is_before_or_after(killed: Killed, way: str, kind: str) -> None:
    """At ten points, twice, of each way, and repeated afterwards: 120 runs in all six tests; the repetition always ends it."""
    template, words = ("up", ["downgrade", "001"]) if way == "downgrade" else ("down", ["upgrade", "002"])
    whole = killed.made("whole", template)
    before = picture(whole)
    code, statements = killed.run(whole, words, 0, "", 0)
    after = picture(whole)
    assert (code, before != after) == (0, True)
    chance, outcomes = random.Random(f"{way} {kind}"), []

    for n in range(POINTS * ROUNDS):
        name = f"run_{n}"
        database = killed.made(name, template)
        # From the first statement to the last commit, the last quarter more densely: there it is decided.
        share = n / (POINTS * ROUNDS - 1)
        at = max(1, round(statements * (1 - (1 - share) ** 1.5)))
        code, _ = killed.run(database, words, at, kind, chance.random() * 0.01)
        until(
            lambda name=name: (
                not killed.maintenance().rows(  # type: ignore[misc]
                    "SELECT FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()", name
                )
            )
        )
        found = picture(database)
        assert found in (before, after), f"statement {at} of {statements}"
        outcomes.append((found == after, code))
        again, _ = killed.run(database, words, 0, "", 0)
        assert again == 0
        assert picture(database) == after
        killed.maintenance().rows(f"DROP DATABASE {name}")

    assert {False, True} == {ended for ended, _ in outcomes}
    assert -signal.SIGKILL in {code for _, code in outcomes} or kind != "client"
