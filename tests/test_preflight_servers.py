"""What preflight finds only on a server of its own: a replica that lies behind, a vacuum against wraparound, an archive."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from mcp_planner_schema import cli, embedded
from mcp_planner_schema.embedded.place import locate
from mcp_planner_schema.guard.findings import Refused
from mcp_planner_schema.guard.preflight import server as preflight_server
from tests.conftest import Database, Project, ServerAddress, _private_folder
from tests.test_backfill_feedback import cluster, own, replica  # noqa: F401  # fixtures
from tests.test_fingerprint_majors import major, running
from tests.test_preflight import LOCKS_T, Asking, step
from tests.until import until

pytestmark = pytest.mark.long


# Servers of other installations, and a clock that is off: not everywhere to be had.
BINS = [Path(name) for name in os.environ.get("PLANNER_TEST_PG_BINS", "").split(os.pathsep) if name]
CLOCKS = [Path(os.environ.get("PLANNER_TEST_FAKETIME", "")), *Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]


@pytest.fixture(scope="module")
def too_old() -> Iterator[Database]:
    """A server of a major version before the oldest one that the guard works on."""
    older = [binaries for binaries in BINS if major(binaries) < preflight_server.OLDEST]
    if not older:
        pytest.skip(f"PLANNER_TEST_PG_BINS names no PostgreSQL before {preflight_server.OLDEST}")
    with running(older[0]) as database:
        yield database


def test_server_too_old(
    too_old: Database, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real one is refused by preflight and by a run, in development and in production, by the finding and not by an error."""
    monkeypatch.setenv("DATABASE_URL", too_old.url)
    monkeypatch.setattr(cli, "ROOT", project.folder)
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    given, codes = {}, {}
    for environment in ("development", "production"):
        monkeypatch.setenv("PLANNER_ENV", environment)
        codes[environment] = cli.main(["migrate-preflight", "JSON=1"])
        given[environment] = json.loads(capsys.readouterr().out)["refused"]
    with pytest.raises(Refused) as caught:
        project.upgrade()
    url = too_old.url.replace("postgresql:", "postgresql+psycopg2:")
    with create_engine(url, poolclass=NullPool).connect() as connection, pytest.raises(Refused) as handed:
        command.upgrade(project.config(connection=connection), "head")

    assert codes == {"development": 3, "production": 3}
    assert [[one["code"] for one in found] for found in given.values()] == [["server-too-old"]] * 2
    assert [one.code for error in (caught, handed) for one in error.value.findings] == ["server-too-old"] * 2
    assert "the server is PostgreSQL older than 14" in caught.value.text()
    assert f"the server is PostgreSQL {too_old.value('SHOW server_version')}" in handed.value.text()
    assert too_old.rows("SELECT relname FROM pg_class WHERE relname IN ('a', 'alembic_version')") == []


@pytest.fixture(scope="module", params=["-90s", "+1h"])
def wrong(request: pytest.FixtureRequest, embedded_server: ServerAddress) -> Iterator[tuple[str, Database]]:
    """A server whose clock is off by that."""
    library = next((one for one in CLOCKS if one.is_file()), None)
    if library is None:
        pytest.skip("libfaketime is not installed, and PLANNER_TEST_FAKETIME names no libfaketime.so.1")
    clock = {"LD_PRELOAD": str(library), "FAKETIME": request.param, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    binaries = locate(
        Path(embedded_server.host).parents[1]
    ).binaries  # which the server's account can run, wherever we are
    with running(binaries, environment=clock) as database:
        yield request.param, database


def test_clock_skew(wrong: tuple[str, Database], project: Project) -> None:
    """It is told by how much and in which direction, and refuses nothing."""
    project.configure(backup_age="never")
    by, database = wrong

    (one,) = Asking(project, database).only("clock-skew")

    told = {"-90s": r"(89|90|91)(\.\d)? s \(it is behind\)", r"+1h": r"(59\.9|60|60\.1) min \(it is ahead\)"}[by]
    assert re.fullmatch(told, one.values["skew"]), one.values["skew"]


def test_replica_behind(own: Database, replica: Database, project: Project) -> None:  # noqa: F811
    """A replica that does not replay is refused once it lies behind the limit, and not where it may; then it catches up."""
    project.configure(backup_age="never", backfill_lag="1s")
    asking = Asking(project, own)
    assert until(lambda: "replica-behind" not in asking.found())
    replica.rows("ALTER SYSTEM SET wal_receiver_status_interval = '1s'")
    replica.rows("SELECT pg_reload_conf()")
    replica.rows("SELECT pg_wal_replay_pause()")
    try:
        own.rows("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n")
        (one,) = until(lambda: asking.found().get("replica-behind"), 30)
        project.configure(backfill_lag_except="r1")
        allowed = asking.found()
    finally:
        replica.rows("SELECT pg_wal_replay_resume()")
    project.configure(backfill_lag_except="")

    assert one.values["name"] == "r1"
    assert "replica-behind" not in allowed
    assert until(lambda: "replica-behind" not in asking.found(), 30)


def test_replica_missing(own: Database, project: Project) -> None:  # noqa: F811
    """Where every COMMIT waits for a replica that is not there, the run is refused before its first one."""
    project.configure(backup_age="never")
    asking = Asking(project, own)
    before = asking.found()
    own.rows("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    own.rows("SELECT pg_reload_conf()")

    (one,) = until(lambda: asking.found().get("replica-missing"))

    assert one.values["names"] == "nobody"
    assert "replica-missing" not in before


@pytest.fixture(scope="module")
def aged() -> Iterator[Database]:
    """A database that is more than twice as old as it may be, whose vacuum is slow and works on t."""
    folder = _private_folder()
    settings = {
        "autovacuum": "on", "autovacuum_naptime": "1s", "autovacuum_freeze_max_age": "100000",
        "fsync": "off", "synchronous_commit": "off",
    }  # fmt: skip
    server = embedded.start(folder, settings=settings, database="app", say=lambda line: None)
    try:
        database = Database(str(server.socket), server.port, "app")
        slowly = "autovacuum_enabled = false, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1"
        rows = "SELECT n AS id, repeat('x', 500) AS what FROM generate_series(1, 50000) n"
        database.rows(f"CREATE TABLE t WITH ({slowly}) AS {rows}")
        database.rows("DO $$ BEGIN FOR n IN 1..250000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
        at_work = (
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' "
            "AND query LIKE '%%public.t (to prevent wraparound)%%' AND xact_start < now() - interval '1.2 s'"
        )
        until(lambda: database.value(at_work), seconds=120)
        yield database
    finally:
        embedded.stop(folder, mode="immediate")
        shutil.rmtree(folder)


@pytest.fixture
def asking(aged: Database, project: Project) -> Asking:
    """Preflight on it."""
    project.configure(backup_age="never")
    return Asking(project, aged)


def test_vacuum_running(asking: Asking) -> None:
    """A vacuum against wraparound on a table of the run's is refused as what it is, and left alone."""
    (one,) = asking.found(LOCKS_T)["vacuum-running"]

    assert ", a vacuum that prevents wraparound and is not to be cancelled, at work for " in one.values["line"]
    assert "vacuum-running" not in asking.found(step(locks={"public.other": "ACCESS EXCLUSIVE"}))


def test_wraparound_near(asking: Asking) -> None:
    """A database of which vacuum does not keep up is refused with its age."""
    (one,) = asking.found()["wraparound-near"]

    assert one.values["limit"] == "100,000"
    assert int(one.values["age"].replace(",", "")) > 200_000


def test_wraparound_vacuum(asking: Asking) -> None:
    """A table of the run's for which such a vacuum is due is told, another is not."""
    (one,) = asking.found(LOCKS_T)["wraparound-vacuum"]

    assert one.values["table"] == "t"
    assert "wraparound-vacuum" not in asking.found()


def test_an_archive_is_a_backup_of_what_it_holds(
    empty: Database, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest archive counts for a table that is in it, and for no other; not once it is too old, or its file is gone."""
    monkeypatch.setenv("PLANNER_ENV", "staging")
    project.configure(archive_dir=str(tmp_path / "kept"), backup_age="24h")
    create = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE TABLE other AS SELECT 1 AS id"
    project.revision("001", "create_t", f"op.execute({create!r})", 'op.execute("DROP TABLE t, other")')
    project.revision("002", "drop_t", 'op.execute("SELECT 1")', 'op.execute("DROP TABLE t")')
    project.upgrade()
    project.downgrade("001")
    empty.rows("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    asking = Asking(project, empty)

    held = asking.found(LOCKS_T)
    (lacks,) = asking.only("backup-missing", LOCKS_T, step(locks={"public.other": "ACCESS EXCLUSIVE"}))
    empty.rows("UPDATE migration.stash SET kept_at = kept_at - interval '2 days'")
    (old,) = asking.only("backup-old", LOCKS_T)
    next((tmp_path / "kept").glob("*.dump")).unlink()
    (gone,) = asking.only("backup-missing", LOCKS_T)

    assert held == {}
    assert lacks.values["problem"].endswith(" lacks other")
    assert old.values["age"] == "2 days"
    assert gone.values["problem"].endswith(" is not in its place any more")
