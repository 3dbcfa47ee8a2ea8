"""Hostile downgrades: each destroys something in a way of its own, and loses nothing or is refused with everything in place."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy import create_engine

from mcp_planner_schema.guard import checksum, evidence
from mcp_planner_schema.guard.findings import Busy, Refused
from mcp_planner_schema.guard.postcheck import pinned
from mcp_planner_schema.guard.refill import rows_of
from tests.catalog import catalog, difference
from tests.conftest import ROOT, Database, Project, some
from tests.test_stash import shown
from tests.until import until

FILES = {
    path.stem.removeprefix("bad_downgrade_"): path for path in sorted((ROOT / "tests/revisions/hostile").glob("*.py"))
}
"""Each is a revision 001; a comment says what is to happen, see :func:`declared`."""

Content = dict[str, checksum.Checksum]


@dataclass(frozen=True)
class Hostile:
    """A hostile revision: what there is before it, what is written after it, what is to become of that."""

    before: str
    fill: str
    outcome: str
    superuser: bool


def hostile(path: Path) -> Hostile:
    """Read it from its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Hostile(module.BEFORE, module.FILL, declared(path, "outcome"), declared(path, "as") == "superuser")


def declared(path: Path, what: str) -> str:
    """A comment ``# what: …`` of the file; empty where there is none."""
    found = re.search(rf"^# {what}: (.*)$", path.read_text(), re.MULTILINE)
    return found[1] if found else ""


@pytest.fixture
def owner(empty: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The database as its owner sees it, a role that is no superuser and named by DATABASE_URL."""
    role = f"owner_{uuid.uuid4().hex[:8]}"
    empty.rows(f"CREATE ROLE {role} LOGIN")
    empty.rows(f"ALTER DATABASE {empty.name} OWNER TO {role}")
    owned = replace(empty, user=role)
    monkeypatch.setenv("DATABASE_URL", owned.url)
    yield owned
    empty.rows(f"REASSIGN OWNED BY {role} TO postgres")
    empty.rows(f"DROP OWNED BY {role}")
    empty.rows(f"DROP ROLE {role}")


@pytest.fixture
def begin(
    empty: Database, owner: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], Hostile]:
    """Applies a hostile revision to a database that has something before it, and fills the tables."""

    def applied(path: Path) -> Hostile:
        one = hostile(path)
        database = empty if one.superuser else owner
        monkeypatch.setenv("DATABASE_URL", database.url)
        if one.before:
            database.rows(one.before)
        shutil.copy(path, project.versions / "001_create_harm.py")
        project.upgrade()
        database.rows(one.fill)
        return one

    return applied


def content(database: Database, schema: str = "") -> Content:
    """The rows of every table (of the guard's schema ``schema`` only, if given) as sums; row level security hides none."""
    own = f"^migration(?!{schema.removeprefix('migration')}$)" if schema else "migration"
    engine = create_engine(replace(database, user="postgres").url)
    with engine.begin() as connection, pinned(connection, **checksum.OUTPUT):
        tables = evidence.snapshot(connection, "no_schema_of_this_name" if schema else own).values()
        found = {
            table.shown.removeprefix(f"{schema}."): checksum.of(
                connection,
                rows_of(table),
                [column.name for column in table.columns.values() if column.name != "guard:after"],
            )
            for table in tables
            if table.name != "alembic_version" and not table.parent and (not schema or table.schema == schema)
        }
    engine.dispose()
    return found


def sequences(database: Database) -> dict[str, int]:
    """Where each sequence of the users' own stands."""
    names = database.rows(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'S' AND relnamespace::regnamespace::text !~ '^migration'"
    )
    asked = "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM "
    return {name: database.value(asked + name) for (name,) in names}


def large_objects(database: Database) -> list[tuple[int, bytes]]:
    """Every large object with its bytes."""
    rows = database.rows("SELECT oid, lo_get(oid) FROM pg_largeobject_metadata ORDER BY oid")
    return [(oid, bytes(data)) for oid, data in rows]


@pytest.mark.parametrize("name", some(FILES))
def test_nothing_is_lost(empty: Database, begin: Callable[[Path], Hostile], project: Project, name: str) -> None:
    """Down and up again everything is there as before, or in the stash, or the downgrade was refused and nothing happened."""
    one = begin(FILES[name])
    before, built, stood, large = content(empty), catalog(empty), sequences(empty), large_objects(empty)
    rows_before = {table: Counter(shown(empty, table)) for table in before}
    assert any(rows.rows for rows in before.values()) or any(stood.values())

    code, _, reason = one.outcome.partition(": ")
    if code not in ("comes back", "comes back beside new rows", "is kept", "no loss"):
        with pytest.raises(Refused) as caught:
            project.downgrade("base")

        assert [finding.code for finding in caught.value.findings] == [code]
        assert reason.lower() in caught.value.text().lower()
        assert empty.value("SELECT version_num FROM alembic_version") == "001"
        assert empty.value("SELECT count(*) FROM migration.stash") == 0
    else:
        project.downgrade("base")
        if code == "is kept":
            assert content(empty, "migration_stash_1")[reason.split(".")[-1]] == before[reason]
            return
        assert empty.value("SELECT count(*) FROM migration.stash") == (code != "no loss")
        project.upgrade()
        assert empty.rows("SELECT DISTINCT state FROM migration.stash WHERE state <> 'restored'") == []

    if code == "comes back beside new rows":
        assert content(empty) != before
        assert all(rows <= Counter(shown(empty, table)) for table, rows in rows_before.items())
    else:
        assert content(empty) == before
    assert difference(built, catalog(empty)) == []
    assert all(sequences(empty)[each] >= value for each, value in stood.items())
    assert large_objects(empty) == large


class Writer:
    """A session that writes to table a without a pause, each statement final by itself, and remembers what was confirmed.

    ``rows`` are the values that the confirmed statements have left, None for a row that was deleted; ``done`` counts
    statements, those that were refused too.
    """

    def __init__(self, database: Database) -> None:
        self.rows: dict[int, str | None] = {}
        self.done = self.refused = 0
        self._database, self._stop = database, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def goes_on(self, statements: int = 30) -> None:
        """Wait until it has sent some more statements."""
        wanted = self.done + statements
        until(lambda: self.done >= wanted or not self._thread.is_alive())
        assert self._thread.is_alive()

    def _run(self) -> None:
        with self._database.connect() as connection, connection.cursor() as cursor:
            number = 1000
            while not self._stop.is_set():
                number += 1
                value = f"w{number}"
                self._write(cursor, number, value, "INSERT INTO a (id, v) VALUES (%(id)s, %(v)s)")
                if number % 3 == 0:
                    self._write(cursor, number - 2, "u" + value, "UPDATE a SET v = %(v)s WHERE id = %(id)s")
                if number % 5 == 0:
                    self._write(cursor, number - 4, None, "DELETE FROM a WHERE id = %(id)s")

    def _write(self, cursor: Any, number: int, value: str | None, sql: str) -> None:
        try:
            cursor.execute(sql, {"id": number, "v": value})
            if cursor.rowcount:
                self.rows[number] = value
        except psycopg2.Error:
            self.refused += 1
        self.done += 1


def insistently(command: Callable[[str], None], target: str) -> None:
    """Repeat a command that a busy table keeps from its lock, as the message says."""
    for _ in range(20):
        try:
            return command(target)
        except Busy:
            continue
    raise AssertionError(f"never got its locks on the way to {target}")


BESIDE = [name for name, path in FILES.items() if declared(path, "beside") == "a writer"]


@pytest.mark.parametrize("name", BESIDE)
def test_no_row_of_a_writer_beside_is_lost(
    empty: Database, begin: Callable[[Path], Hostile], project: Project, name: str
) -> None:
    """Rows that another session writes all the time are in the table or in the stash, or were refused to it."""
    begin(FILES[name])
    project.configure(lock_attempts="20")

    with Writer(empty) as writer:
        writer.goes_on()
        insistently(project.downgrade, "base")
        writer.goes_on()
        insistently(project.upgrade, "head")
        writer.goes_on()

    live = dict(empty.rows("SELECT id, v FROM a"))
    stashed = {(number, value) for number, value in empty.rows("SELECT id, v FROM migration_stash_1.a")}
    confirmed = {number: value for number, value in writer.rows.items() if value is not None}
    deleted = writer.rows.keys() - confirmed.keys()
    assert len(confirmed) > 10
    assert deleted
    assert [one for one in confirmed.items() if live.get(one[0]) != one[1] and one not in stashed] == []
    assert deleted & live.keys() == set()


@pytest.mark.long
@pytest.mark.parametrize("above", ["never", "100MB"])
def test_a_gigabyte_of_bytes_comes_back(empty: Database, project: Project, above: str) -> None:
    """A hundred values of ten megabytes each, random so that nothing makes them smaller, go and come back as they were."""
    project.configure(stash_move_above=above)
    # The step's budget holds for the guard's own reading of the rows too, and that takes longer than the usual half minute.
    text = (
        FILES["bytes"]
        .read_text()
        .replace("\nexpectations", '\nbudgets = {"statement_timeout": "10min"}\n\nexpectations', 1)
    )
    project.write("001_create_harm.py", text)
    project.upgrade()
    empty.rows("ALTER TABLE a ALTER v SET STORAGE EXTERNAL")
    with empty.connect() as connection, connection.cursor() as cursor:
        for number in range(1, 101):
            cursor.execute("INSERT INTO a VALUES (%s, %s)", (number, psycopg2.Binary(os.urandom(10 * 2**20))))
    before = empty.rows("SELECT id, sha256(v) FROM a ORDER BY id")
    assert empty.value("SELECT sum(length(v)) FROM a") == 100 * 10 * 2**20

    project.downgrade("base")
    assert empty.value("SELECT to_regclass('a') IS NULL")
    project.upgrade()

    assert [(number, bytes(hashed)) for number, hashed in empty.rows("SELECT id, sha256(v) FROM a ORDER BY id")] == [
        (number, bytes(hashed)) for number, hashed in before
    ]
