"""Applied revisions that were edited: shown as a difference, and accepted one at a time, for a reason that is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_planner_schema import cli
from mcp_planner_schema.guard import accept as accept_module
from mcp_planner_schema.guard import source
from mcp_planner_schema.guard.findings import Refused, WrongUse
from tests.conftest import Database, Project
from tests.test_ahead import FUNCTION


def three(project: Project) -> list[Path]:
    """Three revisions, the second with a SQL file, all applied."""
    (project.folder / "alembic" / "sql" / "002").mkdir(parents=True, exist_ok=True)
    sql = project.folder / "alembic" / "sql" / "002" / "one.sql"
    sql.write_text(FUNCTION + "\n", encoding="utf-8")
    files = [
        project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.drop_table("a")'),
        project.revision("002", "create_one", "sql.apply(sql_files)", "sql.revert(sql_files)", type="function",
                         more='from mcp_planner_schema.operations import sql\n\nsql_files = ["002/one.sql"]'),
        project.revision("003", "create_c", 'op.execute("CREATE TABLE c (id int)")', 'op.drop_table("c")'),
    ]  # fmt: skip
    project.upgrade()
    return [*files, sql]


def edit(path: Path, old: str, new: str) -> None:
    """Change a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def accept(project: Project, revision: str, reason: str = "the type was never used") -> list[str]:
    """``make migrate-accept`` in a project."""
    return accept_module.accept(project.config(repeat=f"make migrate-accept VERSION={revision}"), revision, reason)


def refused(project: Project) -> list[str]:
    """What the next run that has something to do is refused for, revision by revision."""
    project.revision("004", "create_d", 'op.execute("CREATE TABLE d ()")', 'op.drop_table("d")')
    with pytest.raises(Refused) as caught:
        project.upgrade()
    assert {one.code for one in caught.value.findings} == {"applied-edited"}
    return [one.text() for one in caught.value.findings]


def test_an_edit_is_shown_as_a_difference(empty: Database, project: Project) -> None:
    """The finding holds both texts of what differs, of the revision and of its SQL file, and the command that accepts it."""
    first, _, _, sql = three(project)
    edit(first, "id int", "id bigint")
    edit(sql, "SELECT 1", "SELECT 2")

    one, two = refused(project)

    assert "revision 001 was changed after it was applied on " in one
    assert '-    op.execute("CREATE TABLE a (id int)")\n        +    op.execute("CREATE TABLE a (id bigint)")' in one
    assert "--- " in one and "(now)" in one
    assert 'make migrate-accept VERSION=001 REASON="…"' in one
    assert "sql/002/one.sql of revision 002" in two
    assert "-    AS 'SELECT 1';\n        +    AS 'SELECT 2';" in two
    assert "create_one" not in two.split("what")[1].split("why")[0]


@pytest.mark.long
def test_a_long_difference_is_cut(empty: Database, project: Project) -> None:
    """Forty lines say enough; how many there are more is said."""
    first, *_ = three(project)
    more = "\n".join(f'    op.execute("SELECT {number}")' for number in range(60))
    edit(first, 'op.execute("CREATE TABLE a (id int)")\n', f'op.execute("CREATE TABLE a (id int)")\n{more}\n')

    (one,) = refused(project)

    assert "lines more\n" in one
    assert one.count("\n        ") < 50


def test_one_edit_is_accepted_and_the_run_goes_on(empty: Database, project: Project) -> None:
    """Accepted is the one that was named: it is recorded with who, why and checksums; the other stands as before."""
    first, _, _, sql = three(project)
    before = empty.rows("SELECT revision, checksum FROM migration.history ORDER BY id")
    edit(first, "id int", "id bigint")
    edit(sql, "SELECT 1", "SELECT 2")

    lines = accept(project, "001", "  both were empty  ")
    left = refused(project)
    accept(project, "002")
    project.upgrade()

    assert '+    op.execute("CREATE TABLE a (id bigint)")' in lines
    assert [one.split("what")[1].split(" was changed")[0].strip() for one in left] == [
        "sql/002/one.sql of revision 002"
    ]
    assert empty.value("SELECT version_num FROM alembic_version") == "004"
    rows = empty.rows(
        "SELECT revision, description, who <> '', checksum_before, checksum FROM migration.history WHERE direction = 'accept' "
        "ORDER BY id"
    )
    read = source.read(first)
    assert isinstance(read, source.Source)
    assert rows[0] == ("001", "both were empty", True, dict(before)["001"], source.checksum(read))
    assert rows[1][:4] == ("002", "the type was never used", True, dict(before)["002"])
    runs = "SELECT command, state FROM migration.run WHERE command LIKE '%accept%' ORDER BY id"
    assert [(command.partition(" VER")[0], state) for command, state in empty.rows(runs)] == [
        ("make migrate-accept", "done")
    ] * 2


@pytest.mark.long
def test_what_was_accepted_may_be_edited_back_and_is_an_edit_again(empty: Database, project: Project) -> None:
    """The accepted text is the one that counts from then on; the old one would have to be accepted again."""
    first, *_ = three(project)
    edit(first, "id int", "id bigint")
    accept(project, "001")
    edit(first, "id bigint", "id int")

    (one,) = refused(project)

    assert '-    op.execute("CREATE TABLE a (id bigint)")' in one


@pytest.mark.long
def test_going_back_and_up_forgets_what_was_accepted(empty: Database, project: Project) -> None:
    """A revision that is taken back and applied anew stands as it was run last."""
    _, _, third, _ = three(project)
    edit(third, "id int", "id bigint")
    accept(project, "003")

    project.downgrade("002")
    project.upgrade()

    assert accept(project, "003") == ["nothing to do: revision 003 says what was applied"]
    assert empty.value("SELECT data_type FROM information_schema.columns WHERE table_name = 'c'") == "bigint"


def test_only_an_edited_applied_revision_is_accepted(empty: Database, project: Project) -> None:
    """An unedited one changes nothing; one that is not applied, or no reason, is wrong use."""
    three(project)
    project.downgrade("002")

    nothing = accept(project, "001")

    assert nothing == ["nothing to do: revision 001 says what was applied"]
    for revision, reason in (("003", "why"), ("999", "why"), ("001", "  ")):
        with pytest.raises(WrongUse):
            accept(project, revision, reason)
    assert empty.value("SELECT count(*) FROM migration.history WHERE direction = 'accept'") == 0


def test_the_command_and_the_history(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """make migrate-accept needs a reason; migrate-history shows it with both checksums."""
    first, *_ = three(project)
    edit(first, "id int", "id bigint")
    monkeypatch.setattr(cli, "ROOT", project.folder)

    without = cli.main(["migrate-accept", "VERSION=001"])
    code = cli.main(["migrate-accept", "VERSION=001", "REASON=never used"])
    capsys.readouterr()
    cli.main(["migrate-history"])

    assert (without, code) == (2, 0)
    last = capsys.readouterr().out.splitlines()[-1]
    assert "001    accept    done" in last
    assert last.count("v1:") == 2
    assert "never used" in last
