"""The real run is held to its trial in the whole catalog, and nothing that differs by itself stands in its way."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_planner_schema.guard import downgrade, stash, touched
from mcp_planner_schema.guard.findings import Refused
from tests.conftest import Database, Project
from tests.test_restore import ROWS_A, TABLE_A, two

# What the upgrade drops, and the downgrade makes again: twice, with other OIDs each time.
AGAIN = {
    "collation": ("DROP SCHEMA s CASCADE", "CREATE SCHEMA s; CREATE COLLATION s.c (locale = 'C')"),
    "publication": ("DROP PUBLICATION p", "CREATE PUBLICATION p FOR TABLE a"),
    "extension": ("DROP EXTENSION citext", "CREATE EXTENSION citext"),
    "aggregate": (
        "DROP TYPE e CASCADE",
        "CREATE TYPE e AS ENUM ('x'); CREATE FUNCTION g(e, e) RETURNS e LANGUAGE sql AS 'SELECT $1'; "
        "CREATE AGGREGATE ag(e) (sfunc = g, stype = e)",
    ),
}


@pytest.mark.parametrize("what", AGAIN)
def test_what_gets_another_oid_each_time_is_the_same(empty: Database, project: Project, what: str) -> None:
    """A downgrade that makes again what the upgrade has dropped has done in its trial what it does for real."""
    drop, create = AGAIN[what]
    two(project, f"{TABLE_A}; {ROWS_A}; {create}", drop, create)

    project.downgrade("-1")

    assert empty.value("SELECT version_num FROM alembic_version") == "001"


LOCKED = {
    "default": "CREATE TABLE other (id int DEFAULT 1)",
    "view": "CREATE TABLE other (id int); CREATE VIEW shown AS SELECT * FROM other",
    "index": "CREATE TABLE other (id int CHECK (id > 0)); CREATE INDEX ON other ((id + 1))",
}


@pytest.mark.parametrize("what", LOCKED)
def test_a_table_that_somebody_else_has_for_himself_is_not_waited_for(
    empty: Database, project: Project, what: str
) -> None:
    """VACUUM FULL of a table that the downgrade has nothing to do with is no reason to wait, whatever hangs on it."""
    two(project, f"{TABLE_A}; {ROWS_A}; {LOCKED[what]}", "COMMENT ON TABLE a IS 'x'", "DROP TABLE a")

    with empty.connect(autocommit=False) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE other IN ACCESS EXCLUSIVE MODE")
        project.downgrade("-1")

    assert empty.value("SELECT count(*) FROM migration_stash_1.a") == 5


MADE = {
    "view": "CREATE VIEW shown AS SELECT * FROM a",
    "trigger": "CREATE TRIGGER other BEFORE UPDATE ON a FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "key": "CREATE TABLE other (id int PRIMARY KEY REFERENCES a)",
    "table": "CREATE TABLE child () INHERITS (a)",
}


@pytest.mark.parametrize("what", MADE)
@pytest.mark.parametrize("when", [(downgrade, "_archive"), (stash, "keep")], ids=["archive", "keep"])
def test_what_somebody_made_since_the_trial_does_not_go_unseen(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, what: str, when: tuple[Any, str]
) -> None:
    """It would go with the table, whether it was made right after the trial or where all is to be kept: nothing is dropped."""
    two(project, f"{TABLE_A}; {ROWS_A}", "SELECT 1", "DROP TABLE a CASCADE")
    real = getattr(*when)

    def late(*given: Any) -> Any:
        empty.rows(MADE[what])
        return real(*given)

    monkeypatch.setattr(*when, late)

    with pytest.raises(Refused, match="run for real it"):
        project.downgrade("-1")

    assert empty.value("SELECT count(*) FROM a") == 5


@pytest.mark.parametrize("what", ["view", "table"])
def test_what_somebody_made_while_the_trial_began_is_told(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Made after the first look at the catalog and before the last one: the body takes it along, and the trial has seen it."""
    two(project, f"{TABLE_A}; {ROWS_A}", "SELECT 1", "DROP TABLE a CASCADE")
    known, made = touched.known, []

    def early(connection: Any) -> Any:
        found = known(connection)
        if not made:
            made.append(empty.rows(MADE[what]))
        return found

    monkeypatch.setattr(touched, "known", early)

    project.downgrade("-1")

    assert empty.value("SELECT count(*) FROM migration.stash_object WHERE object_name ~ 'shown|child'") == 1
