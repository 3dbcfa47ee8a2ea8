"""One deployer at a time, whatever is started at once."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading

import pytest

from mcp_planner_schema.guard import deploy_lock
from mcp_planner_schema.guard.findings import Broken, Busy
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


@pytest.mark.parametrize(
    ("options", "path", "table"),
    [
        ("", "public", "public"),
        ('version_table_schema="public"', "public", "public"),
        ("", "app", "app"),
        ('version_table_schema="app"', "public", "app"),
    ],
)
@pytest.mark.parametrize("there", [False, True], ids=["to be made", "is there"])
def test_one_version_table_has_one_lock(
    empty: Database, project: Project, options: str, path: str, table: str, there: bool
) -> None:
    """Whether it is named with its schema or found by the search_path, before it is made and after: one waits for the other."""
    empty.rows("CREATE SCHEMA app")
    empty.rows(f"ALTER DATABASE {empty.name} SET search_path = {path}, pg_temp")
    env = project.folder / "alembic" / "env.py"
    env.write_text(env.read_text().replace("run(context)", f"run(context, {options})"))
    project.configure(deploy_lock_timeout="100ms")
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.drop_table("a")')
    if there:
        project.upgrade()

    with empty.connect() as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (deploy_lock.key("alembic_version", table),))
        with pytest.raises(Busy, match="Another migration still runs"):
            project.downgrade("base") if there else project.upgrade()


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


def test_who_waits_sees_run_and_revision_of_who_is_at_work(empty: Database, project: Project) -> None:
    """The holder's sessions are called by run and revision: the second shell's line shows both, and since when."""
    project.configure(deploy_lock_timeout="300ms", statement_timeout="1min")
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.drop_table("a")')
    project.revision("002", "create_b", 'op.execute("SELECT pg_sleep(50)")', 'op.execute("SELECT 1")')

    first = shell(project, "upgrade", "head")
    until(lambda: empty.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
    names = empty.rows("SELECT application_name FROM pg_stat_activity WHERE application_name LIKE '%% run 1 002'")
    second = project.alembic("upgrade", "head")
    first.terminate()
    first.communicate(timeout=30)

    tag = deploy_lock.tag(LOCK)
    assert (f"{tag} run 1 002",) in names
    assert second.returncode == 75
    assert f", {tag} run 1 002, user postgres, from local, since " in second.stderr
    assert first.returncode == 75


def test_what_a_dead_run_left_behind_is_ended_under_the_lock(empty: Database, project: Project) -> None:
    """A session of an earlier run holds what the step needs: it is ended; those of another history and of people stay."""
    empty.rows("CREATE TABLE busy (id int)")
    project.revision("001", "add_extra", 'op.execute("ALTER TABLE busy ADD COLUMN extra int")',
                     'op.execute("ALTER TABLE busy DROP COLUMN extra")')  # fmt: skip
    tag, other = deploy_lock.tag(LOCK), deploy_lock.tag(deploy_lock.key("other", None))

    with (
        empty.connect(autocommit=False) as orphan, empty.connect() as elsewhere, empty.connect() as person,
        orphan.cursor() as cursor, elsewhere.cursor() as theirs, person.cursor() as mine,
    ):  # fmt: skip
        cursor.execute(f"SET application_name = '{tag} run 7 001'")
        cursor.execute("LOCK TABLE busy")
        theirs.execute(f"SET application_name = '{other} run 7 001'")
        mine.execute("SET application_name = 'mcp-planner-guard alembic current'")
        done = project.alembic("upgrade", "head")
        pid = orphan.info.backend_pid
        theirs.execute("SELECT 1")
        mine.execute("SELECT 1")

    assert done.returncode == 0, done.stderr
    assert f"note: pid {pid} was left behind by {tag} run 7 001 and was ended" in done.stderr
    assert empty.rows("SELECT outcome, attempts FROM migration.history") == [("done", 1)]


def test_making_the_version_table_waits_for_the_lock_too(empty: Database, project: Project) -> None:
    """ensure_version meets a deployer at work: it waits as any other, and reading commands do not."""
    project.configure(deploy_lock_timeout="300ms")
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.drop_table("a")')

    with empty.connect() as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        made = project.alembic("ensure_version")
        asked = project.alembic("current")
    again = project.alembic("ensure_version")

    assert made.returncode == 75, made.stderr
    assert asked.returncode == 0, asked.stderr
    assert again.returncode == 0, again.stderr
    assert empty.value("SELECT to_regclass('alembic_version')") == "alembic_version"


@pytest.mark.parametrize("revision", ["004", "x" * 80, "ä" * 40])
def test_a_sessions_name_fits(revision: str) -> None:
    """Sixty-three bytes are what PostgreSQL keeps of it, and no character is cut in half."""
    name = deploy_lock.called(deploy_lock.tag(LOCK), 12, revision)

    assert len(name.encode()) <= 63
    assert name.startswith("mcp-planner-guard ")
    assert name.endswith(f" run 12 {revision[:3]}") or revision[:10] in name
