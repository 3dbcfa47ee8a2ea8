"""Killed at any point of a downgrade or a restore, a database is exactly as before or exactly as after, its stash too."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
import pytest
import sqlalchemy as sa

from mcp_planner_schema import embedded
from mcp_planner_schema.embedded.process import postmaster
from mcp_planner_schema.guard import archive, checksum, intact, manifest, restore_later
from mcp_planner_schema.guard.postcheck import pinned
from tests.catalog import catalog
from tests.conftest import ROOT, Database, Project, _private_folder
from tests.test_stash import sql
from tests.until import until

PARTS = {
    "downgrade": ("before", "trial", "archive", "pg_dump", "copy", "body", "proof", "end", "COMMIT", "after"),
    "downgrade moving": ("before", "trial", "trial", "copy", "copy", "body", "proof", "end", "COMMIT", "after"),
    "restore": ("before", "begin", "body", "come back", "come back", "finish", "finish", "end", "COMMIT", "after"),
    "restore moving": ("before", "begin", "body", "come back", "finish", "finish", "finish", "end", "COMMIT", "after"),
    "restore among seeds": (
        "before",
        "begin",
        "body",
        "come back",
        "come back",
        "finish",
        "finish",
        "end",
        "COMMIT",
        "after",
    ),
    "restore later": ("before", "begin", "begin", "finish", "finish", "finish", "end", "end", "COMMIT", "after"),
}
"""The ten points of each way, in its order. At each the kill comes before a statement is sent, or while it runs."""
LONGEST = {"COMMIT": 0.001, "pg_dump": 0.1}
"""Seconds from a statement's beginning to the kill, where it is not a few milliseconds: pg_dump takes its time."""
WORDS = {"downgrade": ["downgrade", "001"], "restore": ["upgrade", "002"], "restore later": ["later", "002"]}

# Runs the command given; at the n-th statement of a part of the run it says so, and kills what it was told to, a moment later
# or at once. Its last line tells how many statements each part has.
DRIVER = """
import collections, json, os, sys, threading, time
from alembic.config import CommandLine, Config
from sqlalchemy import event
from sqlalchemy.engine import Engine
from mcp_planner_schema.guard import archive, client, meanwhile, proof, restore, restore_later, stash, trial

wanted, number, victim, signal, pause = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
part, counts, migrating, main = "before", collections.Counter(), None, threading.get_ident()
latest, run = None, client.run

def passing(module, name, inside, behind):
    original = getattr(module, name)
    def passed(*given, **named):
        global part, migrating
        part = inside
        found = original(*given, **named)
        part = behind
        if behind == "end":
            migrating = given[0].connection.dbapi_connection
        return found
    setattr(module, name, passed)

passing(trial, "attempt", "trial", "between")
passing(archive, "make", "archive", "between")
passing(stash, "keep", "copy", "body")
passing(proof, "prove", "proof", "end")
passing(trial, "disarm", "end", "end")
passing(restore, "begin", "begin", "body")
passing(meanwhile, "come_back", "come back", "body")
passing(restore, "finish", "finish", "end")

def die(victim):
    time.sleep(pause)
    os.kill(victim, signal)

def reached(connection, here):
    global latest
    if threading.get_ident() != main:
        return
    latest = connection
    counts[here] += 1
    if (here, counts[here]) == (wanted, number):
        print("here", flush=True)
        # 0 is this process, 1 the server's at the other end of the connection.
        process = {0: os.getpid(), 1: connection.connection.dbapi_connection.info.backend_pid}.get(victim, victim)
        die(process) if not pause else threading.Thread(target=die, args=(process,), daemon=True).start()

def committing(connection):
    global part
    final = part == "end" and connection.connection.dbapi_connection is migrating
    reached(connection, "COMMIT" if final else part)
    part = "after" if final else part

def program(*given, **named):
    reached(latest, "pg_dump")  # and pg_restore
    return run(*given, **named)

client.run = program
event.listen(Engine, "before_cursor_execute", lambda connection, *rest: reached(connection, part))
event.listen(Engine, "commit", committing)
try:
    if sys.argv[6] == "later":
        config = Config("alembic.ini", attributes={"repeat": "the same command"})
        restore_later.give_back(config, sys.argv[7], None, dry=False)
    else:
        CommandLine("alembic").main(sys.argv[6:])
finally:
    print(json.dumps(counts), flush=True)
"""

BASE = """
CREATE TYPE mood AS ENUM ('sad', 'so so');
CREATE TABLE stays (id int PRIMARY KEY, v text, mood mood);
"""
UP = """
ALTER TABLE stays ADD gone int;
CREATE TABLE child (id serial PRIMARY KEY, stays int REFERENCES stays, up int REFERENCES child, t text);
COMMENT ON TABLE stays IS 'up';
"""
# The upgrade is begun once more for it, and the kept rows come after its body.
SEED = "INSERT INTO child (id, t) VALUES (-1, 'seed') ON CONFLICT DO NOTHING"
FILLED = """
INSERT INTO stays SELECT n, 'v' || n, 'so so', n FROM generate_series(1, 2000) n;
INSERT INTO child (stays, up, t) SELECT n, nullif(n - 1, 0), repeat('x', 100) FROM generate_series(1, 2000) n;
"""
STEPS_DOWN = """
op.execute("COMMENT ON TABLE stays IS NULL")
op.execute("ALTER TABLE stays DROP gone")
op.execute("DROP TABLE child")
"""
WRITES = """
op.execute("UPDATE stays SET v = 'gone' WHERE id % 2 = 0")
op.execute("DELETE FROM child; DELETE FROM stays WHERE id > 1900")
"""
# What must not outlast a run: of the server, of the database, of the stash.
LEFT = """
SELECT 'session ' || application_name FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
UNION ALL SELECT 'advisory lock ' || objid FROM pg_locks WHERE locktype = 'advisory'
UNION ALL SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts
UNION ALL SELECT 'temporary ' || relname FROM pg_class WHERE relpersistence = 't'
UNION ALL SELECT 'armed guard' FROM migration.commit_guard
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace
  WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public', 'migration')
    AND nspname NOT IN (SELECT kept_in FROM migration.stash)
UNION ALL SELECT 'kept ' || c.oid::regclass
  FROM pg_class c JOIN migration.stash s ON s.kept_in = c.relnamespace::regnamespace::text
  WHERE c.relkind NOT IN ('i', 'S', 't')
    AND c.relname NOT IN (SELECT o.relation FROM migration.stash_object o WHERE o.stash_id = s.id AND o.relation IS NOT NULL)
"""


class Outcome(NamedTuple):
    """How a run ended: its exit code, whether it came to its point, how many statements each part has (a killed one: none)."""

    code: int
    reached: bool
    counts: dict[str, int]
    said: str


class Killed:
    """A server of the test's own, a history of two revisions, and two databases: full, and as a run of this way begins."""

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project, self.monkeypatch, self.folder = project, monkeypatch, _private_folder()
        self.temporary = project.folder / "tmp"
        self.temporary.mkdir()
        self.start()

    def prepare(self, way: str) -> None:
        """Write the history, make the databases."""
        project, monkeypatch = self.project, self.monkeypatch
        moving = way.endswith("moving")
        project.configure(
            archive="always" if way == "downgrade" else "auto", archive_dir=str(project.folder / "backups"),
            stash_move_above="64kB" if moving else "never",
        )  # fmt: skip
        (project.folder / "driver.py").write_text(DRIVER)
        project.revision(
            "001", "create_things", sql(BASE), "raise NotImplementedError", reversible="forward-only: the base"
        )
        up = sql(UP) + ("\n" + sql(SEED) if way.endswith("seeds") else "")
        project.revision("002", "alter_things", up, STEPS_DOWN if moving else WRITES + STEPS_DOWN)
        self.full = self.made("complete")
        monkeypatch.setenv("DATABASE_URL", self.full.url)
        project.upgrade()
        self.full.rows(FILLED)
        begin = self.made("begin", "complete")
        monkeypatch.setenv("DATABASE_URL", begin.url)
        if way.startswith("restore"):
            project.downgrade("-1")
            moved = "SELECT bool_or(moved) FROM migration.stash_object"
            assert begin.value(moved) == moving
        if way == "restore later":
            begin.rows(UP + "UPDATE alembic_version SET version_num = '002'")

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

    def run(
        self, database: Database, words: list[str], kind: str = "", at: tuple[str, int] = ("", 0), hard: bool = False,
        pause: float = 0,
    ) -> Outcome:  # fmt: skip
        """Run a command and kill at a point; wait until nothing of it runs any more."""
        victim = {"": 0, "client": 0, "backend": 1, "server": postmaster(self.server) or 0}[kind]
        by = signal.SIGQUIT if kind == "server" else signal.SIGKILL if hard or kind == "client" else signal.SIGTERM
        running = subprocess.Popen(
            [sys.executable, "driver.py", at[0], str(at[1]), str(victim), str(int(by)), str(pause), *words],
            cwd=self.project.folder, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "DATABASE_URL": database.url, "TMPDIR": str(self.temporary), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert running.stdout is not None
        lines = [running.stdout.readline()]
        if kind == "server":
            embedded.stop(self.folder, mode="immediate")
            self.start()
        rest, said = running.communicate(timeout=60)
        lines += rest.splitlines()
        until(lambda: not alive(running.pid))
        until(self.idle)
        counts = json.loads(lines[-1]) if lines[-1].startswith("{") else {}
        return Outcome(running.returncode, lines[0] == "here\n", counts, said)

    def again(self, database: Database, command: str, revision: str) -> None:
        """The same command once more, to its end."""
        self.monkeypatch.setenv("DATABASE_URL", database.url)
        if command == "downgrade":
            self.project.downgrade(revision)
        elif command == "upgrade":
            self.project.upgrade(revision)
        else:
            restore_later.give_back(self.project.config(repeat="the same command"), revision, None, dry=False)

    def idle(self) -> bool:
        """Whether the server answers (it may recover from a crash) and nobody else is connected."""
        with contextlib.suppress(psycopg2.OperationalError):
            others = (
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            return not self.maintenance().rows(others)
        return False

    def files(self) -> list[str]:
        """Half archives, scratch databases and temporary files: what the next run removes."""
        folder = self.project.folder / "backups"
        found = [one.name for one in folder.iterdir() if one.suffix != ".dump"] if folder.exists() else []
        found += [one.name for one in self.temporary.iterdir()]
        return found + [
            name
            for (name,) in self.maintenance().rows("SELECT datname::text FROM pg_database WHERE datname ~ '_archive_'")
        ]


def alive(group: int) -> bool:
    """Whether a process of this group still runs; one that nobody has asked for its end does not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group, *_ = stat.read_text().rpartition(")")[2].split()
            if int(its_group) == group and state != "Z":
                return True
    return False


@pytest.fixture
def killed(project: Project, monkeypatch: pytest.MonkeyPatch, way: str) -> Iterator[Killed]:
    """The server and its databases."""
    made = Killed(project, monkeypatch)
    try:
        made.prepare(way)
        yield made
    finally:
        made.end()


def content(database: Database) -> dict[str, Any]:
    """Rows of every table, the version with them, where the sequences stand, all objects: what people see."""
    engine = sa.create_engine(database.url, poolclass=sa.pool.NullPool)
    with engine.connect() as connection, connection.begin(), pinned(connection, **checksum.OUTPUT):
        tables = connection.exec_driver_sql(
            "SELECT relname::text, array(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 "
            "AND NOT attisdropped ORDER BY 1) FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        ).all()
        rows = {name: (columns, checksum.of(connection, f'public."{name}"', columns)) for name, columns in tables}
    stand = "SELECT sequencename::text, last_value FROM pg_sequences WHERE schemaname = 'public'"
    version = database.value("SELECT array_agg(version_num) FROM alembic_version")
    return {"rows": rows, "version": version, "sequences": database.rows(stand), "objects": catalog(database)}


def picture(database: Database) -> dict[str, Any]:
    """Everything that must be as before or as after. Leftovers, and a stash that is not as its manifest says, fail at once."""
    # A connection that waited to be accepted when its client was killed begins afterwards, and ends at once. Asked in one
    # session, for each of the test's own is there for a moment after it was closed.
    with database.connect() as watching, watching.cursor() as cursor:

        def left() -> list[Any]:
            cursor.execute(LEFT)
            return list(cursor.fetchall())

        with contextlib.suppress(AssertionError):
            until(lambda: left() == [], seconds=5)
        assert left() == []
    engine = sa.create_engine(database.url, poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        stashes = manifest.read(connection, "migration")
        assert [intact.damaged(connection, one) for one in stashes] == [[] for _ in stashes]
        with pinned(connection, **checksum.OUTPUT):
            kept = [
                (one.number, one.kind, one.name, one.moved, one.last_value, one.restored, one.left,
                 one.relation and checksum.of(connection, stash.place(one), one.columns))
                for stash in stashes for one in stash.objects
            ]  # fmt: skip
    schemas = database.rows("SELECT nspname::text FROM pg_namespace WHERE nspname ~ '^migration_stash_'")
    assert sorted(name for (name,) in schemas) == sorted(stash.kept_in for stash in stashes)
    for stash in stashes:
        if stash.archive:
            archive.verify(Path(stash.archive), stash.archive_sha256 or "")
    ended = "SELECT revision, direction, outcome FROM migration.history WHERE outcome <> 'failed' ORDER BY id"
    manifests = [(stash.revision, stash.state, stash.archive is not None) for stash in stashes]
    return {**content(database), "history": database.rows(ended), "stash": manifests, "kept": kept}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["client", "backend", "server"])
@pytest.mark.parametrize("way", PARTS)
def test_killed_anywhere_it_is_before_or_after(killed: Killed, way: str, kind: str) -> None:
    """At ten points of each way, 180 runs in all: before or after, nothing left over, and the next command ends it."""
    words = WORDS.get(way) or WORDS[way.split()[0]]
    full, whole = content(killed.full), killed.made("whole", "begin")
    before = picture(whole)
    told = killed.run(whole, words)
    after = picture(whole)
    assert (told.code, before != after, set(PARTS[way]) - told.counts.keys()) == (0, True, set()), told.said
    # setval() outlasts a rollback where the upgrade has not just made the sequence; one that is ahead gives no value twice.
    ahead = {**before, "sequences": after["sequences"]} if way == "restore later" else before
    chance, outcomes = random.Random(f"{way} {kind}"), []

    for n, part in enumerate(PARTS[way]):
        at, exact = (part, chance.randint(1, told.counts[part])), part not in LONGEST and chance.random() < 0.5
        pause = 0 if exact else chance.random() * LONGEST.get(part, 0.005)
        database = killed.made(f"run_{n}", "begin")
        ended = killed.run(database, words, kind, at, chance.random() < 0.5, pause)
        point = f"statement {at[1]} of {told.counts[part]} in {part}, {pause * 1000:.1f} ms, code {ended.code}"
        found = picture(database)
        assert ended.reached, point
        assert found in (before, ahead, after), (point, [one for one in found if found[one] != before[one]])
        if part == "after" or (exact and kind != "backend"):
            assert (found == after) == (part == "after"), point
        assert kind != "client" or ended.code == -signal.SIGKILL or part == "after", point
        outcomes.append(found == after)

        if found != after or way != "restore later":  # what is back already is not given back again
            killed.again(database, *words)
        assert picture(database) == after, point
        assert killed.files() == [], point
        if words[0] == "downgrade":
            killed.again(database, "upgrade", "002")
        assert content(database) == full, point
        killed.maintenance().rows(f"DROP DATABASE run_{n}")

    assert set(outcomes) == {False, True}
