"""A project of somebody's own: laid down in an empty folder, migrated there, from the installed package too."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from mcp_planner_schema import cli, scaffold
from mcp_planner_schema.guard.findings import WrongUse
from tests.conftest import ROOT, Database

# What the package needs when it runs: what pip would install with it, but for the embedded server.
RUNS_WITH = ["alembic", "sqlalchemy", "mako", "markupsafe", "typing-extensions", "psycopg2-binary", "python-dotenv"]


def typed(
    folder: Path, *arguments: str, python: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command as a person types it, in a folder."""
    words = [str(python or sys.executable), "-m", "mcp_planner_schema", *arguments]
    return subprocess.run(
        words, cwd=folder, env={**os.environ, "PYTHONPATH": "" if python else str(ROOT), **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def filled(folder: Path) -> None:
    """Write what a new revision in SQL leaves open."""
    path = folder / "alembic" / "versions" / "001_create_notes.py"
    text = path.read_text().replace("Reversible: undecided", "Reversible: stash")
    path.write_text(text.replace("expectations = [\n", 'expectations = [\n    expect.table("notes"),\n'))
    for ending, sql in (("up", "CREATE TABLE notes (id bigint PRIMARY KEY);\n"), ("down", "DROP TABLE notes;\n")):
        with path.with_suffix(f".{ending}.sql").open("a") as opened:
            opened.write(sql)


def goes_there_and_back(folder: Path, database: Database, python: Path | None = None) -> None:
    """From an empty folder to a table and back, by what is laid down there alone."""
    url = {"DATABASE_URL": database.url, "AUTHOR": "A <a@b.example>"}
    steps: list[list[str]] = [
        ["init"], ["migrate-create", "NAME=create_notes", "FORMAT=sql"], ["migrate-validate"], ["migrate-up"], ["migrate-down"],
    ]  # fmt: skip
    for step in steps:
        ended = typed(folder, *step, python=python, **url)
        assert ended.returncode == 0, (step, ended.stdout, ended.stderr)
        if step[0] == "migrate-create":
            filled(folder)
        if step[0] in ("migrate-up", "migrate-down"):
            assert database.value("SELECT to_regclass('notes') IS NOT NULL") == (step[0] == "migrate-up")


@pytest.mark.long
def test_an_empty_folder_becomes_a_project(tmp_path: Path, empty: Database) -> None:
    """The other commands work there, on revisions of that folder."""
    goes_there_and_back(tmp_path, empty)


def test_what_the_commands_need_is_laid_down(tmp_path: Path) -> None:
    """init writes Alembic's files, and a Makefile that knows every command about somebody's own revisions."""
    code = cli.main(["init", f"DIR={tmp_path}"])

    assert code == 0
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"alembic.ini", "alembic/env.py", "alembic/script.py.mako", "models.py", "Makefile", "README.md"} <= made
    listed = subprocess.run(["make", "help"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "  migrate-up           [TO=003]" in listed
    assert "example-data" not in listed
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")}
    shown = subprocess.run(
        ["make", "-n", "migrate-down", "TO=001"], cwd=tmp_path, capture_output=True, text=True, check=True, env=alone
    )  # what was given to the make that runs the tests is not given to this one
    assert "-m mcp_planner_schema migrate-down --make=TO" in shown.stdout


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a part of it is there already, nothing is laid down; who has Alembic is told the three lines."""
    (tmp_path / "alembic.ini").write_text("[alembic]\n")

    code = cli.main(["init", f"DIR={tmp_path}"])

    assert code == WrongUse.code
    said = capsys.readouterr().err
    assert "has alembic.ini already" in said and "run(context, target_metadata=metadata)" in said
    assert [path.name for path in tmp_path.iterdir()] == ["alembic.ini"]


def test_without_a_project_every_command_says_so(tmp_path: Path) -> None:
    """From the package alone nobody's history is run, least of all ours."""
    package = tmp_path / "installed"
    shutil.copytree(
        ROOT / "mcp_planner_schema", package / "mcp_planner_schema", ignore=shutil.ignore_patterns("__pycache__")
    )

    ended = typed(tmp_path, "migrate-up", PYTHONPATH=str(package))

    assert ended.returncode == WrongUse.code
    assert "There is no alembic.ini here" in ended.stderr and "next: mcp-planner-schema init" in ended.stderr


def test_what_is_laid_down_is_what_is_used_here() -> None:
    """The settings and the template of revisions are this project's own, so that they cannot fall behind."""
    files = Path(scaffold.__file__).parent / "files"

    assert (files / "alembic.ini").resolve() == ROOT / "alembic.ini"
    assert (files / "script.py.mako").resolve() == ROOT / "alembic" / "script.py.mako"


def clean(folder: Path, wheel: Path) -> Path:
    """An environment with the wheel, and of this one only what the package needs to run; gives its Python."""
    venv.create(folder, symlinks=True)
    packages = Path(next(folder.glob("lib/python3.*/site-packages")))
    for name in RUNS_WITH:
        for file in importlib.metadata.files(name) or []:
            source = Path(str(file.locate()))
            if ".." not in file.parts and source.is_file() and "__pycache__" not in file.parts:
                (packages / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, packages / file)
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(packages)
    return folder / "bin" / "python"


@pytest.mark.long
def test_the_wheel_works_in_a_clean_environment(tmp_path: Path, empty: Database) -> None:
    """Built from what git knows, with nothing of the development tools, and without our models or revisions being asked for."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "alembic.ini"):
        shutil.copy(ROOT / name, source)
    for name in ("mcp_planner_schema", "alembic"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    built = subprocess.run(
        [str(Path(sys.executable).parent / "uv"), "build", "--wheel", "--out-dir", str(tmp_path), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    if re.search(r"Failed to (fetch|resolve)|error sending request|[Nn]etwork", built.stderr):
        pytest.skip("the package index with setuptools, which builds the wheel, cannot be reached")
    assert built.returncode == 0, built.stderr
    python = clean(tmp_path / "environment", next(tmp_path.glob("*.whl")))
    folder = tmp_path / "notes"
    folder.mkdir()

    goes_there_and_back(folder, empty, python)

    missing = subprocess.run([str(python), "-c", "import pytest"], capture_output=True, text=True, check=False)
    assert "No module named 'pytest'" in missing.stderr
    packages = next((tmp_path / "environment").glob("lib/python3.*/site-packages"))
    points = [path.read_text() for path in packages.glob("mcp_planner_schema-*.dist-info/entry_points.txt")]
    assert points == ["[console_scripts]\nmcp-planner-schema = mcp_planner_schema.cli:console\n"]
