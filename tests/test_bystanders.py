"""What is not a step's doing stops no step: what others change meanwhile, and objects that no revision has made."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mcp_planner_schema.guard.findings import Busy, Refused
from tests.conftest import Database, Project
from tests.until import until

AT = "SELECT version_num FROM alembic_version ORDER BY 1"
TABLE = "CREATE TABLE t (id int PRIMARY KEY, n int)"
# An environment in which somebody takes a table for himself when a step is about to be final.
LOCKING = """
import os

import psycopg2
from alembic import context

from mcp_planner_schema.guard import run

held = []


def meanwhile(**_):
    other = psycopg2.connect(os.environ["DATABASE_URL"])
    other.cursor().execute("CREATE TABLE IF NOT EXISTS other (id int PRIMARY KEY)")
    other.commit()
    other.cursor().execute("LOCK TABLE other IN ACCESS EXCLUSIVE MODE")
    held.append(other)


run(context, on_version_apply=(meanwhile,))
for one in held:
    one.close()
"""


def does(sql: str) -> str:
    """A body of one statement."""
    return f"op.execute({sql!r})"


@pytest.fixture
def first(project: Project, empty: Database) -> Project:
    """A history with fingerprints and one table."""
    (project.folder / "alembic" / "fingerprints").touch()
    project.revision("001", "create_t", does(TABLE), does("DROP TABLE t"))
    return project


@pytest.mark.long
def test_what_others_change_during_a_step_is_not_its_doing(first: Project, empty: Database) -> None:
    """Another session makes and drops objects while the body runs; of the step's own, in savepoints too, nothing is."""
    body = f"{does('SELECT pg_sleep(2)')}\n{does('SAVEPOINT a; CREATE TABLE u (id int); RELEASE a')}"
    file = first.revision("002", "add_u", body, does("DROP TABLE u"))
    first.upgrade()
    first.downgrade("001")
    empty.rows("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TABLE gone (id int)")

    def meanwhile() -> None:
        until(lambda: empty.value("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(2)'"))
        empty.rows("CREATE TABLE theirs (id int PRIMARY KEY); DROP FUNCTION f(); DROP TABLE gone")

    other = threading.Thread(target=meanwhile)
    other.start()
    first.upgrade()
    other.join()
    at = empty.rows(AT)
    first.downgrade("001")
    file.write_text(file.read_text().replace("(id int)", "(id bigint)"))
    with pytest.raises(Refused) as refused:
        first.upgrade()

    assert at == [("002",)]
    assert empty.value("SELECT to_regclass('theirs') IS NOT NULL AND to_regclass('gone') IS NULL")
    assert "table public.u: column id differs" in refused.value.text()


@pytest.mark.parametrize(
    ("by_hand", "up", "down"),
    [
        ("CREATE VIEW hand AS SELECT n FROM t", "ALTER TABLE t RENAME n TO k", "ALTER TABLE t RENAME k TO n"),
        ("CREATE INDEX hand ON t (n)", "ALTER TABLE t RENAME n TO k", "ALTER TABLE t RENAME k TO n"),
        ("CREATE TABLE hand (t int REFERENCES t)", "ALTER TABLE t RENAME TO u", "ALTER TABLE u RENAME TO t"),
        ("CREATE TABLE hand () INHERITS (t)", "ALTER TABLE t ADD COLUMN m int", "ALTER TABLE t DROP COLUMN m"),
    ],
)
def test_what_no_revision_has_made_follows_what_it_names(
    first: Project, empty: Database, by_hand: str, up: str, down: str
) -> None:
    """A view, an index, a foreign key, a child made by hand: PostgreSQL changes its text, and the steps go on both ways."""
    first.revision("002", "alter_t", does(up), does(down))
    first.upgrade()
    first.downgrade("001")
    empty.rows(by_hand)

    first.upgrade()
    at = empty.rows(AT)
    first.downgrade("001")

    assert (at, empty.rows(AT)) == ([("002",)], [("001",)])


def test_an_index_by_hand_goes_with_its_table(first: Project, empty: Database) -> None:
    """It is no reason to refuse the way back; a view by hand that CASCADE would take along is."""
    first.revision("002", "add_u", does("CREATE TABLE u (id int)"), does("DROP TABLE u CASCADE"))
    first.upgrade()
    empty.rows("CREATE INDEX hand ON u (id)")

    first.downgrade("001")
    gone = empty.rows(AT)
    first.upgrade()
    empty.rows("CREATE VIEW hand_view AS SELECT * FROM u")
    with pytest.raises(Refused) as refused:
        first.downgrade("001")

    assert gone == [("001",)]
    assert "view public.hand_view is missing" in refused.value.text()
    assert empty.value("SELECT to_regclass('hand_view') IS NOT NULL")


def test_a_partition_that_was_dropped_lacks_nothing(first: Project, empty: Database) -> None:
    """A revision has made it, the calendar has dropped it: what a later revision gives all partitions it cannot have."""
    parted = (
        "CREATE TABLE p (id int, at date) PARTITION BY RANGE (at); CREATE TABLE p_d PARTITION OF p DEFAULT; "
        "CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')"
    )
    first.revision("002", "create_p", does(parted), does("DROP TABLE p"))
    first.revision("003", "add_m", does("ALTER TABLE p ADD COLUMN m int"), does("ALTER TABLE p DROP COLUMN m"))
    first.upgrade()
    first.downgrade("002")
    empty.rows("DROP TABLE p_1")

    first.upgrade()
    at = empty.rows(AT)
    first.downgrade("base")

    assert (at, empty.rows(AT)) == ([("003",)], [])


@pytest.mark.long
def test_branches_may_give_a_table_a_column_each(first: Project, empty: Database) -> None:
    """In whatever order they run, and one without the other: the order of columns is nobody's fault."""
    first.configure(headers="optional")
    for version, name in (("002", "a"), ("003", "b")):
        up, down = does(f"ALTER TABLE t ADD COLUMN {name} int"), does(f"ALTER TABLE t DROP COLUMN {name}")
        first.revision(version, f"add_{name}", up, down, parent="001")
    first.upgrade("heads")
    first.downgrade("base")

    first.upgrade("003")
    first.upgrade("002")
    both = empty.rows(AT)
    first.downgrade("base")
    first.upgrade("003")

    assert both == [("002",), ("003",)]
    assert empty.rows(AT) == [("003",)]


def test_a_history_may_have_begun_without_fingerprints(
    project: Project, empty: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Development says that nothing was written, and how it would be; the steps are final, and the run goes on."""
    caplog.set_level("INFO", "mcp_planner_schema.guard")
    project.revision("001", "create_t", does(TABLE), does("DROP TABLE t"))
    project.upgrade()
    Path(project.folder / "alembic" / "fingerprints").touch()
    project.revision("002", "add_a", does("CREATE TABLE a ()"), does("DROP TABLE a"))
    project.revision("003", "add_b", does("CREATE TABLE b ()"), does("DROP TABLE b"))

    project.upgrade()

    assert empty.rows(AT) == [("003",)]
    assert caplog.text.count("warning: what it changes in the catalog was not written") == 2
    assert "001.json is missing" in caplog.text


def test_who_has_a_table_for_himself_is_named(first: Project, empty: Database) -> None:
    """Before the first step the run says for whom the catalog's reading waits, and to try again; nothing was changed."""
    first.revision("002", "add_u", does("CREATE TABLE u (id int)"), does("DROP TABLE u"))
    first.upgrade("001")
    with empty.connect(autocommit=False) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")

        with pytest.raises(Busy) as busy:
            first.upgrade()

        other.rollback()
    assert "t by process" in busy.value.text() and "the test" in busy.value.text()
    assert empty.rows(AT) == [("001",)]


def test_a_lock_at_the_end_of_a_run_undoes_no_success(
    first: Project, empty: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The steps are final and were compared: that the whole could not be is a note."""
    caplog.set_level("INFO", "mcp_planner_schema.guard")
    (first.folder / "alembic" / "env.py").write_text(LOCKING)

    first.upgrade()

    assert empty.rows(AT) == [("001",)]
    assert "note: the whole catalog was not compared" in caplog.text
