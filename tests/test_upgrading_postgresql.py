"""PostgreSQL itself becomes a newer one, in each of the three ways of docs/runbook.md: versions, stashes and history come along.

From each installation that ``PLANNER_TEST_PG_BINS`` names or Debian has, to the embedded server's version. Each test skips where
the machine has no older one, or none with the programs that pg_upgrade wants.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from mcp_planner_schema import embedded, example_data
from mcp_planner_schema.cli import main
from tests.conftest import HEAD, ROOT, Database, _private_folder
from tests.test_fingerprint_majors import BINS, initialized, major, running, serving, unprivileged
from tests.until import until

pytestmark = pytest.mark.long
HERE = embedded.binary("postgres").parent
OLDER = [binaries for binaries in BINS if major(binaries) < major(HERE)]
WHOLE = [
    binaries for binaries in OLDER if (binaries / "pg_controldata").exists() and (binaries / "pg_resetwal").exists()
]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
BEFORE = "005"
"""The way back to it drops tables that have rows."""


@pytest.fixture
def development(monkeypatch: pytest.MonkeyPatch) -> None:
    """Development, whatever else this machine says."""
    monkeypatch.setenv("PLANNER_ENV", "development")


def filled(database: Database, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The planner's schema with rows, gone back from its head with stashes; what its tables hold."""
    monkeypatch.setenv("DATABASE_URL", database.url)
    assert main(["migrate-up"]) == 0
    engine = sa.create_engine(database.url.replace("postgresql:", "postgresql+psycopg2:"), poolclass=NullPool)
    with engine.begin() as connection:
        example_data.load(connection, projects=5)
    before = held(database)
    assert main(["migrate-down", f"TO={BEFORE}"]) == 0
    assert database.value("SELECT to_regclass('public.navigation_links') IS NULL AND count(*) > 3 FROM migration.stash")
    return before


def held(database: Database) -> dict[str, str]:
    """Rows of each of the planner's tables, as a digest that no order changes."""
    tables = database.rows(
        "SELECT relname FROM pg_class "
        "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
    )
    return {
        name: database.value(
            f"SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM public.{name} t"
        )
        for (name,) in tables
        if name != "alembic_version"
    }


def dumped(database: Database, *options: str) -> bytes:
    """What pg_dump of the newer version writes."""
    where = ["-h", database.host, "-p", str(database.port), "-U", "postgres", database.name]
    return subprocess.run([embedded.binary("pg_dump"), *options, *where], capture_output=True, check=True).stdout


def restored(database: Database, dump: bytes) -> None:
    """Have psql read it, to the first error."""
    where = ["-h", database.host, "-p", str(database.port), "-U", "postgres", "-d", database.name]
    psql = [embedded.binary("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", *where]
    subprocess.run(psql, input=dump, capture_output=True, check=True)


def goes_on(database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What the runbook has one do afterwards says nothing, and the revisions go up."""
    monkeypatch.setenv("DATABASE_URL", database.url)
    database.rows("ANALYZE")
    for verb in ("migrate-preflight", "migrate-drift", "migrate-stash-verify", "migrate-doctor"):
        capsys.readouterr()
        assert main([verb]) == 0, (verb, capsys.readouterr())
    assert main(["migrate-up"]) == 0
    assert database.value("SELECT version_num FROM alembic_version") == HEAD
    assert main(["migrate-drift"]) == 0


@pytest.mark.parametrize("binaries", OLDER, ids=str)
def test_by_dump_and_restore(
    binaries: Path,
    empty: Database,
    development: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A dump by the newer programs, restored: nothing has drifted, the stash verifies, and the way up gives all rows back."""
    with running(binaries) as before:
        rows = filled(before, monkeypatch)
        restored(empty, dumped(before))

    goes_on(empty, monkeypatch, capsys)

    assert held(empty) == rows


@pytest.mark.parametrize("binaries", OLDER, ids=str)
def test_by_logical_replication(
    binaries: Path,
    empty: Database,
    development: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All tables are published, the guard's too. Without its sequences a run fails and changes nothing; with them it goes on."""
    with running(binaries, None, "wal_level=logical") as before:
        rows = filled(before, monkeypatch)
        restored(empty, dumped(before, "--schema-only"))
        before.rows("CREATE PUBLICATION everything FOR ALL TABLES")
        source = f"host={before.host} port={before.port} user=postgres dbname={before.name}"
        with closing(psycopg2.connect(empty.url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute("CREATE SUBSCRIPTION everything CONNECTION %s PUBLICATION everything", (source,))
        try:
            until(lambda: empty.value("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel"), 120)
            before.rows("UPDATE projects SET name = name || ' (moved)' WHERE name = (SELECT min(name) FROM projects)")
            until(lambda: empty.value("SELECT EXISTS (SELECT FROM projects WHERE name LIKE '%(moved)')"), 60)
            rows["projects"] = held(before)["projects"]
            assert held(empty) == held(before)
        finally:
            empty.rows("DROP SUBSCRIPTION everything")

    monkeypatch.setenv("DATABASE_URL", empty.url)
    capsys.readouterr()
    assert main(["migrate-up"]) == 1
    assert "duplicate key" in capsys.readouterr().err
    assert empty.value("SELECT version_num FROM alembic_version") == BEFORE

    for statement in re.findall(r"^(SELECT pg_catalog.setval.*);$", RUNBOOK, re.MULTILINE):
        empty.rows(statement)
    goes_on(empty, monkeypatch, capsys)
    found = held(empty)
    assert {name: one for name, one in found.items() if name != "projects"} == {
        name: one for name, one in rows.items() if name != "projects"
    }


@pytest.mark.parametrize("binaries", WHOLE, ids=str)
def test_by_pg_upgrade(
    binaries: Path,
    development: None,
    empty: Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The cluster itself: all is there afterwards, and the next run goes on. Its stashes are where they were."""
    new = Path(str(empty.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'")))  # what the account can run
    folder = _private_folder()
    try:
        initialized(binaries, folder / "old")
        with serving(binaries, folder / "old", stop=2) as before:
            rows = filled(before, monkeypatch)
        initialized(new, folder / "new", "--no-data-checksums")
        said = subprocess.run(
            [new / "pg_upgrade", f"--old-bindir={binaries}", f"--new-bindir={new}", f"--old-datadir={folder / 'old'}",
             f"--new-datadir={folder / 'new'}", "--username=postgres", f"--socketdir={folder / 'new'}", "--no-sync"],
            **{**unprivileged(), "cwd": folder / "new"}, capture_output=True, text=True,
        )  # fmt: skip
        assert said.returncode == 0, said.stdout + said.stderr
        with serving(new, folder / "new") as after:
            place = "SELECT concat(oid, '/', reltype) FROM pg_class WHERE oid = 'migration.stash'::regclass"
            elsewhere = f"SELECT count(*) FROM migration.stash WHERE split_part(xid, ' ', 3) <> ({place})"
            assert after.value(elsewhere) == 0
            goes_on(after, monkeypatch, capsys)
            assert held(after) == rows
    finally:
        shutil.rmtree(folder)
