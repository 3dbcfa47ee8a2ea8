"""A database that Prisma Migrate has migrated goes on under the guard: by its rows, its checksums and its catalog."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest

from mcp_planner_schema import cli
from mcp_planner_schema.guard import connect, fingerprint
from mcp_planner_schema.guard.address import parse
from mcp_planner_schema.guard.findings import Broken, Busy, Refused, WrongUse
from mcp_planner_schema.interop.prisma import adopt, imported
from tests import prisma as prisma_engine
from tests.conftest import Database, Project
from tests.prisma_migrate import Failed, Prisma
from tests.test_prisma_import import write

FOLDER: dict[str, bytes | dict[str, bytes]] = {
    "0_init": b'-- CreateTable\r\nCREATE TABLE "User" (\r\n    "id" SERIAL NOT NULL,\r\n    "mail" TEXT NOT NULL,\r\n\r\n'
    b'    CONSTRAINT "User_pkey" PRIMARY KEY ("id")\r\n);\r\n',
    "20240101000000_index": b'CREATE INDEX CONCURRENTLY "User_mail_idx" ON "User"("mail");',
    "20240102000000_nothing": b"-- This is an empty migration.",
    "20240103000000_mood": {
        "migration.sql": b"-- CreateEnum\nCREATE TYPE \"Mood\" AS ENUM ('good', 'bad');\n\n-- AlterTable\n"
        b"ALTER TABLE \"User\" ADD COLUMN \"mood\" \"Mood\";\nALTER TABLE \"User\" ADD CONSTRAINT \"mail\" CHECK (mail ~ '@');\n",
        "down.sql": b'ALTER TABLE "User" DROP CONSTRAINT "mail", DROP COLUMN "mood";\nDROP TYPE "Mood";\n',
    },
}  # fmt: skip
NAMES = list(FOLDER)


def digest(database: Database) -> str:
    """What the catalog is like, without the two tools' own rows."""
    engine = connect.engine(parse(database.url).set(drivername="postgresql+psycopg2"), "the test")
    with connect.opened(engine) as connection:
        found = fingerprint.read(connection, "migration", without=("alembic_version", "_prisma_migrations"))
        connection.rollback()
    engine.dispose()
    return str(fingerprint.of(fingerprint.together(found)))


def attempts(database: Database) -> list[tuple[str, bool, bool]]:
    """Prisma's rows: the name, whether it has ended, whether it was rolled back."""
    return database.rows("SELECT migration_name, finished_at IS NOT NULL, rolled_back_at IS NOT NULL FROM _prisma_migrations "
                         "ORDER BY started_at")  # fmt: skip


def version(database: Database) -> str | None:
    """Where Alembic says the database is."""
    there = database.value("SELECT to_regclass('alembic_version') IS NOT NULL")
    return str(database.value("SELECT version_num FROM alembic_version")) if there else None


@pytest.fixture(scope="module")
def catalogs() -> dict[str, Path]:
    """Where the first test has left what the revisions make of the catalog."""
    return {}


@pytest.fixture
def both(
    new_database: Callable[[], Database], catalogs: dict[str, Path], project: Project, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Prisma, Database, Project]:  # fmt: skip
    """Prisma's folder, a database of its own, empty, and the folder's revisions, with fingerprints, in a project."""
    source = write(tmp_path / "migrations", FOLDER)
    imported.write(project.config(), source, "A Tester <tester@example.org>")
    alembic = project.folder / "alembic"
    if "alembic" in catalogs:
        shutil.copytree(catalogs["alembic"] / "catalog", alembic / "catalog")
        shutil.copy(catalogs["alembic"] / "fingerprints", alembic)
    else:
        (alembic / "fingerprints").touch()
        by_guard, by_prisma = new_database(), new_database()
        monkeypatch.setenv("DATABASE_URL", by_guard.url)
        project.upgrade()
        Prisma(source, by_prisma).deploy()
        assert digest(by_guard) == digest(by_prisma)
        catalogs["alembic"] = alembic
    database = new_database()
    monkeypatch.setenv("DATABASE_URL", database.url)
    return Prisma(source, database), database, project


def test_a_database_is_adopted_where_its_rows_say(
    both: tuple[Prisma, Database, Project], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The revision of the last migration that has ended is stamped, the history says from where, and the guard goes on."""
    prisma, database, project = both
    prisma.deploy(NAMES[2])
    monkeypatch.setattr(cli, "ROOT", project.folder)
    before = attempts(database)

    code = cli.main(["migrate-adopt", "FROM=prisma"])
    told = capsys.readouterr().out
    project.upgrade()
    project.downgrade("003")

    said = "_prisma_migrations said 3 migrations applied, the last 20240102000000_nothing"
    assert code == 0 and f"{said}; the database is at 003" in told
    assert (version(database), attempts(database)) == ("003", before)
    assert database.rows("SELECT revision, direction, description FROM migration.history ORDER BY id LIMIT 1") == [
        ("003", "stamp", f"adopted from prisma: {said}")
    ]
    assert database.rows("SELECT tool, relation, keep, version, revision FROM migration.adopted") == [
        ("prisma", "public._prisma_migrations", False, "20240102000000_nothing", "003")
    ]


def test_another_text_than_the_one_that_was_applied_takes_a_reason(both: tuple[Prisma, Database, Project]) -> None:
    """A checksum and a row that no revision explains are told by their names; the reason is kept, and what it was given for."""
    prisma, database, project = both
    prisma.deploy()
    database.rows("UPDATE _prisma_migrations SET checksum = repeat('0', 64) WHERE migration_name = '0_init'")
    database.rows(
        "INSERT INTO _prisma_migrations (id, checksum, migration_name, finished_at) VALUES ('x', 'y', 'squashed', now())"
    )

    with pytest.raises(Refused) as caught:
        adopt.adopt(project.config())
    assert version(database) is None and database.value("SELECT to_regclass('migration.run')") is None
    adopt.adopt(project.config(), reason="only a comment was changed")

    (finding,) = caught.value.findings
    assert finding.code == "adopted-otherwise" and caught.value.next_command.endswith('REASON="…"')
    assert (
        "0_init (revision 001)" in finding.values["differences"]
        and "squashed was applied" in finding.values["differences"]
    )
    kept = str(database.value("SELECT description FROM migration.history"))
    assert version(database) == "004" and "0_init" in kept and kept.endswith("; only a comment was changed")


def test_another_catalog_is_not_adopted_without_a_reason(both: tuple[Prisma, Database, Project]) -> None:
    """What differs is named, object by object, and nothing is written."""
    prisma, database, project = both
    prisma.deploy()
    database.rows('ALTER TABLE "User" ADD extra int; DROP INDEX "User_mail_idx"')

    with pytest.raises(Refused) as caught:
        adopt.adopt(project.config())

    (finding,) = caught.value.findings
    assert finding.code == "stamp-differs" and all(
        one in finding.values["differences"] for one in ("extra", "User_mail_idx")
    )
    assert version(database) is None and database.value("SELECT to_regclass('migration.run')") is None


@pytest.mark.parametrize(
    ("sql", "says", "then"),
    [
        ("DROP TABLE _prisma_migrations", "has no table _prisma_migrations", "TABLE=schema._prisma_migrations"),
        ("ALTER TABLE _prisma_migrations DROP logs", "is not Prisma's", "TABLE="),
        (
            "DELETE FROM _prisma_migrations WHERE migration_name ~ 'index'",
            r"no row for 20240101000000_index \(revision 002\), and one for 20240103000000_mood \(revision 004\)",
            "npx prisma migrate deploy, then make migrate-adopt FROM=prisma   (or, where it is there all the same, "
            "make migrate-adopt FROM=prisma AT=004)",
        ),
        (
            "UPDATE _prisma_migrations SET migration_name = 'other', finished_at = NULL WHERE migration_name ~ 'mood'",
            "other, begun at .*No revision came from it",
            "make migrate-import FROM=prisma",
        ),
    ],
)  # fmt: skip
def test_rows_that_say_nothing_known_are_told(
    sql: str, says: str, then: str, both: tuple[Prisma, Database, Project]
) -> None:
    """One sentence on what is wrong with the rows, the command to type next, and nothing is changed."""
    prisma, database, project = both
    prisma.deploy()
    database.rows(sql)

    with pytest.raises((WrongUse, Broken), match=says) as caught:
        adopt.adopt(project.config())

    assert then in caught.value.next_command
    assert version(database) is None and database.value("SELECT to_regclass('migration.run')") is None


def test_code_on_prismas_table_is_not_run(both: tuple[Prisma, Database, Project]) -> None:
    """A trigger on it would run as whoever adopts, when a failed attempt is resolved: told, and it was not run."""
    prisma, database, project = both
    prisma.deploy()
    database.rows(
        "CREATE SEQUENCE touched; CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM nextval('public.touched'); RETURN NEW; END $$;"
        "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON _prisma_migrations FOR EACH ROW EXECUTE FUNCTION touch()"
    )

    with pytest.raises(Broken, match="carries the trigger t"):
        adopt.adopt(project.config(), reason="it is so")

    assert database.value("SELECT is_called FROM touched") is False and version(database) is None


@pytest.mark.long
def test_a_gap_that_is_none_is_passed_over_by_name(both: tuple[Prisma, Database, Project]) -> None:
    """Where the catalog is what the revisions up to AT make of it, a missing row does no harm."""
    prisma, database, project = both
    prisma.deploy()
    database.rows("DELETE FROM _prisma_migrations WHERE migration_name ~ 'index'")

    adopt.adopt(project.config(), at="004")

    assert version(database) == "004"


@pytest.mark.long
def test_a_baseline_that_was_never_run_is_adopted(both: tuple[Prisma, Database, Project]) -> None:
    """``migrate resolve --applied 0_init`` on a database that had its tables before: its row is like any other."""
    prisma, database, project = both
    database.rows((prisma.folder / "0_init" / "migration.sql").read_text())
    prisma.resolve(applied="0_init")

    adopt.adopt(project.config())
    project.upgrade()

    assert version(database) == "004"


@pytest.mark.long
def test_a_branch_that_was_merged_late_is_no_gap(
    both: tuple[Prisma, Database, Project], new_database: Callable[[], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Applied by Prisma after a later one, imported behind it: database and revisions have the same order."""
    prisma, database, project = both
    prisma.deploy()
    late = prisma.folder / "20240101120000_late"
    late.mkdir()
    (late / "migration.sql").write_text('CREATE TABLE "Late" (id int);')
    imported.write(project.config(), prisma.folder, "A Tester <tester@example.org>")
    by_guard = new_database()
    monkeypatch.setenv("DATABASE_URL", by_guard.url)
    project.upgrade()
    monkeypatch.setenv("DATABASE_URL", database.url)

    assert prisma.deploy() == ["20240101120000_late"]
    adopt.adopt(project.config())

    assert version(database) == "005" and digest(database) == digest(by_guard)


def test_nobody_adopts_while_prisma_is_at_work(both: tuple[Prisma, Database, Project]) -> None:
    """Its lock is respected: busy, and nothing is stamped."""
    prisma, database, project = both
    prisma.deploy()

    with prisma._locked(), pytest.raises(Busy, match="Prisma Migrate is at work"):
        adopt.adopt(project.config())

    assert version(database) is None


@pytest.mark.long
def test_prismas_table_may_lie_in_another_schema(both: tuple[Prisma, Database, Project]) -> None:
    """``?schema=app`` in Prisma's URL: TABLE names it."""
    prisma, database, project = both
    prisma.deploy()
    database.rows('CREATE SCHEMA "my app"; ALTER TABLE _prisma_migrations SET SCHEMA "my app"')

    adopt.adopt(project.config(), table="my app._prisma_migrations", reason="the schema is not in the revisions")

    assert version(database) == "004"
    assert database.value("SELECT relation FROM migration.adopted") == "my app._prisma_migrations"


# --- half done ----------------------------------------------------------------------------------------------------------


def failed(both: tuple[Prisma, Database, Project]) -> str:
    """What the command says of a failed migration; it changes nothing."""
    _, database, project = both
    before = (digest(database), attempts(database))
    with pytest.raises(Broken) as caught:
        adopt.adopt(project.config())
    assert (digest(database), attempts(database), version(database)) == (*before, None)
    assert database.value("SELECT to_regclass('migration.run')") is None
    return f"{caught.value.message}\nnext: {caught.value.next_command}"


def test_a_file_that_failed_as_a_whole_leaves_only_its_row(both: tuple[Prisma, Database, Project]) -> None:
    """The transaction was undone: nothing is half done. AT says where it stands, and the row is resolved as Prisma would."""
    prisma, database, project = both
    prisma.deploy(NAMES[2])
    database.rows("INSERT INTO \"User\"(mail) VALUES ('nobody')")
    with pytest.raises(Failed):
        prisma.deploy()

    told = failed(both)
    adopt.adopt(project.config(), at="003")

    assert "20240103000000_mood, begun at" in told and 'check constraint "mail" of relation "User" is violated' in told
    assert "exactly what the revisions up to 003 make" in told and "make migrate-adopt FROM=prisma AT=003" in told
    assert version(database) == "003" and attempts(database)[3:] == [(NAMES[3], False, True)]
    database.rows('DELETE FROM "User"')
    assert prisma.deploy() == [NAMES[3]]


@pytest.mark.parametrize("way", ["To finish it:", pytest.param("To undo it:", marks=pytest.mark.long)])
def test_what_is_half_there_is_told_and_the_commands_lead_out(way: str, both: tuple[Prisma, Database, Project]) -> None:
    """Through a driver adapter each statement commits: the commands, typed as they stand, end in an adopted database, and
    Prisma's rows say the same of it."""
    prisma, database, project = both
    prisma.deploy(NAMES[2])
    database.rows("INSERT INTO \"User\"(mail) VALUES ('nobody')")
    prisma.adapter = True
    with pytest.raises(Failed):
        prisma.deploy()
    database.rows('DELETE FROM "User"')

    told = failed(both)
    block = told.partition(way)[2].partition("To undo it:")[0].partition("\nnext:")[0]
    commands = [line.strip() for line in block.strip().splitlines()]
    for one in commands[:-1]:
        sql = re.fullmatch(r"psql \"\$DATABASE_URL\" -c '(.*)'", one)
        assert sql, one
        database.rows(sql[1].replace("'\"'\"'", "'"))
    at = commands[-1].rpartition("AT=")[2]
    adopt.adopt(project.config(), at=at)

    assert 'done      type public."Mood" made' in told and 'not done  constraint public."User".mail made' in told
    assert version(database) == at == {"To finish it:": "004", "To undo it:": "003"}[way]
    assert attempts(database)[3:] == [(NAMES[3], False, True)] + [(NAMES[3], True, False)] * (at == "004")
    assert prisma.deploy() == ([] if at == "004" else [NAMES[3]])


@pytest.mark.long
def test_an_interrupted_index_is_told(both: tuple[Prisma, Database, Project]) -> None:
    """CREATE INDEX CONCURRENTLY that was killed leaves an index that is not valid, which is not the revision's."""
    prisma, database, _ = both
    prisma.deploy(NAMES[0])
    database.rows(
        "INSERT INTO _prisma_migrations (id, checksum, migration_name) VALUES ('k', 'c', '20240101000000_index')"
    )
    database.rows('CREATE INDEX "User_mail_idx" ON "User"("mail")')
    database.rows("UPDATE pg_index SET indisvalid = false WHERE indexrelid = '\"User_mail_idx\"'::regclass")

    told = failed(both)

    assert "or was killed. It is revision 002." in told and "INVALID" in told.upper()
    assert 'DROP INDEX CONCURRENTLY public."User_mail_idx"' in told


# --- the program --------------------------------------------------------------------------------------------------------

PROGRAM = prisma_engine.FOLDER / "node_modules" / ".bin" / "prisma"
NO_PROGRAM = prisma_engine.CANNOT_PULL or ("" if PROGRAM.exists() else "PLANNER_TEST_PRISMA has no prisma (6.19)")
needs_the_program = pytest.mark.skipif(bool(NO_PROGRAM), reason=NO_PROGRAM)
_CONFIG = """
import {{ defineConfig }} from 'prisma/config'
import {{ PrismaPg }} from '@prisma/adapter-pg'
export default defineConfig({{
  experimental: {{ adapter: true }},
  engine: 'js',
  schema: 'schema.prisma',
  migrations: {{ path: {path} }},
  adapter: async () => new PrismaPg({{ host: {host}, port: {port}, user: {user}, database: {name} }}),
}})
"""


def run_prisma(source: Path, database: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program itself, with its engine in WebAssembly and the driver adapter for PostgreSQL: no binary is downloaded."""
    home = source.parent / "prisma"
    if not home.exists():
        home.mkdir()
        (home / "node_modules").symlink_to(PROGRAM.parent.parent)
        (home / "schema.prisma").write_text(
            'datasource db {\n  provider = "postgresql"\n  url = "postgresql://unused"\n}\n'
        )
    values = {"path": str(source), "host": database.host, "user": database.user, "name": database.name}
    given = {key: json.dumps(value) for key, value in values.items()}
    (home / "prisma.config.ts").write_text(_CONFIG.format(port=database.port, **given))
    engine = str(shutil.which("true"))  # asked for, and not used
    environment = {
        "PRISMA_QUERY_ENGINE_LIBRARY": engine,
        "PRISMA_SCHEMA_ENGINE_BINARY": engine,
        "CHECKPOINT_DISABLE": "1",
    }
    return subprocess.run(
        [home / "node_modules" / ".bin" / "prisma", "migrate", *arguments], cwd=home, capture_output=True, text=True,
        env={**os.environ, **environment}, check=False,
    )  # fmt: skip


def program(database: Database, source: Path) -> Callable[..., str | None]:
    """``prisma migrate``, 6.19's command line: gives what it says where it fails."""

    def run(command: str, name: str = "") -> str | None:
        arguments = ["deploy"] if command == "deploy" else ["resolve", f"--{command.replace(' ', '-')}", name]
        ran = run_prisma(source, database, *arguments)
        assert ran.returncode in (0, 1)
        return ran.stderr if ran.returncode else None

    return run


@pytest.mark.long
@pytest.mark.parametrize(
    "which",
    [
        pytest.param("6.19", marks=needs_the_program),
        pytest.param("7.10", marks=pytest.mark.skipif(bool(prisma_engine.CANNOT_PULL), reason=prisma_engine.CANNOT_PULL)),
    ],
)  # fmt: skip
def test_the_program_and_the_executor_agree(
    which: str, new_database: Callable[[], Database], both: tuple[Prisma, Database, Project]
) -> None:
    """deploy, a failure in the middle, resolve both ways: the same rows, checksums, catalogs, and the same fail. Of 6.19 the
    command line, of 7.10 the engine that its command line calls."""
    rules, by_rules, _ = both
    rules.adapter = True
    by_program = new_database()
    engine = prisma_engine.Prisma() if which == "7.10" else nullcontext()

    def same(fails: bool, rule: Callable[[], object], command: str, name: str = "") -> None:
        said = run(command, name)
        assert bool(said) == fails, said
        try:
            rule()
        except Failed:
            assert fails, said
        else:
            assert not fails, said
        asked = ("SELECT migration_name, checksum, finished_at IS NULL, rolled_back_at IS NULL, applied_steps_count, "
                 "logs IS NULL FROM _prisma_migrations ORDER BY started_at")  # fmt: skip
        assert by_program.rows(asked) == by_rules.rows(asked), command
        assert digest(by_program) == digest(by_rules), command

    with engine as node:
        run = program(by_program, rules.folder) if node is None else partial(node.migrate, by_program.url, rules.folder)
        last, mood = rules.folder / NAMES[3], NAMES[3]
        last.rename(rules.folder.parent / "kept")
        same(False, rules.deploy, "deploy")
        (rules.folder.parent / "kept").rename(last)
        for database in (by_program, by_rules):
            database.rows("INSERT INTO \"User\"(mail) VALUES ('nobody')")
        same(True, rules.deploy, "deploy")
        same(True, rules.deploy, "deploy")
        same(False, lambda: rules.resolve(rolled_back=mood), "rolled back", mood)
        for database in (by_program, by_rules):
            database.rows('DELETE FROM "User"; ALTER TABLE "User" DROP COLUMN mood; DROP TYPE "Mood"')
        same(False, rules.deploy, "deploy")
        same(True, lambda: rules.resolve(applied=mood), "applied", mood)


@pytest.mark.long
@needs_the_program
def test_what_the_program_has_migrated_is_adopted(both: tuple[Prisma, Database, Project]) -> None:
    """Its own table and rows; a failure of its own is told and resolved, and the program then finds nothing to complain of."""
    prisma, database, project = both
    (prisma.folder / NAMES[3]).rename(prisma.folder.parent / "kept")
    assert run_prisma(prisma.folder, database, "deploy").returncode == 0
    (prisma.folder.parent / "kept").rename(prisma.folder / NAMES[3])
    database.rows("INSERT INTO \"User\"(mail) VALUES ('nobody')")
    assert run_prisma(prisma.folder, database, "deploy").returncode == 1

    told = failed(both)
    database.rows('DELETE FROM "User"; ALTER TABLE "User" ADD CONSTRAINT mail CHECK (mail ~ \'@\')')
    adopt.adopt(project.config(), at="004")

    assert 'check constraint "mail" of relation "User" is violated by some row' in told
    assert 'done      type public."Mood" made' in told and version(database) == "004"
    status = run_prisma(prisma.folder, database, "status")
    assert status.returncode == 0 and "Database schema is up to date" in status.stdout
