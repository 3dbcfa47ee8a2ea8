"""The complexity levels: reference data that a revision brings, and that nobody's own wording is lost to."""

from __future__ import annotations

import pytest
from alembic import command
from alembic.config import Config

from mcp_planner_schema import example_data
from tests.catalog import kept
from tests.conftest import Database
from tests.test_schema import SCRIPT

SEEDED = next(one for one in SCRIPT.walk_revisions() if one.path.endswith("_seed_complexity_levels.py"))


def test_every_label_has_one_row(database: Database) -> None:
    """The rows are the enum's labels, each once: an enum that grows fails here until its row is there."""
    labels = database.value("SELECT enum_range(NULL::complexity_level)::text[]")

    rows = database.value("SELECT array_agg(level::text ORDER BY level) FROM complexity_levels")

    assert rows == labels == ["LOW", "MEDIUM", "HIGH"]


def test_scores_rise_with_the_levels(database: Database) -> None:
    """In the enum's order the scores begin at 0 and each is greater than the one before."""
    scores = [row[0] for row in database.rows("SELECT lowest_score FROM complexity_levels ORDER BY level")]

    assert scores[0] == 0
    assert scores == sorted(set(scores))
    assert len(scores) == 3


@pytest.mark.parametrize(
    ("score", "level"),
    [(0, "LOW"), (0.39, "LOW"), (0.4, "MEDIUM"), (0.69, "MEDIUM"), (0.7, "HIGH"), (1, "HIGH")],
)
def test_one_level_holds_for_a_score(database: Database, score: float, level: str) -> None:
    """The level of a score is the last one that has begun, whether asked by score or by level."""
    by_score = "SELECT level FROM complexity_levels WHERE lowest_score <= %s ORDER BY lowest_score DESC LIMIT 1"
    by_level = "SELECT max(level) FROM complexity_levels WHERE lowest_score <= %s"

    assert (database.value(by_score, score), database.value(by_level, score)) == (level, level)


def test_example_data_judges_by_the_same_scores(database: Database) -> None:
    """The level of each assessment made for development is the one that these rows give its score."""
    with database.connect() as connection:
        example_data.load(connection, projects=5)

    wrong = database.rows(
        "SELECT id FROM complexity_assessments WHERE level <>"
        " (SELECT max(found.level) FROM complexity_levels found WHERE lowest_score <= score)"
    )

    assert database.value("SELECT count(*) FROM complexity_assessments") > 100
    assert wrong == []


def test_seeding_again_changes_nothing(database: Database) -> None:
    """Run once more, the seed writes no row; a changed one stays as it is, and one that is gone comes back."""
    everything = "SELECT xmin, * FROM complexity_levels ORDER BY level"
    database.rows("UPDATE complexity_levels SET title = 'Hoch', lowest_score = 0.8 WHERE level = 'HIGH'")
    before = database.rows(everything)

    database.rows(SEEDED.module.SEED)

    assert database.rows(everything) == before

    database.rows("DELETE FROM complexity_levels WHERE level = 'HIGH'")
    database.rows(SEEDED.module.SEED)

    assert database.rows("SELECT title, lowest_score FROM complexity_levels WHERE level = 'HIGH'") == [("High", 0.7)]


def test_a_changed_row_is_kept_by_the_downgrade(database: Database, planner: Config) -> None:
    """Down keeps the rows as they were changed in the stash; up brings them back over the seed, and the copy is still there."""
    database.rows("UPDATE complexity_levels SET title = 'Hoch' WHERE level = 'HIGH'")

    command.downgrade(planner, str(SEEDED.down_revision))

    titles = f"SELECT level, title FROM {kept(database)['complexity_levels']} ORDER BY lowest_score"
    assert database.rows(titles) == [("LOW", "Low"), ("MEDIUM", "Medium"), ("HIGH", "Hoch")]

    command.upgrade(planner, SEEDED.revision)

    assert database.value("SELECT title FROM complexity_levels WHERE level = 'HIGH'") == "Hoch"
    assert database.rows(titles)[-1] == ("HIGH", "Hoch")
