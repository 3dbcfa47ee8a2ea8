"""Killed at any moment and repeated, the written revisions end as an undisturbed run: the same catalog, the same rows."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from mcp_planner_schema import generate
from tests.catalog import catalog, difference
from tests.conftest import Database, Project
from tests.test_schema import _in_any_place
from tests.until import until

COUNT = 12_000  # three batches
TABLES = f"""
CREATE TYPE status AS ENUM ('NEW', 'OPEN', 'DONE', 'LOST');
CREATE TABLE plans (id int PRIMARY KEY, step int NOT NULL UNIQUE);
CREATE TABLE steps (
    id int PRIMARY KEY, title text NOT NULL DEFAULT 'none' CONSTRAINT ck_steps_title CHECK (title <> ''), note text,
    state status NOT NULL DEFAULT 'NEW'
);
CREATE INDEX ix_steps_title ON steps (lower(title));
INSERT INTO steps SELECT n, 'step ' || n, 'note ' || n, (ARRAY['NEW', 'OPEN', 'DONE'])[1 + n % 3]::status
FROM generate_series(1, {COUNT}) AS n;
INSERT INTO plans SELECT n, n FROM generate_series(1, {COUNT}) AS n
"""
KINDS = {
    "sync": {"KIND": "rename_column", "TABLE": "steps", "FROM": "title", "TO": "heading"},
    "move": {"KIND": "move_column", "TABLE": "steps", "FROM": "note", "TO_TABLE": "plans", "ON": "id=step"},
    "enum": {"KIND": "replace_enum", "TABLE": "steps", "FROM": "state", "TO": "stage", "TO_TYPE": "stage",
             "LABELS": "OPEN | NEW | DONE"},
    "enum value": {"KIND": "add_enum_value", "ENUM": "status", "VALUE": "HELD", "AFTER": "OPEN"},
    "alias": {"KIND": "rename_table", "TABLE": "steps", "TO": "items"},
}  # fmt: skip
KILLS = 4
AT_WORK = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'mcp-planner%%'"
)


def state(database: Database) -> tuple[set[Any], dict[str, Any]]:
    """The catalog, wherever columns stand in their tables, and all rows."""
    found = catalog(database)
    for table in {name.rpartition(".")[0] for kind, name, _ in found if kind == "column"}:
        found = _in_any_place(found, table)
    tables = [
        row[0]
        for row in database.rows(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
    ]
    rows = {name: database.rows(f"SELECT to_jsonb(one) FROM {name} AS one ORDER BY to_jsonb(one)") for name in tables}
    return found, rows


def run(project: Project, database: Database, arguments: list[str], seconds: float | None) -> tuple[bool, float]:
    """The alembic command, killed so many seconds after its first session is there: whether it was, and how long it worked."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "alembic", *arguments], cwd=project.folder, env={**os.environ, "DATABASE_URL": database.url},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        # A session of a run that was killed before may still be there: then this one is killed earlier than it would be.
        until(lambda: database.value(AT_WORK) or process.poll() is not None)
        begun = time.monotonic()
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True, time.monotonic() - begun
    assert process.returncode in (0, 75), said
    return False, time.monotonic() - begun


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_repeated_it_ends_as_if_undisturbed(
    kind: str, new_database: Callable[[], Database], project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up and down, SIGKILL several times at moments that are drawn, each time the same command at once, and once to its end."""
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    project.revision("001", "create_tables", f'op.execute("""{TABLES}""")', 'op.execute("DROP TABLE steps, plans")')
    undisturbed, disturbed = new_database(), new_database()
    for database in (undisturbed, disturbed):
        monkeypatch.setenv("DATABASE_URL", database.url)
        project.upgrade("001")
    generate.write(project.config(), KINDS[kind])
    kills = dict.fromkeys(("upgrade", "downgrade"), 0)

    for arguments in (["upgrade", "head"], ["downgrade", "001"]):
        _, seconds = run(project, undisturbed, arguments, None)
        for _ in range(KILLS):
            killed, _ = run(project, disturbed, arguments, draw.uniform(0, 0.9 * seconds))
            kills[arguments[0]] += killed
        monkeypatch.setenv("DATABASE_URL", disturbed.url)
        (project.upgrade if arguments[0] == "upgrade" else project.downgrade)(arguments[1])

        told = f"{kind}, seed {seed}: killed {kills[arguments[0]]} times within {seconds:.1f} s of {arguments[0]}"
        print(told)
        (shape, rows), (expected_shape, expected_rows) = state(disturbed), state(undisturbed)
        assert difference(expected_shape, shape) == [], told
        assert rows == expected_rows, told

    assert min(kills.values()) > 0
