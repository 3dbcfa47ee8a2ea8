"""The statement that migrate-doctor gives for what somebody has changed by hand makes it what the revisions have made."""

from __future__ import annotations

import re
import shlex

import pytest
from alembic.config import Config
from sqlalchemy import Connection

from mcp_planner_schema import cli
from mcp_planner_schema.guard.fingerprint import Lines, entries
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.inspect import doctor, repair
from tests.conftest import Database
from tests.every_kind import DRIFTS
from tests.test_fingerprint import every_kind, lines, looking  # noqa: F401  # fixtures

# What somebody does, and the one statement that undoes it.
REPAIRED = {
    "CREATE INDEX by_hand ON tasks (title)": "DROP INDEX CONCURRENTLY public.by_hand",
    "DROP INDEX ix_tasks_next_id": (
        "CREATE INDEX CONCURRENTLY ix_tasks_next_id ON public.tasks USING btree (next_id) WHERE (next_id IS NOT NULL)"
    ),
    "ALTER TABLE tasks ADD CONSTRAINT mine CHECK (title IS NOT NULL)": "ALTER TABLE public.tasks DROP CONSTRAINT mine",
    "ALTER TABLE tasks ALTER title DROP NOT NULL": "ALTER TABLE public.tasks ALTER COLUMN title SET NOT NULL",
    "ALTER TABLE tasks ALTER title SET DEFAULT 5": "ALTER TABLE public.tasks ALTER COLUMN title DROP DEFAULT",
    "CREATE VIEW mine AS SELECT 1 AS a": "DROP VIEW public.mine",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql RETURN 1": "DROP ROUTINE public.mine()",
}
# Where that would take rows, nobody is told to.
ROWS = {
    "ALTER TABLE tasks ADD mine int": "ALTER TABLE tasks DROP mine",
    "CREATE TABLE mine (a int)": "DROP TABLE mine",
}


@pytest.mark.parametrize("part", [range(0, len(DRIFTS), 3), pytest.param(range(len(DRIFTS)), marks=pytest.mark.long)],
                         ids=["a third", "all"])  # fmt: skip
def test_what_is_told_to_be_typed_repairs_it(looking: tuple[Connection, Lines], part: range) -> None:  # noqa: F811
    """After every kind of drift: what has a statement is as before when it was run, and nothing else has changed."""
    connection, before = looking
    repaired = 0
    for change, _ in (DRIFTS[place] for place in part):
        execute(connection, "SAVEPOINT drift")
        execute(connection, change)
        told = [one for one in entries(before, lines(connection)) if one.told]
        found = repair.statements(told)

        for sql in found.values():
            execute(connection, sql.replace(" CONCURRENTLY", ""))  # not inside a transaction
            if new := re.match(r"ALTER TABLE (\S+) ADD CONSTRAINT (\S+) .* NOT VALID$", sql):
                execute(connection, f"ALTER TABLE {new[1]} VALIDATE CONSTRAINT {new[2]}")
        left = [one for one in entries(before, lines(connection)) if one.told]

        execute(connection, "ROLLBACK TO SAVEPOINT drift")
        assert [one.told for one in left] == [one.told for one in told if one not in found], (change, found)
        repaired += len(found)
    assert repaired >= len(part) // 7


def test_the_doctor_gives_the_statement(database: Database, planner: Config) -> None:
    """As a text for psql, beside the revision that would say it instead; where rows would be lost, only that."""
    given = {}
    for change, undo in (REPAIRED | ROWS).items():
        database.rows(change)
        (one,) = doctor.examine(planner)
        given[change] = one.cure
        database.rows(undo)

    assert {change: shlex.split(given[change])[3] for change in REPAIRED} == REPAIRED
    assert all("(or, if it is to stay, a revision that says so: make migrate-create" in given[one] for one in REPAIRED)
    assert all(given[change].startswith("make migrate-create ") for change in ROWS)
    assert doctor.examine(planner) == []


def test_nothing_is_run(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """The command tells, and what it tells of is still there."""
    database.rows("CREATE INDEX by_hand ON tasks (title)")

    code = cli.main(["migrate-doctor"])

    assert code == 3
    assert "next: psql \"$DATABASE_URL\" -c 'DROP INDEX CONCURRENTLY public.by_hand'" in capsys.readouterr().out
    assert database.value("SELECT to_regclass('by_hand')") == "by_hand"
