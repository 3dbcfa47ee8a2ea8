"""The engine of backfills: every row exactly once, whatever the key, whoever is in the way, however often it is killed."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mcp_planner_schema.backfill import engine, keys
from mcp_planner_schema.backfill.pace import Pace
from mcp_planner_schema.guard.findings import Busy, GuardError, Refused
from tests.conftest import ROOT, Database, Project
from tests.until import until

TABLE = "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, note text)"
THREE = "md5(g::text)::uuid, '2026-01-01'::date + g % 99, g % 2 = 0"
ROWS = "INSERT INTO t SELECT g FROM generate_series(1, {count}) AS g"


def begin(
    project: Project, call: str, *, table: str = TABLE, rows: str = ROWS.format(count=12_000), **header: str
) -> None:
    """A table with rows, and a data revision with one backfill that is not run yet."""
    project.revision("001", "create_t", f"op.execute({table!r})\nop.execute({rows!r})", 'op.execute("DROP TABLE t")')
    project.upgrade()
    header = {"transaction": "none", "type": "data", "reversible": "lossless", **header}
    project.revision("002", "fill_t", call, 'op.execute("SELECT 1")', **header)


@pytest.fixture
def ordinary(empty: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database of a role that is no superuser, and migrates."""
    role = f"owner_{uuid.uuid4().hex[:8]}"
    empty.rows(f"CREATE ROLE {role} LOGIN; GRANT CREATE ON SCHEMA public TO {role}")
    empty.rows(f"ALTER DATABASE {empty.name} OWNER TO {role}")
    owned = dataclasses.replace(empty, user=role)
    monkeypatch.setenv("DATABASE_URL", owned.url)
    yield owned
    empty.rows(f"ALTER DATABASE {empty.name} OWNER TO postgres")
    empty.rows(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def batches(database: Database) -> int:
    """How many transactions have written the table's rows."""
    return int(database.value("SELECT count(DISTINCT xmin::text) FROM t"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges of a thousand rows, so that a small table has many."""
    monkeypatch.setattr(keys, "_ROWS_A_RANGE", 1000)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id int PRIMARY KEY", "g"),
        ("id bigint PRIMARY KEY", "g::bigint * 1000000007"),
        ("id uuid PRIMARY KEY", "md5(g::text)::uuid"),
        ("id text PRIMARY KEY", "'k%''é' || md5(g::text)"),
        ("id timestamptz PRIMARY KEY", "'2026-03-29 00:00+00'::timestamptz + g * interval '7 min 0.000001 s'"),
        ("id date UNIQUE NOT NULL", "'2026-01-01'::date + g"),
        ("id numeric(30, 10) PRIMARY KEY", "g / 7.0"),
        ("id bytea PRIMARY KEY", "decode(md5(g::text), 'hex')"),
        ("id float8 PRIMARY KEY", "g / 3.0::float8"),
        ("id interval PRIMARY KEY", "g * interval '1 mon 1 day -00:00:01'"),
        ("id inet PRIMARY KEY", "'10.0.0.0'::inet + g"),
        ("id int, \"a %%\" text, PRIMARY KEY (\"a %%\", id)", "g, (g % 7)::text"),
        ("id uuid NOT NULL, k date NOT NULL, m bool NOT NULL, UNIQUE (m, k, id)", THREE),
        ("id int", "g"),
    ],
    ids=lambda one: str(one)[:24],
)  # fmt: skip
def test_every_row_is_written_once_whatever_the_key(empty: Database, project: Project, column: str, value: str) -> None:
    """Keys of any type, of several columns, and none: each row is one higher, in many batches, with DateStyle as it may be."""
    column = column.replace("%%", "%")
    listed = {
        "g, (g % 7)::text": 'id, "a %"',
        "md5(g::text)::uuid, '2026-01-01'::date + g % 99, g % 2 = 0": "id, k, m",
    }.get(value, "id")
    table = f"CREATE TABLE t ({column}, n int NOT NULL DEFAULT 0, done boolean)"
    rows = f"INSERT INTO t ({listed}) SELECT {value} FROM generate_series(1, 9000) AS g"
    empty.rows(f"ALTER DATABASE {empty.name} SET datestyle = 'SQL, DMY'")
    begin(project, 'op.backfill("t", set={"n": "filled.n + 1", "done": "true"}, where="filled.done IS NULL", batch=700)',
          table=table, rows=rows)  # fmt: skip
    empty.rows("ANALYZE t")

    project.upgrade()

    assert empty.rows("SELECT n, done, count(*) FROM t GROUP BY 1, 2") == [(1, True, 9000)]
    assert batches(empty) >= 9
    assert empty.rows("SELECT state, done_at IS NOT NULL FROM migration.backfill") == [("done", True)]
    assert empty.value("SELECT sum(rows_written) FROM migration.backfill_range") == 9000


def test_partitions_and_children_are_taken_one_by_one(empty: Database, project: Project) -> None:
    """Rows of a partitioned table, of its partition's partitions, and what inherits from a table are all written once."""
    table = (
        "CREATE TABLE t (id int NOT NULL, k int NOT NULL, n int NOT NULL DEFAULT 0, PRIMARY KEY (k, id)) PARTITION BY LIST (k);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);"
        "CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2, 3) PARTITION BY RANGE (id);"
        "CREATE TABLE t2a PARTITION OF t2 FOR VALUES FROM (0) TO (2000); CREATE TABLE t2b PARTITION OF t2 DEFAULT;"
        "CREATE TABLE old (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); CREATE TABLE older () INHERITS (old);"
        "ALTER TABLE older ADD PRIMARY KEY (id); INSERT INTO old SELECT generate_series(1, 100);"
        "INSERT INTO older SELECT generate_series(1, 50)"
    )
    rows = "INSERT INTO t SELECT g, 1 + g % 3 FROM generate_series(1, 6000) g"
    begin(project, 'op.backfill("t", set={"n": "filled.n + 1"})\nop.backfill("old", set={"n": "filled.n + 1"})',
          table=table, rows=rows)  # fmt: skip

    project.upgrade()

    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 6000)]
    assert empty.rows("SELECT n, count(*) FROM old GROUP BY 1") == [(1, 150)]


def test_a_table_without_key_wants_to_know_what_is_left(empty: Database, project: Project) -> None:
    """Without a predicate nobody could tell a written row from another: refused before the first."""
    begin(project, 'op.backfill("t", set={"n": "filled.n + 1"})', table=TABLE.replace(" PRIMARY KEY", ""))

    with pytest.raises(Refused, match="backfill-keyless"):
        project.upgrade()

    assert empty.value("SELECT sum(n) FROM t") == 0


@pytest.mark.usefixtures("small")
def test_workers_share_the_ranges(empty: Database, project: Project) -> None:
    """Four sessions write at the same time, each row once, and the position says which of them did which range."""
    begin(project, 'op.backfill("t", set={"n": "filled.n + pg_sleep(0)::text::int + 1"})'
          .replace("pg_sleep(0)::text::int", "length(pg_sleep(0)::text)"))  # fmt: skip
    empty.rows("ANALYZE t")

    project.upgrade(workers="4")

    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 12_000)]
    assert empty.value("SELECT count(DISTINCT worker) FROM migration.backfill_range") == 4


@pytest.mark.usefixtures("small")
def test_in_order_one_session_takes_the_rows_from_the_first_on(empty: Database, project: Project) -> None:
    """However many workers there may be: one session writes, and no row before those of lesser keys."""
    begin(project, 'op.backfill("t", set={"n": "filled.n + 1"}, batch=700, in_order=True)')
    empty.rows("ANALYZE t")

    project.upgrade(workers="4")

    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 12_000)]
    assert empty.value("SELECT count(DISTINCT worker) FROM migration.backfill_range") == 1
    assert batches(empty) >= 12
    order = "SELECT xmin::text::bigint < lag(xmin::text::bigint) OVER (ORDER BY id) AS earlier FROM t"
    assert empty.value(f"SELECT count(*) FROM ({order}) one WHERE earlier") == 0


@pytest.mark.parametrize("repeatable", [True, False])
def test_what_is_repeatable_is_gone_through_again(empty: Database, project: Project, repeatable: bool) -> None:
    """Rows that came after it was done are taken when it is asked for again; else it was done before."""
    fill = f'op.backfill("t", statement="DELETE FROM t USING batch WHERE t.id = batch.id", repeatable={repeatable})'
    begin(project, f'{fill}\nop.execute("INSERT INTO t VALUES (5), (50000)")\n{fill}')

    project.upgrade()

    assert empty.rows("SELECT id FROM t ORDER BY id") == ([] if repeatable else [(5,), (50_000,)])


@pytest.mark.parametrize("sides", ["INSERT", "UPDATE", "DELETE"])
def test_a_statement_works_on_the_rows_of_each_batch(empty: Database, project: Project, sides: str) -> None:
    """INSERT … SELECT into another table, an UPDATE of another one, and a DELETE, each over the rows of the batch."""
    statement, found = {
        "INSERT": ("INSERT INTO other (id, note) SELECT id, '50 %' || id FROM batch ON CONFLICT DO NOTHING",
                   "SELECT count(*) FROM other WHERE note = '50 %' || id"),
        "UPDATE": ("UPDATE one SET sum = sum + (SELECT sum(id) FROM batch)", "SELECT sum FROM one"),
        "DELETE": ("DELETE FROM t USING batch WHERE t.id = batch.id", "SELECT 12000 - count(*) FROM t"),
    }[sides]  # fmt: skip
    table = (
        TABLE
        + "; CREATE TABLE other (id int PRIMARY KEY, note text); CREATE TABLE one (sum bigint); INSERT INTO one VALUES (0)"
    )
    begin(project, f'op.backfill("t", statement="""{statement}""", where="filled.id %% 2 = 0", name="x")'.replace("%%", "%"),
          table=table)  # fmt: skip

    project.upgrade()

    assert empty.value(found) == {"INSERT": 6000, "UPDATE": sum(range(2, 12001, 2)), "DELETE": 6000}[sides]


KILLED = """
import sys, threading, os, signal, time
threading.Timer(float(sys.argv[1]), os.kill, (os.getpid(), signal.SIGKILL)).start()
from alembic.config import main
main(["-x", "workers=" + sys.argv[2], "upgrade", "head"])
"""


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("workers", "rows"),
    [("3", 6000), *(pytest.param(workers, 60_000, marks=pytest.mark.long) for workers in ("1", "3"))],
)
def test_killed_at_random_each_row_is_written_once(empty: Database, project: Project, workers: str, rows: int) -> None:
    """SIGKILL again and again, until it is through: a row that was added to twice or never would show."""
    begin(project, 'op.backfill("t", set={"n": "filled.n + 1 + length(pg_sleep(0.0001)::text)"}, batch=400)',
          rows=ROWS.format(count=rows))  # fmt: skip
    empty.rows("ANALYZE t")
    environment = {**os.environ, "DATABASE_URL": empty.url, "PYTHONPATH": str(ROOT)}
    kills = 0

    for _ in range(30 if rows > 6000 else 4):
        after = 0.5 + random.random()
        arguments = [sys.executable, "-c", KILLED, str(after), workers]
        ended = subprocess.run(arguments, cwd=project.folder, env=environment, capture_output=True, check=False)
        if ended.returncode == 0:
            break
        assert ended.returncode in (-signal.SIGKILL, 75), ended.stderr
        kills += ended.returncode == -signal.SIGKILL
        assert empty.value("SELECT count(*) FROM t WHERE n NOT IN (0, 1)") == 0
    else:
        project.upgrade()

    assert kills >= (20 if rows > 6000 else 1)
    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, rows)]
    assert empty.value("SELECT sum(rows_written) FROM migration.backfill_range") == rows


def test_a_row_that_cannot_be_written_is_named(empty: Database, project: Project) -> None:
    """The rows before it are written, it is named with what PostgreSQL says, and corrected the same command goes on."""
    begin(project, 'op.backfill("t", set={"n": "filled.n + 10 / (7777 - filled.id) * 0 + 1"})')

    with pytest.raises(Refused) as refused:
        project.upgrade()
    [found] = refused.value.findings
    before = dict(empty.rows("SELECT id, xmin::text FROM t WHERE n = 1"))
    empty.rows("DELETE FROM t WHERE id = 7777")
    project.upgrade()

    assert found.code == "backfill-row"
    assert (found.values["row"], found.values["error"]) == ("7777", "division by zero")
    assert sorted(before) == list(range(1, 7777))
    assert dict(empty.rows("SELECT id, xmin::text FROM t WHERE id < 7777")) == before
    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 11_999)]


def test_rows_that_come_meanwhile_are_taken_by_another_pass(empty: Database, project: Project) -> None:
    """Where the verifying query still finds rows that meet the predicate, the table is gone through again."""
    begin(
        project,
        'op.backfill("t", set={"note": "\'x\'"}, where="filled.note IS NULL",\n'
        '    verify="SELECT count(*) FROM t WHERE note IS NULL")',
    )
    empty.rows("CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
               "INSERT INTO t (id) VALUES (-NEW.id); RETURN NULL; END$$;"
               "CREATE TRIGGER late AFTER UPDATE ON t FOR EACH ROW WHEN (NEW.id IN (5, 11999)) "
               "EXECUTE FUNCTION late()")  # fmt: skip

    project.upgrade()

    assert empty.rows("SELECT note, count(*) FROM t GROUP BY 1") == [("x", 12_002)]
    assert empty.value("SELECT verified_at IS NOT NULL FROM migration.backfill")


def test_what_is_not_verified_does_not_move_the_version(empty: Database, project: Project) -> None:
    """The query counts one row that the predicate leaves out: refused with the count, and what was written stays."""
    begin(project, 'op.backfill("t", set={"n": "1"}, where="filled.n = 0 AND filled.id <> 5",\n'
          '    verify="SELECT count(*) FROM t WHERE n = 0")')  # fmt: skip

    with pytest.raises(Refused, match="backfill-unverified") as refused:
        project.upgrade()

    assert refused.value.findings[0].values["count"] == "1"
    assert empty.value("SELECT sum(n) FROM t") == 11_999
    assert empty.rows("SELECT version_num FROM alembic_version") == [("001",)]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_is_written_meanwhile_is_not_missed(empty: Database, project: Project, workers: str) -> None:
    """A release that knows the old column only inserts, updates and deletes throughout: at the end each row has the new one."""
    project.revision("001", "create_t", f"op.execute({TABLE!r})\nop.execute({ROWS.format(count=20_000)!r})",
                     'op.execute("DROP TABLE t")')  # fmt: skip
    project.upgrade()
    how = '"t", "n", "amount", forward="given.n * 10", backward="given.amount / 10"'
    project.revision("002", "add_amount", f'op.ensure_column("t", "amount", "int")\nop.sync_columns({how})',
                     f'op.drop_sync({how})\nop.drop_column("t", "amount")')  # fmt: skip
    fill = ('op.backfill("t", set={"amount": "filled.n * 10"}, where="filled.amount IS DISTINCT FROM filled.n * 10",\n'
            '    verify="SELECT count(*) FROM t WHERE amount IS DISTINCT FROM n * 10", batch=1000)')  # fmt: skip
    project.revision("003", "fill_amount", fill, 'op.execute("SELECT 1")', type="data", transaction="none",
                     reversible="lossless")  # fmt: skip
    done, rounds = threading.Event(), [0]

    def write() -> None:
        with empty.connect() as connection, connection.cursor() as cursor:
            while not done.is_set():
                some = [random.randint(1, 20_000) for _ in range(3)]
                cursor.execute("INSERT INTO t (id, n) VALUES (%s, %s)", (100_000 + rounds[0], some[0]))
                cursor.execute("UPDATE t SET n = %s WHERE id = %s", some[:2])
                cursor.execute("DELETE FROM t WHERE id = %s", (some[2],))
                rounds[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until(lambda: rounds[0] > 10)
        project.upgrade(workers=workers)
        after = rounds[0] + 10
        until(lambda: rounds[0] > after)
    finally:
        done.set()
        writer.join()

    assert empty.value("SELECT count(*) FROM t WHERE amount IS DISTINCT FROM n * 10") == 0
    assert empty.value("SELECT count(*) FROM t WHERE id >= 100000") == rounds[0] > 50


def test_a_contract_waits_for_rows_that_were_written_without_their_value(empty: Database, project: Project) -> None:
    """What a backfill has verified is asked again before a contract revision: what came since is counted, nothing is dropped."""
    begin(project, 'op.backfill("t", set={"note": "\'x\'"}, where="filled.note IS NULL",\n'
          '    verify="SELECT count(*) FROM t "\n    "WHERE note IS NULL")')  # fmt: skip
    project.upgrade()
    project.revision("003", "drop_n", 'op.drop_column("t", "n")', 'op.execute("SELECT 1")', phase="contract")
    empty.rows("INSERT INTO t (id) VALUES (-1), (-2)")

    with pytest.raises(Refused, match="contract-unverified") as refused:
        project.upgrade()
    there = empty.value("SELECT sum(n) FROM t")
    empty.rows("UPDATE t SET note = 'x' WHERE note IS NULL")
    project.upgrade()

    assert (refused.value.findings[0].values["count"], there) == ("2", 0)
    assert empty.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'n'") == 0


def test_another_text_under_the_same_name_is_refused(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted backfill that was edited would leave rows of two kinds: its name is taken."""
    begin(project, 'op.backfill("t", set={"n": "1"})')
    path = next(project.versions.glob("002*"))
    monkeypatch.setattr(engine, "_LOCKED_TRIES", 1)
    with locked(empty, "SELECT FROM t WHERE id = 12000 FOR UPDATE"), pytest.raises(Busy):
        project.upgrade()

    path.write_text(path.read_text().replace('"n": "1"', '"n": "2"'))
    with pytest.raises(Refused, match="backfill-differs") as refused:
        project.upgrade()

    assert re.match(r'edit \S+002_\w+\.py \(another name="…"', refused.value.next_command)
    assert empty.rows("SELECT DISTINCT n FROM t ORDER BY 1") == [(0,), (1,)]


def test_a_text_that_has_written_nothing_may_be_corrected(empty: Database, project: Project) -> None:
    """A misspelt column fails before any row; the corrected text is taken under the same name."""
    begin(project, 'op.backfill("t", set={"n": "filled.nn + 1"})')
    path = next(project.versions.glob("002*"))
    with pytest.raises(GuardError, match="does not exist"):
        project.upgrade()

    path.write_text(path.read_text().replace("filled.nn", "filled.n"))
    project.upgrade()

    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 12_000)]


def test_a_row_that_cannot_be_written_may_be_left_out(empty: Database, project: Project) -> None:
    """As the finding says: with another where=… it goes on behind the rows that are done, and writes none of them again."""
    begin(project, 'op.backfill("t", set={"n": "filled.n + 10 / (7777 - filled.id) * 0 + 1"})')
    path = next(project.versions.glob("002*"))
    with pytest.raises(Refused, match="backfill-row"):
        project.upgrade()

    path.write_text(path.read_text().replace('* 0 + 1"}', '* 0 + 1"}, where="filled.id <> 7777"'))
    project.upgrade()

    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1 ORDER BY 1") == [(0, 1), (1, 11_999)]


def test_a_backfill_under_another_name_leaves_nothing_behind(empty: Database, project: Project) -> None:
    """What was begun under a name that the file does not have any more is gone when the revision is through."""
    begin(project, 'op.backfill("t", set={"n": "10 / (7777 - filled.id)"}, where="filled.note IS NULL")')
    path = next(project.versions.glob("002*"))
    with pytest.raises(Refused, match="backfill-row"):
        project.upgrade()

    path.write_text(
        path.read_text().replace("10 / (7777 - filled.id)", "5").replace(", where=", ', name="five", where=')
    )
    project.upgrade()

    assert empty.rows("SELECT name, state FROM migration.backfill") == [("five", "done")]
    assert empty.value("SELECT count(*) FROM t WHERE n = 5") == 12_000


def test_a_key_is_not_set_by_what_goes_along_it(empty: Database, project: Project) -> None:
    """Each row would come again further on, without an end: refused before the first."""
    begin(project, 'op.backfill("t", set={"id": "filled.id + 1000000", "n": "1"})')

    with pytest.raises(Refused, match="backfill-of-key"):
        project.upgrade()

    assert empty.value("SELECT max(id) + sum(n) FROM t") == 12_000


def test_a_statement_asks_again_what_it_has_waited_for(empty: Database, project: Project) -> None:
    """A row that somebody has just changed so that it does not meet the condition any more is not deleted."""
    begin(project, 'op.backfill("t", statement="DELETE FROM t USING batch WHERE t.id = batch.id", where="filled.n = 0")',
          rows=ROWS.format(count=500))  # fmt: skip
    waits = ("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
             "AND application_name LIKE 'mcp-planner-guard%'")  # fmt: skip
    run = threading.Thread(target=project.upgrade)

    with empty.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE t SET n = 5 WHERE id = 7")
        run.start()
        until(lambda: empty.value(waits) > 0)
        connection.commit()
    run.join()

    assert empty.rows("SELECT id, n FROM t") == [(7, 5)]


def test_a_row_is_not_written_twice_for_one_that_came_late(empty: Database, project: Project) -> None:
    """What a row gets depends on what it has: so no pass is made again, and the late one is told instead."""
    begin(project, 'op.backfill("t", set={"n": "filled.n + 1"}, where="filled.id > 0",\n'
          '    verify="SELECT count(*) FROM t WHERE n = 0")')  # fmt: skip
    empty.rows("CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
               "INSERT INTO t (id) VALUES (0); RETURN NULL; END$$;"
               "CREATE TRIGGER late AFTER UPDATE ON t FOR EACH ROW WHEN (NEW.id = 11999) EXECUTE FUNCTION late()")  # fmt: skip

    with pytest.raises(Refused, match="backfill-unverified"):
        project.upgrade()

    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1 ORDER BY 1") == [(0, 1), (1, 12_000)]


def test_rows_that_move_behind_the_last_block_are_taken(empty: Database, project: Project) -> None:
    """Without a key a table is taken block by block, and what was moved to new blocks meanwhile is taken too."""
    begin(project, 'op.backfill("t", set={"note": "\'x\'"}, where="filled.note IS NULL", batch=500)',
          table=TABLE.replace(" PRIMARY KEY", ""), rows=ROWS.format(count=3000))  # fmt: skip
    # The first row that is written moves those that are not written yet behind the last block.
    empty.rows("CREATE FUNCTION moves() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
               "UPDATE t SET n = 1 WHERE id > 2800 AND note IS NULL; RETURN NULL; END$$;"
               "CREATE TRIGGER moves AFTER UPDATE OF note ON t FOR EACH ROW WHEN (NEW.id = 5) "
               "EXECUTE FUNCTION moves()")  # fmt: skip

    project.upgrade()

    assert empty.rows("SELECT note, count(*) FROM t GROUP BY 1") == [("x", 3000)]


def test_operators_of_somebody_elses_are_not_called(empty: Database, project: Project) -> None:
    """A role that may create in public makes a comparison for varchar: keys are compared by PostgreSQL's own."""
    begin(project, 'op.backfill("t", set={"n": "filled.n + 1"}, batch=700)',
          table="CREATE TABLE t (id varchar(20) PRIMARY KEY, n int NOT NULL DEFAULT 0)",
          rows="INSERT INTO t SELECT md5(g::text)::varchar(20) FROM generate_series(1, 3000) g")  # fmt: skip
    empty.rows("CREATE TABLE called (); CREATE FUNCTION evil(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS "
               "$$BEGIN INSERT INTO called DEFAULT VALUES; RETURN $1::text > $2::text; END$$;"
               "CREATE OPERATOR public.> (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = evil);"
               "CREATE OPERATOR public.<= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = evil)")  # fmt: skip

    project.upgrade()

    assert empty.value("SELECT count(*) FROM called") == 0
    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 3000)]


def test_row_level_security_hides_no_row(ordinary: Database, project: Project) -> None:
    """Where a policy would leave rows out for the role that migrates, it is refused, and not done in part."""
    begin(project, 'op.backfill("t", set={"n": "1"})')
    ordinary.rows("ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY;"
                  "CREATE POLICY few ON t USING (id <= 100)")  # fmt: skip

    with pytest.raises(Refused, match="backfill-hidden-rows"):
        project.upgrade()
    ordinary.rows("ALTER TABLE t NO FORCE ROW LEVEL SECURITY")
    before = ordinary.value("SELECT sum(n) FROM t")
    project.upgrade()

    assert (before, ordinary.value("SELECT sum(n) FROM t")) == (0, 12_000)


@contextmanager
def locked(database: Database, sql: str) -> Any:
    """Somebody keeps rows locked meanwhile."""
    with database.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        yield


def test_who_waits_behind_a_batch_waits_no_longer_than_the_deadline(empty: Database, project: Project) -> None:
    """A batch that takes a second is cancelled when somebody needs one of its rows, and done in smaller ones."""
    begin(
        project,
        'op.backfill("t", set={"n": "filled.n + 1 + length(pg_sleep(0.0004)::text)"})',
        rows=ROWS.format(count=5000),
    )
    took: list[float] = []
    done = threading.Event()

    def write() -> None:
        with empty.connect() as connection, connection.cursor() as cursor:
            while not done.is_set():
                began = time.monotonic()
                cursor.execute("UPDATE t SET note = 'x' WHERE id = %s", (random.randint(1, 5000),))
                took.append(time.monotonic() - began)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        project.upgrade()
    finally:
        done.set()
        writer.join()

    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 5000)]
    assert max(took) < 0.45  # 0.2 s, and two cores that are both at work


def test_without_a_guard_it_works_too(empty: Database) -> None:
    """Called from plain Alembic operations, the position lives as long as the session."""
    import sqlalchemy as sa
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    import mcp_planner_schema.operations  # noqa: F401

    empty.rows(f"{TABLE}; {ROWS.format(count=5000)}")
    made = sa.create_engine(empty.url.replace("postgresql:", "postgresql+psycopg2:"), poolclass=sa.NullPool)

    with made.connect() as connection:
        context = MigrationContext.configure(connection)
        with context.begin_transaction():
            Operations(context).backfill("t", set={"n": "filled.n + 1"})

    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 5000)]
    assert empty.value("SELECT to_regclass('migration.backfill') IS NULL")


@pytest.mark.parametrize(
    ("change", "within"),
    [
        (lambda one: [one.done(2000, 0.01, felt=False)], (2400, 2401)),
        (lambda one: [one.done(one.size, one.size / 100_000, felt=False) for _ in range(60)], (18_000, 19_000)),
        (lambda one: [one.done(2000, 0.4, felt=False)], (900, 1000)),
        (lambda one: [one.done(2000, 0.15, felt=True)], (1000, 1000)),
        (lambda one: [one.done(2000, 0.01, felt=True)], (2400, 2401)),
        (lambda one: [one.halve() for _ in range(40)], (1, 1)),
    ],
    ids=["grows by a fifth", "comes to the target", "shrinks at once", "gives way", "not for a moment", "never below a row"],
)  # fmt: skip
def test_a_batch_takes_the_time_that_it_is_to_take(change: Callable[[Pace], Any], within: tuple[int, int]) -> None:
    """At 100,000 rows a second and 0.2 s it comes to 18,500 rows: between 0.9 and 0.95 of the target."""
    one = Pace(0.2, 50_000)

    change(one)

    assert within[0] <= one.size <= within[1]
