"""Histories that cannot be put in order: each kind told apart, with the files and the cure."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from mcp_planner_schema.guard import graph, settings
from mcp_planner_schema.guard.findings import Refused
from tests.conftest import ROOT, Database, Project
from tests.test_judge import install

REVISIONS = ROOT / "tests" / "revisions"


def problems(project: Project, *heads: str) -> list[str]:
    """The problems of a project's files, and the cures, one text each."""
    config = project.config()
    found = graph.problems(ScriptDirectory.from_config(config), settings.load(config, {}), heads)
    return [f"{Path(one.where).name} {one.values.get('problem')}; {one.values.get('instead')}" for one in found]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "two_heads",
            ["003_add_c.py", "it has 2 heads", "002_add_b.py (A Tester", "make 003 follow 002", "Dependencies: 002"],
        ),
        ("missing_parent", ["003_add_c.py", "its parent 0002 is in no file", "correct down_revision"]),
        (
            "cycle",
            ["002_add_b.py (A Tester", "002 -> 003 -> 002", "003_add_c.py (A Tester", "correct the down_revision"],
        ),
        ("self", ["002_add_b.py", "revision 002 names itself as its parent"]),
        (
            "twice",
            [
                "003_add_c.py",
                "revision 002 stands in",
                "002_add_b.py (A Tester <tester@example.org>) and",
                "a number of its own",
            ],
        ),
    ],
)
def test_each_broken_history_is_told_apart(project: Project, name: str, said: list[str]) -> None:
    """Two heads, a missing parent, a cycle, a self-parent and an id used twice each have one message with their cure."""
    install(project, REVISIONS / f"bad_graph_broken_{name}")

    found = problems(project)

    assert len(found) == 1
    for part in said:
        assert part in found[0]


def test_a_longer_cycle_beside_a_sound_history(project: Project) -> None:
    """A cycle is named by its own members only, not by those that lead into it."""
    for number, parent in (
        ("001", None),
        ("002", "005"),
        ("003", "002"),
        ("004", "003"),
        ("005", "004"),
        ("006", "005"),
    ):
        project.write(f"{number}_add_x.py", f"revision = {number!r}\ndown_revision = {parent!r}\n")

    found = problems(project)

    assert len(found) == 1
    cycle = found[0].split("the revisions ")[1].split(" each")[0].split(" -> ")
    assert cycle[0] == cycle[-1]
    assert sorted(cycle[1:]) == ["002", "003", "004", "005"]


def test_the_cure_for_two_heads_works(project: Project) -> None:
    """The two lines that the message names, written into the file, put the history in order."""
    install(project, REVISIONS / "bad_graph_broken_two_heads")
    file = project.versions / "003_add_c.py"

    text = file.read_text().replace('down_revision = "001"', 'down_revision = "002"')
    file.write_text(text.replace("Dependencies: 001", "Dependencies: 002"))

    assert problems(project) == []


@pytest.mark.parametrize(
    ("second", "found"),
    [
        ('revision = "b"\ndown_revision = None\ndepends_on = "base"', []),
        ('revision = "b"\ndown_revision = "a"\nrevision = "c"', []),
        ('revision = str("b")\ndown_revision = "who knows"', []),
        ('revision = "b"\ndown_revision = "base"', ["b_x.py:2 its parent base is in no file"]),
    ],
)
def test_what_alembic_can_put_in_order_is_left_alone(project: Project, second: str, found: list[str]) -> None:
    """Labels as dependencies, computed ids, and where headers are optional several heads are Alembic's to judge."""
    project.configure(headers="optional")
    project.write("a_x.py", 'revision = "a"\ndown_revision = None\nbranch_labels = ("base",)\n')
    project.write("b_x.py", second + "\n")

    assert [one.split(";")[0] for one in problems(project)] == found


def test_a_head_without_a_file_is_told_with_the_database(project: Project) -> None:
    """A database ahead of this build is told apart from a broken folder."""
    install(project, REVISIONS / "good_numbers")

    found = problems(project, "042")

    assert len(found) == 1
    assert "the database is at 042, which no file here has; deploy the build that has it" in found[0]


def test_unreadable_files_come_first(project: Project) -> None:
    """While a file cannot be read, nothing is said about parents that may be in it."""
    install(project, REVISIONS / "good_numbers")
    project.write("002_add_b.py", "def (\n")

    config = project.config()
    found = graph.problems(ScriptDirectory.from_config(config), settings.load(config, {}))

    assert [one.code for one in found] == ["source-syntax"]


@pytest.mark.parametrize("name", ["two_heads", "missing_parent", "cycle", "self", "twice"])
def test_an_upgrade_of_a_broken_history_is_refused(empty: Database, project: Project, name: str) -> None:
    """``alembic upgrade`` says the same, exit code 3, and touches nothing."""
    install(project, REVISIONS / f"bad_graph_broken_{name}")

    result = project.alembic("upgrade", "head")

    assert result.returncode == 3, result.stderr
    assert ": graph-broken\n" in result.stderr
    assert "Traceback" not in result.stderr
    assert "next: " in result.stderr.splitlines()[-1]
    assert empty.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0


def test_a_database_at_an_unknown_revision_is_refused(empty: Database, project: Project) -> None:
    """Someone else's newer version in the table is told as what it is, with exit code 3."""
    install(project, REVISIONS / "good_numbers")
    empty.rows("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
    empty.rows("INSERT INTO alembic_version VALUES ('042')")

    result = project.alembic("upgrade", "head")

    assert result.returncode == 3, result.stderr
    assert "the database is at 042, which no file here has" in result.stderr


def _edit_sql(text: str) -> str:
    return text.replace("id int PRIMARY KEY", "id bigint PRIMARY KEY")


def _edit_layout(text: str) -> str:
    return text.replace("A thing for the tests", "A thing").replace("    op.drop", "    # away\n    op.drop")


def _edit_and_waive(text: str) -> str:
    return _edit_sql(text).replace("stash\n", "stash\nWaive: applied-edited | a typing error | 2999-12-31\n")


@pytest.mark.parametrize(("edit", "refused"), [(_edit_sql, True), (_edit_layout, False), (_edit_and_waive, False)])
def test_an_applied_revision_that_was_edited_is_refused(
    empty: Database, project: Project, edit: Callable[[str], str], refused: bool
) -> None:
    """Changed code of an applied revision stops the next upgrade, changed words do not, and a waiver lifts it."""
    install(project, REVISIONS / "bad_applied_edited.py")
    project.upgrade()
    file = project.versions / "001_create_thing.py"
    file.write_text(edit(file.read_text()))
    project.revision("002", "create_other", 'op.execute("CREATE TABLE other ()")', 'op.drop_table("other")')

    caught = None
    try:
        project.upgrade()
    except Refused as error:
        caught = error

    assert [one.code for one in caught.findings] == ["applied-edited"] if caught else not refused
    assert (caught is not None) is refused
    if caught:
        history = caught.findings[0].values["history"]
        assert "id int PRIMARY KEY" in empty.value(f"SELECT source FROM migration.history WHERE id = {history}")


def test_several_heads_where_they_are_allowed_are_named(empty: Database, project: Project) -> None:
    """Without required headers a history may have them; a command that wants one names all, and what to type."""
    project.configure(headers="optional")
    for name, parent in (("a", None), ("b", "a"), ("c", "a")):
        project.write(f"{name}_x.py", f"revision = {name!r}\ndown_revision = {parent!r}\n")

    ran = project.alembic("upgrade", "head")

    assert ran.returncode == 2, ran.stderr
    assert "b_x.py, " in ran.stderr
    assert "c_x.py" in ran.stderr
    assert "alembic merge heads" in ran.stderr.splitlines()[-1]


def test_the_history_alembic_shows_needs_no_guard(project: Project) -> None:
    """``alembic history`` and ``heads`` work on the fixtures as on any history, without a database."""
    install(project, REVISIONS / "good_merge")

    result: subprocess.CompletedProcess[str] = project.alembic("heads", DATABASE_URL="postgresql://203.0.113.1/none")

    assert (result.returncode, result.stdout.strip()) == (0, "004 (head)")
