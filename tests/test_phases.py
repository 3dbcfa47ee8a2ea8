"""How far an upgrade goes while an older release still runs: told by the database's version and the command's exit code."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator

import pytest
from alembic import command

from mcp_planner_schema import cli
from mcp_planner_schema.guard import phases
from mcp_planner_schema.guard.findings import Refused
from tests.conftest import Database, Project

AT = "SELECT version_num FROM alembic_version"


@pytest.fixture
def three(project: Project, empty: Database) -> Project:
    """001 creates, 002 is a contract, 003 comes after it."""
    for version in ("001", "002", "003"):
        file = project.revision(version, f"create_t{version}", f"op.execute('CREATE TABLE t{version} ()')",
                                f"op.drop_table('t{version}')", expectations=f'expect.table("t{version}")')  # fmt: skip
        if version == "002":
            file.write_text(file.read_text().replace("Phase: expand", "Phase: contract"))
    return project


@pytest.fixture
def production(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment is production."""
    monkeypatch.setenv("PLANNER_ENV", "production")
    yield


def version(database: Database) -> str:
    """Where the database stands; base where nothing was ever run."""
    there = database.value("SELECT to_regclass('alembic_version') IS NOT NULL")
    return (database.rows(AT) or [("base",)])[0][0] if there else "base"


def upgrade(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``alembic … upgrade head`` or what else is given, as a process."""
    return project.alembic(*(arguments or ("upgrade", "head")))


def test_development_runs_everything(three: Project, empty: Database) -> None:
    """Where nobody else uses the database, a contract revision needs no asking."""
    done = upgrade(three)

    assert done.returncode == 0, done.stderr
    assert version(empty) == "003"
    assert "waits" not in done.stderr


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_a_contract_waits_until_asked_for(
    three: Project, empty: Database, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``head`` means as far as it goes: 0, what waits, and the command that runs it. That command does."""
    monkeypatch.setenv("PLANNER_ENV", environment)

    first = upgrade(three)
    held = version(empty)
    again = upgrade(three)
    asked = upgrade(three, "-x", "phase=contract", "upgrade", "head")

    assert first.returncode == 0, first.stderr
    assert held == "001"
    assert f"waits: 002 Create t002 (contract: in {environment} it runs only when asked for)" in first.stderr
    assert "waits: 003 Create t003 (comes after 002)" in first.stderr
    assert first.stderr.count("waits: 002") == 1
    assert "alembic -x phase=contract upgrade head" in first.stderr
    assert again.returncode == 0 and "nothing to do: the database is at 001" in again.stderr
    assert "waits: 002" in again.stderr
    assert asked.returncode == 0, asked.stderr
    assert "waits" not in asked.stderr
    assert version(empty) == "003"


def test_expand_stops_before_the_contract_in_development_too(three: Project, empty: Database) -> None:
    """phase=expand holds everywhere."""
    done = upgrade(three, "-x", "phase=expand", "upgrade", "head")

    assert done.returncode == 0, done.stderr
    assert "waits: 002 Create t002 (contract: phase=expand was asked for)" in done.stderr
    assert version(empty) == "001"


@pytest.mark.parametrize("target", ["002", "003", "+2"])
def test_a_named_target_behind_a_contract_is_refused(
    three: Project, empty: Database, production: None, target: str
) -> None:
    """Who names where to go is not told "done" somewhere else: exit 3, nothing changed, the command to type."""
    done = upgrade(three, "upgrade", target)

    assert done.returncode == 3
    assert "002_create_t002.py:1: contract-held" in done.stderr
    assert f"next: alembic -x phase=contract upgrade {target}" in done.stderr
    assert version(empty) == "base"


@pytest.mark.parametrize("target", ["001", "+1"])
def test_a_target_before_the_contract_is_reached(
    three: Project, empty: Database, production: None, target: str
) -> None:
    """What does not come to a contract revision needs no phase."""
    done = upgrade(three, "upgrade", target)

    assert done.returncode == 0, done.stderr
    assert "waits" not in done.stderr
    assert version(empty) == "001"


@pytest.mark.parametrize("target", ["003", "+3"])
def test_expand_goes_towards_a_named_target_as_far_as_it_may(three: Project, empty: Database, target: str) -> None:
    """Asked to stop before a contract it stops, whatever the destination."""
    done = upgrade(three, "-x", "phase=expand", "upgrade", target)

    assert done.returncode == 0, done.stderr
    assert version(empty) == "001"


@pytest.mark.parametrize("phase", [[], ["-x", "phase=expand"]])
def test_a_downgrade_is_left_alone(
    three: Project, empty: Database, phase: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way back over a contract revision needs no phase; neither does a stamp."""
    three.upgrade()
    monkeypatch.setenv("PLANNER_ENV", "staging")

    back = upgrade(three, *phase, "downgrade", "001")
    stamped = upgrade(three, *phase, "-x", "reason=a test", "stamp", "003")

    assert back.returncode == 0, back.stderr
    assert stamped.returncode == 0, stamped.stderr
    assert "waits" not in back.stderr + stamped.stderr
    assert version(empty) == "003"


def test_an_unknown_phase_is_wrong_use(three: Project, empty: Database) -> None:
    """A misspelt phase is exit 2, not one that is not in force."""
    done = upgrade(three, "-x", "phase=expnd", "upgrade", "head")

    assert done.returncode == 2
    assert "phase is 'expnd'" in done.stderr
    assert version(empty) == "base"


def test_from_code_the_phase_is_an_attribute(three: Project, empty: Database, production: None) -> None:
    """A caller asks with config.attributes; a named target raises without."""
    with pytest.raises(Refused) as caught:
        command.upgrade(three.config(), "002")
    command.upgrade(three.config(phase="contract"), "002")

    assert [one.code for one in caught.value.findings] == ["contract-held"]
    assert version(empty) == "002"


def test_sql_stops_there_too(three: Project, production: None, capsys: pytest.CaptureFixture[str]) -> None:
    """--sql writes what an upgrade would run, and no more."""
    config = three.config()
    config.output_buffer = io.StringIO()

    command.upgrade(config, "head", sql=True)

    assert "CREATE TABLE t001" in config.output_buffer.getvalue()
    assert "t002" not in config.output_buffer.getvalue()
    assert "waits: 002" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["argument", "environment"])
def test_make_hands_the_phase_on(given: str, empty: Database, monkeypatch: pytest.MonkeyPatch,
                                 capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """``PHASE=expand make migrate-up`` and ``make migrate-up PHASE=expand`` stop before the planner's own contract, 024."""
    if given == "environment":
        monkeypatch.setenv("PHASE", "expand")

    code = cli.main(["migrate-up", *(["PHASE=expand"] if given == "argument" else [])])

    said = capsys.readouterr().err
    assert code == 0, said
    assert version(empty) == "023"
    assert "waits: 024 " in said
    assert "PHASE=contract make migrate-up" in said


@pytest.mark.parametrize(
    ("typed", "asking"),
    [
        ("make migrate-up", "PHASE=contract make migrate-up"),
        ("make migrate-up PHASE=expand TO=003", "PHASE=contract make migrate-up TO=003"),
        ("alembic upgrade head", "alembic -x phase=contract upgrade head"),
        ("alembic -x phase=expand -x a=1 upgrade head", "alembic -x phase=contract -x a=1 upgrade head"),
        ("the same call again", 'the same call with config.attributes["phase"] = "contract"'),
    ],
)
def test_the_command_that_is_printed_asks_for_the_contract(typed: str, asking: str) -> None:
    """It is what was typed, with the other phase."""
    assert phases.with_contract(typed) == asking
