"""What the measurements share: a server of their own, the same history under several tools, interleaved runs."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mcp_planner_schema import embedded

ROOT = Path(__file__).resolve().parent.parent

_GUARDED = "from alembic import context\n\nfrom mcp_planner_schema.guard import run\n\nrun(context)\n"
_PLAIN = """\
import os

from alembic import context
from sqlalchemy import create_engine, pool

engine = create_engine(
    os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg2:"), poolclass=pool.NullPool
)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=None, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
"""
_REVISION = '''\
"""Create table t{number}.

Version: {version}
Description: One table
Author: A Tester <tester@example.org>
Date: 2026-01-31
Dependencies: {parent}
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

import sqlalchemy as sa
from alembic import op

from mcp_planner_schema.operations import expect

revision = "{version}"
down_revision = {down}
branch_labels = None
depends_on = None

expectations = [expect.table("t{number}")]


def upgrade() -> None:
    op.create_table("t{number}", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text))


def downgrade() -> None:
    op.drop_table("t{number}")
'''


@contextmanager
def server() -> Iterator[embedded.Server]:
    """An embedded server in a folder of its own, with PostgreSQL's default settings."""
    folder = Path(tempfile.mkdtemp(prefix="mcp-bench-"))
    folder.chmod(0o755)  # the account that runs it for root must be able to enter
    try:
        yield embedded.start(folder, database=None, say=lambda line: None)
    finally:
        embedded.stop(folder, mode="immediate")
        shutil.rmtree(folder)


@contextmanager
def history(revisions: int, *, guarded: bool) -> Iterator[Path]:
    """A project whose history creates one table a revision, with plain Alembic's env.py or with the guard's."""
    folder = Path(tempfile.mkdtemp(prefix="mcp-bench-"))
    versions = folder / "alembic" / "versions"
    versions.mkdir(parents=True)
    (folder / "alembic.ini").write_text(
        f"[alembic]\nscript_location = %(here)s/alembic\nprepend_sys_path = {ROOT}\npath_separator = os\n"
        "[guard]\nheaders = required\n"
    )
    (folder / "alembic" / "env.py").write_text(_GUARDED if guarded else _PLAIN)
    for number in range(1, revisions + 1):
        parent = f"{number - 1:04}" if number > 1 else None
        text = _REVISION.format(number=number, version=f"{number:04}", parent=parent, down=repr(parent))
        (versions / f"{number:04}_create_t{number}.py").write_text(text)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def create_database(where: embedded.Server, name: str) -> str:
    """A new empty database; gives its DATABASE_URL."""
    subprocess.run(
        [where.binaries / "psql", "-X", "-q", "-h", where.socket, "-p", str(where.port), "-U", "postgres",
         "-c", f"DROP DATABASE IF EXISTS {name}", "-c", f"CREATE DATABASE {name}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return where.url(name).replace("postgresql+psycopg2:", "postgresql:")


def alembic(folder: Path, url: str, *arguments: str) -> None:
    """One alembic command as a process, as people run it."""
    subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=folder,
        env={**os.environ, "DATABASE_URL": url},
        check=True,
        capture_output=True,
    )


def processor_seconds(runs: int, contestants: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """Processor time of each one's child processes, as :func:`medians`: what neighbours on the machine disturb least."""

    def used() -> float:
        spent = os.times()
        return spent.children_user + spent.children_system

    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(runs):
        for name, run in contestants.items():
            before = used()
            run()
            seconds[name].append(used() - before)
    return {name: statistics.median(all_) for name, all_ in seconds.items()}


def medians(runs: int, contestants: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """Seconds of each, the median of ``runs`` interleaved rounds after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(runs + 1):
        for name, run in contestants.items():
            began = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(all_) for name, all_ in seconds.items()}
