"""Triggers fire for what a backfill writes, unless a stated reason puts them to sleep: for the batch, and for nobody else."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from mcp_planner_schema.guard.findings import Busy, Refused
from mcp_planner_schema.inspect import ahead
from mcp_planner_schema.operations.backfill import BackfillRows
from tests.conftest import ROOT, Database, Project
from tests.test_backfill import ROWS, TABLE, begin, locked, small  # noqa: F401
from tests.test_backfill_back import keeping

FUNCTION = (
    "CREATE FUNCTION {0}() RETURNS trigger LANGUAGE plpgsql AS "
    "$$BEGIN INSERT INTO seen VALUES ('{0}', NEW.id); RETURN NEW; END$$"
)
TRIGGER = "CREATE TRIGGER {0} AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION {0}()"
AUDITED = "; ".join([
    TABLE, "CREATE TABLE seen (name text, id int)",
    *(one.format(name) for name in ("audit", "touch", "gone", "always", "replica") for one in (FUNCTION, TRIGGER)),
    "ALTER TABLE t DISABLE TRIGGER gone", "ALTER TABLE t ENABLE ALWAYS TRIGGER always",
    "ALTER TABLE t ENABLE REPLICA TRIGGER replica",
])  # fmt: skip
STATES = (
    "SELECT tgname::text, tgenabled::text FROM pg_trigger WHERE tgrelid = 't'::regclass AND NOT tgisinternal ORDER BY 1"
)
AS_BEFORE = [("always", "A"), ("audit", "O"), ("gone", "D"), ("replica", "R"), ("touch", "O")]


def call(triggers: str) -> str:
    """The call of a backfill that bypasses these."""
    bypass = f'{{"triggers": {triggers}, "reason": "the audit would hold a copy of each row"}}'
    return f'op.backfill("t", set={{"n": "filled.n + 1"}}, batch=700, bypass={bypass})'


@pytest.mark.parametrize(
    ("triggers", "fired"),
    [('["audit"]', ["always", "touch"]), ('["audit", "always"]', ["touch"]), ('"user"', [])],
    ids=["one", "two", "all"],
)
def test_only_those_that_are_named_do_not_fire(
    empty: Database, project: Project, triggers: str, fired: list[str]
) -> None:
    """The others fire for each row, and after the last batch each is in force as it was before."""
    begin(project, call(triggers), table=AUDITED, rows=ROWS.format(count=2000))

    project.upgrade()

    assert empty.rows("SELECT name, count(*) FROM seen GROUP BY 1 ORDER BY 1") == [(name, 2000) for name in fired]
    assert empty.rows(STATES) == AS_BEFORE
    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 2000)]


def test_without_a_word_they_all_fire(empty: Database, project: Project) -> None:
    """Which is what triggers are for."""
    begin(project, 'op.backfill("t", set={"n": "filled.n + 1"})', table=AUDITED, rows=ROWS.format(count=500))

    project.upgrade()

    assert empty.rows("SELECT name, count(*) FROM seen GROUP BY 1 ORDER BY 1") == [
        ("always", 500), ("audit", 500), ("touch", 500)]  # fmt: skip


def test_the_reason_is_kept(empty: Database, project: Project) -> None:
    """With the backfill, in the history beside what was waived, and on the terminal."""
    begin(project, call('["audit"]'), table=AUDITED, rows=ROWS.format(count=100))

    said = project.alembic("upgrade", "head").stderr

    reason = "the audit would hold a copy of each row"
    assert empty.value("SELECT detail -> 'bypass' FROM migration.backfill") == {"triggers": ["audit"], "reason": reason}
    told = f"backfill t.n bypasses triggers audit | {reason}"
    assert empty.value("SELECT waivers FROM migration.history ORDER BY id DESC LIMIT 1") == [told]
    assert f"bypasses triggers audit: {reason}" in said


@pytest.mark.parametrize(
    "bypass",
    [{"triggers": ["a"]}, {"triggers": ["a"], "reason": " "}, {"reason": "x"}, {"triggers": "audit", "reason": "x"},
     {"triggers": [], "reason": "x"}, {"triggers": ["a"], "reason": "x", "tables": ["u"]}],
    ids=["no reason", "a blank one", "no trigger", "no list", "an empty list", "something else"],
)  # fmt: skip
def test_nothing_less_and_nothing_more_may_be_said(bypass: Any) -> None:
    """When the operation is made, before anything runs."""
    with pytest.raises(ValueError, match="backfill of t"):
        BackfillRows("t", set={"n": "1"}, bypass=bypass)


def test_a_name_that_no_trigger_has_is_refused(empty: Database, project: Project) -> None:
    """A misspelt name would leave the trigger awake, and nobody would see it."""
    begin(project, call('["audits"]'), table=AUDITED, rows=ROWS.format(count=100))

    with pytest.raises(Refused, match="operation-missing") as refused:
        project.upgrade()

    assert refused.value.findings[0].values["what"] == "trigger audits of t"
    assert empty.value("SELECT sum(n) FROM t") == 0


def test_foreign_keys_stay_in_force(empty: Database, project: Project) -> None:
    """Also those that are checked at the end of the transaction: the row is named, and the triggers are awake again."""
    key = "ALTER TABLE t ADD FOREIGN KEY (n) REFERENCES t DEFERRABLE INITIALLY DEFERRED"
    table = f"{AUDITED}; {key}; INSERT INTO t VALUES (0, 0)"
    begin(project, call('"user"'), table=table, rows="INSERT INTO t SELECT g, g - 1 FROM generate_series(1, 900) AS g")
    empty.rows("DELETE FROM t WHERE id = 900; UPDATE t SET n = 899 WHERE id = 500")

    with pytest.raises(Refused, match="backfill-row") as refused:
        project.upgrade()

    assert refused.value.findings[0].values["row"] == "500"
    assert "foreign key" in refused.value.findings[0].values["error"]
    assert empty.rows(STATES) == AS_BEFORE
    assert empty.value("SELECT max(id) FROM t WHERE n = id") == 499


def test_partitions_python_and_kept_values(empty: Database, project: Project) -> None:
    """The triggers of a partitioned table sleep in each partition, when Python computes and old values are kept, too."""
    table = (
        "CREATE TABLE t (id int, n int NOT NULL, note text, PRIMARY KEY (id)) PARTITION BY RANGE (id);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (1000); CREATE TABLE t2 PARTITION OF t DEFAULT;"
        f"CREATE TABLE seen (name text, id int); {FUNCTION.format('audit')}; {TRIGGER.format('audit')};"
        f"{FUNCTION.format('touch')}; {TRIGGER.format('touch')}; ALTER TABLE t2 ENABLE ALWAYS TRIGGER audit"
    )
    up = 'op.backfill("t", rows=fill, columns=["n"], writes=["n"], bypass={"triggers": ["audit"], "reason": "a test"})'
    code = 'def fill(rows):\n    return [{**row, "n": row["n"] + 1} for row in rows]\n\n\n'
    keeping(project, up, 'op.give_back_backfill("t", ["n"])', table=table, more=code, count=2000)
    states = "SELECT tgrelid::regclass::text, tgname::text, tgenabled::text FROM pg_trigger WHERE tgname = 'audit' ORDER BY 1"
    before = empty.rows(states)

    project.upgrade()

    assert empty.rows("SELECT count(*), count(*) FILTER (WHERE n = id + 1) FROM t") == [(2000, 2000)]
    assert empty.rows("SELECT name, count(*) FROM seen GROUP BY 1") == [("touch", 2000)]
    assert empty.rows("SELECT count(*) FROM migration_stash_1.t WHERE n = id") == [(2000,)]
    assert empty.rows(states) == before


def test_who_writes_meanwhile_is_audited_and_waits_no_longer_than_the_deadline(
    empty: Database, project: Project
) -> None:
    """Two writers all the time: their own triggers fire for each of their rows, for none of the batches', and no wait is long."""
    begin(project, call('"user"').replace("batch=700, ", ""), table=AUDITED, rows=ROWS.format(count=30_000))
    took: list[float] = []
    done = threading.Event()

    def write() -> None:
        with empty.connect() as connection, connection.cursor() as cursor:
            while not done.is_set():
                began = time.monotonic()
                cursor.execute("UPDATE t SET note = 'x' WHERE id = %s", (random.randint(1, 30_000),))
                took.append(time.monotonic() - began)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        project.upgrade()
    finally:
        done.set()
        for writer in writers:
            writer.join()

    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 30_000)]
    assert empty.rows("SELECT name, count(*) FROM seen GROUP BY 1 ORDER BY 1") == [
        (name, len(took)) for name in ("always", "audit", "touch")
    ]
    assert max(took) < 0.45  # 0.2 s, and two cores that are both at work


def test_a_table_that_somebody_keeps_is_tried_for_and_left_alone(empty: Database, project: Project) -> None:
    """An open transaction has written: no other writer is kept behind the backfill, which ends as busy, and then goes on."""
    begin(project, call('["audit"]'), table=AUDITED, rows=ROWS.format(count=1000))
    took: list[float] = []
    done = threading.Event()

    def write() -> None:
        with empty.connect() as connection, connection.cursor() as cursor:
            while not done.is_set():
                began = time.monotonic()
                cursor.execute("UPDATE t SET note = 'x' WHERE id = 7")
                took.append(time.monotonic() - began)

    with locked(empty, "UPDATE t SET note = 'mine' WHERE id = 5"):
        writer = threading.Thread(target=write)
        writer.start()
        with pytest.raises(Busy, match="keeps t locked"):
            project.upgrade()
        done.set()
        writer.join()
    before = empty.value("SELECT sum(n) FROM t")
    project.upgrade()

    assert before == 0 and empty.value("SELECT sum(n) FROM t") == 1000
    assert max(took) < 0.3  # a quarter of the deadline behind the lock that waits, and two cores


@pytest.mark.long
def test_killed_no_trigger_stays_asleep(empty: Database, project: Project) -> None:
    """SIGKILL in the middle of a batch, again and again: each is in force as it was, and each row is written once."""
    slow = (
        call('"user"')
        .replace("filled.n + 1", "filled.n + 1 + length(pg_sleep(0.0003)::text)")
        .replace("batch=700", "batch=300")
    )
    begin(project, slow, table=AUDITED, rows=ROWS.format(count=3000))
    environment = {**os.environ, "DATABASE_URL": empty.url, "PYTHONPATH": str(ROOT)}
    done = met = 0

    for _ in range(4):
        running = subprocess.Popen([sys.executable, "-m", "alembic", "upgrade", "head"], cwd=project.folder, env=environment,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        while running.poll() is None and empty.value("SELECT count(*) FROM t WHERE n = 1") <= done:
            pass
        time.sleep(random.random() / 20)
        running.kill()
        running.wait()
        empty.rows("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() "
                   "AND pid <> pg_backend_pid()")  # fmt: skip
        assert empty.rows(STATES) == AS_BEFORE
        now = empty.value("SELECT count(*) FROM t WHERE n = 1")
        met += done < now < 3000
        done = now
    project.upgrade()

    assert met >= 2
    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 3000)]
    assert empty.rows(STATES) == AS_BEFORE and empty.value("SELECT count(*) FROM seen") == 0


def test_a_dry_run_tells_only_of_those_that_will_fire(empty: Database, project: Project) -> None:
    """Whoever looks beforehand sees what is left awake; of a Python function the columns that it writes are known."""
    begin(project, call('["audit"]'), table=AUDITED, rows=ROWS.format(count=100))

    told = ahead.lines(project.config(), ["002"])

    assert "--   triggers that fire: always, touch" in told
