"""scripts/production-migrate.sh on two real servers: the whole way, each of its steps made to fail, killed in each, and back."""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.config import Config

from mcp_planner_schema import embedded
from mcp_planner_schema.deploy import stages
from mcp_planner_schema.staging import record as staging_record
from tests.conftest import ROOT, Database, _private_folder
from tests.test_deploy import SCRIPT
from tests.test_phases import version
from tests.test_three_phase import BEFORE, CONTRACT, EXPAND, FILL, MIGRATE, new_project
from tests.until import until

pytestmark = pytest.mark.long

ROWS = 3000
SECRET = "s3cret-w0rd"
STEPS = ["preflight", "rehearsal", "backup", "expand", "watch", "verify", "data", "verify", "report"]
WITHOUT = ["--without-rehearsal", "--reason", "the test has no staging"]


@pytest.fixture(scope="module")
def second() -> Iterator[str]:
    """The URL of another server, where backups are restored to prove them."""
    folder = _private_folder()
    server = embedded.start(folder, settings={"fsync": "off"}, database=None, say=lambda line: None)
    try:
        yield Database(str(server.socket), server.port, "postgres").url
    finally:
        embedded.stop(folder, mode="immediate")
        shutil.rmtree(folder)


@dataclass
class Site:
    """A production database in use, one release behind, and the script as its operator calls it."""

    database: Database
    folder: Path
    second: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """What the operator has exported; nobody listens to the password on a socket, but it is in the URL."""
        one = self.database
        given = {
            "DATABASE_URL": f"postgresql://postgres:{SECRET}@/{one.name}?host={one.host}&port={one.port}",
            "PLANNER_ENV": "production",
            "PLANNER_ARCHIVE_DIR": str(self.folder / "backups"),
            "PLANNER_ARCHIVE_CHECK_URL": self.second,
            "CONFIRM": one.name,
            "WATCH_COMMAND": "true",
            "WATCH_SECONDS": "0.5",
            "WATCH_EVERY": "0.1",
            "PYTHON": sys.executable,
        }
        return {**os.environ, **given, **self.environment}

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """The script as a process group of its own, its output in the file ``said``."""
        with (self.folder / "said").open("w") as said:
            return subprocess.Popen(
                [str(SCRIPT), *arguments], env={**self.variables, **environment}, stdin=subprocess.DEVNULL, stdout=said,
                stderr=said, text=True, start_new_session=True,
            )  # fmt: skip

    def run(self, *arguments: str, **environment: str) -> int:
        """The script to its end; gives its exit code."""
        return self.start(*(arguments or WITHOUT), **environment).wait(timeout=300)

    @property
    def said(self) -> str:
        """What it has printed so far."""
        return (self.folder / "said").read_text()

    @property
    def steps(self) -> list[str]:
        """Which steps it has come to."""
        return re.findall(r"^== (\w+)$", self.said, re.MULTILINE)

    def whole(self) -> None:
        """The deploy is done: versions, rows, records, the backup from before, and nothing left behind."""
        assert version(self.database) == MIGRATE
        assert (
            self.database.value("SELECT count(*) FROM complexity_runs WHERE iterations_allowed = max_iterations")
            == ROWS
        )
        assert self.database.rows("SELECT state, exit_code, from_head, to_head FROM migration.deploy") == [
            ("done", 0, BEFORE, MIGRATE)
        ]
        assert self.database.value("SELECT count(*) FROM migration.run WHERE state = 'running'") == 0
        assert self.database.value("SELECT count(*) FROM migration.journal WHERE state <> 'done'") == 0
        assert self.database.value("SELECT backup ->> 'rows' FROM migration.deploy") is not None
        assert Path(self.database.value("SELECT backup ->> 'path' FROM migration.deploy")).is_file()
        assert SECRET not in self.said


@pytest.fixture
def site(empty: Database, begin_at: Callable[[str], None], tmp_path: Path, second: str) -> Site:
    """The planner's database at the revision before the three-phase change, with rows."""
    begin_at(BEFORE)
    empty.rows(FILL, new_project(empty), ROWS)
    return Site(empty, tmp_path, second)


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_a_deploy_from_the_first_question_to_the_report(site: Site) -> None:
    """All steps in their order; the second call has nothing to do; nobody who lists processes reads the password."""
    seen: set[str] = set()
    over = threading.Event()
    watcher = threading.Thread(target=_command_lines, args=(seen, over))
    watcher.start()

    code = site.run()
    over.set()
    watcher.join()

    assert code == 0, site.said
    assert site.steps == STEPS
    assert len(seen) > 5 and not any(SECRET in line for line in seen)
    site.whole()
    assert f"make migrate-down TO={BEFORE}" in site.said
    assert site.database.value("SELECT reason FROM migration.deploy") == "the test has no staging"

    assert site.run() == 0
    assert site.said.splitlines()[-1] == "nothing to do"
    assert site.steps == []


def _command_lines(seen: set[str], over: threading.Event) -> None:
    """What ``ps`` would show of every process."""
    while not over.is_set():
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
        time.sleep(0.01)


def test_the_commands_that_it_prints_lead_back(site: Site) -> None:
    """What is printed to go back is typed as it stands: the database is at its beginning, and the backup has all rows."""
    assert site.run() == 0, site.said
    typed = [line.split("      (")[0].strip() for line in site.said.splitlines() if line.startswith("  ")]
    words = ("DRY_RUN", "REASON", "export PGHOST", "pg_restore")
    look, down, where, restore = (next(line for line in typed if word in line) for word in words)
    environment = site.variables | {"PATH": f"{embedded.binary('psql').parent}:{os.environ['PATH']}"}

    for text in (look, down, f"{where}\n{restore}"):
        ended = subprocess.run(
            ["/bin/sh", "-c", text], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr + ended.stdout

    before = Database(site.database.host, site.database.port, f"{site.database.name}_before")
    try:
        assert version(site.database) == BEFORE
        assert version(before) == BEFORE
        asked = "SELECT count(*), sum(hashtext(id::text || max_iterations)) FROM complexity_runs"
        assert before.rows(asked) == site.database.rows(asked)
        assert before.value("SELECT count(*) FROM pg_constraint WHERE contype = 'f'") > 0
    finally:
        Database(site.database.host, site.database.port, "postgres").rows(f"DROP DATABASE {before.name}")


def test_a_contract_is_a_run_of_its_own(site: Site) -> None:
    """Refused before its expand is through; afterwards it goes, once, with the reason written down."""
    too_early = site.run("--contract", "--reason", "all gone", "--without-rehearsal")
    said = site.said
    assert site.run() == 0

    code = site.run("--contract", "--reason", "no pod of release 41", "--without-rehearsal")

    assert (too_early, code) == (2, 0), site.said
    assert f"{EXPAND}, {MIGRATE} would run before the contract" in said
    assert site.steps == ["preflight", "rehearsal", "backup", "contract", "watch", "verify", "report"]
    assert version(site.database) == CONTRACT
    assert site.database.rows("SELECT kind, state, reason FROM migration.deploy ORDER BY id DESC LIMIT 1") == [
        ("contract", "done", "no pod of release 41")
    ]
    assert "the release from before does not run with it" in site.said
    assert site.run("--contract", "--reason", "again") == 0
    assert "nothing to do" in site.said


def test_a_dry_run_changes_nothing(site: Site) -> None:
    """It asks, and shows the plan; no row and no file is written."""
    before = site.database.rows("SELECT id, state FROM migration.run ORDER BY id")

    code = site.run("--dry-run", *WITHOUT)

    assert code == 0, site.said
    assert site.steps == ["preflight", "rehearsal", "plan"]
    assert version(site.database) == BEFORE
    assert site.database.rows("SELECT id, state FROM migration.run ORDER BY id") == before
    assert site.database.value("SELECT to_regclass('migration.deploy') IS NULL")
    assert not (site.folder / "backups").exists()


def test_the_database_has_to_be_named(site: Site) -> None:
    """Without its name, or with another's, nothing is begun; --yes says that it is the right one."""
    wrong = site.run(*WITHOUT, CONFIRM="planner_staging")
    said = site.said
    unnamed = site.run(*WITHOUT, CONFIRM="")

    assert (wrong, unnamed) == (2, 2)
    assert f"the database is {site.database.name}. Nothing was changed." in said
    assert "nothing has to be undone" in said
    assert site.database.value("SELECT to_regclass('migration.deploy') IS NULL")
    assert site.run("--yes", *WITHOUT, CONFIRM="") == 0


def test_the_configured_check_is_the_backup(site: Site) -> None:
    """With backup_check its word is taken, and asked before anything is changed; BACKUP_COMMAND makes one first."""
    made = site.folder / "made"
    given = {"BACKUP_COMMAND": f"touch {made}", "PLANNER_BACKUP_CHECK": f"sh -c 'test -f {made} && echo age=1s'"}

    missing = site.run(*WITHOUT, PLANNER_BACKUP_CHECK="false")
    said = site.said
    made.touch()
    code = site.run(*WITHOUT, **given)

    assert (missing, code) == (3, 0), site.said
    assert "backup-missing" in said
    assert site.database.value("SELECT backup ->> 'check' FROM migration.deploy") == "sh"
    assert not (site.folder / "backups").exists()


# --- each step made to fail -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What makes a step fail, and what cures it. SQL, or what the operator has exported."""

    step: str
    code: int
    sql: str = ""
    cure: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = tuple(WITHOUT)
    at: str = BEFORE
    says: str = ""


INVALID = "UPDATE pg_index SET indisvalid = {} WHERE indexrelid = (SELECT min(indexrelid::oid) FROM pg_index i JOIN pg_class c " \
    "ON c.oid = i.indrelid WHERE c.relname = 'steps' AND NOT indisprimary AND NOT indisunique)"  # fmt: skip
SPOIL = "DROP TRIGGER complexity_runs_10_sync_iterations_allowed ON complexity_runs"
MEND = (
    "CREATE TRIGGER complexity_runs_10_sync_iterations_allowed BEFORE INSERT OR UPDATE ON complexity_runs "
    "FOR EACH ROW EXECUTE FUNCTION sync_iterations_allowed()"
)
NOT_NOW = (
    "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not now''; END'; "
    "CREATE TRIGGER no BEFORE UPDATE ON complexity_runs FOR EACH ROW EXECUTE FUNCTION no()"
)
FAULTS = {
    "preflight": Fault("preflight", 3, INVALID.format("false"), INVALID.format("true"), says="index-invalid"),
    "rehearsal": Fault("rehearsal", 3, arguments=("--yes",), says="--without-rehearsal --reason TEXT"),
    "backup": Fault("backup", 3, environment={"PLANNER_ARCHIVE_CHECK_URL": "postgresql:///nothing?host=/not/there"},
                    says="archive-impossible"),
    "expand": Fault("expand", 1, "ALTER TABLE complexity_runs ADD COLUMN iterations_allowed integer",
                    "ALTER TABLE complexity_runs DROP COLUMN iterations_allowed", says="already exists"),
    "watch": Fault("watch", 1, environment={"WATCH_COMMAND": "false"}, at=EXPAND, says="not healthy after the change"),
    "verify": Fault("verify", 1, cure=MEND, at=EXPAND, says="complexity_runs_10_sync_iterations_allowed"),
    "data": Fault("data", 3, at=EXPAND, cure="DROP TRIGGER no ON complexity_runs; DROP FUNCTION no()", says="not now"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_a_step_that_fails_ends_the_deploy_there(site: Site, fault: Fault) -> None:
    """Its own exit code, no step behind it, the way back printed; when the cause is gone the next call goes on to the end."""
    environment = dict(fault.environment)
    if fault.sql:
        site.database.rows(fault.sql)
    if fault.step == "verify":  # somebody changes it by hand while the application is watched
        psql = f"{embedded.binary('psql')} -qX -h {site.database.host} -p {site.database.port} -U postgres {site.database.name}"
        environment["WATCH_COMMAND"] = f"{psql} -c {shlex.quote(SPOIL.replace('TRIGGER', 'TRIGGER IF EXISTS'))}"
    process = site.start(*fault.arguments, **environment)
    if fault.step == "data":  # a trigger that somebody brings just now makes every batch fail by its rows
        until(lambda: "data" in site.steps, 120)
        site.database.rows(NOT_NOW)

    code = process.wait(timeout=300)

    assert code == fault.code, site.said
    assert site.steps == STEPS[: STEPS.index(fault.step) + 1]
    assert fault.says in site.said
    assert f"stopped at: {fault.step}, with exit code {code}" in site.said
    assert version(site.database) == fault.at
    went_back = f"make migrate-down TO={BEFORE} DRY_RUN=1" in site.said
    assert went_back if fault.at != BEFORE else "nothing has to be undone" in site.said
    if fault.cure:
        site.database.rows(fault.cure)

    assert site.run() == 0, site.said
    site.whole()


def test_a_report_that_cannot_be_written_ends_the_deploy(site: Site) -> None:
    """Everything is applied; the deploy is not done until its report is."""
    code = site.run(*WITHOUT, REPORT_DIR="/not/there")
    steps, at = site.steps, version(site.database)

    assert (code, at) == (2, MIGRATE), site.said
    assert steps == STEPS
    assert site.database.rows("SELECT state, stage FROM migration.deploy") == [("stopped", "report")]
    assert site.run(*WITHOUT, REPORT_DIR=str(site.folder)) == 0
    site.whole()
    assert list(site.folder.glob("run-*.html"))


# --- killed, and stopped ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["preflight", "rehearsal", "backup", "expand", "watch", "verify", "data", "report"])
def test_killed_in_any_step_it_goes_on(site: Site, step: str) -> None:
    """SIGKILL to all of it, as a container's end is: the next call ends where an undisturbed one would have."""
    process = site.start(*WITHOUT)
    until(lambda: step in site.steps or process.poll() is not None, 120)
    time.sleep(random.uniform(0, 1.5))  # somewhere in the step: any place will do
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    code = site.run()

    assert code == 0, site.said
    if site.said.splitlines()[-1] == "nothing to do":  # it had come to its end before the blow
        assert step == "report"
    site.whole()


def test_what_was_rehearsed_is_not_asked_for_in_the_middle(site: Site) -> None:
    """With a green rehearsal no reason is needed; nor is one behind the expand, where no rehearsal has begun."""
    folder = site.folder / "rehearsals"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DATABASE_URL", site.database.url)
        environment.setenv("PLANNER_ENV", "production")
        revisions = stages.ask(Config(str(ROOT / "alembic.ini")), stages.EXPAND).revisions
    content = {
        "format": 1, "at": datetime.now(UTC).isoformat(), "green": True, "findings": [],
        "server": site.database.value("SHOW server_version"), "from": [BEFORE], "to": [MIGRATE],
        "revisions": [{"id": one, "checksum": checksum} for one, checksum in revisions.items()],
    }  # fmt: skip
    staging_record.write(folder, content)
    given = {"PLANNER_REHEARSAL_DIR": str(folder)}

    stopped = site.run("--yes", **given, WATCH_COMMAND="false")
    at = version(site.database)
    code = site.run("--yes", **given)

    assert (stopped, at, code) == (1, EXPAND, 0), site.said
    site.whole()
    assert site.database.value("SELECT reason IS NULL FROM migration.deploy")


def test_killed_alone_its_command_ends_first(site: Site) -> None:
    """SIGKILL to the shell only: what it had started goes on, and the next call waits for that."""
    with site.database.connect(autocommit=False) as blocking, blocking.cursor() as cursor:
        cursor.execute("LOCK TABLE complexity_runs IN ACCESS SHARE MODE")
        process = site.start(*WITHOUT)
        until(lambda: "expand" in site.steps, 120)
        until(lambda: site.database.value("SELECT count(*) FROM migration.run WHERE state = 'running'"), 60)
        process.kill()
        process.wait()
        again = site.start(*WITHOUT)
        until(lambda: "another migration runs" in site.said, 60)
        blocking.rollback()

    assert again.wait(timeout=300) == 0, site.said
    site.whole()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_waited_for(site: Site, number: signal.Signals) -> None:
    """The running command is stopped, rolls back and says so; the script ends with 75 and the way back; then it goes on."""
    with site.database.connect(autocommit=False) as blocking, blocking.cursor() as cursor:
        cursor.execute("LOCK TABLE complexity_runs IN ACCESS SHARE MODE")
        process = site.start(*WITHOUT)
        until(lambda: "expand" in site.steps, 120)
        until(lambda: site.database.value("SELECT count(*) FROM migration.run WHERE state = 'running'"), 60)
        process.send_signal(number)
        code = process.wait(timeout=60)
        running = site.database.value("SELECT count(*) FROM migration.run WHERE state = 'running'")
        blocking.rollback()

    assert (code, running) == (75, 0), site.said
    assert "stopped at: expand, with exit code 75" in site.said
    assert version(site.database) == BEFORE
    assert site.run() == 0, site.said
    site.whole()


def test_a_backfill_that_is_stopped_goes_on(site: Site) -> None:
    """SIGTERM while a batch waits for a row that somebody has: 75, and the next call goes on."""
    with site.database.connect(autocommit=False) as blocking, blocking.cursor() as cursor:
        process = site.start(*WITHOUT)
        # Not before: the expansion has to wait for whoever has a row locked. Watch and verify lie between it and the data.
        until(lambda: version(site.database) == EXPAND, 120)
        cursor.execute("SELECT FROM complexity_runs ORDER BY id DESC LIMIT 1 FOR UPDATE")
        until(lambda: "data" in site.steps, 120)
        until(lambda: site.database.value("SELECT to_regclass('migration.backfill') IS NOT NULL"), 60)
        until(lambda: site.database.value("SELECT count(*) FROM migration.backfill"), 60)
        process.terminate()
        code = process.wait(timeout=60)
        blocking.rollback()

    assert code == 75, site.said
    assert version(site.database) == EXPAND
    assert site.run() == 0, site.said
    site.whole()


def test_a_fresh_database_needs_no_backup(empty: Database, tmp_path: Path, second: str) -> None:
    """The first deploy of all: nothing to save, all steps, and the way back is base."""
    site = Site(empty, tmp_path, second)

    code = site.run()

    assert code == 0, site.said
    assert version(empty) == MIGRATE
    assert "nothing to back up" in site.said
    assert "make migrate-down TO=base" in site.said
