"""History: what was run, by whom, from which source; written in time, and by a role without special rights."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import re
import signal
import socket
import subprocess
import sys

import psycopg2
import pytest
from alembic import command
from sqlalchemy import create_engine

from mcp_planner_schema import __version__
from mcp_planner_schema.guard import dead_runs, deploy_lock, history, manifest_tables
from mcp_planner_schema.guard.findings import Broken, Refused
from tests.conftest import Database, Project
from tests.until import until

INSERT = 'op.execute("CREATE TABLE a (id int PRIMARY KEY)")\nop.execute("INSERT INTO a VALUES (1), (2), (3)")'


def create(project: Project, upgrade: str = INSERT, extra: str = "") -> None:
    """Revision 001."""
    project.revision("001", "create_a", upgrade, 'op.drop_table("a")', expectations='expect.table("a")', extra=extra)


def test_every_column_is_filled(empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A successful step's row has header, times, counts, source, checksum, person, host and versions."""
    monkeypatch.setenv("SUDO_USER", "jane")
    create(project)

    project.upgrade()

    names = "description author duration_ms hold_ms lock_wait_ms attempts rows_touched checksum source who host"
    names += " tool_version error"
    row = dict(
        zip(names.split(), empty.rows(f"SELECT {', '.join(names.split())} FROM migration.history")[0], strict=True)
    )
    assert row["description"] == "Create a for a test"
    assert row["author"] == "A Tester <tester@example.org>"
    assert row["duration_ms"] >= row["hold_ms"] > 0
    assert (row["lock_wait_ms"], row["attempts"], row["rows_touched"]) == (0, 1, 3)
    assert row["checksum"].startswith("v")
    assert "INSERT INTO a VALUES (1), (2), (3)" in row["source"]
    assert (row["who"], row["host"], row["tool_version"], row["error"]) == (
        "jane",
        socket.gethostname(),
        __version__,
        None,
    )
    assert empty.value("SELECT finished_at >= started_at FROM migration.history") is True


def test_the_git_commit_is_kept(empty: Database, project: Project) -> None:
    """In a repository the commit of the history's folder is written down."""
    create(project)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], cwd=project.folder, check=True, capture_output=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], cwd=project.folder, check=True, capture_output=True, text=True)

    project.upgrade()

    assert empty.value("SELECT git_commit FROM migration.history") == head.stdout.strip()
    assert empty.value("SELECT git_commit FROM migration.run") == head.stdout.strip()


@pytest.mark.long
def test_a_killed_run_leaves_a_trace(empty: Database, project: Project) -> None:
    """The run is seen as running from elsewhere; killed, it stays so until the next run calls it interrupted and says so."""
    create(project, 'op.execute("SELECT pg_sleep(60)")')
    project.configure(statement_timeout="2min")
    shell = subprocess.Popen([sys.executable, "-m", "alembic", "upgrade", "head"], cwd=project.folder,
                             stderr=subprocess.DEVNULL)  # fmt: skip
    active = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(60)'"

    until(lambda: empty.rows(active))
    running = empty.rows("SELECT state, command, pid, finished_at FROM migration.run")
    os.kill(shell.pid, signal.SIGKILL)
    shell.wait()
    left = empty.value("SELECT state FROM migration.run")
    until(lambda: not empty.rows(active))  # the server notices that its client is gone, and ends the statement
    create(project)
    again = project.alembic("upgrade", "head")

    assert running == [("running", "alembic upgrade head", shell.pid, None)]
    assert left == "running"
    assert again.returncode == 0
    assert "run 1 (alembic upgrade head, by " in again.stderr
    assert "was interrupted" in again.stderr
    assert empty.rows("SELECT state FROM migration.run ORDER BY id") == [("interrupted",), ("done",)]


def test_a_run_that_is_stopped_before_its_first_step_is_ended(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal that comes as the run has just got its row: nothing says that it runs, and the event of its end is there."""
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')

    def signalled(*_: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    with monkeypatch.context() as early:
        early.setattr(dead_runs, "tell", signalled)
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            project.upgrade()

    assert empty.rows("SELECT state, error FROM migration.run") == [("failed", "SIGTERM")]
    assert empty.rows("SELECT data ->> 'outcome' FROM migration.event WHERE kind = 'run-ended'") == [("stopped",)]
    project.upgrade()


@pytest.mark.parametrize("alive", [False, True], ids=["killed", "alive"])
def test_a_run_killed_behind_its_last_step_is_ended_by_one_with_nothing_to_do(
    empty: Database, project: Project, capsys: pytest.CaptureFixture[str], alive: bool
) -> None:
    """What the doctor says of it holds: the same command again calls it interrupted; not one whose lock is held."""
    create(project)
    project.upgrade()
    empty.rows("UPDATE migration.run SET state = 'running', finished_at = NULL")

    with empty.connect() as connection, connection.cursor() as cursor:
        if alive:
            cursor.execute("SELECT pg_advisory_lock(%s)", (deploy_lock.key("alembic_version", None),))
        project.upgrade()

    assert empty.rows("SELECT state, finished_at IS NULL FROM migration.run") == (
        [("running", True)] if alive else [("interrupted", False)]
    )
    assert ("was interrupted" in capsys.readouterr().err) is not alive


def test_another_history_s_run_is_not_called_dead(empty: Database, project: Project) -> None:
    """Two version tables in one database have a lock each: a running run of the other is left alone."""
    create(project)
    project.upgrade()
    empty.rows("INSERT INTO migration.run (version_table, command, state, from_heads, planned, who, host, pid, tool_version) "
               "VALUES ('other', 'x', 'running', '{}', 1, 'w', 'h', 1, 'v')")  # fmt: skip

    project.downgrade("base")

    assert empty.value("SELECT state FROM migration.run WHERE version_table = 'other'") == "running"


def test_a_step_for_another_environment_is_skipped_and_recorded(empty: Database, project: Project) -> None:
    """Environments: production, run in development: the version moves, nothing is done, the row says skipped."""
    project.revision("001", "fill_a", 'op.execute("INSERT INTO nowhere VALUES (1)")', 'op.execute("DELETE FROM nowhere")',
                     type="data", extra="Environments: production")  # fmt: skip

    project.upgrade()

    assert empty.rows("SELECT outcome FROM migration.history") == [("skipped",)]
    assert empty.value("SELECT version_num FROM alembic_version") == "001"


def test_an_edited_applied_revision_is_a_finding_until_waived(empty: Database, project: Project) -> None:
    """The next run is refused for a changed applied revision; a Waive line with reason and date lifts it."""
    create(project)
    project.upgrade()
    project.revision("002", "create_b", 'op.execute("CREATE TABLE b (id int)")', 'op.drop_table("b")',
                     expectations='expect.table("b")')  # fmt: skip
    changed = INSERT.replace("(3)", "(4)")
    create(project, changed)

    with pytest.raises(Refused) as caught:
        project.upgrade()
    later = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=9)
    create(project, changed, f"Waive: applied-edited | it was never deployed | {later}")
    project.upgrade()

    assert [finding.code for finding in caught.value.findings] == ["applied-edited"]
    assert empty.value("SELECT version_num FROM alembic_version") == "002"


@pytest.fixture
def owner(empty: Database, monkeypatch: pytest.MonkeyPatch) -> str:
    """An ordinary role that owns nothing; DATABASE_URL names it."""
    name = f"r_{empty.name}"
    empty.rows(f"CREATE ROLE {name} LOGIN")
    monkeypatch.setenv("DATABASE_URL", empty.url.replace("postgres@", f"{name}@"))
    return name


def test_an_ordinary_owner_of_the_database_is_enough(empty: Database, project: Project, owner: str) -> None:
    """No superuser is needed: up, down and up again work as the database's owner."""
    empty.rows(f"ALTER DATABASE {empty.name} OWNER TO {owner}")
    create(project)

    project.upgrade()
    project.downgrade("base")
    project.upgrade()

    assert empty.value("SELECT count(*) FROM migration.history WHERE outcome = 'done'") == 3
    assert empty.value("SELECT DISTINCT db_user FROM migration.run") == owner


def test_without_the_right_to_create_a_schema_the_line_to_run_is_shown(
    empty: Database, project: Project, owner: str
) -> None:
    """One error with the SQL for the database's owner, nothing changed; after that SQL the run works."""
    empty.rows(f"GRANT CREATE ON SCHEMA public TO {owner}")
    create(project)

    with pytest.raises(Broken) as caught:
        project.upgrade()
    before = empty.rows("SELECT to_regnamespace('migration'), to_regclass('alembic_version')")
    empty.rows(caught.value.next_command.split("'")[1])
    project.upgrade()

    assert before == [(None, None)]
    assert f"CREATE SCHEMA migration AUTHORIZATION {owner}" in caught.value.next_command
    assert empty.value("SELECT version_num FROM alembic_version") == "001"


def test_the_history_locks_nothing_of_the_application(empty: Database, project: Project) -> None:
    """While rows of history are written, only the guard's own tables are locked by that statement."""
    create(project)
    project.upgrade()

    with psycopg2.connect(host=empty.host, port=empty.port, dbname=empty.name, user="postgres") as connection:
        cursor = connection.cursor()
        cursor.execute("INSERT INTO migration.history (run_id, revision, direction, outcome, started_at, duration_ms, "
                       "lock_wait_ms, hold_ms, attempts, who, host, tool_version) "
                       "VALUES (1, 'x', 'upgrade', 'done', now(), 1, 0, 1, 1, 'w', 'h', 'v')")  # fmt: skip
        cursor.execute("SELECT DISTINCT n.nspname FROM pg_locks l JOIN pg_class c ON c.oid = l.relation "
                       "JOIN pg_namespace n ON n.oid = c.relnamespace "
                       "WHERE l.pid = pg_backend_pid() AND n.nspname NOT LIKE 'pg\\_%'")  # fmt: skip
        locked = cursor.fetchall()
        connection.rollback()
    connection.close()

    assert locked == [("migration",)]


ATTACK = """
CREATE FUNCTION public.{name} RETURNS {gives} LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'somebody else''s code runs as %', current_user; END $$
"""


@pytest.mark.parametrize("by", ["DATABASE_URL", "a connection"])
def test_functions_of_somebody_else_are_never_called(empty: Database, project: Project, by: str) -> None:
    """A role that may create in public puts functions with more exact types than PostgreSQL's own there: none is run."""
    role = f"mallory_{empty.name}"
    empty.rows(f"CREATE ROLE {role} LOGIN")
    empty.rows(f"GRANT CREATE ON SCHEMA public TO {role}")
    functions = {
        "unnest(text[])": "SETOF text", "quote_ident(name)": "text", "host(cidr)": "text", "pg_blocking_pids(bigint)": "int[]",
        "pg_try_advisory_lock(numeric)": "boolean", "pg_has_role(name, oid, varchar)": "boolean",
    }  # fmt: skip
    with empty.connect(user=role) as connection, connection.cursor() as cursor:
        for name, gives in functions.items():
            cursor.execute(ATTACK.format(name=name, gives=gives))
    create(project)
    engine = create_engine(empty.url.replace("postgresql:", "postgresql+psycopg2:"))

    with engine.connect() as given:
        command.upgrade(project.config(**({"connection": given} if by == "a connection" else {})), "head")
    engine.dispose()

    assert empty.value("SELECT version_num FROM alembic_version") == "001"
    empty.rows(f"DROP OWNED BY {role}")
    empty.rows(f"DROP ROLE {role}")


@pytest.mark.parametrize("taken", ["schema", "table", "trigger", "rule"])
def test_what_belongs_to_somebody_else_is_refused(empty: Database, project: Project, taken: str) -> None:
    """The guard's schema or the version table of a foreign role, or code hung on it: exit 1, the SQL to run, no code run."""
    role, migrator = f"mallory_{empty.name}", f"migrator_{empty.name}"
    empty.rows(f"CREATE ROLE {role} LOGIN")
    empty.rows(f"CREATE ROLE {migrator} LOGIN")
    empty.rows(f"GRANT CREATE ON DATABASE {empty.name} TO {role}, {migrator}")
    empty.rows(f"GRANT CREATE ON SCHEMA public TO {role}, {migrator}")
    create(project)
    owner = migrator if taken in ("trigger", "rule") else role
    with empty.connect(user=owner) as connection, connection.cursor() as cursor:
        if taken == "schema":
            cursor.execute(f"CREATE SCHEMA migration; GRANT ALL ON SCHEMA migration TO {migrator}")
        else:
            cursor.execute(
                f"CREATE TABLE alembic_version (version_num text); GRANT ALL ON alembic_version TO {migrator}, {role}"
            )
    if taken == "trigger":
        empty.rows("CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$")
        with empty.connect(user=role) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TRIGGER own BEFORE INSERT ON alembic_version FOR EACH ROW EXECUTE FUNCTION t()")
    elif taken == "rule":
        empty.rows("CREATE RULE own AS ON INSERT TO alembic_version DO ALSO NOTIFY x")

    done = project.alembic("upgrade", "head", DATABASE_URL=dataclasses.replace(empty, user=migrator).url)
    there = empty.value("SELECT to_regclass('a')")
    sql = done.stderr.partition("psql -c '")[2].partition("'")[0]
    empty.rows(sql)
    again = project.alembic("upgrade", "head", DATABASE_URL=dataclasses.replace(empty, user=migrator).url)
    empty.rows(f"DROP OWNED BY {role}, {migrator} CASCADE")
    empty.rows(f"DROP ROLE {role}, {migrator}")

    assert (done.returncode, there) == (1, None), done.stderr
    assert "Nothing was changed" in done.stderr
    assert again.returncode == 0, again.stderr


def newest() -> list[tuple[str, str]]:
    """For each of the guard's tables that has got columns since it was first made, the last one of them."""
    statements = re.findall(
        r"ALTER TABLE \{schema\}\.(\w+)\s+(ADD COLUMN[^;]*);", history._TABLES + manifest_tables.TABLES
    )
    added = [(table, re.findall(r"ADD COLUMN IF NOT EXISTS (\w+)", text)[-1]) for table, text in statements]
    return list(dict(added).items())


@pytest.mark.parametrize(("table", "column"), newest())
def test_an_installation_of_an_earlier_version_gets_what_it_lacks(
    empty: Database, project: Project, table: str, column: str
) -> None:
    """The next run that changes something adds it, so that going back works at once."""
    create(project)
    project.upgrade()
    empty.rows(f"ALTER TABLE migration.{table} DROP COLUMN {column}")

    project.downgrade("base")

    assert empty.value("SELECT to_regclass('a') IS NULL")
    there = "SELECT count(*) FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s AND NOT attisdropped"
    assert empty.value(there, f"migration.{table}", column) == 1
