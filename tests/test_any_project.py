"""Any Alembic project gets the guard in three lines of its env.py: whatever template it began with, however its history forks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Database

LINES = "from alembic import context\nfrom mcp_planner_schema.guard import run\nrun(context{})\n"
BODY = '''"""{title}"""
import sqlalchemy as sa
from alembic import op

revision = {revision!r}
down_revision = {parents!r}
branch_labels = {labels!r}
depends_on = {needs!r}


def upgrade() -> None:
    op.create_table({table}, sa.Column("id", sa.Integer, primary_key=True))


def downgrade() -> None:
    op.drop_table({table})
'''
TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"


def alembic(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The alembic command as a person types it."""
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


def well(folder: Path, *arguments: str, **environment: str) -> str:
    """The same, ended well: what it said."""
    done = alembic(folder, *arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def begun(folder: Path, template: str, options: str = "") -> Path:
    """What ``alembic init -t`` writes, and the three lines instead of its env.py."""
    well(folder, "init", "-t", template, "migrations")
    (folder / "migrations" / "env.py").write_text(LINES.format(options))
    return folder


def write(
    folder: Path, revision: str, parents: object = None, *, labels: object = None, needs: object = None, table: str = ""
) -> None:
    """A revision that makes one table."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = table or repr(f"t_{revision}")
    text = BODY.format(title=revision, revision=revision, parents=parents, labels=labels, needs=needs, table=shown)
    (folder / f"{revision}_x.py").write_text(text)


def tables(database: Database) -> list[str]:
    """The tables there are, without Alembic's own."""
    return [name for (name,) in database.rows(TABLES) if name != "alembic_version"]


def rarely(*cases: str) -> list[object]:
    """Cases that run with the long tests."""
    return [pytest.param(case, marks=pytest.mark.long) for case in cases]


@pytest.mark.parametrize("template", ["pyproject_async", *rarely("generic", "async", "pyproject")])
def test_each_template_works_with_three_lines(empty: Database, tmp_path: Path, template: str) -> None:
    """A revision by its own template, up, down and as SQL, with the settings where the template keeps them."""
    project = begun(tmp_path, template)

    well(project, "revision", "-m", "first", "--rev-id", "a1")
    write(project / "migrations" / "versions", "b2", "a1")
    said = well(project, "upgrade", "head")
    up, current = tables(empty), well(project, "current")
    sql = well(project, "upgrade", "head", "--sql")
    well(project, "downgrade", "base")

    assert "done: 2 steps" in said and up == ["t_b2"] and "b2 (head)" in current
    assert "CREATE TABLE t_b2" in sql and tables(empty) == []


@pytest.mark.long
def test_a_project_without_alembic_ini_works(empty: Database, tmp_path: Path) -> None:
    """Only pyproject.toml: the database and the guard's settings come from the environment."""
    project = begun(tmp_path, "pyproject")
    (project / "alembic.ini").unlink()
    write(project / "migrations" / "versions", "a1")

    said = well(project, "upgrade", "head", PLANNER_LOCK_TIMEOUT="77ms")

    assert "done: 1 step" in said and tables(empty) == ["t_a1"]


def test_the_template_for_several_databases_is_refused(empty: Database, tmp_path: Path) -> None:
    """One run is one database: it says so, and how each gets its own section; such a section works."""
    project = begun(tmp_path, "multidb")
    well(project, "revision", "-m", "first", "--rev-id", "a1")

    refused = alembic(project, "upgrade", "head")
    (project / "alembic.ini").write_text(
        "[engine1]\nscript_location = %(here)s/one\npath_separator = os\n"
        f"sqlalchemy.url = {empty.url.replace('%', '%%')}\n"
    )
    (project / "one").mkdir()
    (project / "one" / "env.py").write_text(LINES.format(""))
    write(project / "one" / "versions", "a1")
    said = well(project, "--name", "engine1", "upgrade", "head", DATABASE_URL="")

    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "databases = engine1, engine2" in refused.stderr and "next: " in refused.stderr
    assert "alembic --name engine1" in refused.stderr
    assert "done: 1 step" in said and tables(empty) == ["t_a1"]


@pytest.mark.parametrize("scheme", ["postgresql+asyncpg", *rarely("postgresql+psycopg", "postgres")])
def test_an_applications_url_is_enough(empty: Database, tmp_path: Path, scheme: str) -> None:
    """The URL of an asynchronous application names the database; its driver need not be installed."""
    project = begun(tmp_path, "async")
    write(project / "migrations" / "versions", "a1")

    well(project, "upgrade", "head", DATABASE_URL=empty.url.replace("postgresql:", f"{scheme}:"))

    assert tables(empty) == ["t_a1"]


@pytest.fixture
def forked(tmp_path: Path) -> Path:
    """Two bases in two folders, a labelled branch that needs the other, a fork and its merge."""
    project = begun(tmp_path, "generic")
    one, two = project / "migrations" / "versions", project / "billing" / "versions"
    write(one, "a1", labels=("core",))
    write(one, "a2", "a1")
    write(one, "a3", "a1")
    write(one, "a4", ("a2", "a3"))
    write(two, "b1", labels=("billing",), needs=("a2",))
    write(two, "b2", "b1")
    return project


def located(project: Path, *, separator: str) -> None:
    """Say in alembic.ini where both folders are."""
    ini = project / "alembic.ini"
    sign = {"space": " ", "os": os.pathsep, "newline": "\n    ", "": " "}[separator]
    text = re.sub(r"^path_separator = .*\n", "", ini.read_text(), flags=re.MULTILINE)
    said = f"path_separator = {separator}\n" if separator else ""
    where = f"%(here)s/migrations/versions{sign}%(here)s/billing/versions"
    ini.write_text(text.replace("[alembic]\n", f"[alembic]\n{said}version_locations = {where}\n", 1))


@pytest.mark.parametrize("separator", ["os", *rarely("space", "newline", "")])
def test_several_folders_bases_branches_and_dependencies(empty: Database, forked: Path, separator: str) -> None:
    """To all heads, back one branch by its label, up again, as SQL, and to base: what Alembic alone does."""
    located(forked, separator=separator)

    ambiguous = alembic(forked, "upgrade", "head")
    said = well(forked, "upgrade", "heads")
    all_of_them, current = tables(empty), well(forked, "current")
    well(forked, "downgrade", "billing@base")
    without = tables(empty)
    well(forked, "upgrade", "billing@head")
    again = tables(empty)
    sql = well(forked, "upgrade", "heads", "--sql")
    well(forked, "downgrade", "base")

    assert ambiguous.returncode == 2 and "alembic upgrade heads" in ambiguous.stderr
    assert "done: 6 steps" in said and "a4 (head)" in current and "b2 (head)" in current
    assert all_of_them == again == ["t_a1", "t_a2", "t_a3", "t_a4", "t_b1", "t_b2"]
    assert without == ["t_a1", "t_a2", "t_a3", "t_a4"]
    assert sql.index("CREATE TABLE t_a2") < sql.index("CREATE TABLE t_b1") and "CREATE TABLE t_b2" in sql
    assert tables(empty) == []
    assert empty.value("SELECT count(*) FROM alembic_version") == 0


@pytest.mark.long
def test_one_branch_alone_brings_what_it_needs(empty: Database, forked: Path) -> None:
    """A dependency on another branch is applied first, the rest of that branch is not; both go on later."""
    located(forked, separator="os")

    well(forked, "upgrade", "billing@head")
    needed = tables(empty)
    well(forked, "upgrade", "core@head")

    assert needed == ["t_a1", "t_a2", "t_b1", "t_b2"]
    assert len(tables(empty)) == 6


@pytest.mark.long
def test_several_schemas_and_a_version_table_of_ones_own(empty: Database, tmp_path: Path) -> None:
    """The version lies where env.py says, tables in two schemas; autogenerate with include_schemas sees both."""
    project = begun(
        tmp_path, "generic", ", metadata, version_table='done', version_table_schema='ops', include_schemas=True"
    )
    env = project / "migrations" / "env.py"
    env.write_text(
        "import sqlalchemy as sa\nmetadata = sa.MetaData()\n"
        "sa.Table('t_a1', metadata, sa.Column('id', sa.Integer, primary_key=True), schema='ops')\n"
        "sa.Table('t_b2', metadata, sa.Column('id', sa.Integer, primary_key=True))\n" + env.read_text()
    )
    empty.rows("CREATE SCHEMA ops")
    versions = project / "migrations" / "versions"
    write(versions, "a1")
    text = (versions / "a1_x.py").read_text()
    text = text.replace("primary_key=True))", 'primary_key=True), schema="ops")').replace(
        "table('t_a1')", "table('t_a1', schema='ops')"
    )
    (versions / "a1_x.py").write_text(text)
    write(versions, "b2", "a1")

    well(project, "upgrade", "head")
    checked = well(project, "check")
    there = empty.rows("SELECT version_num FROM ops.done")
    well(project, "downgrade", "base")

    assert there == [("b2",)] and "No new upgrade operations detected" in checked
    assert empty.rows("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace IN ('ops'::regnamespace, "
                      "'public'::regnamespace)") == [("done",)]  # fmt: skip


@pytest.mark.long
def test_what_env_py_sets_up_is_there_where_it_is_not_run(empty: Database, tmp_path: Path) -> None:
    """A revision that asks the application's configuration, as env.py loads it, is fingerprinted, and one without a way back
    is judged."""
    project = begun(tmp_path, "generic")
    env, versions = project / "migrations" / "env.py", project / "migrations" / "versions"
    env.write_text("import application\napplication.named = 'orders'\n" + env.read_text())
    (project / "application.py").write_text("named = None\n")
    write(versions, "a1", table="__import__('application').named")
    path = versions / "a1_x.py"
    path.write_text(path.read_text().partition("\n\ndef downgrade")[0])

    well(project, "upgrade", "head")
    done = [
        subprocess.run(
            [sys.executable, "-m", "mcp_planner_schema", *words], cwd=project, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT),
                 "PLANNER_ARCHIVE_CHECK_URL": empty.url.replace(f"/{empty.name}?", "/postgres?")},
        )
        for words in (["migrate-fingerprint", "VERSION=all"], ["migrate-drift"], ["migrate-validate"])
    ]  # fmt: skip

    back = alembic(project, "downgrade", "base")

    assert tables(empty) == ["orders"]
    assert back.returncode == 3 and "a1_x.py: downgrade-missing" in back.stderr
    assert [(one.returncode, one.stderr) for one in done if "Traceback" in one.stderr] == []
    assert [one.returncode for one in done[:2]] == [0, 0], done
    assert "as the revisions have made it" in done[1].stdout
    assert "1 revisions judged" in done[2].stdout
