"""Fingerprints of live databases: every drift is named, and what is no difference makes none."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from mcp_planner_schema import embedded
from mcp_planner_schema.guard import touched
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.fingerprint import (
    Lines,
    again,
    at_once,
    difference,
    of,
    prepare,
    read,
    stored,
    structure,
    together,
    without_partitions,
)
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.inspect import fingerprints, trace
from tests import sent, test_touched
from tests.conftest import HEAD, ROOT, Database, Project, ServerAddress, _clone
from tests.every_kind import DRIFTS, ONCE, SCHEMA, STEP_BY_STEP
from tests.test_schema import REVISIONS


def opened(database: Database, user: str = "postgres") -> Connection:
    """A connection of SQLAlchemy's, in a transaction from the first statement on."""
    url = database.url.replace("postgresql:", "postgresql+psycopg2:").replace("//postgres@", f"//{user}@")
    return create_engine(url, poolclass=NullPool).connect()


def lines(connection: Connection) -> Lines:
    """All lines of the database."""
    return together(read(connection, "migration"))


@pytest.fixture(scope="module")
def every_kind(empty_template: Any) -> Iterator[Database]:
    """A database with an object of every kind; nobody changes it."""
    with _clone(empty_template) as cloned:
        cloned.rows(SCHEMA)
        yield cloned


@pytest.fixture(scope="module")
def looking(every_kind: Database) -> Iterator[tuple[Connection, Lines]]:
    """A transaction there, and what it shows; each test changes something in a savepoint."""
    with opened(every_kind) as connection:
        yield connection, lines(connection)
        connection.rollback()


@pytest.mark.parametrize(("change", "told"), DRIFTS, ids=[change[:60] for change, _ in DRIFTS])
def test_every_drift_is_found_and_named(looking: tuple[Connection, Lines], change: str, told: list[str]) -> None:
    """What somebody has changed by hand is told by its object, in words, and nothing beside it."""
    connection, before = looking
    execute(connection, "SAVEPOINT drift")

    execute(connection, change)
    found = lines(connection)

    execute(connection, "ROLLBACK TO SAVEPOINT drift")
    assert difference(before, found) == told
    assert (of(before) != of(without_partitions(found, before))) is bool(told)


def test_no_secret_is_read(looking: tuple[Connection, Lines]) -> None:
    """The password of a foreign server is in no line, its host is."""
    text = "\n".join(line.definition for line in looking[1])

    assert "other.example" in text
    assert "hush" not in text


def test_the_settings_of_a_session_make_no_difference(every_kind: Database, looking: tuple[Connection, Lines]) -> None:
    """Whatever decides how PostgreSQL writes names, dates and bytes is set for the question, and set back after it."""
    with opened(every_kind) as connection:
        for name, value in ODD.items():
            connection.exec_driver_sql(f"SET {name} = {value if name in ('search_path', 'datestyle') else repr(value)}")
        connection.commit()

        found = lines(connection)
        after = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in ODD}

    assert difference(looking[1], found) == []
    assert of(found) == of(looking[1])
    assert after == ODD


ODD = {
    "search_path": "app, public", "quote_all_identifiers": "on", "datestyle": "SQL, DMY", "intervalstyle": "iso_8601",
    "timezone": "Pacific/Auckland", "bytea_output": "escape", "standard_conforming_strings": "off", "jit": "on",
    "extra_float_digits": "-15", "lc_monetary": "C", "xmloption": "document", "row_security": "off",
}  # fmt: skip


def test_a_connection_of_our_own_reads_it_in_one_message(
    every_kind: Database, looking: tuple[Connection, Lines]
) -> None:
    """Settings and question are sent together; nothing has to be set back, and nothing else is sent."""
    with opened(every_kind) as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        for name, value in ODD.items():
            connection.exec_driver_sql(f"SET {name} = {value if name in ('search_path', 'datestyle') else repr(value)}")
        connection.exec_driver_sql("SET client_min_messages = log; SET log_statement = 'all'")
        heard = connection.connection.dbapi_connection.notices = sent.Heard()

        found = together(at_once(connection, "migration"))
        messages = heard.messages()
        connection.exec_driver_sql("SET log_statement = none")
        after = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in ODD}

    assert len(messages) == 1, messages
    assert found == looking[1]
    assert after == ODD


def test_in_a_transaction_of_somebody_else_it_is_not_read_at_once(every_kind: Database) -> None:
    """There the settings would stay: it is refused before anything is sent."""
    with opened(every_kind) as connection, pytest.raises(ValueError, match="autocommit"):
        at_once(connection, "migration")


def test_who_asks_makes_no_difference(every_kind: Database, looking: tuple[Connection, Lines]) -> None:
    """A role without a single right sees the same lines as the superuser."""
    role = f"nobody_{uuid.uuid4().hex[:12]}"
    every_kind.rows(f"CREATE ROLE {role} LOGIN")
    try:
        with opened(every_kind, role) as connection:
            found = lines(connection)
    finally:
        every_kind.rows(f"DROP ROLE {role}")

    assert found == looking[1]


def test_a_dump_and_its_restore_make_no_difference(
    every_kind: Database, looking: tuple[Connection, Lines], new_database: Callable[[], Database]
) -> None:
    """pg_dump and pg_restore bring back a database with the same fingerprint, comments and grants included."""
    restored = new_database()
    at = ["-h", every_kind.host, "-p", str(every_kind.port), "-U", "postgres"]

    dump = subprocess.run([embedded.binary("pg_dump"), *at, "-Fc", every_kind.name], capture_output=True, check=True)
    subprocess.run(
        [embedded.binary("pg_restore"), *at, "-e", "-d", restored.name], input=dump.stdout, capture_output=True, check=True
    )  # fmt: skip

    with opened(restored) as connection:
        found = lines(connection)
    assert difference(looking[1], found) == []
    assert of(found) == of(looking[1])


def test_the_way_to_a_schema_makes_no_difference(looking: tuple[Connection, Lines]) -> None:
    """A chain of changes, with columns that went and names that were others, and the same made at once."""
    connection, before = looking
    found = []

    for way in (STEP_BY_STEP, ONCE):
        execute(connection, "SAVEPOINT way")
        execute(connection, way)
        found.append(lines(connection))
        execute(connection, "ROLLBACK TO SAVEPOINT way")

    assert difference(found[1], found[0]) == []
    assert structure(found[0]) == structure(found[1])
    assert len(found[1] - before) > 20


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE app.task ADD COLUMN one int; COMMENT ON TRIGGER stamp ON app.task IS NULL",
        "ALTER TABLE app.task RENAME TO job",
        "ALTER TYPE app.mood RENAME VALUE 'glad' TO 'happy'",
        "ALTER COLLATION app.plain RENAME TO simple",
        "ALTER SCHEMA app RENAME TO other",
        "ALTER FUNCTION app.same SET SCHEMA public",
        "ALTER TABLE app.event RENAME COLUMN at TO day; ALTER INDEX app.once RENAME TO twice",
        "ALTER SERVER elsewhere RENAME TO here; GRANT SELECT (name) ON app.person TO PUBLIC",
        "ALTER FOREIGN TABLE app.afar OPTIONS (SET table_name 'y')",
        "ALTER TEXT SEARCH CONFIGURATION app.words DROP MAPPING FOR email",
        "ALTER TABLE app.task DISABLE TRIGGER ALL",
    ],
)
def test_what_was_touched_is_read_by_itself(looking: tuple[Connection, Lines], change: str) -> None:
    """With the objects of one change only these are read, and the rest is what it was: the same as reading all of it."""
    connection, _ = looking
    before = read(connection, "migration")
    moment = touched.known(connection)
    execute(connection, "SAVEPOINT change")

    execute(connection, change)
    oids = touched.since(connection, moment)
    part = read(connection, "migration", oids)
    now = again(connection, "migration", before, oids)
    whole = read(connection, "migration")

    execute(connection, "ROLLBACK TO SAVEPOINT change")
    assert together(now) == together(whole)
    assert now.keys() == whole.keys()
    assert 0 < sum(map(len, part.values())) < len(together(whole))


@pytest.mark.long
@pytest.mark.parametrize("body", [*test_touched.BODIES, *test_touched.RENAMES])
def test_what_any_change_touched_is_found(empty: Database, body: str) -> None:
    """Whatever a statement does to the catalog: what is read again with what was touched is what is there."""
    empty.rows(test_touched.SETUP)
    with opened(empty) as connection:
        before = read(connection, "migration")
        moment = touched.known(connection)

        execute(connection, body)
        now = again(connection, "migration", before, touched.since(connection, moment))

        assert together(now) == lines(connection)


def test_what_an_extension_has_made_is_its_own(empty: Database) -> None:
    """Its version decides what that is; an index of its table too, which PostgreSQL does not count among its members."""
    empty.rows("CREATE TABLE of_it (id int PRIMARY KEY, a int); CREATE INDEX ON of_it (a); CREATE EXTENSION citext")
    empty.rows("ALTER EXTENSION citext ADD TABLE of_it")

    with opened(empty) as connection:
        found = lines(connection)

    assert {(line.kind, line.identity) for line in found} == {("extension", "citext")}


def test_what_another_version_has_prepared_is_not_run(empty: Database) -> None:
    """A pooler may give the guard a session in which a newer or older one has prepared its question."""
    empty.rows("CREATE TABLE t (id int)")
    with opened(empty) as connection:
        execute(
            connection, "PREPARE mcp_planner_guard_lines (text, text[], name[], text, oid[]) AS SELECT 1, '', '', ''"
        )
        prepare(connection, "migration")
        oid = connection.exec_driver_sql("SELECT 't'::regclass::oid").scalar_one()

        found = read(connection, "migration", [oid])

        assert {line.kind for line in together(found)} == {"table", "column", "order"}


# --- the planner's own --------------------------------------------------------------------------------------------------


def test_a_database_at_head_is_what_is_stored(database: Database) -> None:
    """What upgrade head under the guard has made is what the files of all revisions sum up to, and has the digest of the last."""
    with opened(database) as connection:
        found = lines(connection)

    expected = stored.expected(ROOT / "alembic", REVISIONS)
    assert difference(expected, found) == []
    assert found == expected
    assert of(found) == stored.fingerprints(ROOT / "alembic")[HEAD]


def test_partitions_that_maintenance_makes_are_no_drift(database: Database) -> None:
    """After maintain_audit_partitions there is more than the revisions made, and nothing that differs from them."""
    database.rows("SELECT * FROM maintain_audit_partitions(3)")

    with opened(database) as connection:
        found = lines(connection)

    expected = stored.expected(ROOT / "alembic", REVISIONS)
    assert len(found - expected) > 20
    assert difference(expected, found) == []


@pytest.fixture
def scratch(embedded_server: ServerAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch databases are made on the tests' own server."""
    url = f"postgresql://postgres@/postgres?host={embedded_server.host}&port={embedded_server.port}"
    monkeypatch.setenv("PLANNER_ARCHIVE_CHECK_URL", url)


def test_a_new_revision_gets_its_line_and_its_file(scratch: None, project: Project) -> None:
    """Without VERSION only what has none is run to its end and written; with it, that and what follows; nothing when all have."""
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    project.revision("002", "add_b", 'op.execute("ALTER TABLE a ADD b int")', 'op.execute("ALTER TABLE a DROP b")')
    folder = project.folder / "alembic"

    both, written = fingerprints.store(project.config())
    none = fingerprints.store(project.config())
    project.revision("003", "drop_b", 'op.execute("ALTER TABLE a DROP b")', 'op.execute("ALTER TABLE a ADD b int")')
    third, _ = fingerprints.store(project.config())
    again, unchanged = fingerprints.store(project.config(), "002")

    assert list(both) == ["001", "002"]
    assert {path.name for path in written} == {"fingerprints", "001.json", "002.json"}
    assert none == ({}, [])
    assert list(third) == ["003"]
    assert (list(again), unchanged) == (["002", "003"], [])
    assert list(stored.fingerprints(folder)) == ["001", "002", "003"]
    assert third["003"][1].gone == both["002"][1].come
    assert stored.fingerprints(folder)["003"].structure == both["001"][0].structure


def test_a_revision_that_was_edited_is_run_again(scratch: None, project: Project) -> None:
    """Without VERSION too: its file knows of which text it is. A comment in it is no edit, and a file without that is let be."""
    made = 'op.execute("CREATE TABLE a (id int)")'
    path = project.revision("001", "create_a", made, 'op.execute("DROP TABLE a")')
    project.revision("002", "add_b", 'op.execute("ALTER TABLE a ADD b int")', 'op.execute("ALTER TABLE a DROP b")')
    fingerprints.store(project.config())
    text = path.read_text()

    path.write_text(f"{text}# nothing\n")
    commented = fingerprints.store(project.config())
    path.write_text(text.replace("id int", "id bigint"))
    edited, written = fingerprints.store(project.config())
    after = fingerprints.store(project.config())
    place = stored.catalog_place(project.folder / "alembic", "001")
    place.write_text(stored.text(edited["001"][1]))
    path.write_text(text)
    unknown = fingerprints.store(project.config())

    assert commented == after == unknown == ({}, [])
    assert list(edited) == ["001", "002"]
    assert {one.name for one in written} == {"fingerprints", "001.json"}


def test_a_revision_that_there_is_not_is_told(project: Project, empty: Database) -> None:
    """Neither a file nor a scratch database is made for it."""
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')

    with pytest.raises(WrongUse, match="There is no revision 007") as raised:
        fingerprints.store(project.config(), "007")

    assert raised.value.next_command.startswith("make migrate-fingerprint VERSION=")
    assert not stored.place(project.folder / "alembic").exists()


@pytest.mark.long
def test_what_is_stored_is_what_the_revisions_make(scratch: None, planner: Any) -> None:
    """A revision that makes something else than its files say fails here: make migrate-fingerprint VERSION=… writes them."""
    found = fingerprints.run(planner, "all")

    assert {revision: fingerprint for revision, (fingerprint, _) in found.items()} == stored.fingerprints(
        ROOT / "alembic"
    )
    for revision, (_, delta) in found.items():
        source = stored.source(ROOT / "alembic", revision)
        assert stored.text(delta, source) == stored.catalog_place(ROOT / "alembic", revision).read_text(), revision


@pytest.mark.long
def test_every_downgrade_takes_back_what_its_upgrade_made(scratch: None, planner: Any, empty: Database) -> None:
    """Up and down again leave each revision's catalog as it was, but for the place of a column that comes back."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(planner)
    with opened(empty) as connection:
        for one in reversed(list(script.walk_revisions())):
            before = lines(connection)
            connection.rollback()
            trace.step(planner, script, connection, one, None, upgrade=True)
            after = lines(connection)
            connection.rollback()
            trace.step(planner, script, connection, one, None, upgrade=False)
            back = lines(connection)
            connection.rollback()
            trace.step(planner, script, connection, one, None, upgrade=True)

            unordered = [{line for line in found if line.kind != "order"} for found in (before, back)]
            assert difference(unordered[0], unordered[1]) == [], one.revision
            assert lines(connection) - after == frozenset(), one.revision
            connection.rollback()
