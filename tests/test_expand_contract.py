"""Expand in one revision, contract in a later one: what people write between the way back and the way up again is the newer."""

from __future__ import annotations

import logging

import pytest

from tests.conftest import Database, Project
from tests.test_stash import sql
from tests.test_stashes import run

PEOPLE = (
    "CREATE TABLE p (id serial PRIMARY KEY, first text, last text, note text); "
    "INSERT INTO p (first, last) VALUES ('ann', 'x'), ('bob', 'y'), ('cy', 'z')"
)
ADD, GONE = "ALTER TABLE p ADD full_name text", "ALTER TABLE p DROP full_name"
FILL = "UPDATE p SET full_name = first || ' ' || last"
SPLIT = (
    "ALTER TABLE p ADD first text, ADD last text; "
    "UPDATE p SET first = split_part(full_name, ' ', 1), last = split_part(full_name, ' ', 2)"
)
ADDRESS = "CREATE TABLE address (p_id int PRIMARY KEY REFERENCES p, a text)"
MOVE = "INSERT INTO address SELECT id, first FROM p ON CONFLICT DO NOTHING"
BACK = "ALTER TABLE p ADD first text; UPDATE p SET first = a FROM address WHERE p_id = id"
WAYS = {  # what the first revision does, and how it goes back; the second; where the value is; whether it is moved at once
    "a column, filled at once": (f"{ADD}; {FILL}", GONE, "ALTER TABLE p DROP first, DROP last", SPLIT, "full_name"),
    "a column, filled later": (
        ADD, GONE, f"{FILL} WHERE full_name IS NULL; ALTER TABLE p DROP first, DROP last", SPLIT, "full_name",
    ),
    "a table, filled at once": (f"{ADDRESS}; {MOVE}", "DROP TABLE address", "ALTER TABLE p DROP first", BACK, "a"),
    "a table, filled later": (ADDRESS, "DROP TABLE address", f"{MOVE}; ALTER TABLE p DROP first", BACK, "a"),
}  # fmt: skip
EDIT = {
    "full_name": "UPDATE p SET full_name = 'Bob Middle Y' WHERE id = 2",
    "a": "UPDATE address SET a = 'Bob M' WHERE p_id = 2",
}
ASKED = {"full_name": "SELECT id, full_name FROM p ORDER BY 1", "a": "SELECT p_id, a FROM address ORDER BY 1"}


def _two(project: Project, way: str) -> str:
    first, first_back, second, second_back, column = WAYS[way]
    project.revision("001", "create_p", sql(PEOPLE), "raise NotImplementedError", reversible="forward-only: the base")
    project.revision("002", "add_new", sql(first), sql(first_back))
    project.revision("003", "drop_old", sql(second), sql(second_back))
    project.upgrade()
    return column


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("between", ["nothing", "changed", "new"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_written_between_is_the_newer(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture, way: str, between: str, runs: int
) -> None:
    """It is in its place where the first revision fills that at once; else it is set aside and told before it is dropped."""
    column = _two(project, way)
    empty.rows(EDIT[column])
    had = dict(empty.rows(ASKED[column]))
    for target in ["002", "001"][-runs:]:
        project.downgrade(target)
    meanwhile = {
        "nothing": "SELECT", "changed": "UPDATE p SET first = 'ANN' WHERE id = 1",
        "new": "INSERT INTO p (first, last) VALUES ('new', 'er')",
    }[between]  # fmt: skip
    empty.rows(meanwhile)

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        project.upgrade()

    there = dict(empty.rows(ASKED[column]))
    told, later = caplog.text, way.endswith("later")
    expected = dict(had)
    if between == "new":
        expected[4] = "new er" if column == "full_name" else "new"
    if between == "changed" and not later:
        expected[1] = "ANN x" if column == "full_name" else "ANN"
        assert "newer ones are in their place" in told
    assert there == expected
    if between == "changed" and later:
        assert "others have written first" in told
        assert ("ANN",) in _aside(empty)
    if between == "nothing":
        assert "look at" not in told


def _aside(database: Database) -> list[tuple[object, ...]]:
    asked = (
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relname ~ '^guard:aside_[0-9]+_written_[0-9]+$'"
    )
    (name,) = database.rows(asked)[0]
    return database.rows(f"SELECT first FROM {name}")


def test_a_later_revision_that_has_nothing_to_do_with_it_says_nothing(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """Its way back makes a column of a table that was not read for it, and people write there."""
    other = "CREATE TABLE o (id int PRIMARY KEY, legacy text); INSERT INTO o VALUES (1, 'a'), (2, 'b')"
    project.revision(
        "001", "create_p", sql(f"{PEOPLE}; {other}"), "raise NotImplementedError", reversible="forward-only: the base"
    )
    project.revision("002", "add_new", sql(f"{ADD}; {FILL}"), sql(GONE))
    project.revision(
        "003",
        "drop_old",
        sql("ALTER TABLE o DROP legacy"),
        sql("ALTER TABLE o ADD legacy text; UPDATE o SET legacy = 'x'"),
    )
    project.upgrade()
    empty.rows(EDIT["full_name"])
    had = empty.rows(ASKED["full_name"])
    project.downgrade("001")
    empty.rows("UPDATE o SET legacy = 'newer' WHERE id = 1; UPDATE p SET note = 'n' WHERE id = 2")

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        project.upgrade()

    assert empty.rows(ASKED["full_name"]) == had
    assert "look at" not in caplog.text
    assert "left:" not in caplog.text


def test_what_is_set_aside_is_shown_and_kept_from_a_purge(
    empty: Database, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stands nowhere else once the later revision is up."""
    _two(project, "a column, filled later")
    project.downgrade("001")
    empty.rows("UPDATE p SET first = 'ANN' WHERE id = 1")
    project.upgrade()
    number = empty.value("SELECT id FROM migration.stash WHERE revision = '002'")
    capsys.readouterr()

    code, out, _ = run(capsys, "migrate-stash-show", f"ID={number}")
    assert code == 0
    assert "_written_1" in out


@pytest.mark.parametrize("at_once", [False, True])
def test_a_column_that_was_altered_on_the_way_back_is_known_still(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture, at_once: bool
) -> None:
    """The first revision lets the old column be empty, so its way back asks for values again."""
    setup = "CREATE TABLE p (id serial PRIMARY KEY, first text NOT NULL); INSERT INTO p (first) VALUES ('ann'), ('bob')"
    project.revision("001", "create_p", sql(setup), "raise NotImplementedError", reversible="forward-only: the base")
    fill = "; UPDATE p SET full_name = first" if at_once else ""
    project.revision(
        "002", "add_new", sql(f"ALTER TABLE p ADD full_name text{fill}; ALTER TABLE p ALTER first DROP NOT NULL"),
        sql("ALTER TABLE p ALTER first SET NOT NULL; ALTER TABLE p DROP full_name"),
    )  # fmt: skip
    project.revision(
        "003", "drop_old", sql("UPDATE p SET full_name = first WHERE full_name IS NULL; ALTER TABLE p DROP first"),
        sql("ALTER TABLE p ADD first text; UPDATE p SET first = full_name"),
    )  # fmt: skip
    project.upgrade()
    project.downgrade("001")
    empty.rows("UPDATE p SET first = 'ANN' WHERE id = 1; GRANT SELECT (first) ON p TO PUBLIC")

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        project.upgrade()

    assert empty.rows("SELECT full_name FROM p ORDER BY id") == [("ANN" if at_once else "ann",), ("bob",)]
    if not at_once:
        assert "others have written first" in caplog.text
        assert ("ANN",) in _aside(empty)
