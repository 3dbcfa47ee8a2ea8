"""golang-migrate and the guard on the same databases: the same catalogs, and one takes over where the other has stopped."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, event

from mcp_planner_schema import cli
from mcp_planner_schema.guard import connect, fingerprint
from mcp_planner_schema.guard.address import parse
from mcp_planner_schema.guard.findings import Broken, Busy, Refused, WrongUse
from mcp_planner_schema.interop.golang import adopt, export, imported, keep, row
from tests.conftest import ROOT, Database, Project
from tests.golang import Failed, Migrate
from tests.test_golang import write


def lines(database: Database, table: str = "schema_migrations") -> fingerprint.Lines:
    """What the catalog is like, without the two tools' own rows."""
    engine = connect.engine(parse(database.url).set(drivername="postgresql+psycopg2"), "the test")
    with connect.opened(engine) as connection:
        found = fingerprint.together(fingerprint.read(connection, "migration", without=("alembic_version", table)))
        connection.rollback()
    engine.dispose()
    return found


def digest(database: Database) -> str:
    """The fingerprint of all that."""
    return str(fingerprint.of(lines(database)))


def version(database: Database) -> list[tuple[int, bool]]:
    """golang-migrate's row."""
    return database.rows("SELECT version, dirty FROM schema_migrations")


@pytest.fixture
def planner_kept() -> Config:
    """MCP-Planner's own history, with the line in alembic.ini that keeps golang-migrate's row."""
    config = Config(str(ROOT / "alembic.ini"))
    config.set_section_option("guard", "on_version_apply", keep.NAME)
    return config


def test_the_planners_history_is_the_same_under_both(
    new_database: Callable[[], Database], database: Database, tmp_path: Path, planner_kept: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Exported and applied file by file it has Alembic's fingerprint; adopted, the guard goes on; reverted it is as before."""
    other, head = new_database(), digest(database)
    before = digest(other)
    export.write(planner_kept, tmp_path / "migrations")
    golang = Migrate(tmp_path / "migrations", other)

    golang.up()
    assert (digest(other), version(other)) == (head, [(24000, False)])

    monkeypatch.setenv("DATABASE_URL", other.url)
    adopt.adopt(planner_kept, keeping=True)
    command.downgrade(planner_kept, "023")
    assert version(other) == [(23000, False)]
    command.upgrade(planner_kept, "head")
    assert (digest(other), version(other)) == (head, [(24000, False)])

    golang.down()
    assert (digest(other), version(other)) == (before, [])


@pytest.mark.long
def test_both_tools_go_on_by_turns(
    new_database: Callable[[], Database], database: Database, tmp_path: Path, planner_kept: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What the guard has taken back golang-migrate applies, and after it the guard again: adopted, the catalog is the same."""
    other, head = new_database(), digest(database)
    export.write(planner_kept, tmp_path / "migrations")
    golang = Migrate(tmp_path / "migrations", other)
    golang.up()
    golang.down(3)
    golang.up()
    monkeypatch.setenv("DATABASE_URL", other.url)

    adopt.adopt(planner_kept, keeping=True)
    command.downgrade(planner_kept, "022")
    seen = version(other)
    golang.up()
    adopt.adopt(planner_kept, keeping=True)
    command.downgrade(planner_kept, "023")
    command.upgrade(planner_kept, "head")

    assert seen == [(22000, False)]
    assert (digest(other), version(other)) == (head, [(24000, False)])
    assert other.value("SELECT version_num FROM alembic_version") == "024"


@pytest.mark.long
def test_a_revision_of_many_files_can_be_left_in_its_middle(
    new_database: Callable[[], Database], tmp_path: Path, planner: Config
) -> None:
    """Stopped after five of twelve files, golang-migrate goes back from there, and forward again, to the same catalog."""
    database = new_database()
    export.write(planner, tmp_path / "migrations")
    golang = Migrate(tmp_path / "migrations", database)
    golang.goto(8000)
    before = digest(database)
    golang.goto(9000)
    after = digest(database)
    golang.goto(8000)
    assert digest(database) == before

    golang.goto(8005)
    golang.goto(8000)
    back = digest(database)
    golang.goto(8005)
    golang.goto(9000)

    assert (back, digest(database)) == (before, after)


@pytest.mark.long
def test_a_backfill_commits_in_between_under_golang_migrate(
    new_database: Callable[[], Database], tmp_path: Path, project: Project
) -> None:
    """Sent by itself, the DO block may commit: 25,000 rows are filled, and the files of the revision end in its version."""
    database = new_database()
    project.revision(
        "001", "create_a", "op.execute('CREATE TABLE a (id int PRIMARY KEY, v int)')", "op.execute('DROP TABLE a')"
    )
    project.revision("002", "fill_a", 'op.backfill("a", set={"v": "filled.id"}, where="filled.v IS NULL", key=["id"])',
                     "op.execute('UPDATE a SET v = NULL')", type="data", phase="migrate", transaction="none",
                     reversible="lossless")  # fmt: skip
    export.write(project.config(), tmp_path / "migrations")
    golang = Migrate(tmp_path / "migrations", database)
    golang.up(1)
    database.rows("INSERT INTO a (id) SELECT generate_series(1, 25000)")

    golang.up()

    assert database.rows("SELECT count(*), count(DISTINCT xmin::text) > 1, bool_and(v = id) FROM a") == [
        (25000, True, True)
    ]
    assert version(database) == [(2000, False)]


# --- a folder of golang-migrate's own ------------------------------------------------------------------------------------

FOLDER = {
    "1_users.up.sql": b"BEGIN;\nCREATE TABLE users (id bigint PRIMARY KEY, mail text);\n"
    b"INSERT INTO users VALUES (1, 'a:b%c');\nCOMMIT;",
    "1_users.down.sql": b"DROP TABLE users;",
    "5_index.up.sql": b"-- found by mail\nCREATE INDEX CONCURRENTLY users_mail ON users (mail)",
    "5_index.down.sql": b"DROP INDEX CONCURRENTLY users_mail;",
    "7_two.up.sql": b"CREATE TYPE mood AS ENUM ('a;b');\nALTER TABLE users ADD mood mood, ADD CHECK (mail ~ '^[^:]+:');",
    "7_two.down.sql": b"ALTER TABLE users DROP mood, DROP CONSTRAINT users_mail_check; DROP TYPE mood",
}


@pytest.fixture(scope="module")
def catalogs() -> dict[str, Path]:
    """Where the first test has left what the revisions make of the catalog."""
    return {}


@pytest.fixture
def both(
    new_database: Callable[[], Database], built: Callable[..., None], catalogs: dict[str, Path], project: Project,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> tuple[Migrate, Database, Project]:  # fmt: skip
    """The folder at its end in golang-migrate's database, and its revisions, with fingerprints, in a project."""
    project.configure(on_version_apply=keep.NAME)
    source = write(tmp_path / "migrations", FOLDER)
    imported.write(project.config(), source, "A Tester <tester@example.org>")
    by_golang, alembic = new_database(), project.folder / "alembic"
    built(by_golang, "by_golang_migrate", lambda one: Migrate(source, one).up())
    if "alembic" in catalogs:
        shutil.copytree(catalogs["alembic"] / "catalog", alembic / "catalog")
        shutil.copy(catalogs["alembic"] / "fingerprints", alembic)
    else:
        (alembic / "fingerprints").touch()
        by_guard = new_database()
        monkeypatch.setenv("DATABASE_URL", by_guard.url)
        project.upgrade()
        assert digest(by_guard) == digest(by_golang)
        catalogs["alembic"] = alembic
    monkeypatch.setenv("DATABASE_URL", by_golang.url)
    return Migrate(source, by_golang), by_golang, project


@pytest.mark.long
def test_an_imported_folder_makes_what_the_folder_makes(
    new_database: Callable[[], Database], both: tuple[Migrate, Database, Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each version and each way back of it leaves the same catalog and the same rows under the guard as under golang-migrate."""
    golang, by_golang, project = both
    golang.down()
    by_guard = new_database()

    for steps, count in ((["001", "002", "003"], 1), (["002", "001", "base"], -1)):
        for revision in steps:
            monkeypatch.setenv("DATABASE_URL", by_guard.url)
            (project.upgrade if count > 0 else project.downgrade)(revision)
            golang.up(1) if count > 0 else golang.down(1)
            assert digest(by_guard) == digest(by_golang), revision
            if revision not in ("base",):
                asked = "SELECT id, mail FROM users"
                assert by_guard.rows(asked) == by_golang.rows(asked) == [(1, "a:b%c")]


def test_in_production_a_database_is_taken_over_by_its_name(
    both: tuple[Migrate, Database, Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the version is right already, and only the row is to be kept from now on."""
    _, database, project = both
    adopt.adopt(project.config())
    monkeypatch.setenv("PLANNER_ENV", "production")
    database.rows("DELETE FROM migration.environment")

    with pytest.raises(Refused, match="unconfirmed"):
        adopt.adopt(project.config(), keeping=True)
    before = database.value("SELECT keep FROM migration.adopted")
    adopt.adopt(project.config(confirm=database.name), keeping=True)

    assert (before, database.value("SELECT keep FROM migration.adopted")) == (False, True)


def test_the_row_is_kept_by_two_statements_of_the_step(both: tuple[Migrate, Database, Project]) -> None:
    """What is kept, its locks' numbers and the versions are known before the step has a lock: in it is nothing to look up."""
    golang, database, project = both
    golang.goto(5)
    adopt.adopt(project.config(), keeping=True)
    asked: list[tuple[int, str]] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        asked.append((cursor.connection.info.backend_pid, statement))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        project.upgrade()
    finally:
        event.remove(Engine, "before_cursor_execute", note)

    ours = [number for number, (_, text) in enumerate(asked) if "UPDATE alembic_version" in text]
    pid, after = asked[ours[0]][0], asked[ours[0] + 1 :]
    kept = [
        text.split(" ")[0] for one, text in after if one == pid and re.search("advisory_xact|schema_m|adopted", text)
    ]
    assert kept == ["SELECT", "UPDATE"]
    assert version(database) == [(7, False)]


def test_a_database_is_adopted_where_its_row_says(
    both: tuple[Migrate, Database, Project], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The revision of the row is stamped, the history says from where, and without KEEP the row is left alone from then on."""
    golang, database, project = both
    golang.goto(5)
    monkeypatch.setattr(cli, "ROOT", project.folder)

    code = cli.main(["migrate-adopt", "FROM=golang-migrate"])
    told = capsys.readouterr().out
    project.upgrade()

    assert code == 0 and "said version 5; the database is at 002" in told
    assert database.value("SELECT version_num FROM alembic_version") == "003"
    assert version(database) == [(5, False)]
    assert database.rows("SELECT revision, direction, description FROM migration.history ORDER BY id") == [
        ("002", "stamp", "adopted from golang-migrate: schema_migrations said version 5"),
        ("003", "upgrade", database.value("SELECT description FROM migration.history ORDER BY id DESC LIMIT 1")),
    ]
    assert database.rows("SELECT tool, relation, keep, version, revision FROM migration.adopted") == [
        ("golang-migrate", "public.schema_migrations", False, "5", "002")
    ]


def test_another_catalog_is_not_adopted_without_a_reason(both: tuple[Migrate, Database, Project]) -> None:
    """What differs is named, object by object, and nothing is written; with a reason it is, and the reason is kept."""
    _, database, project = both
    database.rows("ALTER TABLE users ADD extra int; DROP INDEX users_mail")

    with pytest.raises(Refused) as caught:
        adopt.adopt(project.config())
    assert database.value("SELECT to_regclass('alembic_version') IS NULL AND to_regclass('migration.run') IS NULL")
    adopt.adopt(project.config(), reason="it is the old one")

    (finding,) = caught.value.findings
    assert (finding.code, finding.values["match"]) == ("stamp-differs", "no revision here")
    assert caught.value.next_command.endswith('REASON="…"')
    assert all(name in finding.values["differences"] for name in ("extra", "users_mail"))
    assert database.value("SELECT version_num FROM alembic_version") == "003"
    assert str(database.value("SELECT description FROM migration.history")).endswith("version 7; it is the old one")


@pytest.mark.long
@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("UPDATE schema_migrations SET version = 6", "no revision here has that version"),
        ("DROP TABLE schema_migrations", "has no table schema_migrations"),
        ("ALTER TABLE schema_migrations ADD applied_at timestamptz", "is not golang-migrate's"),
        ("INSERT INTO schema_migrations VALUES (5, false)", "holds 2 rows"),
    ],
)
def test_a_row_that_says_nothing_known_is_told(sql: str, says: str, both: tuple[Migrate, Database, Project]) -> None:
    """One sentence on what is wrong with the row, the command to type next, and nothing is changed."""
    _, database, project = both
    database.rows(sql)

    with pytest.raises((WrongUse, Broken), match=says):
        adopt.adopt(project.config())

    assert database.value("SELECT to_regclass('migration.run')") is None


@pytest.mark.long
def test_a_kept_row_follows_each_step(both: tuple[Migrate, Database, Project]) -> None:
    """Up, down and to the beginning, by the guard; golang-migrate finds itself where the guard has stopped, and goes on."""
    golang, database, project = both
    adopt.adopt(project.config(), keeping=True)

    seen = []
    for revision in ("001", "base"):
        project.downgrade(revision)
        seen.append(version(database))
    project.upgrade("002")
    golang.up()

    assert seen == [[(1, False)], []]
    assert golang.ran[-1] == "7/u" and version(database) == [(7, False)]
    with pytest.raises(Broken, match=r"says version 7, and this step begins at 002 \(version 5\)"):
        project.downgrade("001")
    assert database.value("SELECT to_regclass('users_mail') IS NOT NULL")
    adopt.adopt(project.config(), keeping=True)
    with golang._locked(), pytest.raises(Busy, match="golang-migrate is at work"):
        project.downgrade("001")
    assert database.value("SELECT to_regclass('users_mail') IS NOT NULL")
    project.downgrade("001")
    assert version(database) == [(1, False)]


@contextmanager
def meanwhile(statement: str, happens: Callable[[], object]) -> Iterator[None]:
    """Something that happens once, before the first statement of ours that has this in it."""
    left = [happens]

    def before(connection: Any, cursor: Any, text: str, *_: Any) -> None:
        if left and re.search(statement, text):
            left.pop()()

    event.listen(Engine, "before_cursor_execute", before)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", before)
    assert not left


@pytest.mark.parametrize(
    ("first", "moved"),
    [
        (None, "CREATE TABLE alembic_version (version_num text PRIMARY KEY); INSERT INTO alembic_version VALUES ('004')"),
        (None, "CREATE TABLE alembic_version (version_num text PRIMARY KEY); INSERT INTO alembic_version VALUES ('003')"),
        ("003", "UPDATE alembic_version SET version_num = '004'"),
    ],
    ids=["another goes on", "another is as far", "adopted before"],
)  # fmt: skip
def test_who_adopts_second_does_not_set_the_version_back(
    first: str | None, moved: str, both: tuple[Migrate, Database, Project]
) -> None:
    """Another has adopted before the deployers' lock was had, and run what only writes rows: busy, the version stays."""
    _, database, project = both
    project.revision("004", "fill_users", "op.execute(\"INSERT INTO users VALUES (9, 'a:b')\")",
                     "op.execute('DELETE FROM users WHERE id = 9')", type="data")  # fmt: skip
    if first:
        adopt.adopt(project.config())

    with (
        meanwhile("pg_try_advisory_lock", lambda: database.rows(moved)),
        pytest.raises(Busy, match="moved the version"),
    ):
        adopt.adopt(project.config(), keeping=True)

    assert database.value("SELECT version_num FROM alembic_version") == ("003" if "003" in moved else "004")
    there = database.value("SELECT to_regclass('migration.adopted') IS NOT NULL")
    assert (database.rows("SELECT keep FROM migration.adopted") if there else []) == ([(False,)] if first else [])


TOUCH = """CREATE SEQUENCE touched; CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM nextval('public.touched'); RETURN NEW; END $$;
CREATE FUNCTION touch(bigint) RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('public.touched') - 1 + $1 $$;"""
CARRIES = (
    "CREATE TRIGGER t BEFORE INSERT OR DELETE OR UPDATE ON schema_migrations FOR EACH ROW EXECUTE FUNCTION touch()"
)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        (CARRIES, "carries the trigger t"),
        ("CREATE RULE r AS ON UPDATE TO schema_migrations DO ALSO SELECT touch(1)", "carries the rule r"),
        ("ALTER TABLE schema_migrations RENAME TO theirs; CREATE VIEW schema_migrations AS "
         "SELECT touch(version) AS version, dirty FROM theirs", "carries the rule"),
    ],
)  # fmt: skip
def test_code_on_golang_migrates_table_is_not_run(sql: str, says: str, both: tuple[Migrate, Database, Project]) -> None:
    """A trigger or a rule on it, or a view in its place, would run as whoever adopts: told, and nothing of it was run."""
    _, database, project = both
    database.rows(TOUCH + sql)

    with pytest.raises(Broken, match=says):
        adopt.adopt(project.config(), keeping=True, reason="it is so")

    assert database.value("SELECT is_called FROM touched") is False
    assert database.value("SELECT to_regclass('alembic_version')") is None


def test_code_on_a_table_that_is_kept_is_not_run(both: tuple[Migrate, Database, Project]) -> None:
    """Asked before each step: a trigger that has come after the adoption stops it, and has not been run."""
    golang, database, project = both
    golang.goto(5)
    adopt.adopt(project.config(), keeping=True)
    database.rows(TOUCH + CARRIES)

    with pytest.raises(Broken, match="carries the trigger t"):
        project.upgrade()

    assert database.value("SELECT is_called FROM touched") is False
    assert (version(database), database.value("SELECT version_num FROM alembic_version")) == ([(5, False)], "002")


def test_who_adopts_again_is_as_careful_with_alembics_table(both: tuple[Migrate, Database, Project]) -> None:
    """Where the version is right already, only rows are written: a trigger on the version table is refused there as well."""
    _, database, project = both
    adopt.adopt(project.config())
    database.rows(TOUCH + CARRIES.replace("schema_migrations", "alembic_version"))

    with pytest.raises(Broken, match=r"alembic_version carries the trigger t"):
        adopt.adopt(project.config(), keeping=True, reason="it is so")

    assert database.value("SELECT keep FROM migration.adopted") is False


@pytest.mark.parametrize(
    ("at", "to", "statement", "written"),
    [
        (5, "003", "UPDATE alembic_version", "UPDATE schema_migrations SET version = 7"),
        pytest.param(
            5, "003", "UPDATE alembic_version", "UPDATE schema_migrations SET dirty = true", marks=pytest.mark.long
        ),
        pytest.param(
            1, "base", "DELETE FROM alembic_version", "UPDATE schema_migrations SET version = 5", marks=pytest.mark.long
        ),
        (None, "001", "INSERT INTO alembic_version", "INSERT INTO schema_migrations VALUES (1, false)"),
    ],
)
def test_a_row_that_has_changed_during_the_step_is_not_written_over(
    at: int | None, to: str, statement: str, written: str, both: tuple[Migrate, Database, Project]
) -> None:
    """golang-migrate has run a file between the first look and the end of the step: its row stays, and the step is undone."""
    golang, database, project = both
    golang.goto(at) if at else golang.down()
    adopt.adopt(project.config(), keeping=True)
    database.rows("CREATE TABLE IF NOT EXISTS alembic_version (version_num varchar(32) PRIMARY KEY)")
    before = database.rows("SELECT version_num FROM alembic_version")

    with meanwhile(statement, lambda: database.rows(written)), pytest.raises(Busy, match="does not say") as caught:
        (project.downgrade if to == "base" else project.upgrade)(to)

    wanted = [(int(number), "dirty" in written) for number in re.findall(r"\d", written) or [at]]
    assert version(database) == wanted and "KEEP=1" in caught.value.next_command
    assert database.rows("SELECT version_num FROM alembic_version") == before


@pytest.mark.long
def test_nobody_adopts_while_golang_migrate_is_at_work(both: tuple[Migrate, Database, Project]) -> None:
    """Its lock, as the program takes it, is respected: busy, and nothing is stamped."""
    golang, database, project = both

    with golang._locked(), pytest.raises(Busy, match="golang-migrate is at work"):
        adopt.adopt(project.config())

    assert database.value("SELECT to_regclass('alembic_version')") is None
    assert row.lock_number("public", "schema_migrations", f"/{database.name}") >= 0


@pytest.mark.long
def test_without_the_line_in_alembic_ini_nothing_is_kept(both: tuple[Migrate, Database, Project]) -> None:
    """A row that only some deployers keep would be wrong after the others: KEEP=1 asks for the line first."""
    _, database, project = both
    project.configure(on_version_apply="")

    with pytest.raises(WrongUse) as caught:
        adopt.adopt(project.config(), keeping=True)

    assert f"on_version_apply = {keep.NAME}" in caught.value.next_command
    assert database.value("SELECT to_regclass('alembic_version')") is None


# --- half done ----------------------------------------------------------------------------------------------------------


def dirty(both: tuple[Migrate, Database, Project]) -> str:
    """What the command says of a dirty row; it changes nothing."""
    _, database, project = both
    before = (digest(database), version(database))
    with pytest.raises(Broken) as caught:
        adopt.adopt(project.config())
    assert (digest(database), version(database)) == before
    assert database.value("SELECT to_regclass('migration.run')") is None
    return f"{caught.value.message}\nnext: {caught.value.next_command}"


def test_a_file_that_failed_as_a_whole_leaves_only_the_mark(both: tuple[Migrate, Database, Project]) -> None:
    """The transaction was undone: nothing is half done; the command given says where it stands, and clears the mark."""
    golang, database, project = both
    golang.goto(5)
    database.rows("INSERT INTO users VALUES (2, 'no colon')")
    with pytest.raises(Failed, match="violated by some row"):
        golang.up()
    assert version(database) == [(7, True)]

    told = dirty(both)
    adopt.adopt(project.config(), at="002")

    assert "dirty" in told and "exactly what the revisions up to 002 make" in told
    assert "make migrate-adopt FROM=golang-migrate AT=002" in told and "make migrate-up TO=003" in told
    assert (version(database), database.value("SELECT version_num FROM alembic_version")) == ([(5, False)], "002")


@pytest.mark.parametrize("way", ["To finish it:", "To undo it:"])
def test_what_is_half_there_is_told_and_the_commands_lead_out(
    way: str, both: tuple[Migrate, Database, Project]
) -> None:
    """Done, not done, and both ways out: the commands, typed as they stand, end in an adopted, clean database."""
    golang, database, project = both
    golang.goto(5)
    database.rows("UPDATE schema_migrations SET version = 7, dirty = true; CREATE TYPE mood AS ENUM ('a;b');"
                  "ALTER TABLE users ADD mood mood")  # fmt: skip

    told = dirty(both)
    block = told.partition(way)[2].partition("To undo it:")[0].partition("\nnext:")[0]
    commands = [line.strip() for line in block.strip().splitlines()]
    for one in commands[:-1]:
        sql = re.fullmatch(r"psql \"\$DATABASE_URL\" -c '(.*)'", one)
        assert sql, one
        database.rows(sql[1].replace("'\"'\"'", "'"))
    at = commands[-1].rpartition("AT=")[2]
    adopt.adopt(project.config(), at=at)

    assert "done      type public.mood made" in told and "not done  constraint public.users" in told
    assert at == {"To finish it:": "003", "To undo it:": "002"}[way]
    assert version(database) == [({"003": 7, "002": 5}[at], False)]


def test_a_name_makes_no_line_of_its_own(both: tuple[Migrate, Database, Project]) -> None:
    """What somebody has written into a name, behind the end of a line, does not stand among the commands to paste."""
    golang, database, _ = both
    golang.goto(5)
    database.rows('CREATE TABLE "t\nrm -rf t" (); CREATE PUBLICATION "p\n\x1b[1Krm -rf p";'
                  "UPDATE schema_migrations SET version = 7, dirty = true; CREATE TYPE mood AS ENUM ('a;b')")  # fmt: skip

    told = dirty(both)

    named = [line.strip() for line in told.splitlines() if "rm -rf" in line]
    assert sum(line.startswith("neither ") for line in named) == 2 and "\x1b" not in told
    assert sum(line.startswith(("-- table", "-- publication")) for line in named) == 4
    assert all(line.startswith(("neither ", "-- ", "next: -- ")) for line in named)


@pytest.mark.long
def test_the_way_back_that_failed_is_seen_as_such(both: tuple[Migrate, Database, Project]) -> None:
    """A dirty row names the version that was being gone to: the catalog tells that it was the way back from the next one."""
    _, database, _ = both
    database.rows("UPDATE schema_migrations SET version = 5, dirty = true; ALTER TABLE users DROP mood")

    told = dirty(both)

    assert "revision 002 (up), or the way back from revision 003 (down)" in told
    assert (
        "Of revision 003" in told
        and "done      constraint" in told
        and "not done  column public.users.mood made" in told
    )


@pytest.mark.long
def test_an_exported_revision_that_was_left_in_its_middle_is_told(
    new_database: Callable[[], Database], tmp_path: Path, planner_kept: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row between two revisions: what of 009 is there, and the guard's own operations take it up from the command given."""
    database = new_database()
    export.write(planner_kept, tmp_path / "migrations")
    golang = Migrate(tmp_path / "migrations", database)
    golang.goto(8003)
    monkeypatch.setenv("DATABASE_URL", database.url)

    with pytest.raises(Broken, match="in the middle of revision 009") as caught:
        adopt.adopt(planner_kept)
    adopt.adopt(planner_kept, at="008", reason="half of 009 is there", keeping=True)
    command.upgrade(planner_kept, "009")

    assert caught.value.message.count("  done      index") == 3 and caught.value.message.count("  not done  index") == 8
    assert version(database) == [(9000, False)]


# --- the program ---------------------------------------------------------------------------------------------------------

PROGRAM = shutil.which("migrate")


@pytest.mark.long
@pytest.mark.skipif(
    PROGRAM is None, reason="no golang-migrate (a program called migrate) in the PATH; no registry here has it"
)
@pytest.mark.parametrize("of", ["the planner", "a folder"])
def test_the_program_and_the_executor_agree(
    of: str, new_database: Callable[[], Database], tmp_path: Path, planner: Config
) -> None:
    """The same rows and catalogs after up, down 1 and down -all, by the program and by its rules as the tests have them."""
    by_program, by_rules = new_database(), new_database()
    folder = tmp_path / "migrations"
    if of == "the planner":
        export.write(planner, folder)
    else:
        write(folder, FOLDER)
    executor = Migrate(folder, by_rules)
    url = (
        f"postgres://{by_program.user}@/{by_program.name}?host={by_program.host}&port={by_program.port}&sslmode=disable"
    )

    for arguments, same in (
        (["up"], executor.up),
        (["down", "1"], lambda: executor.down(1)),
        (["down", "-all"], executor.down),
    ):
        ran = subprocess.run(
            [str(PROGRAM), "-path", str(folder), "-database", url, *arguments], capture_output=True, text=True
        )
        same()
        assert ran.returncode == 0, ran.stderr
        assert (digest(by_program), version(by_program)) == (digest(by_rules), version(by_rules)), arguments


# --- the executor itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "fails", "at"),
    [
        ([("up", 1), ("up", 5)], "limit 3 short", [(7, False)]),
        ([("up", None), ("up", None)], "no change", [(7, False)]),
        ([("up", None), ("up", 1)], "file does not exist", [(7, False)]),
        ([("down", None)], "no change", []),
        ([("down", 1)], "file does not exist", []),
        ([("up", 1), ("down", 2)], "limit 1 short", []),
        ([("goto", 6)], "no migration found for version 6", []),
        ([("force", 6), ("up", None)], "no migration found for version 6", [(6, False)]),
        ([("force", -2)], "version must be >= -1", None),
        ([("version", None)], "no migration", []),
    ],
)
@pytest.mark.long
def test_the_executor_has_golang_migrates_errors(
    steps: list[tuple[str, Any]], fails: str, at: list[tuple[int, bool]] | None, new_database: Callable[[], Database],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Limits, ends, versions that no file has: the words and the row are those of its source."""
    database = new_database()
    golang = Migrate(write(tmp_path / "migrations", FOLDER), database)

    with pytest.raises(Failed, match=fails):
        for name, value in steps:
            getattr(golang, name)(*[] if name == "version" else [value])

    if at is not None:
        assert version(database) == at


@pytest.mark.long
def test_the_executor_sends_a_file_as_one_query(new_database: Callable[[], Database], tmp_path: Path) -> None:
    """CREATE INDEX CONCURRENTLY beside another statement fails, as it does under golang-migrate; by itself it does not."""
    database = new_database()
    golang = Migrate(write(tmp_path / "migrations", {
        "1_a.up.sql": b"CREATE TABLE a (id int)", "2_b.up.sql": b"SELECT 1; CREATE INDEX CONCURRENTLY i ON a (id)",
    }), database)  # fmt: skip

    with pytest.raises(Failed, match=r"cannot (run|be executed) (inside|within) a"):
        golang.up()

    assert version(database) == [(2, True)]
    with pytest.raises(Failed, match=r"Dirty database version 2\. Fix and force version\."):
        golang.up()
