"""Every command that README and the guides show is run, in their order, in a clone without a database."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_planner_schema import embedded
from mcp_planner_schema.cli import COMMANDS
from tests.conftest import ROOT

PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[tuple[str, int]]:
    """The lines behind ``$`` in the page's console blocks, and the exit code each promises (``# exit 3``)."""
    found = []
    for block in _BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        for line in block.splitlines():
            if line.startswith("$ "):
                text, _, promised = line[2:].partition("# exit ")
                found.append((text.strip(), int(promised or 0)))
    return found


@pytest.fixture
def clone() -> Iterator[Path]:
    """The files git knows, in a folder of their own with this environment's packages; its server is stopped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="mcp-"))
    folder.chmod(0o755)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    environment = folder / ".venv"
    environment.symlink_to(Path(sys.prefix))
    try:
        yield folder
    finally:
        embedded.stop(folder, mode="immediate")
        environment.unlink()
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.long] if page != "README.md" else []) for page in PAGES if commands(page)],
)
def test_every_command_of_a_page_does_what_it_says(page: str, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command of the page ends with the exit code it promises, in the page's order, from an empty folder on."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    server = embedded.locate(clone)
    environment = {
        **os.environ,
        "PATH": f"{embedded.binary('psql').parent}{os.pathsep}{os.environ['PATH']}",
        "PGHOST": str(server.socket),
        "PGPORT": str(server.port),
        "PGUSER": "postgres",
        "PGDATABASE": "mcp_task_dev",
    }

    for text, promised in commands(page):
        ended = subprocess.run(
            ["/bin/sh", "-c", text], cwd=clone, env=environment, capture_output=True, text=True, check=False
        )

        # make ends with 2 whatever a command returned, and shows the command's own code.
        code = ended.returncode
        shown = re.search(r"Error (\d+)", ended.stderr)
        code = int(shown[1]) if code == 2 and shown else code
        assert code == promised, f"{text}\n{ended.stdout}\n{ended.stderr}"


def test_every_target_of_the_commands_is_documented() -> None:
    """README names every command there is, and make has a target for each."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    missing = [name for name in COMMANDS if name not in readme and name != "findings"]
    without_target = [name for name in COMMANDS if not re.search(rf"^{name}:.*## ", makefile, re.MULTILINE)]

    assert missing == []
    assert without_target == []


def test_every_make_target_that_a_page_names_exists() -> None:
    """No page sends anyone to a make target that is not there."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {
        target
        for page in PAGES
        for target in re.findall(r"`make ([a-z][a-z-]+)", (ROOT / page).read_text(encoding="utf-8"))
    }

    missing = [target for target in sorted(named) if not re.search(rf"^{target}:", makefile, re.MULTILINE)]

    assert missing == []


def test_every_target_that_help_lists_can_be_made() -> None:
    """make finds a recipe for each target of its own list; -n shows it without running it."""
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^  ([a-z-]+) ", listed, re.MULTILINE)

    broken = [
        target
        for target in targets
        if subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=False).returncode
    ]

    assert len(targets) > 20
    assert broken == []
