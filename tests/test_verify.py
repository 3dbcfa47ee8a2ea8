"""``migrate-verify``: what applied revisions promised is still so, as far as no later one has promised otherwise."""

from __future__ import annotations

import pytest
from alembic.config import Config

from mcp_planner_schema.inspect.verify import verify
from tests.conftest import Database, Project

DOWN = "op.execute('SELECT 1')"


def history(project: Project, *revisions: tuple[str, str], extra: str = "") -> None:
    """A history of (SQL, expectations), applied."""
    for number, (sql, wanted) in enumerate(revisions, 1):
        project.revision(f"{number:03}", "add_things", f"op.execute({sql!r})", DOWN, expectations=wanted,
                         type="data" if extra else "schema", extra=extra)  # fmt: skip
    project.upgrade()


def test_a_database_at_head_is_what_it_should_be(database: Database, planner: Config) -> None:
    """All expectations of the planner's revisions hold at head, and many are asked."""
    report = verify(planner)

    assert report.failures == ()
    assert report.revisions >= 9 and report.checked > 150


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "DROP INDEX ix_tasks_prev_id",
            "009: expected valid index that is not unique ix_tasks_prev_id on tasks, found nothing",
        ),
        (
            "ALTER TABLE projects DROP max_iterations",
            "002: expected column projects.max_iterations of type integer not null",
        ),
        (
            "ALTER TABLE projects DROP CONSTRAINT ck_projects_name_not_blank",
            "001: expected constraint ck_projects_name_not_blank",
        ),
        (
            "ALTER TABLE projects ALTER max_iterations DROP NOT NULL",
            "002: expected column projects.max_iterations of type integer",
        ),
        (
            "ALTER TYPE ai_agent ADD VALUE 'X'",
            "006: expected enum ai_agent (SERVER_AI, CLIENT_AI), found (SERVER_AI, CLIENT_AI, X)",
        ),
        ("DROP TABLE navigation_cursors", "008: expected table navigation_cursors, found nothing"),
    ],
)
def test_what_was_changed_by_hand_is_named(database: Database, planner: Config, change: str, said: str) -> None:
    """A manual drop or change is named with the revision that promised otherwise and what is there instead."""
    database.rows(change)

    report = verify(planner)

    assert any(line.startswith(said) for line in report.failures), report.failures


def test_later_words_count_instead(empty: Database, project: Project) -> None:
    """A column that a later revision changes, renames or drops, and a table with all that was part of it, are not missed."""
    history(
        project,
        ("CREATE TABLE a (id int PRIMARY KEY, v int, w int, x int); CREATE TABLE b (id int, y int CONSTRAINT c CHECK (y > 0)); "
         "CREATE INDEX b_y ON b (y); INSERT INTO b VALUES (1, 1)",
         'expect.table("a"), expect.column("a", "v", type="integer"), expect.column("a", "w"), expect.column("a", "x"), '
         'expect.table("b"), expect.column("b", "y"), expect.constraint("b", "c"), expect.index("b_y", table="b"), '
         'expect.rows("SELECT y FROM b", count=1), expect.query("SELECT sum(w) FROM a", equals=None)'),
        ("ALTER TABLE a ALTER v TYPE bigint", 'expect.column("a", "v", type="bigint")'),
        ("ALTER TABLE a RENAME x TO z; ALTER TABLE a DROP w",
         'expect.column("a", "z"), expect.absent(expect.column("a", "x")), expect.absent(expect.column("a", "w"))'),
        ("DROP TABLE b", 'expect.absent(expect.table("b"))'),
    )  # fmt: skip

    assert verify(project.config()).failures == ()

    empty.rows("ALTER TABLE a ALTER v TYPE int; ALTER TABLE a ADD w int; CREATE TABLE b (id int)")

    assert set(verify(project.config()).failures) == {
        "002: expected column a.v of type bigint, found integer",
        "003: expected no column a.w, found integer",
        "004: expected no table b, found the table",
    }


def test_a_query_about_a_table_dropped_by_hand_fails(empty: Database, project: Project) -> None:
    """A query that fails because its table is gone is a failure, unless a later revision has taken something away."""
    history(project, ("CREATE TABLE a (id int)", 'expect.rows("SELECT * FROM a", count=0)'))
    empty.rows("DROP TABLE a")

    assert verify(project.config()).failures == (
        '001: expected 0 rows from SELECT * FROM a, found relation "a" does not exist',
    )


def test_nothing_is_expected_of_what_did_not_run(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revision that is not for this environment has moved the version only, and is not held to its promises."""
    monkeypatch.setenv("PLANNER_ENV", "production")
    history(project, ("CREATE TABLE a AS SELECT 1", 'expect.table("a")'), extra="Environments: development")

    report = verify(project.config())

    assert (report.revisions, report.checked, report.failures) == (1, 0, ())


def test_no_search_path_answers_for_another(empty: Database, project: Project) -> None:
    """A session's search_path that shadows tables and types changes no answer of the catalog."""
    history(
        project, ("CREATE TYPE mood AS ENUM ('x'); CREATE TABLE a (m mood)", 'expect.column("a", "m", type="mood")')
    )
    empty.rows("CREATE SCHEMA evil; CREATE TYPE evil.mood AS ENUM ('y')")
    empty.rows(f"ALTER DATABASE {empty.name} SET search_path = evil, public")

    assert verify(project.config()).failures == ()


def test_an_empty_database_has_nothing_to_verify(empty: Database, planner: Config) -> None:
    """At base nothing was promised, and nothing is written: not even the version table."""
    report = verify(planner)

    assert (report.revisions, report.checked, report.failures) == (0, 0, ())
    assert empty.rows("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []
