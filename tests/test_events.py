"""Events: what happens in a run is stored and told as it happens, and nobody who listens can end it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from mcp_planner_schema.guard import apart, events, ladder, watch
from mcp_planner_schema.guard.events import Event, Events
from mcp_planner_schema.guard.findings import Broken, Busy, Refused
from mcp_planner_schema.telemetry import running
from tests.conftest import Database, Project


def stored(database: Database, *keys: str) -> list[tuple[Any, ...]]:
    """Kind and revision of each event in its order, and these values of its data."""
    rows = database.rows("SELECT kind, revision, data FROM migration.event ORDER BY id")
    return [(kind, revision, *(data.get(key) for key in keys)) for kind, revision, data in rows]


def test_a_run_leaves_its_events_in_order(empty: Database, project: Project) -> None:
    """Two steps: the run, each step's begin and end, the run's end; the second one's lock, rows and WAL are in it."""
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    project.revision(
        "002", "alter_a", 'op.execute("ALTER TABLE a ADD b int")\nop.execute("INSERT INTO a VALUES (1, 2), (2, 3)")',
        'op.execute("ALTER TABLE a DROP b")',
    )  # fmt: skip

    project.upgrade()

    assert stored(empty, "direction", "exit", "outcome", "rows") == [
        ("run-started", None, None, None, None, None),
        ("step-started", "001", "upgrade", None, None, None),
        ("step-done", "001", "upgrade", None, None, 0),
        ("step-started", "002", "upgrade", None, None, None),
        ("step-done", "002", "upgrade", None, None, 2),
        ("run-ended", None, None, 0, "done", None),
    ]
    done = empty.value("SELECT data FROM migration.event WHERE kind = 'step-done' AND revision = '002'")
    assert done["locks"] == {"public.a": "ACCESS EXCLUSIVE"}
    assert (done["attempts"], done["skipped"], done["notes"]) == (1, False, [])
    assert done["wal_bytes"] > 100
    assert 0 < done["hold_ms"] <= done["duration_ms"]
    assert empty.value("SELECT bool_and(r.id = e.run_id) FROM migration.event e, migration.run r")


def test_a_step_that_commits_has_held_its_longest_part(
    empty: Database, project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    """A second of work between two short locks is no second under a lock: line, event and history say so alike."""
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    body = (
        'with op.get_context().autocommit_block():\n    op.execute("ALTER TABLE a ADD b int")\n'
        '    op.execute("SELECT pg_sleep(1)")\n    op.execute("ALTER TABLE a ADD c int")'
    )
    project.revision("002", "alter_a", body, 'op.execute("ALTER TABLE a DROP b, DROP c")', transaction="none")

    project.upgrade()

    row = empty.rows("SELECT duration_ms, hold_ms FROM migration.history WHERE revision = '002'")[0]
    done = empty.value("SELECT data FROM migration.event WHERE kind = 'step-done' AND revision = '002'")
    assert row[0] > 1000 > 500 > row[1] == pytest.approx(done["hold_ms"], abs=0.1)
    assert re.search(r"upgrade +002_alter_a .* held +[0-9]+ ms at a time\n", capfd.readouterr().err)


def test_a_failed_try_names_who_was_in_the_way(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tries meet a lock: the first is an event with SQLSTATE and blocker, the second the step's failure, the run's is 75."""
    monkeypatch.setattr(ladder, "_BETWEEN_TRIES", 0.01)
    project.configure(lock_timeout="100ms")  # before the deadline: the server says that it was a lock
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    project.upgrade()
    project.revision("002", "alter_a", 'op.execute("ALTER TABLE a ADD b int")', 'op.execute("ALTER TABLE a DROP b")')

    with empty.connect(autocommit=False) as holder, holder.cursor() as holding:
        holding.execute("SELECT 'a secret of the holder', * FROM a")
        with pytest.raises(Busy):
            project.upgrade()
        pid = holder.info.backend_pid

    found = [row for row in stored(empty, "sqlstate", "attempt", "exit", "blockers") if row[1] == "002" or row[4]]
    assert [row[:5] for row in found] == [
        ("step-started", "002", None, None, None),
        ("try-failed", "002", "55P03", 1, None),
        ("step-failed", "002", "55P03", None, 75),
        ("run-ended", None, None, None, 75),
    ]
    assert found[1][5][0].startswith(f"pid {pid} (the test, user postgres, idle in transaction, ")
    assert empty.value("SELECT count(*) FROM migration.event WHERE data::text LIKE '%secret%'") == 0


def test_a_failure_and_a_refusal_are_told_with_their_codes(empty: Database, project: Project) -> None:
    """What the server refuses has its SQLSTATE, what the guard refuses its finding: once for the step, once for the run."""
    project.revision("001", "create_a", 'op.execute("SELECT 1/0")', 'op.execute("DROP TABLE a")')
    with pytest.raises(Broken):
        project.upgrade()
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    project.revision(
        "002", "alter_a", 'op.execute("ALTER TABLE a ADD b int")', 'op.execute("ALTER TABLE a DROP b")',
        reversible="lossless",
    )  # fmt: skip
    project.upgrade()
    empty.rows("INSERT INTO a VALUES (1, 2)")
    with pytest.raises(Refused):
        project.downgrade("001")

    rows = stored(empty, "sqlstate", "findings", "code", "exit", "outcome")
    assert [row[2:] for row in rows if row[0] in ("step-failed", "finding", "run-ended")] == [
        ("22012", [], None, 1, None), (None, None, None, 1, "broken"), (None, None, None, 0, "done"),
        (None, ["reversible-false"], None, 3, None), (None, None, "reversible-false", None, None),
        (None, None, None, 3, "refused"),
    ]  # fmt: skip


def test_a_listener_that_fails_is_told_once_and_ends_nothing(
    empty: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is warned about the first time; who listens besides hears everything."""
    heard: list[Event] = []

    def fails(event: Event) -> None:
        raise OSError("no space left")

    happens = Events("migration", [fails, heard.append])
    for kind in events.KINDS:
        happens.emit(kind, "001", "upgrade", line=f"said of {kind}")
    happens.close()

    said = capsys.readouterr().err
    assert [one.kind for one in heard] == list(events.KINDS)
    assert said.count("OSError: no space left") == 1
    assert said.count("said of") == len(events.KINDS)
    assert happens.ended


def test_a_listener_that_is_slow_holds_up_no_lock_and_no_deadline(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It takes two seconds for a wait, and two for a try: the deadline of one second is kept, and it still hears all in order."""
    heard: list[str] = []

    def slow(event: Event) -> None:
        if event.kind in ("waiting", "try-failed"):
            threading.Event().wait(2)
        heard.append(event.kind)

    project.revision(
        "001", "create_both", 'op.execute("CREATE TABLE a (id int)")\nop.execute("CREATE TABLE b (id int)")',
        'op.execute("DROP TABLE a")\nop.execute("DROP TABLE b")',
    )  # fmt: skip
    project.upgrade()
    project.revision(
        "002", "alter_both", 'op.execute("ALTER TABLE a ADD c int")\nop.execute("ALTER TABLE b ADD c int")',
        'op.execute("ALTER TABLE a DROP c")\nop.execute("ALTER TABLE b DROP c")',
    )  # fmt: skip
    project.configure(lock_timeout="5s", deadline="1s", lock_attempts="1", metrics_file="/not/there.prom")
    monkeypatch.setattr(running, "listening", lambda *_: nullcontext([slow]))
    monkeypatch.setattr(watch, "_TOLD_AFTER", 0.2)

    with empty.connect(autocommit=False) as holder, holder.cursor() as holding:
        holding.execute("SELECT FROM b")
        with pytest.raises(Busy):
            project.upgrade()

    kinds = ["run-started", "step-started", "waiting", "step-failed", "run-ended"]
    held = empty.value("SELECT (data ->> 'hold_ms')::float FROM migration.event WHERE kind = 'step-failed'")
    assert held < 1500
    assert [one[0] for one in stored(empty)][-5:] == kinds
    assert heard[-5:] == kinds
    assert "002  waits for" in capfd.readouterr().err


def test_an_event_that_is_slow_to_store_keeps_the_watcher_two_seconds(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its table has become: a step that is late is ended, for the watcher's own statements have a limit."""
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    project.revision("002", "create_b", 'op.execute("CREATE TABLE b (id int)")', 'op.execute("DROP TABLE b")')
    project.upgrade()
    empty.rows("""CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(8); RETURN NEW; END';
        CREATE TRIGGER slow BEFORE INSERT ON migration.event FOR EACH ROW WHEN (NEW.kind = 'waiting')
        EXECUTE FUNCTION slow()""")
    project.revision(
        "003", "alter_both", 'op.execute("ALTER TABLE a ADD c int")\nop.execute("ALTER TABLE b ADD c int")',
        'op.execute("ALTER TABLE a DROP c")\nop.execute("ALTER TABLE b DROP c")',
    )  # fmt: skip
    project.configure(lock_timeout="20s", deadline="1s", lock_attempts="1")
    monkeypatch.setattr(watch, "_TOLD_AFTER", 0.2)

    with empty.connect(autocommit=False) as holder, holder.cursor() as holding:
        holding.execute("SELECT FROM b")
        with pytest.raises(Busy):
            project.upgrade()

    held = empty.value("SELECT (data ->> 'hold_ms')::float FROM migration.event WHERE kind = 'step-failed'")
    assert 1000 < held < 5000


def test_a_listener_that_never_answers_is_left_at_the_end(
    empty: Database,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """A file system that hangs (here a pipe that nobody writes to): the run goes its way, says so once, and has its events."""
    file = tmp_path / "metrics.prom"
    os.mkfifo(file)
    project.configure(metrics_file=str(file))
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    monkeypatch.setattr(events, "_LAST", 0.3)

    project.upgrade()

    assert empty.value("SELECT version_num FROM alembic_version") == "001"
    assert stored(empty)[-1] == ("run-ended", None)
    assert capfd.readouterr().err.count("has not heard all of it after 0.3 s, and is left") == 1
    file.open("w").close()  # lets the thread go


def test_more_than_may_wait_is_left_out(empty: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """While one is stuck, no more than so many events are kept for it; that is said once."""
    go, heard = threading.Event(), []
    happens = Events("migration", [lambda event: (go.wait(), heard.append(event))])  # type: ignore[list-item]

    for _ in range(apart.MOST + 50):
        happens.emit("progress")
    go.set()
    happens.close()

    assert apart.MOST <= len(heard) <= apart.MOST + 1  # and the one that it was stuck with
    assert capsys.readouterr().err.count("is too slow for it") == 1


def test_an_event_that_cannot_be_stored_ends_nothing(
    empty: Database, project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without its table a run goes on, with one warning; with it the next one stores again."""
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    project.revision(
        "002", "create_b", 'op.execute("CREATE TABLE b (id int)")\nop.execute("DROP TABLE migration.event")',
        'op.execute("DROP TABLE b")',
    )  # fmt: skip
    project.revision("003", "create_c", 'op.execute("CREATE TABLE c (id int)")', 'op.execute("DROP TABLE c")')

    project.upgrade()

    assert empty.value("SELECT version_num FROM alembic_version") == "003"
    assert capfd.readouterr().err.count("warning: what happens in the run is not stored") == 1
    project.downgrade("002")
    assert stored(empty)[-1] == ("run-ended", None)


def test_a_run_with_nothing_to_do_pays_nothing(empty: Database, project: Project) -> None:
    """It makes no table, and imports neither events nor what listens to them."""
    code = (
        "import json, sys\nfrom alembic.config import main\nmain(['upgrade', 'head'])\n"
        "print(json.dumps(sorted(name for name in sys.modules if name.startswith('mcp_planner_schema'))))"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=project.folder, capture_output=True, text=True, check=True)

    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "nothing to do" in done.stderr
    assert [name for name in loaded if ".events" in name or ".telemetry" in name or ".recorded" in name] == []
    assert empty.value("SELECT to_regnamespace('migration') IS NULL")
