"""Maintenance: months of the audit log come and go while people write, and rows without a parent are removed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from alembic import command
from alembic.config import Config
from psycopg2 import errors

from mcp_planner_schema import cli, example_data
from tests.catalog import catalog, difference, kept
from tests.conftest import ROOT, Database
from tests.until import until

OWNER, MIGRATOR, APPLICATION = "mcp_task_owner", "mcp_task_migrator", "mcp_task_application"


@pytest.fixture
def roles(database: Database) -> Database:
    """A database at head that was given to the three roles."""
    ran = database.psql(ROOT / "scripts" / "roles.sql")
    assert ran.returncode == 0, ran.stderr
    return database


def call(database: Database, sql: str, user: str = MIGRATOR) -> list[tuple[Any, ...]]:
    """The rows of one statement, by default as the migrator, who acts as the owner."""
    with database.connect(user=user) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


def maintain(database: Database, ahead: int = 0) -> list[tuple[Any, ...]]:
    """What one call has done."""
    return call(database, f"SELECT * FROM maintain_audit_partitions({ahead})")


def months(database: Database, *offsets: int) -> list[str]:
    """Names of the partitions of months, counted from this one."""
    wanted = "date_trunc('month', now(), 'UTC') AT TIME ZONE 'UTC' + make_interval(months => n)"
    return [
        row[0]
        for row in database.rows(f"SELECT to_char({wanted}, '\"audit_logs_\"YYYY_MM') FROM unnest(%s) n", list(offsets))
    ]


def write(database: Database, *times: str, rows: int = 1) -> None:
    """Put rows of these times (SQL expressions) into the log, as the owner can."""
    for time in times:
        call(
            database,
            "INSERT INTO audit_logs (entity_type, entity_id, action, occurred_at)"
            f" SELECT 'STEP', gen_random_uuid(), 'UPDATED', {time} FROM generate_series(1, {rows})",
        )


def in_month(offset: int) -> str:
    """A time in the middle of a month, counted from this one, in SQL."""
    return f"date_trunc('month', now(), 'UTC') + interval '{offset} months 14 days'"


def places(database: Database) -> dict[str, int]:
    """How many rows of the log each partition holds, for those that hold any."""
    return dict(database.rows("SELECT tableoid::regclass::text, count(*) FROM audit_logs GROUP BY 1"))


def waiting(database: Database, connection: Any) -> Callable[[], Any]:
    """Whether the session of a connection waits for a lock."""
    pid = connection.info.backend_pid
    return lambda: database.value("SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted", pid)


def refused(database: Database, sql: str, user: str = MIGRATOR) -> psycopg2.Error:
    """The error that a statement ends with."""
    with pytest.raises(psycopg2.Error) as caught:
        call(database, sql, user)
    return caught.value


def test_months_are_made_and_what_was_caught_is_moved(roles: Database) -> None:
    """This month, those ahead and those with rows in the default get a partition with their rows; then nothing is left to do."""
    write(roles, in_month(-4), in_month(-4), in_month(0), in_month(7))
    four_ago, now, one, two, seven = months(roles, -4, 0, 1, 2, 7)

    first, second = maintain(roles, 2), maintain(roles, 2)

    assert first == [(four_ago, "created", 2), (now, "created", 1), (one, "created", 0), (two, "created", 0),
                     (seven, "created", 1)]  # fmt: skip
    assert second == []
    assert places(roles) == {four_ago: 2, now: 1, seven: 1}
    assert roles.value("SELECT count(*) FROM pg_constraint WHERE conname LIKE 'maintenance%%'") == 0


def test_three_months_ahead_are_the_default(roles: Database) -> None:
    """A call without an argument makes this month and three more."""
    made = call(roles, "SELECT partition_name FROM maintain_audit_partitions()")

    assert [row[0] for row in made] == months(roles, 0, 1, 2, 3)


@pytest.mark.parametrize("zone", ["Pacific/Auckland", "America/Los_Angeles"])
def test_months_begin_in_utc(roles: Database, zone: str) -> None:
    """Whatever the session's time zone and date style are, a month begins at midnight UTC, and both stay as they were."""
    write(roles, "'2031-01-31 23:59:59.999999+00'", "'2031-02-01 00:00:00+00'")

    with roles.connect(user=MIGRATOR) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET timezone = '{zone}'; SET datestyle = 'German'")
        cursor.execute("SELECT partition_name FROM maintain_audit_partitions(0)")
        cursor.execute("SELECT current_setting('timezone'), current_setting('datestyle')")
        settings = cursor.fetchone()
        cursor.execute("SELECT * FROM maintain_audit_partitions(0)")
        again = cursor.fetchall()

    assert (settings, again) == ((zone, "German, DMY"), [])
    assert places(roles) == {"audit_logs_2031_01": 1, "audit_logs_2031_02": 1}
    bounds = roles.rows(
        "SELECT starts_at AT TIME ZONE 'UTC', ends_at AT TIME ZONE 'UTC' FROM audit_partitions() WHERE starts_at > now()"
    )
    assert [tuple(str(one) for one in row) for row in bounds] == [
        ("2031-01-01 00:00:00", "2031-02-01 00:00:00"), ("2031-02-01 00:00:00", "2031-03-01 00:00:00")
    ]  # fmt: skip


@pytest.mark.parametrize("user", [MIGRATOR, "postgres"])
def test_a_partition_is_like_the_log(roles: Database, user: str) -> None:
    """Owner, privileges, indexes and column comments are the log's, also when a superuser calls; the index build is attached."""
    roles.rows(f"GRANT SELECT ON audit_logs TO PUBLIC; GRANT INSERT ON audit_logs TO {APPLICATION} WITH GRANT OPTION")
    like = """
        SELECT pg_get_userbyid(relowner), (SELECT array_agg(acl::text ORDER BY acl::text) FROM unnest(relacl) acl),
            (SELECT array_agg(regexp_replace(pg_get_indexdef(indexrelid), '.* USING', indisprimary || '') ORDER BY 1)
             FROM pg_index WHERE indrelid = pg_class.oid AND indisvalid),
            (SELECT array_agg((attname, format_type(atttypid, atttypmod), col_description(attrelid, attnum))::text
                              ORDER BY attnum) FROM pg_attribute WHERE attrelid = pg_class.oid AND attnum > 0)
        FROM pg_class WHERE relname = %s
    """
    (name,) = months(roles, 0)

    call(roles, "SELECT * FROM maintain_audit_partitions(0)", user)

    assert roles.rows(like, name) == roles.rows(like, "audit_logs")
    assert roles.value(
        "SELECT count(*) FROM pg_index i JOIN pg_inherits h ON h.inhrelid = i.indexrelid WHERE indrelid = %s::regclass", name
    ) == 3  # fmt: skip
    assert roles.value("SELECT obj_description(%s::regclass)", name).startswith("Audit rows of 20")


def test_the_application_goes_on_writing_and_only_by_triggers(roles: Database) -> None:
    """After maintenance a change is logged in its month, and the application can read the partition and not change it."""
    maintain(roles)
    (name,) = months(roles, 0)

    call(roles, "INSERT INTO projects (name, description) VALUES ('a', 'b')", APPLICATION)

    assert call(roles, f"SELECT count(*) FROM {name}", APPLICATION) == [(1,)]
    for statement in (f"INSERT INTO {name} DEFAULT VALUES", f"UPDATE {name} SET id = id", f"DELETE FROM {name}",
                      f"TRUNCATE {name}", f"DROP TABLE {name}"):  # fmt: skip
        assert isinstance(refused(roles, statement, APPLICATION), errors.InsufficientPrivilege)


@pytest.mark.parametrize(
    "function",
    ["maintain_audit_partitions()", "retire_audit_partitions('1 year')", "create_audit_partition(now())", "cleanup_orphans()",
     "lock_for_maintenance('{audit_logs}', 'ACCESS SHARE', '1s')"],
)  # fmt: skip
def test_the_application_may_not_maintain(roles: Database, function: str) -> None:
    """Whoever owns nothing is told that the function is not for them."""
    error = refused(roles, f"SELECT {function}", APPLICATION)

    assert isinstance(error, errors.InsufficientPrivilege)
    assert f"permission denied for function {function.partition('(')[0]}" in str(error)


@pytest.mark.parametrize(
    "thing", ["TABLE {} (id int)", "VIEW {} AS SELECT 1", "TYPE {} AS ENUM ('a')", "INDEX {} ON projects (name)"]
)
def test_a_taken_name_is_refused(roles: Database, thing: str) -> None:
    """Where something else has the name of a month, the call says which and changes nothing."""
    (name,) = months(roles, 1)
    write(roles, in_month(0))
    call(roles, f"CREATE {thing.format(name)}")

    error = refused(roles, "SELECT * FROM maintain_audit_partitions(2)")

    assert error.pgcode == "MP007"
    assert name in str(error.diag.message_primary) and name in str(error.diag.message_hint)
    assert places(roles) == {"audit_logs_default": 1}
    assert roles.rows("SELECT * FROM audit_partitions()") == []


def test_partitions_made_by_hand_are_respected(roles: Database) -> None:
    """Months within a year partition need none, and rows of a month that is partly taken stay where they are, and are told."""
    call(
        roles,
        "CREATE TABLE by_year PARTITION OF audit_logs FOR VALUES FROM (MINVALUE) TO ('2020-01-01 00:00+00');"
        "CREATE TABLE half PARTITION OF audit_logs FOR VALUES FROM ('2021-03-10 00:00+00') TO ('2021-03-20 00:00+00');"
        "CREATE TABLE later PARTITION OF audit_logs FOR VALUES FROM ('2090-02-01 00:00+00') TO (MAXVALUE)",
    )
    write(roles, "'2019-05-05'", "'2021-03-05'", "'2021-03-15'", "'2021-02-28 12:00+00'", "'2095-01-01'")
    (now,) = months(roles, 0)

    done = [maintain(roles), maintain(roles)]

    skipped = ("audit_logs_2021_03", "skipped, overlaps public.half", 1)
    assert [sorted(one) for one in done] == [
        [("audit_logs_2021_02", "created", 1), skipped, (now, "created", 0)], [skipped]
    ]  # fmt: skip
    assert places(roles) == {"by_year": 1, "half": 1, "later": 1, "audit_logs_2021_02": 1, "audit_logs_default": 1}


def test_times_that_have_no_month_stay_in_the_default(roles: Database) -> None:
    """Infinity and years before 1 or after 9999 make no partition and no error."""
    write(roles, "'infinity'", "'-infinity'", "'0044-03-15 BC'", "'12000-01-01'", "'0001-01-01 12:00+00'")

    made = maintain(roles)

    assert [row[::2] for row in made] == [("audit_logs_0001_01", 1), (*months(roles, 0), 0)]
    assert places(roles) == {"audit_logs_default": 4, "audit_logs_0001_01": 1}


def test_two_calls_at_once_do_it_once(roles: Database) -> None:
    """While one session is at it, made to wait by a reader, a second one waits for it and then finds nothing to do."""
    write(roles, in_month(0), in_month(-1))
    found: dict[str, Any] = {}

    def run(who: str, connection: Any) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT * FROM maintain_audit_partitions(1)")
                found[who] = cursor.fetchall()
        except psycopg2.Error as error:
            found[who] = error

    with (
        roles.connect(autocommit=False) as reader,
        roles.connect(user=MIGRATOR) as first,
        roles.connect(user=MIGRATOR) as second,
        reader.cursor() as cursor,
    ):
        cursor.execute("SELECT FROM audit_logs")
        threads = [threading.Thread(target=run, args=one) for one in (("first", first), ("second", second))]
        for thread, connection in zip(threads, (first, second), strict=True):
            thread.start()
            until(waiting(roles, connection))
        reader.commit()
        for thread in threads:
            thread.join()

    ago, now, ahead = months(roles, -1, 0, 1)
    assert found == {"first": [(ago, "created", 1), (now, "created", 1), (ahead, "created", 0)], "second": []}
    assert places(roles) == {ago: 1, now: 1}


def test_who_comes_while_rows_move_neither_fails_nor_misses_any(roles: Database) -> None:
    """A write and a read that begin before COMMIT wait for it, then the write is in its month and the read is complete."""
    call(roles, "INSERT INTO projects (name, description) VALUES ('a', 'b')", APPLICATION)
    found: list[Any] = []

    def run(connection: Any, sql: str) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                found.append(cursor.fetchall())
        except psycopg2.Error as error:
            found.append(error)

    with (
        roles.connect(user=MIGRATOR, autocommit=False) as mover,
        roles.connect(user=APPLICATION) as writer,
        roles.connect(user=APPLICATION) as reader,
        mover.cursor() as cursor,
    ):
        cursor.execute("SELECT * FROM maintain_audit_partitions(0)")
        threads = [
            threading.Thread(target=run, args=one)
            for one in ((writer, "UPDATE projects SET name = 'c' RETURNING 0"),
                        (reader, "SELECT count(*) FROM audit_logs WHERE action = 'CREATED'"))
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        until(waiting(roles, writer))
        until(waiting(roles, reader))
        mover.commit()
        for thread in threads:
            thread.join()

    assert sorted(found, key=str) == [[(0,)], [(1,)]]
    assert places(roles) == {months(roles, 0)[0]: 2}


def test_writers_and_readers_go_on(roles: Database) -> None:
    """Sessions that write and count all the time while 30,000 rows move see no error and no row less, and lose none."""
    call(roles, "INSERT INTO projects (name, description) SELECT g, 'b' FROM generate_series(1, 3) g", APPLICATION)
    write(roles, in_month(0), in_month(-1), in_month(-2), rows=10_000)
    end, failed, shrunk, changes = threading.Event(), [], [], [0, 0, 0]

    def writes(number: int) -> None:
        with roles.connect(user=APPLICATION) as connection, connection.cursor() as cursor:
            while not end.is_set():
                try:
                    cursor.execute(
                        "UPDATE projects SET description = gen_random_uuid() WHERE name = %s", (str(number + 1),)
                    )
                    changes[number] += 1
                except psycopg2.Error as error:
                    failed.append(error)
                    return

    def counts() -> None:
        last = 0
        with roles.connect(user=APPLICATION) as connection, connection.cursor() as cursor:
            while not end.is_set():
                cursor.execute("SELECT count(*), count(DISTINCT id) FROM audit_logs")
                now, different = cursor.fetchone()
                if now < last or now != different:
                    shrunk.append((last, now, different))
                last = now

    threads = [threading.Thread(target=writes, args=(number,)) for number in range(3)] + [
        threading.Thread(target=counts)
    ]
    for thread in threads:
        thread.start()
    try:
        until(lambda: failed or min(changes) > 20)
        made = maintain(roles, 1)
        before = sum(changes)
        until(lambda: failed or sum(changes) > before + 50)
    finally:
        end.set()
        for thread in threads:
            thread.join()

    assert (failed, shrunk) == ([], [])
    assert [row[0] for row in made] == months(roles, -2, -1, 0, 1)
    now, one, two = months(roles, 0, -1, -2)
    assert places(roles) == {one: 10_000, two: 10_000, now: 10_003 + sum(changes)}


def test_coming_months_stop_nobody(roles: Database) -> None:
    """While a call that only makes coming months is not committed, changes are written and this month is read."""
    maintain(roles)
    ((now, begins, ends),) = roles.rows("SELECT partition_name::text, starts_at, ends_at FROM audit_partitions()")

    with roles.connect(user=MIGRATOR, autocommit=False) as mover, mover.cursor() as cursor:
        cursor.execute("SELECT * FROM maintain_audit_partitions(4)")
        held = roles.rows(
            "SELECT relation::regclass::text, mode FROM pg_locks WHERE pid = %s AND relation::regclass::text IN"
            " ('audit_logs', 'audit_logs_default', %s) AND mode = 'AccessExclusiveLock'", mover.info.backend_pid, now,
        )  # fmt: skip
        call(
            roles,
            "SET statement_timeout = '10s'; INSERT INTO projects (name, description) VALUES ('a', 'b')",
            APPLICATION,
        )
        read = call(
            roles,
            "SET statement_timeout = '10s'; SELECT count(*) FROM audit_logs"
            f" WHERE occurred_at >= '{begins}' AND occurred_at < '{ends}'",
            APPLICATION,
        )
        mover.commit()

    assert held == [("audit_logs_default", "AccessExclusiveLock")]
    assert read == [(1,)]
    assert places(roles) == {now: 1}


@pytest.mark.parametrize(
    ("sql", "held"),
    [
        ("SELECT * FROM maintain_audit_partitions(1)", "SELECT FROM audit_logs"),
        ("SELECT * FROM retire_audit_partitions('1 month')", "SELECT FROM audit_logs"),
        ("SELECT * FROM cleanup_orphans()", "UPDATE steps SET title = title"),
    ],
)
def test_a_busy_table_is_left_after_a_short_time(roles: Database, sql: str, held: str) -> None:
    """Where somebody holds a table the call gives up, names them, changes nothing and leaves the session's lock_timeout."""
    call(
        roles,
        "CREATE TABLE old PARTITION OF audit_logs FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-02-01 00:00+00')",
    )
    before = roles.rows("SELECT partition_name::text FROM audit_partitions()")

    with (
        roles.connect(autocommit=False) as holder,
        roles.connect(user=MIGRATOR) as connection,
        holder.cursor() as other,
        connection.cursor() as cursor,
    ):
        other.execute(held)
        cursor.execute("SET lock_timeout = '12s'; SET statement_timeout = '20s'")
        with pytest.raises(psycopg2.Error) as caught:
            cursor.execute(sql)
        cursor.execute("SHOW lock_timeout")
        left = cursor.fetchone()

        assert caught.value.pgcode == "MP006"
        assert f"process {holder.info.backend_pid};" in str(caught.value.diag.message_detail)
        assert left == ("12s",)
    assert roles.rows("SELECT partition_name::text FROM audit_partitions()") == before


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT maintain_audit_partitions(-1)",
        "SELECT maintain_audit_partitions(121)",
        "SELECT maintain_audit_partitions(NULL)",
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT maintain_audit_partitions()",
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT cleanup_orphans()",
        "SELECT retire_audit_partitions(NULL)",
        "SELECT retire_audit_partitions('29 days')",
        "SELECT retire_audit_partitions('0')",
        "SELECT retire_audit_partitions('-1 year', true)",
        "SELECT retire_audit_partitions('1 year', NULL)",
    ],
)
def test_what_would_do_harm_is_refused(roles: Database, sql: str) -> None:
    """Too many months, a snapshot that cannot see what others write, and a retention under one month are refused."""
    write(roles, in_month(-20))
    maintain(roles)

    error = refused(roles, sql)

    assert (error.pgcode, bool(error.diag.message_hint)) == ("MP008", True)
    assert len(roles.rows("SELECT * FROM audit_partitions()")) == 2


@pytest.mark.parametrize(("drop", "action"), [("", "detached"), (", drop_rows => true", "dropped")])
def test_old_months_are_retired(roles: Database, drop: str, action: str) -> None:
    """Only what ends before the limit goes: not the default, not this month, not what is partly within; a second call is idle."""
    begins, ends = roles.rows(
        "SELECT date_trunc('month', now(), 'UTC') - make_interval(months => n) FROM unnest('{3,1}'::int[]) n"
    )
    call(
        roles,
        "CREATE TABLE years PARTITION OF audit_logs FOR VALUES FROM ('2010-01-01 00:00+00') TO ('2012-01-01 00:00+00');"
        f"CREATE TABLE partly PARTITION OF audit_logs FOR VALUES FROM ('{begins[0]}') TO ('{ends[0]}')",
    )
    write(roles, "'2011-05-05'", *(in_month(n) for n in (-8, -4, -4, -3, -2, -1, 0)), "'infinity'")
    maintain(roles)
    eight, four, one, now = months(roles, -8, -4, -1, 0)

    first = call(roles, f"SELECT * FROM retire_audit_partitions('2 months'{drop})")
    second = call(roles, f"SELECT * FROM retire_audit_partitions('2 months'{drop})")

    assert first == [("years", action, 1), (eight, action, 1), (four, action, 2)]
    assert second == []
    assert places(roles) == {"partly": 2, one: 1, now: 1, "audit_logs_default": 1}
    kept = roles.rows(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('migration_retired') AND relkind = 'r'"
    )
    assert {row[0] for row in kept} == ({"years", eight, four} if action == "detached" else set())
    if action == "detached":
        assert roles.value(f"SELECT count(*) FROM migration_retired.{four}") == 2
        assert isinstance(
            refused(roles, f"SELECT * FROM migration_retired.{four}", APPLICATION), errors.InsufficientPrivilege
        )


def test_a_partition_that_reaches_the_present_is_never_retired(roles: Database) -> None:
    """One that began long ago and has not ended stays, with all its rows."""
    call(roles, "CREATE TABLE ever PARTITION OF audit_logs FOR VALUES FROM (MINVALUE) TO (MAXVALUE)")
    write(roles, "'2001-01-01'", "now()")

    done = call(roles, "SELECT * FROM retire_audit_partitions('1 month', true)")

    assert (done, maintain(roles, 3), places(roles)) == ([], [], {"ever": 2})


def test_a_month_is_not_detached_twice(roles: Database) -> None:
    """Rows that come later for a detached month get a partition again, which waits until the detached one is put away."""
    (three,) = months(roles, -3)
    retire = "SELECT * FROM retire_audit_partitions('1 month')"
    write(roles, in_month(-3))
    maintain(roles)
    call(roles, retire)
    write(roles, in_month(-3))
    maintain(roles)

    error = refused(roles, retire)

    assert (error.pgcode, places(roles)) == ("MP007", {three: 1})
    call(roles, f"DROP TABLE migration_retired.{three}")
    assert call(roles, retire) == [(three, "detached", 1)]


def test_partitions_are_no_schema(database: Database) -> None:
    """The catalog, alembic check and migrate-verify are the same with made and with detached months."""
    before = catalog(database)
    database.rows(
        "INSERT INTO audit_logs (entity_type, entity_id, action, occurred_at)"
        " SELECT 'STEP', gen_random_uuid(), 'UPDATED', now() - make_interval(months => n) FROM generate_series(0, 5) n"
    )

    made = database.rows("SELECT * FROM maintain_audit_partitions()")
    retired = database.rows("SELECT * FROM retire_audit_partitions('2 months')")

    assert (len(made), len(retired) > 1) == (9, True)
    assert difference(before, catalog(database)) == []
    checked = subprocess.run(
        [sys.executable, "-m", "alembic", "check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert cli.main(["migrate-verify"]) == 0


@pytest.mark.long
def test_a_downgrade_of_everything_keeps_the_rows_of_all_partitions(database: Database, planner: Config) -> None:
    """Head to base and back with months that maintenance made keeps each row of them and brings each back."""
    before = catalog(database)
    database.rows(
        "INSERT INTO audit_logs (entity_type, entity_id, action, occurred_at)"
        " SELECT 'STEP', gen_random_uuid(), 'UPDATED', now() - make_interval(months => n) FROM generate_series(0, 5) n"
    )
    database.rows(
        "UPDATE audit_logs SET occurred_at = 'infinity' WHERE occurred_at = (SELECT min(occurred_at) FROM audit_logs)"
    )
    database.rows("SELECT * FROM maintain_audit_partitions()")
    rows = sorted(database.rows("SELECT id::text, occurred_at::text FROM audit_logs"))

    command.downgrade(planner, "base")
    stashed = sorted(database.rows(f"SELECT id::text, occurred_at::text FROM {kept(database)['audit_logs']}"))
    command.upgrade(planner, "head")

    assert len(rows) == 6
    assert stashed == rows
    assert sorted(database.rows("SELECT id::text, occurred_at::text FROM audit_logs")) == rows
    assert difference(before, catalog(database)) == []
    assert len(database.rows("SELECT * FROM maintain_audit_partitions()")) >= 4


@pytest.mark.long
def test_detached_months_hold_up_a_downgrade_below_the_log(database: Database, planner: Config) -> None:
    """A detached table uses the log's types: what would drop them is refused and nothing is lost, until the table is gone."""
    database.rows(
        "INSERT INTO audit_logs (entity_type, entity_id, action, occurred_at)"
        " VALUES ('STEP', gen_random_uuid(), 'UPDATED', '2020-01-15'); SELECT maintain_audit_partitions()"
    )
    database.rows("SELECT retire_audit_partitions('1 month')")

    command.downgrade(planner, "006")
    with pytest.raises(Exception, match="cannot drop type ai_agent"):
        command.downgrade(planner, "005")
    kept = database.value("SELECT count(*) FROM migration_retired.audit_logs_2020_01")
    database.rows("DROP SCHEMA migration_retired CASCADE")
    command.downgrade(planner, "base")

    assert kept == 1
    assert database.rows("SELECT * FROM alembic_version") == []


FOREIGN_KEYS = """
    SELECT conname::text, conrelid::regclass::text, confrelid::regclass::text,
        (SELECT string_agg(format('child.%I = parent.%I', c.attname, p.attname), ' AND ')
         FROM unnest(conkey, confkey) AS pair (child, parent)
         JOIN pg_attribute c ON c.attrelid = conrelid AND c.attnum = pair.child
         JOIN pg_attribute p ON p.attrelid = confrelid AND p.attnum = pair.parent),
        (SELECT string_agg(format('child.%I IS NOT NULL', attname), ' AND ')
         FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY (conkey))
    FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace ORDER BY conname
"""
TABLES = """
    SELECT DISTINCT conrelid::regclass::text FROM pg_constraint
    WHERE contype = 'f' AND connamespace = 'public'::regnamespace
"""


def bypass(cursor: Any, sql: str) -> None:
    """Run a statement as a superuser for whom neither foreign keys nor triggers hold."""
    cursor.execute(f"SET session_replication_role = replica; {sql}; SET session_replication_role = origin")


def cleaned(cursor: Any) -> dict[str, int]:
    """What the owner's call has removed."""
    cursor.execute(f"SET ROLE {OWNER}; SELECT * FROM cleanup_orphans()")
    removed = dict(cursor.fetchall())
    cursor.execute("RESET ROLE")
    return removed


def ids(cursor: Any) -> dict[str, set[str]]:
    """The ids of all rows of every table that has a parent."""
    cursor.execute(TABLES)
    found: dict[str, set[str]] = {}
    for (table,) in cursor.fetchall():
        cursor.execute(f"SELECT id::text FROM {table}")
        found[table] = {row[0] for row in cursor.fetchall()}
    return found


def orphans(cursor: Any) -> dict[str, int]:
    """How many rows break each foreign key, for those that any row breaks."""
    cursor.execute(FOREIGN_KEYS)
    found = {}
    for name, child, parent, pairs, present in cursor.fetchall():
        cursor.execute(
            f"SELECT count(*) FROM {child} child WHERE {present} AND NOT EXISTS (SELECT FROM {parent} parent WHERE {pairs})"
        )
        found[name] = cursor.fetchone()[0]
    return {name: number for name, number in found.items() if number}


def test_orphans_go_as_a_cascade_would_have_taken_them(roles: Database) -> None:
    """For every foreign key of the schema: a parent lost past it is made good to exactly what deleting it would have left."""
    with roles.connect(autocommit=False) as connection, connection.cursor() as cursor:
        example_data.load(connection, projects=8)
        before = ids(cursor)
        cursor.execute(FOREIGN_KEYS)
        keys = cursor.fetchall()
        for name, child, parent, pairs, _ in keys:
            cursor.execute(
                f"SELECT parent.id::text FROM {parent} parent JOIN {child} child ON {pairs} ORDER BY md5(parent.id::text) LIMIT 1"
            )
            deletion = f"DELETE FROM {parent} WHERE id = '{cursor.fetchone()[0]}'"
            cursor.execute("SAVEPOINT trial")
            cursor.execute(deletion)
            cascaded = ids(cursor)
            cursor.execute("ROLLBACK TO trial")

            bypass(cursor, deletion)
            broken = orphans(cursor)
            removed = cleaned(cursor)
            left = ids(cursor)
            again = cleaned(cursor)
            cursor.execute("ROLLBACK TO trial")

            assert name in broken, name
            assert left == cascaded, name
            lost = {table: len(before[table] - cascaded[table]) - (table == parent) for table in before}
            assert removed == {table: number for table, number in lost.items() if number}, name
            assert again == {}, name
    assert len(keys) >= 16


def test_orphans_of_several_projects_go_in_one_call(roles: Database) -> None:
    """All that a vanished project owned goes, other projects lose nothing, each removal is logged, and progress is right."""
    with roles.connect() as connection, connection.cursor() as cursor:
        example_data.load(connection, projects=6)
        cursor.execute("SELECT id::text FROM projects ORDER BY name LIMIT 2")
        gone = [row[0] for row in cursor.fetchall()]
        kept = {}
        for table in ids(cursor):
            cursor.execute(
                f"SELECT count(*) FILTER (WHERE project_id::text = ANY (%s)), count(*) FROM {table}", (gone,)
            )
            kept[table] = cursor.fetchone()
        bypass(cursor, "DELETE FROM projects WHERE id IN ('{}', '{}')".format(*gone))
        cursor.execute("SELECT clock_timestamp()")
        (since,) = cursor.fetchone()

        removed, again = cleaned(cursor), cleaned(cursor)

        assert removed == {table: numbers[0] for table, numbers in kept.items() if numbers[0]}
        assert set(removed) == set(kept)
        assert {table: len(left) for table, left in ids(cursor).items()} == {
            table: numbers[1] - numbers[0] for table, numbers in kept.items()
        }
        assert (again, orphans(cursor)) == ({}, {})
        cursor.execute("SELECT count(*) FROM projects, validate_progress(projects.id)")
        assert cursor.fetchone() == (0,)
        cursor.execute(
            "SELECT count(*) FROM audit_logs WHERE occurred_at >= %s AND action IN ('DELETED', 'PROMOTED')", (since,)
        )
        assert cursor.fetchone() == (removed["tasks"] + removed["steps"] + removed["disputes"],)


def test_what_only_looks_like_an_orphan_stays(roles: Database) -> None:
    """A promotion without its step, a run under way, a reference to nothing and a circle of tasks have their parents."""
    p, t, u, s = (f"00000000-0000-4000-8000-00000000000{n}" for n in range(4))
    with roles.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO projects (id, name, description) VALUES ('{p}', 'p', 'd');"
            "INSERT INTO tasks (id, project_id, title, objective)"
            f" VALUES ('{t}', '{p}', 't', 'o'), ('{u}', '{p}', 'u', 'o');"
            f"INSERT INTO steps (id, task_id, title) VALUES ('{s}', '{t}', 's');"
            "INSERT INTO step_promotions (project_id, step_id, step_title, new_task_id, reason)"
            f" VALUES ('{p}', gen_random_uuid(), 's', '{t}', 'r');"
            f"INSERT INTO complexity_runs (project_id, threshold, iterations_allowed) VALUES ('{p}', 0.7, 3);"
            f"INSERT INTO navigation_cursors (project_id, actor, current_task_id) VALUES ('{p}', 'a', '{u}')"
        )
        bypass(
            cursor,
            "UPDATE steps SET next_id = 'task://' || gen_random_uuid();"
            f"UPDATE tasks SET parent_task_id = CASE id WHEN '{t}' THEN '{u}' ELSE '{t}' END::uuid",
        )
        before = ids(cursor)

        removed = cleaned(cursor)

        assert (removed, ids(cursor)) == ({}, before)


def test_a_row_of_another_project_than_its_parent_is_an_orphan(roles: Database) -> None:
    """A step that says another project than its task goes, with its dispute; the task, its other step and progress stay right."""
    with roles.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            """
            WITH p AS (INSERT INTO projects (name, description) VALUES ('p', 'd'), ('q', 'd') RETURNING id),
            t AS (INSERT INTO tasks (project_id, title, objective) SELECT min(id::text)::uuid, 't', 'o' FROM p RETURNING id)
            INSERT INTO steps (task_id, title, progress) SELECT id, 'stays', 1 FROM t
            """
        )
        bypass(
            cursor,
            """
            WITH s AS (INSERT INTO steps (project_id, task_id, title, progress)
                SELECT projects.id, tasks.id, 'goes', 0 FROM projects, tasks WHERE projects.id <> tasks.project_id
                RETURNING id, project_id)
            INSERT INTO disputes (project_id, step_id, server_content, client_content, server_reasoning, client_reasoning)
            SELECT project_id, id, 'a', 'b', 'c', 'd' FROM s
            """,
        )

        removed = cleaned(cursor)

        assert removed == {"steps": 1, "disputes": 1}
        cursor.execute("SELECT steps.title, tasks.progress FROM steps, tasks")
        assert cursor.fetchall() == [("stays", 1.0)]
        cursor.execute("SELECT count(*) FROM projects, validate_progress(projects.id)")
        assert cursor.fetchone() == (0,)
