"""Checksums of rows: the same for the same rows, whatever the order or the session; another for any other rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from mcp_planner_schema.guard import connect, evidence, stash
from mcp_planner_schema.guard.checksum import OUTPUT, Checksum, alike, checksum
from mcp_planner_schema.guard.postcheck import pinned
from tests.conftest import Database

ROWS = (
    "(1, 'x', '2026-02-03 04:05:06.789+02', 0.1::float8 + 0.2, '\\x00ff', '1 day 2:03', 1.10), "
    "(2, NULL, 'infinity', 'NaN', '', '-1 mon', 1.1)"
)
TABLE = "(id int, t text, at timestamptz, f float8, b bytea, i interval, n numeric)"
PLAIN = {"no_parameters": True}
TYPES = """
    CREATE COLLATION own FROM "C";
    CREATE DOMAIN whole AS bigint; CREATE DOMAIN yes AS boolean; CREATE DOMAIN loose AS text COLLATE own;
    CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (n int, t text)
"""
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


SAME = """
CREATE TABLE a AS SELECT n AS id, 'v' || n AS v, n / 7.0 AS q, timestamptz 'epoch' + make_interval(secs => n) AS at,
    mod(n, 2) = 0 AS b, md5(n::text)::uuid AS u, decode(md5(n::text), 'hex') AS y, date 'epoch' + n AS d, n::float8 / 3 AS f,
    CASE WHEN mod(n, 3) = 0 THEN jsonb_build_object('n', n) END AS j FROM generate_series(1, 1000) n
"""
SUMS = Checksum(1000, -186793921915486945524, -76803554096437154086)


def test_the_sums_are_what_they_were(session: sa.Connection) -> None:
    """A checksum that is stored today means the same rows in years: this value was written down on PostgreSQL 14 to 18."""
    session.exec_driver_sql(SAME)

    assert checksum(session, "public.a", ["id", "v", "q", "at", "b", "u", "y", "d", "f", "j"]) == SUMS


@pytest.mark.parametrize("column", ["id", "n", "s", "b", "u", "v", "at", "q"])
def test_one_null_in_a_row_leaves_the_others_their_say(session: sa.Connection, column: str) -> None:
    """A row with a null is hashed by another expression than one without: each other value still counts, and only once."""
    session.exec_driver_sql(
        "CREATE TABLE a AS SELECT x.id, n, n::int AS s, n > 1 AS b, md5(n::text)::uuid AS u, n::text AS v, "
        "timestamp 'epoch' + make_interval(secs => n) AS at, n / 7.0 AS q FROM generate_series(1, 2) n, (VALUES (7)) x(id)"
    )
    names = ["id", "n", "s", "b", "u", "v", "at", "q"]
    session.exec_driver_sql(f"UPDATE a SET {column} = NULL")
    sums = [checksum(session, "public.a", names)]

    for other in names:
        if other != column:
            session.exec_driver_sql(f"CREATE TABLE o_{other} AS SELECT * FROM a; UPDATE o_{other} SET {other} = NULL")
            sums.append(checksum(session, f"public.o_{other}", names))

    assert len({one.sum_0 for one in sums}) == len({one.sum_1 for one in sums}) == len(names)


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

    assert_other(checksum(session, "public.t", COLUMNS), before)


VALUES = [
    ("a int, b int", "(1, 2), (3, 4)", "(3, 2), (1, 4)"),
    ("a text, b numeric", "('x', 1), ('y', 2)", "('x', 2), ('y', 1)"),
    ("a int, b int", "(1, 2), (3, 4)", "(2, 1), (3, 4)"),
    ("a int, b int", "(0, 5)", "(5, 0)"),
    ("a text, b text", "('x', 'y')", "('y', 'x')"),
    ("a text, b text", "('xy', '')", "('x', 'y')"),
    ("a text, b text", "(NULL, 'x')", "('x', NULL)"),
    ("a text, b text", "(NULL, '')", "('', NULL)"),
    ("a text, b text, c text", "(NULL, NULL, 'x')", "('x', NULL, NULL)"),
    ("a text, b int", "('x', 1), ('x', 2)", "('x', 1), ('x', 1)"),
    ("a mood, b mood", "(NULL, 'sad')", "('sad', NULL)"),
    ("a numeric, b numeric", "(NULL, 0)", "(0, NULL)"),
    ("a int, b int", "(1, 2), (1, 2)", "(1, 2)"),
    ("a int, b int", "(1, 2), (1, 2), (3, 4)", "(1, 2), (3, 4), (3, 4)"),
    ("a text", "(NULL)", "('')"),
    ("a bytea", "(NULL)", "('')"),
    ("a text[]", "(NULL)", "('{}')"),
    ("a int", "(NULL)", "(0)"),
    ("a bigint", "(NULL)", "(0)"),
    ("a boolean", "(NULL)", "(false)"),
    ("a numeric", "(NULL)", "(0)"),
    ("a numeric", "(NULL)", "('NaN')"),
    ("a numeric", "('Infinity')", "('-Infinity')"),
    ("a numeric", "(1.10)", "(1.1)"),
    ("a numeric", "(0)", "(0.00)"),
    ("a bigint", "(-1)", "(4294967295)"),
    ("a bigint", "(1)", "(4294967296)"),
    ("a timestamp", "('infinity')", "('-infinity')"),
    ("a timestamp", "('epoch')", "('epoch'::timestamp + 4294967295 * interval '1 us')"),
    ("a timestamptz", "('2000-01-01 00:00:00.000001Z')", "('2000-01-01 01:11:34.967296Z')"),
    ("a timestamp", "('2000-01-01 00:00:00.000001')", "('2000-01-01 01:11:34.967296')"),
    ("a time", "('00:00:00.000001')", "('01:11:34.967296')"),
    ("a time", "('00:00')", "('24:00')"),
    ("a date", "('infinity')", "('-infinity')"),
    ("a float8", "(0.0)", "('-0')"),
    ("a float4[]", "('{0}')", "('{-0}')"),
    ("a interval", "('1 mon')", "('30 days')"),
    ("a timetz", "('12:00+00')", "('13:00+01')"),
    ("a json", "('{\"a\":1}')", "('{\"a\": 1}')"),
    ("a jsonb", "('1.10')", "('1.1')"),
    ("a varchar", "('x')", "('x ')"),
    ("a char(3)[]", "('{a}')", "('{b}')"),
    ("a pair", "('(,)')", "(NULL)"),
    ("a mood", "('glad')", "('sad')"),
    ("a loose", "('x')", "('X')"),
    ("a inet", "('10.0.0.1')", "('10.0.0.1/8')"),
]


@pytest.mark.parametrize(("columns", "some", "others"), VALUES)
def test_rows_that_read_otherwise_have_other_sums(session: sa.Connection, columns: str, some: str, others: str) -> None:
    """Values exchanged, moved to the neighbour, there twice, missing, and all that PostgreSQL's own hash takes for the same."""
    session.exec_driver_sql(TYPES)
    session.exec_driver_sql(f"CREATE TABLE v ({columns}); CREATE TABLE w ({columns})")
    session.exec_driver_sql(f"INSERT INTO v VALUES {some}; INSERT INTO w VALUES {others}")
    names = [one.split()[0] for one in columns.split(", ")]

    assert_other(checksum(session, "public.v", names), checksum(session, "public.w", names))


def assert_other(one: Checksum, two: Checksum) -> None:
    """Each of the sums by itself tells them apart."""
    assert one.sum_0 != two.sum_0
    assert one.sum_1 != two.sum_1


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("whole", "(1), (-1), (NULL)"),
        ("yes", "(true), (NULL)"),
        ("loose", "('X'), ('')"),
        ("mood", "('glad'), (NULL)"),
        ("mood[]", "('{glad,NULL}'), ('{}')"),
        ("pair", "('(,)'), (NULL), ('(1,\"a b\")')"),
        ("text COLLATE own", "('X'), (NULL)"),
        ("char(5) COLLATE own", "('X'), (NULL)"),
        ("varchar(5) COLLATE own", "('X'), (NULL)"),
        ("regclass", "('pg_class'), ('v')"),
    ],
)
def test_a_value_kept_as_text_has_the_sum_of_the_value(session: sa.Connection, type_: str, values: str) -> None:
    """What may be dropped with a type, a domain or a collation is kept as its text, and compared with what it was."""
    session.exec_driver_sql(f"{TYPES}; CREATE TABLE v (id int, a {type_})")
    session.exec_driver_sql(f"INSERT INTO v (a) VALUES {values}; UPDATE v SET id = 7")
    table = evidence.named(session, "public", "v")
    assert table
    kept = ", ".join(map(stash.value, table.columns.values()))
    with pinned(session, **OUTPUT):
        session.exec_driver_sql(f"CREATE TABLE public.c AS SELECT {kept} FROM public.v", execution_options=PLAIN)

    live, copy = checksum(session, "ONLY public.v", ["id", "a"]), checksum(session, "public.c", ["id", "a"])

    assert session.exec_driver_sql("SELECT atttypid::regtype::text FROM pg_attribute "
                                   "WHERE attrelid = 'c'::regclass AND attname = 'a'").scalar() == "text"  # fmt: skip
    assert live == copy


def test_a_wider_integer_has_the_same_sum(session: sa.Connection) -> None:
    """A column that the way back up makes wider holds the same values."""
    session.exec_driver_sql("CREATE TABLE i (n smallint); INSERT INTO i VALUES (1), (-1), (NULL)")
    sums = [checksum(session, "public.i", ["n"])]

    for type_ in ("int", "bigint"):
        session.exec_driver_sql(f"ALTER TABLE i ALTER n TYPE {type_}")
        sums.append(checksum(session, "public.i", ["n"]))

    assert sums == sums[:1] * 3


def test_partitions_add_up_to_their_table(session: sa.Connection) -> None:
    """Rows of some partitions only, and columns that lie in another order there, have the sum of the same rows elsewhere."""
    session.exec_driver_sql(
        "CREATE TABLE p (n int, s text) PARTITION BY LIST (n); CREATE TABLE p1 (s text, n int); "
        "ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2); "
        "INSERT INTO p VALUES (1, 'a'), (2, 'b'); CREATE TABLE q (n int, s text); INSERT INTO q VALUES (1, 'a')"
    )
    table, one = evidence.named(session, "public", "p"), evidence.named(session, "public", "p1")
    assert table
    assert one

    some = checksum(session, evidence.rows_of(table, (one.oid,)), ["n", "s"])

    assert some == checksum(session, "public.q", ["n", "s"])
    assert checksum(session, evidence.rows_of(table), ["n", "s"]).rows == 2


@pytest.mark.parametrize(("type_", "value"), [("int", "0"), ("text", "''"), ("mood", "'sad'")])
def test_as_many_columns_as_a_table_may_have(session: sa.Connection, type_: str, value: str) -> None:
    """1600 columns are summed, and the first and the last one count."""
    names = [f"c{number:04}" for number in range(1, 1601)]
    session.exec_driver_sql(f"{TYPES}; CREATE TABLE m ({', '.join(f'{name} {type_}' for name in names)})")
    session.exec_driver_sql(f"INSERT INTO m (c0002) VALUES ({value})")
    sums = [checksum(session, "public.m", names)]

    for name in (names[0], names[-1]):
        session.exec_driver_sql(f"UPDATE m SET {name} = {value}")
        sums.append(checksum(session, "public.m", names))

    assert_other(sums[0], sums[1])
    assert_other(sums[1], sums[2])


def test_many_rows_are_read_in_parallel(session: sa.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL may give such a table's rows to several workers: the very statement that is run, explained."""
    session.exec_driver_sql("CREATE TABLE l AS SELECT n, repeat('x', 500) AS s FROM generate_series(1, 100000) n")
    said: list[str] = []
    event = "before_cursor_execute"
    sa.event.listen(session, event, lambda *given: said.append(given[2]))
    checksum(session, "public.l", ["n", "s"])
    (read,) = [sql for sql in said if "hashtextextended" in sql]

    session.exec_driver_sql("SET LOCAL max_parallel_workers_per_gather = 2")
    plan = "\n".join(session.exec_driver_sql(f"EXPLAIN {read}", execution_options=PLAIN).scalars())

    assert "Parallel Seq Scan on l" in plan


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


@pytest.mark.parametrize(
    ("kept", "live", "same"),
    [
        ("1.10::numeric", "1.1::numeric", False),
        ("1.10::numeric", "1.10::numeric", True),
        ("'NaN'::float8", "'NaN'::float8", True),
        ("0::float8", "'-0'::float8", False),
        ("1::int", "1::bigint", True),
        ("-1::bigint", "4294967295", False),
        ("'a'::text", "'a'::varchar(3)", True),
        ("1::int", "'1'::varchar", True),
        ("'a'::text", "'A'::text", False),
        ("'sad'::text", "'sad'::mood", True),
        ("'glad'::text", "'sad'::mood", False),
        ("'2026-01-02'::text", "'2026-01-02'::date", True),
        ("'{\"a\": 1}'::json", "'{\"a\":1}'::json", False),
        ("NULL::int", "NULL::int", True),
        ("NULL::text", "''::text", False),
        ("NULL::text", "ROW(NULL, NULL)::pair", False),
    ],
)
def test_rows_are_alike_when_their_text_is(session: sa.Connection, kept: str, live: str, same: bool) -> None:
    """Compared value by value, also between the types that a copy and its table may have: equal exactly where the text is."""
    session.exec_driver_sql(f"{TYPES}; CREATE TABLE k AS SELECT 1 AS id, {kept} AS v", execution_options=PLAIN)
    session.exec_driver_sql(f"CREATE TABLE m AS SELECT 1 AS id, {live} AS v", execution_options=PLAIN)

    with pinned(session, **OUTPUT):
        condition = alike(session, "public.k", "public.m", ["id", "v"])
        found = session.exec_driver_sql(
            f"SELECT {condition}, ROW(c.v)::text = ROW(l.v)::text FROM public.k AS c, public.m AS l",
            execution_options=PLAIN,
        ).one()

    assert tuple(found) == (same, same)
