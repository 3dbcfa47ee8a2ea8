"""What a live database differs in from what its revisions have made of it: told by the command's answer and exit code."""

from __future__ import annotations

import json

import pytest

from mcp_planner_schema import cli
from tests.conftest import HEAD, Database


def drift(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """``migrate-drift``: its exit code and what it printed."""
    capsys.readouterr()
    code = cli.main(["migrate-drift", *arguments])
    return code, capsys.readouterr().out


def test_a_database_as_it_should_be(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """0, and one line; monthly partitions are no drift, nor are rows."""
    database.rows("SELECT maintain_audit_partitions(2); INSERT INTO projects (name, description) VALUES ('a', 'b')")

    code, said = drift(capsys)

    assert code == 0, said
    assert said.strip().endswith(f"at {HEAD}: as the revisions have made it")


def test_what_somebody_did_by_hand_is_named(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """3, each object by its name; grants and comments are told and refuse nothing."""
    database.rows("COMMENT ON TABLE tasks IS 'mine'; GRANT SELECT ON tasks TO PUBLIC")
    beside, notes = drift(capsys)
    database.rows(
        "CREATE INDEX by_hand ON tasks (title); ALTER TABLE steps ALTER title DROP NOT NULL; CREATE VIEW v AS SELECT 1"
    )

    code, said = drift(capsys)
    machine, document = drift(capsys, "JSON=1")

    assert (beside, code, machine) == (0, 3, 3)
    assert "note: table public.tasks: comment differs" in notes and "note: table public.tasks: grants" in notes
    assert "table public.tasks: index public.by_hand is unexpected" in said
    assert "table public.steps: column title differs" in said
    assert "view public.v is unexpected" in said
    assert said.strip().endswith(f"at {HEAD}: 3 objects differ")
    read = json.loads(document)
    assert len([one for one in read["structure"] if not one.startswith(" ")]) == 3
    assert read["expected"] != read["found"]


def test_a_database_on_its_way_is_compared_with_its_own_version(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two revisions back it is what those before have made, and not drifted."""
    assert cli.main(["migrate-down", "TO=022"]) == 0

    code, said = drift(capsys)

    assert code == 0, said
    assert "at 022: as the revisions have made it" in said
