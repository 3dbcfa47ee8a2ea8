"""The package as it is delivered: a built wheel, in an environment that has what the wheel asks for and nothing else."""

from __future__ import annotations

import email.parser
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import HEAD, ROOT, Database

pytestmark = pytest.mark.long

ASK = """
import importlib.util, json, sys
import sqlalchemy as sa
import mcp_planner_schema
with sa.create_engine(sys.argv[1]).connect() as connection:
    found = mcp_planner_schema.check_compatible(connection)
loaded = [name for name in sys.modules if name.partition(".")[0] == "alembic" or name.startswith("mcp_planner_schema.guard")]
print(json.dumps([found.state, found.ok, [one.revision for one in found.missing], [one.revision for one in found.ahead],
                  mcp_planner_schema.__file__, loaded, importlib.util.find_spec("pytest") is not None]))
"""

FOREIGN = """
import sys
from alembic import context
from mcp_planner_schema.guard import run
run(context)
ours = ("models", "example_data", "generate", "staging", "deploy")
tools = ("pytest", "hypothesis", "ruff", "mypy", "squawk", "prometheus_client")
print(sorted(name for name in sys.modules if name.startswith(tuple(f"mcp_planner_schema.{one}" for one in ours))
             or name.partition(".")[0] in tools), file=sys.stderr)
"""
REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "a1"
down_revision = None


def upgrade():
    op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True), sa.Column("kind", sa.Enum("a", "b", name="kind")))


def downgrade():
    op.drop_table("notes")
    op.execute("DROP TYPE kind")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what git knows of this checkout; what builds it is fetched only where it is not cached."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    uv = [sys.executable, "-m", "uv", "build", "--wheel", "--out-dir", str(folder / "dist"), str(folder / "source")]
    for more in (["--offline"], []):
        done = subprocess.run([*uv, *more], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            (made,) = (folder / "dist").glob("*.whl")
            return made
    if re.search(r"Failed to (fetch|resolve)|error sending request", done.stderr):
        pytest.skip("setuptools, which builds the wheel, is neither cached nor to be had from an index")
    raise AssertionError(done.stderr)


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new environment with the wheel, and what it depends on copied from here: nothing is fetched."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(site)
        (name,) = (one for one in opened.namelist() if one.endswith(".dist-info/METADATA"))
        wanted = email.parser.Parser().parsestr(opened.read(name).decode()).get_all("Requires-Dist") or []
    for distribution in closure(wanted):
        for file in distribution.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), site / file)
    yield folder / "bin" / "python"


def closure(wanted: list[str]) -> list[importlib.metadata.Distribution]:
    """The distributions of these requirements and of theirs, without those of extras."""
    found: dict[str, importlib.metadata.Distribution] = {}
    todo = list(wanted)
    while todo:
        text, _, marker = todo.pop().partition(";")
        name = re.split(r"[\s\[<>=!~(]", text.strip())[0].lower()
        # Markers of other platforms name what is not installed here.
        if "extra" in marker or name in found or not installed(name):
            continue
        found[name] = importlib.metadata.distribution(name)
        todo += found[name].requires or []
    return list(found.values())


def installed(name: str) -> bool:
    """Whether there is such a distribution here."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def ask(python: Path, database: Database) -> list[object]:
    """What an application would be told, in a folder where there is no checkout."""
    url = database.url.replace("postgresql:", "postgresql+psycopg2:")
    done = subprocess.run(
        [python, "-I", "-c", ASK, url], cwd=python.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: list[object] = json.loads(done.stdout)
    return answer


def test_the_wheel_holds_the_package_and_no_revision(wheel: Path) -> None:
    """Its top level is the package and what describes it; every module of the package is in it, and no test."""
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())

    there = subprocess.run(
        ["git", "ls-files", "mcp_planner_schema/*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {name.partition("/")[0] for name in names} == {
        "mcp_planner_schema",
        f"{wheel.name.rsplit('-', 3)[0]}.dist-info",
    }
    assert {name for name in there.stdout.split() if (ROOT / name).is_file()} - names == set()


def test_an_application_asks_by_the_wheel_alone(python: Path, database: Database) -> None:
    """Exact, behind and ahead on a real database, from a built wheel; it loads neither Alembic nor the guard."""
    last, before = HEAD, f"{int(HEAD) - 2:03}"
    exact = ask(python, database)
    database.rows("UPDATE alembic_version SET version_num = %s", before)
    behind = ask(python, database)
    database.rows(
        "INSERT INTO migration.revision (version_table, revision, parents, phase, title, file) "
        "SELECT version_table, '999', ARRAY[%s], 'contract', 'Drop it', '999_x.py' FROM migration.revision LIMIT 1",
        last,
    )
    database.rows("UPDATE alembic_version SET version_num = '999'")
    ahead = ask(python, database)

    assert exact[:4] == ["exact", True, [], []]
    assert behind[:4] == ["too_old", False, [f"{int(HEAD) - 1:03}", HEAD], []]
    assert ahead[:4] == ["newer_breaking", False, [], ["999"]]
    for answer in (exact, behind, ahead):
        assert str(answer[4]).startswith(str(python.parent.parent)) and answer[5:] == [[], False]


def test_any_project_gets_the_guard_by_the_wheel_alone(
    python: Path, new_database: Callable[[], Database], tmp_path: Path
) -> None:
    """What ``alembic init`` writes, three lines in env.py: up, down, up; rows kept; neither our models nor any tool is loaded."""
    database = new_database()

    def typed(*words: str) -> str:
        done = subprocess.run(
            [python, "-I", "-m", *words], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={"PATH": os.environ["PATH"], "DATABASE_URL": database.url, "HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    typed("alembic", "init", "migrations")
    (tmp_path / "migrations" / "env.py").write_text(FOREIGN)
    (tmp_path / "migrations" / "versions" / "a1_notes.py").write_text(REVISION)
    loaded = [typed("alembic", "upgrade", "head")]
    database.rows("INSERT INTO notes VALUES (1, 'b')")
    loaded += [typed("alembic", "downgrade", "base"), typed("alembic", "upgrade", "head")]
    status = typed("mcp_planner_schema", "migrate-status")

    assert [said.strip().splitlines()[-1] for said in loaded] == ["[]"] * 3
    assert "kept table notes: 1 rows" in loaded[1] and "restored table notes: 1 rows" in loaded[2]
    assert database.rows("SELECT id, kind::text FROM notes") == [(1, "b")]
    assert "a1" in status
    for tool in ("pytest", "ruff", "mypy", "hypothesis"):
        assert subprocess.run([python, "-I", "-c", f"import {tool}"], capture_output=True, check=False).returncode == 1
