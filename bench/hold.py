"""What ``DRY_RUN=1`` says a downgrade will take, next to how long writers really wait for it.

Each turn asks first, then goes back, beside a session that changes single rows, and up again. What is said is the time of the
body and that of keeping; what a writer waits is measured by the writer itself.
"""

from __future__ import annotations

import contextlib
import io
import re
import statistics
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
from alembic import command
from alembic.config import Config

from bench.downgrade import ROWS, TABLE, beside, project_on, settle
from bench.side_by_side import create_database, history, server

SIZES = (20_000, 300_000)
TURNS = 3
NOTE = "ALTER TABLE t ADD note text"
MARK = "CREATE TABLE mark (id int PRIMARY KEY)"
# What the upgrade does, what is written after it, what the downgrade does.
CASES = {
    "a table dropped": (TABLE, "SELECT 1", "DROP TABLE t"),
    "a column dropped": (NOTE, "UPDATE t SET note = title", "ALTER TABLE t DROP note"),
    "one row in eight changed": (
        MARK, "SELECT 1", "UPDATE t SET title = 'old ' || title WHERE id % 8 = 0; DROP TABLE mark",
    ),
    "every row changed": (MARK, "SELECT 1", "UPDATE t SET title = 'old ' || title; DROP TABLE mark"),
    "one row in eight deleted": (MARK, "SELECT 1", "DELETE FROM t WHERE id % 8 = 0; DROP TABLE mark"),
}  # fmt: skip
EXPECTED = {TABLE: 'expect.table("t")', MARK: 'expect.table("mark")', NOTE: 'expect.column("t", "note")'}
REVISION = '''\
"""Alter t.

Version: 0002
Description: Something happens to a table with many rows
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

expectations = [{expected}]


def upgrade() -> None:
    op.execute("""{up}""")


def downgrade() -> None:
    op.execute("""{down}""")
'''
SAID = re.compile(r"body +(\d+) ms|: about (\d+) (ms|s) while writers wait")


def main() -> None:
    """Print for each case what is said and what a writer has waited, medians of the turns, and their ratio."""
    with server() as where, history(1, guarded=True) as project:
        print("\nwhat DRY_RUN says of a downgrade, and what a writer waits for it (medians)")
        print("| rows | what | said, s | a writer waits, s | waits to said |")
        print("|---|---|---|---|---|")
        for size in SIZES:
            for name in CASES:
                said, waited = _measured(project, create_database(where, "bench"), name, size)
                print(f"| {size:,} | {name} | {said:.2f} | {waited:.2f} | {waited / said:.2f} |", flush=True)


def _measured(project: Path, url: str, name: str, size: int) -> tuple[float, float]:
    up, written, down = CASES[name]
    (project / "alembic" / "versions" / "0002_alter_t.py").write_text(
        REVISION.format(up=up, down=down, expected=EXPECTED[up])
    )
    config = Config(str(project / "alembic.ini"))
    with project_on(project, url), closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        with _printed():
            command.upgrade(config, "0001")
            if up != TABLE:
                cursor.execute(TABLE)
            command.upgrade(config, "head")
        cursor.execute(ROWS, (size,))
        cursor.execute(written)
        turns = [_turn(config, cursor, url, size) for _ in range(TURNS + 1)][1:]
    return statistics.median(said for said, _ in turns), statistics.median(waited for _, waited in turns)


def _turn(config: Config, cursor: Any, url: str, size: int) -> tuple[float, float]:
    settle(cursor)
    text = io.StringIO()
    command.downgrade(Config(config.config_file_name, stdout=text, attributes={"dry_run": True}), "-1")
    said = sum(
        float(body or keeping) * (1 if unit == "s" else 0.001) for body, keeping, unit in SAID.findall(text.getvalue())
    )
    settle(cursor)
    with beside(url, size) as waits, _printed():
        command.downgrade(config, "-1")
    with _printed():
        command.upgrade(config, "head")
    return said, waits["writer"]


@contextlib.contextmanager
def _printed() -> Iterator[io.StringIO]:
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.redirect_stderr(text):
        yield text
