"""Metrics: parsed by Prometheus' own parser while a run goes on, whole in their file, and never a reason to fail."""

from __future__ import annotations

import http.server
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as classic

from mcp_planner_schema import cli
from mcp_planner_schema.guard.findings import Broken
from mcp_planner_schema.telemetry import push, textfile
from mcp_planner_schema.telemetry.metrics import METRICS, PREFIX, Metrics
from tests.conftest import ROOT, Database, Project
from tests.until import until

LOCK = "op.execute('SELECT pg_advisory_xact_lock(4711)')"


def read(text: str, parse: Any = classic) -> dict[str, float]:
    """Every sample by its name behind the prefix, with the labels besides ``database``."""
    found = {}
    for family in parse(text):
        for one in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(one.labels.items()) if key != "database")
            found[one.name.removeprefix(PREFIX) + (f"{{{labels}}}" if labels else "")] = one.value
    return found


def get(port: int, path: str, accept: str = "*/*") -> tuple[str, str]:
    """Content type and body of a page of the running run's."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def two(project: Project) -> None:
    """Two revisions: the second one adds two rows, once it gets an advisory lock."""
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    project.revision(
        "002", "fill_a", f'{LOCK}\nop.execute("INSERT INTO a VALUES (1), (2)")', 'op.execute("DELETE FROM a")', type="data",
    )  # fmt: skip


@contextmanager
def going_on(project: Project, database: Database) -> Iterator[int]:
    """A run that waits in its second step; gives the port at which it answers, and lets it end."""
    with database.connect(autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(4711)")
        process = subprocess.Popen(
            [sys.executable, "-m", "alembic", "upgrade", "head"], cwd=project.folder, text=True,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        try:
            port = int(next(one[1] for line in process.stderr if (one := re.search(r":(\d+)/metrics", line))))
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            until(lambda: database.value(waiting))
            yield port
            holder.rollback()
            cursor.execute("SELECT pg_advisory_unlock_all()")
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0, said
        finally:
            process.kill()
            process.communicate()


def test_a_scrape_during_a_run_is_parsed_in_both_formats(empty: Database, project: Project, tmp_path: Path) -> None:
    """While the second step waits: one step is done, the run goes on, /healthz names it; the file is there as well."""
    file = tmp_path / "planner.prom"
    project.configure(metrics_listen="127.0.0.1:0", metrics_file=str(file), lock_timeout="60s", statement_timeout="60s")
    two(project)

    with going_on(project, empty) as port:
        kind, text = get(port, "/metrics")
        kind_of_open, text_of_open = get(port, "/metrics", "application/openmetrics-text; version=1.0.0")
        _, health = get(port, "/healthz")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(port, "/")
        meanwhile = read(file.read_text())

    seen = read(text)
    assert (kind.split(";")[0], kind_of_open.split(";")[0]) == ("text/plain", "application/openmetrics-text")
    assert seen["running"] == 1
    assert seen["steps_total{direction=upgrade,outcome=done}"] == 1
    assert seen["step_duration_seconds_count{direction=upgrade}"] == 1
    assert 0 < seen["step_lock_hold_seconds_sum{direction=upgrade}"] < 5
    assert read(text_of_open, openmetrics)["steps_total{direction=upgrade,outcome=done}"] == 1
    assert json.loads(health) | {"since": None} == {
        "run": 1, "revision": "002", "since": None, "state": "running", "last": "step-started",
    }  # fmt: skip
    assert meanwhile["running"] == 1
    after = read(file.read_text())
    assert (after["running"], after["last_run_exit_code"], after["pending_revisions"]) == (0, 0, 0)
    assert after["rows_written_total{direction=upgrade}"] == 2
    assert after["revision_info{revision=002}"] == 1
    assert after["wal_bytes_total{direction=upgrade}"] > 100


def test_counters_go_on_where_an_earlier_run_has_ended(empty: Database, project: Project, tmp_path: Path) -> None:
    """Each run is another process, and another file: what is counted comes from the database, and a failure is counted too."""
    two(project)
    project.revision("003", "alter_a", 'op.execute("SELECT 1/0")', 'op.execute("DROP TABLE a")')
    numbers = []
    for name, target in (("one", "001"), ("two", "002"), ("three", "003")):
        project.configure(metrics_file=str(tmp_path / f"{name}.prom"))
        try:
            project.upgrade(target)
        except Broken:
            assert name == "three"
        numbers.append(read((tmp_path / f"{name}.prom").read_text()))

    assert [one["steps_total{direction=upgrade,outcome=done}"] for one in numbers] == [1, 2, 2]
    assert [one["runs_total{outcome=done}"] for one in numbers] == [1, 2, 2]
    assert [one["last_run_exit_code"] for one in numbers] == [0, 0, 1]
    assert [one["pending_revisions"] for one in numbers] == [2, 1, 1]
    assert numbers[2]["errors_total{sqlstate=22012}"] == 1
    assert numbers[2]["steps_total{direction=upgrade,outcome=failed}"] == 1
    assert numbers[2]["last_success_timestamp_seconds"] < numbers[2]["last_run_timestamp_seconds"]


def test_the_file_is_whole_or_the_old_one(tmp_path: Path) -> None:
    """Where no more can be written the old file stays as it was, and nothing beside it; its mode is 0644 whatever the umask."""
    file, made = tmp_path / "planner.prom", Metrics("planner")
    made.set("running", 1)
    before = os.umask(0o077)
    textfile.write(file, made)
    os.umask(before)
    whole = file.read_text()
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom mcp_planner_schema.telemetry import textfile\n"
        "from mcp_planner_schema.telemetry.metrics import Metrics\n"
        "made = Metrics('planner')\nmade.set('running', 0)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\ntextfile.write(Path(sys.argv[1]), made)"
    )

    full = subprocess.run(
        [sys.executable, "-c", code, str(file)], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert full.returncode == 1
    assert "File too large" in full.stderr
    assert file.read_text() == whole
    assert [one.name for one in tmp_path.iterdir()] == ["planner.prom"]
    assert file.stat().st_mode & 0o777 == 0o644
    assert resource.RLIMIT_FSIZE >= 0


def test_a_link_that_somebody_has_laid_is_not_written_through(tmp_path: Path) -> None:
    """Beside the file, under the name that it is written by, stands a link to another one: that stays as it was."""
    file, other, made = tmp_path / "planner.prom", tmp_path / "other", Metrics("planner")
    other.write_text("somebody's")
    (tmp_path / f"planner.prom.{os.getpid()}").symlink_to(other)
    made.set("running", 1)

    textfile.write(file, made)

    assert other.read_text() == "somebody's"
    assert not file.is_symlink()
    assert 'planner_migration_running{database="planner"} 1.0' in file.read_text()


def test_several_databases_share_a_file_and_what_is_not_spoken_of_stays(tmp_path: Path) -> None:
    """Each writer replaces its own samples of what it speaks of; something else in the file is not ours to keep."""
    file = tmp_path / "planner.prom"
    file.write_text("not metrics at all {{{\n")
    for database, drift in (("one", 3), ("two", 4)):
        made = Metrics(database)
        made.set("drift_objects", drift)
        made.set("revision_info", 1, revision="001")
        textfile.write(file, made)
    again = Metrics("one")
    again.set("revision_info", 1, revision="002")
    textfile.write(file, again)

    samples = [one for family in classic(file.read_text()) for one in family.samples]
    found = {
        (one.name.removeprefix(PREFIX), one.labels["database"], one.labels.get("revision")): one.value
        for one in samples
    }
    assert found == {
        ("drift_objects", "one", None): 3, ("drift_objects", "two", None): 4,
        ("revision_info", "one", "002"): 1, ("revision_info", "two", "001"): 1,
    }  # fmt: skip


def test_what_cannot_be_written_pushed_or_served_is_told_and_the_run_goes_on(
    empty: Database, project: Project, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No folder, no gateway, a port that is taken: one warning each, and the run is a success."""
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    with socket.socket() as taken, socket.socket() as closed:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        closed.bind(("127.0.0.1", 0))
        places = [f"127.0.0.1:{one.getsockname()[1]}" for one in (taken, closed)]
        project.configure(
            metrics_file=str(tmp_path / "nowhere" / "planner.prom"), metrics_listen=places[0],
            metrics_push=f"http://{places[1]}",
        )  # fmt: skip

        project.upgrade()

    said = capfd.readouterr().err
    assert said.count("warning: ") == 3, said
    assert f"metrics are not served at {places[0]}: Address already in use; the run goes on without" in said
    assert "No such file or directory" in said
    assert "Connection refused" in said
    assert empty.value("SELECT version_num FROM alembic_version") == "001"


def test_a_gateway_gets_what_a_run_has_to_say(empty: Database, project: Project) -> None:
    """Pushed as the run begins and when it has ended, grouped by database; parsed by Prometheus' own parser."""
    got: list[tuple[str, str, str]] = []

    class Gateway(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            got.append((self.command, self.path, self.rfile.read(length).decode()))
            self.send_response(202)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        project.configure(metrics_push=f"http://127.0.0.1:{server.server_port}")
        project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
        project.upgrade()
        server.shutdown()
        thread.join()

    assert [one[:2] for one in got] == [("POST", f"/metrics/job/planner_migration/database/{empty.name}")] * 2
    first, last = (read(one[2]) for one in got)
    assert (first["running"], last["running"]) == (1, 0)
    assert last["last_run_exit_code"] == 0
    assert "_created" not in got[1][2]


def test_a_gateway_that_hangs_keeps_nothing_from_the_file(
    empty: Database,
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It takes longer for the beginning than the end of a run waits for it: how the run has ended is in the file all the same."""
    file = tmp_path / "planner.prom"
    monkeypatch.setattr(push, "_TIMEOUT", 60.0)
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        project.configure(metrics_file=str(file), metrics_push=f"http://127.0.0.1:{silent.getsockname()[1]}")

        project.upgrade()

    found = read(file.read_text())
    assert (found["running"], found["last_run_exit_code"], found["revision_info{revision=001}"]) == (0, 0, 1)
    said = capfd.readouterr().err
    assert "warning: the metrics' gateway has not answered for 5 s, and is left" in said
    assert said.count("warning: ") == 1


def test_a_gateway_that_hangs_is_told_of_once(
    empty: Database, project: Project, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the time it is really given, which ends once for the beginning of the run and once for its end."""
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        project.configure(metrics_push=f"http://127.0.0.1:{silent.getsockname()[1]}")

        project.upgrade()

    said = capfd.readouterr().err
    assert "warning: the metrics are not pushed: " in said
    assert said.count("warning: ") == 1


def test_a_backfill_says_how_far_it_is(empty: Database, project: Project, tmp_path: Path) -> None:
    """Rows done, expected and a second, under the backfill's name; gone with the next run."""
    file = tmp_path / "planner.prom"
    project.configure(metrics_file=str(file))
    empty.rows(
        "CREATE TABLE t (id int PRIMARY KEY, k int); INSERT INTO t SELECT n FROM generate_series(1, 3000) n; ANALYZE t"
    )
    project.revision(
        "001", "fill_t", "op.backfill('t', set={'k': 'id'}, where='k IS NULL', verify='SELECT count(*) FROM t WHERE k IS NULL')",
        "op.execute('UPDATE t SET k = NULL WHERE false')", type="data", transaction="none", phase="migrate",
    )  # fmt: skip
    project.upgrade()
    while_filling = read(file.read_text())
    project.revision("002", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    project.upgrade()

    told = {name: value for name, value in while_filling.items() if name.startswith("backfill_rows_")}
    named = {name.partition("{")[2] for name in told}
    assert len(named) == 1
    assert [value for name, value in told.items() if "_done" in name or "_expected" in name] == [3000, 3000]
    assert not [name for name in read(file.read_text()) if name.startswith("backfill_")]


@pytest.mark.long
def test_a_run_that_could_not_even_connect_is_a_failed_one(
    empty: Database, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file says so, and keeps what it knew; to ask for the version changes nothing in it."""
    file = tmp_path / "planner.prom"
    project.configure(metrics_file=str(file))
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    project.upgrade()
    monkeypatch.setenv("DATABASE_URL", f"postgresql://postgres@127.0.0.1:1/{empty.name}")

    asked = project.alembic("current")
    before = read(file.read_text())
    failed = project.alembic("upgrade", "head")

    assert (asked.returncode, failed.returncode) == (1, 1)
    after = read(file.read_text())
    assert (before["last_run_exit_code"], after["last_run_exit_code"]) == (0, 1)
    assert after["runs_total{outcome=done}"] == before["runs_total{outcome=done}"] == 1


@pytest.mark.long
def test_without_the_package_a_run_that_is_to_be_measured_is_refused(
    empty: Database, project: Project, tmp_path: Path
) -> None:
    """Exit code 2 before anything is changed, with the command that installs it; without the setting nobody needs it."""
    two(project)
    code = (
        "import sys\nsys.modules['prometheus_client'] = None\nfrom alembic.config import main\nmain(['upgrade', '001'])"
    )

    def upgrade() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code], cwd=project.folder, capture_output=True, text=True, check=False
        )

    project.configure(metrics_file=str(tmp_path / "planner.prom"))
    refused = upgrade()
    there = empty.value("SELECT to_regnamespace('migration') IS NOT NULL")
    project.configure(metrics_file="")
    done = upgrade()

    assert (refused.returncode, there, done.returncode) == (2, False, 0), refused.stderr
    assert "pip install 'mcp-planner-schema[metrics]'" in refused.stderr


@pytest.mark.long
def test_verify_drift_and_status_add_what_they_find(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dropped index is a violation and drift; the file has both, each with its time, and what status knows besides."""
    file = tmp_path / "planner.prom"
    monkeypatch.setenv("PLANNER_METRICS_FILE", str(file))
    sound = [cli.main([name]) for name in ("migrate-verify", "migrate-drift", "migrate-status")]
    before = read(file.read_text())
    index = database.value(
        "SELECT indexrelid::regclass FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE NOT indisunique "
        "AND relname LIKE 'ix%' AND relnamespace = 'public'::regnamespace AND relkind = 'i' ORDER BY 1 LIMIT 1"
    )
    database.rows(f"DROP INDEX {index}")

    broken = [cli.main([name]) for name in ("migrate-verify", "migrate-drift")]

    after = read(file.read_text())
    assert (sound, broken) == ([0, 0, 0], [1, 3]), capsys.readouterr()
    assert (before["integrity_violations"], before["drift_objects"]) == (0, 0)
    assert before["integrity_expectations"] > 100
    assert (after["integrity_violations"], after["drift_objects"]) == (1, 1)
    assert after["integrity_check_timestamp_seconds"] > before["integrity_check_timestamp_seconds"]
    assert (after["running"], after["pending_revisions"], after["pending_contract_revisions"]) == (0, 0, 0)
    assert after["steps_total{direction=upgrade,outcome=done}"] >= 24


def test_the_page_has_every_metric(tmp_path: Path) -> None:
    """docs/watching.md and the code name the same metrics, with kind, labels and words; names follow Prometheus' conventions."""
    page = (ROOT / "docs" / "watching.md").read_text(encoding="utf-8")
    lines = [
        f"| `{PREFIX}{one.name}` | {one.kind} | {', '.join(f'`{name}`' for name in one.labels) or 'none'} | {one.says} |"
        for one in METRICS
    ]

    assert re.findall(r"^\| `planner_migration_.*$", page, re.MULTILINE) == lines
    assert [one.name for one in METRICS if (one.kind == "counter") != one.name.endswith("_total")] == []
    assert [one.name for one in METRICS if re.search(r"_(ms|millis|kb|mb|min|minutes|percent)(_|$)", one.name)] == []


# --- alerts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def promtool() -> str:
    """Prometheus' own tool, from the package prometheus of Debian; skips where there is none."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool in PATH (Debian: package prometheus)")
    return found


def test_every_alert_names_metrics_that_there_are_and_is_tried_both_ways() -> None:
    """A rule about a metric that nobody writes would be silent for ever; each fires in one test and is silent in another."""
    rules = (ROOT / "deploy" / "alerts.yml").read_text()
    tried = "".join(path.read_text() for path in sorted((ROOT / "deploy").glob("alerts-*test.yml")))
    page = (ROOT / "docs" / "watching.md").read_text(encoding="utf-8")
    alerts = re.findall(r"alert: (\w+)", rules)

    assert set(re.findall(r"planner_migration_\w+", rules)) <= {PREFIX + one.name for one in METRICS}
    assert len(alerts) == len(set(alerts)) == 11
    for alert in alerts:
        assert f"`{alert}`" in page
        assert re.search(rf"eval_time: \w+, alertname: {alert}}}", tried), f"{alert} is never expected to be silent"
        assert re.search(rf"alertname: {alert}\n        exp_alerts:", tried), f"{alert} is never expected to fire"


def test_alerts_fire_on_their_causes_and_are_silent_otherwise(promtool: str) -> None:
    """As Prometheus itself evaluates them."""
    checked = subprocess.run(
        [promtool, "check", "rules", "alerts.yml"], cwd=ROOT / "deploy", capture_output=True, text=True
    )
    tested = subprocess.run(
        [promtool, "test", "rules", "alerts-test.yml", "alerts-weeks-test.yml"],
        cwd=ROOT / "deploy",
        capture_output=True,
        text=True,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "11 rules found" in checked.stdout
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_promtool_finds_nothing_wrong_with_the_file(
    promtool: str, empty: Database, project: Project, tmp_path: Path
) -> None:
    """What a run leaves is read without a complaint about a name, a type or a help text."""
    file = tmp_path / "planner.prom"
    project.configure(metrics_file=str(file))
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    project.upgrade()
    made = Metrics(empty.name)
    made.counts = True
    for one in METRICS:  # also what this run had no reason to say
        labels = dict.fromkeys(one.labels, "x")
        {"gauge": made.set, "counter": made.add, "histogram": made.observe}[one.kind](one.name, 1, **labels)
    textfile.write(file, made)

    with file.open() as text:
        checked = subprocess.run([promtool, "check", "metrics"], stdin=text, capture_output=True, text=True)

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
