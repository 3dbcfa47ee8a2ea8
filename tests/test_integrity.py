"""The rules that triggers keep, tried as the application: a role that owns nothing."""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

import psycopg2
import pytest

from tests.conftest import Database
from tests.until import until


def new_project(cursor: Any, name: str = "a project") -> str:
    """A project's id."""
    cursor.execute("INSERT INTO projects (name, description) VALUES (%s, 'x') RETURNING id", (name,))
    return str(cursor.fetchone()[0])


def new_task(cursor: Any, project: str | None, title: str = "a task", parent: str | None = None) -> str:
    """A task's id."""
    cursor.execute(
        "INSERT INTO tasks (project_id, parent_task_id, title, objective) VALUES (%s, %s, %s, 'x') RETURNING id",
        (project, parent, title),
    )
    return str(cursor.fetchone()[0])


def new_step(cursor: Any, task: str, title: str = "a step", **more: Any) -> str:
    """A step's id; its project is left to the trigger."""
    columns = {"task_id": task, "title": title, **more}
    cursor.execute(
        f"INSERT INTO steps ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))}) RETURNING id",
        list(columns.values()),
    )
    return str(cursor.fetchone()[0])


def value(cursor: Any, sql: str, *values: Any) -> Any:
    """The first column of the first row."""
    cursor.execute(sql, values)
    return cursor.fetchone()[0]


def refused(cursor: Any, sql: str, *values: Any) -> psycopg2.Error:
    """The error that a statement ends with."""
    with pytest.raises(psycopg2.Error) as caught:
        cursor.execute(sql, values)
    return caught.value


def chain_of_tasks(cursor: Any, project: str, length: int) -> list[str]:
    """Tasks below each other, the root first."""
    tasks: list[str] = []
    for n in range(length):
        tasks.append(new_task(cursor, project, f"level {n + 1}", tasks[-1] if tasks else None))
    return tasks


ALLOWED = {
    "PENDING": {"SERVER_DRAFT"},
    "SERVER_DRAFT": {"CLIENT_REVIEW", "DISPUTED"},
    "CLIENT_REVIEW": {"AGREED", "SERVER_DRAFT", "DISPUTED"},
    "DISPUTED": {"USER_RESOLUTION"},
    "USER_RESOLUTION": {"AGREED"},
    "AGREED": set(),
}


@pytest.mark.parametrize("before", ALLOWED)
def test_status_moves_as_the_negotiation_does(cursor: Any, before: str) -> None:
    """From each status the listed moves and staying put are allowed, every other is refused as MP001 with a hint."""
    task = new_task(cursor, new_project(cursor))

    for after in ALLOWED:
        step = new_step(cursor, task, f"to {after}", status=before, final_content="agreed upon")
        move = "UPDATE steps SET status = %s WHERE id = %s"
        if after in ALLOWED[before] | {before}:
            cursor.execute(move, (after, step))
            assert value(cursor, "SELECT status FROM steps WHERE id = %s", step) == after
        else:
            error = refused(cursor, move, after, step)
            assert error.pgcode == "MP001"
            assert step in error.diag.message_primary and before in error.diag.message_primary
            assert error.diag.message_hint and (error.diag.table_name, error.diag.column_name) == ("steps", "status")
            assert value(cursor, "SELECT status FROM steps WHERE id = %s", step) == before


def test_an_agreed_step_is_done(cursor: Any) -> None:
    """AGREED sets progress to 1: on insert, on arrival, and whatever is written afterwards."""
    task = new_task(cursor, new_project(cursor))
    inserted = new_step(cursor, task, "inserted", status="AGREED", final_content="yes")
    arrived = new_step(cursor, task, "arrived", status="CLIENT_REVIEW", final_content="yes", progress=0.2)

    cursor.execute("UPDATE steps SET status = 'AGREED' WHERE id = %s", (arrived,))
    cursor.execute("UPDATE steps SET progress = 0.5")

    cursor.execute("SELECT id::text, progress FROM steps")
    assert dict(cursor.fetchall()) == {inserted: 1.0, arrived: 1.0}


@pytest.mark.parametrize("column", ["prev_id", "next_id"])
@pytest.mark.parametrize("table", ["tasks", "steps"])
def test_a_reference_points_at_an_item_of_its_project(cursor: Any, table: str, column: str) -> None:
    """References to nothing, to the wrong kind and to another project are MP002; to a task and to a step they are fine.

    The older check compared with the table's name, which is plural, and so never found anything wrong.
    """
    project, other = new_project(cursor), new_project(cursor, "other")
    task, elsewhere = new_task(cursor, project), new_task(cursor, other)
    step, target, neighbour = (
        new_step(cursor, task),
        new_step(cursor, task, "target"),
        new_task(cursor, project, "next"),
    )
    own = task if table == "tasks" else step
    change = f"UPDATE {table} SET {column} = %s WHERE id = %s"

    for wrong in (f"task://{uuid.uuid4()}", f"step://{uuid.uuid4()}", f"step://{neighbour}", f"task://{target}",
                  f"task://{elsewhere}"):  # fmt: skip
        error = refused(cursor, change, wrong, own)
        assert error.pgcode == "MP002"
        assert own in error.diag.message_primary and wrong in error.diag.message_primary and error.diag.message_hint
        assert error.diag.column_name == column
    for right in (f"task://{neighbour}", f"step://{target}"):
        cursor.execute(change, (right, own))
        assert value(cursor, f"SELECT {column} FROM {table} WHERE id = %s", own) == right


def test_a_reference_may_point_at_a_row_of_the_same_statement(cursor: Any) -> None:
    """References are looked at when the statement is complete, so a whole chain can be inserted at once."""
    task = new_task(cursor, new_project(cursor))
    one, two = uuid.uuid4(), uuid.uuid4()

    cursor.execute(
        "INSERT INTO steps (id, task_id, title, next_id, prev_id) VALUES (%s, %s, 'one', %s, NULL), (%s, %s, 'two', NULL, %s)",
        (str(one), task, f"step://{two}", str(two), task, f"step://{one}"),
    )

    assert cursor.rowcount == 2


def test_an_item_cannot_go_while_a_reference_to_it_is_being_written(database: Database, cursor: Any) -> None:
    """The check locks what it found as a foreign key would: the delete waits for the transaction that refers to the item."""
    task = new_task(cursor, new_project(cursor))
    step, target = new_step(cursor, task), new_step(cursor, task, "target")
    with database.connect(autocommit=False) as writing, writing.cursor() as other:
        other.execute("UPDATE steps SET next_id = %s WHERE id = %s", (f"step://{target}", step))

        cursor.execute("SET lock_timeout = '100ms'")
        assert refused(cursor, "DELETE FROM steps WHERE id = %s", target).pgcode == "55P03"


def test_old_inserts_get_their_project(cursor: Any) -> None:
    """Rows of every table that a project owns may leave project_id out; it is their parent's."""
    project = new_project(cursor)
    root = new_task(cursor, project)
    task = new_task(cursor, None, "sub-task", root)
    step = new_step(cursor, task)

    for table, columns, values in [
        ("disputes", "step_id, server_content, client_content, server_reasoning, client_reasoning", (step, *"abcd")),
        ("complexity_assessments", "step_id, agent, iteration, level, score, confidence",
         (step, "SERVER_AI", 1, "LOW", 0.1, 1)),
        ("complexity_agreements", "step_id, iteration, agreed, resolution", (step, 1, True, "CONSENSUS")),
        ("step_promotions", "step_id, step_title, new_task_id, reason", (str(uuid.uuid4()), "was", task, "large")),
        ("navigation_links", "from_task_id, to_step_id, position", (root, step, 1)),
        ("navigation_cursors", "actor, current_step_id", ("someone", step)),
    ]:  # fmt: skip
        cursor.execute(f"INSERT INTO {table} ({columns}) VALUES ({', '.join(['%s'] * len(values))})", values)
        assert value(cursor, f"SELECT project_id FROM {table}") == project, table
    assert value(cursor, "SELECT count(*) FROM tasks WHERE project_id = %s", project) == 2


def test_a_row_without_a_parent_has_no_project(cursor: Any) -> None:
    """An unknown parent is refused as a foreign key would, and the message names the table, not a null."""
    error = refused(cursor, "INSERT INTO steps (task_id, title) VALUES (%s, 'x')", str(uuid.uuid4()))

    assert error.pgcode == "23503"
    assert "of steps has no project" in error.diag.message_primary and error.diag.message_hint


def test_updated_at_follows_changes(cursor: Any) -> None:
    """An update that changes something moves updated_at, whatever the statement sets it to; one that changes nothing does not."""
    project = new_project(cursor)
    cursor.execute("SELECT updated_at FROM projects")
    (begun,) = cursor.fetchone()

    cursor.execute("UPDATE projects SET name = name")
    assert value(cursor, "SELECT updated_at FROM projects WHERE id = %s", project) == begun

    cursor.execute("UPDATE projects SET name = 'other', updated_at = '2001-01-01'")
    assert value(cursor, "SELECT updated_at FROM projects WHERE id = %s", project) > begun


def test_a_task_is_not_below_itself(cursor: Any) -> None:
    """Circles of one statement, of two rows and through the tree are MP003, and nothing has moved."""
    project = new_project(cursor)
    top, middle, low = chain_of_tasks(cursor, project, 3)

    for task, parent in ((top, middle), (top, low), (middle, low)):
        error = refused(cursor, "UPDATE tasks SET parent_task_id = %s WHERE id = %s", parent, task)
        assert error.pgcode == "MP003"
        assert task in error.diag.message_primary and parent in error.diag.message_primary and error.diag.message_hint
    one, two = str(uuid.uuid4()), str(uuid.uuid4())
    error = refused(
        cursor,
        "INSERT INTO tasks (id, project_id, parent_task_id, title, objective)"
        " VALUES (%s, %s, %s, 'a', 'x'), (%s, %s, %s, 'b', 'x')",
        one, project, two, two, project, one,
    )  # fmt: skip
    assert error.pgcode == "MP003"
    cursor.execute("SELECT parent_task_id::text FROM tasks ORDER BY title")
    assert [row[0] for row in cursor.fetchall()] == [None, top, middle]


def test_a_tree_is_at_most_100_deep(cursor: Any) -> None:
    """Inserting below depth 100 and moving a sub-tree too far down are MP004; exactly 100 is fine."""
    project = new_project(cursor)
    tasks = chain_of_tasks(cursor, project, 100)
    loose, leaf = chain_of_tasks(cursor, new_project(cursor, "other"), 2)

    error = refused(
        cursor, "INSERT INTO tasks (parent_task_id, title, objective) VALUES (%s, 'deeper', 'x')", tasks[-1]
    )
    assert error.pgcode == "MP004" and error.diag.message_hint
    cursor.execute("DELETE FROM tasks WHERE id = %s", (loose,))
    loose = new_task(cursor, project, "loose")
    leaf = new_task(cursor, project, "leaf", loose)
    error = refused(cursor, "UPDATE tasks SET parent_task_id = %s WHERE id = %s", tasks[98], loose)
    assert error.pgcode == "MP004" and loose in error.diag.message_primary
    cursor.execute("UPDATE tasks SET parent_task_id = %s WHERE id = %s", (tasks[97], loose))
    assert value(cursor, "SELECT parent_task_id FROM tasks WHERE id = %s", leaf) == loose


def test_two_moves_cannot_make_a_circle_together(database: Database, cursor: Any) -> None:
    """The second of two crossing moves waits for the first and is then refused, without a deadlock."""
    project = new_project(cursor)
    one, two = new_task(cursor, project, "one"), new_task(cursor, project, "two")
    errors: list[str | None] = []

    def second() -> None:
        with database.connect() as connection, connection.cursor() as other:
            try:
                other.execute("UPDATE tasks SET parent_task_id = %s WHERE id = %s", (one, two))
            except psycopg2.Error as error:
                errors.append(error.pgcode)

    with database.connect(autocommit=False) as connection, connection.cursor() as first:
        first.execute("UPDATE tasks SET parent_task_id = %s WHERE id = %s", (two, one))
        thread = threading.Thread(target=second)
        thread.start()
        until(lambda: database.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") == 1)
        connection.commit()
        thread.join()

    assert errors == ["MP003"]


def test_a_new_task_sees_where_its_parent_is_being_moved(database: Database, cursor: Any) -> None:
    """An insert below a task that another session moves further down waits, and is refused when it ends up too deep."""
    project = new_project(cursor)
    deep = chain_of_tasks(cursor, project, 98)
    top = new_task(cursor, project, "top")
    low = new_task(cursor, project, "low", top)
    errors: list[str | None] = []

    def insert() -> None:
        with database.connect() as connection, connection.cursor() as other:
            try:
                new_task(other, None, "lowest", low)
            except psycopg2.Error as error:
                errors.append(error.pgcode)

    with database.connect(autocommit=False) as connection, connection.cursor() as mover:
        mover.execute("UPDATE tasks SET parent_task_id = %s WHERE id = %s", (deep[-1], top))
        thread = threading.Thread(target=insert)
        thread.start()
        until(lambda: database.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") >= 1)
        connection.commit()
        thread.join()

    assert errors == ["MP004"]


def test_moves_under_load_keep_the_tree(database: Database, cursor: Any) -> None:
    """Six sessions move tasks about for a second: no deadlock, no circle, only MP003 where one would have come about."""
    project = new_project(cursor)
    tasks = [new_task(cursor, project, f"task {n}") for n in range(12)]
    codes: list[str | None] = []
    moved: list[int] = []
    end = time.monotonic() + 1

    def move(seed: int) -> None:
        import random

        dice, done = random.Random(seed), 0
        with database.connect() as connection, connection.cursor() as other:
            while time.monotonic() < end:
                task, parent = dice.sample(tasks, 2)
                try:
                    other.execute("UPDATE tasks SET parent_task_id = %s WHERE id = %s",
                                  (parent if dice.random() < 0.8 else None, task))  # fmt: skip
                    done += 1
                except psycopg2.Error as error:
                    codes.append(error.pgcode)
        moved.append(done)

    threads = [threading.Thread(target=move, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(codes) <= {"MP003"} and sum(moved) > 20
    reached = """
        WITH RECURSIVE down AS (
            SELECT id FROM tasks WHERE parent_task_id IS NULL
            UNION ALL SELECT tasks.id FROM tasks JOIN down ON parent_task_id = down.id
        ) SELECT count(*) FROM down"""
    assert value(cursor, reached) == len(tasks)


def test_functions_are_pinned_and_explained(database: Database) -> None:
    """Every function has a search_path of its own and a comment, every trigger a comment; nothing needs a superuser.

    In PL/pgSQL a variable is meant where a column has its name: else a new column would break the functions.
    """
    bare = database.rows(
        """
        SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND (
            obj_description(p.oid, 'pg_proc') IS NULL
            OR NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)
            OR p.prolang = (SELECT oid FROM pg_language WHERE lanname = 'plpgsql')
                AND NOT starts_with(p.prosrc, E'\\n#variable_conflict use_variable\\n'))
        UNION ALL
        SELECT t.oid FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND c.relnamespace = 'public'::regnamespace
          AND obj_description(t.oid, 'pg_trigger') IS NULL
        """
    )

    assert bare == []


# What a session of the application does in a day, one statement each; every row trigger and statement trigger fires.
A_DAY = """
INSERT INTO projects (id, name, description) VALUES ({p}, 'a', 'x'), ({q}, 'b', 'x');
INSERT INTO tasks (id, project_id, title, objective) VALUES ({t}, {p}, 'one', 'x'), ({u}, {p}, 'two', 'x');
INSERT INTO tasks (project_id, parent_task_id, title, objective) VALUES ({p}, {t}, 'below', 'x');
INSERT INTO steps (id, project_id, task_id, title) VALUES ({s}, {p}, {t}, 's'), ({r}, {p}, {t}, 'r');
INSERT INTO steps (task_id, title, prev_id)
    SELECT {u}, 'n' || n, CASE n WHEN 1 THEN 'step://' || {r} END FROM generate_series(1, 9) n;
UPDATE steps SET next_id = 'step://' || {r} WHERE id = {s};
UPDATE steps SET progress = 0.5;
UPDATE steps SET progress = 1, title = 'renamed' WHERE id = {s};
UPDATE steps SET status = 'SERVER_DRAFT' WHERE id = {r};
UPDATE steps SET task_id = {u} WHERE id = {s};
UPDATE tasks SET parent_task_id = {u}, title = 'moved' WHERE id = {t};
UPDATE projects SET name = 'c', complexity_threshold = 0.5 WHERE id = {p};
INSERT INTO disputes (project_id, step_id, server_content, client_content, server_reasoning, client_reasoning)
    VALUES ({p}, {s}, 'a', 'b', 'c', 'd');
INSERT INTO complexity_assessments (project_id, step_id, agent, iteration, level, score, confidence)
    VALUES ({p}, {s}, 'SERVER_AI', 1, 'LOW', 0.2, 0.9);
INSERT INTO complexity_agreements (project_id, step_id, iteration, agreed, resolution) VALUES ({p}, {s}, 1, true, 'CONSENSUS');
INSERT INTO complexity_runs (project_id, threshold, iterations_allowed) VALUES ({p}, 0.7, 3);
INSERT INTO navigation_cursors (project_id, actor, current_step_id) VALUES ({p}, 'SERVER_AI', {s});
DELETE FROM navigation_links WHERE from_step_id = {s};
DELETE FROM steps WHERE id = {r};
DELETE FROM tasks WHERE id = {t};
DELETE FROM projects WHERE id = {p}
"""
ARGUMENTS = {
    "uuid": "'{p}'::uuid", "text": "'step://{s}'", "integer": "1", "bigint": "1", "date": "current_date", "boolean": "false",
    "double precision": "0.5", "numeric": "0.5", "timestamp with time zone": "now()", "interval": "'1 day'",
    "uuid[]": "ARRAY['{p}']::uuid[]",
}  # fmt: skip


def test_new_columns_break_no_function(database: Database) -> None:
    """However a later revision calls its columns, be it like a variable of a function: every trigger and call goes on."""
    names = database.rows(
        r"""
        SELECT DISTINCT n FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang AND l.lanname IN ('plpgsql', 'sql'),
            LATERAL (
                SELECT (regexp_matches(split_part(p.prosrc, 'BEGIN', 1), '^ {4}(\w+) ', 'gm'))[1]
                UNION SELECT (regexp_matches(p.prosrc, 'FOR (\w+) IN', 'g'))[1] UNION SELECT unnest(p.proargnames)) AS v (n)
        WHERE p.pronamespace = 'public'::regnamespace AND n <> '' ORDER BY 1
        """
    )
    assert ("owner",) in names
    tables = database.rows(
        "SELECT relname FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT relispartition AND relname <> 'alembic_version'"
    )
    for (table,) in tables:
        added = ", ".join(f'ADD COLUMN IF NOT EXISTS "{name}" text' for (name,) in names)
        database.rows(f"ALTER TABLE {table} {added}")
    ids = {name: f"'00000000-0000-4000-8000-00000000000{place}'" for place, name in enumerate("pqtusr")}
    bare = {name: value.strip("'") for name, value in ids.items()}
    functions = database.rows(
        "SELECT proname, array(SELECT format_type(t, NULL) FROM unnest(proargtypes) t) FROM pg_proc"
        " WHERE pronamespace = 'public'::regnamespace AND prorettype <> 'trigger'::regtype AND prokind = 'f'"
    )
    broken, called = [], 0
    with database.connect() as connection, connection.cursor() as cursor:
        connection.autocommit = True
        *statements, last = [one.strip() for one in A_DAY.format(**ids).split(";")]
        for statement in statements:
            cursor.execute(statement)
        for name, types in functions:
            values = ", ".join(ARGUMENTS.get(one, f"NULL::{one}").format(**bare) for one in types)
            try:
                cursor.execute(f"SELECT * FROM {name}({values})")
                called += 1
            except psycopg2.Error as error:
                if error.pgcode in ("42702", "42P01", "42703"):
                    broken.append((name, str(error)))
        cursor.execute(last)

    assert broken == []
    assert called > 20
