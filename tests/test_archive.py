"""Archives: what is in the file has been restored and compared; what cannot be proven leaves nothing behind."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa
from alembic.config import Config

from mcp_planner_schema import embedded, example_data
from mcp_planner_schema.guard import archive, client, connect, dump, settings
from mcp_planner_schema.guard.archive import Archive
from mcp_planner_schema.guard.findings import Busy, Refused
from mcp_planner_schema.guard.settings import Settings
from tests.conftest import ROOT, Database, some
from tests.test_stash import NASTY, QUOTED, shown
from tests.until import until

REAL = embedded.binary("pg_dump").parent
SIMPLE = """CREATE TABLE a (id int PRIMARY KEY, v text);
INSERT INTO a SELECT n, md5(n::text) || md5((-n)::text) || md5((n + 1000)::text) FROM generate_series(1, 500) n"""


@dataclasses.dataclass
class Place:
    """A database to archive, and the folder of its archives."""

    database: Database
    folder: Path
    environ: dict[str, str]

    def settings(self, **environ: str) -> Settings:
        """As the guard reads them."""
        return settings.load(Config(), {**self.environ, **environ})

    def engine(self, **environ: str) -> sa.Engine:
        """As the guard connects."""
        return connect.engine(connect.url(self.settings(**environ)), "the test")

    def make(self, *tables: str | tuple[str, str], attempts: int = 2, **environ: str) -> Archive:
        """Archive these tables; a name alone is one in public."""
        given = dataclasses.replace(self.settings(**environ), lock_attempts=attempts)
        named = [("public", one) if isinstance(one, str) else one for one in tables]
        return archive.make(given, self.engine(**environ), named, "003", "make migrate-down")

    def refused(self, *tables: str, **environ: str) -> Refused:
        """The refusal of an archive: for its one reason, nothing left in the folder, no scratch database."""
        with pytest.raises(Refused) as caught:
            self.make(*tables, **environ)
        assert [one.code for one in caught.value.findings] == ["archive-impossible"]
        assert not re.search(r"\{\w*\}", caught.value.text())
        self.nothing_left()
        return caught.value

    def nothing_left(self) -> None:
        """No file, and no scratch database."""
        assert not self.folder.is_dir() or list(self.folder.iterdir()) == []
        assert self.scratch() == []

    def scratch(self) -> list[str]:
        """The scratch databases of this database that there are."""
        return [
            row[0] for row in self.database.rows("SELECT datname FROM pg_database WHERE datname ~ %s", f"^{self.begin}")
        ]

    @property
    def begin(self) -> str:
        """How their names begin."""
        return f"{self.database.name}_archive_check_"


@pytest.fixture
def place(empty: Database, tmp_path: Path) -> Place:
    """An empty database and a folder that is not there yet."""
    folder = tmp_path / "backups"
    environ = {"DATABASE_URL": empty.url, "PLANNER_ARCHIVE_DIR": str(folder), "PLANNER_PG_BIN": str(REAL)}
    return Place(empty, folder, environ)


@pytest.fixture
def programs(tmp_path: Path) -> Callable[..., str]:
    """Makes a folder with programs of our own: shell text each, with $REAL for the folder of the true ones."""

    def make(**text: str) -> str:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in ("pg_dump", "pg_restore"):
            body = text.get(name, f'exec "$REAL/{name}" "$@"')
            asked = f'case "$1" in --version) exec "$REAL/{name}" --version;; esac\n' if "--version" not in body else ""
            (folder / name).write_text(f"#!/bin/sh\nREAL={shlex.quote(str(REAL))}\n{asked}{body}\n")
            (folder / name).chmod(0o755)
        return str(folder)

    return make


# --- what an archive holds --------------------------------------------------------------------------------------------

HOSTILE = f"""
CREATE SCHEMA "Other.Schema"; CREATE TYPE mood AS ENUM ('sad', 'so so'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (x float8, y text); CREATE SEQUENCE lonely; SELECT setval('lonely', 41);
CREATE TABLE {QUOTED} ({QUOTED} mood PRIMARY KEY, m mood[], p positive, c pair, f float8, b bytea, at timestamptz, i interval,
  n numeric, j json, g int GENERATED ALWAYS AS (n::int * 2) STORED, k int GENERATED ALWAYS AS IDENTITY (START 7));
INSERT INTO {QUOTED} VALUES ('sad', '{{sad,NULL}}', 1, (1e-300, 'a,"b"'), 0.1::float8 + 0.2, '\\x00ff', 'infinity',
  '-1 mon', 1.10, '{{"a": 1, "a": 2}}'), ('so so', '[2:3]={{sad,"so so"}}', NULL, NULL, 'NaN', '',
  '2026-02-03 04:05:06.789+02', '1 day', 1.1, NULL);
CREATE TABLE "Other.Schema"."a*" (id serial, t text);
INSERT INTO "Other.Schema"."a*" (t) VALUES (E'tab\\tline\\nend\\\\.'), (NULL), ('\\.');
CREATE TABLE "Other.Schema".ab (id int); INSERT INTO "Other.Schema".ab VALUES (1);
CREATE TABLE parts (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE parts_2 (at date, gone int, id int); ALTER TABLE parts_2 DROP gone;
ALTER TABLE parts ATTACH PARTITION parts_2 DEFAULT;
INSERT INTO parts VALUES (1, '2026-01-05'), (2, '2027-01-01'), (2, '2027-01-01');
CREATE TABLE hashed (m mood) PARTITION BY HASH (m);
CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE hashed_2 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1); INSERT INTO hashed VALUES ('sad'), ('so so');
CREATE TABLE parent (id int); CREATE TABLE child (x int) INHERITS (parent);
INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 3);
CREATE TABLE forced (id int); INSERT INTO forced VALUES (1);
ALTER TABLE forced ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES;
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'a trigger fired'; END $$;
CREATE TRIGGER shout BEFORE INSERT ON forced FOR EACH ROW EXECUTE FUNCTION shout();
CREATE TABLE other (id int); INSERT INTO other VALUES (1); CREATE TABLE "a.b" (id int); INSERT INTO "a.b" VALUES (1);
CREATE VIEW seen AS SELECT * FROM forced;
CREATE SCHEMA migration; CREATE TABLE migration.history (id int); INSERT INTO migration.history VALUES (1);
CREATE VIEW watching AS SELECT * FROM migration.history;
CREATE SCHEMA migration_stash_3; CREATE TABLE migration_stash_3.t (id int);
"""
NAMED = (NASTY, ("Other.Schema", "a*"), "parts", "hashed", "parent", "forced", "nothing")


def test_an_archive_holds_what_it_says(place: Place) -> None:
    """Rows of all kinds of tables come back exactly, the schema whole, other tables empty; the file is the owner's alone."""
    run(place.database, HOSTILE)

    made = place.make(*NAMED)

    rows = {name: rows for _, name, rows, *_ in made.tables}
    assert rows == {NASTY: 2, "a*": 3, "parts": 3, "hashed": 2, "parent": 1, "forced": 1, "nothing": 1}
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700
    assert [path.name for path in place.folder.iterdir()] == [made.path.name]
    assert re.fullmatch(rf"{place.database.name.replace('_', '-')}_003_\d{{8}}T\d{{6}}\.\d{{6}}Z\.dump", made.path.name)
    assert made.bytes == made.path.stat().st_size
    assert place.scratch() == []
    archive.verify(made.path, made.sha256)
    with archive.restored(place.settings(), place.engine(), made.path, made.sha256) as url:
        copy = dataclasses.replace(place.database, name=url.database or "")
        for relation in (QUOTED, '"Other.Schema"."a*"', "parts", "hashed", "ONLY parent", "forced"):
            assert shown(copy, relation) == shown(place.database, relation)
        for relation in ("child", "other", '"a.b"', '"Other.Schema".ab', "migration.history", "watching"):
            assert copy.value(f"SELECT count(*) FROM {relation}") == 0
        assert copy.value("SELECT last_value FROM lonely") == 41
        assert copy.value('SELECT last_value FROM "Other.Schema"."a*_id_seq"') == 3
        assert copy.value("SELECT to_regclass('migration_stash_3.t') IS NULL")
    assert place.scratch() == []


def run(database: Database, sql: str) -> None:
    """Statements as they are, % and all."""
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(sql)


def test_patterns_mean_the_named_tables_only(empty: Database) -> None:
    """Names with whatever pg_dump's patterns give a meaning to; what ASCII cannot write is left out where that is asked."""
    names = ["a*", "a?b", "a.b", "(x|y)", "$", "[a-z]", "a\\d", 'q"q', "Upper", "new\nline", "%s", "Ж", "plain"]
    for name in names:
        run(empty, 'CREATE TABLE "' + name.replace('"', '""') + '" (id int)')
    some, others = names[::2], names[1::2]

    made = list(dump.patterns([("public", name) for name in some]))

    command = [f"--exclude-table={one}" for one in made]
    listed = subprocess.run(
        [str(REAL / "pg_dump"), "-h", empty.host, "-p", str(empty.port), "-U", "postgres", "-d", empty.name, "-s", *command],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert len(made) == 1
    assert listed.count("CREATE TABLE ") == len(others)
    assert list(dump.patterns([("s", "Ж"), ("s", "b")], plain=True)) == ['"s".("b")']


def test_names_beyond_a_command_line_are_left_out() -> None:
    """Ten thousand tables with long names give a command line that a system takes."""
    made = list(dump.patterns([("public", f"{number:063}") for number in range(10_000)]))

    assert 400_000 < sum(map(len, made)) < 600_000
    assert max(map(len, made)) < 100_000


def test_writers_go_on_and_change_nothing(place: Place, programs: Callable[..., str]) -> None:
    """A row that is written between the snapshot and pg_dump's first look is in neither the archive nor the sums."""
    run(place.database, SIMPLE)
    add = psql(place.database, "INSERT INTO a VALUES (1000, 'late')")

    made = place.make("a", PLANNER_PG_BIN=programs(pg_dump=f'{add}\nexec "$REAL/pg_dump" "$@"'))

    assert made.tables[0][2] == 500
    assert place.database.value("SELECT count(*) FROM a") == 501


def psql(database: Database, sql: str) -> str:
    """Shell text that runs one statement."""
    program = shlex.quote(str(REAL / "psql"))
    return (
        f'{program} -Xq -h {database.host} -p {database.port} -U postgres -d {database.name} -c "{sql}" >&2 || exit 9'
    )


def test_a_busy_table_is_archived_as_it_was(place: Place) -> None:
    """While a writer inserts all the time, three archives prove themselves."""
    run(place.database, SIMPLE)
    stop, written = threading.Event(), [0]

    def write() -> None:
        with place.database.connect() as connection, connection.cursor() as cursor:
            while not stop.is_set():
                cursor.execute("INSERT INTO a SELECT max(id) + 1, 'w' FROM a")
                written[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        rows = [place.make("a").tables[0][2] for _ in range(3)]
    finally:
        stop.set()
        writer.join()

    assert 500 <= rows[0] < rows[1] < rows[2] < 500 + written[0]


def test_large_objects_come_along_where_a_table_names_them(place: Place) -> None:
    """A table with a column of type oid takes the large objects with it; another does not."""
    run(
        place.database,
        SIMPLE + "; CREATE TABLE l (o oid); INSERT INTO l VALUES (lo_from_bytea(0, '\\xc0ffee')), (lo_create(0))",
    )
    run(place.database, "SELECT lo_put(o, 3000000, '\\xff') FROM l")

    for table, count in (("l", 2), ("a", 0)):
        made = place.make(table)

        with archive.restored(place.settings(), place.engine(), made.path, made.sha256) as url:
            copy = dataclasses.replace(place.database, name=url.database or "")
            assert copy.value("SELECT count(*) FROM pg_largeobject_metadata") == count


def test_a_large_object_that_differs_is_noticed(place: Place, programs: Callable[..., str]) -> None:
    """One byte behind two megabytes is another once it is restored: no archive."""
    run(
        place.database,
        "CREATE TABLE l (o oid); INSERT INTO l VALUES (lo_create(0)); SELECT lo_put(o, 3000000, '\\xff') FROM l",
    )
    change = f'{_LISTS}\n"$REAL/pg_restore" "$@" || exit\n' + in_scratch("SELECT lo_put(o, 2500000, '\\x01') FROM l")

    refusal = place.refused("l", PLANNER_PG_BIN=programs(pg_restore=change))

    assert "restored from it, the database has other large objects" in refusal.text()


def in_scratch(sql: str) -> str:
    """Shell text for a pg_restore of our own that runs a statement where it was to restore."""
    return (
        'for one; do :; done; export PGSERVICE="${one#--dbname=service=}"\n'
        f'exec {shlex.quote(str(REAL / "psql"))} -Xq -c "{sql}" >&2'
    )


def test_encoding_and_locale_are_those_of_the_source(place: Place) -> None:
    """A database in another encoding, with names that ASCII cannot write, is archived in its own."""
    name = place.database.name + "_l"
    run(place.database, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'")
    other = dataclasses.replace(place.database, name=name)
    try:
        run(other, 'CREATE TABLE "ä" (t text); INSERT INTO "ä" VALUES (\'ö\'); CREATE TABLE "ü" (); CREATE TABLE u ()')
        there = Place(other, place.folder, {**place.environ, "DATABASE_URL": other.url})

        made = there.make("ä")

        with archive.restored(there.settings(), there.engine(), made.path, made.sha256) as url:
            copy = dataclasses.replace(other, name=url.database or "")
            assert copy.rows("SELECT t, current_setting('server_encoding') FROM \"ä\"") == [("ö", "LATIN1")]
    finally:
        run(place.database, f"DROP DATABASE {name}")


def test_the_planners_own_tables_can_be_archived(
    database: Database, planner: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every table of MCP-Planner's schema at head, filled, with its functions, triggers and generated columns."""
    own = Place(database, tmp_path / "backups", {"DATABASE_URL": database.url, "PLANNER_PG_BIN": str(REAL)})
    own.environ["PLANNER_ARCHIVE_DIR"] = str(own.folder)
    monkeypatch.setenv("PLANNER_ENV", "development")
    example_data.fill(planner, projects=2)
    tables = [row[0] for row in database.rows("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
                                              "AND relkind IN ('r', 'p') AND NOT relispartition")]  # fmt: skip

    made = own.make(*tables)

    assert {name for _, name, *_ in made.tables} == set(tables)
    assert next(rows for _, name, rows, *_ in made.tables if name == "projects") == 2
    assert own.scratch() == []


def test_rows_that_cannot_be_restored_are_no_archive(place: Place) -> None:
    """A check that asks another table cannot hold in a restored database before that table has its rows: told, not hidden."""
    run(place.database, "CREATE TABLE z (id int); INSERT INTO z VALUES (1)")
    run(
        place.database,
        "CREATE FUNCTION known(int) RETURNS bool LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM public.z WHERE id = $1)'",
    )
    run(place.database, "CREATE TABLE a (id int CHECK (known(id))); INSERT INTO a VALUES (1)")

    refusal = place.refused("a")

    assert "it cannot be restored: " in refusal.text()
    assert 'violates check constraint "a_id_check"' in refusal.text()


# --- programs that do not do their work -------------------------------------------------------------------------------

_LISTS = 'case "$*" in *--list*) exec "$REAL/pg_restore" "$@";; esac'
_NO_SNAPSHOT = 'for one; do shift; case "$one" in --snapshot=*) ;; *) set -- "$@" "$one";; esac; done'
FAKES: dict[str, tuple[dict[str, str], str]] = {
    "too old": ({"pg_dump": 'echo "pg_dump (PostgreSQL) 9.6.24"  # --version'}, "is version 9.6.24, older than the server"),
    "no version": ({"pg_dump": "echo hello  # --version"}, "does not say which version it is"),
    "an older pg_restore": ({"pg_restore": 'echo "pg_restore (PostgreSQL) 17.1"  # --version'}, "older than pg_dump beside it"),
    "fails": ({"pg_dump": "echo 'pg_dump: error: no' >&2; exit 1"}, "ended with exit code 1: pg_dump: error: no"),
    "fails after its work": ({"pg_dump": '"$REAL/pg_dump" "$@"; exit 3'}, "ended with exit code 3: it gives no reason"),
    "killed": ({"pg_dump": "kill -KILL $$"}, "was ended by signal 9"),
    "garbage": ({"pg_dump": "echo garbage"}, "pg_restore cannot read it"),
    "nothing": ({"pg_dump": "exit 0"}, "pg_restore cannot read it"),
    "half": ({"pg_dump": '"$REAL/pg_dump" "$@" | head -c 2000'}, "cannot be restored"),
    "a table left out": ({"pg_dump": 'exec "$REAL/pg_dump" "$@" --exclude-table-data=a'}, "left out 1 of the tables"),
    "another moment": (
        {"pg_dump": f'ADD\n{_NO_SNAPSHOT}\nexec "$REAL/pg_dump" "$@"'},
        "public.a has 501 rows instead of 500",
    ),
    "another value": ({"pg_restore": f'{_LISTS}\n"$REAL/pg_restore" "$@" || exit\nCHANGE'},
                      "public.a has other rows"),
    "full disk": ({"pg_dump": 'exec "$REAL/pg_dump" "$@" > /dev/full'}, "the disk is full (pg_dump: error: could not"),
    "a limit": ({"pg_dump": "trap '' XFSZ; ulimit -f 1; exec \"$REAL/pg_dump\" \"$@\""}, "the disk is full"),
    "restore fails": ({"pg_restore": f"{_LISTS}\necho no >&2; exit 1"},
                      "it cannot be restored: no"),
}  # fmt: skip


@pytest.mark.parametrize("name", some(FAKES))
def test_a_program_that_does_not_do_its_work_is_noticed(place: Place, programs: Callable[..., str], name: str) -> None:
    """Whatever pg_dump or pg_restore gets wrong: refused with its reason, no file, no scratch database, the table as it was."""
    run(place.database, SIMPLE)
    before = shown(place.database, "a")[:500]
    text, said = FAKES[name]
    add = psql(place.database, "INSERT INTO a VALUES (1000, 'late')")
    change = in_scratch("UPDATE a SET v = 'other' WHERE id = 7")
    text = {key: value.replace("ADD", add).replace("CHANGE", change) for key, value in text.items()}

    refusal = place.refused("a", PLANNER_PG_BIN=programs(**text))

    assert said in refusal.text()
    assert set(before) <= set(shown(place.database, "a"))


def test_a_disk_that_is_full_at_the_very_end_is_noticed(
    place: Place, programs: Callable[..., str], tmp_path: Path
) -> None:
    """What pg_dump still has in its buffer when it ends is written unchecked: it says that all went well, and it did not."""
    run(place.database, "CREATE TABLE a ()")
    code = tmp_path / "code"

    refusal = place.refused(
        "a",
        PLANNER_PG_BIN=programs(pg_dump=f'"$REAL/pg_dump" "$@" > /dev/full; code=$?; echo $code > {code}; exit $code'),
    )

    assert code.read_text() == "0\n"
    assert "pg_dump does not notice a disk that is full at the very end" in refusal.text()


def test_without_a_pg_dump_that_fits_nothing_is_archived(place: Place, tmp_path: Path) -> None:
    """A folder without the programs is named, with what to install."""
    run(place.database, SIMPLE)

    refusal = place.refused("a", PLANNER_PG_BIN=str(tmp_path))

    assert f"there is no pg_dump to run in {tmp_path} (No such file or directory)" in refusal.text()
    assert "install PostgreSQL 18's client programs" in refusal.text()


def test_programs_are_found_without_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is too old stands first on the PATH: the server's own version is found behind it."""
    for name in ("pg_dump", "pg_restore"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} (PostgreSQL) 12.3"\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    found = client.find("", 18)

    assert found.version.startswith("18.")
    assert found.pg_dump.parent != tmp_path
    with pytest.raises(client.Impossible, match=r"pg_dump is version 12\.3, older than the server \(99\)"):
        client.find("", 99)


# --- the file later ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["shorter", "longer", "one bit", "empty", "gone", "a link", "a folder"])
def test_a_file_that_was_changed_is_refused(place: Place, tmp_path: Path, harm: str) -> None:
    """Before anything is read out of it, a file is byte for byte the one that was written."""
    run(place.database, SIMPLE)
    made = place.make("a")
    content = bytearray(made.path.read_bytes())
    made.path.rename(tmp_path / "kept")
    content[len(content) // 2] ^= 1 if harm == "one bit" else 0
    if harm == "a link":
        made.path.symlink_to(tmp_path / "kept")
    elif harm == "a folder":
        made.path.mkdir()
    elif harm != "gone":
        cut = {"shorter": content[:-1], "longer": content + b"\0", "one bit": content, "empty": b""}[harm]
        made.path.write_bytes(cut)

    with pytest.raises(Refused) as verified:
        archive.verify(made.path, made.sha256)
    with pytest.raises(Refused) as given, archive.restored(place.settings(), place.engine(), made.path, made.sha256):
        pass

    for caught in (verified, given):
        assert [one.code for one in caught.value.findings] == ["archive-impossible"]
        assert str(made.path) in caught.value.text()
    assert place.scratch() == []


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_folder_that_others_may_enter_is_refused(place: Place) -> None:
    """The mode is not changed behind its owner's back: the command that does it is named."""
    run(place.database, SIMPLE)
    place.folder.mkdir(mode=0o755)
    place.folder.chmod(0o750)

    refusal = place.refused("a")

    assert refusal.next_command == f"chmod 700 {place.folder}"
    assert stat.S_IMODE(place.folder.stat().st_mode) == 0o750


@pytest.mark.parametrize("what", ["link", "file", "missing parent"])
def test_a_folder_that_is_none_is_refused(place: Place, tmp_path: Path, what: str) -> None:
    """A link to somebody's folder is not followed; a missing parent is not made."""
    run(place.database, SIMPLE)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder = place.folder
    if what == "link":
        folder.symlink_to(tmp_path / "elsewhere")
    elif what == "file":
        folder.write_text("")
    else:
        folder = folder / "deeper"

    with pytest.raises(Refused) as caught:
        place.make("a", PLANNER_ARCHIVE_DIR=str(folder))

    assert str(folder) in caught.value.text()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert place.scratch() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(place: Place) -> None:
    """Its owner could put anything there."""
    run(place.database, SIMPLE)
    place.folder.mkdir(mode=0o700)
    os.chown(place.folder, 65534, 65534)

    refusal = place.refused("a")

    assert "belongs to somebody else (uid 65534)" in refusal.text()


def test_a_link_in_the_files_place_is_not_followed(tmp_path: Path) -> None:
    """Whoever plants a link under the name of the file to come finds his target untouched."""
    target = tmp_path / "target"
    target.write_text("mine")
    folder = tmp_path / "backups"
    folder.mkdir(mode=0o700)
    (folder / "x.dump.partial").symlink_to(target)

    with (
        pytest.raises(client.Impossible, match=r"x\.dump cannot be written \(File exists\)"),
        archive._folder(str(folder)) as (_, handle),
        archive._new(handle, "x.dump"),
    ):
        pass

    assert target.read_text() == "mine"


# --- locks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("locked", ["a", "b"])
def test_a_lock_in_the_way_is_told(place: Place, locked: str) -> None:
    """A lock on the table itself, or on another that only pg_dump needs: busy, within the budget, nothing left behind."""
    run(place.database, SIMPLE + "; CREATE TABLE b ()")
    with place.database.connect(autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {locked} IN ACCESS EXCLUSIVE MODE")

        with pytest.raises(Busy) as caught:
            place.make("a")

    assert caught.value.code == 75
    assert caught.value.next_command == "make migrate-down"
    place.nothing_left()


def test_a_lock_that_is_let_go_of_is_waited_for(place: Place, programs: Callable[..., str]) -> None:
    """The first pg_dump meets a lock, the second does not."""
    run(place.database, SIMPLE + "; CREATE TABLE b ()")
    with place.database.connect(autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE b IN ACCESS EXCLUSIVE MODE")
        end = psql(place.database, f"SELECT pg_terminate_backend({holder.info.backend_pid}, 5000)")
        again = f'"$REAL/pg_dump" "$@"; code=$?\n{end} \nexit $code'

        made = place.make("a", PLANNER_PG_BIN=programs(pg_dump=again))

    assert made.tables[0][2] == 500


def test_the_step_that_waits_for_its_archive_is_not_in_the_way(place: Place) -> None:
    """After a trial that was rolled back, and behind the lock that keeps writers out, its transaction stops no pg_dump."""
    run(place.database, SIMPLE)
    with place.database.connect(autocommit=False) as step, step.cursor() as cursor:
        cursor.execute("SAVEPOINT trial; DROP TABLE a; ROLLBACK TO SAVEPOINT trial; LOCK TABLE a IN SHARE MODE")

        made = place.make("a", attempts=1)

    assert made.tables[0][2] == 500


# --- who may, and who sees it -----------------------------------------------------------------------------------------


@pytest.fixture
def role(place: Place) -> Iterator[str]:
    """A role that may log in and create in the database, and nothing else."""
    name = f"r_{place.database.name}"
    run(place.database, f"CREATE ROLE {name} LOGIN; GRANT CREATE ON DATABASE {place.database.name} TO {name}")
    run(place.database, f"GRANT ALL ON SCHEMA public TO {name}")
    yield name
    run(place.database, f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def as_role(place: Place, role: str, sql: str) -> dict[str, str]:
    """Run statements as a role; what DATABASE_URL is for it, with a password that nobody asks for."""
    with place.database.connect(user=role) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
    return {"DATABASE_URL": place.database.url.replace("postgres@", f"{role}:s3cret%40%25x@")}


def test_a_role_that_may_not_create_a_database_is_told(place: Place, role: str, programs: Callable[..., str]) -> None:
    """Before pg_dump has written a byte, and with the statement that changes it."""
    url = as_role(place, role, SIMPLE)

    refusal = place.refused("a", **url, PLANNER_PG_BIN=programs(pg_dump="exit 7"))

    assert f"the role {role} may not create a database" in refusal.text()
    assert f'ALTER ROLE "{role}" CREATEDB' in refusal.next_command


def test_another_server_can_prove_it(place: Place, role: str) -> None:
    """With archive_check_url the role needs no right of its own; a URL that leads nowhere is told, without its password."""
    url = as_role(place, role, SIMPLE)

    made = place.make("a", **url, PLANNER_ARCHIVE_CHECK_URL=place.database.url)
    with pytest.raises(Refused) as caught:
        place.make("a", **url, PLANNER_ARCHIVE_CHECK_URL="postgresql://u:t0psecret@/x?host=/nowhere")

    assert made.tables[0][2] == 500
    assert "archive_check_url: Nothing listens at /nowhere" in caught.value.text()
    assert "t0psecret" not in caught.value.text()
    assert place.scratch() == []


def test_a_role_of_no_rank_archives_what_it_owns(place: Place, role: str) -> None:
    """CREATEDB is all that is needed, until a table stands there that the role may not read or see."""
    url = as_role(
        place, role, SIMPLE + "; CREATE TABLE f (); ALTER TABLE f ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
    )
    run(place.database, f"ALTER ROLE {role} CREATEDB")

    made = place.make("a", **url)
    made.path.unlink()
    hidden = place.refused("f", **url)
    run(place.database, "CREATE TABLE others ()")
    unread = place.refused("a", **url)

    assert "row level security hides rows of public.f" in hidden.text()
    assert "the role may not read public.others" in unread.text()


def test_nobody_sees_the_password(place: Place, role: str, programs: Callable[..., str], tmp_path: Path) -> None:
    """Neither arguments nor the service file hold it; what the URL says beside it arrives."""
    url = as_role(place, role, SIMPLE)
    run(place.database, f"ALTER ROLE {role} CREATEDB")
    url["DATABASE_URL"] += "&sslmode=disable&options=-c%20work_mem%3D7MB&connect_timeout=77"
    saved = shlex.quote(str(tmp_path))
    spy = (
        f'tr "\\0" "\\n" < /proc/$$/cmdline >> {saved}/seen; cat "$PGSERVICEFILE" > {saved}/service; '
        f'stat -L -c "%a %h" "$PGSERVICEFILE" > {saved}/modes; printf %s "$PGPASSWORD" > {saved}/password\n'
        'exec "$REAL/pg_dump" "$@"'
    )

    place.make("a", **url, PLANNER_PG_BIN=programs(pg_dump=spy))
    (tmp_path / "bin" / "pg_dump").write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "pg_dump (PostgreSQL) 18.9" && exit\necho "$PGPASSWORD" >&2; exit 1'
    )
    with pytest.raises(Refused) as caught:
        place.make("a", **url, PLANNER_PG_BIN=str(tmp_path / "bin"))

    seen, service = (tmp_path / "seen").read_text(), (tmp_path / "service").read_text()
    assert (tmp_path / "password").read_text() == "s3cret@%x"
    assert "s3cret" not in seen + service + caught.value.text()
    assert place.database.host not in seen
    assert {"sslmode=disable", "connect_timeout=77", f"user={role}", f"host={place.database.host}"} <= set(
        service.splitlines()
    )
    assert "options=-c work_mem=7MB " in service
    # The owner's alone, and in no folder.
    assert (tmp_path / "modes").read_text().split() == ["600", "0"]


# --- interrupted ------------------------------------------------------------------------------------------------------

SCRIPT = """
from alembic.config import Config
from mcp_planner_schema.guard import archive, connect, settings
given = settings.load(Config())
archive.make(given, connect.engine(connect.url(given), "killed"), [("public", "a")], "003", "again")
"""


def started(place: Place, bin: str) -> subprocess.Popen[bytes]:
    """A process of its own that makes an archive."""
    environ = {
        **os.environ,
        **place.environ,
        "PLANNER_PG_BIN": bin,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(place.folder.parent),
    }
    return subprocess.Popen([sys.executable, "-c", SCRIPT], env=environ, stderr=subprocess.PIPE)


@pytest.mark.parametrize("program", ["pg_dump", "pg_restore"])
def test_an_interrupted_run_leaves_nothing(
    place: Place, programs: Callable[..., str], tmp_path: Path, program: str
) -> None:
    """Ctrl-C while pg_dump writes, and while the archive is being restored: no file, no scratch database."""
    run(place.database, SIMPLE)
    at = tmp_path / "here"
    wait = f"{_LISTS}\necho $$ > {at}\nexec sleep 60"

    process = started(place, programs(**{program: wait}))
    until(lambda: at.exists() and at.read_text().strip())
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[1]

    assert b"KeyboardInterrupt" in said
    assert not Path(f"/proc/{int(at.read_text())}").exists()
    place.nothing_left()


def test_what_a_killed_run_has_left_is_removed_by_the_next(
    place: Place, programs: Callable[..., str], tmp_path: Path
) -> None:
    """The half file and the scratch database of a run that was killed; not those of one that is at work."""
    run(place.database, SIMPLE)
    at = tmp_path / "here"
    wait = f"{_LISTS}\necho $$ > {at}\nexec sleep 60"
    process = started(place, programs(pg_restore=wait))
    until(lambda: at.exists() and at.read_text().strip())
    left = place.scratch()

    place.make("a").path.unlink()
    while_at_work = place.scratch(), [path.suffix for path in place.folder.iterdir()]
    process.kill()
    process.communicate(timeout=30)
    os.kill(int(at.read_text()), signal.SIGKILL)
    until(lambda: place.database.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'killed'") == 0)
    place.make("a").path.unlink()

    assert len(left) == 1
    assert while_at_work == (left, [".partial"])
    place.nothing_left()


def test_a_scratch_database_is_dropped_with_somebody_in_it(place: Place) -> None:
    """Whoever is connected to it is thrown out: it was never meant for anybody else."""
    run(place.database, SIMPLE)
    made = place.make("a")

    with archive.restored(place.settings(), place.engine(), made.path, made.sha256) as url:
        copy = dataclasses.replace(place.database, name=url.database or "")
        guest: Any = psycopg2.connect(host=copy.host, port=copy.port, dbname=copy.name, user="postgres")

    assert place.scratch() == []
    guest.close()


def test_only_staging_and_production_need_one(place: Place) -> None:
    """auto follows the environment, always does not."""
    development, production = place.settings(PLANNER_ENV="development"), place.settings(PLANNER_ENV="production")

    assert not archive.wanted(development)
    assert archive.wanted(production)
    assert archive.wanted(dataclasses.replace(development, archive="always"))
