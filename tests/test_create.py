"""A new revision: the next number, a full header, one field to decide, and nothing left behind when it is refused."""

from __future__ import annotations

import ast
import datetime as dt
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory

from mcp_planner_schema.guard import header, judge, scope, settings, source
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.source import Source
from tests.conftest import ROOT, Database, Project
from tests.test_judge import install

NUMBERS = ROOT / "tests" / "revisions" / "good_numbers"
UNDECIDED = ["reversible-undecided", "expectation-missing", "upgrade-missing", "downgrade-missing"]


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No database, no author in git, nothing in the environment: a test that wants one says so."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@203.0.113.1/none")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("AUTHOR", raising=False)
    monkeypatch.chdir(tmp_path)


def create(project: Project, name: str | None, **given: str) -> Path:
    """``make migrate-create``: the file it has written."""
    config = project.config(new_revision=given)
    made = command.revision(config, message=name)
    assert made is not None and not isinstance(made, list)
    return Path(made.path)


def fields(path: Path) -> header.Header:
    """The header of a new file, read as the guard reads it."""
    read = source.read(path)
    assert isinstance(read, Source), read.text()
    return header.parse(read, judge.today(), {"Version": "", "Dependencies": ""})[0]


def findings(project: Project) -> list[str]:
    """The codes of everything migrate-validate finds."""
    config = project.config()
    judged = judge.judge_all(ScriptDirectory.from_config(config), settings.load(config))
    return [finding.code for one in judged for finding in one.findings]


def test_a_new_revision_is_complete_but_for_what_its_author_must_decide(project: Project) -> None:
    """Next number, parents, today, kind; open are Reversible, the expectations and the two bodies."""
    install(project, NUMBERS)

    path = create(project, "add_complexity_analysis", author="Jane Doe <jane@example.org>", type="data")

    made = fields(path)
    assert path.name == "004_add_complexity_analysis.py"
    assert (made.version, made.dependencies, made.type) == ("004", ("003",), "data")
    assert (made.title, made.description) == ("Add complexity analysis", "Add complexity analysis")
    assert (made.author, made.reversible) == ("Jane Doe <jane@example.org>", "undecided")
    assert abs(made.date - dt.date.today()) <= dt.timedelta(days=1)
    assert sorted(findings(project)) == sorted(UNDECIDED)
    text = path.read_text()
    parts = ["from mcp_planner_schema.operations import expect", "expectations = [", "def upgrade()", "def downgrade()"]
    assert sorted(parts, key=text.index) == parts
    assert 'revision = "004"\ndown_revision = "003"\n' in text


def test_a_new_revision_can_be_filled_in(project: Project) -> None:
    """Once the open places are filled, nothing stands against it."""
    path = create(project, "create thing")
    text = path.read_text().replace("Reversible: undecided", "Reversible: stash")
    text = text.replace("expectations = [\n", 'expectations = [\n    expect.table("thing"),\n')

    path.write_text(text.replace("    pass", '    op.execute("SELECT 1")'))

    assert findings(project) == []


def test_a_new_function_is_a_file_to_be_named(project: Project) -> None:
    """TYPE=function writes the bodies, which name no SQL; open are the list of files, the expectations and Reversible."""
    path = create(project, "create thing", type="function")
    text = path.read_text()
    before = sorted(findings(project))
    folder = project.folder / "alembic" / "sql" / "001"
    folder.mkdir(parents=True)
    shutil.copy(NUMBERS.parent / "good_sql_files" / "sql" / "001" / "f.sql", folder)

    filled = text.replace("Reversible: undecided", "Reversible: lossless")
    filled = filled.replace("sql_files = [\n", 'sql_files = [\n    "001/f.sql",\n')
    path.write_text(filled.replace("expectations = [\n", 'expectations = [\n    expect.function("f()"),\n'))

    assert before == ["expectation-missing", "reversible-undecided", "sql-files-literal"]
    assert findings(project) == []
    assert "from mcp_planner_schema.operations import expect, sql\n\nrevision" in text
    assert "def upgrade() -> None:\n    sql.apply(sql_files)\n" in text
    assert "def downgrade() -> None:\n    sql.revert(sql_files)\n" in text
    assert "import sqlalchemy" not in text and "import op" not in text


def test_a_new_data_revision_shows_how_rows_are_changed(project: Project) -> None:
    """It commits by itself, belongs to the migrate phase, and has a backfill and a script to fill in; until then it is none."""
    path = create(project, "fill_keys", type="data", author="A <a@b.example>")
    text = path.read_text()

    made, before = fields(path), findings(project)
    path.write_text(
        re.sub(r"(?<=^    )# (?!docs)", "", text, flags=re.MULTILINE)
        .replace("undecided", "lossless").replace("expectations = [\n", 'expectations = [expect.rows("SELECT", count=1)')
    )  # fmt: skip
    script = project.folder / "alembic" / "scripts" / made.version / "name.py"
    script.parent.mkdir(parents=True)
    script.write_text("def run(connection):\n    pass\n")

    assert (made.type, made.phase, made.transaction) == ("data", "migrate", "none")
    assert before == UNDECIDED
    assert f'op.run_script("{made.version}/name.py"' in text
    assert findings(project) == []


def test_the_first_revision_has_no_parent(project: Project) -> None:
    """In an empty folder the number is 001 and the parent None."""
    made = fields(create(project, "create thing"))

    assert (made.version, made.dependencies) == ("001", ())


def test_the_number_follows_the_greatest_in_its_width(project: Project) -> None:
    """After 0999 comes 1000, whatever the order of the files."""
    project.revision("0999", "add_x", "op.execute('SELECT 1')", "op.execute('SELECT 1')", parent="None")

    assert create(project, "add y").name == "1000_add_y.py"


def test_alembics_own_command_does_the_same(project: Project) -> None:
    """``alembic revision -m`` with -x type= and -x author= writes the same file, without a database."""
    result = project.alembic(
        "-x", "type=function", "-x", "author=Jane Doe", "revision", "-m", "add complexity analysis"
    )

    assert result.returncode == 0, result.stderr
    made = fields(project.versions / "001_add_complexity_analysis.py")
    assert (made.type, made.author) == ("function", "Jane Doe")


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("", {}, "is not a word"),
        ("complexity_analysis", {}, "does not begin with a type word"),
        ("add", {}, "at least one more"),
        ("add_größe", {}, "a to z"),
        ("Ädd thing", {}, "is not a word|type word"),
        ("../../add_x", {}, "is not a word|type word"),
        ("add_x", {"type": "schemas"}, "TYPE is 'schemas'"),
    ],
)
def test_a_name_or_type_that_will_not_do_leaves_nothing_behind(
    project: Project, name: str, given: dict[str, str], said: str
) -> None:
    """An unknown type word, a name without an object or of other letters, an unknown TYPE: wrong use and no file."""
    with pytest.raises(WrongUse, match=said) as caught:
        create(project, name, **given)

    assert caught.value.next_command.startswith("make migrate-create NAME=add_complexity_analysis")
    assert list(project.versions.glob("*.py")) == []


@pytest.mark.parametrize(
    ("name", "then"),
    [
        ("index_steps_title", "NAME=add_index_steps_title"),
        ("delete steps note", "NAME=drop_steps_note"),
    ],
)
def test_the_next_command_has_ones_own_name(project: Project, name: str, then: str) -> None:
    """A name without a type word gets one before it, or in the place of a word that means the same."""
    with pytest.raises(WrongUse, match="does not begin with a type word") as caught:
        create(project, name)

    assert caught.value.next_command == f"make migrate-create {then}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["revision"], "The name '(none)' is not a word"),
        (["revision", "-m", "complexity"], "is not a word"),
        (["-x", "auhtor=me", "revision", "-m", "add x"], "-x auhtor is not known"),
        (["revision", "-m", "add x", "--rev-id", "042"], "The next revision is 001, not 042"),
    ],
)
def test_the_command_line_refuses_with_exit_code_2(project: Project, arguments: list[str], said: str) -> None:
    """No name, a wrong one, a misspelt -x, a number of one's own: exit 2, one sentence, the right form, no file."""
    result = project.alembic(*arguments)

    assert result.returncode == 2, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("next: ")
    assert list(project.versions.glob("*.py")) == []


HOSTILE = [
    'O\'Hara "Bob" <b@example.org>',
    "100% {braces} ${mako} ## <%def>",
    "back\\slash \\n \\N{BULLET} \\",
    'the """end""" of """"it"""',
    '"',
    "Zoë 山田 <zoë@例え.jp>",
    "two\nlines\tand a tab",
    "$(rm -rf /) `id`",
]


@pytest.mark.parametrize("author", HOSTILE)
def test_no_author_can_break_the_file(project: Project, author: str) -> None:
    """Quotes, percent signs, backslashes, template code and line ends in a name come out as the same name."""
    path = create(project, "add x", author=author)

    assert fields(path).author == " ".join(author.split())
    assert ast.parse(path.read_text())
    assert sorted(findings(project)) == sorted(UNDECIDED)


@pytest.mark.parametrize("name", ['add "x" to y', "add x (50%)", "add x \\ y", 'add """x""" y', "add ${x} y"])
def test_no_name_can_break_the_file(project: Project, name: str) -> None:
    """Punctuation in a message stays in the description and out of the file name."""
    path = create(project, name)

    assert fields(path).description == name[0].upper() + name[1:]
    assert re.fullmatch(r"001_add_[a-z0-9_]+\.py", path.name)
    assert sorted(findings(project)) == sorted(UNDECIDED)


def test_the_author_comes_from_git_then_author_then_the_machine(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git's name and address, else AUTHOR=, else the environment's AUTHOR, else user@host."""
    machine = scope.author()
    monkeypatch.setenv("AUTHOR", "From Environment")
    environment, asked = scope.author(), scope.author("Asked For")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for key, value in (("user.name", "From Git"), ("user.email", "git@example.org")):
        subprocess.run(["git", "-C", str(tmp_path), "config", key, value], check=True)

    git = scope.author("Asked For")

    assert re.fullmatch(r"[^@\s]+@[^@\s]+", machine)
    assert (environment, asked, git) == ("From Environment", "Asked For", "From Git <git@example.org>")


def test_auto_writes_what_the_models_have_and_the_database_has_not(
    database: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AUTO=1 after a change of the models writes its operations, imports included, below the full header."""
    monkeypatch.setenv("DATABASE_URL", database.url)
    for path in (ROOT / "alembic" / "versions").glob("*.py"):
        project.write(path.name, path.read_text())
    shutil.copytree(ROOT / "alembic" / "sql", project.folder / "alembic" / "sql")
    (project.folder / "alembic" / "env.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import context\nfrom sqlalchemy.dialects import postgresql\n\n"
        "from mcp_planner_schema.guard import run\nfrom mcp_planner_schema.models import metadata\n\n"
        "changed = sa.MetaData()\nfor table in metadata.tables.values():\n    table.to_metadata(changed)\n"
        "changed.tables['projects'].append_column(sa.Column('labels', postgresql.JSONB()))\n"
        "run(context, target_metadata=changed)\n"
    )

    result = project.alembic("revision", "--autogenerate", "-m", "add project labels")

    assert result.returncode == 0, result.stderr
    path = next(project.versions.glob("*_add_project_labels.py"))
    text = path.read_text()
    assert "op.add_column('projects', sa.Column('labels', postgresql.JSONB(" in text
    assert "op.drop_column('projects', 'labels')" in text
    assert text.count("op.") == 2
    assert "from alembic import op\nfrom sqlalchemy.dialects import postgresql\n" in text
    assert fields(path).description == "Add project labels"
    assert sorted(findings(project)) == ["expectation-missing", "reversible-undecided"]


def test_check_called_from_code_asks_for_no_name(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``alembic.command.check`` makes a revision that is never written; nobody is asked what it should be called."""
    monkeypatch.setenv("DATABASE_URL", empty.url)
    (project.folder / "alembic" / "env.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import context\n\nfrom mcp_planner_schema.guard import run\n\n"
        "run(context, target_metadata=sa.MetaData())\n"
    )

    command.check(project.config())

    assert list(project.versions.glob("*.py")) == []


def test_a_name_is_asked_for_from_code_too(project: Project) -> None:
    """From code a wrong name raises what the command line prints."""
    with pytest.raises(WrongUse, match="does not begin with a type word"):
        create(project, "complexity analysis")

    assert list(project.versions.glob("*.py")) == []


def test_without_required_headers_alembic_names_its_own_files(project: Project) -> None:
    """A foreign history keeps its own ids, and its template needs nothing of the guard."""
    project.configure(headers="optional")

    path = create(project, "whatever it is")

    assert re.fullmatch(r"[0-9a-f]{12}_whatever_it_is\.py", path.name)
    assert ast.parse(path.read_text())
