"""A database that is ahead of the files: what is said of it, and how a missing file is brought back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command

from mcp_planner_schema import cli
from mcp_planner_schema.guard import recover as recover_module
from mcp_planner_schema.guard.findings import Refused
from mcp_planner_schema.inspect import status
from tests.conftest import Database, Project

FUNCTION = """CREATE OR REPLACE FUNCTION one() RETURNS integer
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS 'SELECT 1';

COMMENT ON FUNCTION one() IS 'One: ü.';"""
SCRIPT = "def run(connection):\n    connection.exec_driver_sql('SELECT 1')\n"


def ahead(project: Project, *phases: str) -> dict[str, bytes]:
    """Revisions of these phases are applied; then all files but the first revision's are gone. Gives what they said."""
    for number, phase in enumerate(phases, 1):
        project.revision(
            f"{number:03}", f"create_t{number}", f'op.execute("CREATE TABLE t{number} ()")', f'op.drop_table("t{number}")',
            phase=phase,
        )  # fmt: skip
    project.upgrade()
    gone = {path.name: path.read_bytes() for path in sorted(project.versions.glob("*.py"))[1:]}
    for name in gone:
        (project.versions / name).unlink()
    return gone


def recover(project: Project, version: str, folder: Path | None = None) -> list[str]:
    """``make migrate-recover`` in a project."""
    return recover_module.recover(project.config(repeat=f"make migrate-recover VERSION={version}"), version, folder)


def test_an_older_build_deploys_where_nothing_was_taken_away(
    empty: Database, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Upgrade to head of a release that was rolled back ends well, says by what the database is ahead, and changes nothing."""
    ahead(project, "expand", "expand", "migrate")
    capsys.readouterr()

    project.upgrade("head")

    said = capsys.readouterr().err
    assert "2 revisions ahead of this build (001)" in said
    assert "002  Create t2  [expand]" in said
    assert "nothing to do: the database is at 003" in said


def test_a_contract_that_this_build_does_not_have_ends_its_deployment(empty: Database, project: Project) -> None:
    """Exit 3: which revision it is, what that means to this build, what to deploy, and how to get the file."""
    ahead(project, "expand", "contract")

    ran = project.alembic("upgrade", "head")

    assert ran.returncode == 3, ran.stderr
    assert "the database is at 002, which no file here has; it is 1 revision ahead of this build (001):" in ran.stderr
    assert "002  Create t2  [contract]" in ran.stderr
    assert "002 takes away what releases before it use" in ran.stderr
    assert ran.stderr.splitlines()[-1] == "next: deploy the build that has them; or make migrate-recover VERSION=002"


def test_no_command_says_only_that_it_cannot_locate_a_revision(empty: Database, project: Project) -> None:
    """Whatever needs the missing files says how many, which, of what phase; and the version stays."""
    ahead(project, "expand", "expand")
    config = project.config()
    commands: dict[str, Callable[[], object]] = {
        "upgrade to a revision": lambda: command.upgrade(config, "001"),
        "downgrade": lambda: command.downgrade(config, "-1"),
        "current": lambda: command.current(config),
        "check": lambda: command.check(config),
        "stamp": lambda: command.stamp(config, "001"),
    }

    said = {}
    for name, run in commands.items():
        with pytest.raises(Refused) as caught:
            run()
        said[name] = caught.value

    for refused in said.values():
        assert [one.code for one in refused.findings] == ["database-ahead"]
        assert "002  Create t2  [expand]" in refused.text()
        assert "they take nothing away" in refused.text()
        assert "locate" not in refused.text()
    assert empty.value("SELECT version_num FROM alembic_version") == "002"


def test_status_says_it_too(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """migrate-status answers, for people and as JSON, with the commit that is to be deployed; migrate-down refuses."""
    ahead(project, "expand", "expand")
    empty.rows("UPDATE migration.revision SET git_commit = 'c0ffee0123456789'")
    monkeypatch.setattr(cli, "ROOT", project.folder)

    codes = [cli.main(["migrate-status"]), cli.main(["migrate-status", "JSON=1"]), cli.main(["migrate-down"])]
    text, _, rest = capsys.readouterr().out.partition("{")
    told = json.loads("{" + rest)

    assert codes == [0, 0, 3]
    assert "it is 1 revision ahead of this build (001)" in text
    assert "deploy a build of commit c0ffee012345 or later; or make migrate-recover VERSION=002" in text
    assert (told["ahead"]["state"], told["ahead"]["may_start"], told["unknown"]) == ("newer_additive", True, ["002"])
    assert [one["revision"] for one in told["ahead"]["revisions"]] == ["002"]


def test_a_version_that_nobody_recorded_is_said_as_that(empty: Database, project: Project) -> None:
    """Where the database knows nothing of its version, no number is invented."""
    ahead(project, "expand")
    empty.rows("UPDATE alembic_version SET version_num = 'zzz'")

    with pytest.raises(Refused, match="by how many revisions is not recorded"):
        project.upgrade("head")


# --- recover ----------------------------------------------------------------------------------------------------------


def test_a_missing_file_comes_back_to_the_letter(empty: Database, project: Project) -> None:
    """What was applied is written as it was, and takes the database back."""
    gone = ahead(project, "expand", "expand", "contract")

    lines = [recover(project, version) for version in ("002", "003")]
    back = {path.name: path.read_bytes() for path in sorted(project.versions.glob("*.py"))[1:]}
    project.downgrade("001")

    assert back == gone
    assert "wrote" in lines[0][1]
    assert empty.rows("SELECT version_num, to_regclass('t2') FROM alembic_version") == [("001", None)]


def test_sql_files_and_scripts_come_back_too(empty: Database, project: Project, tmp_path: Path) -> None:
    """Every file that the revision names is written, a last line without an end included; DIR names another place."""
    alembic = project.folder / "alembic"
    files = {
        "sql/001/one.sql": FUNCTION,
        "scripts/002/fill.py": SCRIPT,
    }
    for name, text in files.items():
        (alembic / name).parent.mkdir(parents=True)
        (alembic / name).write_text(text, encoding="utf-8")
    project.revision("001", "create_one", "sql.apply(sql_files)", "sql.revert(sql_files)", type="function",
                     more='from mcp_planner_schema.operations import sql\n\nsql_files = ["001/one.sql"]')  # fmt: skip
    project.revision("002", "fill_x", 'op.run_script("002/fill.py")', 'op.execute("SELECT 1")', type="data",
                     more="import mcp_planner_schema.operations")  # fmt: skip
    project.upgrade()

    lines = [line for version in ("001", "002") for line in recover(project, version, tmp_path / "out")]
    again = recover(project, "001", tmp_path / "out")

    assert {name: (tmp_path / "out" / name).read_text(encoding="utf-8") for name in files} == files
    for path in project.versions.glob("*.py"):
        assert (tmp_path / "out" / "versions" / path.name).read_bytes() == path.read_bytes()
    assert sum("wrote" in line for line in lines) == 4
    assert sum("is there already" in line for line in again) == 2


def test_a_different_file_is_never_overwritten(empty: Database, project: Project, tmp_path: Path) -> None:
    """Another text under the name, or the revision under another name, is refused, and everything is as it was."""
    ahead(project, "expand", "expand")
    other = project.versions / "002_create_t2.py"
    other.write_text("# mine\n")
    with pytest.raises(Refused, match="is there and says something else"):
        recover(project, "002")
    kept = other.read_text()
    other.unlink()
    project.revision("002", "create_other", "op.execute('SELECT 1')", "op.execute('SELECT 1')")

    with pytest.raises(Refused, match="has that revision already"):
        recover(project, "002")

    assert kept == "# mine\n"
    assert not other.exists()


@pytest.mark.parametrize("place", ["versions/002_create_t2.py", "versions", "sql"])
def test_no_link_is_followed(empty: Database, project: Project, tmp_path: Path, place: str) -> None:
    """A link at the file's place, or at a folder's below the one that was named, is refused; what it points to stays."""
    (project.folder / "alembic" / "sql" / "001").mkdir(parents=True)
    (project.folder / "alembic" / "sql" / "001" / "one.sql").write_text(FUNCTION, encoding="utf-8")
    project.revision("001", "create_one", "sql.apply(sql_files)", "sql.revert(sql_files)", type="function",
                     more='from mcp_planner_schema.operations import sql\n\nsql_files = ["001/one.sql"]')  # fmt: skip
    project.upgrade()
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = out / place.replace("002_create_t2", "001_create_one")
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere / "file" if place.endswith(".py") else elsewhere)

    with pytest.raises(Refused) as caught:
        recover(project, "001", out)

    assert [one.code for one in caught.value.findings] == ["recover-impossible"]
    assert list(elsewhere.iterdir()) == []
    assert [path for path in out.rglob("*") if path.is_file() and not path.is_symlink()] == []


def test_a_name_from_a_row_is_a_plain_name_or_refused(empty: Database, project: Project) -> None:
    """What the database says of the file's name cannot lead out of the folder, nor make another kind of file."""
    ahead(project, "expand", "expand")

    for name in ("../evil.py", "/tmp/evil.py", "a/evil.py", ".evil.py", "__init__.py", "evil.pth", "e\nvil.py", ""):
        empty.rows("UPDATE migration.revision SET file = %s", name)
        with pytest.raises(Refused, match="is no name of a revision's file"):
            recover(project, "002")

    assert [path.name for path in project.versions.glob("*.py")] == ["001_create_t1.py"]


def test_a_row_that_was_changed_is_refused(empty: Database, project: Project) -> None:
    """The checksum of what is written is the recorded one, or nothing is written."""
    ahead(project, "expand", "expand")
    changes = {
        "replace(source, 't2', 't9')": "another checksum",
        "source || E'# sql/../../evil.sql:\\n#|DROP TABLE t1;\\n'": "another checksum",
        "'def ('": "another checksum",
        "NULL": "kept no source",
    }

    for change, said in changes.items():
        with empty.connect() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE stood AS SELECT id, source FROM migration.history")
            cursor.execute(f"UPDATE migration.history SET source = {change} WHERE revision = '002'")
            with pytest.raises(Refused, match=said):
                recover(project, "002")
            cursor.execute("UPDATE migration.history h SET source = s.source FROM stood s WHERE s.id = h.id")

    assert [path.name for path in project.versions.glob("*.py")] == ["001_create_t1.py"]


def test_names_of_files_are_held_against_their_form_even_with_a_checksum(empty: Database, project: Project) -> None:
    """Who can write the checksum too cannot name a file outside of the revision's folders."""
    ahead(project, "expand", "expand")
    evil = "# sql/../../evil.sql:\n#|SELECT 1;\n"
    from mcp_planner_schema.guard import source

    text = str(empty.value("SELECT source FROM migration.history WHERE revision = '002'"))
    read = source.parsed(Path("002.py"), text)
    assert isinstance(read, source.Source)
    checksum = source.checksum(read, {"../../evil.sql": "SELECT 1;\n"})
    empty.rows("UPDATE migration.history SET source = %s, checksum = %s WHERE revision = '002'", text + evil, checksum)

    with pytest.raises(Refused, match="is no name of a file of a revision"):
        recover(project, "002")


def test_a_name_is_made_where_none_is_kept(empty: Database, project: Project) -> None:
    """Applied before names were kept: the file is called after its number and description."""
    ahead(project, "expand", "expand")
    empty.rows("DROP TABLE migration.revision")

    recover(project, "002")

    assert sorted(path.name for path in project.versions.glob("*.py")) == [
        "001_create_t1.py",
        "002_create_t2_for_a_test.py",
    ]


def test_the_command_writes_into_the_history_s_folder(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """make migrate-recover says what it wrote, and that nothing was run; status then finds nothing missing."""
    gone = ahead(project, "expand", "expand")
    monkeypatch.setattr(cli, "ROOT", project.folder)

    code = cli.main(["migrate-recover", "VERSION=002"])

    assert code == 0
    assert "it was not run. Read it before you run it" in capsys.readouterr().out
    assert (project.versions / "002_create_t2.py").read_bytes() == gone["002_create_t2.py"]
    assert status.read(project.config()).unknown == ()
