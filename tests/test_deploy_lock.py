"""One deployer at a time, whatever is started at once."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading

import pytest

from mcp_planner_schema.guard import deploy_lock
from mcp_planner_schema.guard.findings import Broken
from tests.conftest import Database, Project
from tests.until import until

LOCK = deploy_lock.key("alembic_version", None)


def shell(project: Project, *arguments: str) -> subprocess.Popen[str]:
    """A real shell's worth of alembic."""
    return subprocess.Popen(
        [sys.executable, "-m", "alembic", *arguments], cwd=project.folder, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.long
def test_eight_shells_apply_each_revision_once(empty: Database, project: Project) -> None:
    """Eight shells at once on an empty database: eight exit codes 0, each revision applied once, the waiting say for whom."""
    for number in range(1, 5):
        project.revision(f"{number:03}", f"create_t{number}",
                         f'op.execute("CREATE TABLE t{number} (id int)")\nop.execute("SELECT pg_sleep(0.3)")',
                         f'op.drop_table("t{number}")', expectations=f'expect.table("t{number}")')  # fmt: skip

    shells = [shell(project, "upgrade", "head") for _ in range(8)]
    said = [one.communicate(timeout=60)[1] for one in shells]

    assert [one.returncode for one in shells] == [0] * 8, said
    assert empty.rows("SELECT revision, outcome FROM migration.history ORDER BY id") == [
        (f"{number:03}", "done") for number in range(1, 5)
    ]
    assert any("waiting: another migration runs: pid " in text and "user postgres" in text for text in said)


def test_the_wait_is_bounded(empty: Database, project: Project) -> None:
    """A lock that is not let go of ends with 75, names the holder and changes nothing."""
    project.configure(deploy_lock_timeout="300ms")
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.drop_table("a")')

    with empty.connect() as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        done = project.alembic("upgrade", "head")

    assert done.returncode == 75
    assert "Another migration still runs after 0.3 s: pid " in done.stderr
    assert ", the test, user postgres, from local, since " in done.stderr
    assert done.stderr.strip().endswith("next: alembic upgrade head")
    assert empty.value("SELECT to_regnamespace('migration')") is None


def test_the_key_depends_on_the_version_table() -> None:
    """Two histories in one database do not wait for each other; the number fits a bigint."""
    keys = {deploy_lock.key("alembic_version", None), deploy_lock.key("other", None), deploy_lock.key("other", "app")}

    assert len(keys) == 3
    assert all(-(2**63) <= key < 2**63 for key in keys)


def test_the_waiter_is_idle_and_lets_an_index_be_built(empty: Database, project: Project) -> None:
    """The waiting deployer holds no snapshot, so CREATE INDEX CONCURRENTLY in the lock's holder does not wait for it."""
    empty.rows("CREATE TABLE big AS SELECT 1 AS id")
    project.configure(deploy_lock_timeout="30s")
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.drop_table("a")')
    failures: list[BaseException] = []

    def upgrade() -> None:
        try:
            project.upgrade()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=upgrade)
    asked = (
        "SELECT state, backend_xmin FROM pg_stat_activity "
        "WHERE application_name LIKE 'mcp-planner%%' AND datname = current_database()"
    )
    with empty.connect() as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        thread.start()
        until(lambda: len(empty.rows(asked)) == 2)
        states = until(lambda: (rows := empty.rows(asked)) and {row[0] for row in rows} == {"idle"} and rows)
        cursor.execute("SET statement_timeout = '10s'")
        cursor.execute("CREATE INDEX CONCURRENTLY ix ON big (id)")
    thread.join(30)

    assert not failures
    assert states == [("idle", None), ("idle", None)]
    assert empty.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix'::regclass") is True


def test_a_lost_lock_stops_the_step_before_it_commits(empty: Database, project: Project) -> None:
    """The lock's session is terminated during step 2: step 2 is rolled back, since another run may have begun; 1 stays."""
    kill = ("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")  # fmt: skip
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.drop_table("a")')
    project.revision("002", "create_b", f'op.execute("CREATE TABLE b (id int)")\nop.execute("{kill}")',
                     'op.drop_table("b")')  # fmt: skip

    with pytest.raises(Broken, match="deployers' lock was lost"):
        project.upgrade()

    assert empty.value("SELECT version_num FROM alembic_version") == "001"
    assert empty.value("SELECT to_regclass('b')") is None
    assert empty.rows("SELECT revision, outcome FROM migration.history ORDER BY id") == [
        ("001", "done"),
        ("002", "failed"),
    ]
    assert empty.value("SELECT state FROM migration.run") == "failed"


def test_the_lock_is_free_after_the_run(empty: Database, project: Project) -> None:
    """The lock is free again after the run."""
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.drop_table("a")')

    project.upgrade()

    until(
        lambda: empty.value("SELECT pg_try_advisory_lock(%s)", LOCK)
    )  # the server ends a closed session a moment later


def test_the_holder_is_named_by_a_role_that_sees_little(empty: Database, project: Project) -> None:
    """To a role without pg_read_all_stats address and time of another's session are null: they are called unknown."""
    project.configure(deploy_lock_timeout="300ms")
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.drop_table("a")')
    role = f"least_{empty.name}"
    empty.rows(f"CREATE ROLE {role} LOGIN")

    with empty.connect() as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        done = project.alembic("upgrade", "head", DATABASE_URL=dataclasses.replace(empty, user=role).url)
    empty.rows(f"DROP ROLE {role}")

    assert done.returncode == 75
    assert ", user postgres, from unknown, since unknown." in done.stderr
