"""The SQL inside DO blocks and of downgrades: judged where it can be read, and told where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Project
from tests.test_judge import copy, install
from tests.test_lint import INDEX, added, codes, linted, second, stats

__all__ = ["copy"]  # a fixture
RENAME = "ALTER TABLE thing RENAME COLUMN note TO label"


def do(body: str, after: str = "") -> str:
    """A call that sends a DO block."""
    return f'op.execute(r"""DO $b$ {body} $b${after}""")'


@pytest.mark.parametrize(
    "body",
    [
        f"BEGIN {RENAME}; END",
        f"#variable_conflict use_column DECLARE n int := (1); BEGIN {RENAME}; END;",
        f"BEGIN IF EXISTS (SELECT FROM thing) THEN {RENAME}; END IF; END",
        f"BEGIN IF false THEN NULL; ELSIF true THEN PERFORM 1; ELSE {RENAME}; END IF; END",
        f"DECLARE r record; BEGIN FOR r IN SELECT 1 LOOP {RENAME}; END LOOP; END",
        f"BEGIN <<here>> WHILE true LOOP BEGIN {RENAME}; END; END LOOP; END",
        f"BEGIN PERFORM 1; EXCEPTION WHEN undefined_table OR others THEN {RENAME}; END",
        f"BEGIN CASE 1 WHEN 1 THEN {RENAME}; ELSE NULL; END CASE; END",
        f"BEGIN EXECUTE '{RENAME}'; END",
        f"BEGIN EXECUTE $q${RENAME}$q$; END -- the end",
    ],
)
def test_a_statement_in_a_do_block_is_judged(project: Project, body: str) -> None:
    """Wherever it stands in the body, and as a literal that is executed; its line is that of the call."""
    found = second(project, "\n" + do(body))

    assert codes(found) == (["column-renamed"], [])
    assert found.notes == ()
    text = (project.versions / "002_alter_thing.py").read_text().split("\n")
    assert text[int(found.findings[0].where.rpartition(":")[2]) - 1].strip().startswith("op.execute(")


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (do("BEGIN EXECUTE format('ALTER TABLE %I ADD c int', 'thing'); END"),
         "its DO block puts together what it executes, which was not judged"),
        (do("BEGIN EXECUTE 'DROP TABLE ' || 'thing'; END"),
         "its DO block puts together what it executes, which was not judged"),
        (do("import this", " LANGUAGE plpython3u"), "its DO block is not in plpgsql, and was not judged"),
        (do("BEGIN IF CASE WHEN true THEN true END THEN DROP TABLE thing; END IF; END"),
         "what 'true END THEN DROP TABLE thing' does in its DO block was not judged"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_with_its_line(project: Project, call: str, why: str) -> None:
    """Not judged is not the same as in order: revision and line are named."""
    found = second(project, call)

    assert codes(found) == ([], [])
    assert len(found.notes) == 1
    assert found.notes[0].endswith(why)
    assert "002_alter_thing.py, line " in found.notes[0]


def test_what_a_do_block_makes_is_new(project: Project) -> None:
    """Nobody uses a table that it creates, and it is one transaction, also where it commits by itself."""
    made = do("BEGIN CREATE TABLE fresh (id int); END") + "\nop.execute('ALTER TABLE fresh RENAME COLUMN id TO no')"
    lines = made.replace("\n", "\n    ")
    inside = "ALTER TABLE thing ADD CONSTRAINT c CHECK (size > 0) NOT VALID; ALTER TABLE thing VALIDATE CONSTRAINT c"
    alone = f"with op.get_context().autocommit_block():\n    {do(f'BEGIN {inside}; END')}\n    {lines}"

    assert codes(second(project, made)) == ([], [])
    assert codes(second(project, alone, transaction="none")) == (["validate-in-transaction"], [])


def test_an_operations_own_block_is_left_alone(project: Project) -> None:
    """What is written down of a backfill is no DO block of the author's."""
    found = second(project, 'op.backfill("thing", set={"note": "\'a\'"}, key=["id"])', transaction="none", type="data")

    assert (codes(found), found.notes) == (([], []), ())


def back(project: Project, downgrade: str, **header: str) -> list[str]:
    """The codes that a downgrade of revision 002 is told of, which adds a column and an index."""
    install(project, INDEX)
    (project.versions / "002_alter_thing.py").unlink()
    up = "op.add_column('thing', sa.Column('extra', sa.Text))"
    project.revision("002", "alter_thing", up, downgrade, **header)  # type: ignore[arg-type]
    found = linted(project)
    assert codes(found) == ([], [])
    return [one.code for one in found.back]


def test_a_downgrade_is_judged_by_the_same_rules(project: Project) -> None:
    """What blocks others blocks them on the way back too; to take away what the upgrade has brought is what it is for."""
    index = "op.create_index('ix', 'thing', ['size'])"

    assert back(project, "op.drop_column('thing', 'extra')") == []
    assert back(project, f"{index}\nop.drop_column('thing', 'extra')") == ["index-blocking"]
    assert back(project, do("BEGIN CREATE INDEX ix ON thing (size); END")) == ["index-blocking"]
    assert back(project, index, extra="Waive: index-blocking | a test | 2999-01-01") == []
    assert back(project, index, reversible="forward-only: a test") == []
    stats(project, ("001",), thing=8192)
    assert [one.code for one in linted(project).back] == []


def test_validate_tells_of_the_downgrade_and_ends_with_0(copy: Path) -> None:
    """It is a warning: who goes back is told before, and nobody is stopped."""
    told = added(copy, "ALTER TABLE steps ADD COLUMN extra text", "op.execute('CREATE INDEX ix ON steps (title)')")

    assert told.returncode == 0, told.stderr
    assert "warning, of the downgrade: alembic/versions/" in told.stdout
    assert ": index-blocking\n" in told.stdout
