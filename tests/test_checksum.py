"""Checksums of rows: the same for the same rows, whatever the order or the session; another for any other rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from mcp_planner_schema.guard import connect
from mcp_planner_schema.guard.checksum import Checksum, checksum
from tests.conftest import Database

ROWS = (
    "(1, 'x', '2026-02-03 04:05:06.789+02', 0.1::float8 + 0.2, '\\x00ff', '1 day 2:03', 1.10), "
    "(2, NULL, 'infinity', 'NaN', '', '-1 mon', 1.1)"
)
TABLE = "(id int, t text, at timestamptz, f float8, b bytea, i interval, n numeric)"
COLUMNS = ["id", "t", "at", "f", "b", "i", "n"]


@pytest.fixture
def session(empty: Database) -> Iterator[sa.Connection]:
    """A connection of the guard's kind, in a transaction."""
    engine = connect.engine(sa.make_url(empty.url).set(drivername="postgresql+psycopg2"), "the test")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE TABLE t {TABLE}; INSERT INTO t VALUES {ROWS}")
        yield connection
    engine.dispose()


def test_the_order_of_rows_and_columns_does_not_matter(session: sa.Connection) -> None:
    """The same rows in a table whose columns stand in another order, inserted the other way round, add up to the same."""
    session.exec_driver_sql("CREATE TABLE o (n numeric, f float8, i interval, b bytea, at timestamptz, t text, id int)")
    session.exec_driver_sql("INSERT INTO o SELECT n, f, i, b, at, t, id FROM t ORDER BY id DESC")

    first, second = checksum(session, "public.t", COLUMNS), checksum(session, "public.o", reversed(COLUMNS))

    assert first == second
    assert first.rows == 2
    assert first.sum_0 != first.sum_1


def test_the_sums_are_what_they_were(session: sa.Connection) -> None:
    """A checksum that is stored today means the same rows in years: this value was written down on PostgreSQL 15 and 18."""
    session.exec_driver_sql("CREATE TABLE a AS SELECT n AS id, 'v' || n AS v FROM generate_series(1, 1000) n")

    assert checksum(session, "public.a", ["id", "v"]) == Checksum(1000, -76092489066371329911, -164587753292420152066)


def test_a_session_of_ones_own_does_not_matter(session: sa.Connection) -> None:
    """Whatever is set for showing values changes nothing, and is set again afterwards."""
    before = checksum(session, "public.t", COLUMNS)
    session.exec_driver_sql(
        "SET DateStyle = 'German'; SET TimeZone = 'Asia/Tokyo'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'escape'; "
        "SET extra_float_digits = 0; SET search_path = ''"
    )

    after = checksum(session, "public.t", COLUMNS)

    assert after == before
    assert session.exec_driver_sql("SHOW TimeZone").scalar_one() == "Asia/Tokyo"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE t SET t = 'y' WHERE id = 1",
        "UPDATE t SET t = '' WHERE id = 2",
        "UPDATE t SET n = 1.1 WHERE id = 1",
        "UPDATE t SET f = -0.0 WHERE id = 2",
        "INSERT INTO t SELECT * FROM t WHERE id = 1",
        "DELETE FROM t WHERE id = 2; INSERT INTO t SELECT * FROM t",
    ],
)
def test_every_change_shows(session: sa.Connection, change: str) -> None:
    """A value, NULL against nothing, the digits of a number, a row that is there twice."""
    before = checksum(session, "public.t", COLUMNS)

    session.exec_driver_sql(change)

    assert checksum(session, "public.t", COLUMNS)[1:] != before[1:]


def test_tables_without_rows_or_columns_have_one(session: sa.Connection) -> None:
    """No row adds up to nothing; rows of no columns are counted."""
    session.exec_driver_sql("CREATE TABLE none (); INSERT INTO none DEFAULT VALUES; DELETE FROM t")

    assert checksum(session, "public.t", COLUMNS) == Checksum(0, 0, 0)
    assert checksum(session, "public.none", []).rows == 1


def test_names_are_names(session: sa.Connection) -> None:
    """A column called like its table, or like the guard's own alias, or with quotes and percent signs in it, is a column."""
    name = '"a ""b"" c\'d %s :e"'
    session.exec_driver_sql("CREATE TABLE r (r int, rows int)")
    session.exec_driver_sql(f"CREATE TABLE {name} ({name} int)", execution_options={"no_parameters": True})
    session.exec_driver_sql(
        f"INSERT INTO r VALUES (1, 2); INSERT INTO {name} VALUES (1)", execution_options={"no_parameters": True}
    )

    before = checksum(session, "public.r", ["r", "rows"])
    session.exec_driver_sql("UPDATE r SET rows = 3")

    assert checksum(session, "public.r", ["r", "rows"]) != before
    assert checksum(session, f"public.{name}", ['a "b" c\'d %s :e']).rows == 1


def test_hidden_rows_are_an_error(session: sa.Connection) -> None:
    """Where a policy hides rows from the role, there is no sum of the others."""
    session.exec_driver_sql(
        "CREATE ROLE checksum_reader; GRANT SELECT ON t TO checksum_reader; ALTER TABLE t ENABLE ROW LEVEL SECURITY; "
        "SET ROLE checksum_reader"
    )

    with pytest.raises(sa.exc.ProgrammingError, match="row-level security"):
        checksum(session, "public.t", COLUMNS)
