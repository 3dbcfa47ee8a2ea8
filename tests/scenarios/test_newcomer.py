"""A newcomer's first minutes: a fresh clone, nothing but Python and make, the two commands of README."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import HEAD, ROOT

SYSTEM_PYTHON = Path("/usr/bin/python3")  # one that an ordinary user may run, wherever root's own lives
NOBODY = 65534

pytestmark = pytest.mark.long


@pytest.fixture
def closed_clone() -> Iterator[Path]:
    """The files git knows, below a folder of mode 0700, without any environment."""
    outer = Path(tempfile.mkdtemp(prefix="mcp-"))  # mkdtemp makes it 0700
    folder = outer / "clone"
    folder.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    try:
        yield folder
    finally:
        shutil.rmtree(outer)


def run(folder: Path, *arguments: str, user: int | None, **environment: str) -> subprocess.CompletedProcess[str]:
    """make in the clone, without DATABASE_URL and without any PostgreSQL of the machine in PATH."""
    home = folder.parent / "home"
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("DATABASE_URL", "PG", "MAKE", "MCP_", "PYTEST"))
    }
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env={**inherited, "HOME": str(home), **environment},
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("ordinary", [False, True], ids=["as the one who runs the tests", "as an ordinary user"])
def test_a_closed_clone_is_migrated_broken_and_taken_back(ordinary: bool, closed_clone: Path) -> None:
    """In a 0700 folder the two commands of README work from nothing; down and up again too; no permission changed."""
    if ordinary and (os.getuid() != 0 or not SYSTEM_PYTHON.exists()):
        pytest.skip("only root can become another user, and that user needs a Python outside root's home")
    user = NOBODY if ordinary else None
    environment = {"PYTHON": str(SYSTEM_PYTHON)} if ordinary else {"MCP_EMBEDDED_PARENT": tempfile.gettempdir()}
    (closed_clone.parent / "home").mkdir()
    if ordinary:
        for path in (closed_clone.parent, *closed_clone.parent.rglob("*")):
            os.chown(path, NOBODY, NOBODY)

    try:
        up = run(closed_clone, "migrate-up", user=user, **environment)
        down = run(closed_clone, "migrate-down", "TO=base", user=user, **environment)
        again = run(closed_clone, "migrate-up", user=user, **environment)
        tested = run(
            closed_clone, "test", "PYTEST=tests/test_runner.py tests/test_embedded.py", user=user, **environment
        )
    finally:
        stopped = run(closed_clone, "db-stop", user=user, **environment)
        link = closed_clone / ".postgres" / "data"
        if link.is_symlink():
            shutil.rmtree(link.resolve().parent, ignore_errors=True)

    assert up.returncode == 0, up.stderr
    assert f"the database is at {HEAD}" in up.stderr
    assert ("as account" in up.stderr) == (not ordinary and os.getuid() == 0)
    assert down.returncode == 0, down.stderr
    assert again.returncode == 0, again.stderr
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert stopped.stdout.strip() == "stopped"
    assert stat.S_IMODE(closed_clone.parent.stat().st_mode) == 0o700
