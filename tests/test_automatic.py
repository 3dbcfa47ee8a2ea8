"""``make migrate-create AUTO=1``: what models and database differ in, as operations, and as questions where only people know."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from alembic.script import ScriptDirectory

from mcp_planner_schema.guard import judge, settings
from tests.catalog import catalog, difference
from tests.conftest import Database, Project
from tests.test_schema import _in_any_place

TABLES = """
CREATE TABLE plans (id bigint PRIMARY KEY);
CREATE TABLE steps (
    id bigint PRIMARY KEY, plan bigint NOT NULL, title text NOT NULL, place integer, code text,
    CONSTRAINT uq_steps_code UNIQUE (code)
);
CREATE INDEX ix_steps_place ON steps (place);
CREATE INDEX ix_steps_title ON steps (lower(title))
"""
ENV = """
import sqlalchemy as sa
from alembic import context

from mcp_planner_schema.guard import run

metadata = sa.MetaData()
plans = sa.Table("plans", metadata, sa.Column("id", sa.BigInteger, primary_key=True))
steps = sa.Table("{table}", metadata,
{columns}
)
{more}
run(context, target_metadata=metadata)
"""
COLUMNS = {
    "id": 'sa.Column("id", sa.BigInteger, primary_key=True)',
    "plan": 'sa.Column("plan", sa.BigInteger, nullable=False)',
    "title": 'sa.Column("title", sa.Text, nullable=False)',
    "place": 'sa.Column("place", sa.Integer)',
    "code": 'sa.Column("code", sa.Text)',
    "uq": 'sa.UniqueConstraint("code", name="uq_steps_code")',
    "ix": 'sa.Index("ix_steps_place", "place")',
    "lower": 'sa.Index("ix_steps_title", sa.text("lower(title)"))',
}


def shape(database: Database) -> set[Any]:
    """The catalog without what stands in another place."""
    return _in_any_place(catalog(database), "public.steps")


Automatic = Callable[..., str]


@pytest.fixture
def automatic(empty: Database, project: Project) -> Automatic:
    """Writes a revision for models that differ from the tables in what is given, and gives its text."""
    project.revision("001", "create_tables", f'op.execute("""{TABLES}""")', 'op.execute("DROP TABLE steps, plans")')
    project.upgrade()

    def write(more: str = "", table: str = "steps", **changed: str | None) -> str:
        columns = ",\n".join(text for text in {**COLUMNS, **changed}.values() if text)
        (project.folder / "alembic" / "env.py").write_text(ENV.format(table=table, columns=columns, more=more))
        ended: subprocess.CompletedProcess[str] = project.alembic("revision", "--autogenerate", "-m", "alter steps")
        assert ended.returncode == 0, ended.stderr
        write.said = ended.stderr  # type: ignore[attr-defined]  # for whoever asks
        write.all = [path.read_text() for path in sorted(project.versions.glob("*_alter_steps*.py"))]  # type: ignore[attr-defined]
        return write.all[0]  # type: ignore[attr-defined,no-any-return]

    return write


def body(text: str, name: str = "upgrade") -> list[str]:
    """The lines of one of the two functions, without Alembic's own comments."""
    [found] = re.findall(rf"def {name}\(\) -> None:\n(.*?)(?:\n\n\ndef |\Z)", text, re.DOTALL)
    return [line.strip() for line in found.split("\n") if line.strip() and "###" not in line]


def calls(text: str, name: str = "upgrade") -> list[str]:
    """The operations of one of the two functions, sorted."""
    return sorted(re.findall(r"^op\.(\w+)", "\n".join(body(text, name)), re.MULTILINE))


def finish(project: Project) -> None:
    """Fill in what an author has to."""
    for path in project.versions.glob("*_alter_steps*.py"):
        text = path.read_text().replace("Reversible: undecided", "Reversible: stash")
        both = 'expectations = [\n    expect.query("SELECT 1", equals=1),\n]\nexpectations_down = [\n'
        both += '    expect.query("SELECT 1", equals=1),\n'
        path.write_text(text.replace("expectations = [\n", both))


def test_what_blocks_is_written_as_the_operation_that_does_not(
    automatic: Automatic, project: Project, empty: Database
) -> None:
    """Index, unique and foreign key, NOT NULL, and a default that is drawn: written, and it runs up and down as it stands."""
    automatic(
        place='sa.Column("place", sa.Integer, nullable=False)',
        plan='sa.Column("plan", sa.BigInteger, sa.ForeignKey("plans.id", name="fk_steps_plan"), nullable=False)',
        uq=None,
        uq2='sa.UniqueConstraint("title", name="uq_steps_title")',
        ix=None,
        ix2='sa.Index("ix_steps_code", "code", unique=True)',
        token='sa.Column("token", sa.Uuid, server_default=sa.text("gen_random_uuid()"), nullable=False, comment="Drawn")',
        note='sa.Column("note", sa.Text, comment="What it is")',
    )  # fmt: skip

    first, second, third = automatic.all  # type: ignore[attr-defined]
    assert [re.findall(r"^Transaction: (.*)$", one, re.MULTILINE) for one in (first, second, third)] == [
        ["single"], ["none"], ["none"]
    ]  # fmt: skip
    assert (calls(first), calls(first, "downgrade")) == (["add_column"], ["drop_column"])
    assert calls(second) == ["add_column_with_default", "alter_column"]
    assert calls(second, "downgrade") == ["alter_column", "drop_column"]
    assert calls(third) == [
        "add_foreign_key_concurrently", "add_unique_concurrently", "create_index_concurrently",
        "drop_constraint_concurrently", "drop_index_concurrently", "set_not_null_concurrently",
    ]  # fmt: skip
    assert calls(third, "downgrade") == [
        "add_unique_concurrently", "create_index_concurrently", "drop_constraint_concurrently",
        "drop_constraint_concurrently", "drop_index_concurrently", "drop_not_null",
    ]  # fmt: skip
    first_shape = shape(empty)
    finish(project)
    project.upgrade()
    assert "No new upgrade operations" in project.alembic("check").stdout
    project.downgrade("001")
    assert difference(first_shape, shape(empty)) == []
    project.upgrade()


def test_a_new_table_is_written_as_alembic_does(automatic: Automatic) -> None:
    """Nobody uses it yet, so its indexes are plain ones, and the step stays one transaction."""
    text = automatic('sa.Table("notes", metadata, sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("a", sa.Text),'
                     ' sa.Index("ix_notes_a", "a"))')  # fmt: skip

    assert "\nTransaction: single\n" in text
    assert "op.create_table('notes'," in text and "op.create_index('ix_notes_a', 'notes', ['a']" in text


def test_a_new_table_beside_what_commits_has_a_revision_of_its_own(automatic: Automatic, project: Project) -> None:
    """What is one transaction comes first, what commits by itself in the next revision, which follows it."""
    automatic('sa.Table("notes", metadata, sa.Column("id", sa.BigInteger, primary_key=True))',
              ix2='sa.Index("ix_steps_code", "code")')  # fmt: skip

    first, second = automatic.all  # type: ignore[attr-defined]
    assert (calls(first), calls(second)) == (["create_table"], ["create_index_concurrently"])
    assert "Dependencies: 002\n" in second and '"""Alter steps part 2.\n' in second
    finish(project)
    project.upgrade()
    project.downgrade("001")


def test_a_foreign_history_has_two_revisions_as_well(automatic: Automatic, project: Project) -> None:
    """Without required headers Alembic's own ids and names are kept, and the second follows the first."""
    project.configure(headers="optional")

    automatic('sa.Table("notes", metadata, sa.Column("id", sa.BigInteger, primary_key=True))',
              ix2='sa.Index("ix_steps_code", "code")')  # fmt: skip

    first, second = sorted(automatic.all, key=lambda text: "create_index" in text)  # type: ignore[attr-defined]
    [follows] = re.findall(r"^down_revision = (.*)$", second, re.MULTILINE)
    assert f"\nrevision = {follows}\n" in first
    assert (calls(first), calls(second)) == (["create_table"], ["create_index_concurrently"])


def test_one_column_gone_and_one_new_of_its_type_is_asked(automatic: Automatic, project: Project) -> None:
    """It may be a rename: both are comments, with the indexes that name them, below the command that would keep the values."""
    text = automatic(
        title='sa.Column("heading", sa.Text, nullable=False)',
        lower='sa.Index("ix_steps_title", sa.text("lower(heading)"))',
    )

    lines = body(text)
    assert [line for line in lines if not line.startswith("#")] == ["pass"]
    assert [line for line in body(text, "downgrade") if not line.startswith("#")] == ["pass"]
    assert "# steps.title goes, and heading comes with the same type: this looks like a rename. If it is one:" in lines
    assert "# make migrate-create KIND=rename_column TABLE=steps FROM=title TO=heading" in lines
    assert any(line.startswith("# op.add_column('steps'") for line in lines)
    assert any(line.startswith("# op.drop_column('steps', 'title'") for line in lines)
    assert sum("index" in line for line in lines) == 2
    assert "this looks like a rename" in automatic.said  # type: ignore[attr-defined]
    config = project.config()
    judged = judge.judge_all(ScriptDirectory.from_config(config), settings.load(config))
    assert "upgrade-missing" in [finding.code for one in judged for finding in one.findings]


def test_several_that_it_may_be_are_all_named(automatic: Automatic) -> None:
    """One is gone and two are new of its type: each is a question."""
    text = automatic(code=None, uq=None, one='sa.Column("one", sa.Text)', two='sa.Column("two", sa.Text)')

    asked = [line for line in body(text) if "KIND=rename_column" in line]
    assert [line.rpartition("=")[2] for line in asked] == ["one", "two"]
    assert [line for line in body(text) if not line.startswith("#")] == ["pass"]


def test_a_new_column_of_another_type_is_just_new(automatic: Automatic) -> None:
    """It is added; what is gone is a comment, with the command that drops it in two revisions."""
    text = automatic(place=None, ix=None, weight='sa.Column("weight", sa.Text)')

    assert [line for line in body(text) if not line.startswith("#")] == [
        "op.add_column('steps', sa.Column('weight', sa.Text(), nullable=True))"
    ]
    assert "# make migrate-create KIND=drop_column TABLE=steps FROM=place" in body(text)
    assert "# op.drop_index(op.f('ix_steps_place'), table_name='steps')" in body(text)
    assert "KIND=rename_column" not in text
    assert "op.drop_column('steps', 'weight')" in body(text, "downgrade")
    assert any(line.startswith("# op.add_column('steps', sa.Column('place'") for line in body(text, "downgrade"))


def test_another_type_is_a_comment(automatic: Automatic) -> None:
    """Whether rows are written for it, the command finds out that stands above it; the index on it stays what it is."""
    text = automatic(place='sa.Column("place", sa.BigInteger)')

    lines = body(text)
    assert [line for line in lines if not line.startswith("#")] == ["pass"]
    assert "# make migrate-create KIND=change_type TABLE=steps FROM=place TO=place_new TO_TYPE=BIGINT" in lines
    assert any(line.startswith("# op.alter_column('steps', 'place'") for line in lines)


def test_a_table_that_is_gone_is_a_comment(automatic: Automatic) -> None:
    """With its indexes; one that comes with the same columns may be the same one."""
    text = automatic(table="items")

    lines = body(text)
    assert [line for line in lines if not line.startswith("#")] == ["pass"]
    assert "# make migrate-create KIND=rename_table TABLE=steps TO=items" in lines
    assert "# make migrate-create KIND=drop_table TABLE=steps" in lines
    assert any(line.startswith("# op.create_table('items'") for line in lines)


def test_check_shows_what_differs_as_it_is(automatic: Automatic, project: Project) -> None:
    """``alembic check`` writes nothing, so nothing is put in the place of anything."""
    automatic(place=None, ix=None)
    (project.versions / "002_alter_steps.py").unlink()

    ended = project.alembic("check")

    assert ended.returncode != 0
    assert "remove_column" in ended.stderr + ended.stdout and "remove_index" in ended.stderr + ended.stdout
