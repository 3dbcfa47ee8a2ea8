"""A revision that nobody has applied is put after another: only what must change changes, all of it or nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from mcp_planner_schema import cli
from mcp_planner_schema.guard import graph, judge, rebase, settings
from mcp_planner_schema.guard.findings import Broken, Refused, WrongUse
from tests.conftest import Database, Project
from tests.test_ahead import FUNCTION

USES_SQL = 'from mcp_planner_schema.operations import sql\n\nsql_files = ["{number}/one.sql"]'


def table(project: Project, version: str, name: str, parent: str | None = None, **more: str) -> Path:
    """A revision that makes one table."""
    return project.revision(
        version,
        f"create_{name}",
        f'op.execute("CREATE TABLE {name} ()")',
        f'op.drop_table("{name}")',
        parent=parent,
        **more,
    )


def move(project: Project, version: str, onto: str | None = None, urls: str = "", *, along: bool = False) -> list[str]:
    """``make migrate-rebase`` in a project."""
    config = project.config(repeat=f"make migrate-rebase VERSION={version}")
    return rebase.rebase(config, version, onto, urls, along=along)


def broken(project: Project) -> list[str]:
    """What is wrong with the project's files."""
    read, script = settings.load(project.config(), {}), ScriptDirectory.from_config(project.config())
    found = [one for judged in judge.judge_all(script, read) for one in judged.findings]
    return [one.code for one in [*found, *graph.problems(script, read)]]


def content(project: Project) -> dict[str, bytes]:
    """Every file of the project's history."""
    folder = project.folder / "alembic"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture
def heads(empty: Database, project: Project) -> Project:
    """001, and two that follow it: 002 is applied, 003 is not."""
    table(project, "001", "a")
    table(project, "002", "b")
    project.upgrade()
    table(project, "003", "c", "001")
    return project


def test_two_heads_become_one_line(heads: Project, empty: Database) -> None:
    """The unapplied one follows the other, keeps its number, and runs; two lines of its file have changed."""
    before = (heads.versions / "003_create_c.py").read_text()

    lines = move(heads, "003")
    heads.upgrade()

    after = (heads.versions / "003_create_c.py").read_text()
    assert after == before.replace("Dependencies: 001", "Dependencies: 002").replace("= '001'", "= '002'")
    assert any("follows 002" in line for line in lines)
    assert broken(heads) == []
    assert empty.value("SELECT version_num FROM alembic_version") == "003"


def test_the_message_about_two_heads_names_files_authors_and_the_command(heads: Project) -> None:
    """Who reads it knows whom to ask, and the one line that mends it."""
    with pytest.raises(Refused) as caught:
        heads.upgrade()

    said = caught.value.text()
    assert "002_create_b.py (A Tester <tester@example.org>), " in said
    assert "003_create_c.py (A Tester <tester@example.org>)" in said
    assert "make migrate-rebase VERSION=003 ONTO=002" in said
    assert "alembic merge heads" in said


@pytest.fixture
def twice(empty: Database, project: Project) -> Project:
    """Two branches have both written 002, each with a SQL file in sql/002; create_b is applied, create_one is not."""
    folder = project.folder / "alembic" / "sql" / "002"
    folder.mkdir(parents=True)
    table(project, "001", "a")
    other = FUNCTION.replace("one()", "two()")
    (folder / "two.sql").write_text(other + "\n", encoding="utf-8")
    more = USES_SQL.format(number="002").replace("one.sql", "two.sql")
    project.revision("002", "create_b", "sql.apply(sql_files)", "sql.revert(sql_files)", type="function", more=more)
    project.upgrade()
    (folder / "one.sql").write_text(FUNCTION + "\n", encoding="utf-8")
    project.revision("002", "create_one", "sql.apply(sql_files)", "sql.revert(sql_files)", type="function",
                     more=USES_SQL.format(number="002"))  # fmt: skip
    return project


def test_a_number_that_two_have_taken(twice: Project, empty: Database) -> None:
    """The younger gets the next number everywhere: name, header, ids, its own SQL file; the other one's stays where it is."""
    old = twice.versions / "002_create_one.py"
    before = old.read_text()

    move(twice, "002_create_one")
    twice.upgrade()

    after = (twice.versions / "003_create_one.py").read_text()
    assert not old.exists()
    changed = before.replace("Version: 002", "Version: 003").replace("Dependencies: 001", "Dependencies: 002")
    changed = changed.replace("down_revision = '001'", "down_revision = '002'").replace(
        "\nrevision = '002'", "\nrevision = '003'"
    )
    assert after == changed.replace('"002/one.sql"', '"003/one.sql"')
    assert sorted(name for name in content(twice) if name.startswith("sql")) == ["sql/002/two.sql", "sql/003/one.sql"]
    assert broken(twice) == []
    assert empty.rows("SELECT version_num, one() + two() FROM alembic_version") == [("003", 2)]


def test_the_number_alone_does_not_say_which(twice: Project) -> None:
    """Two files of one number: the message names both, and the command with a file's name."""
    with pytest.raises(Refused) as ran:
        twice.upgrade()
    with pytest.raises(WrongUse) as caught:
        move(twice, "002")

    assert "make migrate-rebase VERSION=002_create_one" in ran.value.text()
    assert "002_create_b.py (A Tester <tester@example.org>) and " in ran.value.text()
    assert "002_create_b.py and " in caught.value.message


def test_the_one_that_was_applied_is_known_by_its_checksum(twice: Project) -> None:
    """Of two files of one id the database has run one; that one is not moved."""
    before = content(twice)

    with pytest.raises(Refused) as caught:
        move(twice, "002_create_b")

    assert [one.code for one in caught.value.findings] == ["rebase-impossible"]
    assert "has applied it" in caught.value.text()
    assert content(twice) == before


def test_what_a_database_has_applied_stays(
    heads: Project, empty: Database, new_database: Callable[[], Database]
) -> None:
    """The configured database is asked, and every one of PLANNER_KNOWN_URLS; the message names it, without a password."""
    other = new_database()
    before = content(heads)
    other.rows("CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('003')")
    url = other.url.replace("postgres@", "postgres:secret@")

    with pytest.raises(Refused) as here:
        move(heads, "002", "003")
    with pytest.raises(Refused) as there:
        move(heads, "003", urls=f"{empty.url} {url}")
    with pytest.raises(Broken) as silent:
        move(heads, "003", urls="postgresql://postgres:secret@127.0.0.1:1/none")
    with pytest.raises(WrongUse):
        move(heads, "003", urls="nonsense")

    assert f"{empty.name} at " in here.value.text()
    assert f"{other.name} at " in there.value.text()
    assert "secret" not in here.value.text() + there.value.text() + silent.value.text()
    assert content(heads) == before


@pytest.mark.long
def test_dependents_are_taken_along_or_it_stays(heads: Project, empty: Database) -> None:
    """A revision that others follow is moved with them, when that is said; a longer line keeps its order."""
    table(heads, "004", "d", "003")
    table(heads, "005", "e", "004", extra="")
    table(heads, "006", "f", "002")
    before = content(heads)

    with pytest.raises(Refused, match=r"004_create_d\.py, .*005_create_e\.py depend on it"):
        move(heads, "003", "006")
    same = content(heads) == before
    move(heads, "003", along=True)
    heads.upgrade()

    assert same
    assert broken(heads) == []
    assert empty.value("SELECT version_num FROM alembic_version") == "005"
    assert "down_revision = '006'" in (heads.versions / "003_create_c.py").read_text()


@pytest.mark.long
def test_a_branch_of_taken_numbers_is_moved_one_by_one(heads: Project, empty: Database) -> None:
    """002 and 003 of two branches: the messages say which to move first, and the second branch becomes 004 and 005."""
    (heads.versions / "003_create_c.py").unlink()
    table(heads, "003", "c")
    heads.upgrade()
    table(heads, "002", "x")
    table(heads, "003", "y")

    with pytest.raises(WrongUse, match="one by one"):
        move(heads, "002_create_x", along=True)
    for name in ("002_create_x", "003_create_y"):
        move(heads, name)
    heads.upgrade()

    assert sorted(path.name for path in heads.versions.glob("*.py"))[-2:] == ["004_create_x.py", "005_create_y.py"]
    assert broken(heads) == []
    assert empty.value("SELECT version_num FROM alembic_version") == "005"


def test_what_was_made_from_it_is_dropped(heads: Project) -> None:
    """Locks, catalog and fingerprint of the moved revision go, those of others stay; how they are made anew is said."""
    folder = heads.folder / "alembic"
    for name in ("locks/002.json", "locks/003.json", "catalog/003.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}\n")
    (folder / "fingerprints").write_text("001 fp1:aa\n002 fp1:bb\n003 fp1:cc\n")

    lines = move(heads, "003")

    assert sorted(name for name in content(heads) if name.startswith(("locks", "catalog"))) == ["locks/002.json"]
    assert (folder / "fingerprints").read_text() == "001 fp1:aa\n002 fp1:bb\n"
    assert any("make migrate-trace VERSION=003" in line for line in lines)


def test_what_cannot_be_changed_safely_is_refused(heads: Project) -> None:
    """Where the text is no plain literal nothing is guessed, and no file is changed."""
    path = heads.versions / "003_create_c.py"
    text, line = path.read_text(), "down_revision = '001'"
    said = {
        "down_revision = '00' '1'": "no plain literal",
        "down_revision = '001'\ndown_revision = '001'": "assigned 2 times",
        "down_revision = ('001', '002')": "joins several",
    }

    for other, problem in said.items():
        path.write_text(text.replace(line, other))
        before = content(heads)
        with pytest.raises(Refused, match=problem):
            move(heads, "003", "002")
        assert content(heads) == before


def test_a_name_that_is_taken_leaves_everything_as_it_was(twice: Project) -> None:
    """All or nothing: with another file at one of the new places, none is moved."""
    taken = twice.folder / "alembic" / "sql" / "003" / "one.sql"
    taken.parent.mkdir()
    taken.write_text("mine")
    before = content(twice)

    with pytest.raises(Broken, match="is there already"):
        move(twice, "002_create_one")

    assert content(twice) == before


def test_every_other_byte_stays(heads: Project) -> None:
    """Comments, quotes, blank lines, numbers that look the same and a missing last newline are left alone."""
    path = heads.versions / "003_create_c.py"
    text = path.read_text().rstrip("\n") + "  # 001 ü 003"
    text = text.replace("down_revision = '001'", "down_revision: str   =  \"001\"   # 'é' 001")
    text = text.replace("Description: ", "Description: after 001, ")
    path.write_text(text, encoding="utf-8")

    move(heads, "003")

    expected = text.replace('=  "001"   #', '=  "002"   #').replace("Dependencies: 001", "Dependencies: 002")
    assert path.read_text(encoding="utf-8") == expected


def test_alembic_s_own_headers_are_followed(empty: Database, project: Project) -> None:
    """In a project without our headers the ids stay, and its Revises line follows."""
    project.configure(headers="optional")
    body = 'revision = "{0}"\ndown_revision = {1}\ndef upgrade(): pass\ndef downgrade(): pass\n'
    project.write("aa_x.py", '"""x\n\nRevision ID: aa\nRevises: \n"""\n' + body.format("aa", None))
    project.write("bb_x.py", '"""x\n\nRevision ID: bb\nRevises: aa\n"""\n' + body.format("bb", '"aa"'))
    path = project.write("cc_x.py", '"""x\n\nRevision ID: cc\nRevises: aa\n"""\n' + body.format("cc", '"aa"'))

    move(project, "cc")

    assert path.read_text() == '"""x\n\nRevision ID: cc\nRevises: bb\n"""\n' + body.format("cc", '"bb"')


@pytest.mark.long
def test_git_sees_a_rename(twice: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command, in a repository: the files are renamed and not rewritten."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], cwd=twice.folder, check=True, capture_output=True)
    monkeypatch.setattr(cli, "ROOT", twice.folder)

    code = cli.main(["migrate-rebase", "VERSION=002_create_one"])
    subprocess.run([*git, "add", "-A"], cwd=twice.folder, check=True, capture_output=True)
    said = subprocess.run(
        [*git, "status", "--short"], cwd=twice.folder, check=True, capture_output=True, text=True
    ).stdout

    assert code == 0
    renamed = [line for line in said.splitlines() if line.startswith("R")]
    assert [line.partition(" -> ")[2] for line in renamed] == [
        "alembic/sql/003/one.sql", "alembic/versions/003_create_one.py",
    ]  # fmt: skip


def test_there_is_one_thing_to_do_or_it_is_asked(heads: Project) -> None:
    """Already in place, unknown names and several heads to choose from are said, and nothing is done."""
    table(heads, "004", "d", "001")
    before = content(heads)

    assert move(heads, "003", "001")[0].startswith("nothing to do")
    for version, onto in (("999", None), ("003", "999"), ("003", None)):
        with pytest.raises(WrongUse):
            move(heads, version, onto)

    assert content(heads) == before
