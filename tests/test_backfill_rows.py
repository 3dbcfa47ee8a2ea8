"""Batches that a Python function computes: every value as it was given, every row once, no newer one lost, no lock meanwhile."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from mcp_planner_schema.backfill import rows
from mcp_planner_schema.guard.findings import Busy, Refused
from mcp_planner_schema.operations.backfill import BackfillRows
from tests.conftest import ROOT, Database, Project
from tests.test_backfill import KILLED, ROWS, TABLE, batches, begin, small  # noqa: F401
from tests.until import until

CALL = 'op.backfill("t", rows=fill, columns={columns}, writes={writes}, batch=700)'
HANDED: list[Any] = []
"""What the function of a test does with a batch; its revision, a module of its own, looks here."""


def fill(
    project: Project, body: str, *, columns: str = '["n"]', writes: str = '["n"]', more: str = "", **table: str
) -> None:
    """A revision with a function of its own; ``body`` is what it does with ``rows``."""
    code = f"def fill(rows):\n    {body.strip()}\n"
    project.configure(allowed_imports="tests")
    call = CALL.format(columns=columns, writes=writes)
    begin(project, call[:-1] + f"{more})", **table)
    path = next(project.versions.glob("002*"))
    path.write_text(path.read_text().replace("expectations =", f"{code}\n\nexpectations ="))


@pytest.fixture
def asked() -> Iterator[Callable[[Callable[[Iterable[Any]], Iterable[Any]]], str]]:
    """Makes the function of a test the one of its revision; gives that one's body."""

    def put(function: Callable[[Iterable[Any]], Iterable[Any]]) -> str:
        HANDED.append(function)
        return "from tests import test_backfill_rows\n    return test_backfill_rows.HANDED[-1](rows)"

    yield put
    HANDED.clear()


VALUES = {
    "text": r"""E'a\\b\tc\nd\re\\N "é" {,} %s' || g, '', '\N', 'NULL'""",
    "varchar(9)": "'x' || g, ' y '",
    "int": "g, -2147483648",
    "bigint": "9223372036854775807, g",
    "numeric": "'NaN', 1.10, 1e-30, 'Infinity'",
    "float8": "'NaN', 'Infinity', 0.1 + 0.2, 1e-310",
    "boolean": "true, false",
    "bytea": r"'\x005c0a09ff', ''",
    "date": "'2026-02-28', '0001-01-01', '9999-12-31'",
    "timestamp": "'2026-03-29 02:30:00.000001'",
    "timestamptz": "'2026-03-29 02:30:00.000001+05:45', '0999-01-01 00:00+00'",
    "time": "'23:59:59.999999'",
    "timetz": "'23:59:59.999999-03'",
    "interval": "'-1 day -00:00:00.000001', '-1 day +2 hours', '400 days'",
    "uuid": "md5(g::text)::uuid",
    "inet": "'10.0.0.1/8', '::1'",
    "jsonb": r"""'{"a": ["\\\\ \n \"", null, 1.5, {"é": "\t"}]}', '"text"', '[]', '7'""",
    "json": """'[1, 2, "x"]'""",
    "text[]": r"""array['a"b', E'c\\d\t\n', NULL, 'NULL', '', '{x,y}', ' '], '{}'""",
    "int[]": "array[[1, 2], [3, NULL]], '{}'",
    "jsonb[]": """array['{"a": "b\\"c"}', '[1]', '7']::jsonb[]""",
    "bytea[]": r"array['\x005c22', '\x']::bytea[]",
    "timestamptz[]": "array['2026-03-29 02:30+00', NULL]::timestamptz[]",
    "int4range": "'[1,5)', 'empty', '(,7)', '[3,)'",
    "tstzrange": "'[2026-01-01 00:00+00, 2026-01-02 00:00+00]'",
    "boolean[]": "array[true, NULL, false]",
    "mood": "'so, \"so\"', 'well'",
    "document": """'{"a": 1}'""",
}  # fmt: skip
TYPES = (
    "CREATE TYPE mood AS ENUM ('so, \"so\"', 'well'); CREATE DOMAIN document AS jsonb CHECK (VALUE IS NOT NULL OR true)"
)


def test_every_value_comes_back_as_it_was(empty: Database, project: Project, asked: Any) -> None:
    """Of each type, NULL among them: read, given back by the function, copied, and the same; whatever the session's settings."""
    columns = ", ".join(f'"a {one}" {one}, "b {one}" {one}' for one in VALUES)
    table = f"{TYPES}; CREATE TABLE t (id int PRIMARY KEY, {columns})"
    inserted = ["INSERT INTO t (id) VALUES (0)"]
    for place, (one, value) in enumerate(VALUES.items(), 1):
        for number, part in enumerate(parts(value)):
            inserted.append(
                f'INSERT INTO t (id, "a {one}") SELECT {place * 10 + number}, {part} FROM (VALUES (7)) AS x (g)'
            )
    empty.rows(
        f"ALTER DATABASE {empty.name} SET datestyle = 'SQL, DMY'; ALTER DATABASE {empty.name} SET intervalstyle = sql_standard"
    )
    body = asked(lambda given: [{"id": row["id"], **{f"b {one}": row[f"a {one}"] for one in VALUES}} for row in given])
    names = [f"a {one}" for one in VALUES], [f"b {one}" for one in VALUES]
    fill(project, body, columns=repr(names[0]), writes=repr(names[1]), table=table, rows="; ".join(inserted))

    project.upgrade()

    for one in VALUES:
        found = empty.rows(f'SELECT "a {one}"::text, "b {one}"::text FROM t')
        assert [b for _, b in found] == [a for a, _ in found], one
        assert len([a for a, _ in found if a is not None]) == len(parts(VALUES[one]))


def parts(listed: str) -> list[str]:
    """The values of a list, of which each may have commas within quotes and brackets."""
    found, depth, quoted = [""], 0, False
    for letter in listed:
        quoted ^= letter == "'"
        depth += (letter in "[(") - (letter in ")]") if not quoted else 0
        if letter == "," and not depth and not quoted:
            found.append("")
        else:
            found[-1] += letter
    return [one.strip() for one in found]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id int PRIMARY KEY", "g"),
        ("id text PRIMARY KEY", "E'k%%\\t\\\\é' || g"),
        ("id bytea PRIMARY KEY", "decode(md5(g::text), 'hex')"),
        ("id interval PRIMARY KEY", "g * interval '1 mon 1 day -00:00:01'"),
        ("id timestamptz PRIMARY KEY", "'2026-03-29 00:00+00'::timestamptz + g * interval '7 min 0.000001 s'"),
        ("id int[] PRIMARY KEY", "array[g, NULL]"),
        ("id numeric(30, 10) PRIMARY KEY", "g / 7.0"),
        ("id int", "g"),
    ],
    ids=lambda one: str(one)[:16],
)  # fmt: skip
def test_every_row_is_written_once_whatever_the_key(
    empty: Database, project: Project, asked: Any, key: str, value: str
) -> None:
    """The function sees each row once and never more than a batch, and each is one higher; also where no key is there."""
    seen: list[int] = []

    def higher(given: Iterable[Any]) -> Iterator[Any]:
        took = list(given)
        seen.append(len(took))
        for row in took:
            row["n"] += 1
            yield {**row, "done": True}

    body = asked(higher)
    table = f"CREATE TABLE t ({key}, n int NOT NULL DEFAULT 0, done boolean)"
    inserted = f"INSERT INTO t (id) SELECT {value.replace('%%', '%')} FROM generate_series(1, 5000) AS g"
    fill(project, body, writes='["n", "done"]', more=', where="filled.done IS NULL"', table=table, rows=inserted)
    empty.rows("ANALYZE t")

    project.upgrade()

    assert empty.rows("SELECT n, done, count(*) FROM t GROUP BY 1, 2") == [(1, True, 5000)]
    assert sum(seen) == 5000 and max(seen) <= 800  # by blocks a batch is as many rows as are thought to be in them
    assert batches(empty) >= 7
    assert empty.value("SELECT sum(rows_written) FROM migration.backfill_range") == 5000


def test_rows_that_the_function_leaves_out_are_not_written(empty: Database, project: Project, asked: Any) -> None:
    """It gives every tenth row of those that meet the predicate, and of the others not even the version is another."""
    fill(
        project,
        asked(lambda given: ({**row, "n": 5} for row in given if row["id"] % 10 == 0)),
        more=', where="filled.id > 50"',
    )
    before = dict(empty.rows("SELECT id, xmin::text FROM t WHERE id <= 50 OR id % 10 <> 0"))

    project.upgrade()

    assert dict(empty.rows("SELECT id, xmin::text FROM t WHERE n = 0")) == before
    assert empty.value("SELECT count(*) FROM t WHERE n = 5") == 1195
    assert empty.rows("SELECT sum(rows_seen), sum(rows_written) FROM migration.backfill_range") == [(12_000, 1195)]


def test_a_row_that_changes_while_it_is_computed_is_computed_again(
    empty: Database, project: Project, asked: Any
) -> None:
    """The function itself has somebody change and delete rows of its batch: nobody waits, and the newer values are computed."""
    calls: list[list[int]] = []

    def slow(given: Iterable[Any]) -> list[Any]:
        took = list(given)
        calls.append([row["id"] for row in took])
        if len(calls) <= 2:
            empty.rows(f"SET lock_timeout = '100ms'; UPDATE t SET n = n + 100 * {len(calls)} WHERE id IN (3, 5)")
            empty.rows("SET lock_timeout = '100ms'; DELETE FROM t WHERE id = 7")
        return [{**row, "n": row["n"] + 1} for row in took]

    fill(project, asked(slow))

    project.upgrade()

    assert calls[0] == list(range(1, 701))
    assert calls[1:3] == [[3, 5], [3, 5]]
    assert empty.rows("SELECT id, n FROM t WHERE n <> 1 ORDER BY id") == [(3, 301), (5, 301)]
    assert empty.value("SELECT sum(rows_written) FROM migration.backfill_range") == 11_999


def test_no_change_of_the_application_is_lost(empty: Database, project: Project, asked: Any) -> None:
    """Writers add to the rows all the time, and the function adds 1000 to each: both are in every row."""
    done, wrote = threading.Event(), []

    def write() -> None:
        with empty.connect() as connection, connection.cursor() as cursor:
            while not done.is_set():
                cursor.execute("UPDATE t SET n = n + 1 WHERE id = %s", (random.randint(1, 300),))
                wrote.append(1)

    body = asked(lambda given: [{**row, "n": row["n"] + 1000} for row in list(given)])
    fill(project, body, rows=ROWS.format(count=3000))
    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()

    try:
        project.upgrade()
    finally:
        done.set()
        for writer in writers:
            writer.join()

    assert empty.value("SELECT sum(n) FROM t") == 3000 * 1000 + len(wrote)
    assert empty.value("SELECT count(*) FROM t WHERE n < 1000") == 0


def test_a_row_that_never_stands_still_is_busy(
    empty: Database, project: Project, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changed each time while it is computed, it is not computed for ever; once it stands still, the same command goes on."""
    moving = [True]

    def never(given: Iterable[Any]) -> list[Any]:
        took = list(given)
        if moving[0] and any(row["id"] == 3 for row in took):
            empty.rows("UPDATE t SET n = n + 1 WHERE id = 3")
        return [{**row, "note": "x"} for row in took]

    monkeypatch.setattr("mcp_planner_schema.backfill.engine._LOCKED_TRIES", 2)
    monkeypatch.setattr(rows, "_TRIES", 2)
    fill(project, asked(never), writes='["note"]', columns="[]", rows=ROWS.format(count=20))

    with pytest.raises(Busy):
        project.upgrade()
    before = empty.rows("SELECT id FROM t WHERE note = 'x' ORDER BY id")
    moving[0] = False
    project.upgrade()

    assert before == [(1,), (2,)]
    assert empty.value("SELECT count(*) FROM t WHERE note = 'x'") == 20


def test_where_the_function_fails_is_named(empty: Database, project: Project) -> None:
    """At the row that it had taken last; the batches before stay, and corrected the same name has another function."""
    fill(project, 'return [{**row, "n": 1 + 0 // (1001 - row["id"])} for row in rows]')

    with pytest.raises(Refused, match="backfill-function") as refused:
        project.upgrade()
    [found] = refused.value.findings
    after = empty.rows("SELECT id FROM t WHERE n = 1 ORDER BY 1")
    empty.rows("DELETE FROM t WHERE id = 1001")
    project.upgrade()

    assert found.values["row"] == "the row 1001"
    assert found.values["error"].startswith("ZeroDivisionError")
    assert after == [(number,) for number in range(1, 701)]
    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 11_999)]


def test_another_function_under_the_same_name_is_refused(empty: Database, project: Project) -> None:
    """What was begun by one function is not gone on with by another."""
    fill(project, 'return [{**row, "n": 1 + 0 // (1001 - row["id"])} for row in rows]')
    with pytest.raises(Refused, match="backfill-function"):
        project.upgrade()

    path = next(project.versions.glob("002*"))
    path.write_text(path.read_text().replace('"n": 1 + 0 // (1001 - row["id"])', '"n": 2'))

    with pytest.raises(Refused, match="backfill-differs"):
        project.upgrade()


@pytest.mark.parametrize(
    ("answers", "row", "said"),
    [
        ([{"id": 1, "n": 1}, {"id": 1, "n": 2}], "the row 1", "twice"),
        ([{"id": 999_999, "n": 1}], "the row 999999", "none of the batch's"),
        ([{"id": 1, "n": 1, "note": "x"}], "the row 1", "note is none of writes"),
        ([{"id": 1}], "the row 1", "n is in writes"),
        ([{"n": 1}], "a row", "not a mapping with id"),
        ([(1, 2)], "a row", "not a mapping with id"),
        ([{"id": 2, "n": object()}], "the row 2", "type object"),
    ],
    ids=["twice", "elsewhere", "unknown column", "column missing", "no key", "no mapping", "no value"],
)
def test_what_the_function_may_not_give_is_refused(
    empty: Database, project: Project, asked: Any, answers: list[Any], row: str, said: str
) -> None:
    """Nothing of its batch is written, and the row is named."""
    fill(project, asked(lambda given: answers))

    with pytest.raises(Refused, match="backfill-function") as refused:
        project.upgrade()

    values = refused.value.findings[0].values
    assert values["row"] == row and said in values["error"]
    assert empty.value("SELECT sum(n) FROM t") == 0
    assert empty.rows("SELECT version_num FROM alembic_version") == [("001",)]


@pytest.mark.parametrize(
    ("value", "said"),
    [("-1 if row['id'] == 777 else 1", "violates check"), ("2**40 if row['id'] == 777 else 1", "out of range")],
)
def test_a_value_that_the_table_does_not_take_is_named(
    empty: Database, project: Project, value: str, said: str
) -> None:
    """A check of the table, and a type: after three failures the row is looked for, and the rows before it are written."""
    fill(
        project,
        f'return [{{**row, "n": {value}}} for row in rows]',
        table=TABLE.replace("DEFAULT 0", "DEFAULT 0 CHECK (n >= 0)"),
    )

    with pytest.raises(Refused, match="backfill-row") as refused:
        project.upgrade()

    assert refused.value.findings[0].values["row"] == "777"
    assert said in refused.value.findings[0].values["error"]
    assert empty.value("SELECT count(*) FROM t WHERE n = 1") == 776


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("workers", ["1", pytest.param("3", marks=pytest.mark.long)])
@pytest.mark.long
def test_killed_at_random_each_row_is_written_once(empty: Database, project: Project, workers: str) -> None:
    """SIGKILL again and again, while Python computes and while it is written: no row is added to twice, none is left."""
    body = 'import time\n    for row in rows:\n        time.sleep(0.0001)\n        yield {**row, "n": row["n"] + 1}'
    fill(project, body, rows=ROWS.format(count=6000))
    empty.rows("ANALYZE t")
    environment = {**os.environ, "DATABASE_URL": empty.url, "PYTHONPATH": str(ROOT)}
    kills = 0

    for _ in range(4):
        arguments = [sys.executable, "-c", KILLED, str(0.5 + random.random()), workers]
        ended = subprocess.run(arguments, cwd=project.folder, env=environment, capture_output=True, check=False)
        if ended.returncode == 0:
            break
        assert ended.returncode in (-signal.SIGKILL, 75), ended.stderr
        kills += ended.returncode == -signal.SIGKILL
    else:
        project.upgrade()

    assert kills >= 1
    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 6000)]
    assert empty.value("SELECT sum(rows_written) FROM migration.backfill_range") == 6000


SLOW = (
    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0.001); RETURN NEW; END$$;"
    "CREATE TRIGGER slow BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION slow()"
)


@pytest.mark.parametrize(
    ("meanwhile", "stop"),
    [
        ("SQL", signal.SIGTERM),
        ("Python", signal.SIGINT),
        *(
            pytest.param(*one, marks=pytest.mark.long)
            for one in (
                ("SQL", signal.SIGINT),
                ("Python", signal.SIGTERM),
                ("written", signal.SIGINT),
                ("written", signal.SIGTERM),
            )
        ),
    ],
)
@pytest.mark.long
def test_stopped_in_a_batch_it_says_so_and_goes_on(
    empty: Database, project: Project, meanwhile: str, stop: signal.Signals
) -> None:
    """While SQL runs, Python computes, or what it gave is written: stopped, not broken, and the same command does the rest."""
    count = ROWS.format(count=3000)
    if meanwhile == "SQL":
        begin(project, 'op.backfill("t", set={"n": "filled.n + 1"}, batch=700)', table=f"{TABLE}; {SLOW}", rows=count)
    elif meanwhile == "Python":
        slow = 'import time\n    for row in rows:\n        time.sleep(0.001)\n        yield {**row, "n": row["n"] + 1}'
        fill(project, slow, rows=count)
    else:
        fill(project, 'return [{**row, "n": row["n"] + 1} for row in rows]', table=f"{TABLE}; {SLOW}", rows=count)

    running = subprocess.Popen([sys.executable, "-m", "alembic", "upgrade", "head"], cwd=project.folder, text=True,
                               env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)  # fmt: skip
    while running.poll() is None and not empty.value("SELECT count(*) FROM t WHERE n = 1"):
        pass
    running.send_signal(stop)
    said = running.communicate()[1]
    between = empty.value("SELECT count(*) FROM t WHERE n = 1")
    project.upgrade()

    assert running.returncode == 75, said
    assert f"Stopped by {stop.name} in revision 002" in said
    assert "current_setting" not in said
    assert 0 < between < 3000
    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 3000)]


def test_stopped_it_says_how_many_rows_are_done(empty: Database, project: Project) -> None:
    """Ctrl-C in a backfill: what is told is the rows and where they go on, and no SQL that nobody has written."""
    count = ROWS.format(count=3000)
    begin(project, 'op.backfill("t", set={"n": "filled.n + 1"}, batch=500)', table=f"{TABLE}; {SLOW}", rows=count)

    running = subprocess.Popen([sys.executable, "-m", "alembic", "upgrade", "head"], cwd=project.folder, text=True,
                               env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)  # fmt: skip
    until(lambda: running.poll() is not None or empty.value("SELECT count(*) FROM t WHERE n = 1"))
    running.send_signal(signal.SIGINT)
    said = running.communicate()[1]

    done = int(empty.value("SELECT count(*) FROM t WHERE n = 1"))
    assert re.search(
        rf"\n{done:,} of [0-9,]+ rows of backfill t.n are done; alembic upgrade head goes on there\.\n", said
    )
    assert "MATERIALIZED" not in said and "current_setting" not in said


def test_several_tables_in_one_revision(empty: Database, project: Project, asked: Any) -> None:
    """Partitions, and a second backfill: each has other columns and types, and no temporary table is left in the session."""
    table = (
        "CREATE TABLE t (id int NOT NULL, k int NOT NULL, n int NOT NULL DEFAULT 0, PRIMARY KEY (k, id)) PARTITION BY LIST (k);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);"
        "CREATE TABLE t2 (gone text, n int NOT NULL DEFAULT 0, id int NOT NULL, k int NOT NULL); ALTER TABLE t2 DROP gone;"
        "ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2); CREATE TABLE u (id text PRIMARY KEY, note jsonb)"
    )
    inserted = (
        "INSERT INTO t SELECT g, 1 + g % 2 FROM generate_series(1, 3000) AS g; "
        "INSERT INTO u SELECT g FROM generate_series(1, 9) AS g"
    )
    body = asked(lambda given: [{**row, **({"n": row["k"]} if "k" in row else {"note": [row["id"]]})} for row in given])
    fill(project, body, columns="[]", table=table, rows=inserted)
    path = next(project.versions.glob("002*"))
    also = 'op.backfill("u", rows=fill, writes=["note"])\n    assert not op.get_bind().exec_driver_sql(' + (
        "\"SELECT count(*) FROM pg_class WHERE relpersistence = 't'\").scalar()"
    )
    path.write_text(path.read_text().replace("batch=700)", f"batch=700)\n    {also}"))

    project.upgrade()

    assert empty.rows("SELECT k, n, count(*) FROM t GROUP BY 1, 2 ORDER BY 1") == [(1, 1, 1500), (2, 2, 1500)]
    assert empty.value("SELECT count(*) FROM u WHERE note = jsonb_build_array(id)") == 9


def test_a_function_cannot_be_written_as_sql(project: Project) -> None:
    """Offline there are no rows to ask it with."""
    project.revision("001", "fill_t", 'op.backfill("t", rows=print, writes=["n"], key=["id"])', 'op.execute("SELECT 1")',
                     transaction="none", type="data", reversible="lossless")  # fmt: skip

    ended = project.alembic("upgrade", "head", "--sql", DATABASE_URL="postgresql://nobody@localhost/nothing")

    assert ended.returncode == 3 and "a Python function cannot be written as SQL" in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [{}, {"rows": print}, {"rows": print, "writes": ["n"], "set": {"n": "1"}}, {"set": {"n": "1"}, "columns": ["n"]},
     {"statement": "x", "writes": ["n"]}],
    ids=["nothing", "no writes", "two ways", "columns of nothing", "writes of nothing"],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(arguments: Any) -> None:
    """When the operation is made, before anything runs."""
    with pytest.raises(ValueError, match="backfill of t"):
        BackfillRows("t", **arguments)
