"""What a backfill overwrites is kept in the statement that writes it, and goes back where nobody has written since."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from mcp_planner_schema.backfill import engine
from mcp_planner_schema.guard.findings import Busy, Refused
from tests.conftest import ROOT, Database, Project
from tests.test_backfill import TABLE, begin, locked, small  # noqa: F401

UP = 'op.backfill("t", set={"n": "filled.n + 1", "note": "\'new \' || filled.id"}, batch=700)'
DOWN = 'op.give_back_backfill("t", ["n", "note"], batch=700)'
NOTED = "INSERT INTO t SELECT g, g, CASE WHEN g % 3 > 0 THEN 'old ' || g END FROM generate_series(1, {count}) AS g"
IN_PYTHON = """def fill(rows):
    return [{"id": row["id"], "n": row["n"] + 1, "note": f"new {row['id']}"} for row in rows]


"""


def keeping(
    project: Project, up: str = UP, down: str = DOWN, *, count: int = 3000, more: str = "", **table: Any
) -> None:
    """A revision that keeps what it overwrites, not run yet, and its table."""
    begin(project, up, rows=table.pop("rows", NOTED.format(count=count)), reversible="stash", **table)
    path = next(project.versions.glob("002*"))
    text = (
        path.read_text()
        .replace("expectations =", f"{more}expectations =")
        .replace('    op.execute("SELECT 1")', f"    {down}")
    )
    path.write_text(text)


def content(database: Database) -> list[tuple[Any, ...]]:
    """All rows."""
    return database.rows("SELECT * FROM t ORDER BY id")


def kept(database: Database) -> list[tuple[Any, ...]]:
    """All that is kept, by the newest stash."""
    number = database.value("SELECT max(id) FROM migration.stash")
    return database.rows(
        f'SELECT id, n, note, "guard:new_0", "guard:new_1" FROM migration_stash_{number}.t ORDER BY id'
    )


@pytest.mark.parametrize("way", ["sql", "python"])
def test_there_and_back_and_there_again_nothing_is_lost(empty: Database, project: Project, way: str) -> None:
    """Rows that the application has changed, made or deleted meanwhile are as it left them; all others have what they had."""
    up = 'op.backfill("t", rows=fill, columns=["n"], writes=["n", "note"], batch=700)'
    keeping(project, up if way == "python" else UP, more=IN_PYTHON if way == "python" else "")
    before = content(empty)

    project.upgrade()
    filled = content(empty)
    empty.rows("UPDATE t SET note = 'mine' WHERE id IN (5, 50); UPDATE t SET n = 0 WHERE id = 6; DELETE FROM t WHERE id = 7;"
               "INSERT INTO t VALUES (9999, 1, 'mine')")  # fmt: skip
    project.downgrade("001")
    back = content(empty)
    empty.rows("UPDATE t SET note = 'again' WHERE id = 8")
    project.upgrade()
    again = content(empty)
    project.downgrade("001")

    assert filled == [(id, n + 1, f"new {id}") for id, n, _ in before]
    mine = {5: (5, 6, "mine"), 50: (50, 51, "mine"), 6: (6, 0, "new 6"), 9999: (9999, 1, "mine")}
    assert back == [mine.get(row[0], row) for row in before if row[0] != 7] + [mine[9999]]
    assert again == [(id, n + 1, f"new {id}") for id, n, _ in back]
    assert content(empty) == [row if row[0] != 8 else (8, 8, "again") for row in back]
    found = empty.rows("SELECT s.direction, s.state, o.row_count, o.restored_rows, o.left_rows FROM migration.stash s "
                       "JOIN migration.stash_object o ON o.stash_id = s.id ORDER BY s.id")  # fmt: skip
    assert found == [("upgrade", "partly restored", 3000, 2996, 4), ("upgrade", "restored", 3000, 3000, 0)]


def test_what_does_not_go_back_is_told(empty: Database, project: Project) -> None:
    """How many rows have their old values, how many keep newer ones, how many are gone."""
    keeping(project)
    said = project.alembic("upgrade", "head").stderr
    empty.rows("UPDATE t SET note = 'mine' WHERE id <= 20; DELETE FROM t WHERE id > 2990")

    told = project.alembic("downgrade", "001").stderr

    assert "the old values of 3,000 rows are kept in" in said
    assert "2,970 rows have their old values again; 20 were changed since and keep the newer ones; 10 are gone" in told


def test_an_interrupted_way_back_is_finished_before_it_goes_up_again(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some rows have their old values and the version says that all have new ones: going up is refused until it is through."""
    keeping(project)
    project.upgrade()
    monkeypatch.setattr(engine, "_LOCKED_TRIES", 1)
    with locked(empty, "SELECT FROM t WHERE id = 2500 FOR UPDATE"), pytest.raises(Busy):
        project.downgrade("001")

    with pytest.raises(Refused, match="downgrade-interrupted"):
        project.upgrade()
    project.downgrade("001")
    back = empty.value("SELECT count(*) FROM t WHERE note LIKE 'new %'")
    project.upgrade()

    assert back == 0
    assert empty.value("SELECT count(*) FROM t WHERE note LIKE 'new %'") == 3000


def test_the_stash_commands_know_what_was_kept(empty: Database, project: Project) -> None:
    """List, show and verify tell of it; restoring is the downgrade's; changed by somebody it is damaged, and stays."""
    keeping(project)
    project.upgrade()

    def asked(*words: str) -> tuple[int, str]:
        ended = subprocess.run([sys.executable, "-m", "mcp_planner_schema", *words], cwd=project.folder, capture_output=True,
                               text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
        return ended.returncode, ended.stdout + ended.stderr

    number = empty.value("SELECT id FROM migration.stash")
    listed, shown, verified = (
        asked("migrate-stash-list"),
        asked("migrate-stash-show", f"ID={number}"),
        asked("migrate-stash-verify"),
    )
    restored = asked("migrate-restore", "VERSION=002")
    empty.rows(f"UPDATE migration_stash_{number}.t SET n = 70 WHERE id = 7")
    damaged = asked("migrate-stash-verify")

    assert listed[0] == 0 and "002" in listed[1]
    assert shown[0] == 0 and "changed rows of t" in shown[1] and "3000" in shown[1]
    assert verified[0] == 0
    assert restored[0] == 3 and "no stash of it waits" in restored[1]
    assert damaged[0] == 1
    with pytest.raises(Refused, match="stash-damaged"):
        project.downgrade("001")
    assert empty.value("SELECT count(*) FROM t WHERE note LIKE 'new %'") == 3000


@pytest.mark.usefixtures("small")
@pytest.mark.long
@pytest.mark.parametrize("workers", ["1", "3"])
def test_killed_at_random_what_is_kept_is_what_was_written(empty: Database, project: Project, workers: str) -> None:
    """After each SIGKILL the kept keys are those of the rows that are filled, with their old values; and all goes back."""
    slow = UP.replace("filled.n + 1", "filled.n + 1 + length(pg_sleep(0.0002)::text)")
    keeping(project, slow, count=6000)
    before = content(empty)
    empty.rows("ANALYZE t")
    environment = {**os.environ, "DATABASE_URL": empty.url, "PYTHONPATH": str(ROOT)}
    done, checked = 0, 0

    for _ in range(4):
        arguments = [sys.executable, "-m", "alembic", "-x", f"workers={workers}", "upgrade", "head"]
        running = subprocess.Popen(arguments, cwd=project.folder, env=environment, stderr=subprocess.DEVNULL)
        while running.poll() is None and empty.value("SELECT count(*) FROM t WHERE n > id") <= done:
            pass
        time.sleep(random.random() / 10)
        running.kill()
        running.wait()
        empty.rows("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() "
                   "AND pid <> pg_backend_pid()")  # fmt: skip
        filled = {row[0] for row in content(empty) if row[1] > row[0]}
        assert [row[:3] for row in kept(empty)] == [row for row in before if row[0] in filled]
        checked += done < len(filled) < 6000
        done = len(filled)
    project.upgrade()
    count = empty.value("SELECT count(*) FROM migration.stash")
    project.downgrade("001")

    assert checked >= 2 and count == 1
    assert content(empty) == before


def test_a_row_that_changes_meanwhile_is_kept_as_it_was_then(empty: Database, project: Project) -> None:
    """The batch waits for somebody's row: kept is the value that this has put there, and not the one of the batch's snapshot."""
    keeping(project, count=500)
    with empty.connect(autocommit=False) as first, first.cursor() as cursor:
        cursor.execute("UPDATE t SET n = 1000, note = 'mine' WHERE id = 250")
        running = threading.Thread(target=project.upgrade)
        running.start()
        wait_for_a_waiter(empty)
        first.commit()
        running.join()

    assert [row for row in kept(empty) if row[0] == 250] == [(250, 1000, "mine", 1001, "new 250")]
    assert empty.rows("SELECT n, note FROM t WHERE id = 250") == [(1001, "new 250")]


def wait_for_a_waiter(database: Database) -> None:
    """Until somebody waits for a row's lock."""
    while not database.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        pass


def test_a_row_that_is_filled_twice_goes_back_to_what_it_was(empty: Database, project: Project) -> None:
    """Another pass writes it once more: its first value goes back; where somebody has put one in between, that one."""
    up = (
        'op.backfill("t", set={"n": "filled.n + 1"}, where="filled.n < 6", repeatable=True,\n'
        '    verify="SELECT count(*) FROM t WHERE n < 6")'
    )
    keeping(
        project,
        up,
        'op.give_back_backfill("t", ["n"])',
        rows="INSERT INTO t SELECT g, 3 FROM generate_series(1, 9) AS g",
    )
    empty.rows("CREATE FUNCTION back() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
               "UPDATE t SET n = 1 WHERE id = 4; RETURN NULL; END$$; CREATE TRIGGER back AFTER UPDATE ON t FOR EACH ROW "
               "WHEN (OLD.n = 5 AND NEW.id = 3) EXECUTE FUNCTION back()")  # fmt: skip

    project.upgrade()
    filled = empty.rows("SELECT id, n FROM t ORDER BY id")
    project.downgrade("001")

    assert filled == [(number, 6) for number in range(1, 10)]
    assert empty.rows("SELECT id, n FROM t WHERE n <> 3 ORDER BY id") == [(4, 1)]


def test_a_partitioned_table_and_types_of_ones_own(empty: Database, project: Project) -> None:
    """Rows of partitions are kept in one place; an enum and JSON (which knows no equality) too, and a type may then go."""
    table = (
        "CREATE TYPE mood AS ENUM ('so', 'well'); CREATE TABLE t (id int, k int, \"a %\" mood, j json, PRIMARY KEY (k, id))"
        "PARTITION BY LIST (k); CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);"
        'CREATE TABLE t2 (j json, gone text, "a %" mood, k int NOT NULL, id int NOT NULL); ALTER TABLE t2 DROP gone;'
        "ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2)"
    )
    rows = (
        "INSERT INTO t SELECT g, 1 + g % 2, CASE WHEN g % 5 > 0 THEN 'so'::mood END, CASE WHEN g % 7 > 0 THEN "
        "json_build_object('x', g) END FROM generate_series(1, 900) AS g"
    )
    up = 'op.backfill("t", set={"a %": "\'well\'", "j": "\'[1]\'"}, name="both")'
    keeping(project, up, 'op.give_back_backfill("t", ["a %", "j"], name="both")', table=table, rows=rows)
    shown = 'SELECT id, k, "a %"::text, j::text FROM t ORDER BY id'
    before = empty.rows(shown)

    project.upgrade()
    filled = empty.rows('SELECT "a %"::text, j::text, count(*) FROM t GROUP BY 1, 2')
    empty.rows("""UPDATE t SET j = '[1, 2]' WHERE id = 9; UPDATE t SET "a %" = NULL WHERE id = 10""")
    project.downgrade("001")

    assert filled == [("well", "[1]", 900)]
    assert empty.rows(shown) == [
        {9: (9, 2, "well", "[1, 2]"), 10: (10, 1, None, "[1]")}.get(one[0], one) for one in before
    ]


def test_an_interrupted_way_back_goes_on(empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What had gone back before is not given back once more, be it changed since, and is counted."""
    keeping(project)
    before = content(empty)
    project.upgrade()
    monkeypatch.setattr(engine, "_LOCKED_TRIES", 1)
    with locked(empty, "SELECT FROM t WHERE id = 2500 FOR UPDATE"), pytest.raises(Busy):
        project.downgrade("001")
    between = empty.value("SELECT count(*) FROM t WHERE n = id")
    empty.rows("UPDATE t SET n = n + 1, note = 'new ' || id WHERE id = 1")

    project.downgrade("001")

    assert 0 < between < 2500
    assert content(empty) == [(1, 2, "new 1"), *before[1:]]
    assert empty.rows("SELECT restored_rows, left_rows FROM migration.stash_object") == [(3000, 0)]


@pytest.mark.parametrize(
    ("table", "up", "problem"),
    [
        (TABLE.replace("PRIMARY KEY", "UNIQUE NOT NULL"), UP, "no primary key"),
        (TABLE + "; CREATE TABLE child (PRIMARY KEY (id)) INHERITS (t)", UP, "inherit"),
    ],
    ids=["no key", "heirs"],
)
def test_what_cannot_be_kept_is_refused_beforehand(
    empty: Database, project: Project, table: str, up: str, problem: str
) -> None:
    """Where nothing would tell which old value is whose, no row is written."""
    keeping(project, up, table=table, count=100)
    before = content(empty)

    with pytest.raises(Refused, match="backfill-not-kept") as refused:
        project.upgrade()

    assert problem in refused.value.findings[0].values["problem"]
    assert content(empty) == before


def test_nothing_kept_is_nothing_given_back(empty: Database, project: Project) -> None:
    """Filled when the header said lossless, or purged since: the downgrade says so, and goes down."""
    keeping(project)
    path = next(project.versions.glob("002*"))
    text = path.read_text()
    path.write_text(text.replace("Reversible: stash", "Reversible: lossless"))
    project.upgrade()
    path.write_text(text)

    told = project.alembic("downgrade", "001")

    assert told.returncode == 0 and "nothing was kept when it was filled" in told.stderr
    assert empty.value("SELECT count(*) FROM t WHERE note LIKE 'new %'") == 3000


def test_what_was_kept_cannot_be_told_as_sql(empty: Database, project: Project) -> None:
    """Offline nobody knows in which stash it lies."""
    keeping(project)

    ended = project.alembic("downgrade", "002:001", "--sql")

    assert ended.returncode == 3 and re.search(
        "give_back_backfill.*known to the database only", ended.stderr, re.DOTALL
    )
