"""What watches a database from outside: a real Pushgateway, a real replica, what cron and a Job of Kubernetes would run."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config

from mcp_planner_schema import cli
from mcp_planner_schema.cli import COMMANDS
from mcp_planner_schema.deploy import record, watch
from mcp_planner_schema.guard import connect, history, settings
from mcp_planner_schema.guard.findings import Broken
from tests.conftest import ROOT, Database, Project
from tests.test_backfill import ROWS, begin
from tests.test_backfill_feedback import SLOW, cluster, own, replica, upgrading  # noqa: F401  # fixtures
from tests.test_deploy_templates import JOB, checked
from tests.test_metrics import read
from tests.test_phases import version
from tests.test_three_phase import BEFORE, FILL, MIGRATE, new_project
from tests.until import until

WATCHING = (ROOT / "docs" / "watching.md").read_text(encoding="utf-8")
CREATE_A = ("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')


def block(language: str, holding: str) -> str:
    """The one block of docs/watching.md in this language that has this in it."""
    (found,) = [one for one in re.findall(rf"```{language}\n(.*?)```", WATCHING, re.DOTALL) if holding in one]
    return found


# --- a real Pushgateway -----------------------------------------------------------------------------------------------


@pytest.fixture
def gateway() -> Iterator[str]:
    """The URL of a Pushgateway of its own."""
    program = shutil.which("prometheus-pushgateway") or shutil.which("pushgateway")
    if program is None:
        pytest.skip("no pushgateway in PATH (Debian: package prometheus-pushgateway)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    with subprocess.Popen(
        [program, f"--web.listen-address={place}", "--persistence.file=", "--log.level=error"]
    ) as process:
        try:
            until(lambda: _answers(f"http://{place}/-/ready"))
            yield f"http://{place}"
        finally:
            process.terminate()


def _answers(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return str(answer.read().decode()) or "yes"
    except OSError:
        return ""


def test_a_real_gateway_takes_what_a_run_pushes(gateway: str, empty: Database, project: Project) -> None:
    """One group a database, replaced by the next run; a run that failed is one; the gateway has nothing against any metric."""
    project.configure(metrics_push=gateway)
    project.revision(*CREATE_A)
    project.upgrade()
    after_one = _answers(f"{gateway}/metrics")
    project.revision("002", "drop_a", 'op.execute("SELECT 1/0")', 'op.execute("DROP TABLE a")')
    with pytest.raises(Broken):
        project.upgrade()
    after_two = _answers(f"{gateway}/metrics")

    first, second = (
        read("".join(line for line in text.splitlines(keepends=True) if "planner_migration" in line))
        for text in (after_one, after_two)
    )
    of_it = "{instance=,job=planner_migration}"
    assert (first[f"last_run_exit_code{of_it}"], second[f"last_run_exit_code{of_it}"]) == (0, 1)
    assert (first[f"running{of_it}"], second[f"running{of_it}"]) == (0, 0)
    assert f'push_failure_time_seconds{{database="{empty.name}",instance="",job="planner_migration"}} 0' in after_two


# --- what no test had seen a value of ---------------------------------------------------------------------------------


@pytest.mark.parametrize("check", ["sh -c 'echo age=5h'", ""])
def test_the_newest_backup_has_its_time(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str
) -> None:
    """As backup_check says it, else that of the newest archive of a downgrade or backup of a deploy whose file is there."""
    file, archive, dump = tmp_path / "planner.prom", tmp_path / "a.dump", tmp_path / "b.dump"
    archive.touch()
    dump.touch()
    monkeypatch.setenv("PLANNER_METRICS_FILE", str(file))
    monkeypatch.setenv("PLANNER_BACKUP_CHECK", check)
    database.rows(
        "INSERT INTO migration.stash (run_id, version_table, revision, kept_in, state, kept_at, keep_until, who, archive) "
        "SELECT min(id), 'alembic_version', '024', 's', 'purged', now() - interval '3h', now(), 'me', %s FROM migration.run",
        str(archive),
    )

    engine = connect.engine(connect.url(settings.load(Config())), "the test")
    with connect.opened(engine, autocommit=True) as connection:
        record.prepare(connection, "migration")
        number = record.begin(connection, "migration", "expand", "023", {}, None, history.Origin("me", "here", None))
        record.save(connection, "migration", number, {"path": str(dump)})
    database.rows("UPDATE migration.deploy SET backup = backup || jsonb_build_object('at', now() - interval '4h')")

    told = []
    for gone in (archive, dump, file):
        assert cli.main(["migrate-status"]) == 0
        told.append(read(file.read_text()).get("backup_timestamp_seconds"))
        gone.unlink()
        file.unlink(missing_ok=True)

    hours = [one and round((time.time() - one) / 3600, 1) for one in told]
    assert hours == ([5.0, 5.0, 5.0] if check else [3.0, 4.0, None])


def test_what_waits_for_its_release_is_pending(
    empty: Database, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a run that left a contract behind it is counted, apart from the others; after it has run, no more."""
    file = tmp_path / "planner.prom"
    monkeypatch.setenv("PLANNER_ENV", "staging")
    project.configure(metrics_file=str(file), backup_age="never")
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.drop_table("a")')
    project.revision(
        "002", "drop_a", 'op.execute("ALTER TABLE a ADD b int")', 'op.execute("ALTER TABLE a DROP b")', phase="contract",
    )  # fmt: skip

    project.upgrade()
    waits = read(file.read_text())
    project.upgrade(phase="contract")
    over = read(file.read_text())

    names = ("pending_revisions", "pending_contract_revisions")
    assert [waits[name] for name in names] == [1, 1]
    assert [over[name] for name in names] == [0, 0]


@pytest.mark.long
def test_how_far_a_replica_is_behind_can_be_scraped(
    own: Database,  # noqa: F811
    replica: Database,  # noqa: F811
    project: Project,
    tmp_path: Path,
) -> None:
    """While a backfill waits for a replica that does not replay, the metric has its seconds."""
    file = tmp_path / "planner.prom"
    project.configure(backfill_lag="1s", metrics_file=str(file))
    begin(project, SLOW, rows=ROWS.format(count=4_000))

    def behind() -> Any:
        told = read(file.read_text()) if file.exists() else {}
        return next(
            (value for name, value in told.items() if name.startswith("backfill_replica_lag") and value > 1), None
        )

    with upgrading(project):
        until(lambda: own.value("SELECT to_regclass('migration.backfill_range')"))
        replica.rows("SELECT pg_wal_replay_pause()")
        try:
            seconds = until(behind, 30)
        finally:
            replica.rows("SELECT pg_wal_replay_resume()")

    assert 1 < seconds < 30
    assert own.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 4_000)]


# --- what others run --------------------------------------------------------------------------------------------------


def test_the_crontab_of_the_guide_is_one() -> None:
    """Five fields in their ranges, no percent sign (a line's end to cron), and commands that there are."""
    lines = [line for line in block("sh", "crontab").splitlines() if line and not line.startswith("#")]

    assert len(lines) == 3
    for line in lines:
        *when, command = line.split(None, 5)
        for field, (low, high) in zip(when, ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7)), strict=True):
            assert field == "*" or low <= int(field) <= high, line
        words = shlex.split(command, comments=True)
        assert words[:2] == ["make", "-C"]
        assert words[3:] == [one for one in words[3:] if one in COMMANDS]
        assert "%" not in line


def test_the_monitor_of_the_guide_finds_the_pod_of_the_job(tmp_path: Path) -> None:
    """It is YAML of that form, and selects by a label and a port that deploy/kubernetes-job.yaml has."""
    text = block("yaml", "PodMonitor")
    (label,) = re.findall(r"matchLabels: \{(.+?): (\S+?)\}", text)
    (port,) = re.findall(r"\{port: (\w+)", text)
    _, template = JOB.read_text(encoding="utf-8").split("  template:\n")

    assert f"{label[0]}: {label[1]}\n" in template.partition("    spec:\n")[0]
    assert f"- name: {port}\n              containerPort: 9187" in template
    assert "PLANNER_METRICS_LISTEN=0.0.0.0:9187" in WATCHING

    (tmp_path / "monitor.yaml").write_text(text)
    (tmp_path / "form.json").write_text(
        '{"type": "object", "required": ["apiVersion", "kind", "metadata", "spec"], "properties": {"kind": {"const": '
        '"PodMonitor"}, "spec": {"type": "object", "required": ["selector", "podMetricsEndpoints"]}}}'
    )
    checked("check-jsonschema", "--schemafile", str(tmp_path / "form.json"), str(tmp_path / "monitor.yaml"))


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


def said_by_the_job() -> dict[str, str]:
    """The variables of deploy/kubernetes-job.yaml that have a value there."""
    container = JOB.read_text(encoding="utf-8").partition("          env:\n")[2].partition("          ports:\n")[0]
    found = re.findall(r"- name: (\w+)\n {14}value: (?:>-\n {16})?(.+)", container)
    return {name: value[1:-1] if value[0] == value[-1] == '"' else value for name, value in found}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """What deploy/Dockerfile copies into the image, and nothing else."""
    copied = re.findall(r"^COPY (\S+) (\S+)$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    folder = tmp_path / "migrations"
    folder.mkdir()
    for source, target in copied:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, folder / target)
    return folder


def test_the_jobs_command_to_watch_is_one() -> None:
    """As the Job has it, it is Python and its two arguments; asked of a page that answers it ends with 0, of none it does not."""
    command = said_by_the_job()["WATCH_COMMAND"]
    words = watch.wanted({"WATCH_COMMAND": command}).command
    codes = []

    with HTTPServer(("127.0.0.1", 0), _Healthy) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        for port in (server.server_port, 1):
            program = words[2].replace("planner.default.svc", f"127.0.0.1:{port}")
            codes.append(
                subprocess.run([sys.executable, words[1], program], capture_output=True, check=False).returncode
            )
        server.shutdown()

    assert (len(words), words[:2]) == (3, ("python", "-c"))
    assert codes == [0, 1]


@pytest.mark.long
def test_the_job_does_its_work_with_what_the_image_has(
    empty: Database, begin_at: Callable[[str], None], image: Path, tmp_path: Path
) -> None:
    """Its entry point with its variables alone, in the files of the image: a whole deploy, and none of them is changed."""
    begin_at(BEFORE)
    empty.rows(FILL, new_project(empty), 300)
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    (entry,) = re.findall(r'^ENTRYPOINT \["(.+)"\]$', dockerfile, re.MULTILINE)
    (told,) = re.findall(r"^ENV ((?:.+\\\n)*.+)$", dockerfile, re.MULTILINE)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    before = {one: one.read_bytes() for one in image.rglob("*") if one.is_file()}
    (tmp_path / "backups").mkdir()

    with HTTPServer(("127.0.0.1", 0), _Healthy) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        environment = {
            **dict(one.split("=", 1) for one in told.replace("\\\n", " ").split()),
            **said_by_the_job(),
            "CONFIRM": empty.name, "DATABASE_URL": empty.url, "PGPASSWORD": "s3cret-w0rd", "WATCH_SECONDS": "1",
            "PLANNER_METRICS_LISTEN": "0.0.0.0:0", "PLANNER_ARCHIVE_DIR": str(tmp_path / "backups" / "planner"),
            "PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path),
        }  # fmt: skip
        environment["WATCH_COMMAND"] = environment["WATCH_COMMAND"].replace(
            "planner.default.svc", f"127.0.0.1:{server.server_port}"
        )
        ended = subprocess.run(
            [entry, "--without-rehearsal", "--reason", "the test has no staging"], cwd=image, env=environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        server.shutdown()

    assert ended.returncode == 0, ended.stderr[-3000:]
    assert version(empty) == MIGRATE
    assert "/metrics" in ended.stderr
    assert "s3cret-w0rd" not in ended.stderr + ended.stdout
    assert {one: one.read_bytes() for one in image.rglob("*") if one.is_file()} == before
    assert [one.suffix for one in (tmp_path / "backups" / "planner").iterdir()] == [".dump"]
