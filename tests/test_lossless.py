"""Going back loses nothing: the planner's own history, down and up again by many routes, with data in every table."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from alembic import command
from alembic.config import Config
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from mcp_planner_schema import example_data
from mcp_planner_schema.guard import checksum, evidence
from mcp_planner_schema.guard.checksum import Checksum
from mcp_planner_schema.guard.postcheck import pinned
from mcp_planner_schema.guard.refill import rows_of
from tests.catalog import catalog, difference
from tests.conftest import Database
from tests.test_schema import COLUMN_BACK, REVISIONS

BELOW = dict(zip(REVISIONS, ["base", *REVISIONS], strict=False))
"""For each revision the one that is left when it is taken back."""


def content(database: Database) -> dict[str, Checksum]:
    """What stands in every table, a partitioned one with all its rows: how many, and two sums over their columns by name."""
    engine = create_engine(database.url)
    with engine.begin() as connection, pinned(connection, **checksum.OUTPUT):
        tables = evidence.snapshot(connection, "migration").values()
        found = {
            table.shown: checksum.of(connection, rows_of(table), [one.name for one in table.columns.values()])
            for table in tables
            if table.name != "alembic_version" and not table.parent
        }
    engine.dispose()
    return found


def fill(database: Database, projects: int, seed: int = 1) -> None:
    """Example projects, and what people change by hand where the example leaves a table as the revisions filled it."""
    with database.connect(autocommit=False) as connection:
        example_data.load(connection, projects=projects, seed=seed)
        connection.commit()
    database.rows("UPDATE complexity_levels SET title = 'Mine' WHERE level = 'HIGH'")


def open_stashes(database: Database) -> list[tuple[str, str]]:
    """Stashes that did not come back whole."""
    return database.rows("SELECT revision, state FROM migration.stash WHERE state <> 'restored' ORDER BY id")


def structure(database: Database) -> set[tuple[str, str, str]]:
    """The catalog; of a table that had a column taken back and added again without the places of its columns."""
    moved = tuple(f"{table}." for table in COLUMN_BACK.values())
    return {
        (kind, name, text.partition(" ")[2] if kind == "column" and name.startswith(moved) else text)
        for kind, name, text in catalog(database)
    }


@pytest.mark.long
def test_to_the_beginning_and_back(database: Database, planner: Config) -> None:
    """From head to an empty database and back in one go: every row of every table, every object, is there as before."""
    fill(database, projects=3)
    before, built = content(database), structure(database)
    assert all(one.rows for one in before.values())

    command.downgrade(planner, "base")
    assert content(database) == {}
    command.upgrade(planner, "head")

    assert content(database) == before
    assert difference(built, structure(database)) == []
    assert open_stashes(database) == []


@pytest.mark.long
@pytest.mark.parametrize("revision", REVISIONS[::-1])
def test_one_revision_down_and_up(database: Database, planner: Config, revision: str) -> None:
    """Down to just below each revision and up again: every table has the same content."""
    fill(database, projects=3)
    before, built = content(database), structure(database)

    command.downgrade(planner, BELOW[revision])
    command.upgrade(planner, "head")

    assert content(database) == before
    assert difference(built, structure(database)) == []
    assert open_stashes(database) == []


# What people and agents do between; every one is audited, counted and linked by the triggers of head.
CHANGES = (
    "UPDATE steps SET title = title || ' (changed)' WHERE id = (SELECT id FROM steps ORDER BY id LIMIT 1)",
    "UPDATE projects SET complexity_threshold = CASE complexity_threshold WHEN 0.5 THEN 0.6 ELSE 0.5 END",
    "UPDATE tasks SET objective = E'\\n\\t\\\\ \" '' %% :name \u0416'",
    "DELETE FROM disputes WHERE id IN (SELECT id FROM disputes ORDER BY id LIMIT 3)",
    "DELETE FROM projects WHERE id = (SELECT id FROM projects ORDER BY id LIMIT 1)",
    "INSERT INTO projects (name, description) VALUES ('empty', 'no task')",
    "INSERT INTO threshold_changes (project_id, new_threshold) SELECT id, 0.25 FROM projects",
    "CREATE TABLE IF NOT EXISTS audit_logs_2031_05 PARTITION OF audit_logs FOR VALUES FROM ('2031-05-01') TO ('2031-06-01'); "
    "INSERT INTO audit_logs (entity_type, entity_id, action, occurred_at) "
    "VALUES ('STEP', gen_random_uuid(), 'UPDATED', '2031-05-03'), ('TASK', gen_random_uuid(), 'CREATED', '1999-01-01')",
    "DELETE FROM navigation_cursors",
    "UPDATE complexity_runs SET iterations_allowed = iterations_allowed + 1",
)


@pytest.mark.long
@settings(
    max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate)
)
@given(
    projects=st.integers(1, 4),
    seed=st.integers(0, 1000),
    changes=st.lists(st.sampled_from(CHANGES), max_size=6),
    route=st.lists(st.sampled_from(["base", *REVISIONS[:-1]]), min_size=1, max_size=3),
)
def test_any_data_on_any_route(
    clones: Callable[[], Database], planner: Config,
    projects: int, seed: int, changes: list[str], route: list[str],
) -> None:  # fmt: skip
    """Whatever stands in the tables, and however often they go back and how far: the content comes back the same."""
    database = clones()
    fill(database, projects, seed)
    for change in changes:
        database.rows(change)
    before, built = content(database), structure(database)

    for target in route:
        command.downgrade(planner, target)
        command.upgrade(planner, "head")

        assert content(database) == before
    assert difference(built, structure(database)) == []
    assert open_stashes(database) == []


def test_a_seed_that_was_deleted_does_not_bar_the_way_back(database: Database, planner: Config) -> None:
    """A row of the revision's own that somebody deleted stays deleted, and the database comes back to head."""
    database.rows("DELETE FROM complexity_levels WHERE level = 'LOW'")
    before = content(database)

    command.downgrade(planner, "020")
    command.upgrade(planner, "head")

    assert content(database) == before
