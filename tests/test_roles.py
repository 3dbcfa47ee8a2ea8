"""scripts/roles.sql: an owner, a migrator and an application, each with no more than it needs."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable

import psycopg2
import pytest
from psycopg2 import errors

from mcp_planner_schema import cli
from tests.catalog import kept
from tests.conftest import HEAD, ROOT, Database


@pytest.fixture
def roles(empty: Database, built: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database on which roles.sql was run twice, migrated to head by the migrator."""

    def given(database: Database) -> None:
        ran = database.psql(ROOT / "scripts" / "roles.sql")
        assert ran.returncode == 0, ran.stderr

    def build(database: Database) -> None:
        given(database)
        given(database)
        monkeypatch.setenv("DATABASE_URL", dataclasses.replace(database, user="mcp_task_migrator").url)
        assert cli.main(["migrate-up"]) == 0

    built(empty, "roles", build)
    given(empty)  # rights on a database as such are not copied with it
    monkeypatch.setenv("DATABASE_URL", dataclasses.replace(empty, user="mcp_task_migrator").url)
    return empty


def test_a_migrated_database_can_be_given_to_the_roles(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a database that a superuser migrated, roles.sql leaves the migrator able to go on and the application to work."""
    ran = database.psql(ROOT / "scripts" / "roles.sql")
    monkeypatch.setenv("DATABASE_URL", dataclasses.replace(database, user="mcp_task_migrator").url)

    down = cli.main(["migrate-down", "STEPS=3"])
    up = cli.main(["migrate-up"])

    assert ran.returncode == 0, ran.stderr
    assert (down, up) == (0, 0)
    with database.connect(user="mcp_task_application") as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO projects (name, description) VALUES ('a', 'b')")
        cursor.execute("SELECT status FROM steps")
        cursor.execute("SELECT max(revision) FROM migration.revision")  # what check_compatible asks
        assert cursor.fetchone() == (HEAD,)


def test_a_reset_leaves_the_roles_their_rights(roles: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reset by the migrator the application works as before."""
    monkeypatch.setenv("PLANNER_ENV", "development")

    code = cli.main(["migrate-reset"])

    assert code == 0
    with roles.connect(user="mcp_task_application") as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO projects (name, description) VALUES ('a', 'b')")
        cursor.execute("SELECT version_num FROM alembic_version")
        assert cursor.fetchone() == (HEAD,)


def test_what_the_migrator_makes_belongs_to_the_owner(roles: Database) -> None:
    """Every table of public and of the guard is the owner's, and the history names the migrator."""
    owners = roles.rows("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname IN ('public', 'migration')")

    assert owners == [("mcp_task_owner",)]
    assert roles.rows("SELECT DISTINCT db_user FROM migration.run") == [("mcp_task_migrator",)]


def test_the_application_reads_and_writes_rows(roles: Database) -> None:
    """The application inserts, reads, changes and deletes rows of every kind of table."""
    with roles.connect(user="mcp_task_application") as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO projects (name, description) VALUES ('a', 'b') RETURNING id")
        (project,) = cursor.fetchone()
        cursor.execute("UPDATE projects SET name = 'c' WHERE id = %s", (project,))
        cursor.execute("SELECT version_num FROM alembic_version")
        version = cursor.fetchone()
        cursor.execute("DELETE FROM projects")

        assert version == (HEAD,)
        assert cursor.rowcount == 1


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (id int)",
        "ALTER TABLE projects ADD COLUMN mine int",
        "DROP TABLE projects",
        "TRUNCATE projects CASCADE",
        "UPDATE alembic_version SET version_num = '001'",
        "DELETE FROM alembic_version",
        "SELECT * FROM migration.history",
        "CREATE SCHEMA mine",
        "SET ROLE mcp_task_owner",
    ],
)
def test_the_application_can_change_no_schema(statement: str, roles: Database) -> None:
    """What belongs to migrations is refused to the application."""
    with (
        roles.connect(user="mcp_task_application") as connection,
        connection.cursor() as cursor,
        pytest.raises(errors.InsufficientPrivilege),
    ):
        cursor.execute(statement)


@pytest.mark.parametrize("table", ["audit_logs", "audit_logs_default", "threshold_changes"])
def test_the_application_only_reads_the_log(table: str, roles: Database) -> None:
    """Triggers write log, partitions and thresholds; the application reads, no more."""
    with roles.connect(user="mcp_task_application") as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO projects (name, description) VALUES ('a', 'b')")
        cursor.execute("SELECT (SELECT count(*) FROM audit_logs), (SELECT count(*) FROM threshold_changes)")
        assert cursor.fetchone() == (1, 1)
        cursor.execute(f"SELECT * FROM {table}")
        for statement in (f"INSERT INTO {table} DEFAULT VALUES", f"UPDATE {table} SET id = id", f"DELETE FROM {table}",
                          f"TRUNCATE {table}"):  # fmt: skip
            with pytest.raises(errors.InsufficientPrivilege):
                cursor.execute(statement)


@pytest.mark.parametrize("function", ["write_audit_log", "write_audit_row", "record_threshold_change"])
def test_nobody_makes_a_trigger_of_what_acts_as_its_owner(function: str, database: Database) -> None:
    """On a table of one's own such a trigger would forge the log, or call one's own casts as the owner: no right to it."""
    role = f"app_{uuid.uuid4().hex[:12]}"
    database.rows(f"CREATE ROLE {role} LOGIN")

    with database.connect(user=role) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE projects (id uuid, complexity_threshold float8)")
        with pytest.raises(errors.InsufficientPrivilege):
            cursor.execute(
                f"CREATE TRIGGER x AFTER INSERT ON projects FOR EACH ROW EXECUTE FUNCTION public.{function}()"
            )

    database.rows(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_the_owner_cannot_log_in(roles: Database) -> None:
    """Nobody connects as the owner."""
    with (
        pytest.raises(psycopg2.OperationalError, match="not permitted to log in"),
        roles.connect(user="mcp_task_owner"),
    ):
        pass


@pytest.mark.long
def test_the_migrator_goes_back_and_forth(roles: Database) -> None:
    """Without superuser a downgrade keeps what it drops, and the way up brings it back."""
    roles.rows("INSERT INTO projects (name, description) VALUES ('a', 'b')")

    assert cli.main(["migrate-goto", "VERSION=base"]) == 0
    stashed = roles.rows(f"SELECT name, description FROM {kept(roles)['projects']}")
    assert cli.main(["migrate-up"]) == 0

    assert stashed == [("a", "b")]
    assert roles.rows("SELECT name, description FROM projects") == [("a", "b")]
    assert roles.value("SELECT version_num FROM alembic_version") == HEAD
