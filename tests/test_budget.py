"""Budgets: read with SHOW inside the step, in force everywhere, gone afterwards."""

from __future__ import annotations

import pytest

from mcp_planner_schema.guard import budget
from mcp_planner_schema.guard.findings import Broken, Busy
from tests.conftest import Database, Project

NAMES = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
SHOWN = ", ".join(f"current_setting('{name}')" for name in NAMES)


def note(where: str) -> str:
    """A statement for a revision that writes down the budgets in force."""
    return f"op.execute(\"INSERT INTO seen SELECT '{where}', {SHOWN}\")"


@pytest.fixture
def seen(empty: Database, project: Project) -> Database:
    """A database with a table for notes, and settings that are not the defaults."""
    empty.rows("CREATE TABLE seen (place text, lock text, statement text, idle text)")
    project.configure(lock_timeout="1234ms", statement_timeout="2345ms", idle_in_transaction_session_timeout="3456ms")
    return empty


OURS = ("1234ms", "2345ms", "3456ms")


def test_budgets_hold_up_and_down(seen: Database, project: Project) -> None:
    """In upgrade and downgrade, its trial included, the settings' three timeouts are in force."""
    project.revision("001", "create_a", note("up"), note("down"), extra="")

    project.upgrade()
    project.downgrade("base")

    assert seen.rows("SELECT * FROM seen ORDER BY place") == [("down", *OURS), ("up", *OURS)]


def test_the_trial_has_budgets(seen: Database, project: Project) -> None:
    """A downgrade that refuses to run without the budgets passes: its trial has them too."""
    check = "DO $$ BEGIN ASSERT current_setting('lock_timeout') = '1234ms'; END $$"
    project.revision("001", "create_a", note("up"), f'op.execute("{check}")')
    project.upgrade()

    project.downgrade("base")

    assert seen.value("SELECT count(*) FROM alembic_version") == 0


def test_a_revision_has_budgets_of_its_own_and_they_do_not_leak(seen: Database, project: Project) -> None:
    """budgets = {…} holds in its revision only; SET, SET LOCAL and SET ROLE in a body are gone in the next one."""
    leak = '\nop.execute("SET LOCAL lock_timeout = 9")\nop.execute("SET lock_timeout = 0")'
    leak += '\nop.execute("SET search_path = pg_catalog, public")\nop.execute("SET work_mem = \'7MB\'")'
    project.revision("001", "create_a", note("own") + leak, "op.execute('SELECT 1')",
                     more='budgets = {"lock_timeout": "77ms"}\n')  # fmt: skip
    check = "DO $$ BEGIN ASSERT current_setting('search_path') !~ 'pg_catalog' AND current_setting('work_mem') <> '7MB'; END $$"
    project.revision("002", "create_b", note("next") + f'\nop.execute("{check}")', "op.execute('SELECT 1')")

    project.upgrade()

    assert seen.rows("SELECT * FROM seen ORDER BY place") == [("next", *OURS), ("own", "77ms", *OURS[1:])]


def test_budgets_in_and_after_an_autocommit_block(seen: Database, project: Project) -> None:
    """Inside, a blocking statement has both timeouts, CREATE INDEX CONCURRENTLY only online_timeout; then the step's are back."""
    seen.rows("CREATE FUNCTION noted(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN "
              "ASSERT current_setting('lock_timeout') = '0' AND current_setting('statement_timeout') = '1d'; "
              "RETURN 1; END $$")  # fmt: skip
    seen.rows("CREATE TABLE big (id int)")
    seen.rows("INSERT INTO big VALUES (1)")
    body = (
        "with op.get_context().autocommit_block():\n"
        f"    {note('1 blocking')}\n"
        '    op.execute("CREATE INDEX CONCURRENTLY ix_big ON big (noted(id))")\n'
        f"    {note('2 blocking again')}\n"
        f"{note('3 after')}"
    )
    project.revision("001", "create_a", body, "op.execute('DROP INDEX ix_big')", transaction="none")
    project.revision("002", "create_b", note("4 next"), "op.execute('SELECT 1')")

    project.upgrade()

    assert [row[:3] for row in seen.rows("SELECT * FROM seen ORDER BY place")] == [
        (place, *OURS[:2]) for place in ("1 blocking", "2 blocking again", "3 after", "4 next")
    ]
    assert seen.rows("SELECT version_num FROM alembic_version") == [("002",)]


def test_role_and_database_defaults_do_not_leak_in(seen: Database, project: Project) -> None:
    """ALTER DATABASE … SET statement_timeout is not in force, not even for an index build in an autocommit block."""
    seen.rows(f"ALTER DATABASE {seen.name} SET statement_timeout = '3s'")
    seen.rows(f"ALTER DATABASE {seen.name} SET lock_timeout = '3s'")
    seen.rows("CREATE TABLE big (id int)")
    body = "with op.get_context().autocommit_block():\n    op.execute('ANALYZE big')\n" + note("after")
    project.revision("001", "create_a", body, "op.execute('SELECT 1')", transaction="none")

    project.upgrade()

    assert seen.rows("SELECT * FROM seen") == [("after", *OURS)]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("CREATE INDEX CONCURRENTLY ix ON a (b)", True),
        ("create unique index concurrently if not exists ix on a (b);", True),
        ("DROP INDEX CONCURRENTLY ix", True),
        ("REINDEX (VERBOSE) TABLE CONCURRENTLY a", True),
        ("REINDEX (CONCURRENTLY) INDEX ix", True),
        ("ALTER TABLE a VALIDATE CONSTRAINT c", True),
        ("VACUUM (ANALYZE) a", True),
        ("-- why\nANALYZE a", True),
        ("ALTER TABLE a DETACH PARTITION b CONCURRENTLY", False),
        ("VACUUM FULL a", False),
        ("VACUUM (FULL, ANALYZE) a", False),
        ("CREATE INDEX ix ON a (b)", False),
        ("CREATE INDEX ix ON a (b) -- not CONCURRENTLY", False),
        ("INSERT INTO a VALUES ('CREATE INDEX CONCURRENTLY')", False),
        ("ALTER TABLE a ADD COLUMN b int, VALIDATE CONSTRAINT c", False),
        ("ALTER TABLE a ADD COLUMN b int; ALTER TABLE a VALIDATE CONSTRAINT c", False),
        ("ALTER TYPE mood ADD VALUE 'ANALYZE'", False),
    ],
)
def test_online_statements_are_told_from_blocking_ones(statement: str, expected: bool) -> None:
    """Only a single statement that blocks nobody while it waits goes without a lock timeout."""
    assert budget.online(statement) is expected


def test_an_online_statement_has_the_revisions_own_timeout(seen: Database, project: Project) -> None:
    """statement_timeout among the revision's own budgets ends an ANALYZE or a concurrent index too; the settings' does not."""
    seen.rows("CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS "
              "$$ BEGIN PERFORM pg_sleep(0.5); RETURN 1; END $$")  # fmt: skip
    seen.rows("CREATE TABLE big (id int)")
    seen.rows("INSERT INTO big VALUES (1)")
    project.configure(statement_timeout="100ms")
    body = (
        'with op.get_context().autocommit_block():\n    op.execute("CREATE INDEX CONCURRENTLY ix{0} ON big (slow(id))")'
    )
    project.revision("001", "create_a", body.format(1), "op.execute('SELECT 1')", transaction="none")
    project.revision("002", "create_b", body.format(2), "op.execute('SELECT 1')", transaction="none",
                     more='budgets = {"statement_timeout": "200ms"}\n')  # fmt: skip

    with pytest.raises(Broken, match=r"Revision 002.*statement timeout"):
        project.upgrade()

    assert seen.value("SELECT version_num FROM alembic_version") == "001"


def test_making_the_version_table_is_under_the_budget(empty: Database, project: Project) -> None:
    """Somebody else is just creating alembic_version: the first step waits for its lock no longer than it may."""
    project.configure(lock_timeout="150ms", lock_attempts="1")
    project.revision("001", "create_a", 'op.execute("SELECT 1")', 'op.execute("SELECT 1")')

    with empty.connect(autocommit=False) as other, other.cursor() as cursor:
        cursor.execute("CREATE TABLE alembic_version (version_num varchar(32))")
        with pytest.raises(Busy):
            project.upgrade()

    assert empty.value("SELECT duration_ms < 1500 FROM migration.history WHERE outcome = 'failed'") is True
