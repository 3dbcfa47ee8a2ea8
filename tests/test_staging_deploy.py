"""scripts/staging-deploy.sh from one real server to another: to its end, and with each of its steps made to fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from mcp_planner_schema import embedded, example_data
from tests.conftest import HEADER, ROOT, Database, _clone
from tests.until import until

pytestmark = pytest.mark.long

NAME = "planner_staging"
PEOPLE = ("Agatha Torquay", "agatha@corp.example", "what the butler saw")
"""What stands in production's rows, and in no row of the copy."""
NOTED = """
SET session_replication_role = replica;
UPDATE projects SET name = 'Agatha Torquay', description = 'what the butler saw'
WHERE id = (SELECT min(id::text)::uuid FROM projects);
UPDATE steps SET final_content = 'what the butler saw'
WHERE id = (SELECT min(id::text)::uuid FROM steps WHERE final_content IS NOT NULL);
INSERT INTO steps (project_id, task_id, title, prev_id)
SELECT project_id, id, 'Step ' || n, 'step://' || gen_random_uuid() FROM generate_series(1, 30000) n,
    (SELECT project_id, id FROM tasks ORDER BY id LIMIT 1) t;
UPDATE navigation_cursors SET actor = 'agatha@corp.example' WHERE id = (SELECT min(id::text)::uuid FROM navigation_cursors)
"""


@dataclass
class Staging:
    """A checkout of the project, staging's server, and production's database on another one."""

    folder: Path
    server: Database
    source: Database
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def copy(self) -> Database:
        """What the script has made."""
        return Database(self.server.host, self.server.port, NAME)

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """Start the script as a person does, in a process group of its own."""
        said = {**os.environ, "DATABASE_URL": self.copy.url, "PLANNER_ENV": "development", "PYTHON": sys.executable,
                "RUNS": "3", **self.environment, **environment}  # fmt: skip
        said = {name: value for name, value in said.items() if value}
        return subprocess.Popen(
            ["scripts/staging-deploy.sh"], cwd=self.folder, env=said, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, **environment: str) -> tuple[int, str]:
        """Run the script to its end: its exit code, and all that it has said."""
        started = self.start(**environment)
        said, _ = started.communicate(timeout=300)
        return started.returncode, said

    def rehearsed(self, database: Database, **environment: str) -> subprocess.CompletedProcess[str]:
        """What production is told."""
        return subprocess.run(
            [sys.executable, "-m", "mcp_planner_schema", "migrate-rehearsed"], cwd=self.folder,
            env={**os.environ, "DATABASE_URL": database.url, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def newest(self) -> dict[str, Any]:
        """The record that was written last."""
        path = max((self.folder / "rehearsals").glob("*.json"), key=lambda one: one.stat().st_mtime_ns)
        told: dict[str, Any] = json.loads(path.read_text())
        return told

    def codes(self) -> list[str]:
        """The findings of the newest record."""
        return [one["code"] for one in self.newest()["findings"]]

    def databases(self) -> list[str]:
        """What staging's server has, besides its own."""
        rows = self.server.rows(
            "SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1')"
        )
        return sorted(name for (name,) in rows)

    def revision(self, upgrade: str, downgrade: str, *, reversible: str = "stash", expectations: str = "") -> Path:
        """Write revision 025."""
        header = HEADER.format(
            title="Alter something", version="025", parent="024", type="schema", transaction="single",
            reversible=reversible, phase="expand", extra="",
        )  # fmt: skip
        expects = expectations or 'expect.query("SELECT 1", equals=1)'
        body = (
            "import sqlalchemy as sa\nfrom alembic import op\n\nfrom mcp_planner_schema.operations import expect\n\n"
            'revision = "025"\ndown_revision = "024"\nbranch_labels = None\ndepends_on = None\n\n'
            f"expectations = [{expects}]\n\n\ndef upgrade() -> None:\n{textwrap.indent(upgrade, '    ')}\n\n\n"
            f"def downgrade() -> None:\n{textwrap.indent(downgrade, '    ')}\n"
        )
        path = self.folder / "alembic" / "versions" / "025_alter_something.py"
        path.write_text(header + "\n" + body)
        return path


@pytest.fixture(scope="module")
def staging_server() -> Iterator[Database]:
    """A server that is not production's."""
    folder = Path(tempfile.mkdtemp(prefix="mcp-"))
    folder.chmod(0o755)
    settings = {"fsync": "off", "synchronous_commit": "off", "autovacuum": "off"}
    server = embedded.start(folder, settings=settings, database=None, say=lambda line: None)
    try:
        yield Database(str(server.socket), server.port, "postgres")
    finally:
        embedded.stop(folder, mode="immediate")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def production(head_template: Any) -> Iterator[Database]:
    """Production at head, with example projects and what people have written."""
    with _clone(head_template) as cloned:
        with cloned.connect() as connection:
            example_data.load(connection, projects=8)
        cloned.rows(NOTED)
        cloned.rows("VACUUM (ANALYZE)")
        yield cloned


@pytest.fixture
def staging(staging_server: Database, production: Database, tmp_path: Path) -> Iterator[Staging]:
    """A checkout of its own, for a revision that is not committed; staging's server is empty before and afterwards."""
    folder = tmp_path / "checkout"
    for name in ("alembic", "mcp_planner_schema", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("alembic.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    made = Staging(folder, staging_server, production, {"SOURCE_URL": production.url})
    yield made
    for name in made.databases():
        staging_server.rows(f'DROP DATABASE "{name}" WITH (FORCE)')


def everything(database: Database) -> str:
    """All rows of all tables of a database, the guard's too, as text."""
    tables = database.rows(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace::regnamespace::text !~ '^(pg_|info)'"
    )
    return "\n".join(str(database.rows(f"SELECT t::text FROM {table} t")) for (table,) in tables)


def test_a_rehearsal_from_one_server_to_another(staging: Staging, head_template: Any) -> None:
    """A copy of production at 020 is masked, migrated, taken back and forth; the record is green, and production may go."""
    with _clone(head_template) as source:
        with source.connect() as connection:
            example_data.load(connection, projects=8)
        source.rows(NOTED)
        down = subprocess.run(
            [sys.executable, "-m", "mcp_planner_schema", "migrate-down", "TO=020"], cwd=staging.folder, check=False,
            env={**os.environ, "DATABASE_URL": source.url, "PLANNER_ENV": "development"}, capture_output=True, text=True,
        )  # fmt: skip
        assert down.returncode == 0, down.stderr
        untouched = source.rows("SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables")

        code, said = staging.run(SOURCE_URL=source.url, PLANNER_ENV="staging")

        assert code == 0, said
        told = staging.newest()
        assert (told["green"], told["findings"]) == (True, [])
        assert (told["from"], told["to"], [one["id"] for one in told["revisions"]]) == (
            ["020"], ["024"], ["021", "022", "023", "024"],
        )  # fmt: skip
        assert [one["direction"] for one in told["steps"]] == ["upgrade"] * 4 + ["downgrade"] * 4 + ["upgrade"] * 4
        assert len(told["queries"]) > 40
        assert all(one["after"]["error"] == "" for one in told["queries"])
        assert source.rows("SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables") == untouched

        rows = everything(staging.copy)
        written = "\n".join(path.read_text() for path in (staging.folder / "rehearsals").glob("*.*"))
        assert [one for one in PEOPLE if one in rows or one in written or one in said] == []
        assert [one for one in PEOPLE if one not in everything(source)] == []
        count = "SELECT (SELECT count(*) FROM steps), (SELECT count(*) FROM audit_logs)"
        assert staging.copy.rows(count) == source.rows(count)
        assert staging.databases() == [NAME]

        assert staging.rehearsed(source).returncode == 0
        revision = staging.folder / "alembic" / "versions" / "021_seed_complexity_levels.py"
        revision.write_text(revision.read_text().replace("def downgrade", "LATER = 1\n\n\ndef downgrade"))
        refused = staging.rehearsed(source)
        assert refused.returncode == 3
        assert "021 has been edited since" in refused.stderr


def test_nobody_else_reads_the_copy_before_it_is_masked(staging: Staging) -> None:
    """While it is made its database lets in nobody but its owner; at the end others may log in again."""
    staging.server.rows("DROP ROLE IF EXISTS reader")
    staging.server.rows("CREATE ROLE reader LOGIN")
    started = staging.start()
    tried: set[str] = set()
    entered: list[str] = []
    while started.poll() is None:
        for name in staging.databases():
            tried.add(re.sub(r"[0-9a-f]{8}_[0-9a-f]{8}$", "", name))
            try:
                with psycopg2.connect(host=staging.server.host, port=staging.server.port, dbname=name, user="reader"):
                    if started.poll() is None and not list((staging.folder / "rehearsals").glob("*.json")):
                        entered.append(name)
            except psycopg2.OperationalError:
                pass
    said = started.communicate()[0]

    assert started.returncode == 0, said
    assert tried >= {f"{NAME}_copy_", NAME}
    assert entered == []
    with psycopg2.connect(host=staging.server.host, port=staging.server.port, dbname=NAME, user="reader"):
        pass
    staging.server.rows("DROP ROLE reader")


def test_a_dump_or_generated_rows_do_as_well(staging: Staging, tmp_path: Path) -> None:
    """A file of pg_dump is restored and masked; example data has about as many rows as the statistics say."""
    dump, stats = tmp_path / "production.dump", tmp_path / "stats.json"
    source = staging.source
    subprocess.run(
        [str(embedded.binary("pg_dump")), "--format=custom", f"--file={dump}", "-h", source.host, "-p", str(source.port),
         "-U", "postgres", source.name], check=True,
    )  # fmt: skip
    stats.write_text(
        json.dumps({"version": ["022"], "server": "18.6", "tables": {"public.steps": {"rows": 1500, "bytes": 1}}})
    )

    code, said = staging.run(SOURCE_URL="", DUMP=str(dump))
    assert code == 0, said
    assert [one for one in PEOPLE if one in everything(staging.copy)] == []
    assert "production.dump" in staging.newest()["copy"]["of"]

    code, said = staging.run(SOURCE_URL="", GENERATE="1", STATS=str(stats))
    assert code == 0, said
    assert staging.newest()["from"] == ["022"]
    assert 400 < staging.copy.value("SELECT count(*) FROM steps") < 6000


def test_a_query_that_becomes_slow_is_found(staging: Staging) -> None:
    """A revision that drops an index the application needs is not green: the query is named, with both plans."""
    staging.revision(
        'op.drop_index("ix_steps_prev_id", "steps")',
        'op.create_index("ix_steps_prev_id", "steps", ["prev_id"], postgresql_where=sa.text("prev_id IS NOT NULL"))',
    )
    staging.source.rows("SELECT 1")

    code, said = staging.run()

    assert code == 3, said
    found = [one for one in staging.newest()["findings"] if one["code"] == "performance-impact"]
    assert ["steps whose previous item is" in one["text"] for one in found] == [True], said
    assert "Index Scan using ix_steps_prev_id" in found[0]["text"]
    assert staging.rehearsed(staging.source).returncode == 3


def test_a_query_that_breaks_is_found(staging: Staging) -> None:
    """A revision that renames what the application asks for is not green."""
    staging.revision(
        'op.execute("ALTER TABLE disputes RENAME COLUMN server_reasoning TO reasoning_of_server")',
        'op.execute("ALTER TABLE disputes RENAME COLUMN reasoning_of_server TO server_reasoning")',
    )

    code, said = staging.run()

    assert code == 3, said
    assert "query-broken" in staging.codes(), said


def test_a_way_back_that_does_not_lead_back_is_found(staging: Staging) -> None:
    """A downgrade that leaves something behind is named by what it leaves."""
    staging.revision(
        'op.execute("CREATE TABLE left_behind (id int PRIMARY KEY)")\nop.execute("CREATE TABLE gone (id int PRIMARY KEY)")',
        'op.execute("DROP TABLE gone")',
    )

    code, said = staging.run()

    assert code in (1, 3), said
    assert {"rehearsal-differs", "rehearsal-failed"} & set(staging.codes()), said
    assert "left_behind" in str(staging.newest()["findings"])


# How each step is made to fail: the variables, what is done to the checkout, exit code, the stage and a word of the finding.
FAILS: dict[str, tuple[dict[str, str], str, int, str, str]] = {
    "a broken dump": ({"SOURCE_URL": "", "DUMP": "{tmp}/half.dump"}, "", 3, "copy", "copy-impossible"),
    "no dump": ({"SOURCE_URL": "", "DUMP": "{tmp}/none.dump"}, "", 3, "copy", "copy-impossible"),
    "a wrong rule": ({"MASKS": "{tmp}/masks.toml"}, "", 3, "begin", "mask-unusable"),
    "a column nobody decided": ({"MASKS": "{tmp}/few.toml"}, "", 3, "copy", "mask-undecided"),
    "a folder that is none": ({"PLANNER_REHEARSAL_DIR": "{tmp}/half.dump/x"}, "", 2, "begin", "cannot be written"),
    "no room for the archive": ({"PLANNER_ARCHIVE_DIR": "{tmp}/half.dump/x"}, "", 3, "copy", "copy-impossible"),
    "a source that is not there": (
        {"SOURCE_URL": "postgresql://x@/y?host=/nowhere"},
        "",
        1,
        "begin",
        "Nothing listens",
    ),
    "production": ({"PLANNER_ENV": "production"}, "", 3, "begin", "staging-misplaced"),
    "an upgrade that fails": ({}, 'op.execute("SELECT 1 / 0")', 1, "up", "division by zero"),
    "a downgrade that is refused": ({}, "lossless", 3, "back", "reversible-false"),
}


@pytest.mark.parametrize("what", FAILS)
def test_each_step_fails_and_the_next_run_is_as_if_nothing_had_been(
    staging: Staging, tmp_path: Path, what: str
) -> None:
    """It ends with its exit code at its stage, leaves no half copy, says what to do; a run without the cause is green."""
    variables, revision, code, stage, word = FAILS[what]
    (tmp_path / "half.dump").write_bytes(b"PGDMP\x01\x10\x00" + b"\0" * 100)
    (tmp_path / "masks.toml").write_text('[public.projects]\nname = "wrods"\n')
    (tmp_path / "few.toml").write_text('[public.projects]\nname = "words"\n')
    path = None
    if revision == "lossless":
        path = staging.revision(
            'op.execute("CREATE TABLE t (id int PRIMARY KEY)")\nop.execute("INSERT INTO t VALUES (1)")',
            'op.execute("DROP TABLE t")', reversible="lossless",
        )  # fmt: skip
    elif revision:
        path = staging.revision(revision, 'op.execute("SELECT 1")')

    ended, said = staging.run(**{name: value.format(tmp=tmp_path) for name, value in variables.items()})

    assert ended == code, said
    assert word in said or word in staging.codes(), said
    assert "next: " in said
    assert staging.databases() in ([], [NAME])
    if stage not in ("begin",):
        told = staging.newest()
        assert not told["green"]
        assert f"at its step '{stage}'" in str(told["findings"])
        assert staging.rehearsed(staging.source).returncode == (3 if path else 0)

    if path:
        path.unlink()
    if stage == "begin":  # nothing was made
        assert not list((staging.folder / "rehearsals").glob("*.json"))
        return
    again, said = staging.run()
    assert again == 0, said
    assert staging.newest()["green"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("stage", ["copy", "up", "back"])
def test_a_run_that_is_killed_leaves_nothing_that_the_next_minds(
    staging: Staging, stage: str, how: signal.Signals
) -> None:
    """Ended in the middle, by a signal that can be answered or not: no unmasked row can be read, and the next run is green."""
    path = staging.revision(
        'op.execute("CREATE TABLE t (id int PRIMARY KEY)")\nop.execute("SELECT pg_sleep(0.1)")',
        'op.execute("SELECT pg_sleep(0.1)")\nop.execute("DROP TABLE t")',
        expectations='expect.table("t")',
    )
    started = staging.start()
    running = staging.folder / "rehearsals" / "running"
    begun = {
        "copy": lambda: any("_copy_" in name for name in staging.databases()),
        "up": lambda: (running / "start.json").exists(),
        "back": lambda: (running / "back.json").exists(),
    }[stage]
    until(lambda: begun() or started.poll() is not None, 120)

    os.killpg(started.pid, how) if how == signal.SIGKILL else started.send_signal(how)
    said = started.communicate(timeout=120)[0]

    assert started.returncode == (75 if how == signal.SIGTERM else -9), said
    until(
        lambda: not staging.server.rows("SELECT FROM pg_stat_activity WHERE application_name LIKE 'mcp-planner%'"), 60
    )
    if how == signal.SIGTERM:
        assert not staging.newest()["green"]
    staging.server.rows("DROP ROLE IF EXISTS reader")
    staging.server.rows("CREATE ROLE reader LOGIN")
    for name in staging.databases():
        if "_copy_" in name:
            with pytest.raises(psycopg2.OperationalError, match="CONNECT privilege"):
                psycopg2.connect(host=staging.server.host, port=staging.server.port, dbname=name, user="reader")
    staging.server.rows("DROP ROLE reader")

    code, said = staging.run()
    assert code == 0, said
    assert staging.databases() == [NAME]
    assert path.exists()
