"""``migrate-restore ARCHIVE=``: what a downgrade destroyed comes back out of its archive, by the same rules as from a stash."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from mcp_planner_schema import cli, embedded
from mcp_planner_schema.guard import connect, unpack
from mcp_planner_schema.guard.settings import load
from tests.catalog import catalog, difference
from tests.conftest import ROOT, Database, Project
from tests.test_archive import HOSTILE
from tests.test_archived_downgrade import scratch
from tests.test_stash import QUOTED, shown, sql
from tests.test_stashes import UP, another, by_hand, outdate, run, state
from tests.until import until

REAL = embedded.binary("pg_dump").parent
DOWN = "DROP TABLE a; ALTER TABLE b DROP x; DROP TABLE c"
ROWS = (
    "INSERT INTO a (v) VALUES ('one'), ('two'), ('three'); UPDATE b SET x = 'x' || id; "
    "INSERT INTO c VALUES (1, 'same'), (1, 'same')"
)


@dataclasses.dataclass
class Kept:
    """A database at 001 whose stash 1 of revision 002 has an archive."""

    database: Database
    project: Project
    capsys: pytest.CaptureFixture[str]

    @property
    def file(self) -> Path:
        """The archive that the manifest names."""
        return Path(self.database.value("SELECT archive FROM migration.stash WHERE id = 1"))

    def restore(self, *arguments: str, file: Path | None = None) -> tuple[int, str, str]:
        """``make migrate-restore`` of revision 002 from the archive: exit code, stdout, stderr."""
        return run(self.capsys, "migrate-restore", "VERSION=002", f"ARCHIVE={file or self.file}", *arguments)

    def content(self) -> tuple[list[object], ...]:
        """The rows that went."""
        asked = ("SELECT id, v FROM a ORDER BY 1", "SELECT id, x FROM b ORDER BY 1", "SELECT n, t FROM c")
        return tuple([*self.database.rows(one)] for one in asked)


ALL = ([(1, "one"), (2, "two"), (3, "three")], [(1, "x1"), (2, "x2")], [(1, "same"), (1, "same")])


@pytest.fixture
def staging(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose downgrades are archived."""
    monkeypatch.setattr(cli, "ROOT", project.folder)
    monkeypatch.setenv("PLANNER_ENV", "staging")
    monkeypatch.setenv("PLANNER_ARCHIVE_DIR", str(tmp_path / "backups"))
    monkeypatch.setenv("PLANNER_PG_BIN", str(REAL))
    return project


@pytest.fixture
def kept(empty: Database, staging: Project, capsys: pytest.CaptureFixture[str]) -> Kept:
    """Revision 002 was applied, filled and taken back: stash 1 and its archive hold table a, b.x and the keyless table c."""
    history(staging, UP, DOWN)
    staging.upgrade()
    empty.rows(ROWS)
    staging.downgrade("001")
    return Kept(empty, staging, capsys)


def history(project: Project, up: str, down: str) -> None:
    """A first revision with table b, and a second one."""
    project.revision(
        "001",
        "create_b",
        sql("CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1), (2)"),
        sql("DROP TABLE b"),
    )
    project.revision("002", "create_a", sql(up), sql(down))


# --- the stash is gone or damaged -------------------------------------------------------------------------------------


def test_a_purged_stash_comes_back_from_a_copy_of_its_archive(kept: Kept, tmp_path: Path) -> None:
    """Rows and file were purged; the error names the command, a copy of the file fits it, and all of it is back, once."""
    copy = Path(shutil.copy(kept.file, tmp_path / "a copy.dump"))
    by_hand(kept.database)
    another(kept.project, kept.database)
    outdate(kept.database)
    purged = run(kept.capsys, "migrate-stash-purge", "ID=1", "CONFIRM=migration_stash_1")
    kept.database.rows("UPDATE migration.stash SET state = 'restored' WHERE id = 2")
    named = [run(kept.capsys, "migrate-restore", "VERSION=002", *one) for one in ([], ["ID=1"])]

    done = kept.restore(file=copy)
    again = kept.restore(file=copy)

    assert purged[0] == 0
    assert not kept.file.exists()
    for code, _, said in named:
        assert code == 3
        assert said.splitlines()[-1] == f"next: make migrate-restore VERSION=002 ARCHIVE={kept.file}"
    assert done[0] == 0, done[2]
    assert "this is the archive of stash 1: its SHA-256 is the manifest's" in done[1]
    assert "restored table a: 3 rows" in done[1]
    assert kept.content() == ALL
    assert kept.database.value("INSERT INTO a (v) VALUES ('next') RETURNING id") == 4
    assert kept.database.rows("SELECT id, state, archive FROM migration.stash ORDER BY id") == [
        (1, "purged", str(kept.file)), (2, "restored", kept.database.value("SELECT archive FROM migration.stash WHERE id = 2")),
        (3, "restored", str(copy)),
    ]  # fmt: skip
    assert again[0] == 3
    assert "is back already" in again[2]
    assert scratch(kept.database) == []


def test_a_damaged_stash_comes_back_from_its_archive(kept: Kept) -> None:
    """Newer rows stay and are counted; what was left is the new stash's to give, and the old one's no more."""
    kept.database.rows("DELETE FROM migration_stash_1.a WHERE id > 1; UPDATE migration_stash_1.c SET t = 'other'")
    by_hand(kept.database)
    kept.database.rows("INSERT INTO a VALUES (2, 'newer')")
    damaged = run(kept.capsys, "migrate-restore", "VERSION=002")

    code, out, said = kept.restore()
    first = kept.content()
    kept.database.rows("DELETE FROM a WHERE id = 2")
    later = run(kept.capsys, "migrate-restore", "VERSION=002")

    assert damaged[0] == 3
    assert code == 0, said
    assert 'left: 1 rows stay in "migration_stash_2"."a"' in out
    assert first == ([(1, "one"), (2, "newer"), (3, "three")], *ALL[1:])
    assert later[0] == 0
    assert kept.content() == ALL
    assert kept.database.rows("SELECT id, state FROM migration.stash ORDER BY id") == [(1, "restored"), (2, "restored")]
    assert run(kept.capsys, "migrate-stash-verify", "ID=2")[0] == 0


def test_what_is_back_already_does_not_come_again(kept: Kept) -> None:
    """Of a partly restored stash only what was left comes from the archive: whoever deleted the rest wanted it gone."""
    by_hand(kept.database)
    kept.database.rows("INSERT INTO a VALUES (2, 'newer')")
    run(kept.capsys, "migrate-restore", "VERSION=002")
    kept.database.rows("DELETE FROM a WHERE id > 1; DELETE FROM c; UPDATE b SET x = NULL")

    code, out, said = kept.restore()

    assert code == 0, said
    assert kept.content() == (ALL[0][:2], [(1, None), (2, None)], [])
    assert "restored table a: 1 rows\n" in out
    assert "of b" not in out
    assert " c" not in out
    assert (
        kept.database.value("SELECT count(*) FROM migration.stash_object WHERE stash_id = 2 AND relation <> 'a'") == 0
    )
    assert kept.restore()[0] == 3


def test_a_dry_run_from_an_archive_leaves_everything_as_it_was(kept: Kept) -> None:
    """DRY_RUN=1 says the same; rows, sequence, manifest, runs, schemas and databases are untouched."""
    by_hand(kept.database)
    kept.database.rows("INSERT INTO a VALUES (2, 'newer')")
    schemas = "SELECT nspname FROM pg_namespace ORDER BY 1"
    before = (state(kept.database), kept.database.rows(schemas))

    code, out, said = kept.restore("DRY_RUN=1")

    assert code == 0, said
    assert out.startswith("dry run: it was done and rolled back, nothing was changed.")
    assert "restored table a: 2 rows" in out
    assert "left: 1 rows stay" in out
    assert (state(kept.database), kept.database.rows(schemas)) == before
    assert scratch(kept.database) == []


def test_a_restore_from_an_archive_that_fails_leaves_everything_as_it_was(kept: Kept) -> None:
    """A row that a new constraint refuses ends with 1: no row, no stash, no schema, no scratch database; the run says failed."""
    by_hand(kept.database)
    kept.database.rows("ALTER TABLE c ADD CHECK (t <> 'same')")
    before = state(kept.database)

    code, _, said = kept.restore()

    after = state(kept.database)
    assert code == 1
    assert "check constraint" in said
    assert "Everything was rolled back." in said
    assert difference(before[0], after[0]) == []  # type: ignore[arg-type]
    assert (after[1:3], after[4]) == (before[1:3], before[4])
    assert kept.database.value("SELECT to_regnamespace('migration_stash_2') IS NULL")
    assert kept.database.value("SELECT state FROM migration.run ORDER BY id DESC LIMIT 1") == "failed"
    assert scratch(kept.database) == []


def test_all_kinds_of_rows_come_back_exactly(
    empty: Database, staging: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Types of the user's own, arrays with bounds, floats, json, partitions, inheritance, names with everything in them."""
    drop = f'DROP TABLE {QUOTED}, "Other.Schema"."a*", parts, hashed, child'
    history(staging, HOSTILE.split("CREATE SCHEMA migration;")[0], drop)
    staging.upgrade()
    relations = (QUOTED, '"Other.Schema"."a*"', "parts", "hashed", "child")
    before = [shown(empty, one) for one in relations]
    staging.downgrade("001")
    definitions = HOSTILE.split("CREATE SCHEMA migration;")[0]
    empty.rows("DROP SCHEMA \"Other.Schema\" CASCADE; DROP TABLE parent, forced, other, nothing, \"a.b\" CASCADE; "
               "DROP FUNCTION shout; "
               "DROP SEQUENCE lonely; DROP TYPE mood, positive, pair CASCADE")  # fmt: skip
    with empty.connect() as connection, connection.cursor() as cursor:
        cursor.execute(definitions)
        cursor.execute(f'DELETE FROM {QUOTED}; DELETE FROM "Other.Schema"."a*"; DELETE FROM parts; DELETE FROM hashed; '
                       "DELETE FROM child; UPDATE alembic_version SET version_num = '002'")  # fmt: skip
    empty.rows("DROP SCHEMA migration_stash_1 CASCADE")
    file = empty.value("SELECT archive FROM migration.stash")

    code, out, said = run(capsys, "migrate-restore", "VERSION=002", f"ARCHIVE={file}")

    assert code == 0, said
    assert [shown(empty, one) for one in relations] == before
    assert empty.value("SELECT count(*) FROM migration.stash_object WHERE stash_id = 2 AND relation IS NOT NULL") == 5
    assert "left:" not in out


def test_a_moved_table_comes_back_from_its_archive(
    empty: Database, staging: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table that went into the stash itself, and was dropped there, comes back as a copied one does."""
    history(staging, "CREATE TABLE a (id int PRIMARY KEY, v text)", "DROP TABLE a")
    staging.configure(stash_move_above="1kB")
    staging.upgrade()
    empty.rows("INSERT INTO a SELECT n, md5(n::text) FROM generate_series(1, 2000) n")
    before = shown(empty, "a")
    staging.downgrade("001")
    moved = empty.value("SELECT moved FROM migration.stash_object")
    by_hand(empty, "CREATE TABLE a (id int PRIMARY KEY, v text); DROP TABLE migration_stash_1.a")
    file = empty.value("SELECT archive FROM migration.stash")

    code, out, said = run(capsys, "migrate-restore", "VERSION=002", f"ARCHIVE={file}")

    assert moved
    assert code == 0, said
    assert "restored table a: 2000 rows" in out
    assert shown(empty, "a") == before


def test_changed_rows_stay_in_the_stash(empty: Database, staging: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """An archive holds every row and not which were changed: those are told and left; columns that went with them come back."""
    history(
        staging,
        "ALTER TABLE b ADD x text, ADD y text; CREATE TABLE p (id int PRIMARY KEY, v text); "
        "UPDATE b SET x = 'x', y = 'y'; INSERT INTO p VALUES (1, 'one'), (2, 'two')",
        "UPDATE b SET y = 'gone' WHERE id = 1; ALTER TABLE b DROP x, DROP y; UPDATE p SET v = 'gone' WHERE id = 1; "
        "ALTER TABLE p ADD z int",
    )  # fmt: skip
    staging.upgrade()
    staging.downgrade("001")
    by_hand(empty, "ALTER TABLE b ADD x text, ADD y text; ALTER TABLE p DROP z")
    file = empty.value("SELECT archive FROM migration.stash")

    code, out, said = run(capsys, "migrate-restore", "VERSION=002", f"ARCHIVE={file}")

    assert code == 0, said
    assert "not restored changed rows of p: an archive holds every row as it was" in out
    assert empty.rows("SELECT id, x, y FROM b ORDER BY 1") == [(1, "x", "y"), (2, "x", "y")]
    assert empty.rows("SELECT id, v FROM p ORDER BY 1") == [(1, "gone"), (2, "two")]
    assert empty.value("SELECT state FROM migration.stash WHERE id = 1") == "partly restored"
    assert run(capsys, "migrate-restore", "VERSION=002", "ID=1")[0] == 0
    assert empty.rows("SELECT id, v FROM p ORDER BY 1") == [(1, "one"), (2, "two")]


def test_an_archive_of_changed_rows_alone_is_refused(
    empty: Database, staging: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing else was kept there is nothing to take from it: refused before a database is made for it."""
    history(staging, "UPDATE b SET id = id", "DELETE FROM b WHERE id = 1")
    staging.upgrade()
    staging.downgrade("001")
    by_hand(empty, "SELECT 1")
    file = empty.value("SELECT archive FROM migration.stash")

    code, _, said = run(capsys, "migrate-restore", "VERSION=002", f"ARCHIVE={file}")

    assert code == 3
    assert "an archive does not tell which rows a downgrade changed" in said
    assert empty.rows("SELECT id FROM b") == [(2,)]


def test_rows_that_are_in_the_stash_alone_are_told(
    empty: Database, staging: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A row written between archive and lock: a whole stash goes before the archive, a damaged one lets it pass, told."""
    history(staging, UP, DOWN)
    staging.upgrade()
    empty.rows(ROWS)
    at = f"-h {empty.host} -p {empty.port} -U postgres -d {empty.name}"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pg_restore").symlink_to(REAL / "pg_restore")
    (tmp_path / "bin" / "pg_dump").write_text(
        f"#!/bin/sh\n[ \"$1\" = --version ] || '{REAL}/psql' -Xq {at} -c \"INSERT INTO a VALUES (9, 'late')\" >&2\n"
        f"exec '{REAL}/pg_dump' \"$@\"\n"
    )
    (tmp_path / "bin" / "pg_dump").chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PLANNER_PG_BIN", str(tmp_path / "bin"))
        staging.downgrade("001")
    by_hand(empty)
    kept = Kept(empty, staging, capsys)

    whole = kept.restore()
    empty.rows("DELETE FROM migration_stash_1.a WHERE id = 1")
    code, out, said = kept.restore()

    assert whole[0] == 3
    assert whole[2].splitlines()[-1] == "next: make migrate-restore VERSION=002 ID=1"
    assert code == 0, said
    assert "note: of table a the archive holds 3 rows, the downgrade kept 4" in out
    assert kept.content() == ALL


# --- which file it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["one bit", "a link", "a folder", "a pipe", "gone", "of another stash"])
def test_a_file_that_is_not_the_archive_is_refused(kept: Kept, tmp_path: Path, harm: str) -> None:
    """Changed, elsewhere, no file, or another stash's: refused before anything is read out of it, and nothing was changed."""
    file, more = kept.file, []
    by_hand(kept.database)
    if harm == "one bit":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file = tmp_path / file.name
        file.write_bytes(content)
    elif harm == "of another stash":
        file, more = tmp_path / "x.dump", ["ID=1"]
        file.write_bytes(b"x")
    else:
        file = tmp_path / "it"
        {"a link": lambda: file.symlink_to(kept.file), "a folder": file.mkdir, "a pipe": lambda: os.mkfifo(file),
         "gone": lambda: None}[harm]()  # fmt: skip
    before = state(kept.database)

    code, _, said = kept.restore(*more, file=file)

    assert code == 3
    assert "archive-impossible" in said
    assert str(file) in said
    assert state(kept.database) == before
    assert scratch(kept.database) == []


def test_the_archive_of_another_revision_is_named(kept: Kept) -> None:
    """VERSION and file do not belong together: wrong use, with the right form."""
    by_hand(kept.database)

    code, _, said = run(kept.capsys, "migrate-restore", "VERSION=001", f"ARCHIVE={kept.file}")

    assert code == 2
    assert said.splitlines()[-1] == f"next: make migrate-restore VERSION=002 ARCHIVE={kept.file}"


def test_a_revision_that_is_not_applied_has_no_place_for_rows(kept: Kept) -> None:
    """As from a stash: go up first."""
    before = state(kept.database)

    code, _, said = kept.restore()

    assert code == 3
    assert said.splitlines()[-1] == "next: make migrate-up TO=002"
    assert state(kept.database) == before


# --- an archive of another server -------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(
    kept: Kept, new_database: Callable[[], Database], monkeypatch: pytest.MonkeyPatch
) -> Kept:  # fmt: skip
    """Another database at 002, empty but for its seeds, that knows nothing of the archive."""
    database = new_database()
    monkeypatch.setenv("DATABASE_URL", database.url)
    kept.project.upgrade()
    return Kept(database, kept.project, kept.capsys)


def test_an_archive_that_no_manifest_knows_gives_whole_tables(kept: Kept, elsewhere: Kept) -> None:
    """It is said that nothing proves it; rows go where there is a place, what stands stays, and the sequence is set."""
    elsewhere.database.rows("INSERT INTO a VALUES (2, 'mine'); DELETE FROM b WHERE id = 2")

    code, out, said = elsewhere.restore(file=kept.file)

    assert code == 0, said
    assert "no manifest here knows this file" in out
    assert "restored table a: 2 rows" in out
    assert elsewhere.content() == ([(1, "one"), (2, "mine"), (3, "three")], [(1, None), (2, "x2")], ALL[2])
    assert elsewhere.database.value("INSERT INTO a (v) VALUES ('next') RETURNING id") == 4
    assert elsewhere.database.rows("SELECT version_num FROM alembic_version") == [("002",)]
    assert elsewhere.database.rows("SELECT state, archive_sha256 FROM migration.stash") == [
        ("partly restored", hashlib.sha256(kept.file.read_bytes()).hexdigest())
    ]


def test_nothing_of_an_archive_is_run_here(kept: Kept, elsewhere: Kept, tmp_path: Path) -> None:
    """A dump of somebody's: its functions, triggers, defaults, views and version stay where they are, rows alone arrive."""
    by_hand(kept.database)
    evil = (
        "CREATE FUNCTION bad() RETURNS int LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE IF NOT EXISTS public.hacked (); "
        "RETURN 1; END $$; ALTER TABLE a ALTER v SET DEFAULT bad()::text, ADD w int DEFAULT bad(); "
        "CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM bad(); RETURN new; END $$; "
        "CREATE TRIGGER t BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION t(); CREATE TABLE hostile (id int); "
        "INSERT INTO hostile VALUES (1); DROP TABLE c; CREATE VIEW c AS SELECT bad() AS n, 'x' AS t; "
        'ALTER TABLE b ADD "x""; DROP TABLE b; --" int DEFAULT 1; INSERT INTO a VALUES (5, \'five\', 1); '
        "UPDATE alembic_version SET version_num = '001'"
    )
    with kept.database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(evil)
    file = tmp_path / "mine.dump"
    at = ["-h", kept.database.host, "-p", str(kept.database.port), "-U", "postgres"]
    subprocess.run([str(REAL / "pg_dump"), *at, "-Fc", "-f", str(file), kept.database.name], check=True)
    before = catalog(elsewhere.database)

    code, out, said = elsewhere.restore(file=file)

    assert code == 0, said
    assert difference(before, catalog(elsewhere.database)) == []
    assert elsewhere.database.value("SELECT to_regclass('hacked') IS NULL")
    assert elsewhere.database.rows("SELECT v FROM a WHERE id = 5") == [("five",)]
    assert elsewhere.database.value("SELECT count(*) FROM c") == 0
    assert elsewhere.database.rows("SELECT version_num FROM alembic_version") == [("002",)]
    assert "not restored table hostile: it is not there" in out
    assert "not restored column w of a" in out


def test_an_archive_without_a_place_for_its_rows_is_refused(kept: Kept, elsewhere: Kept) -> None:
    """None of its tables is here: refused with their names, and nothing was changed but the trace of the run."""
    elsewhere.database.rows("ALTER TABLE a RENAME TO a2; ALTER TABLE b RENAME TO b2; ALTER TABLE c RENAME TO c2")
    before = state(elsewhere.database)

    code, _, said = elsewhere.restore(file=kept.file)

    assert code == 3
    for name in ("a", "b", "c"):
        assert f"not restored table {name}: it is not there" in said
    assert state(elsewhere.database)[1:3] == before[1:3]


def test_what_is_no_archive_is_refused(elsewhere: Kept, tmp_path: Path) -> None:
    """A text file: pg_restore's word is told, no scratch database stays."""
    file = tmp_path / "notes.txt"
    file.write_text("no archive")

    code, _, said = elsewhere.restore(file=file)

    assert code == 3
    assert "archive-impossible" in said
    assert scratch(elsewhere.database) == []


def test_another_encoding_is_converted_or_refused(
    kept: Kept, new_database: Callable[[], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an archive in UTF-8 a database in LATIN1 gets what it can write; what it cannot is an error, and nothing came."""
    base = new_database()
    name = base.name + "_latin"
    base.rows(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'")
    latin = Kept(dataclasses.replace(base, name=name), kept.project, kept.capsys)
    try:
        kept.project.upgrade()
        files = []
        for text in ("ö", "€"):
            kept.database.rows("UPDATE a SET v = %s", text)
            kept.project.downgrade("001")
            files.append(Path(kept.database.value("SELECT archive FROM migration.stash ORDER BY id DESC LIMIT 1")))
            kept.project.upgrade()
        monkeypatch.setenv("DATABASE_URL", latin.database.url)
        kept.project.upgrade()

        refused = latin.restore(file=files[1])
        empty = latin.content()
        done = latin.restore(file=files[0])

        assert refused[0] == 3
        assert 'has no equivalent in encoding "LATIN1"' in refused[2]
        assert empty[0] == []
        assert done[0] == 0, done[2]
        assert latin.content()[0] == [(1, "ö"), (2, "ö"), (3, "ö")]
        assert latin.database.value("SELECT octet_length(v) FROM a WHERE id = 1") == 1
    finally:
        base.rows(f"DROP DATABASE {name}")


# --- the way over -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "write", "said"),
    [
        ("SELECT repeat('x', 1000), 10 / (20000 - n) FROM generate_series(1, 30000) n", "big", "division by zero"),
        ("SELECT repeat('x', 1000), n FROM generate_series(1, 30000) n", "narrow", "value too long"),
        ("SELECT 1", "big", "missing data for column"),
    ],
    ids=["the source fails", "the target refuses", "the shapes differ"],
)  # fmt: skip
def test_a_stream_that_breaks_is_an_error(empty: Database, project: Project, read: str, write: str, said: str) -> None:
    """Whichever end stops, its own reason is raised, nobody hangs, and no part of the rows passes for all of them."""
    empty.rows("CREATE TABLE big (t text, n int); CREATE TABLE narrow (t varchar(10), n int)")
    engine = connect.engine(connect.url(load(project.config())), "the test")

    with connect.opened(engine) as source, connect.opened(engine) as target, pytest.raises(DBAPIError) as caught:
        unpack._stream(source, f"COPY ({read}) TO STDOUT", target, f"COPY {write} FROM STDIN")

    assert said in str(caught.value)
    assert [one.name for one in threading.enumerate() if one.name == "archive"] == []
    assert empty.value(f"SELECT count(*) FROM {write}") == 0


def test_a_stream_that_is_stopped_leaves_nobody_waiting(empty: Database, project: Project) -> None:
    """Ctrl-C while the source has nothing to send yet: both ends are let go of, and the process ends at once."""
    empty.rows("CREATE TABLE t (n text)")
    script = (
        "from alembic.config import Config\nfrom mcp_planner_schema.guard import connect, settings, unpack\n"
        "engine = connect.engine(connect.url(settings.load(Config())), 'stopped')\n"
        "with connect.opened(engine) as source, connect.opened(engine) as target:\n"
        "    unpack._stream(source, 'COPY (SELECT pg_sleep(60)) TO STDOUT', target, 'COPY t FROM STDIN')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    there = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stopped' AND state = 'active'"
    until(lambda: empty.value(there) == 2)

    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1]

    assert b"KeyboardInterrupt" in said
    until(lambda: empty.value(there) == 0)
