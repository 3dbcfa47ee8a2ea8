"""Pause, resume and stop from another shell, and what that shell is told: who runs, waits, was interrupted."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mcp_planner_schema import cli
from mcp_planner_schema.backfill import control
from mcp_planner_schema.guard.findings import Broken, WrongUse
from mcp_planner_schema.inspect import status
from tests.conftest import Database, Project
from tests.test_backfill import ROWS, begin
from tests.until import until

pytestmark = pytest.mark.long

SLOW = 'op.backfill("t", set={"n": "filled.n + 1 + length(pg_sleep(0.0003)::text)"}, batch=150)'
FEW = ROWS.format(count=3000)
"""With this some seconds, batch by batch."""


@contextmanager
def running(project: Project, database: Database) -> Iterator[subprocess.Popen[str]]:
    """An upgrade in a process of its own, which has written its first rows; killed at the end, where it still is there."""
    before = database.value("SELECT sum(n) FROM t")
    started = subprocess.Popen(
        [sys.executable, "-m", "alembic", "upgrade", "head"], cwd=project.folder, stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: database.value("SELECT sum(n) FROM t") > before or started.poll() is not None)
        yield started
    finally:
        started.kill()
        started.communicate()


def ask(project: Project, action: str, name: str | None = None, revision: str | None = None) -> str:
    """What the command behind make says."""
    return control.ask(project.config(), action, name, revision)


def lines(project: Project) -> list[str]:
    """What migrate-status says of backfills."""
    return [line for line in status.read(project.config()).text().splitlines() if line.startswith("backfill")]


def test_it_waits_and_goes_on_as_it_is_told(empty: Database, project: Project) -> None:
    """Paused, no row is written; status says since when and what lets it go on; resumed, each row is written once."""
    begin(project, SLOW, rows=FEW)

    with running(project, empty) as upgrade:
        shown = until(lambda: [line for line in lines(project) if "rows/s" in line])
        said = ask(project, "pause")
        until(lambda: empty.value("SELECT waits_for FROM migration.backfill"))
        before = empty.value("SELECT sum(n) FROM t")
        waiting = lines(project)
        [read] = status.read(project.config()).as_json()["backfills"]
        again = ask(project, "resume", "t.n", "002")
        still = empty.value("SELECT sum(n) FROM t")
        _, told = upgrade.communicate(timeout=60)

    assert said == "t.n of 002 waits after the batch that it is at; make backfill-resume NAME=t.n lets it go on"
    assert again == "t.n of 002 goes on"
    assert (upgrade.returncode, before) == (0, still)
    assert shown[0].startswith("backfill   t.n of 002: running since 20")
    assert waiting[0].startswith("backfill   t.n of 002: paused since 20")
    assert waiting[0].endswith("next: make backfill-resume NAME=t.n")
    assert (read["state"], read["alive"], read["rows_done"]) == ("paused", True, before)
    assert "backfill t.n waits: somebody has paused it; next: make backfill-resume NAME=t.n" in told
    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 3000)]


def test_a_stopped_run_ends_with_75_and_the_next_goes_on(empty: Database, project: Project) -> None:
    """What was written stays, what is left is done by the next run, and no row twice."""
    begin(project, SLOW, rows=FEW)

    with running(project, empty) as upgrade:
        said = ask(project, "stop", "t.n")
        _, told = upgrade.communicate(timeout=60)
    between, left = empty.value("SELECT sum(n) FROM t"), lines(project)
    project.upgrade()

    assert said.startswith("t.n of 002 ends after the batch that it is at, its run with exit 75")
    assert upgrade.returncode == 75
    assert "somebody has stopped it" in told
    assert 0 < between < 3000
    assert left[0].startswith(f"backfill   t.n of 002: interrupted, {between:,} of ")
    assert left[0].endswith("make migrate-up goes on there")
    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 3000)]


@pytest.mark.long
def test_a_pause_holds_for_the_next_run_too(empty: Database, project: Project) -> None:
    """Killed while it was paused, the next run waits before its first batch and says what lets it go on."""
    begin(project, SLOW, rows=FEW)
    with running(project, empty) as upgrade:
        ask(project, "pause")
        until(lambda: empty.value("SELECT waits_for FROM migration.backfill"))
        upgrade.send_signal(signal.SIGKILL)
        upgrade.wait()
    before = empty.value("SELECT sum(n) FROM t")
    dead = until(lambda: [line for line in lines(project) if "no run works on it" in line])

    started = subprocess.Popen(
        [sys.executable, "-m", "alembic", "upgrade", "head"], cwd=project.folder, stderr=subprocess.PIPE, text=True
    )
    until(lambda: empty.value("SELECT waits_since IS NOT NULL AND run = 3 FROM migration.backfill"))
    still = empty.value("SELECT sum(n) FROM t")
    ask(project, "resume")
    _, told = started.communicate(timeout=60)

    assert (before, started.returncode) == (still, 0)
    assert "next: make backfill-resume NAME=t.n, then make migrate-up" in dead[0]
    assert "waits: somebody has paused it; next: make backfill-resume NAME=t.n" in told
    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 3000)]


def test_a_killed_run_is_told_from_a_living_one(empty: Database, project: Project) -> None:
    """Its row still says running; nobody holds the deployers' lock, so it was interrupted, and there is nothing to stop."""
    begin(project, SLOW, rows=FEW)
    with running(project, empty) as upgrade:
        alive = lines(project)
        upgrade.send_signal(signal.SIGKILL)
        upgrade.wait()
    dead = until(lambda: [line for line in lines(project) if "interrupted" in line])

    with pytest.raises(WrongUse, match="There is no run to stop"):
        ask(project, "stop", "t.n")
    paused = ask(project, "pause", "t.n")

    assert " running since " in alive[0]
    assert empty.value("SELECT state FROM migration.run ORDER BY id DESC LIMIT 1") == "running"
    assert dead[0].endswith("make migrate-up goes on there")
    assert paused.startswith("t.n of 002 will wait as soon as a run comes to it")


def test_what_a_running_one_waits_for_is_told(empty: Database, project: Project) -> None:
    """Whatever it has written down that it waits for, with the moment since when."""
    begin(project, SLOW, rows=FEW)

    with running(project, empty):
        empty.rows(
            "UPDATE migration.backfill SET waits_for = 'a replica, 12 s behind', waits_since = '2026-01-02 03:04:05+00'"
        )
        told = lines(project)

    assert ": waits since 2026-01-02 03:04:05" in told[0]
    assert ": a replica, 12 s behind; " in told[0]


def test_the_last_one_is_told_with_how_long_it_took(empty: Database, project: Project) -> None:
    """Until something else has run."""
    begin(project, 'op.backfill("t", set={"n": "1"})')
    project.upgrade()
    empty.rows("UPDATE migration.backfill SET done_at = begun_at + interval '64 s'")

    after = lines(project)
    project.revision("003", "add_more", 'op.execute("SELECT 1")', 'op.execute("SELECT 1")')
    project.upgrade()

    assert after == ["backfill   t.n of 002: done in 1 min 4 s, 12,000 rows"]
    assert lines(project) == []


def test_rows_that_it_left_as_they_are_are_not_told_as_written(empty: Database, project: Project) -> None:
    """And what is expected grows with the table, however old its statistics are."""
    begin(project, 'op.backfill("t", set={"n": "1"}, where="filled.id <= 500")', rows=ROWS.format(count=1_000))
    empty.rows("ANALYZE t")
    empty.rows("ALTER TABLE t SET (autovacuum_enabled = off); INSERT INTO t (id) SELECT generate_series(1001, 12000)")

    project.upgrade()

    told = lines(project)[0]
    assert told.startswith("backfill   t.n of 002: done in ")
    assert told.endswith(", 500 of them written")
    assert 9_000 < empty.value("SELECT rows_expected FROM migration.backfill") < 15_000


@pytest.fixture
def several(empty: Database, project: Project) -> Database:
    """Three that were interrupted: two of one name, and one whose name a shell would take apart."""
    begin(project, 'op.backfill("t", set={"n": "1"})')
    project.upgrade()
    empty.rows("UPDATE migration.backfill SET state = 'running'; INSERT INTO migration.backfill (version_table, revision, "
               "direction, name, target, digest, run) SELECT version_table, made.revision, made.direction, made.name, target, "
               "digest, run FROM migration.backfill, (VALUES ('003', 'upgrade', 't.n'), ('004', 'downgrade', 'two words'))"
               " AS made (revision, direction, name)")  # fmt: skip
    return empty


@pytest.mark.parametrize(
    ("name", "revision", "said", "then"),
    [
        (None, None, "There are several; which is meant?\n  t.n of 002: interrupted, ", "make backfill-pause NAME=t.n"),
        ("t.n", None, "Several are called t.n; which is meant?", "make backfill-pause NAME=t.n REVISION=002"),
        ("t.m", None, "There is no backfill t.m. There are:\n  t.n of 002", "make backfill-pause NAME=t.n"),
        ("t.n", "009", "There is no backfill t.n of 009. There are:", "make backfill-pause NAME=t.n"),
    ],
)
def test_whoever_is_not_meant_is_listed(
    several: Database, project: Project, name: str | None, revision: str | None, said: str, then: str
) -> None:
    """None of this name, or several: all that there are, and what to type; nothing is written."""
    with pytest.raises(WrongUse) as wrong:
        ask(project, "pause", name, revision)

    assert said in wrong.value.message
    assert "two words of 004 (downgrade)" in wrong.value.message or (name == "t.n" and revision is None)
    assert wrong.value.next_command == then
    assert several.value("SELECT count(*) FROM migration.backfill WHERE wanted <> 'run'") == 0


def test_name_and_revision_say_which_is_meant(several: Database, project: Project) -> None:
    """The one of that revision is paused, and the next command is one that a shell takes as it is."""
    ask(project, "pause", "t.n", "003")
    said = ask(project, "pause", "two words")

    assert several.rows("SELECT revision FROM migration.backfill WHERE wanted = 'pause' ORDER BY 1") == [
        ("003",),
        ("004",),
    ]
    assert "make backfill-resume NAME='two words' lets it go on" in said


def test_where_none_is_there_it_says_so(empty: Database, project: Project) -> None:
    """Before the first run of the guard, and after the end of all."""
    with pytest.raises(WrongUse, match="No backfill runs"):
        ask(project, "pause")
    begin(project, 'op.backfill("t", set={"n": "1"})')
    project.upgrade()

    with pytest.raises(WrongUse, match="No backfill runs"):
        ask(project, "resume", "t.n")

    assert empty.value("SELECT wanted FROM migration.backfill") == "run"


def test_whoever_may_write_the_row_may_pause(
    several: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role without rights is told the line that gives them; with no more than these it may."""
    role = f"watch_{uuid.uuid4().hex[:8]}"
    several.rows(f"CREATE ROLE {role} LOGIN")
    monkeypatch.setenv("DATABASE_URL", dataclasses.replace(several, user=role).url)
    try:
        with pytest.raises(Broken, match=f"The role {role} may not write") as broken:
            ask(project, "pause", "two words")
        several.rows(broken.value.next_command.split('"')[1])
        said = ask(project, "pause", "two words")
    finally:
        several.rows(f"DROP OWNED BY {role}; DROP ROLE {role}")

    assert "will wait" in said
    assert several.rows("SELECT name FROM migration.backfill WHERE wanted = 'pause'") == [("two words",)]


def test_the_commands_are_make_targets(several: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """As typed, with and without REVISION, and status as JSON has what they wrote."""
    codes = [cli.main(["backfill-pause", "NAME=t.n", "REVISION=003"]), cli.main(["backfill-pause", "NAME=t.n"])]
    codes += [
        cli.main(["backfill-resume", "NAME=t.n", "REVISION=003"]),
        cli.main(["backfill-stop", "NAME=t.n", "REVISION=003"]),
    ]
    capsys.readouterr()
    cli.main(["migrate-status", "JSON=1"])
    read = json.loads(capsys.readouterr().out)["backfills"]

    assert codes == [0, 2, 0, 2]
    assert [(one["revision"], one["state"]) for one in read] == [
        ("002", "interrupted"), ("003", "interrupted"), ("004", "interrupted")
    ]  # fmt: skip
