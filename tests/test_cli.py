"""The commands behind make: right form or exit 2, and the same guard as Alembic's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_planner_schema import cli
from tests.conftest import HEAD, ROOT, Database


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m mcp_planner_schema`` as a process."""
    return subprocess.run(
        [sys.executable, "-m", "mcp_planner_schema", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``make`` as a process."""
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("MAKE")}, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", [name for name, command in cli.COMMANDS.items() if command.needs])
def test_a_missing_argument_is_exit_2_with_the_right_form(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command called without what it needs ends with 2 and shows how it is called."""
    code = cli.main([name])

    said = capsys.readouterr().err
    assert code == 2
    assert f"{name} needs {cli.COMMANDS[name].needs[0]}" in said
    assert f"next: make {name} {cli.COMMANDS[name].form}" in said


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_misspelt_argument_is_exit_2_with_the_right_form(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command given a name it does not know ends with 2 and shows how it is called, before anything happens."""
    code = cli.main([name, "VERSIN=3"])

    said = capsys.readouterr().err
    assert code == 2
    assert f"{name} knows no VERSIN" in said
    assert f"next: make {name}" in said


@pytest.mark.parametrize("arguments", [[], ["migrate-upp"], ["migrate-up", "003"]])
def test_a_misspelt_command_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No command, an unknown command and a value without name end with 2."""
    assert cli.main(arguments) == 2
    assert "next: make" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["migrate-down", "STEPS=0"],
        ["migrate-down", "STEPS=-1"],
        ["migrate-down", "STEPS=two"],
        ["migrate-down", "STEPS=1", "TO=003"],
        ["migrate-up", "DRY_RUN=yes"],
        ["migrate-status", "JSON=true"],
        ["migrate-up", "TO=nowhere"],
        ["migrate-goto", "VERSION=nowhere"],
        ["migrate-force", "VERSION=nowhere"],
        ["migrate-down", "STEPS=99"],
        ["migrate-down", "STEPS=99", "DRY_RUN=1"],
        ["example-data", "PROJECTS=many"],
    ],
)
def test_a_senseless_value_is_exit_2_and_changes_nothing(
    arguments: list[str], database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value that cannot be meant ends with 2, a command to type next, and the version where it was."""
    code = cli.main(arguments)

    said = capsys.readouterr().err
    assert code == 2, said
    assert "next: " in said
    assert database.value("SELECT version_num FROM alembic_version") == HEAD


def test_more_steps_back_than_there_are_offers_the_way_to_the_base(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command to type next is one that works, and shows first what it would do."""
    assert cli.main(["migrate-down", "STEPS=99"]) == 2

    assert capsys.readouterr().err.rstrip().endswith("next: make migrate-down TO=base DRY_RUN=1")


def test_make_hands_over_a_value_that_no_shell_may_read(database: Database) -> None:
    """Quotes, semicolons and spaces in a value given to make arrive as they are and run nothing."""
    reason = 'it\'s "late"; touch /tmp/mcp-was-here & echo | true'

    ended = make("migrate-force", "VERSION=008", f"REASON={reason}")

    assert ended.returncode == 0, ended.stderr
    assert not Path("/tmp/mcp-was-here").exists()
    assert database.value("SELECT description FROM migration.history ORDER BY id DESC LIMIT 1") == reason


@pytest.mark.parametrize("value", ["$(shell touch /tmp/mcp-was-here)", "costs $5 or $(HOME)", "a # b", "`id`"])
def test_make_expands_nothing_in_a_value(value: str, database: Database) -> None:
    """What looks like a make function, a variable or a comment in a value arrives as it was typed."""
    ended = make("migrate-force", "VERSION=008", f"REASON={value}")

    assert ended.returncode == 0, ended.stderr
    assert not Path("/tmp/mcp-was-here").exists()
    assert database.value("SELECT description FROM migration.history ORDER BY id DESC LIMIT 1") == value


def test_make_shows_the_commands_own_exit_code(database: Database) -> None:
    """Make ends with 2 as it always does, and its last line names the command's own code."""
    ended = make("migrate-up", "TO=nowhere")

    assert ended.returncode == 2
    assert re.search(r"Error 2$", ended.stderr.strip())


def test_help_lists_every_target() -> None:
    """Each command has its line in ``make help``."""
    ended = make("help")

    missing = [name for name in cli.COMMANDS if not re.search(rf"^  {name} ", ended.stdout, re.MULTILINE)]
    assert missing == []


def test_up_down_and_goto_move_the_version(empty: Database) -> None:
    """Up to a revision, goto forward and back, and down by steps each end where they say."""
    at = lambda: empty.value("SELECT version_num FROM alembic_version")  # noqa: E731

    moves: list[tuple[list[str], str]] = [
        (["migrate-up", "TO=003"], "003"),
        (["migrate-goto", "VERSION=005"], "005"),
        (["migrate-goto", "VERSION=002"], "002"),
        (["migrate-goto", "VERSION=002"], "002"),
        (["migrate-up", "TO=009"], "009"),
        (["migrate-down"], "008"),
        (["migrate-down", "STEPS=2"], "006"),
        (["migrate-down", "TO=001"], "001"),
        (["migrate-up"], HEAD),
    ]

    for arguments, expected in moves:
        assert cli.main(arguments) == 0
        assert at() == expected, arguments


@pytest.mark.long
def test_goto_base_and_back(database: Database) -> None:
    """Base is a destination like any other."""
    assert cli.main(["migrate-goto", "VERSION=base"]) == 0
    assert database.rows("SELECT version_num FROM alembic_version") == []
    assert cli.main(["migrate-goto", f"VERSION={HEAD}"]) == 0
    assert database.value("SELECT version_num FROM alembic_version") == HEAD


def test_dry_run_of_an_upgrade_prints_sql_that_psql_runs_and_changes_nothing(empty: Database, tmp_path: Path) -> None:
    """DRY_RUN=1 leaves the database as it is; the printed file, run by psql, does the step."""
    assert cli.main(["migrate-up", "TO=005"]) == 0
    before = empty.rows("SELECT id FROM migration.run")

    ended = run("migrate-up", "TO=007", "DRY_RUN=1")

    assert ended.returncode == 0, ended.stderr
    assert empty.value("SELECT version_num FROM alembic_version") == "005"
    assert empty.rows("SELECT id FROM migration.run") == before
    file = tmp_path / "dry.sql"
    file.write_text(ended.stdout)
    ran = empty.psql(file)
    assert ran.returncode == 0, ran.stderr
    assert empty.rows("SELECT version_num FROM alembic_version") == [("007",)]


@pytest.mark.parametrize(("how_far", "there"), [((), "004"), (("STEPS=2",), "003"), (("TO=base",), "base")])
def test_dry_run_of_a_downgrade_prints_what_would_go_and_changes_nothing(
    how_far: tuple[str, ...], there: str, empty: Database
) -> None:
    """DRY_RUN=1 forecasts each step on standard output, names the command for its SQL, and leaves the database as it is."""
    assert cli.main(["migrate-up", "TO=005"]) == 0
    before = empty.rows("SELECT id FROM migration.run")

    ended = run("migrate-down", *how_far, "DRY_RUN=1")

    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].startswith(f"back from 005 to {there}: ")
    assert re.fullmatch(r"     goes: table disputes: 0 rows, \d+ kB", lines[2])
    assert lines[-1] == f"as SQL: alembic downgrade 005:{there} --sql"
    assert empty.value("SELECT version_num FROM alembic_version") == "005"
    assert empty.rows("SELECT id FROM migration.run") == before


def test_a_dry_run_may_be_said_before_the_command(database: Database) -> None:
    """``DRY_RUN=1 python -m mcp_planner_schema migrate-down`` goes nowhere, and another value than 1 is no answer."""
    dry, wrong = run("migrate-down", DRY_RUN="1"), run("migrate-down", DRY_RUN="yes")

    assert (dry.returncode, wrong.returncode) == (0, 2)
    assert database.value("SELECT version_num FROM alembic_version") == HEAD


def test_what_is_to_be_typed_after_a_dry_run_is_dry_again(
    empty: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lock in the way of a dry run: exit 75, and the next command is the dry run again, not the real one."""
    assert cli.main(["migrate-up", "TO=002"]) == 0
    shutil.copytree(ROOT / "alembic", tmp_path / "alembic")
    ini = (ROOT / "alembic.ini").read_text()
    (tmp_path / "alembic.ini").write_text(re.sub(r"(?m)^lock_attempts *=.*$", "lock_attempts = 1", ini))
    monkeypatch.setattr(cli, "ROOT", tmp_path)

    with empty.connect(autocommit=False) as other, other.cursor() as cursor:
        cursor.execute("SELECT * FROM projects")
        code = cli.main(["migrate-down", "STEPS=2", "DRY_RUN=1"])

    assert code == 75
    assert capsys.readouterr().err.rstrip().endswith("next: make migrate-down TO=base DRY_RUN=1")


def test_status_tells_version_and_what_is_pending(empty: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Status names the version, the head and each pending revision, as text and as JSON, and changes nothing."""
    cli.main(["migrate-up", "TO=007"])
    capsys.readouterr()

    assert cli.main(["migrate-status", "JSON=1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert cli.main(["migrate-status"]) == 0
    text = capsys.readouterr().out

    assert told["current"] == ["007"]
    assert told["head"] == [HEAD]
    assert [line[:3] for line in told["pending"]][:2] == ["008", "009"]
    assert told["environment"] == "development"
    assert re.search(r"^version +007$", text, re.MULTILINE)
    assert re.search(r"^pending +[1-9]", text, re.MULTILINE)


def test_status_of_an_empty_database(empty: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A database nobody has migrated is at base, and asking creates nothing in it."""
    assert cli.main(["migrate-status"]) == 0

    assert re.search(r"^version +base$", capsys.readouterr().out, re.MULTILINE)
    assert empty.rows("SELECT 1 FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []


def test_status_of_a_database_ahead_of_the_code(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A version that no file here has is named as unknown, not as a traceback."""
    database.rows("UPDATE alembic_version SET version_num = '999'")

    assert cli.main(["migrate-status"]) == 0
    assert "999: no file here has it" in capsys.readouterr().out


def test_history_lists_every_step(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """History shows one line a finished step, oldest first, and the same as JSON."""
    cli.main(["migrate-down"])
    capsys.readouterr()

    assert cli.main(["migrate-history", "JSON=1"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert cli.main(["migrate-history"]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert [(row["revision"], row["direction"]) for row in rows[-2:]] == [(HEAD, "upgrade"), (HEAD, "downgrade")]
    assert len(lines) == len(rows) == int(HEAD) + 1


def test_force_moves_only_the_version(database: Database) -> None:
    """After force the tables are as before, and the history says stamp with the reason."""
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    before = database.value(tables)

    assert cli.main(["migrate-force", "VERSION=005", "REASON=a test"]) == 0

    assert database.value("SELECT version_num FROM alembic_version") == "005"
    assert database.value(tables) == before
    assert database.rows("SELECT direction, description FROM migration.history ORDER BY id DESC LIMIT 1") == [
        ("stamp", "a test")
    ]


def test_reset_builds_everything_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """In development a reset leaves a database at head without a row or a stash, and other schemas alone."""
    monkeypatch.setenv("PLANNER_ENV", "development")
    database.rows("INSERT INTO projects (name, description) VALUES ('a', 'b')")
    database.rows("CREATE SCHEMA migrations_legacy; CREATE TABLE migrations_legacy.kept AS SELECT 1 AS n")
    database.rows("CREATE SCHEMA migration_stash_7; CREATE TABLE migration_stash_7.t AS SELECT 1 AS n")
    database.rows(
        "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE VIEW v AS SELECT public.mine()"
    )

    assert cli.main(["migrate-reset"]) == 0

    assert database.value("SELECT count(*) FROM projects") == 0
    assert database.value("SELECT count(*) FROM migrations_legacy.kept") == 1
    assert database.value("SELECT to_regnamespace('migration_stash_7') IS NULL")
    assert database.rows("SELECT to_regproc('public.mine')::text") == [(None,)]
    assert database.value("SELECT version_num FROM alembic_version") == HEAD


@pytest.mark.parametrize("environment", ["staging", "production", ""])
def test_reset_is_refused_outside_development(
    environment: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Staging and production have no reset, nor has a database of which nobody has said that it is development."""
    monkeypatch.setenv("PLANNER_ENV", environment)
    database.rows("INSERT INTO projects (name, description) VALUES ('a', 'b')")

    assert cli.main(["migrate-reset"]) == 2
    assert database.value("SELECT count(*) FROM projects") == 1


@pytest.mark.parametrize("action", ["start", "stop", "status", "shell"])
def test_the_embedded_server_is_left_alone_when_another_is_named(
    action: str, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """With DATABASE_URL set, no command touches the embedded server."""
    assert cli.main([f"db-{action}"]) == 2
    assert "DATABASE_URL is set" in capsys.readouterr().err


def test_verify_finds_what_was_changed_by_hand(
    database: Database, capsys: pytest.CaptureFixture[str], new_database: Callable[[], Database]
) -> None:
    """An index dropped by hand is named with its revision, and the command ends with 1."""
    assert cli.main(["migrate-verify"]) == 0
    database.rows("DROP INDEX ix_navigation_links_project_id_position")

    assert cli.main(["migrate-verify"]) == 1
    assert (
        "009: expected valid index that is not unique ix_navigation_links_project_id_position"
        in capsys.readouterr().out
    )


def test_output_into_a_closed_pipe_is_no_traceback(database: Database) -> None:
    """``| head`` ends the command quietly."""
    ended = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m mcp_planner_schema migrate-up TO=003 DRY_RUN=1 | true"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("arguments", [["migrate-down", "TO="], ["migrate-up", "TO="], ["migrate-down", "STEPS="]])
def test_an_empty_value_is_not_taken_for_a_missing_one(arguments: list[str], database: Database) -> None:
    """``TO=$V`` with V unset does not go to head, nor one step back."""
    assert cli.main(arguments) == 2
    assert database.value("SELECT version_num FROM alembic_version") == HEAD


def test_a_version_without_its_name_runs_nothing(database: Database) -> None:
    """``make migrate-down 005`` is refused as a whole, before the first target runs."""
    ended = make("migrate-down", "005")

    assert ended.returncode == 2
    assert "There is no target 005" in ended.stderr
    assert database.value("SELECT version_num FROM alembic_version") == HEAD


def test_force_without_a_reason_leaves_the_history_readable(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stamp that nobody explained has its line in the history like any other; the database is what it says."""
    assert cli.main(["migrate-force", "VERSION=005"]) == 3
    database.rows("UPDATE alembic_version SET version_num = '023'")
    assert cli.main(["migrate-force", f"VERSION={HEAD}"]) == 0
    assert cli.main(["migrate-history"]) == 0

    assert re.search(rf"{HEAD} +stamp +done", capsys.readouterr().out)


def test_reset_judges_before_it_drops(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a revision that could not be built again, nothing is dropped."""
    monkeypatch.setenv("PLANNER_ENV", "development")
    database.rows("INSERT INTO projects (name, description) VALUES ('a', 'b')")
    for name in ("alembic.ini", "alembic"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    (tmp_path / "alembic" / "versions" / f"{int(HEAD) + 1:03}_add_x.py").write_text("import nothing_of_the_kind\n")
    monkeypatch.setattr(cli, "ROOT", tmp_path)

    code = cli.main(["migrate-reset"])

    assert code in (1, 3)
    assert "nothing_of_the_kind" in capsys.readouterr().err or code == 3
    assert database.value("SELECT count(*) FROM projects") == 1


def test_a_version_is_found_by_its_number(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Who types 3 or a file's name is told which revision that is."""
    for typed in ("3", "003_create_tasks_table"):
        assert cli.main(["migrate-goto", f"VERSION={typed}"]) == 2
        assert "003 is meant?" in capsys.readouterr().err


def test_nothing_to_go_back_to_is_said(empty: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Going back from base is exit 2 in plain words."""
    assert cli.main(["migrate-down"]) == 2
    assert "at base: there is nothing to go back to" in capsys.readouterr().err


@pytest.mark.long
def test_up_to_what_lies_behind_says_how_to_go_back(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Up to an older revision changes nothing, and names the command that goes there."""
    assert cli.main(["migrate-up", "TO=003"]) == 0
    assert "make migrate-down TO=003" in capsys.readouterr().err
    assert cli.main(["migrate-down", "TO=003"]) == 0
    assert cli.main(["migrate-down", "TO=005"]) == 2
    assert "next: make migrate-up TO=005" in capsys.readouterr().err


@pytest.mark.long
def test_rows_that_come_back_are_mentioned(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """The upgrade that makes a table again says how many rows of the old one are back, and they are."""
    database.rows("INSERT INTO projects (name, description) VALUES ('a', 'b'), ('c', 'd')")
    cli.main(["migrate-goto", "VERSION=base"])
    capsys.readouterr()

    assert cli.main(["migrate-up", "TO=001"]) == 0
    assert "restored table projects: 2 rows\n" in capsys.readouterr().err
    assert database.rows("SELECT name, description FROM projects ORDER BY name") == [("a", "b"), ("c", "d")]


def test_a_killed_run_is_not_shown_as_running(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that says running while nobody holds the deployers' lock is dead."""
    database.rows("UPDATE migration.run SET state = 'running', finished_at = NULL")

    assert cli.main(["migrate-status"]) == 0
    assert "killed; the next run will say interrupted" in capsys.readouterr().out
