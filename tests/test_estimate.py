"""What a downgrade is said to take beforehand: every kind of loss is measured as the real run goes about it."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_planner_schema.guard import estimate
from tests.conftest import Database, Project
from tests.test_rehearsal import forecast
from tests.test_restore import two

ROWS = "INSERT INTO a SELECT n, 'v' || n FROM generate_series(1, 100) n"
A = f"CREATE TABLE a (id int PRIMARY KEY, v text); {ROWS}"
MARK = "COMMENT ON TABLE a IS 'x'"
# What there is, what the upgrade does, what the downgrade does, and which part of the copied rows stays in the stash after it.
LOSSES: dict[str, tuple[str, str, str, list[float]]] = {
    "changed": (A, MARK, "UPDATE a SET v = 'x' WHERE id <= 25", [0.25]),
    "changed and deleted": (A, MARK, "UPDATE a SET v = 'x' WHERE id <= 5; DELETE FROM a WHERE id > 90", [0.15]),
    "a column called after": (
        A.replace("v text", "v text, after text"), MARK, "UPDATE a SET after = 'x' WHERE id <= 25", [0.25],
    ),
    "all of them": (A, MARK, "UPDATE a SET v = 'x'", [1.0]),
    "written anew": (A.replace("id int", "id bigint"), MARK, "ALTER TABLE a ALTER v TYPE int USING 1", [1.0]),
    "emptied": (A, MARK, "TRUNCATE a", [1.0]),
    "no key": (A.replace(" PRIMARY KEY", ""), MARK, "DELETE FROM a WHERE id <= 25", [0.25]),
    "partitions": (
        f"CREATE TABLE a (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE a1 PARTITION OF a DEFAULT; {ROWS}",
        MARK, "UPDATE a SET v = 'x' WHERE id <= 25", [0.25],
    ),
    "types of one's own": (
        "CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE DOMAIN number AS int; "
        "CREATE TABLE a (id number PRIMARY KEY, v text, m mood DEFAULT 'sad'); "
        "INSERT INTO a SELECT n FROM generate_series(1, 100) n", MARK, "UPDATE a SET m = 'glad' WHERE id <= 25", [0.25],
    ),
    "a column, and rows": (
        A, "ALTER TABLE a ADD x int DEFAULT 7", "ALTER TABLE a DROP x; UPDATE a SET v = 'x' WHERE id <= 25", [1.0],
    ),
    "a column": (A, "ALTER TABLE a ADD x int DEFAULT 7", "ALTER TABLE a DROP x", []),
    "a table": ("SELECT", A.partition(";")[0], "DROP TABLE a", []),
}  # fmt: skip


@pytest.mark.parametrize("what", LOSSES)
def test_what_comes_after_the_run_is_measured_too(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Rows that stay are compared, and as many kept as the trial has changed; nothing of the sample is left."""
    setup, up, down, parts = LOSSES[what]
    two(project, setup, up, down)
    if what == "a table":
        empty.rows(ROWS)
    seen: list[float] = []
    seal = estimate._seal

    def noted(*of: Any) -> None:
        seen.append(of[-1])
        seal(*of)

    monkeypatch.setattr(estimate, "_seal", noted)

    lines = forecast(project, "001")

    assert seen == pytest.approx(parts)
    assert any(line.startswith("kept by copying a: about ") for line in lines)
    assert empty.rows("SELECT relname FROM pg_class WHERE relname IN ('guard:sample', 'guard:sealed')") == []


def test_of_a_large_table_a_sample_stands_for_all(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part of the rows is that of the whole table, and the time that of as many more."""
    monkeypatch.setattr(estimate, "_SAMPLE", 64 * 1024)
    monkeypatch.setattr(estimate, "_LEAST", 64 * 1024)
    two(project, A.replace("1, 100", "1, 40000"), MARK, "UPDATE a SET v = 'x' WHERE id <= 10000")
    seen: list[float] = []
    monkeypatch.setattr(estimate, "_seal", lambda *of: seen.append(of[-1]))

    forecast(project, "001")

    assert seen == [pytest.approx(0.25, abs=0.15)]
