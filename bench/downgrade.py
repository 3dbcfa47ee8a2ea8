"""What it costs that a downgrade keeps the table it drops, next to CREATE TABLE AS and pg_dump of the same table.

In turns in one run, beside a session that reads single rows and one that changes them. A copied table may cost at most
twice CREATE TABLE AS; a moved one's time may not grow with its rows. Each has a session of its own, as a command has one: the
first reading of a table by a session that has never seen it takes longer.

What the rows of a copied table take is measured by itself too: each statement that reads or writes the table or its copy,
and COMMIT, against the same downgrade on an empty table. Of 10,000 rows the whole command says nothing, for it takes twenty
times as long as they do.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import statistics
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from alembic import command
from alembic.config import Config
from sqlalchemy import event
from sqlalchemy.engine import Engine

from bench.side_by_side import create_database, history, server

SIZES = (10_000, 1_000_000, 5_000_000)
TURNS = {10_000: 21, 1_000_000: 5, 5_000_000: 3}
LIMIT = 2.0
# Rows like those of BASELINES: about 300 bytes with their indexes.
TABLE = """
    CREATE TABLE t (id bigint PRIMARY KEY, project_id uuid NOT NULL, title text NOT NULL, content text,
        price numeric(10, 2), created_at timestamptz NOT NULL, done boolean NOT NULL);
    CREATE INDEX t_created_at ON t (created_at)
"""
ROWS = """
    INSERT INTO t SELECT n, gen_random_uuid(), 'title ' || n, repeat('some words ', 13), n / 7.0,
        now() - make_interval(secs => n), mod(n, 2) = 0 FROM generate_series(1, %s) n
"""
REVISION = '''\
"""Create t.

Version: 0002
Description: A table with many rows
Author: A Tester <tester@example.org>
Date: 2026-01-31
Dependencies: 0001
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

from alembic import op

from mcp_planner_schema.operations import expect

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

expectations = [expect.table("t")]


def upgrade() -> None:
    op.execute("""{table}""")


def downgrade() -> None:
    op.drop_table("t")
'''
SETTINGS = "statement_timeout = 30min\nidle_in_transaction_session_timeout = 30min\nhold_limit = 30min\nstash_timeout = 30min\n"

ROWS_OF = re.compile(r'"t"|"guard:sample"|TABLE t\b')
COPIED, EMPTY, ALONE = "downgrade, copied", "downgrade, an empty table", "Alembic alone, an empty table"
Waits = dict[str, float]


def main() -> None:
    """Print seconds, the ratio to CREATE TABLE AS and the longest wait of a reader and a writer, for each size."""
    with server() as where, history(1, guarded=True) as project, history(1, guarded=False) as plain:
        for one in (project, plain):
            (one / "alembic" / "versions" / "0002_create_t.py").write_text(REVISION.format(table=TABLE))
        print("\na table dropped by a downgrade (medians of interleaved runs; waits are the longest of all runs)")
        print(
            "| rows | what | s | to CREATE TABLE AS | its rows | whole, rows: hold | reader waits, ms | writer waits, ms |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for size in SIZES:
            _size(where, project, plain, create_database(where, "bench"), size)


def _size(where: Any, project: Path, plain: Path, url: str, size: int) -> None:
    with project_on(project, url), closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        command.upgrade(Config(str(project / "alembic.ini")), "head")
        cursor.execute(ROWS, (size,))
        empty = _without_rows(project, create_database(where, "empty"), EMPTY, "upgrade, an empty table")
        alone = _without_rows(plain, create_database(where, "alone"), ALONE, "Alembic alone, upgrade")
        with tempfile.TemporaryDirectory() as folder:
            _interleaved(_contestants(where, project, url, Path(folder)) | empty | alone, cursor, url, size)


def _contestants(where: Any, project: Path, url: str, folder: Path) -> dict[str, Callable[[], object]]:
    dump = [where.binaries / "pg_dump", "-Fc", "-t", "t", "-f", folder / "dump", "-d", url]

    def down(above: str) -> None:
        _set(project, above)
        command.downgrade(Config(str(project / "alembic.ini")), "-1")

    def up() -> None:
        command.upgrade(Config(str(project / "alembic.ini")), "head")

    return {
        "CREATE TABLE AS": lambda: _create_table_as(url),
        "pg_dump -Fc": lambda: subprocess.run(dump, check=True),
        "downgrade, moved": lambda: down("1MB"),
        "upgrade, moved back": up,
        COPIED: lambda: down("never"),
        "upgrade, its rows put back": up,
    }


def _create_table_as(url: str) -> float:
    """The seconds of the statement alone, in a session of its own."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SELECT")
        began = time.perf_counter()
        cursor.execute("CREATE TABLE other AS SELECT * FROM t")
        return time.perf_counter() - began


def _without_rows(project: Path, url: str, down: str, up: str) -> dict[str, Callable[[], object]]:
    """The same on a table without rows: what a command takes that has nothing to copy."""

    def run(go: Callable[[Config, str], object], target: str) -> None:
        with _database(url):
            go(Config(str(project / "alembic.ini")), target)

    run(command.upgrade, "head")
    return {down: lambda: run(command.downgrade, "-1"), up: lambda: run(command.upgrade, "head")}


def _interleaved(contestants: dict[str, Callable[[], object]], cursor: Any, url: str, size: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    spent: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in contestants}
    longest: dict[str, Waits] = {name: {"reader": 0.0, "writer": 0.0} for name in contestants}
    for turn in range(TURNS[size] + 1):
        for name, run in contestants.items():
            settle(cursor)
            with beside(url, size) as waits, _statements() as statements, contextlib.redirect_stdout(io.StringIO()):
                began = time.perf_counter()
                measured = run()
                whole = time.perf_counter() - began
            if name.startswith("downgrade") and name != EMPTY:
                cursor.execute("SELECT moved FROM migration.stash_object ORDER BY stash_id DESC, number LIMIT 1")
                assert cursor.fetchone() == (name.endswith("moved"),), "it was not kept as it should be"
            if turn:  # the first round warms up
                seconds[name].append(measured if isinstance(measured, float) else whole)
                for statement, time_of in statements.items():
                    spent[name][statement].append(time_of)
                for who, wait in waits.items():
                    longest[name][who] = max(longest[name][who], wait)
        cursor.execute("SELECT count(*) FROM t")
        assert cursor.fetchone() == (size,), "not every row has come back"
    took = {name: statistics.median(all_) for name, all_ in seconds.items()}
    usual = took["CREATE TABLE AS"]
    rows = _usual(spent[COPIED], TURNS[size]) - _usual(spent[EMPTY], TURNS[size])
    for name, median in took.items():
        of_rows = (
            f"{rows / usual:.2f} | {_holds(took[COPIED] / usual)}, {_holds(rows / usual)}" if name == COPIED else " | "
        )
        waited = " | ".join(f"{longest[name][who] * 1000:.0f}" for who in ("reader", "writer"))
        print(f"| {size:,} | {name} | {median:.3f} | {median / usual:.2f} | {of_rows} | {waited} |", flush=True)
    least = took[ALONE] / usual + 1
    if least > LIMIT:
        print(
            f"\n{size:,} rows: a downgrade of an empty table by Alembic alone, which keeps nothing, and one CREATE TABLE AS are "
            f"{least:.2f} times CREATE TABLE AS: within {LIMIT:.0f} no command run by Alembic can keep so few.\n",
            flush=True,
        )


@contextmanager
def _statements() -> Iterator[dict[str, float]]:
    """The seconds of each statement that this thread sends meanwhile and that has to do with rows: reads or writes the table or
    its copy, or is COMMIT. The number of a stash is left out of its text."""
    spent: dict[str, float] = defaultdict(float)
    me, began = threading.get_ident(), [0.0]

    def before(*of: Any) -> None:
        if threading.get_ident() == me:
            began[0] = time.perf_counter()

    def after(connection: Any, cursor: Any, statement: str, *of: Any) -> None:
        if threading.get_ident() == me and ROWS_OF.search(statement):
            spent[re.sub(r"\bmigration_stash_\d+", "migration_stash", statement)] += time.perf_counter() - began[0]

    def commit(connection: Any) -> None:
        # Sent here, so that its time is seen; the dialect's own COMMIT after it has nothing left to do.
        if threading.get_ident() == me:
            began[0] = time.perf_counter()
            connection.connection.dbapi_connection.commit()
            spent["COMMIT"] += time.perf_counter() - began[0]

    listeners = {"before_cursor_execute": before, "after_cursor_execute": after, "commit": commit}
    for name, listener in listeners.items():
        event.listen(Engine, name, listener)
    try:
        yield spent
    finally:
        for name, listener in listeners.items():
            event.remove(Engine, name, listener)


def _usual(statements: dict[str, list[float]], turns: int) -> float:
    """Seconds: the medians of all statements over the turns, added up. One that was sent or slow once does not count."""
    return sum(statistics.median(times + [0.0] * (turns - len(times))) for times in statements.values())


def _holds(ratio: float) -> str:
    return "yes" if ratio <= LIMIT else "NO"


def settle(cursor: Any) -> None:
    """What one contestant leaves behind must not cost the next one anything."""
    cursor.execute("DROP TABLE IF EXISTS other")
    cursor.execute("SELECT kept_in FROM migration.stash WHERE state <> 'kept' AND to_regnamespace(kept_in) IS NOT NULL")
    for (kept_in,) in cursor.fetchall():
        cursor.execute(f"DROP SCHEMA {kept_in} CASCADE")
    cursor.execute("SELECT to_regclass('t') IS NOT NULL")
    if cursor.fetchone()[0]:
        cursor.execute("VACUUM ANALYZE t")
    cursor.execute("CHECKPOINT")


@contextmanager
def beside(url: str, size: int) -> Iterator[Waits]:
    """One session that reads single rows of the table all the time, one that changes them, and how long each had to wait."""
    waits: Waits = {}
    done = threading.Event()

    def work(who: str, statement: str) -> None:
        chance = random.Random(who)
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            while not done.wait(0.01):
                began = time.perf_counter()
                with contextlib.suppress(psycopg2.errors.UndefinedTable):
                    cursor.execute(statement, (chance.randint(1, size),))
                waits[who] = max(waits.get(who, 0.0), time.perf_counter() - began)

    workers = [
        threading.Thread(target=work, args=("reader", "SELECT title FROM t WHERE id = %s")),
        threading.Thread(target=work, args=("writer", "UPDATE t SET done = NOT done WHERE id = %s")),
    ]
    for one in workers:
        one.start()
    try:
        yield waits
    finally:
        done.set()
        for one in workers:
            one.join()


def _set(project: Path, above: str) -> None:
    """Above which size a table is moved."""
    ini = project / "alembic.ini"
    text = ini.read_text()
    ini.write_text(text[: text.index("stash_move_above")] + f"stash_move_above = {above}\n")


@contextmanager
def project_on(project: Path, url: str) -> Iterator[None]:
    """The project's commands in this process, on this database, with time enough for many rows."""
    ini = project / "alembic.ini"
    before = ini.read_text()
    ini.write_text(before + SETTINGS + "stash_move_above = never\n")
    try:
        with _database(url):
            yield
    finally:
        ini.write_text(before)


@contextmanager
def _database(url: str) -> Iterator[None]:
    known = os.environ.get("DATABASE_URL")
    os.environ["DATABASE_URL"] = url
    try:
        yield
    finally:
        if known is None:
            del os.environ["DATABASE_URL"]
        else:
            os.environ["DATABASE_URL"] = known
