"""The audit log and the history of thresholds, as triggers write them for an application that may not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg2
import pytest

from tests.conftest import Database

PROJECT, TASK, STEP = (f"00000000-0000-4000-8000-00000000000{n}" for n in range(3))


@pytest.fixture
def cursor(database: Database, cursor: Any) -> Any:
    """The application's session, on a database with one project, task and step and an empty log."""
    cursor.execute(
        f"INSERT INTO projects (id, name, description) VALUES ('{PROJECT}', 'p', 'd');"
        f"INSERT INTO tasks (id, project_id, title, objective) VALUES ('{TASK}', '{PROJECT}', 't', 'o');"
        f"INSERT INTO steps (id, task_id, title) VALUES ('{STEP}', '{TASK}', 's')"
    )
    database.rows("TRUNCATE audit_logs")
    return cursor


def log(cursor: Any, columns: str = "action::text, old_values, new_values") -> list[tuple[Any, ...]]:
    """The log's rows in order."""
    cursor.execute(f"SELECT {columns} FROM audit_logs ORDER BY occurred_at, id")
    return list(cursor.fetchall())


def test_an_insert_logs_the_row(cursor: Any) -> None:
    """A new row is CREATED once, with its project and all columns but the bookkeeping."""
    cursor.execute(f"INSERT INTO steps (task_id, title) VALUES ('{TASK}', 'a') RETURNING id")
    (step,) = cursor.fetchone()

    ((kind, entity, project, action, old, new),) = log(
        cursor, "entity_type::text, entity_id, project_id, action::text, old_values, new_values"
    )

    assert (kind, entity, project, action, old) == ("STEP", step, PROJECT, "CREATED", None)
    assert (new["title"], new["status"], "updated_at" in new) == ("a", "PENDING", False)


def test_an_update_logs_what_changed(cursor: Any) -> None:
    """Each row holds its own changed columns, nulls and enums included, and no others."""
    cursor.execute(f"INSERT INTO steps (task_id, title, server_content) VALUES ('{TASK}', 'b', 'new')")

    cursor.execute("UPDATE steps SET server_content = 'new', status = 'SERVER_DRAFT'")

    assert sorted(log(cursor)[1:], key=str) == sorted([
        ("UPDATED", {"server_content": None, "status": "PENDING"}, {"server_content": "new", "status": "SERVER_DRAFT"}),
        ("UPDATED", {"status": "PENDING"}, {"status": "SERVER_DRAFT"}),
    ], key=str)  # fmt: skip


# Column, value before and after, and what the log says of it: nothing where the two are equal in the column's type.
CHANGES: list[tuple[str, str, str, tuple[Any, Any] | None]] = [
    ("title", "'s'", "'x'", ("s", "x")),
    ("server_content", "NULL", "'new'", (None, "new")),
    ("server_content", "'old'", "NULL", ("old", None)),
    ("server_content", "NULL", "NULL", None),
    ("server_content", "''", "' '", ("", " ")),
    ("server_ready", "false", "true", (False, True)),
    ("server_complexity", "NULL", "'LOW'", (None, "LOW")),
    ("complexity_score", "0.3", "0.1::float8 + 0.2", (0.3, 0.30000000000000004)),
    ("complexity_score", "0", "'-0'", None),
    ("weight", "1.0", "1.00", None),
    ("weight", "1e30", "1e30 + 1", (10**30, 10**30 + 1)),
    ("weight", "'NaN'", "'NaN'", None),
    ("weight", "'NaN'", "1", ("NaN", 1)),
    ("created_at", "'2026-10-25 00:30+00'", "'2026-10-25 02:30+02'", None),
    ("created_at", "'2026-10-25 00:30+00'", "'2026-10-25 01:30+00'",
     ("2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00")),
    ("chain_position", "1", "2", None),
    ("finished", "true", "NULL", None),
    ("status", "'PENDING'", "'SERVER_DRAFT'", ("PENDING", "SERVER_DRAFT")),
]  # fmt: skip


@pytest.mark.parametrize("others", ["none", "unchanged", "changed"])
def test_a_change_is_told_by_its_type(cursor: Any, database: Database, others: str) -> None:
    """A row is logged alike alone, in a statement that changes no other of many rows, and in one that changes them all."""
    database.rows(
        "ALTER TABLE steps ADD COLUMN IF NOT EXISTS weight numeric,"
        " ADD COLUMN IF NOT EXISTS chain_position integer, ADD COLUMN IF NOT EXISTS finished boolean"
    )
    if others != "none":
        cursor.execute(f"INSERT INTO steps (task_id, title) SELECT '{TASK}', g FROM generate_series(1, 50) g")
    cursor.execute("SET timezone = 'Europe/Berlin'; SET extra_float_digits = -5")
    found: list[Any] = []

    for column, before, after, _ in CHANGES:
        cursor.execute(f"UPDATE steps SET {column} = {before} WHERE id = '{STEP}'")
        cursor.execute("SELECT clock_timestamp()")
        (since,) = cursor.fetchone()
        cursor.execute(
            f"UPDATE steps SET {column} = CASE id WHEN '{STEP}' THEN {after} ELSE {column} END, iteration_count ="
            f" iteration_count + CASE WHEN id <> '{STEP}' AND {others == 'changed'} THEN 1 ELSE 0 END"
        )
        cursor.execute(
            "SELECT entity_id, old_values, new_values FROM audit_logs WHERE occurred_at > %s AND entity_type = 'STEP'",
            (since,),
        )
        rows = cursor.fetchall()
        found.append([row[1:] for row in rows if row[0] == STEP])
        assert len(rows) - len(found[-1]) == (50 if others == "changed" else 0), column

    assert found == [[({column: log[0]}, {column: log[1]})] if log else [] for column, _, _, log in CHANGES]


def test_every_column_is_of_a_type_that_json_tells_apart(database: Database) -> None:
    """Alone a row is compared as JSON, among many in its types: the same for these types, not for jsonb or interval."""
    rows = database.rows(
        "SELECT DISTINCT CASE typtype WHEN 'e' THEN 'enum' ELSE typname::text END"
        " FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid"
        " WHERE attrelid = ANY ('{projects,tasks,steps,disputes}'::regclass[]) AND attnum > 0 AND NOT attisdropped"
    )

    types = {"uuid", "text", "varchar", "enum", "bool", "int4", "int8", "float8", "numeric", "timestamptz"}
    assert {name for (name,) in rows} <= types


@pytest.mark.parametrize("number", [1, 50])
def test_one_row_and_many_are_logged_alike(cursor: Any, number: int) -> None:
    """One row of a step's life or fifty by one statement: each is logged once, with the same action and columns."""
    cursor.execute(f"DELETE FROM steps WHERE id = '{STEP}'")
    cursor.execute(
        "INSERT INTO steps (task_id, title, status, server_content)"
        f" SELECT '{TASK}', 'n' || g, 'CLIENT_REVIEW', repeat('é', g) FROM generate_series(1, {number}) g"
    )
    cursor.execute("UPDATE steps SET status = 'AGREED', final_content = server_content")
    cursor.execute("UPDATE steps SET id = gen_random_uuid()")
    cursor.execute("DELETE FROM steps")

    cursor.execute(
        "SELECT action::text, old_values->>'title', new_values->>'title',"
        " (SELECT array_agg(key ORDER BY key) FROM jsonb_object_keys(old_values) key) AS old,"
        " (SELECT array_agg(key ORDER BY key) FROM jsonb_object_keys(new_values) key) AS new, project_id FROM audit_logs"
        " WHERE entity_type = 'STEP' AND entity_id <> %s ORDER BY action, old, new",
        (STEP,),
    )
    rows = cursor.fetchall()
    cursor.execute(
        "SELECT array_agg(attname::text ORDER BY attname) FROM pg_attribute WHERE attrelid = 'steps'::regclass AND attnum > 0"
        " AND NOT attisdropped AND attname <> ALL ('{updated_at,chain_position,finished}')"
    )
    (whole,) = cursor.fetchone()
    changed = ["final_content", "progress", "status"]
    expected = {"CREATED": (None, whole), "COMPLETED": (changed, changed), "DELETED": (whole, None)}
    assert [row for row in rows if tuple(row[3:5]) != expected[row[0]] or row[5] != PROJECT] == []
    # A new id is one row gone and one come.
    assert Counter(row[0] for row in rows) == {"CREATED": 2 * number, "COMPLETED": number, "DELETED": 2 * number}
    titles = {f"n{n}" for n in range(1, number + 1)}
    assert {row[1] for row in rows if row[0] == "DELETED"} == {row[2] for row in rows if row[0] == "CREATED"} == titles


@pytest.mark.parametrize("number", [1, 50])
@pytest.mark.parametrize(("table", "column"), [("projects", "name"), ("tasks", "title")])
def test_projects_and_tasks_are_logged_row_by_row(cursor: Any, table: str, column: str, number: int) -> None:
    """One of them or fifty by one statement: each is logged once, with only what changed; a new id is one gone and one come."""
    cursor.execute(
        f"INSERT INTO projects (name, description) SELECT 'n' || g, 'd' FROM generate_series(1, {number}) g;"
        "INSERT INTO tasks (project_id, title, objective)"
        f" SELECT '{PROJECT}', 'n' || g, 'o' FROM generate_series(1, {number}) g"
    )
    since = f"WHERE id NOT IN ('{PROJECT}', '{TASK}')"
    cursor.execute(f"UPDATE {table} SET {column} = {column} || '!', progress = 0.5, updated_at = 'epoch' {since}")
    cursor.execute(f"UPDATE {table} SET {column} = {column}, child_count = 7 {since}")
    if table == "tasks":  # a project has a history of thresholds from its first day, and keeps its id
        cursor.execute(f"UPDATE tasks SET id = gen_random_uuid() {since}")

    cursor.execute(
        "SELECT action::text, old_values->>%s, new_values->>%s, coalesce(old_values, new_values) - %s = '{}',"
        " project_id = CASE WHEN entity_type = 'PROJECT' THEN entity_id ELSE %s END FROM audit_logs"
        " WHERE entity_type::text = upper(left(%s, -1)) ORDER BY occurred_at",
        (column, column, column, PROJECT, table),
    )
    rows = cursor.fetchall()
    names = [f"n{n}" for n in range(1, number + 1)]
    louder = [f"{name}!" for name in names] if table == "tasks" else []
    assert all(row[4] for row in rows)
    assert Counter((action, old, new, alone) for action, old, new, alone, _ in rows) == Counter(
        [
            *(("CREATED", None, name, False) for name in (*names, *louder)),
            *(("UPDATED", name, f"{name}!", True) for name in names),
            *(("DELETED", name, None, False) for name in louder),
        ]
    )


@pytest.mark.parametrize("change", ["title = title", "updated_at = now() + interval '1 day'"])
def test_an_update_of_nothing_logs_nothing(cursor: Any, change: str) -> None:
    """No row where nothing changed, or only what triggers keep."""
    cursor.execute(
        f"UPDATE steps SET {change}; UPDATE steps SET title = 'x' WHERE false; DELETE FROM steps WHERE false"
    )

    assert log(cursor) == []


def test_derived_counters_are_not_logged(cursor: Any, database: Database) -> None:
    """A table with child_count and child_progress logs neither, alone or beside another column."""
    database.rows(
        "ALTER TABLE tasks ADD COLUMN IF NOT EXISTS child_count integer, ADD COLUMN IF NOT EXISTS child_progress numeric"
    )

    cursor.execute("UPDATE tasks SET child_count = 4, child_progress = 2")
    cursor.execute("UPDATE tasks SET child_count = 5, child_progress = 3, objective = 'z'")

    assert log(cursor) == [("UPDATED", {"objective": "o"}, {"objective": "z"})]


def test_actions_say_what_happened(cursor: Any) -> None:
    """COMPLETED, DISPUTED, RESOLVED, PROMOTED and DELETED, each once and in order of the transaction."""
    cursor.execute(
        f"""
        BEGIN;
        INSERT INTO disputes (step_id, server_content, client_content, server_reasoning, client_reasoning)
        VALUES ('{STEP}', 'a', 'b', 'c', 'd');
        UPDATE disputes SET status = 'RESOLVED', user_resolution = 'SERVER', resolved_content = 'a', resolved_at = now();
        UPDATE steps SET status = 'SERVER_DRAFT';
        UPDATE steps SET status = 'CLIENT_REVIEW';
        UPDATE steps SET status = 'AGREED', final_content = 'a';
        UPDATE steps SET title = 'after';
        INSERT INTO step_promotions (project_id, step_id, step_title, new_task_id, reason)
        VALUES ('{PROJECT}', '{STEP}', 's', '{TASK}', 'r');
        DELETE FROM disputes;
        DELETE FROM steps;
        DELETE FROM tasks;
        COMMIT
        """
    )

    steps = log(cursor, "entity_type::text, action::text, old_values IS NULL, new_values IS NULL")

    assert [row[:2] for row in steps if row[0] in ("STEP", "DISPUTE")] == [
        ("DISPUTE", "DISPUTED"), ("DISPUTE", "RESOLVED"), ("STEP", "UPDATED"), ("STEP", "UPDATED"), ("STEP", "COMPLETED"),
        ("STEP", "UPDATED"), ("DISPUTE", "DELETED"), ("STEP", "PROMOTED"),
    ]  # fmt: skip
    assert steps[-1] == ("TASK", "DELETED", False, True)


def test_a_deleted_project_logs_what_goes_with_it(cursor: Any) -> None:
    """A cascade logs one DELETED row for each row that it takes along."""
    cursor.execute(f"INSERT INTO steps (task_id, title) SELECT '{TASK}', g FROM generate_series(1, 5) g")

    cursor.execute("DELETE FROM projects")

    cursor.execute("SELECT entity_type::text, count(*) FROM audit_logs WHERE action = 'DELETED' GROUP BY 1 ORDER BY 1")
    assert cursor.fetchall() == [("PROJECT", 1), ("STEP", 6), ("TASK", 1)]


def test_truncation_logs_every_row(cursor: Any, database: Database) -> None:
    """TRUNCATE with CASCADE, the owner's, logs the rows of every table that it empties, once each."""
    database.rows("TRUNCATE projects CASCADE")

    rows = sorted(log(cursor, "entity_type::text, action::text, entity_id::text, project_id::text"))
    assert rows == sorted((kind, "DELETED", one, PROJECT) for kind, one in
                          (("PROJECT", PROJECT), ("TASK", TASK), ("STEP", STEP)))  # fmt: skip


def test_a_changed_id_is_one_gone_and_one_come(cursor: Any) -> None:
    """A new id of a row is logged as the old item's end and the new one's beginning."""
    cursor.execute("UPDATE steps SET id = gen_random_uuid()")

    assert sorted(row[0] for row in log(cursor)) == ["CREATED", "DELETED"]


@pytest.mark.parametrize(
    ("user", "agent", "expected"),
    [
        (None, None, ("system", None, None)),
        ("", "", ("system", None, None)),
        ("maya", "", ("maya", None, None)),
        ("", "CLIENT_AI", (None, "CLIENT_AI", None)),
        ("maya", "SERVER_AI", ("maya", "SERVER_AI", None)),
        ("", "GPT", ("system", None, {"unknown_ai_agent": "GPT"})),
        ("é" * 300, "", ("é" * 255, None, None)),
    ],
)
def test_the_actor_comes_from_the_settings(
    cursor: Any, user: str | None, agent: str | None, expected: tuple[Any, ...]
) -> None:
    """Whoever acts is named, nobody is the system, and no value of the settings makes a change fail."""
    for name, value in (("planner.user_id", user), ("planner.ai_agent", agent)):
        if value is not None:
            cursor.execute("SELECT set_config(%s, %s, false)", (name, value))

    cursor.execute("UPDATE projects SET name = 'n', complexity_threshold = 0.5")
    cursor.execute("UPDATE steps SET progress = 0.5")  # and with it that of the task and the project

    assert log(cursor, "user_id, ai_agent::text, metadata") == [expected] * 4
    cursor.execute("SELECT changed_by FROM threshold_changes WHERE old_threshold IS NOT NULL")
    assert cursor.fetchall() == [(expected[0] or expected[1],)]


def test_the_application_cannot_write_the_log(cursor: Any) -> None:
    """The triggers write as their owner; the application has no right to."""
    for table in ("audit_logs", "threshold_changes"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute(f"DELETE FROM {table}")


def test_thresholds_are_kept(cursor: Any) -> None:
    """The first threshold has no old value, a change has both, and a statement that changes none writes none."""
    cursor.execute("UPDATE projects SET complexity_threshold = 0.7; UPDATE projects SET complexity_threshold = 0.4")

    cursor.execute("SELECT old_threshold, new_threshold, changed_by FROM threshold_changes ORDER BY changed_at")
    assert cursor.fetchall() == [(None, 0.7, "system"), (0.7, 0.4, "system")]


def test_bulk_and_single_statements_alternate(cursor: Any) -> None:
    """One session changes single rows, then thousands, then single rows again, and each change is logged once."""
    cursor.execute(f"INSERT INTO steps (task_id, title) SELECT '{TASK}', g FROM generate_series(1, 3000) g")
    for turn in range(20):
        cursor.execute(f"UPDATE steps SET iteration_count = {turn + 1} WHERE id = '{STEP}'")
    cursor.execute("UPDATE steps SET progress = 0.5")
    for turn in range(20):
        cursor.execute(f"UPDATE steps SET iteration_count = {turn + 50} WHERE id = '{STEP}'")

    cursor.execute("SELECT count(*) FROM audit_logs WHERE action = 'UPDATED' AND entity_type = 'STEP'")
    assert cursor.fetchone() == (3041,)


def test_the_log_is_read_by_functions(cursor: Any) -> None:
    """Trail, activity and statistics give the latest first, no more than asked for, and only since the time given."""
    for title in ("a", "b", "c"):
        cursor.execute("UPDATE steps SET title = %s", (title,))
    cursor.execute("UPDATE tasks SET title = 'd'")

    cursor.execute('SELECT new_values FROM entity_audit_trail(%s, %s, "limit" => 2)', ("STEP", STEP))
    assert cursor.fetchall() == [({"title": "c"},), ({"title": "b"},)]
    cursor.execute("SELECT entity_type::text, new_values FROM recent_activity(%s, 2)", (PROJECT,))
    assert cursor.fetchall() == [("TASK", {"title": "d"}), ("STEP", {"title": "c"})]
    cursor.execute("SELECT count(*) FROM recent_activity(%s, since => clock_timestamp())", (PROJECT,))
    assert cursor.fetchone() == (0,)
    cursor.execute("SELECT entity_type::text, action::text, changes, entities FROM audit_statistics('2000-01-01')")
    assert cursor.fetchall() == [("TASK", "UPDATED", 1, 1), ("STEP", "UPDATED", 3, 1)]
