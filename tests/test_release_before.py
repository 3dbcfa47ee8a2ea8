"""The release before: whatever it asks gets the same answer in each state that it may meet, in one session, prepared or not."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.test_generate import Way, way

__all__ = ["way"]  # a fixture
TABLES = """
CREATE TYPE status AS ENUM ('NEW', 'OPEN', 'DONE', 'LOST');
CREATE TABLE plans (id int PRIMARY KEY, step int NOT NULL UNIQUE, other int NOT NULL DEFAULT 0);
CREATE TABLE steps (
    id int PRIMARY KEY, title text NOT NULL DEFAULT 'none' CONSTRAINT ck_steps_title CHECK (title <> ''), note text,
    points int DEFAULT 3, state status NOT NULL DEFAULT 'NEW', other int NOT NULL DEFAULT 0
);
CREATE INDEX ix_steps_title ON steps (lower(title));
INSERT INTO steps SELECT n, 'step ' || n, 'note ' || n, n % 7, (ARRAY['NEW', 'OPEN', 'DONE'])[1 + n % 3]::status
FROM generate_series(1, 300) AS n;
INSERT INTO plans SELECT n, n FROM generate_series(1, 300) AS n
"""
# The column that changes is {c}, {a} and {b} are two values for it.
QUERIES = """
SELECT {c}::text FROM steps WHERE id = 7
SELECT id, {c}::text FROM steps ORDER BY {c}, id LIMIT 5
SELECT {c}::text, count(*) FROM steps GROUP BY {c} ORDER BY 1 LIMIT 5
SELECT count(*) FROM steps WHERE {c} = {a} OR {c} IS NULL
SELECT {c}::text FROM steps WHERE id = 8 FOR UPDATE
SELECT s.{c}::text FROM steps AS s JOIN plans AS p ON p.step = s.id WHERE p.id = 9
INSERT INTO steps (id, {c}) VALUES (1001, {a}) RETURNING {c}::text
INSERT INTO steps (id) VALUES (1002) RETURNING {c}::text
INSERT INTO steps (id, {c}) VALUES (1003, {a}), (1004, {b}), (1005, DEFAULT) RETURNING {c}::text
INSERT INTO steps (id, {c}) SELECT id + 2000, {c} FROM steps WHERE id <= 3 RETURNING {c}::text
INSERT INTO steps (id, {c}) VALUES (10, {b}) ON CONFLICT (id) DO UPDATE SET {c} = excluded.{c} RETURNING {c}::text
INSERT INTO steps (id, {c}) VALUES (10, {a}) ON CONFLICT DO NOTHING RETURNING {c}::text
UPDATE steps SET {c} = {b} WHERE id = 11 RETURNING {c}::text
UPDATE steps SET {c} = DEFAULT WHERE id = 12 RETURNING {c}::text
UPDATE steps SET other = other + 1 WHERE id = 13 RETURNING {c}::text
UPDATE steps SET {c} = {a}, other = 5 WHERE {c} = {b} RETURNING id
UPDATE steps AS s SET {c} = t.{c} FROM steps AS t WHERE s.id = 14 AND t.id = 15 RETURNING s.{c}::text
MERGE INTO steps AS s USING (VALUES (16, {a}), (1006, {b})) AS v (id, value) ON s.id = v.id WHEN MATCHED THEN UPDATE SET {c} = v.value WHEN NOT MATCHED THEN INSERT (id, {c}) VALUES (v.id, v.value)
WITH moved AS (DELETE FROM steps WHERE id = 17 RETURNING {c}) SELECT {c}::text FROM moved
DELETE FROM steps WHERE {c} = {a} AND id > 900
SELECT id, {c}::text FROM steps ORDER BY id
""".strip().split("\n")  # noqa: E501  # a query is a line
PREPARED = (
    ("read", "SELECT {c}::text FROM steps WHERE id = 20"),
    ("add", "INSERT INTO steps (id, {c}) VALUES (3001, {a}) RETURNING {c}::text"),
    ("change", "UPDATE steps SET {c} = {b} WHERE id = 21 RETURNING {c}::text"),
)
TITLE = {"c": "title", "a": "'step 5'", "b": "'step 6'"}
POINTS = {"c": "points", "a": "5", "b": "6"}
STATE = {"c": "state", "a": "'OPEN'::status", "b": "'DONE'::status"}
NOTE = {"c": "note", "a": "'note 5'", "b": "'note 6'"}
KINDS: dict[str, tuple[dict[str, str], dict[str, str], int]] = {
    # What is written, what the release before knows, and up to which state it may run.
    "rename_column": ({"TABLE": "steps", "FROM": "title", "TO": "heading"}, TITLE, 2),
    "change_type": ({"TABLE": "steps", "FROM": "points", "TO": "weight", "TO_TYPE": "bigint"}, POINTS, 2),
    "split_column": ({"TABLE": "steps", "FROM": "title", "TO": "kind | number", "TO_TYPE": "text | text",
                      "FORWARD": "split_part(title, ' ', 1) | nullif(substr(title, strpos(title || ' ', ' ') + 1), '')",
                      "BACKWARD": "concat_ws(' ', kind, number)"}, TITLE, 2),
    "move_column": ({"TABLE": "steps", "FROM": "note", "TO_TABLE": "plans", "ON": "id=step"}, NOTE, 2),
    "replace_enum": ({"TABLE": "steps", "FROM": "state", "TO": "stage", "TO_TYPE": "stage", "LABELS": "OPEN | NEW | DONE"},
                     STATE, 2),
    "rename_table": ({"TABLE": "steps", "TO": "items"}, TITLE, 1),
    "add_not_null": ({"TABLE": "steps", "FROM": "points", "FILL": "3"}, POINTS, 1),
    "add_enum_value": ({"ENUM": "status", "VALUE": "HELD", "AFTER": "OPEN"}, STATE, 1),
}  # fmt: skip


@contextmanager
def session(way: Way, names: dict[str, str]) -> Iterator[Callable[[], list[Any]]]:
    """A session of the release before, which lasts; asked, it gives the answers to all its queries, and undoes what they did."""
    with way.database.connect(user=way.role, autocommit=False) as connection, connection.cursor() as cursor:
        for name, sql in PREPARED:
            cursor.execute(f"PREPARE {name} AS {sql.format(**names)}")
        connection.commit()

        def answers() -> list[Any]:
            found: list[Any] = []
            for sql in (*(one.format(**names) for one in QUERIES), *(f"EXECUTE {name}" for name, _ in PREPARED)):
                cursor.execute(sql)
                found.append((sql, sorted(cursor.fetchall(), key=repr) if cursor.description else cursor.rowcount))
            value = names["a"].split("::")[0].strip("'")
            cursor.copy_expert(f"COPY steps (id, {names['c']}) FROM STDIN", io.StringIO(f"4001\t{value}\n"))
            out = io.StringIO()
            cursor.copy_expert(f"COPY (SELECT id, {names['c']} FROM steps ORDER BY id) TO STDOUT", out)
            connection.rollback()
            return [*found, ("COPY", out.getvalue())]

        yield answers


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_it_gets_the_same_answers_in_each_state(kind: str, way: Way) -> None:
    """Before, after expand, after migrate, and on the way back: each of its queries, in a session that was there before."""
    values, names, last = KINDS[kind]
    way.begin(TABLES)
    way.write(KIND=kind, **values)
    with session(way, names) as answers:
        expected = answers()
        states = [*range(1, last + 1), *range(last - 1, -1, -1)]

        for state in states:
            way.to(state)

            assert answers() == expected, f"{kind} at {way.numbers[state]}"

    assert len(expected) == len(QUERIES) + len(PREPARED) + 1
    print(f"{kind}: {len(expected)} queries in {len(states)} states")
