"""Changes that take several releases, as they are written: what each revision says runs, and no release notices it.

Each set runs on a table with rows, up, down and up again. In every state in between the queries of the old release, of the
new one, or of both work, and at the end nothing is lost.
"""

from __future__ import annotations

import shlex
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from mcp_planner_schema import generate
from mcp_planner_schema.generate import kinds
from mcp_planner_schema.guard import connect, judge, settings
from mcp_planner_schema.guard.findings import GuardError, Refused, WrongUse
from mcp_planner_schema.inspect import verify
from tests.catalog import catalog, difference
from tests.conftest import Database, Project
from tests.test_schema import _in_any_place
from tests.until import until


class AtWork:
    """A release that works without a pause, in a thread: how often, how long it waited at most, and what went wrong."""

    def __init__(self, works: Callable[[], None]) -> None:
        self.works, self.rounds, self.longest = works, 0, 0.0
        self.wrong: list[BaseException] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def go_on(self, rounds: int = 5) -> None:
        """Wait until it has done so many more rounds, or found something wrong."""
        goal = self.rounds + rounds
        until(lambda: self.rounds >= goal or self.wrong)
        assert self.wrong == []

    def stop(self) -> None:
        """End after the round that is under way."""
        self._stop.set()
        self._thread.join()
        assert self.wrong == []

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                begun = time.monotonic()
                self.works()
                self.longest, self.rounds = max(self.longest, time.monotonic() - begun), self.rounds + 1
        except BaseException as error:  # whatever it is, the test is to hear of it
            self.wrong.append(error)


STEPS = """
CREATE TABLE plans (id int PRIMARY KEY, code int UNIQUE);
CREATE TABLE steps (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    plan int NOT NULL CONSTRAINT fk_steps_plan REFERENCES plans,
    title text NOT NULL DEFAULT 'none' CONSTRAINT ck_steps_title_present CHECK (title <> ''),
    place int,
    token uuid NOT NULL DEFAULT gen_random_uuid(),
    other int NOT NULL DEFAULT 0
);
CREATE INDEX ix_steps_title ON steps (lower(title), place DESC) WHERE title <> 'x';
COMMENT ON COLUMN steps.title IS 'What it is';
INSERT INTO plans SELECT n, n FROM generate_series(1, 3) AS n;
INSERT INTO steps (plan, title, place) SELECT 1 + n % 3, 'step ' || n, n FROM generate_series(1, 6000) AS n
"""


class Way:
    """A project with tables that have rows, the revisions that were written for one change, and a role that owns nothing."""

    def __init__(self, database: Database, project: Project, role: str) -> None:
        self.database, self.project, self.role = database, project, role
        self.numbers: list[str] = []

    def begin(self, tables: str) -> None:
        """Make the tables by a first revision, and let the role read and write them."""
        drop = "DROP SCHEMA public CASCADE"
        self.project.revision("001", "create_tables", f'op.execute("""{tables}""")', f'op.execute("{drop}")')
        self.project.upgrade()
        self.database.rows(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {self.role};"
            f"ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {self.role}"
        )

    def write(self, **values: str) -> list[Path]:
        """``make migrate-create KIND=…``: the files, against which there is no finding."""
        paths = generate.write(self.project.config(), values)
        self.numbers = ["001", *(path.name[:3] for path in paths)]
        config = self.project.config()
        judged = judge.judge_all(ScriptDirectory.from_config(config), settings.load(config))
        assert [finding.text() for one in judged for finding in one.findings] == []
        return paths

    def to(self, state: int) -> None:
        """Go to a state: 0 is before the change, 1 after its first revision."""
        there = self.numbers[state]
        here = str(self.database.value("SELECT version_num FROM alembic_version"))
        (self.project.upgrade if there > here else self.project.downgrade)(there)

    def ask(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """What the role that owns nothing gets."""
        with self.database.connect(user=self.role) as connection, connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return list(cursor.fetchall()) if cursor.description else []


@pytest.fixture
def way(empty: Database, project: Project) -> Iterator[Way]:
    """The way of one change."""
    role = f"app_{uuid.uuid4().hex[:12]}"
    empty.rows(f"CREATE ROLE {role} LOGIN")
    yield Way(empty, project, role)
    empty.rows(f"DROP OWNED BY {role}; DROP ROLE {role}")


def release(way: Way, table: str, column: str, made: Callable[[int], Any]) -> Callable[[], None]:
    """A release that knows the column under one name: it inserts, updates, reads and touches rows of its own and of others."""
    calls = iter(range(10_000))

    def works() -> None:
        value, other = made(next(calls)), made(next(calls))
        [(key, stored)] = way.ask(f"INSERT INTO {table} (plan, {column}) VALUES (1, %s) RETURNING id, {column}", value)
        assert stored == value
        oldest = way.ask(f"SELECT id FROM {table} ORDER BY id LIMIT 1")[0][0]
        for row in (key, oldest):
            assert way.ask(f"UPDATE {table} SET {column} = %s WHERE id = %s RETURNING {column}", other, row) == [
                (other,)
            ]
        way.ask(f"UPDATE {table} SET other = other + 1 WHERE id IN (SELECT id FROM {table} ORDER BY id LIMIT 20)")
        assert way.ask(f"SELECT {column} FROM {table} WHERE id = %s", key) == [(other,)]

    return works


def walk(
    way: Way, old: Callable[[], None], new: Callable[[], None], state: Callable[[str], Any], names: tuple[str, str]
) -> None:
    """Three revisions up, down and up again; ``state`` gives all values under one of the two names, by key."""
    first = shape(way)
    for turn in ("once", "again"):
        old()
        kept = state(names[0])
        way.to(1)
        assert state(names[0]) == kept
        for works in (old, new, old):
            works()
        kept = state(names[0])
        way.to(2)
        assert state(names[0]) == kept == state(names[1])
        for works in (old, new, old):
            works()
        kept, migrated = state(names[1]), shape(way)
        way.to(3)
        assert state(names[1]) == kept
        new()
        kept = state(names[1])
        if turn == "again":
            return
        way.to(2)
        assert state(names[0]) == state(names[1]) == kept
        assert difference(migrated, shape(way)) == []
        for works in (old, new, old):
            works()
        kept = state(names[0])
        way.to(1)
        for works in (old, new, old):
            works()
        kept = state(names[0])
        way.to(0)
        assert state(names[0]) == kept
        assert difference(first, shape(way)) == []


def shape(way: Way) -> set[Any]:
    """The catalog, wherever in their tables the columns stand."""
    found = catalog(way.database)
    tables = {name.rpartition(".")[0] for kind, name, _ in found if kind == "column"}
    for table in tables:
        found = _in_any_place(found, table)
    return found


def values_of(way: Way, table: str) -> Callable[[str], dict[Any, Any]]:
    """All values of a column, by key."""
    return lambda column: dict(way.database.rows(f"SELECT id, {column} FROM {table}"))


def test_rename_a_column(way: Way) -> None:
    """Name, default, NOT NULL, check, index and comment come along; both releases work in each state between."""
    way.begin(STEPS)
    way.write(KIND="rename_column", TABLE="steps", FROM="title", TO="heading")

    walk(
        way, release(way, "steps", "title", lambda n: f"old {n}"), release(way, "steps", "heading", lambda n: f"new {n}"),
        values_of(way, "steps"), ("title", "heading"),
    )  # fmt: skip


def test_no_release_notices_a_rename(way: Way) -> None:
    """Both releases are at work all the time that they may be, while a column is renamed and renamed back: nothing fails."""
    way.begin(STEPS)
    way.write(KIND="rename_column", TABLE="steps", FROM="title", TO="heading")

    def works(column: str) -> Callable[[], None]:
        def once() -> None:
            [(key,)] = way.ask(f"INSERT INTO steps (plan, {column}) VALUES (1, 'a') RETURNING id")
            assert way.ask(f"UPDATE steps SET {column} = 'b' WHERE id = %s RETURNING {column}", key) == [("b",)]
            way.ask("UPDATE steps SET other = 1 WHERE id IN (SELECT id FROM steps ORDER BY id DESC LIMIT 1)")
            assert way.ask(f"SELECT {column} FROM steps WHERE id = %s", key) == [("b",)]

        return once

    old = AtWork(works("title"))
    way.to(1)
    new = AtWork(works("heading"))
    way.to(2)
    old.go_on(), new.go_on()
    old.stop()
    way.to(3)
    new.go_on()
    way.to(2)
    again = AtWork(works("title"))
    again.go_on(), new.go_on()
    way.to(1)
    new.stop()
    way.to(0)
    again.go_on()
    again.stop()

    longest = max(one.longest for one in (old, new, again))
    print(f"{old.rounds + new.rounds + again.rounds} rounds, the longest {longest * 1000:.0f} ms")
    assert (
        way.database.value("SELECT count(*) FROM steps WHERE title IS NULL OR title NOT IN ('b') AND title !~ '^step'")
        == 0
    )


def test_what_was_expected_of_the_old_column_is_over(way: Way) -> None:
    """What an earlier revision expects of its constraint and index counts until the last one says that they are gone."""
    drop = 'op.execute("DROP SCHEMA public CASCADE")'
    expected = 'expect.constraint("steps", "ck_steps_title_present"), expect.index("ix_steps_title")'
    made = STEPS.replace("generate_series(1, 6000)", "generate_series(1, 10)")
    way.project.revision("001", "create_tables", f'op.execute("""{made}""")', drop, expectations=expected)
    way.project.upgrade()
    way.write(KIND="rename_column", TABLE="steps", FROM="title", TO="heading")

    met = []
    for state in (0, 2, 3, 2, 3):
        way.to(state)
        met.append(verify.verify(way.project.config()).failures)

    assert met == [()] * 5


def test_rename_a_foreign_key_column(way: Way) -> None:
    """The foreign key comes along, and holds for both names from the first revision on."""
    way.begin(STEPS)
    way.write(KIND="rename_column", TABLE="steps", FROM="plan", TO="project")
    way.to(1)

    with pytest.raises(psycopg2.errors.ForeignKeyViolation):
        way.ask("INSERT INTO steps (project) VALUES (99)")

    way.to(3)
    assert way.ask("INSERT INTO steps (project) VALUES (2) RETURNING project") == [(2,)]
    way.to(0)
    assert way.database.value("SELECT count(*) FROM steps WHERE plan = 2") == 2001


@pytest.mark.long
def test_rename_a_column_whose_default_is_drawn(way: Way) -> None:
    """A default that differs from row to row stays on the old name, and goes over to the new one with the last revision."""
    way.begin(STEPS)
    way.write(KIND="rename_column", TABLE="steps", FROM="token", TO="ticket")

    walk(
        way, release(way, "steps", "token", lambda n: str(uuid.UUID(int=n))),
        release(way, "steps", "ticket", lambda n: str(uuid.UUID(int=n + 10**6))), values_of(way, "steps"), ("token", "ticket"),
    )  # fmt: skip

    assert way.ask("INSERT INTO steps (plan) VALUES (1) RETURNING ticket IS NOT NULL") == [(True,)]


@pytest.mark.long
def test_change_a_type(way: Way) -> None:
    """int to text by way of a second column: each release writes its own type, and the index comes along."""
    way.begin(STEPS)
    way.write(KIND="change_type", TABLE="steps", FROM="place", TO="position", TO_TYPE="varchar(20)")
    values = values_of(way, "steps")

    walk(
        way, release(way, "steps", "place", lambda n: n), release(way, "steps", "position", lambda n: str(n + 1000)),
        lambda column: {key: value if value is None else str(value) for key, value in values(column).items()},
        ("place", "position"),
    )  # fmt: skip


@pytest.mark.long
def test_split_a_column(way: Way) -> None:
    """One column becomes two by expressions both ways, and nothing of a value is lost."""
    way.begin(STEPS)
    way.write(
        KIND="split_column", TABLE="steps", FROM="title", TO="kind | number", TO_TYPE="text | varchar(40)",
        FORWARD="split_part(title, ' ', 1) | nullif(substr(title, strpos(title || ' ', ' ') + 1), '')",
        BACKWARD="concat_ws(' ', kind, number)",
    )  # fmt: skip
    ask = {"title": "title", "parts": "concat_ws(' ', kind, number)"}

    def new() -> None:
        [(key,)] = way.ask("INSERT INTO steps (plan, kind, number) VALUES (1, 'a', 'b c') RETURNING id")
        changed = "UPDATE steps SET number = 'd' WHERE id = %s RETURNING kind, number"
        assert way.ask(changed, key) == [("a", "d")]
        assert way.ask(
            "UPDATE steps SET kind = 'z' WHERE id IN (SELECT id FROM steps ORDER BY id DESC LIMIT 1) RETURNING kind"
        )

    walk(
        way, release(way, "steps", "title", lambda n: f"old {n}"), new,
        lambda name: values_of(way, "steps")(ask[name]), ("title", "parts"),
    )  # fmt: skip


def test_the_planners_limit_could_have_been_written_so(way: Way) -> None:
    """A table under a schema of its own, with names that want quotes: everything is written with schema and quotes."""
    way.begin(
        'CREATE SCHEMA "my app"; GRANT USAGE ON SCHEMA "my app" TO PUBLIC;'
        'CREATE TABLE "my app"."Order" (id int PRIMARY KEY, "from" int NOT NULL CHECK ("from" > 0), plan int);'
        'INSERT INTO "my app"."Order" SELECT n, n FROM generate_series(1, 20) AS n;'
        'GRANT SELECT, INSERT, UPDATE ON "my app"."Order" TO PUBLIC'
    )
    way.write(KIND="rename_column", TABLE="my app.Order", FROM="from", TO="Begin at")
    way.to(1)
    assert way.ask('INSERT INTO "my app"."Order" (id, "Begin at") VALUES (21, 5) RETURNING "from"') == [(5,)]

    way.to(3)
    assert way.ask('SELECT count(*), sum("Begin at") FROM "my app"."Order"') == [(21, 215)]
    way.to(0)

    assert way.ask('SELECT count(*), sum("from") FROM "my app"."Order"') == [(21, 215)]


MOVE = """
CREATE TABLE users (id int PRIMARY KEY, plan int, address text, other int DEFAULT 0);
CREATE TABLE profiles (id int PRIMARY KEY, user_id int NOT NULL UNIQUE REFERENCES users ON DELETE CASCADE, other int DEFAULT 0);
COMMENT ON COLUMN users.address IS 'Where';
INSERT INTO users SELECT n, 1, 'street ' || n FROM generate_series(1, 6000) AS n;
INSERT INTO profiles SELECT n + 10000, n FROM generate_series(1, 6000) AS n
"""


@pytest.mark.long
def test_move_a_column(way: Way) -> None:
    """A value is read and written at its old and at its new place, whoever inserts, updates or touches what."""
    way.begin(MOVE)
    way.write(KIND="move_column", TABLE="users", FROM="address", TO_TABLE="profiles", ON="id=user_id", TO="street")
    keys = iter(range(20_000, 30_000))

    def release(table: str, column: str, key: str) -> Callable[[], None]:
        def works() -> None:
            n = next(keys)
            way.ask("INSERT INTO users (id, plan) VALUES (%s, 1)", n)
            way.ask("INSERT INTO profiles (id, user_id) VALUES (%s, %s)", n, n)
            for at in (n, 1, 2):
                changed = f"UPDATE {table} SET {column} = %s WHERE {key} = %s RETURNING {column}"
                assert way.ask(changed, f"{table} {n}", at) == [(f"{table} {n}",)]
            way.ask(
                "UPDATE users SET other = other + 1 WHERE id < 20; UPDATE profiles SET other = other + 1 WHERE user_id < 20"
            )
            assert way.ask(f"SELECT {column} FROM {table} WHERE {key} = %s", n) == [(f"{table} {n}",)]

        return works

    asked = {"users": "SELECT id, address FROM users", "profiles": "SELECT user_id, street FROM profiles"}
    walk(
        way, release("users", "address", "id"), release("profiles", "street", "user_id"),
        lambda name: dict(way.database.rows(asked[name])), ("users", "profiles"),
    )  # fmt: skip


def test_a_value_without_a_place_stops_the_move(way: Way) -> None:
    """A user without profile has an address: the fill says so and does not go on, so the last revision cannot drop it."""
    way.begin(MOVE)
    way.database.rows("DELETE FROM profiles WHERE user_id = 7")
    way.write(KIND="move_column", TABLE="users", FROM="address", TO_TABLE="profiles", ON="id=user_id")

    with pytest.raises(GuardError, match=r"expected 0 rows .* found 1 rows"):
        way.to(3)

    assert way.database.value("SELECT address FROM users WHERE id = 7") == "street 7"


@pytest.mark.long
def test_rename_a_table(way: Way) -> None:
    """The view under the new name reads and writes all that the table does; then they change places, and back."""
    way.begin(STEPS)
    way.write(KIND="rename_table", TABLE="steps", TO="items")

    def works(table: str) -> None:
        [(key,)] = way.ask(f"INSERT INTO {table} (plan, title) VALUES (1, 'a') RETURNING id")
        again = f"INSERT INTO {table} (id, plan) VALUES (%s, 1) ON CONFLICT (id) DO UPDATE SET other = 5 RETURNING title, other"
        assert way.ask(again, key) == [("a", 5)]
        assert way.ask(f"SELECT title FROM {table} WHERE id = %s FOR UPDATE", key) == [("a",)]
        assert way.ask(f"UPDATE {table} SET title = 'b' WHERE id = %s RETURNING title", key) == [("b",)]
        assert way.ask(f"DELETE FROM {table} WHERE id = %s RETURNING title", key) == [("b",)]

    for _ in range(2):
        for there, names in ((0, ["steps"]), (1, ["steps", "items"]), (2, ["items"]), (1, ["steps", "items"])):
            way.to(there)
            for name in names:
                works(name)
                assert way.ask(f"SELECT count(*) FROM {name}") == [(6000,)]
    way.to(0)
    assert way.database.value("SELECT to_regclass('items') IS NULL")


def test_a_query_that_waits_for_the_new_name_finds_the_table(way: Way) -> None:
    """While view and table change places both releases' last and first queries wait, and none of the new one's fails."""
    way.begin(STEPS)
    way.write(KIND="rename_table", TABLE="steps", TO="items")
    way.to(1)
    new = AtWork(
        lambda: way.ask("UPDATE items SET other = 2 WHERE id IN (SELECT id FROM items LIMIT 1) RETURNING other")
    )
    new.go_on()

    for there in (2, 1, 2):
        way.to(there)
        new.go_on()

    new.stop()


def test_the_fill_of_a_move_takes_no_newer_value_back(way: Way) -> None:
    """People write at both places while rows are filled; each value that was written last is at both."""
    way.begin(MOVE)
    way.write(KIND="move_column", TABLE="users", FROM="address", TO_TABLE="profiles", ON="id=user_id")
    way.to(1)
    written: dict[int, str] = {}

    def works(table: str, key: str, first: int) -> Callable[[], None]:
        turns = iter(range(10_000))

        def once() -> None:
            n = first + 2 * (next(turns) * 37 % 3000)
            way.ask(f"UPDATE {table} SET address = %s WHERE {key} = %s", f"{table} {n}", n)
            written[n] = f"{table} {n}"

        return once

    people = [AtWork(works("users", "id", 1)), AtWork(works("profiles", "user_id", 2))]
    way.to(2)
    for one in people:
        one.go_on()
        one.stop()

    both = way.database.rows("SELECT u.id, u.address, p.address FROM users u JOIN profiles p ON p.user_id = u.id")
    assert len(both) == 6000 and len(written) > 10
    assert [row for row in both if row[1] != row[2]] == []
    assert {row[0]: row[1] for row in both if row[0] in written} == written


def test_drop_a_column(way: Way) -> None:
    """First it may be left out, then it is out of sight, with all values; only the third revision cannot be undone."""
    way.begin(STEPS)
    way.write(KIND="drop_column", TABLE="steps", FROM="plan", FILL="1")

    way.to(1)
    [(key,)] = way.ask("INSERT INTO steps (title) VALUES ('new') RETURNING id")
    assert way.ask("INSERT INTO steps (plan, title) VALUES (2, 'old') RETURNING plan") == [(2,)]
    way.to(2)
    way.ask("INSERT INTO steps (title) VALUES ('new')")
    way.to(0)

    assert way.ask("SELECT plan FROM steps WHERE id = %s", key) == [(1,)]
    assert way.ask("SELECT count(*), count(plan) FROM steps") == [(6003, 6003)]
    with pytest.raises(psycopg2.errors.NotNullViolation):
        way.ask("INSERT INTO steps (plan) VALUES (NULL)")

    way.to(3)
    way.ask("INSERT INTO steps (title) VALUES ('new')")
    with pytest.raises(Refused, match="are gone; they were there until this revision"):
        way.to(2)


def test_drop_a_table(way: Way) -> None:
    """It is out of sight first, with all rows; only then it goes."""
    way.begin(STEPS)
    way.write(KIND="drop_table", TABLE="steps")

    way.to(1)
    with pytest.raises(psycopg2.errors.UndefinedTable):
        way.ask("SELECT FROM steps")
    way.to(0)
    assert way.ask("SELECT count(*) FROM steps") == [(6000,)]
    way.to(2)

    with pytest.raises(Refused, match="are gone; they were there until this revision"):
        way.to(1)


def test_add_not_null(way: Way) -> None:
    """A release that leaves the column out writes the default; rows without a value get it; then none may be null."""
    way.begin(STEPS)
    way.database.rows("UPDATE steps SET place = NULL WHERE place % 2 = 0")
    way.write(KIND="add_not_null", TABLE="steps", FROM="place", FILL="7")

    way.to(1)
    assert way.ask("INSERT INTO steps (plan) VALUES (1) RETURNING place") == [(7,)]
    way.to(2)
    assert way.ask("SELECT count(*) FROM steps WHERE place = 7") == [(3002,)]
    with pytest.raises(psycopg2.errors.NotNullViolation):
        way.ask("UPDATE steps SET place = NULL")
    way.to(0)

    way.ask("INSERT INTO steps (plan, place) VALUES (1, NULL)")
    way.to(2)
    assert way.ask("SELECT count(*) FROM steps WHERE place IS NULL") == [(0,)]


ENUM = """
CREATE TYPE status AS ENUM ('NEW', 'OPEN', 'DONE', 'LOST');
CREATE TABLE jobs (id serial PRIMARY KEY, plan int, status status NOT NULL DEFAULT 'NEW', other int DEFAULT 0);
CREATE INDEX ix_jobs_status ON jobs (status) WHERE status <> 'DONE';
INSERT INTO jobs (plan, status) SELECT 1, (ARRAY['NEW', 'OPEN', 'DONE'])[1 + n % 3]::status FROM generate_series(1, 6000) AS n
"""


def test_add_a_value_to_an_enum(way: Way) -> None:
    """The value stands where it was asked for; going back leaves it, refuses while a row has it, and up again finds it."""
    way.begin(ENUM)
    way.write(KIND="add_enum_value", ENUM="status", VALUE="HELD", AFTER="OPEN")

    way.to(1)
    assert way.database.value("SELECT enum_range(NULL::status)::text") == "{NEW,OPEN,HELD,DONE,LOST}"
    way.database.rows("UPDATE jobs SET status = 'HELD' WHERE id = 5")
    with pytest.raises(Refused, match=r"1 in public.jobs.status"):
        way.to(0)
    way.database.rows("UPDATE jobs SET status = 'OPEN' WHERE id = 5")
    way.to(0)
    way.to(1)

    assert way.database.value("SELECT enum_range(NULL::status)::text") == "{NEW,OPEN,HELD,DONE,LOST}"


@pytest.mark.long
def test_take_values_out_of_an_enum_and_order_them_anew(way: Way) -> None:
    """A new type without a value that no row has, in another order: default and index come along, both releases work."""
    way.begin(ENUM)
    way.database.rows(f"GRANT USAGE ON SEQUENCE jobs_id_seq TO {way.role}")
    way.write(KIND="replace_enum", TABLE="jobs", FROM="status", TO="state", TO_TYPE="state", LABELS="OPEN | NEW | DONE")
    turns = ["OPEN", "NEW", "DONE"]

    walk(
        way, release(way, "jobs", "status", lambda n: turns[n % 3]), release(way, "jobs", "state", lambda n: turns[n % 3]),
        values_of(way, "jobs"), ("status", "state"),
    )  # fmt: skip

    assert way.ask("INSERT INTO jobs (plan) VALUES (1) RETURNING state") == [("NEW",)]


def test_a_value_that_rows_have_is_not_taken_out(way: Way) -> None:
    """Rows are counted before anything happens; MAP says what they become instead."""
    way.begin(ENUM)
    values = {"TABLE": "jobs", "FROM": "status", "TO": "state", "TO_TYPE": "state", "LABELS": "OPEN | DONE"}
    paths = way.write(KIND="replace_enum", **values)

    with pytest.raises(Refused, match=r"2,000 in public.jobs.status"):
        way.to(1)
    for path in paths:
        path.unlink()
    way.write(KIND="replace_enum", MAP="NEW=OPEN | LOST=DONE", **values)
    way.to(2)

    assert way.database.rows("SELECT state::text, count(*) FROM jobs GROUP BY 1 ORDER BY 1") == [
        ("DONE", 2000),
        ("OPEN", 4000),
    ]


def test_a_type_that_rewrites_nothing_is_changed_in_place(way: Way) -> None:
    """varchar to text is one revision; int to bigint wants a second column, and says so."""
    way.begin("CREATE TABLE t (id int PRIMARY KEY, a varchar(20), b int)")

    [path] = way.write(KIND="change_type", TABLE="t", FROM="a", TO_TYPE="text")
    way.to(1)
    assert path.name == "002_alter_a_of_t.py"
    with pytest.raises(WrongUse, match="writes every row of t anew"):
        way.write(KIND="change_type", TABLE="t", FROM="b", TO_TYPE="bigint")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"KIND": "rename"}, "it is one of rename_column"),
        ({"KIND": "rename_column", "TABLE": "steps"}, "needs FROM"),
        ({"KIND": "rename_table", "TABLE": "steps", "TO": "x", "FILL": "1"}, "knows no FILL"),
        ({"KIND": "rename_column", "TABLE": "nothing", "FROM": "a", "TO": "b"}, "no table nothing"),
        ({"KIND": "rename_column", "TABLE": "steps", "FROM": "a", "TO": "b"}, "no column a; it has id, plan"),
        ({"KIND": "rename_column", "TABLE": "steps", "FROM": "title", "TO": "place"}, "has a column place already"),
        ({"KIND": "rename_column", "TABLE": "steps", "FROM": "id", "TO": "key"}, "primary key steps_pkey"),
        ({"KIND": "rename_column", "TABLE": "plans", "FROM": "code", "TO": "key"}, "unique constraint plans_code_key"),
        ({"KIND": "rename_column", "TABLE": "plans", "FROM": "id", "TO": "key"}, "foreign key fk_steps_plan of"),
        ({"KIND": "rename_column", "TABLE": "steps", "FROM": "other", "TO": "key"}, "view public.seen"),
        ({"KIND": "rename_table", "TABLE": "steps", "TO": "plans"}, "something called plans already"),
        (
            {"KIND": "change_type", "TABLE": "steps", "FROM": "place", "TO": "x", "TO_TYPE": "nothing"},
            "PostgreSQL refuses it",
        ),
        ({"KIND": "drop_column", "TABLE": "steps", "FROM": "plan"}, "FILL says"),
        ({"KIND": "drop_table", "TABLE": "plans"}, "foreign key fk_steps_plan of"),
        (
            {"KIND": "replace_enum", "TABLE": "steps", "FROM": "place", "TO": "x", "TO_TYPE": "y", "LABELS": "A"},
            "is no enum",
        ),
        (
            {"KIND": "move_column", "TABLE": "steps", "FROM": "other", "TO_TABLE": "plans", "ON": "id=id"},
            r"steps.other is NOT NULL, .* op.drop_not_null\(.*\) .* KIND=add_not_null TABLE=plans FROM=other",
        ),
    ],
)
def test_what_cannot_be_written_is_said(way: Way, values: dict[str, str], said: str) -> None:
    """A value that is missing, unknown or impossible, and whatever hangs on a column: wrong use, and no file."""
    way.begin(STEPS)
    way.database.rows("CREATE VIEW seen AS SELECT other FROM steps")

    with pytest.raises(WrongUse, match=said) as caught:
        way.write(**values)

    assert caught.value.next_command.startswith("make migrate-create ")
    assert len(list(way.project.versions.glob("*.py"))) == 1


def test_what_follows_is_ones_own_command_put_right(way: Way) -> None:
    """Of a wrong name the next command has the nearest that can be, of what no generator can the revision to write by hand."""
    way.begin(STEPS)
    put_right = {
        "TABLE=steps FROM=other TO=b": {"TABLE": "step", "FROM": "other", "TO": "b"},
        "TABLE=steps FROM=place TO=b": {"TABLE": "steps", "FROM": "plac", "TO": "b"},
        "NAME=add_key_to_plans   (by hand: docs/schema-changes.md": {"TABLE": "plans", "FROM": "code", "TO": "key"},
        "FROM=title TO=new_place": {"TABLE": "steps", "FROM": "title", "TO": "place"},
        "KIND=drop_table TABLE=…": {"KIND": "drop_table", "TABLE": "nowhere"},
        "FROM=plan FILL=\"''\"": {"KIND": "drop_column", "TABLE": "steps", "FROM": "plan"},
    }

    for then, values in put_right.items():
        with pytest.raises(WrongUse) as caught:
            way.write(**{"KIND": "rename_column"} | values)
        assert then in caught.value.next_command


def test_the_examples_are_possible_in_this_schema(database: Database, planner: Config) -> None:
    """What is printed as a form writes revisions when it is typed; only a column that moves has no table of its own here."""
    connection = connect.engine(connect.url(settings.load(planner)), "mcp-planner test").connect()

    for name, kind in kinds.KINDS.items():
        values = dict(part.split("=", 1) for part in shlex.split(kind.form.replace("[", "").replace("]", "")))
        if name != "move_column":
            connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
            assert kinds.written(connection, {"KIND": name, **values})
            connection.rollback()
    connection.close()


def test_a_database_that_lags_behind_is_said(way: Way) -> None:
    """What is written follows the database, so that has to be at the newest revision."""
    way.begin(STEPS)
    way.project.revision("002", "add_x", 'op.execute("CREATE TABLE x ()")', 'op.execute("DROP TABLE x")')

    with pytest.raises(WrongUse, match="The database is at 001, the newest revision is 002"):
        way.write(KIND="drop_table", TABLE="steps")
