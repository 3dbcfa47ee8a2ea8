"""The backup before a deploy: the whole database, restored to its last index, and what no dump has is said."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.config import Config

from mcp_planner_schema import embedded
from mcp_planner_schema.deploy import backup, record
from mcp_planner_schema.deploy.stages import EXPAND
from mcp_planner_schema.guard import client, connect, history, settings
from mcp_planner_schema.guard.findings import Refused
from tests.conftest import ROOT, Database

CONTROL = "default_version = '1'\n"
OWNED = """CREATE TABLE setting (name text, value text, usual boolean DEFAULT false);
INSERT INTO setting VALUES ('a', 'as shipped', true);
CREATE TABLE cached (id int);
SELECT pg_catalog.pg_extension_config_dump('setting', 'WHERE NOT usual');
"""


@pytest.fixture
def saved(empty: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Makes the backup of a deploy of the empty database; gives what is said."""
    monkeypatch.setenv("PLANNER_ARCHIVE_DIR", str(tmp_path / "backups"))
    given = settings.load(Config(str(ROOT / "alembic.ini")))
    engine = connect.engine(connect.url(given), "the test")

    def make() -> list[str]:
        with connect.opened(engine, autocommit=True) as connection:
            record.prepare(connection, "migration")
            who = history.Origin("somebody", "here", None)
            deploy = record.read(
                connection, "migration", record.begin(connection, "migration", EXPAND, "base", {}, None, who)
            )
        return list(backup.make(given, engine, deploy, "base", None, "again"))

    return make


@pytest.fixture
def restored(empty: Database) -> Iterator[Callable[[], Database]]:
    """The newest backup in a database beside, made as the commands that are printed make it."""
    beside = Database(empty.host, empty.port, f"{empty.name}_before")

    def restore() -> Database:
        empty.rows(f"CREATE DATABASE {beside.name} TEMPLATE template0")
        with connect.opened(connect.engine(connect.url(settings.load(Config())), "the test")) as connection:
            at = client.place(connection)
        with Path(empty.value("SELECT backup ->> 'path' FROM migration.deploy ORDER BY id DESC LIMIT 1")).open(
            "rb"
        ) as file:
            ended = client.run(embedded.binary("pg_restore"), ["--exit-on-error"], at, beside.name, stdin=file)
        assert ended.code == 0, ended.said
        return beside

    yield restore
    empty.rows(f"DROP DATABASE IF EXISTS {beside.name}")


@pytest.fixture
def extension(empty: Database) -> Iterator[None]:
    """An extension ``kept`` with a table of settings, registered to be dumped, and one that is not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)  # the server has an account of its own
    (folder / "extension").mkdir()
    (folder / "extension" / "kept.control").write_text(CONTROL)
    (folder / "extension" / "kept--1.sql").write_text(OWNED)
    empty.rows(f"ALTER SYSTEM SET extension_control_path = '{folder}:$system'")
    empty.rows("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        empty.rows("ALTER SYSTEM RESET extension_control_path")
        empty.rows("SELECT pg_reload_conf()")
        shutil.rmtree(folder)


def test_large_objects_are_in_it_whatever_names_them(
    empty: Database, saved: Callable[[], list[str]], restored: Callable[[], Database]
) -> None:
    """A large object whose number stands in a bigint, as many a framework has it, is in the backup byte for byte."""
    empty.rows("CREATE TABLE file (id bigint); INSERT INTO file SELECT lo_from_bytea(0, 'what it says')")

    saved()

    assert restored().value("SELECT convert_from(lo_get(id::oid), 'UTF8') FROM file") == "what it says"


def test_rows_of_an_extension_are_in_it(
    empty: Database, extension: None, saved: Callable[[], list[str]], restored: Callable[[], Database]
) -> None:
    """Rows that a user has put into an extension's table come back where it has registered them; of the others it is said."""
    empty.rows("CREATE TABLE a (id int); CREATE EXTENSION kept; INSERT INTO setting VALUES ('b', 'ours'), ('c', 'too')")
    empty.rows("INSERT INTO cached VALUES (1)")

    said = saved()

    assert restored().rows("SELECT name, value FROM setting ORDER BY 1") == [
        ("a", "as shipped"), ("b", "ours"), ("c", "too")
    ]  # fmt: skip
    assert [line for line in said if line.startswith("note")] == [
        "note: not in it: the rows of cached, which the extension kept has not registered to be dumped"
    ]


def test_what_earlier_downgrades_have_kept_is_in_it(
    empty: Database, saved: Callable[[], list[str]], restored: Callable[[], Database]
) -> None:
    """Where the record names rows that are kept, the backup has them."""
    empty.rows(
        "CREATE TABLE a (id int); CREATE SCHEMA migration_stash_1; CREATE TABLE migration_stash_1.b AS SELECT 7 AS id"
    )

    saved()

    assert restored().value("SELECT id FROM migration_stash_1.b") == 7


def test_what_comes_behind_the_rows_is_restored_too(empty: Database, saved: Callable[[], list[str]]) -> None:
    """Rows that break a foreign key, written while triggers were off, are no backup: alone they can be restored."""
    empty.rows("""CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (a int REFERENCES a);
        SET session_replication_role = replica; INSERT INTO b VALUES (1)""")

    with pytest.raises(Refused, match='not present in table "a"'):
        saved()


def test_all_kinds_of_objects_come_back(
    empty: Database, begin_at: Callable[[str], None], saved: Callable[[], list[str]], restored: Callable[[], Database]
) -> None:
    """The planner's schema, restored, has nothing to be told; what only a superuser or its own server makes is not tried."""
    begin_at("024")
    empty.rows("CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'")
    empty.rows("CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION e(); CREATE PUBLICATION p FOR ALL TABLES")

    said = saved()
    indexes = "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = indrelid WHERE relnamespace = 'public'::regnamespace"
    triggers = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"

    beside = restored()
    assert [line for line in said if line.startswith("note")] == []
    assert "restored and compared" in said[0]
    assert (beside.value(indexes), beside.value(triggers)) == (empty.value(indexes), empty.value(triggers))
    assert beside.value("SELECT count(*) FROM pg_event_trigger") == 1


def test_what_no_dump_has_is_said(empty: Database, saved: Callable[[], list[str]]) -> None:
    """Rows of a foreign table, and settings of the database, are named: they have to be kept otherwise."""
    empty.rows("""CREATE TABLE a (id int); CREATE EXTENSION postgres_fdw; CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw;
        CREATE FOREIGN TABLE far (id int) SERVER s""")
    empty.rows(f"ALTER DATABASE {empty.name} SET work_mem = '5MB'")

    said = saved()

    assert said[1:] == [
        "note: not in it: the rows of the foreign table far", "note: not in it: work_mem=5MB, by ALTER DATABASE"
    ]  # fmt: skip
