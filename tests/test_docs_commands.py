"""Whatever command a page names is one: it is there, its arguments are taken, and the harmless ones are run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from alembic.config import CommandLine

from mcp_planner_schema.cli import COMMANDS
from mcp_planner_schema.inspect import runbook
from tests.conftest import ROOT, Database
from tests.test_docs import PAGES, clone  # noqa: F401  # fixture

_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_FENCED = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_MAKE = re.compile(r"(?:^|[\s(])make ((?:[a-z]+-)*[a-z]+)((?: +\S+)*)")
_ALEMBIC = re.compile(
    r"(?:^|[\s/(])alembic (?=-x |upgrade|downgrade|stamp|current|check|heads|history|show|merge|revision)(.*)"
)
_PYTHON = re.compile(r"python -m ([a-z_.]+)(.*)")


class Named(NamedTuple):
    """A command that a page names. ``page`` is the first one."""

    page: str
    text: str


def named() -> list[Named]:
    """Every command line of the pages, once: of their ``sh`` and ``console`` blocks, and what stands between backticks."""
    found: dict[str, Named] = {}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        lines = [line.removeprefix("$ ") for block in _FENCED.findall(text) for line in block.splitlines()]
        lines += _INLINE.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
        for line in lines:
            line = re.split(r" {2,}|\s+#", line.replace("\\|", "|"))[0].strip()
            if _MAKE.search(line) or _ALEMBIC.search(line) or _PYTHON.search(line):
                found.setdefault(line, Named(page, line))
    return list(found.values())


def targets() -> dict[str, set[str]]:
    """What make can make, and the names that its line of help says it takes."""
    lines = re.findall(r"^([a-z][a-z-]*):(.*)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    return {target: set(re.findall(r"\b([A-Z][A-Z_]*)=", line)) for target, line in lines}


_OF_MAKE = {"PYTHON", "PYTEST"}


def wrong(line: str) -> list[str]:
    """What is wrong with a command line; nothing where it would be taken."""
    found = []
    for target, rest in _MAKE.findall(line):
        if target not in targets():
            found.append(f"make has no {target}")
        for name in re.findall(r"(?:^|[\s\[])([A-Z][A-Z_]*)=", rest.split(" make ")[0]):
            command = COMMANDS.get(target)
            taken = {*(command.needs + command.takes if command else targets().get(target, ())), *_OF_MAKE}
            if name not in taken and not name.startswith("PLANNER_"):
                found.append(f"make {target} takes no {name}")
    for rest in _ALEMBIC.findall(line):
        found += _of_alembic(rest)
    for module, rest in _PYTHON.findall(line):
        if module.startswith("mcp_planner_schema") and (words := rest.split()) and words[0].isidentifier():
            found.append(f"{module} has no command {words[0]}")
    return found


def _of_alembic(rest: str) -> list[str]:
    words = shlex.split(re.split(r"[;|)]| and ", rest.replace("…", "x"))[0], comments=True)
    # In prose the revision may be left out, or all behind the options: `alembic upgrade` is a name.
    if any(_taken([*words, *more]) for more in ([], ["head"], ["upgrade", "head"])):
        return []
    return [f"alembic takes no {rest.strip()}"]


def _taken(words: list[str]) -> bool:
    try:
        return hasattr(CommandLine().parser.parse_args(words), "cmd")
    except SystemExit:
        return False


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_names_is_taken(page: str) -> None:
    """Targets are there, names that are given to them are theirs, and Alembic's own parser takes what is given to it."""
    found = {line: problems for one, line in named() if one == page and (problems := wrong(line))}

    assert found == {}


def test_a_wrong_command_would_be_seen() -> None:
    """The test above finds a misspelt target, an argument that nobody takes, an option that Alembic does not have."""
    assert wrong("make migrate-upp") == ["make has no migrate-upp"]
    assert wrong("make migrate-up VERSION=003") == ["make migrate-up takes no VERSION"]
    assert wrong("alembic upgrade --fast head") == ["alembic takes no upgrade --fast head"]
    assert wrong("PHASE=expand make migrate-up TO=003") == []
    assert len(named()) > 100


# --- run --------------------------------------------------------------------------------------------------------------

# What only asks, or writes a file in the same words: run in every form that a page shows, if that names what is there.
HARMLESS = {
    "help", "migrate-status", "migrate-plan", "migrate-preflight", "migrate-verify", "migrate-drift", "migrate-doctor",
    "migrate-history", "migrate-validate", "migrate-stash-list", "migrate-stash-verify", "db-status", "schema-doc",
    "schema-sql", "findings", "known-revisions", "migrate-fingerprint", "config", "migrate-rehearsed", "migrate-report",
}  # fmt: skip
# Why the others are run elsewhere, or not at all.
ELSEWHERE = {
    "setup": "it is what this environment was made by",
    "test": "it is what runs this", "test-all": "it is what runs this",
    "lint": "tests/test_packaging.py and CI run it", "format": "it changes files: make lint says whether it would",
    "lock": "it asks a package index", "bench": "minutes to an hour", "bench-availability": "40 minutes",
    "db-start": "tests/test_embedded.py", "db-stop": "tests/test_embedded.py", "db-shell": "tests/test_embedded.py",
    "migrate-up": "console blocks of the pages, tests/test_docs.py", "migrate-down": "console blocks of the pages",
    "migrate-goto": "tests/test_cli.py", "migrate-force": "tests/test_cli.py", "migrate-accept": "tests/test_accept.py",
    "migrate-create": "tests/test_create.py, tests/test_generate.py", "migrate-recover": "tests/test_ahead.py",
    "migrate-rebase": "tests/test_rebase.py", "migrate-reset": "tests/test_cli.py", "migrate-trace": "tests/test_trace.py",
    "migrate-restore": "tests/test_restore.py, tests/test_restore_archive.py",
    "migrate-stash-show": "tests/test_stashes.py", "migrate-stash-purge": "tests/test_stashes.py",
    "backfill-pause": "tests/test_backfill_control.py", "backfill-resume": "tests/test_backfill_control.py",
    "backfill-stop": "tests/test_backfill_control.py", "example-data": "tests/test_example_data.py",
    "table-stats": "console blocks of the pages", "environment-set": "tests/test_environment.py",
    "migrate-import": "tests/test_golang.py, tests/test_prisma_import.py", "models-pull": "tests/test_models_pull.py",
    "migrate-export": "tests/test_golang.py, tests/test_prisma_export.py",
    "migrate-adopt": "tests/test_golang_database.py, tests/test_prisma_adopt.py",
    "staging-deploy": "tests/test_staging_deploy.py", "init": "tests/test_scaffold.py",
}  # fmt: skip


def test_every_target_of_the_pages_is_run_somewhere() -> None:
    """Each target that a page names is harmless and run here, or it is said where else it is run, and that is there."""
    said = {target for _, line in named() for target, _ in _MAKE.findall(line)}

    missing = said - HARMLESS - set(ELSEWHERE)
    lost = [
        file for why in ELSEWHERE.values() for file in re.findall(r"tests/\w+\.py", why) if not (ROOT / file).exists()
    ]

    assert missing == set()
    assert lost == []


@pytest.mark.long
def test_every_harmless_command_is_run(clone: Path, database: Database) -> None:  # noqa: F811
    """Each form that a page shows ends with 0, or with 3 where it asks for something that is not so here."""
    lines = {
        f"make {target}{rest}"
        for _, line in named()
        for target, rest in _MAKE.findall(line)
        if target in HARMLESS and not re.search(r"[…\[\]<>|]|\bmake\b|ID=|RUN=|FROM=023|=file", rest)
    }
    environment = {**os.environ, "DATABASE_URL": database.url}
    failed = {}

    for line in sorted(lines):
        words = shlex.split(line)
        if words[1] in COMMANDS:
            words = [sys.executable, "-m", "mcp_planner_schema", *words[1:]]
        embedded = {"DATABASE_URL": ""} if words[-1] == "db-status" else {}  # it is of the embedded server and no other
        ended = subprocess.run(
            words, cwd=clone, env=environment | embedded, capture_output=True, text=True, check=False
        )
        if ended.returncode not in (0, 3, 4):
            failed[line] = ended.stderr + ended.stdout

    assert len(lines) > 12
    assert failed == {}


# --- the runbook ------------------------------------------------------------------------------------------------------

PAGE = ROOT / "docs" / "runbook.md"


def test_the_runbook_says_what_follows_each_finding() -> None:
    """Its part from the catalogue is what ``make findings`` writes today, and every command of its own is about a finding."""
    from mcp_planner_schema.guard.findings import RULES

    text = PAGE.read_text(encoding="utf-8")

    assert runbook.filled(text) == text
    assert set(runbook.NEXT) - set(RULES) == set()


def test_the_runbook_has_every_exit_code_and_state() -> None:
    """Every exit code that is promised, every state that the guard's tables know, and every kind of what doctor finds."""
    from mcp_planner_schema.deploy import record
    from mcp_planner_schema.guard import backfill_tables, findings, history, journal, manifest_tables

    text = PAGE.read_text(encoding="utf-8")
    tables = (history._TABLES, journal.TABLES, backfill_tables.TABLES, manifest_tables.TABLES, record._TABLE)
    states = {
        state for sql in tables for listed in re.findall(r"\bstate\b[^(]*\([^(]*IN \(([^)]*)\)", sql)
        for state in re.findall(r"'([^']+)'", listed)
    }  # fmt: skip
    codes = (findings.DONE, findings.BROKEN, findings.WRONG_USE, findings.REFUSED, findings.BUSY)

    assert {"running", "interrupted", "begun", "kept", "partly restored", "purged", "stopped"} <= states
    assert [state for state in sorted(states) if state not in text] == []
    assert [code for code in codes if f"\n| {code} |" not in text] == []


def test_the_testing_guides_example_is_a_test(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/7-testing.md is run as it stands there."""
    (code,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "7-testing.md").read_text(), re.MULTILINE | re.DOTALL
    )
    monkeypatch.chdir(ROOT)
    space: dict[str, object] = {}

    exec(code, space)

    (test,) = (one for name, one in space.items() if name.startswith("test_"))
    test(database)  # type: ignore[operator]
