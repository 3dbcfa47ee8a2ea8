"""A column moves in three phases, and no release notices: expand, migrate, contract, and all of it back again."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from alembic import command
from alembic.config import Config

from mcp_planner_schema.backfill import engine
from mcp_planner_schema.guard.findings import GuardError
from tests.catalog import catalog, difference
from tests.conftest import ROOT, Database, Project, _clone
from tests.test_offline import run, written
from tests.test_schema import COLUMN_BACK, SCRIPT, _in_any_place
from tests.until import until


def revision(name: str) -> str:
    """The number of the revision whose file is named so."""
    return next(str(one.revision) for one in SCRIPT.walk_revisions() if one.path.endswith(f"_{name}.py"))


EXPAND, MIGRATE = revision("add_iterations_allowed"), revision("fill_iterations_allowed")
CONTRACT = revision("drop_max_iterations")
BEFORE = str(SCRIPT.get_revision(EXPAND).down_revision)

OLD, NEW = "max_iterations", "iterations_allowed"
FILL = f"INSERT INTO complexity_runs (project_id, threshold, {OLD}) SELECT %s, 0.5, 2 + n %% 50 FROM generate_series(1, %s) n"


@pytest.fixture
def before(empty: Database, begin_at: Callable[[str], None]) -> Database:
    """A database at the revision before the three."""
    begin_at(BEFORE)
    return empty


@pytest.fixture
def application(before: Database) -> Iterator[str]:
    """A role that may read and write rows, and owns nothing."""
    role = f"app_{uuid.uuid4().hex[:12]}"
    before.rows(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA public TO {role};"
        f" GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
    )
    yield role
    before.rows(f"DROP OWNED BY {role}; DROP ROLE {role}")


def new_project(database: Database) -> str:
    """A project's id."""
    return str(database.value("INSERT INTO projects (name, description) VALUES ('one', 'x') RETURNING id"))


# --- two releases at work ---------------------------------------------------------------------------------------------


class Release:
    """One release of the application: it writes and reads the limit under its own name, each statement its own transaction.

    ``runs`` are the runs of both releases with the limit they must have; nobody changes it once a run is in the list. Those
    before ``known`` may have no value yet under this release's name, so it writes to them and does not only read them.
    """

    def __init__(
        self, database: Database, role: str, project: str, column: str, runs: list[tuple[str, int]], known: int
    ) -> None:
        self.database, self.role, self.project, self.column, self.runs = database, role, project, column, runs
        self.known, self.rounds, self.longest = known, 0, 0.0
        self.wrong: list[Any] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def start(self) -> None:
        """Begin, and come back when a first round is through."""
        self._thread.start()
        self.go_on(1)

    def go_on(self, rounds: int = 20) -> None:
        """Wait until it has done so many more rounds, or found something wrong."""
        goal = self.rounds + rounds
        until(lambda: self.rounds >= goal or self.wrong)
        assert self.wrong == []

    def stop(self) -> None:
        """End after the round that is under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        try:
            with self.database.connect(user=self.role) as connection, connection.cursor() as cursor:
                while not self._stop.is_set() and not self.wrong:
                    self._round(cursor)
        except psycopg2.Error as error:
            self.wrong.append((self.column, error.pgcode, str(error)))

    def _round(self, cursor: Any) -> None:
        limit = random.randint(2, 1000)
        insert = f"INSERT INTO complexity_runs (project_id, threshold, {self.column}) VALUES (%s, 0.5, %s)"
        [(new,)] = self._ask(cursor, f"{insert} RETURNING id", self.project, limit)
        update = f"UPDATE complexity_runs SET {self.column} = %s WHERE id = %s RETURNING {self.column}"
        self._expect(self._ask(cursor, update, limit + 1, new), limit + 1)
        self.runs.append((new, limit + 1))
        some, limit = random.choice(self.runs)
        touch = f"UPDATE complexity_runs SET iterations_used = 1 WHERE id = %s RETURNING {self.column}"
        self._expect(self._ask(cursor, touch, some), limit)
        some, limit = random.choice(self.runs[self.known :])
        read = f"SELECT {self.column} FROM complexity_runs WHERE id = %s"
        self._expect(self._ask(cursor, read, some), limit)
        self.rounds += 1

    def _ask(self, cursor: Any, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        begun = time.monotonic()
        cursor.execute(sql, values)
        self.longest = max(self.longest, time.monotonic() - begun)
        return list(cursor.fetchall())

    def _expect(self, found: list[tuple[Any, ...]], limit: int) -> None:
        if found != [(limit,)]:
            self.wrong.append((self.column, found, limit))


@pytest.fixture
def begin(before: Database, application: str) -> Iterator[Callable[..., Release]]:
    """Begins the work of a release; whatever still works at the end of the test is stopped."""
    begun: list[Release] = []

    def begin(project: str, column: str, runs: list[tuple[str, int]], known: int = 0) -> Release:
        begun.append(Release(before, application, project, column, runs, known))
        begun[-1].start()
        return begun[-1]

    yield begin
    for release in begun:
        release.stop()


def differing(database: Database, *, unfilled: bool = False) -> int:
    """Runs whose two columns are not equal; ``unfilled`` lets those be that have no new value yet."""
    where = f"{OLD} <> {NEW}" if unfilled else f"{OLD} IS DISTINCT FROM {NEW}"
    return int(database.value(f"SELECT count(*) FROM complexity_runs WHERE {where}"))


def test_no_release_notices(before: Database, begin: Callable[..., Release], planner: Config) -> None:
    """Old and new release work while the column moves and moves back: no error, no wrong value, no wait of two seconds."""
    project = new_project(before)
    before.rows(FILL, project, 2500)
    runs = before.rows(f"SELECT id, {OLD} FROM complexity_runs")

    old = begin(project, OLD, runs)
    command.upgrade(planner, EXPAND)
    old.go_on()
    assert before.value(f"SELECT count(*) FROM complexity_runs WHERE {NEW} IS NULL") > 0
    new = begin(project, NEW, runs, known=len(runs) - 1)
    old.go_on()
    new.go_on()
    assert differing(before, unfilled=True) == 0

    command.upgrade(planner, MIGRATE)
    new.known = 0
    old.go_on()
    new.go_on()
    assert differing(before) == 0

    old.stop()
    command.upgrade(planner, CONTRACT)
    new.go_on()
    command.downgrade(planner, MIGRATE)
    assert differing(before) == 0
    again = begin(project, OLD, runs)
    again.go_on()
    new.go_on()

    command.downgrade(planner, EXPAND)
    again.go_on()
    new.go_on()
    assert differing(before) == 0
    new.stop()
    command.downgrade(planner, BEFORE)
    again.go_on()
    again.stop()

    releases = (old, new, again)
    assert [release.wrong for release in releases] == [[], [], []]
    assert sorted(before.rows(f"SELECT id, {OLD} FROM complexity_runs")) == sorted(runs)
    longest = max(release.longest for release in releases)
    print(f"{sum(release.rounds for release in releases)} rounds, the longest statement {longest * 1000:.0f} ms")
    assert longest < 2


# --- the trigger, branch by branch ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expanded(head_template: Any) -> Iterator[Callable[[str], Any]]:
    """Runs a statement on a run that is filled (``{filled}``) or not yet (``{unfilled}``), and undoes it.

    Gives the two columns of the row that it returns, or the error. Both runs have the limit 3.
    """
    with pytest.MonkeyPatch.context() as patch, _clone(head_template) as database:
        patch.setenv("DATABASE_URL", database.url)
        config = Config(str(ROOT / "alembic.ini"))
        command.downgrade(config, BEFORE)
        project = new_project(database)
        insert = f"INSERT INTO complexity_runs (project_id, threshold, {OLD}) VALUES (%s, 0.5, 3) RETURNING id"
        names = {"project": project, "unfilled": database.value(insert, project)}
        command.upgrade(config, EXPAND)
        names["filled"] = database.value(insert, project)
        quoted = {name: f"'{one}'" for name, one in names.items()}
        with database.connect(autocommit=False) as connection, connection.cursor() as cursor:

            def ask(sql: str) -> Any:
                try:
                    cursor.execute(f"{sql.format(**quoted)} RETURNING {OLD}, {NEW}")
                    return cursor.fetchone()
                except psycopg2.Error as error:
                    return error
                finally:
                    connection.rollback()

            yield ask


INSERT = "INSERT INTO complexity_runs (project_id, threshold, {}) VALUES ({{project}}, 0.5, {})"
WRITES = [
    (INSERT.format(OLD, "4"), (4, 4)),
    (INSERT.format(NEW, "4"), (4, 4)),
    (INSERT.format(f"{OLD}, {NEW}", "4, 4"), (4, 4)),
    (INSERT.format(f"{OLD}, {NEW}", "4, NULL"), (4, 4)),
    (INSERT.format(f"{OLD}, {NEW}", "NULL, 4"), (4, 4)),
    (INSERT.format(f"{OLD}, {NEW}", "4, 5"), "MP009"),
    (INSERT.format(OLD, "NULL"), "23502"),
    (INSERT.format(NEW, "0"), "23514"),
    (INSERT.format(f"iterations_used, {NEW}", "5, 4"), "23514"),
    (f"INSERT INTO complexity_runs (id, project_id, threshold, {NEW}) VALUES ({{filled}}, {{project}}, 0.5, 8)"
     f" ON CONFLICT (id) DO UPDATE SET {NEW} = excluded.{NEW}", (8, 8)),
    *((f"UPDATE complexity_runs SET {change} WHERE id = {{{row}}}", result)
      for row in ("filled", "unfilled")
      for change, result in (
          (f"{OLD} = 5", (5, 5)),
          (f"{NEW} = 5", (5, 5)),
          (f"{OLD} = 5, {NEW} = 5", (5, 5)),
          (f"{OLD} = 3, {NEW} = 5", (5, 5)),
          (f"{OLD} = 5, {NEW} = 6", "MP009"),
          (f"{OLD} = NULL", "23502"),
          (f"{OLD} = NULL, {NEW} = 5", "MP009"),
          (f"{OLD} = 0", "23514"),
          (f"{NEW} = -1", "23514"),
          ("iterations_used = 4", "23514"),
          ("iterations_used = 3", (3, 3)),
      )),
    (f"UPDATE complexity_runs SET {OLD} = 5, {NEW} = 3 WHERE id = {{filled}}", (5, 5)),
    (f"UPDATE complexity_runs SET {NEW} = NULL WHERE id = {{filled}}", "23502"),
    (f"UPDATE complexity_runs SET {OLD} = 5, {NEW} = NULL WHERE id = {{filled}}", "MP009"),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "result"), WRITES)
def test_whichever_is_written_both_are_equal(expanded: Callable[[str], Any], sql: str, result: Any) -> None:
    """One of the two given or changed is taken for both; two different values, none and impossible ones are errors."""
    found = expanded(sql)

    assert (getattr(found, "pgcode", None) or found) == result


def test_two_values_are_a_clear_error(expanded: Callable[[str], Any]) -> None:
    """MP009 names the run, both values, the project and the way out, and says where it is, as PostgreSQL's own errors do."""
    error = expanded(f"UPDATE complexity_runs SET {OLD} = 5, {NEW} = 6 WHERE id = {{filled}}")

    said = error.diag
    assert " has max_iterations 5 and iterations_allowed 6" in said.message_primary
    assert "project" in said.message_detail
    assert said.message_hint == "Give one of them, or both the same value."
    assert (said.schema_name, said.table_name, said.column_name) == ("public", "complexity_runs", NEW)


# --- what the revisions do to the table -------------------------------------------------------------------------------


def test_the_filling_goes_on_where_it_stopped(
    before: Database, planner: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that somebody holds stops it after the rows before, which stay; repeated, it fills only the rest."""
    monkeypatch.setattr(engine, "_LOCKED_TRIES", 2)
    before.rows(FILL, new_project(before), 2500)
    command.upgrade(planner, EXPAND)
    held = before.value("SELECT id FROM complexity_runs ORDER BY id OFFSET 1500 LIMIT 1")
    filled = f"SELECT id, xmin::text FROM complexity_runs WHERE {NEW} IS NOT NULL"

    with before.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT FROM complexity_runs WHERE id = %s FOR UPDATE", (held,))
        with pytest.raises(GuardError) as caught:
            command.upgrade(planner, MIGRATE)

    assert caught.value.next_command
    first = set(before.rows(filled))
    assert len(first) == 1500
    assert before.value("SELECT version_num FROM alembic_version") == EXPAND

    command.upgrade(planner, MIGRATE)

    assert first < set(before.rows(filled))
    assert differing(before) == 0


def rows_read(database: Database) -> int:
    """Rows of all runs that sequential scans have read so far; a session counts its own when it ends."""
    until(
        lambda: (
            not database.value(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    )
    return int(database.value("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'complexity_runs'"))


@pytest.mark.parametrize("proved", [True, False], ids=["with the check", "without it"])
def test_not_null_reads_no_row(before: Database, planner: Config, proved: bool) -> None:
    """The validated check spares SET NOT NULL its scan; where it is not valid, the same revision reads the whole table.

    Before any lock, the query that has verified the backfill reads it once, and preflight what no validated check proves.
    """
    before.rows(FILL, new_project(before), 300)
    command.upgrade(planner, MIGRATE)
    check = "ck_complexity_runs_iterations_allowed_not_null"
    if not proved:
        before.rows(
            f"ALTER TABLE complexity_runs DROP CONSTRAINT {check},"
            f" ADD CONSTRAINT {check} CHECK ({NEW} IS NOT NULL) NOT VALID"
        )
    begun = rows_read(before)

    command.upgrade(planner, CONTRACT)

    assert rows_read(before) - begun - 300 == (0 if proved else 600)


def test_what_was_written_under_the_new_name_comes_back_under_the_old(before: Database, planner: Config) -> None:
    """The contract's downgrade fills the old column, the trigger works at once, and up again everything is as it was."""
    project = new_project(before)
    command.upgrade(planner, CONTRACT)
    before.rows(f"INSERT INTO complexity_runs (project_id, threshold, {NEW}) VALUES (%s, 0.5, 7)", project)
    contracted = catalog(before)

    command.downgrade(planner, MIGRATE)
    before.rows(f"UPDATE complexity_runs SET {OLD} = {OLD} + 1")
    before.rows(FILL, project, 1)

    assert before.rows(f"SELECT {OLD}, {NEW} FROM complexity_runs ORDER BY 1") == [(3, 3), (8, 8)]

    command.upgrade(planner, CONTRACT)

    assert before.rows(f"SELECT {NEW} FROM complexity_runs ORDER BY 1") == [(3,), (8,)]
    assert difference(contracted, catalog(before)) == []


def test_the_three_are_the_same_by_file(before: Database, planner: Config, tmp_path: Path) -> None:
    """Written by --sql and run by psql, with rows, they leave what the online run leaves, up and down."""
    before.rows(FILL, new_project(before), 1200)
    rows = before.rows(f"SELECT id, {OLD} FROM complexity_runs ORDER BY id")
    start = catalog(before)
    planned = Project(ROOT)

    run(before, tmp_path, written(planned, "upgrade", f"{BEFORE}:{CONTRACT}"))
    by_file = catalog(before)
    assert before.rows(f"SELECT id, {NEW} FROM complexity_runs ORDER BY id") == rows

    run(before, tmp_path, written(planned, "downgrade", f"{CONTRACT}:{BEFORE}"))
    [table] = COLUMN_BACK.values()
    assert difference(_in_any_place(catalog(before), table), _in_any_place(start, table)) == []
    assert before.rows(f"SELECT id, {OLD} FROM complexity_runs ORDER BY id") == rows

    command.upgrade(planner, CONTRACT)
    assert difference(catalog(before), by_file) == []
