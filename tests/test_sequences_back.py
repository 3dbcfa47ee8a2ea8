"""What a dead run has set back by setval() stands again where it stood, and nothing of that bars a later run."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import psycopg2
import pytest

from mcp_planner_schema.guard.findings import GuardError
from tests.conftest import Database, Project
from tests.test_stash import owner as owner
from tests.test_stash import sql
from tests.until import until

REMEMBERED = (
    "INSERT INTO migration.run (command, state, from_heads, planned, who, host, pid, tool_version, sequences) "
    "VALUES ('alembic downgrade -1', 'running', '{001}', 1, 'somebody', 'somewhere', 1, '1', %s::jsonb)"
)


@pytest.fixture
def killed(project: Project, empty: Database) -> Iterator[Project]:
    """One revision, applied, and a run that was killed after it had set the sequence s back from 500 to 5."""
    project.revision(
        "001", "create_things", sql("CREATE SEQUENCE IF NOT EXISTS s"), sql("SELECT"), reversible="lossless"
    )
    project.upgrade()
    empty.rows("SELECT setval('s', 5)")
    stood = [[empty.value("SELECT 's'::regclass::oid::bigint"), 500, True]]
    empty.rows(REMEMBERED, json.dumps({"revision": "001", "stood": stood}))
    yield project


@pytest.mark.long
def test_a_lock_in_the_way_leaves_it_to_the_next_run(empty: Database, killed: Project) -> None:
    """The run that would put it back meets a lock and fails: nothing is forgotten."""
    killed.revision("002", "alter_things", sql("SELECT 1"), sql("SELECT"))
    with empty.connect(autocommit=False) as other, other.cursor() as cursor:
        cursor.execute("ALTER TABLE s RENAME TO t")
        with pytest.raises(GuardError):
            killed.upgrade()
        other.rollback()

    killed.upgrade()

    assert empty.value("SELECT last_value FROM s") == 500


@pytest.mark.parametrize("since", ["ALTER SEQUENCE s MAXVALUE 100", "DROP SEQUENCE s"])
def test_what_cannot_be_put_back_bars_no_run(empty: Database, killed: Project, since: str) -> None:
    """Somebody has changed the sequence since: the next run goes on without it."""
    killed.revision("002", "alter_things", sql("SELECT 1"), sql("SELECT"))
    empty.rows(since)

    killed.upgrade()

    assert empty.value("SELECT version_num FROM alembic_version") == "002"


def test_a_sequence_that_the_role_may_not_set_bars_no_run(owner: Database, empty: Database, project: Project) -> None:
    """It may read where a sequence of somebody else's stands, and nothing more; that one has fallen back, and not by a run."""
    project.revision("001", "create_things", sql("SELECT 1"), sql("SELECT"), reversible="lossless")
    project.upgrade()
    empty.rows(f"CREATE SEQUENCE theirs; SELECT setval('theirs', 5); GRANT SELECT ON SEQUENCE theirs TO {owner.user}")
    stood = [[empty.value("SELECT 'theirs'::regclass::oid::bigint"), 500, True]]
    empty.rows(REMEMBERED, json.dumps({"revision": "001", "stood": stood}))
    project.revision("002", "alter_things", sql("SELECT 1"), sql("SELECT"))

    project.upgrade()

    assert empty.value("SELECT last_value FROM theirs") == 5


def test_a_connection_that_is_lost_leaves_no_sequence_behind(empty: Database, project: Project) -> None:
    """Whoever ends the step's connection ends what would have put it back; the run does so at its end."""
    project.revision(
        "001", "create_things", sql("CREATE SEQUENCE s"),
        sql("SELECT setval('s', 1); SELECT pg_terminate_backend(pg_backend_pid())"),
    )  # fmt: skip
    project.upgrade()
    empty.rows("SELECT setval('s', 500)")

    with pytest.raises(GuardError):
        project.downgrade("base")

    assert empty.value("SELECT last_value FROM s") == 500


@pytest.mark.parametrize(
    ("before", "back"),
    [
        ("CREATE SEQUENCE s", "ALTER SEQUENCE s RESTART"),
        ("CREATE SEQUENCE s", "DROP SEQUENCE s"),
        (
            "CREATE SEQUENCE s; CREATE TABLE o (id int DEFAULT nextval('s')); ALTER SEQUENCE s OWNED BY o.id",
            "ALTER SEQUENCE s RESTART",
        ),
    ],
)
def test_a_value_taken_beside_the_downgrade_is_not_given_again(
    empty: Database, project: Project, before: str, back: str
) -> None:
    """Somebody takes values all the time: what he got before the sequence went back, nobody gets after it has come up again."""
    waits = "DO $$ BEGIN IF to_regnamespace('migration_stash_1') IS NOT NULL THEN PERFORM pg_sleep(0.5); END IF; END $$"
    empty.rows(before)
    project.configure(
        lock_attempts="20"
    )  # who takes values makes a step that holds the sequence for too long try again
    up = "SELECT 1" if "RESTART" in back else "DROP SEQUENCE IF EXISTS s; CREATE SEQUENCE s"
    project.revision("001", "create_things", sql(up), sql(f"{waits}; {back}"))
    project.upgrade()
    taken: list[int] = []
    done = threading.Event()

    def take() -> None:
        while not done.wait(0.005):
            try:
                taken.append(empty.value("SELECT nextval('s')"))
            except psycopg2.Error:  # it is gone
                return

    beside = threading.Thread(target=take)
    beside.start()
    until(lambda: len(taken) > 10)
    project.downgrade("base")
    done.set()
    beside.join()

    assert empty.value("SELECT last_value FROM migration.stash_object WHERE kind = 'sequence'") == max(taken)
    project.upgrade()
    assert empty.value("SELECT nextval('s')") == max(taken) + 1
