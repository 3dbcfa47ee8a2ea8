"""What is told of a running backfill: a bar on a terminal, a line a minute in a log, events for a machine; never a row."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections import deque
from itertools import pairwise
from typing import Any

import pytest

from mcp_planner_schema.backfill import keys, progress
from mcp_planner_schema.backfill.progress import Rate, lasting
from tests.conftest import ROOT, Database, Project
from tests.test_backfill import ROWS, begin
from tests.test_cli import run
from tests.until import until

SLOW = 'op.backfill("t", set={"n": "filled.n + 1 + length(pg_sleep(0.0003)::text)"}, batch=150)'
FEW = ROWS.format(count=4000)
"""With this some seconds, batch by batch."""


def events(text: str) -> list[dict[str, Any]]:
    """Each line an event, and nothing else."""
    return [json.loads(line) for line in text.splitlines()]


def test_a_machine_reads_an_event_a_line(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Begun, how far at most once a second, done: on stdout, where nothing else is, of all workers together."""
    begin(project, SLOW.replace("0.0003", "0.001"), rows=FEW)  # the second worker has time to come
    empty.rows("ANALYZE t")
    monkeypatch.setattr(keys, "_ROWS_A_RANGE", 1000)
    monkeypatch.setattr(keys, "_SAMPLED", 1000)  # of a table of few blocks a sample of some may have none
    capsys.readouterr()

    project.upgrade(workers="2", progress="json")

    found = events(capsys.readouterr().out)
    begun, *between, done = found
    assert empty.value("SELECT count(DISTINCT worker) FROM migration.backfill_range") == 2
    assert [begun["event"], done["event"], *{one["event"] for one in between}] == ["begun", "done", "progress"]
    assert {(one["backfill"], one["table"], one["revision"], one["direction"]) for one in found} == {
        ("t.n", "t", "002", "upgrade")
    }
    assert (begun["rows_done"], begun["rows_expected"], begun["resumed"]) == (0, 4000, False)
    assert (done["rows_done"], done["rows_in_this_run"]) == (4000, 4000)
    assert between[-1]["rows_per_second"] > 0
    left = [one for one in between if one["rows_done"] < 4000]  # the last one may come behind the last batch
    assert left and left[-1]["seconds_left"] >= 0
    assert all(a["rows_done"] < b["rows_done"] and a["percent"] <= b["percent"] < 100 for a, b in pairwise(between))
    assert all(a["at"][:19] < b["at"][:19] for a, b in pairwise(between))


def test_an_event_has_nothing_of_a_row(empty: Database, project: Project) -> None:
    """Of a row that cannot be written the machine reads which finding it is; value and key stay where they are."""
    rows = "INSERT INTO t SELECT g, 0, 'secret' || g FROM generate_series(770001, 770100) AS g"
    begin(
        project,
        'op.backfill("t", set={"n": "CASE WHEN filled.id = 770033 THEN filled.note::int ELSE 1 END"})',
        rows=rows,
    )

    ended = project.alembic("-x", "progress=json", "upgrade", "head")

    last = events(ended.stdout)[-1]
    assert (ended.returncode, last["event"], last["reason"]) == (3, "failed", "refused")
    assert last["findings"] == ["backfill-row"]
    assert "secret" not in ended.stdout
    assert "7700" not in ended.stdout


def test_another_form_is_wrong_use(empty: Database) -> None:
    """A misspelt wish is told with its right form, by make's variable too."""
    ended = run("migrate-up", "TO=001", PROGRESS="xml")

    assert (ended.returncode, "progress is 'xml'; it is json" in ended.stderr) == (2, True)


def on_terminal(project: Project, url: str, *, kill: bool = False) -> str:
    """What alembic's upgrade writes to a terminal of 100 columns; ``kill``: once it has drawn 20 per cent."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    code = "import sys, termios; termios.tcsetwinsize(2, (24, 100)); from alembic.config import main; main(['upgrade', 'head'])"
    started = subprocess.Popen(
        [sys.executable, "-c", code], cwd=project.folder, env=environment, stdout=subprocess.DEVNULL, stderr=follower
    )
    os.close(follower)
    written = b""
    try:
        while piece := os.read(leader, 65536):
            written += piece
            if kill and re.search(rb"[2-9]\d %", written):
                started.send_signal(signal.SIGKILL)
    except OSError:  # what Linux says where the other side has gone
        pass
    finally:
        os.close(leader)
        started.wait(timeout=30)
    return written.decode()


@pytest.mark.long
def test_a_terminal_shows_a_bar_that_goes_on_where_it_was(empty: Database, project: Project) -> None:
    """One line that is drawn again in place, no wider than the terminal, gone at the end; after a kill it begins where it was."""
    begin(project, SLOW, rows=FEW)
    empty.rows("ANALYZE t")

    killed, through = on_terminal(project, empty.url, kill=True), on_terminal(project, empty.url)

    done = int(re.findall(r"([\d,]+) of 4,000 rows", killed)[-1].replace(",", ""))
    drawn = [text for text in re.split(r"\r(?:\x1b\[K)?", through) if text.startswith("t.n [")]
    shares = [int(share) for text in drawn for share in re.findall(r"(\d+) %", text)]
    assert len(drawn) > 5
    assert all(re.match(r"t\.n \[#*\.*\] [\d,]+ of 4,000 rows, \d+ %", text) for text in drawn)
    assert max(map(len, drawn)) < 100
    assert any(re.search(r"\d+ rows/s, .+ left$", text) for text in drawn)
    assert shares == sorted(shares)
    assert 20 <= done * 100 // 4000 <= shares[0] + 1
    assert "\n" not in "".join(drawn)
    assert through.rstrip().endswith("the database is at 002")


@pytest.mark.long
def test_a_log_gets_a_line_now_and_then(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no terminal is, it is a whole line each time the minute is over, and no control character."""
    begin(project, SLOW, rows=FEW)
    empty.rows("ANALYZE t")
    monkeypatch.setattr(progress, "_LINE", 0.5)

    began = time.monotonic()
    project.upgrade()
    took = time.monotonic() - began

    told = capsys.readouterr().err
    lines = [line for line in told.splitlines() if " backfill t.n: " in line]
    assert 2 <= len(lines) <= took / 0.5
    assert all(re.search(r"t\.n: [\d,]+ of 4,000 rows, \d+ %, [\d,]+ rows/s(, .+ left)?$", line) for line in lines)
    assert lines[0].endswith(" left")
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", told)


def test_what_it_waits_for_is_an_event_and_how_it_ends(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused from another shell it says so and how to go on; then it goes on, and stopped it says that it was busy."""
    begin(project, SLOW, rows=FEW)
    arguments = [sys.executable, "-m", "alembic", "-x", "progress=json", "upgrade", "head"]
    started = subprocess.Popen(arguments, cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    until(lambda: empty.value("SELECT to_regclass('migration.backfill') IS NOT NULL"))
    until(lambda: empty.value("SELECT count(*) FROM t WHERE n = 1"))
    empty.rows("UPDATE migration.backfill SET wanted = 'pause'")
    until(lambda: empty.value("SELECT waits_for FROM migration.backfill"))
    paused = empty.value("SELECT sum(n) FROM t")
    time.sleep(0.7)  # two of its looks
    still = empty.value("SELECT sum(n) FROM t")
    empty.rows("UPDATE migration.backfill SET wanted = 'run'")
    until(lambda: empty.value("SELECT sum(n) FROM t") > still)
    empty.rows("UPDATE migration.backfill SET wanted = 'stop'")
    out, err = started.communicate(timeout=30)

    found = events(out)
    waits = next(one for one in found if one["event"] == "waits")
    assert (started.returncode, paused) == (75, still)
    assert "make backfill-resume NAME=t.n" in waits["waits_for"]
    assert "waits: somebody has paused it; next: make backfill-resume NAME=t.n" in err
    assert [one["event"] for one in found if one["event"] != "progress"] == ["begun", "waits", "goes on", "failed"]
    assert (found[-1]["reason"], found[-1]["findings"]) == ("busy", [])
    assert empty.value("SELECT waits_for IS NULL AND waits_since IS NULL FROM migration.backfill")


def test_a_rate_is_that_of_the_last_minute() -> None:
    """A million rows of an hour ago count for nothing; the last minute's hundred a second do."""
    now = time.monotonic()
    rate = Rate(deque([(now - 3600, 0), *((now - 90 + second, 1_000_000 + 100 * second) for second in range(90))]))

    assert rate.at(1_009_000) == pytest.approx(100, rel=0.01)
    assert len(rate.marks) <= 62


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.04, "0.0 s"), (0.4, "0.4 s"), (59.6, "1 min"), (64, "1 min 4 s"), (3600, "1 h"), (200_000, "2 d 7 h")],
)
def test_durations_are_told_by_two_units(seconds: float, told: str) -> None:
    """As exact as somebody needs who decides whether to wait."""
    assert lasting(seconds) == told
