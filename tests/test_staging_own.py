"""The guard's own tables in a copy: nothing of what people have typed, of rows, or of keys of rows is in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from mcp_planner_schema.deploy import record
from mcp_planner_schema.guard import connect, events
from mcp_planner_schema.interop import adopted
from mcp_planner_schema.staging import own
from mcp_planner_schema.staging.masks import Column
from tests.conftest import Database

SECRET = "Agatha-Xq7-Brontë"
WORDS = """
SELECT c.relname::text, a.attname::text, t.typcategory::text, t.typname::text
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped
JOIN pg_type t ON t.oid = a.atttypid
WHERE relnamespace = 'migration'::regnamespace AND relkind = 'r' AND typcategory IN ('S', 'A', 'U') AND typname <> 'uuid'
"""


@contextmanager
def opened(database: Database) -> Iterator[sa.Connection]:
    """A connection as the guard makes its own."""
    engine = connect.own(connect.engine(sa.make_url(database.url).set(drivername="postgresql+psycopg2"), "the test"))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def told(empty: Database) -> Database:
    """A database in which every table of the guard's has a row, as a dump has them before there is a key or an index."""
    with opened(empty) as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        record.prepare(connection, "migration")
        connection.exec_driver_sql(adopted._TABLE.format(schema="migration"))
    empty.rows("""INSERT INTO migration.run (command, state, from_heads, planned, who, host, pid, tool_version)
            VALUES ('up', 'failed', '{}', 1, 'me', 'here', 1, '0');
        INSERT INTO migration.history (run_id, revision, direction, outcome, started_at, duration_ms, lock_wait_ms, hold_ms,
            attempts, who, host, tool_version) VALUES (1, '001', 'upgrade', 'failed', now(), 1, 1, 1, 1, 'me', 'here', '0');
        INSERT INTO migration.event (run_id, at, kind, data) VALUES (1, now(), 'run-ended', '{}');
        INSERT INTO migration.environment (name, who, host) VALUES ('production', 'me', 'here');
        INSERT INTO migration.revision (version_table, revision, parents, title, file) VALUES ('a', '001', '{}', 't', 'f');
        INSERT INTO migration.journal (version_table, revision, direction, place, operation, target, state, run)
            VALUES ('a', '001', 'upgrade', 1, 'run_script', 't', 'begun', 1);
        INSERT INTO migration.backfill (version_table, revision, direction, name, target, digest, run)
            VALUES ('a', '001', 'upgrade', 'b', 't', 'd', 1);
        INSERT INTO migration.backfill_range (backfill, place, relation) VALUES (1, 1, 't');
        INSERT INTO migration.stash (run_id, version_table, revision, kept_in, state, keep_until, who)
            VALUES (1, 'a', '001', 's', 'kept', now(), 'me');
        INSERT INTO migration.stash_object (stash_id, number, kind, object_schema, object_name)
            VALUES (1, 1, 'rows', 'public', 't');
        INSERT INTO migration.deploy (kind, state, stage, from_head, who, host, tool_version)
            VALUES ('expand', 'done', 'report', 'base', 'me', 'here', '0');
        INSERT INTO migration.adopted (version_table, tool, relation, keep, revision) VALUES ('a', 't', 'r', true, '001');
        CREATE TABLE migration."guard:sample" AS SELECT 'me' AS who""")
    return empty


def planted(database: Database) -> set[tuple[str, str]]:
    """The secret in each column with words that may hold what is no file's and no catalog's; gives which these are."""
    found = set()
    for table, column, category, kind in database.rows(WORDS):
        if column in own.STAYS.get(table, ()) and (table, column) not in KEYS:
            continue
        value = {"S": "%s", "A": "ARRAY[%s]", "U": "to_jsonb(%s::text)"}[category]
        value = "jsonb_build_object('arguments', %s::text)" if (table, column) == ("journal", "detail") else value
        database.rows(f'UPDATE migration."{table}" SET "{column}" = ({value})::{kind}', SECRET)
        found.add((table, column))
    return found


KEYS = {("backfill_range", one) for one in ("above", "up_to", "reached")} | {("journal", "detail")}


def holding(database: Database) -> list[str]:
    """The guard's tables in which the secret stands somewhere."""
    names = [name for (name,) in database.rows("SELECT relname FROM pg_class WHERE relnamespace = 'migration'::regnamespace "
                                               "AND relkind = 'r' ORDER BY 1")]  # fmt: skip
    return [name for name in names
            if database.value(f'SELECT count(*) FROM migration."{name}" AS x WHERE x::text LIKE %s', f"%{SECRET}%")]  # fmt: skip


@pytest.mark.parametrize("state", ["running", "done"])
def test_a_secret_in_any_table_of_the_guards_is_gone(told: Database, state: str) -> None:
    """Planted wherever no revision's file and no catalog says what stands there, of every table: none is left."""
    told.rows("UPDATE migration.backfill SET state = %s", state)
    columns = planted(told)
    before = holding(told)

    with opened(told) as connection:
        own.mask(connection, "migration")
        connection.commit()

    assert {"backfill_range", "journal", "event", "deploy", "guard:sample", "adopted", "stash"} <= set(before)
    assert {("run", "error"), ("history", "scripts"), ("backfill", "waits_for"), *KEYS} <= columns
    assert holding(told) == []
    assert told.rows("SELECT who, host, state FROM migration.run") == [("somebody", "somewhere", "failed")]


def test_what_stays_is_decided_for_every_column(told: Database) -> None:
    """Each column that is named as harmless is there, and every table of the guard's has a decision, or loses its rows."""
    there: dict[str, set[str]] = {}
    for table, column in told.rows(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'migration'"
    ):
        there.setdefault(table, set()).add(column)

    lost = {*there} - {*own.STAYS}

    files = {"version_table", "revision", "direction", "git_commit", "tool_version"}
    assert lost == {"event", "guard:sample"}
    assert {
        table: names - there[table] - files for table, names in own.STAYS.items() if names - there[table] - files
    } == {}


@pytest.mark.parametrize(
    ("key", "rule", "stays"),
    [
        ("4711", None, True),
        ("-3", None, True),
        ("0b2f0a1e-0000-4000-8000-00000000000a", None, True),
        ("ada", None, False),
        ("4711", "hash", False),
        ("4711", "words", True),
    ],
)
def test_a_backfill_goes_on_by_keys_that_say_nothing(
    told: Database, key: str, rule: str | None, *, stays: bool
) -> None:
    """Numbers and UUIDs of a column that is not masked keep its place; else it begins anew in the copy."""
    told.rows("UPDATE migration.backfill_range SET reached = ARRAY[%s]", key)
    column = Column(
        "public", "t", "id", "text", required=True, kind="r", base="text", category="S", element="", limit=None
    )

    with opened(told) as connection:
        own.mask(connection, "migration", [(column, rule)] if rule else [])
        connection.commit()

    left = [([key],)] if stays else []
    assert told.rows("SELECT reached FROM migration.backfill_range") == left
    assert told.value("SELECT count(*) FROM migration.backfill") == len(left)


def test_tables_of_an_earlier_version_are_masked_as_far_as_they_are_there(empty: Database) -> None:
    """Without the newer tables, and without any, it is done all the same."""
    with opened(empty) as connection:
        own.mask(connection, "migration")
        connection.exec_driver_sql("CREATE SCHEMA migration")
        connection.exec_driver_sql(
            events.TABLES.split(";")[0].format(schema="migration").replace("REFERENCES migration.run", "")
        )
        connection.exec_driver_sql("INSERT INTO migration.event VALUES (DEFAULT, 1, now(), 'run-ended', NULL, '{}')")
        own.mask(connection, "migration")
        left = connection.exec_driver_sql("SELECT count(*) FROM migration.event").scalar_one()
        connection.rollback()

    assert left == 0
