"""Whether an application may start: told by phases in the database, also of revisions that this build has never seen."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from mcp_planner_schema import check_compatible, cli
from mcp_planner_schema.cli import change, write
from mcp_planner_schema.compatible import Compatibility, Incompatible, chain
from mcp_planner_schema.compatible.chain import Revision
from mcp_planner_schema.inspect import known
from tests.conftest import HEAD, ROOT, Database, Project

Asked = Callable[..., Compatibility]
BASE = [Revision("001", (), "expand")]
"""A build that knows the first revision and no other."""


def connect(database: Database, driver: str = "psycopg2", **options: str) -> sa.Engine:
    """An application's engine."""
    user = options.get("user", database.user)
    url = database.url.replace("postgresql:", f"postgresql+{driver}:").replace(f"{database.user}@", f"{user}@")
    return sa.create_engine(url, poolclass=sa.NullPool)


@pytest.fixture
def ask(empty: Database) -> Iterator[Asked]:
    """Asks the test's database as an application would, on a connection of its own."""

    def asked(**options: object) -> Compatibility:
        with connect(empty).connect() as connection:
            return check_compatible(connection, **options)  # type: ignore[arg-type]

    yield asked


def history(project: Project, *phases: str) -> None:
    """Revisions 001, 002, … of these phases."""
    for number, phase in enumerate(phases, 1):
        project.revision(
            f"{number:03}", f"create_t{number}", f'op.execute("CREATE TABLE t{number} ()")', f'op.drop_table("t{number}")',
            phase=phase,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("at", "state", "ok", "missing"),
    [(HEAD, "exact", True, []), ("023", "contract_pending", True, ["024"]), ("022", "too_old", False, ["023", "024"])],
)
def test_the_package_knows_its_own_revisions(
    database: Database, at: str, state: str, ok: bool, missing: list[str]
) -> None:
    """At head it starts, before its own contract too (that waits until no older release runs), before a fill it does not."""
    database.rows("UPDATE alembic_version SET version_num = %s", at)

    with connect(database).connect() as connection:
        found = check_compatible(connection)

    assert (found.state, found.ok, found.database, found.build) == (state, ok, (at,), (HEAD,))
    assert [one.revision for one in found.missing][: len(missing)] == missing
    assert at in found.text


def test_an_empty_database_is_too_old(ask: Asked) -> None:
    """Without a version table every revision is missing, and require() says so."""
    found = ask()

    assert (found.state, len(found.missing), found.database) == ("too_old", int(HEAD), ())
    with pytest.raises(Incompatible, match=f"this build needs {int(HEAD)} revisions more") as caught:
        found.require()
    assert caught.value.found == found


@pytest.mark.parametrize(
    ("phases", "state", "ok"),
    [
        (["expand", "expand"], "newer_additive", True),
        (["expand", "expand", "migrate"], "newer_additive", True),
        (["expand", "contract"], "newer_breaking", False),
        (["expand", "contract", "expand"], "newer_breaking", False),
    ],
)
def test_what_this_build_has_never_seen_is_told_by_its_phases(
    project: Project, ask: Asked, phases: list[str], state: str, ok: bool
) -> None:
    """Ahead by expand and migrate it starts, behind a contract it does not; each revision is named with its phase."""
    history(project, *phases)
    project.upgrade()

    found = ask(revisions=BASE)

    assert (found.state, found.ok) == (state, ok)
    assert [(one.revision, one.phase, one.description) for one in found.ahead] == [
        (f"{number:03}", phase, f"Create t{number}") for number, phase in enumerate(phases[1:], 2)
    ]
    assert all(f"{one.revision}  {one.description}  [{one.phase}]" in found.text for one in found.ahead)


def test_two_histories_are_told_apart_from_one_that_is_behind(project: Project, ask: Asked) -> None:
    """A database that has other revisions than this build, and lacks this build's, is diverged."""
    history(project, "expand", "expand")
    project.upgrade()

    found = ask(revisions=[*BASE, Revision("abc", ("001",), "expand")])

    assert (found.state, found.ok) == ("diverged", False)
    assert ([one.revision for one in found.missing], [one.revision for one in found.ahead]) == (["abc"], ["002"])


def test_a_folder_of_another_project_is_read_and_not_imported(project: Project, ask: Asked) -> None:
    """script_directory names revisions as text: one that would end the process when imported is read all the same."""
    history(project, "expand")
    project.upgrade()
    project.write(
        "a2_later.py", 'revision: str = "a2"\ndown_revision = ("001",)\ndepends_on = None\nraise SystemExit\n'
    )

    found = ask(script_directory=project.folder / "alembic")

    assert (found.state, [one.revision for one in found.missing]) == ("too_old", ["a2"])


def test_other_tables_are_asked_where_they_are_named(project: Project, ask: Asked, empty: Database) -> None:
    """version_table, its schema and the guard's schema may have other names."""
    project.configure(schema="migration_x")
    (project.folder / "alembic" / "env.py").write_text(
        "from alembic import context\nfrom mcp_planner_schema.guard import run\n"
        'run(context, version_table="ver", version_table_schema="App")\n'
    )
    empty.rows('CREATE SCHEMA "App"')
    history(project, "expand", "migrate")
    project.upgrade()

    found = ask(revisions=BASE, version_table="ver", version_table_schema="App", guard_schema="migration_x")

    assert (found.state, found.database) == ("newer_additive", ("002",))


def test_a_revision_without_a_header_is_of_no_phase(project: Project, ask: Asked) -> None:
    """Where nobody has said what a newer revision does, nobody is told to start."""
    project.configure(headers="optional")
    history(project, "expand")
    project.write(
        "b2_x.py", '"""More."""\nrevision = "b2"\ndown_revision = "001"\ndef upgrade(): pass\ndef downgrade(): pass\n'
    )
    project.upgrade()

    found = ask(revisions=BASE)

    assert (found.state, found.ok, found.ahead) == ("unknown", False, (Revision("b2", ("001",), None, "More"),))
    assert "Nobody has recorded which phase" in found.text


def test_what_was_applied_before_phases_were_kept_is_read_from_its_source(
    project: Project, ask: Asked, empty: Database
) -> None:
    """Without the table, the kept sources say it; they are read and never run. The next run fills the table."""
    history(project, "expand", "contract")
    project.upgrade()
    empty.rows("UPDATE migration.history SET source = source || E'\\nraise SystemExit(1)\\n'")
    empty.rows("DROP TABLE migration.revision")

    found = ask(revisions=BASE)
    history(project, "expand", "contract", "expand")
    empty.rows("UPDATE migration.history SET source = NULL, checksum = NULL")
    project.upgrade()
    again = ask(revisions=BASE)

    assert (found.state, [one.phase for one in found.ahead]) == ("newer_breaking", ["contract"])
    assert (again.state, [one.phase for one in again.ahead]) == ("newer_breaking", ["contract", "expand"])


def test_what_a_stamp_passes_over_is_known(project: Project, ask: Asked) -> None:
    """A version that was moved by hand has the phases of all revisions behind it."""
    history(project, "expand", "migrate", "expand")
    project.upgrade("001")

    command.stamp(project.config(reason="a test"), "003")

    assert [(one.revision, one.phase) for one in ask(revisions=BASE).ahead] == [("002", "migrate"), ("003", "expand")]


def test_a_version_that_nobody_has_recorded_is_unknown(project: Project, ask: Asked, empty: Database) -> None:
    """A row that somebody wrote into the version table says nothing of what is missing."""
    history(project, "expand")
    project.upgrade()
    empty.rows("UPDATE alembic_version SET version_num = 'zzz'")

    found = ask(revisions=BASE)

    assert (found.state, found.ok, found.missing) == ("unknown", False, ())
    assert "deploy the build that has them" in found.text


def test_a_step_that_fails_has_left_no_phase(project: Project, empty: Database) -> None:
    """What is kept of a revision commits with its step, or not at all."""
    history(project, "expand")
    project.revision("002", "create_x", 'op.execute("SELECT 1/0")', 'op.execute("SELECT 1")')

    with pytest.raises(Exception, match="division by zero"):
        project.upgrade()

    assert empty.rows("SELECT revision, phase, file FROM migration.revision") == [("001", "expand", "001_create_t1.py")]


# --- the application's connection -------------------------------------------------------------------------------------


@pytest.fixture
def app(empty: Database) -> Iterator[str]:
    """An application's role, which may read the version table and nothing of the guard's."""
    role = f"app_{empty.name}"
    empty.rows(f"CREATE ROLE {role} LOGIN; CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
    yield role
    empty.rows(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_who_may_read_the_version_may_read_the_phases(project: Project, empty: Database, app: str) -> None:
    """A role with SELECT on the version table gets the answer, and still no other table of the guard's; no error in between."""
    history(project, "expand", "contract")
    project.upgrade()
    engine, answers = connect(empty, user=app), []

    with engine.connect() as connection:
        answers.append(check_compatible(connection, revisions=BASE))
        empty.rows(f"GRANT SELECT ON alembic_version TO {app}")
        answers.append(check_compatible(connection, revisions=BASE))
        history(project, "expand", "contract", "expand")
        project.upgrade()
        answers.append(check_compatible(connection, revisions=BASE))
        may = sa.text("SELECT has_table_privilege('migration.history', 'SELECT')")
        reads = connection.scalar(may)

    assert [one.state for one in answers] == ["unknown", "unknown", "newer_breaking"]
    assert "may not read the version table" in answers[0].text
    assert "GRANT USAGE ON SCHEMA" in answers[1].text
    assert reads is False


def test_nobody_is_let_in_to_more_than_that(project: Project, empty: Database, app: str) -> None:
    """Where default privileges have given the guard's tables away, the right to use their schema is not given on top."""
    empty.rows(f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {app}; GRANT SELECT ON alembic_version TO {app}")
    history(project, "expand")

    project.upgrade()

    assert empty.value(f"SELECT has_schema_privilege('{app}', 'migration', 'USAGE')") is False


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_the_caller_s_connection_is_left_as_it_was(project: Project, empty: Database, app: str, driver: str) -> None:
    """A transaction of the caller's goes on, what it has set and written is there; where it has none, none is left."""
    history(project, "expand", "expand")
    project.upgrade()

    with connect(empty, driver, user=app).connect() as connection:
        check_compatible(connection, revisions=BASE)
        before = connection.in_transaction()
        connection.execute(sa.text("CREATE TEMP TABLE mine AS SELECT 1 AS n"))
        connection.execute(sa.text("SET LOCAL statement_timeout = '77s'"))
        timeout, path = "current_setting('statement_timeout')", "current_setting('search_path')"
        show = f"SELECT pg_current_xact_id()::text, {timeout}, {path}, n FROM mine"
        stood = connection.execute(sa.text(show)).one()
        check_compatible(connection, revisions=BASE)
        after = connection.execute(sa.text(show)).one()

    assert before is False
    assert stood == after
    assert stood[1] == "77s"


def test_it_runs_in_a_transaction_that_may_only_read(project: Project, empty: Database) -> None:
    """It needs no right to write, and works on a standby's kind of transaction."""
    history(project, "expand", "expand")
    project.upgrade()

    with connect(empty).connect().execution_options(postgresql_readonly=True) as connection, connection.begin():
        found = check_compatible(connection, revisions=BASE)

    assert found.state == "newer_additive"


def test_an_application_that_starts_loads_no_migrations(database: Database, tmp_path: Path) -> None:
    """As a wheel has it, without the revisions' folder: the answer is right, and neither Alembic nor the guard is loaded."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "mcp_planner_schema", tmp_path / "mcp_planner_schema", ignore=ignore)
    code = (
        "import sys, mcp_planner_schema\n"
        "print('sqlalchemy' in sys.modules)\n"
        "import sqlalchemy as sa\n"
        f"with sa.create_engine({database.url.replace('postgresql:', 'postgresql+psycopg2:')!r}).connect() as connection:\n"
        "    print(mcp_planner_schema.check_compatible(connection).state)\n"
        "print([name for name in sys.modules if name.startswith(('alembic', 'mcp_planner_schema.guard'))])\n"
    )

    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert ran.stdout.splitlines() == ["False", "exact", "[]"], ran.stderr


def test_the_package_s_list_follows_the_files() -> None:
    """mcp_planner_schema/compatible/known.py is what ``make known-revisions`` (and migrate-up in development) writes today."""
    assert known.place(ROOT).read_text(encoding="utf-8") == known.text(ROOT / "alembic")


def test_migrate_up_takes_no_revision_out_of_the_list(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is not here may be another branch's: that is told, and known.py stays; make known-revisions takes it out."""
    shutil.copytree(ROOT / "alembic", tmp_path / "alembic", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    known.place(tmp_path).parent.mkdir(parents=True)
    shutil.copy(known.place(ROOT), known.place(tmp_path))
    for module in (cli, change, write):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    next((tmp_path / "alembic" / "versions").glob(f"{HEAD}_*.py")).unlink()
    database.rows("UPDATE alembic_version SET version_num = %s", f"{int(HEAD) - 1:03}")

    code = cli.main(["migrate-up"])
    told, kept = capsys.readouterr().err, known.place(tmp_path).read_text()
    cli.main(["known-revisions"])

    assert code == 0
    recover = f"a file of what was applied: make migrate-recover VERSION={HEAD}"
    assert f"known.py names {HEAD}, of which no file is here; {recover}; gone for good: make known-revisions" in told
    assert kept == known.place(ROOT).read_text()
    assert known.lost(tmp_path) == [] and f'("{HEAD}"' not in known.place(tmp_path).read_text()


def test_what_cannot_be_read_is_no_revision(tmp_path: Path) -> None:
    """Broken Python, a computed id and a NUL are passed over; a folder without any revision is an error."""
    assert [chain.of_text(text) for text in ("def (", "revision = str(1)", "x = 1", "\0")] == [None] * 4
    with pytest.raises(FileNotFoundError, match="there is no revision in"):
        chain.of_folder(tmp_path)
