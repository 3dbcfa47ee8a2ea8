"""What a fresh machine installs, and what never belongs into the repository."""

from __future__ import annotations

import re
import subprocess
import tomllib

from tests.conftest import ROOT


def _tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_every_package_of_the_lock_has_its_hashes_and_no_address() -> None:
    """Each pinned package carries at least one hash, and no line names an index or a URL."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")

    entries = re.split(r"\n(?=[A-Za-z0-9])", lock.strip())

    assert len(entries) > 10
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry or "==" not in entry] == []
    assert re.findall(r"https?://|index-url|find-links", lock) == []


def test_the_lock_holds_every_package_that_pyproject_names() -> None:
    """No dependency is installed by hand: all of them are in the lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE))

    names = {re.split(r"[\[>=<]", line)[0] for line in wanted}

    assert names - locked == set()


def test_the_top_level_is_the_agreed_one() -> None:
    """The folders and files that the team knows are where it looks for them."""
    expected = {
        "alembic.ini", "alembic", "mcp_planner_schema", "scripts", "tests", "Makefile", "pyproject.toml", "README.md",
        "CHANGELOG.md", "LICENSE", "docs", ".ci",
    }  # fmt: skip

    assert expected - {name.split("/")[0] for name in _tracked()} == set()
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_no_file_holds_a_path_of_somebodys_machine() -> None:
    """No tracked file names a home folder or this checkout's place."""
    places = [str(ROOT.parent) + "/", "/home/", "/Users/"]

    found = [
        (name, place)
        for name in _tracked()
        if name != "tests/test_packaging.py"
        for place in places
        if place in (ROOT / name).read_text(encoding="utf-8", errors="replace")
    ]

    assert found == []


def test_nothing_outside_the_project_is_needed_or_changed_by_make() -> None:
    """Each target is one line, and no recipe asks for root, installs system packages or changes an account."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert re.findall(r"\b(sudo|apt-get|useradd|adduser|chown)\b", makefile) == []
