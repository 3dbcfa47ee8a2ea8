"""Giving back where PostgreSQL stands in the way, or where what the upgrade moves back is the newer data."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import psycopg2.errors
import pytest
import sqlalchemy as sa
from psycopg2.extras import NumericRange

from mcp_planner_schema.guard import since, stash
from mcp_planner_schema.guard.findings import GuardError, Refused
from tests.conftest import Database, Project
from tests.test_restore import ROWS_A, TABLE_A, down_and_up, there_and_back, two
from tests.test_stash import sql

PARTED = (
    "CREATE TABLE p (id int PRIMARY KEY, k int) PARTITION BY LIST (id); "
    "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1, 2)"
)
# setup, upgrade (a list is one statement each), downgrade, rows written after it, what must be the same
HARD: dict[str, tuple[str, str | list[str], str, str, dict[str, str]]] = {
    "circle through a partition": (
        "CREATE TABLE z ()",
        f"CREATE TABLE k (id int PRIMARY KEY, p int); {PARTED}; "
        "ALTER TABLE k ADD FOREIGN KEY (p) REFERENCES p1; ALTER TABLE p ADD FOREIGN KEY (k) REFERENCES k",
        "DROP TABLE k, p CASCADE",
        "INSERT INTO p VALUES (1), (2); INSERT INTO k VALUES (1, 1), (2, 2); UPDATE p SET k = id", {"k": "*", "p": "*"},
    ),
    "deferrable key": (
        "CREATE TABLE z ()", "CREATE TABLE d (id int PRIMARY KEY DEFERRABLE, p int UNIQUE DEFERRABLE)", "DROP TABLE d",
        "INSERT INTO d VALUES (1, 1), (2, 2)", {"d": "*"},
    ),
    "deferred reference, then an index": (
        TABLE_A + ";" + ROWS_A,
        [
            "CREATE TABLE k (id int PRIMARY KEY, a int REFERENCES a DEFERRABLE INITIALLY DEFERRED)",
            "CREATE INDEX k_a ON k (a)",
        ],
        "DROP TABLE k", "INSERT INTO k VALUES (1, 1)", {"k": "*"},
    ),
    "identity column": (
        TABLE_A + ";" + ROWS_A, "ALTER TABLE a ADD n bigint GENERATED ALWAYS AS IDENTITY", "ALTER TABLE a DROP n",
        "UPDATE a SET n = DEFAULT", {"a": "*"},
    ),
    "a check that calls a function by its bare name": (
        TABLE_A + ";" + ROWS_A + "; CREATE FUNCTION ok(i int) RETURNS bool LANGUAGE sql "
        "AS 'SELECT EXISTS (SELECT FROM a WHERE id = i)'",
        "CREATE TABLE k (id int PRIMARY KEY CHECK (ok(id)))", "DROP TABLE k", "INSERT INTO k VALUES (1)", {"k": "*"},
    ),
    "seeds by a function": (
        "CREATE FUNCTION seed() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO s VALUES (1, 'seed'); END $$",
        ["CREATE TABLE s (id int PRIMARY KEY, v text)", "SELECT seed()"], "DROP TABLE s", "UPDATE s SET v = 'mine'", {"s": "*"},
    ),
    "names of objects": (
        TABLE_A, "CREATE TABLE r (id int PRIMARY KEY, c regclass)", "DROP TABLE r", "INSERT INTO r VALUES (1, 'a'), (2, 'r')",
        {"r": "*"},
    ),
    "a circle with triggers": (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$",
        "CREATE TABLE s (id int PRIMARY KEY, t int); CREATE TABLE t (id int PRIMARY KEY, s int REFERENCES s); "
        "ALTER TABLE s ADD FOREIGN KEY (t) REFERENCES t; CREATE TRIGGER f BEFORE INSERT ON s FOR EACH ROW EXECUTE FUNCTION f()",
        "DROP TABLE s, t CASCADE",
        "ALTER TABLE s DISABLE TRIGGER f; INSERT INTO s VALUES (1, NULL); INSERT INTO t VALUES (2, 1); UPDATE s SET t = 2; "
        "ALTER TABLE s ENABLE TRIGGER f", {"s": "*", "t": "*"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("route", HARD)
def test_what_is_hard_to_put_back_comes_back(empty: Database, project: Project, route: str) -> None:
    """Deferred checks, identity columns, checks, functions and circles stand in no row's way."""
    setup, up, down, rows, tables = HARD[route]
    two(project, setup, "", down, ups="\n".join(map(sql, [up] if isinstance(up, str) else up)))
    empty.rows(rows)

    there_and_back(project, empty, tables)


def test_a_moved_column_brings_the_newer_value(empty: Database, project: Project) -> None:
    """Somebody writes to the column that the downgrade moved the values to: the upgrade moves those back, and they stay."""
    two(
        project, "CREATE TABLE a (id int PRIMARY KEY, y text); INSERT INTO a VALUES (1, 'old'), (2, 'old')",
        "ALTER TABLE a ADD x text; UPDATE a SET x = y; ALTER TABLE a DROP y",
        "ALTER TABLE a ADD y text; UPDATE a SET y = x; ALTER TABLE a DROP x",
    )  # fmt: skip

    down_and_up(project, empty, "UPDATE a SET y = 'new' WHERE id = 1")

    assert empty.rows("SELECT id, x FROM a ORDER BY id") == [(1, "new"), (2, "old")]
    assert empty.value("SELECT state FROM migration.stash") == "partly restored"


@pytest.mark.long
def test_a_list_larger_than_work_mem_is_read_once(empty: Database, project: Project) -> None:
    """Which rows were written since is joined to the rows, and not looked up for each of them in a list on disk."""
    empty.rows(f"ALTER DATABASE {empty.name} SET work_mem = '64kB'")
    project.configure(inline_rows="30000")
    two(
        project, "CREATE TABLE a (id int PRIMARY KEY, y text); INSERT INTO a SELECT n, 'old' FROM generate_series(1, 20000) n",
        "ALTER TABLE a ADD x text; UPDATE a SET x = y; ALTER TABLE a DROP y",
        "ALTER TABLE a ADD y text; UPDATE a SET y = x; ALTER TABLE a DROP x",
    )  # fmt: skip
    project.downgrade("-1")
    empty.rows("UPDATE a SET y = 'new' WHERE id % 2 = 1")
    plans: list[str] = []

    def explained(connection: sa.Connection, cursor: Any, sql: str, *_: Any) -> None:
        if sql.startswith("UPDATE ONLY") or "guard:aside" in sql:
            with cursor.connection.cursor() as beside:
                beside.execute(f"EXPLAIN {sql}")
                plans.append("\n".join(row[0] for row in beside.fetchall()))

    sa.event.listen(sa.Engine, "before_cursor_execute", explained)
    try:
        project.upgrade()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", explained)

    assert empty.rows("SELECT x, count(*) FROM a GROUP BY x ORDER BY x") == [("new", 10000), ("old", 10000)]
    assert plans
    assert not [plan for plan in plans if "SubPlan" in plan]


def test_a_split_table_brings_the_newer_rows(empty: Database, project: Project) -> None:
    """Merged back by the downgrade, written to, and split again: what was written meanwhile is what stands there."""
    two(
        project, "CREATE TABLE u (id int PRIMARY KEY, e text); INSERT INTO u VALUES (1, 'old')",
        "CREATE TABLE em (u int PRIMARY KEY REFERENCES u, e text); INSERT INTO em SELECT id, e FROM u; ALTER TABLE u DROP e",
        "ALTER TABLE u ADD e text; UPDATE u SET e = em.e FROM em WHERE em.u = u.id; DROP TABLE em",
    )  # fmt: skip

    down_and_up(project, empty, "UPDATE u SET e = 'new'; INSERT INTO u VALUES (2, 'mine')")

    assert empty.rows("SELECT u, e FROM em ORDER BY u") == [(1, "new"), (2, "mine")]


@pytest.mark.parametrize("asks", [since.written_since, since.untouched])
def test_nobody_writes_to_what_the_rows_were_moved_to_once_it_was_looked_at(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, asks: Any
) -> None:
    """Who would write between the look at those tables and the upgrade waits; before it, what is written is the newer one."""
    two(
        project, "CREATE TABLE u (id int PRIMARY KEY, e text); INSERT INTO u VALUES (1, 'old')",
        "CREATE TABLE em (u int PRIMARY KEY REFERENCES u, e text); INSERT INTO em SELECT id, e FROM u; ALTER TABLE u DROP e",
        "ALTER TABLE u ADD e text; UPDATE u SET e = em.e FROM em WHERE em.u = u.id; DROP TABLE em",
    )  # fmt: skip
    project.downgrade("-1")
    waited = []

    def looked(*given: Any, **named: Any) -> Any:
        found = asks(*given, **named)
        with empty.connect() as other, other.cursor() as cursor:
            cursor.execute("SET lock_timeout = '300ms'")
            try:
                cursor.execute("UPDATE u SET e = 'new'")
            except psycopg2.errors.LockNotAvailable:
                waited.append(True)
        return found

    monkeypatch.setattr(since, asks.__name__, looked)

    project.upgrade()

    assert waited
    assert empty.rows("SELECT u, e FROM em") == [(1, "old")]
    assert empty.rows("SELECT state FROM migration.stash") == [("restored",)]


def test_what_the_upgrade_wrote_and_is_replaced_is_set_aside(
    empty: Database, project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    """A seed that was changed comes back changed; the upgrade's own is kept beside it and told."""
    ups = sql(TABLE_A) + "\n" + sql("INSERT INTO a VALUES (1, 'seed', 1)")
    two(project, "CREATE TABLE z ()", "", "DROP TABLE a", ups=ups)
    empty.rows("UPDATE a SET v = 'mine'")

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT v FROM a") == [("mine",)]
    told = capfd.readouterr().err
    place = told.partition("they are in ")[2].split("\n")[0]
    assert empty.rows(f"SELECT v FROM {place}") == [("seed",)]


def test_an_older_stash_is_not_the_bodys_to_empty(empty: Database, project: Project) -> None:
    """A downgrade that truncates what another one kept is refused, and the rows are still there."""
    project.revision("001", "create_things", sql("CREATE TABLE z ()"), sql("TRUNCATE migration_stash_1.a"))
    project.revision("002", "alter_things", sql(TABLE_A), sql("DROP TABLE a"))
    project.upgrade()
    empty.rows(ROWS_A)
    project.downgrade("-1")

    with pytest.raises(Refused, match=r"it writes to what the guard keeps: migration_stash_1\.a"):
        project.downgrade("-1")

    assert empty.value("SELECT count(*) FROM migration_stash_1.a") == 5


def test_a_failed_downgrade_leaves_no_sequence_behind(empty: Database, project: Project) -> None:
    """setval() outlasts the rollback of a body that fails; the sequence stands where it stood all the same."""
    two(
        project, "CREATE TABLE a (id serial PRIMARY KEY); INSERT INTO a SELECT FROM generate_series(1, 5)",
        "COMMENT ON TABLE a IS 'x'", "SELECT setval('a_id_seq', 1); SELECT 1 / 0",
    )  # fmt: skip

    with pytest.raises(GuardError, match="division by zero"):
        project.downgrade("-1")

    assert empty.value("SELECT last_value FROM a_id_seq") == 5


def test_a_row_that_came_since_the_trial_is_kept_or_refused(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that the trial saw written anew without harm is held to its counters: a row that only now matches is not lost."""
    two(
        project, TABLE_A + ";" + ROWS_A, "SELECT 1",
        "ALTER TABLE a ADD c uuid DEFAULT gen_random_uuid(); DELETE FROM a WHERE v = 'obsolete'",
    )  # fmt: skip
    keep = stash.keep

    def late(*given: Any) -> Any:
        with empty.connect() as other, other.cursor() as cursor:
            cursor.execute("INSERT INTO a VALUES (99, 'obsolete', 1)")
        return keep(*given)

    monkeypatch.setattr(stash, "keep", late)

    with pytest.raises(Refused, match="run for real it changes or deletes more rows than in its trial"):
        project.downgrade("-1")

    assert empty.value("SELECT count(*) FROM a WHERE id = 99") == 1


def test_a_body_that_commits_and_writes_is_refused(empty: Database, project: Project) -> None:
    """Its locks end with its first commit, so a row that comes later could go unseen: refused, though its trial met none."""
    base = sql(TABLE_A + ";" + ROWS_A)
    project.revision("001", "create_things", base, "raise NotImplementedError", reversible="forward-only: the base")
    up = "with op.get_context().autocommit_block():\n    op.execute('CREATE INDEX CONCURRENTLY ix ON a (v)')"
    down = sql("DELETE FROM a WHERE v = 'obsolete'") + "\n"
    down += "with op.get_context().autocommit_block():\n    op.execute('DROP INDEX CONCURRENTLY ix')"
    project.revision("002", "alter_things", up, down, transaction="none")
    project.upgrade()

    with pytest.raises(Refused, match="it commits in the middle and writes to a"):
        project.downgrade("-1")

    assert empty.value("SELECT count(*) FROM a") == 5


def test_a_table_made_bit_by_bit_comes_back_with_its_seeds_as_they_were(empty: Database, project: Project) -> None:
    """Columns that later statements add, and seeds that a child of theirs refers to, stand in nobody's way; a seed that
    somebody had deleted is gone again at the end."""
    ups = [
        "CREATE TABLE a (id int PRIMARY KEY)", "INSERT INTO a VALUES (1), (2)", "ALTER TABLE a ADD x int",
        "ALTER TABLE a ADD y int",
        "CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a)", "INSERT INTO b VALUES (1, 2)",
    ]  # fmt: skip
    two(project, "CREATE TABLE z ()", "", "DROP TABLE b, a", ups="\n".join(map(sql, ups)))
    empty.rows("DELETE FROM b; DELETE FROM a WHERE id = 2; UPDATE a SET x = 7, y = 8; INSERT INTO a VALUES (3, 9, 9)")

    there_and_back(project, empty, {"a": "*", "b": "*"})


def test_other_steps_on_the_way_are_nobodys_writing(empty: Database, project: Project) -> None:
    """Changed rows, and a column that the upgrade fills, come back though steps below have made the whole table anew."""
    project.revision(
        "001", "create_z", sql("CREATE TABLE z ()"), "raise NotImplementedError", reversible="forward-only: the base"
    )
    project.revision("002", "create_a", sql(TABLE_A), sql("DROP TABLE a"))
    up = "ALTER TABLE a ADD x text; UPDATE a SET x = 'filled'"
    project.revision("003", "add_x", sql(up), sql("UPDATE a SET v = 'gone' WHERE id > 2; ALTER TABLE a DROP x"))
    project.upgrade()
    empty.rows(ROWS_A + "; UPDATE a SET x = 'mine ' || id")
    before = empty.rows("SELECT * FROM a ORDER BY id")

    project.downgrade("001")
    project.upgrade()

    assert empty.rows("SELECT * FROM a ORDER BY id") == before
    assert empty.rows("SELECT DISTINCT state FROM migration.stash") == [("restored",)]


def test_a_publication_of_all_tables_bars_no_way_back(empty: Database, project: Project) -> None:
    """What is published needs a replica identity to be deleted from; the guard's own tables and copies have one."""
    two(project, TABLE_A + ";" + ROWS_A, "ALTER TABLE a ADD x int", "DELETE FROM a WHERE id > 2; ALTER TABLE a DROP x")
    empty.rows("CREATE PUBLICATION everything FOR ALL TABLES; UPDATE a SET x = id")

    there_and_back(project, empty, {"a": "*"})


@pytest.mark.parametrize("action", ["NO ACTION", "RESTRICT", "SET NULL", "SET DEFAULT"])
def test_a_row_that_others_refer_to_since_keeps_its_value(empty: Database, project: Project, action: str) -> None:
    """What the downgrade renamed, and somebody refers to by its new name since, stays so: the newer row keeps its reference."""
    two(
        project,
        "CREATE TABLE a (id int PRIMARY KEY, code text UNIQUE); INSERT INTO a VALUES (1, 'x'), (2, 'y'); "
        f"CREATE TABLE k (id int PRIMARY KEY, code text DEFAULT 'none' REFERENCES a (code) ON UPDATE {action}); "
        "INSERT INTO a VALUES (0, 'none')",
        "COMMENT ON TABLE a IS 'x'",
        "UPDATE a SET code = code || '2' WHERE id > 0",
    )

    down_and_up(project, empty, "INSERT INTO k VALUES (1, 'x2')")

    assert empty.rows("SELECT id, code FROM a ORDER BY id") == [(0, "none"), (1, "x2"), (2, "y")]
    assert empty.rows("SELECT code FROM k") == [("x2",)]
    assert empty.value("SELECT state FROM migration.stash") == "partly restored"


def test_references_that_followed_follow_back(empty: Database, project: Project) -> None:
    """ON UPDATE SET NULL took references away in the downgrade: with the old values they are back."""
    two(
        project,
        "CREATE TABLE a (id int PRIMARY KEY, code text UNIQUE); INSERT INTO a VALUES (1, 'x'), (2, 'y'); "
        "CREATE TABLE k (id int PRIMARY KEY, code text REFERENCES a (code) ON UPDATE SET NULL); "
        "INSERT INTO k VALUES (1, 'x'), (2, 'y')",
        "COMMENT ON TABLE a IS 'x'",
        "UPDATE a SET code = code || '2'",
    )

    there_and_back(project, empty, {"a": "*", "k": "*"})


def test_rows_that_another_step_has_written_anew_are_no_newer_ones(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """A table goes and comes back between, and somebody inserts into it: the changed rows are what the downgrade has left."""
    project.revision(
        "001", "create_a",
        sql("CREATE TABLE a (id serial PRIMARY KEY, v text); INSERT INTO a (v) SELECT 'v' || n FROM generate_series(1, 40) n"),
        sql("DROP TABLE a"),
    )  # fmt: skip
    project.revision(
        "002", "fill_a", sql("UPDATE a SET v = upper(v)"),
        sql("UPDATE a SET v = 'lost' WHERE id < 20; DELETE FROM a WHERE id > 30"),
    )  # fmt: skip
    project.upgrade()
    before = empty.rows("SELECT * FROM a ORDER BY id")

    project.downgrade("-1")
    empty.rows("INSERT INTO a (v) VALUES ('new')")
    project.downgrade("base")
    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        project.upgrade()

    assert empty.rows("SELECT * FROM a ORDER BY id") == [*before, (41, "NEW")]
    assert "restored changed rows of a: 29 rows" in caplog.text


def test_rows_whose_key_lost_a_column_are_never_taken_for_others(empty: Database, project: Project) -> None:
    """Nothing tells any more which row is which: the newer value stays, no row stands there twice, the stash holds all."""
    made = "CREATE TABLE z (a int CONSTRAINT z_pkey PRIMARY KEY, v text)"
    made += "; INSERT INTO z SELECT n, 'z' || n FROM generate_series(1, 5) n"
    up = "ALTER TABLE z ADD b int NOT NULL DEFAULT 1, DROP CONSTRAINT z_pkey, ADD CONSTRAINT z_pkey PRIMARY KEY (a, b)"
    down = (
        "DELETE FROM z WHERE b > 1; UPDATE z SET v = upper(v); "
        "ALTER TABLE z DROP CONSTRAINT z_pkey, DROP b, ADD CONSTRAINT z_pkey PRIMARY KEY (a)"
    )
    two(project, made, up, down)
    empty.rows("INSERT INTO z VALUES (3, 'second', 7)")
    kept = empty.rows("SELECT * FROM z ORDER BY a, b")

    down_and_up(project, empty, "UPDATE z SET v = 'newer' WHERE a = 1")

    assert empty.rows("SELECT a, v FROM z ORDER BY a") == [(1, "newer"), *((n, f"Z{n}") for n in range(2, 6))]
    assert empty.rows("SELECT a, v, b FROM migration_stash_1.z ORDER BY a, b") == kept
    assert empty.value("SELECT state FROM migration.stash") == "partly restored"


UNIQUE = {
    "changed rows": (
        "CREATE TABLE z (id int PRIMARY KEY, v text UNIQUE); INSERT INTO z SELECT n, 'Z' || n FROM generate_series(1, 5) n",
        ["COMMENT ON TABLE z IS 'x'"], "UPDATE z SET v = lower(v)", "SELECT 1", "INSERT INTO z VALUES (9, 'Z3')",
        [(1, "Z1"), (2, "Z2"), (3, "z3"), (4, "Z4"), (5, "Z5"), (9, "Z3")],
    ),
    "rows that had exchanged their values": (
        "CREATE TABLE z (id int PRIMARY KEY, v text NOT NULL UNIQUE); "
        "INSERT INTO z SELECT n, 'Z' || n FROM generate_series(1, 4) n",
        ["COMMENT ON TABLE z IS 'x'"],
        "UPDATE z SET v = lower(v); UPDATE z SET v = 'Z2' WHERE id = 1; UPDATE z SET v = 'Z1' WHERE id = 2", "SELECT 1",
        "INSERT INTO z VALUES (9, 'Z4')", [(1, "Z1"), (2, "Z2"), (3, "Z3"), (4, "z4"), (9, "Z4")],
    ),
    "values of a column": (
        "CREATE TABLE z (id int PRIMARY KEY); INSERT INTO z SELECT generate_series(1, 5)",
        ["ALTER TABLE z ADD v text", "UPDATE z SET v = 'T' || id", "ALTER TABLE z ALTER v SET NOT NULL, ADD UNIQUE (v)"],
        "ALTER TABLE z DROP v",
        "UPDATE z SET v = 'T9' WHERE id = 3; UPDATE z SET v = 'x' WHERE id = 1; UPDATE z SET v = 'T1' WHERE id = 2; "
        "UPDATE z SET v = 'T2' WHERE id = 1", "INSERT INTO z VALUES (9)",
        [(1, "T2"), (2, "T1"), (3, "T3"), (4, "T4"), (5, "T5"), (9, "T9")],
    ),
    "an index of an expression": (
        "CREATE TABLE z (id int PRIMARY KEY, v text); CREATE UNIQUE INDEX ON z (lower(v)); "
        "INSERT INTO z SELECT n, 'Z' || n FROM generate_series(1, 9) n",
        ["COMMENT ON TABLE z IS 'x'"], "UPDATE z SET v = v || '!'", "SELECT 1", "INSERT INTO z VALUES (10, 'z4'), (11, 'z8')",
        [*((n, f"Z{n}!" if n in (4, 8) else f"Z{n}") for n in range(1, 10)), (10, "z4"), (11, "z8")],
    ),
    "an index of some rows": (
        "CREATE TABLE z (id int PRIMARY KEY, v text); CREATE UNIQUE INDEX ON z (v) WHERE v <> 'free'; "
        "INSERT INTO z SELECT n, CASE WHEN n < 4 THEN 'free' ELSE 'Z' || n END FROM generate_series(1, 6) n",
        ["COMMENT ON TABLE z IS 'x'"], "UPDATE z SET v = v || id || '!'", "SELECT 1",
        "INSERT INTO z VALUES (10, 'Z4'), (11, 'free')",
        [(1, "free"), (2, "free"), (3, "free"), (4, "Z44!"), (5, "Z5"), (6, "Z6"), (10, "Z4"), (11, "free")],
    ),
    "an exclusion": (
        "CREATE TABLE z (id int PRIMARY KEY, v int4range, EXCLUDE USING gist (v WITH &&)); "
        "INSERT INTO z SELECT n, int4range(n * 10, n * 10 + 5) FROM generate_series(1, 4) n",
        ["COMMENT ON TABLE z IS 'x'"], "UPDATE z SET v = int4range(lower(v) + 100, upper(v) + 100)", "SELECT 1",
        "INSERT INTO z VALUES (9, '[20,21)')",
        [(1, NumericRange(10, 15)), (2, NumericRange(120, 125)), (3, NumericRange(30, 35)), (4, NumericRange(40, 45)),
         (9, NumericRange(20, 21))],
    ),
    "one that follows from another": (
        "CREATE TABLE z (id int PRIMARY KEY, v text UNIQUE); INSERT INTO z VALUES (1, 'A'), (2, 'B'), (3, 'C')",
        ["COMMENT ON TABLE z IS 'x'"],
        "UPDATE z SET v = 'd' WHERE id = 3; UPDATE z SET v = 'C' WHERE id = 2; UPDATE z SET v = 'B' WHERE id = 1", "SELECT 1",
        "INSERT INTO z VALUES (9, 'A')", [(1, "B"), (2, "C"), (3, "d"), (9, "A")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNIQUE)
def test_a_newer_row_keeps_what_only_one_may_have(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """A kept value that somebody's new row has by now stays in the stash and is told; every other row gets its own back."""
    setup, ups, down, mine, meanwhile, rows = UNIQUE[what]
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))
    empty.rows(mine)

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, meanwhile)

    assert empty.rows("SELECT * FROM z ORDER BY id") == rows
    assert "rows stay in" in caplog.text
    assert empty.value("SELECT state FROM migration.stash") == "partly restored"
    assert empty.rows("SELECT relname FROM pg_class WHERE relname = 'guard:going'") == []


EXCHANGED = {
    "an expression": "CREATE UNIQUE INDEX ON z (lower(v))", "some rows": "CREATE UNIQUE INDEX ON z (v) WHERE id > 0",
    "an exclusion": "ALTER TABLE z ADD EXCLUDE USING btree (v WITH =)", "required": "CREATE UNIQUE INDEX ON z (lower(v)); "
    "ALTER TABLE z ALTER v SET NOT NULL",
}  # fmt: skip


@pytest.mark.parametrize("lost", [True, False], ids=["column", "rows"])
@pytest.mark.parametrize("index", EXCHANGED)
def test_exchanged_values_go_back_by_any_index(empty: Database, project: Project, index: str, lost: bool) -> None:
    """Two rows have exchanged what only one may have, and nobody writes meanwhile: both get theirs back."""
    setup = (
        "CREATE TABLE z (id int PRIMARY KEY"
        + ("" if lost else ", v text")
        + "); INSERT INTO z SELECT generate_series(1, 4)"
    )
    fill = "UPDATE z SET v = 'k' || id"
    swap = "UPDATE z SET v = 'x' WHERE id = 1; UPDATE z SET v = 'k1' WHERE id = 2; UPDATE z SET v = 'k2' WHERE id = 1"
    if lost:
        ups = [sql("ALTER TABLE z ADD v text"), sql(fill), sql(EXCHANGED[index])]
        two(project, setup, "", "ALTER TABLE z DROP v", ups="\n".join(ups))
    else:
        two(project, f"{setup}; {fill}; {EXCHANGED[index]}", "COMMENT ON TABLE z IS 'x'", swap)
    if lost:
        empty.rows(swap)

    there_and_back(project, empty, {"z": "*"})


def test_what_follows_a_value_is_not_emptied_with_it(empty: Database, project: Project) -> None:
    """Two rows that had exchanged their codes, and children that follow a code: theirs are not lost for a moment's emptiness."""
    made = (
        "CREATE TABLE z (id int PRIMARY KEY, v text UNIQUE); "
        "CREATE TABLE child (id int PRIMARY KEY, v text REFERENCES z (v) ON UPDATE CASCADE); "
        "INSERT INTO z VALUES (1, 'a'), (2, 'b')"
    )
    swap = "UPDATE z SET v = 'x' WHERE id = 1; UPDATE z SET v = 'a' WHERE id = 2; UPDATE z SET v = 'b' WHERE id = 1"
    two(project, made, "COMMENT ON TABLE z IS 'x'", swap)
    empty.rows("INSERT INTO child VALUES (1, 'a'), (2, 'b')")

    down_and_up(project, empty, "SELECT")

    assert empty.value("SELECT count(*) FROM child WHERE v IS NULL") == 0
    assert empty.rows("SELECT id FROM z WHERE v IS NULL") == []


def test_a_required_column_keeps_the_name_of_its_constraint(empty: Database, project: Project) -> None:
    """Values that had been exchanged are empty for a moment; from version 18 on that NOT NULL has a name."""
    made = "CREATE TABLE z (id int PRIMARY KEY, v text CONSTRAINT given NOT NULL UNIQUE); INSERT INTO z VALUES (1, 'a'), (2, 'b')"
    swap = "ALTER TABLE z DROP CONSTRAINT z_v_key; UPDATE z SET v = CASE v WHEN 'a' THEN 'b' ELSE 'a' END"
    two(project, made, "COMMENT ON TABLE z IS 'x'", f"{swap}; ALTER TABLE z ADD CONSTRAINT z_v_key UNIQUE (v)")
    asked = "SELECT conname, contype FROM pg_constraint WHERE conrelid = 'z'::regclass ORDER BY 1"
    constraints = empty.rows(asked)

    there_and_back(project, empty, {"z": "*"})

    assert empty.rows(asked) == constraints
    assert empty.value("SELECT attnotnull FROM pg_attribute WHERE attrelid = 'z'::regclass AND attname = 'v'")


@pytest.mark.parametrize(
    ("behind", "steps", "written"),
    [(5, [], True), (-5, [], False), (2**31 + 10, [], True), (2**31 - 10, [], True), (3, [(-1, 1)], False), (3, [(1, 2)], True)],
)  # fmt: skip
def test_what_was_written_since_is_told_after_any_number_of_transactions(
    empty: Database, behind: int, steps: list[tuple[int, int]], written: bool
) -> None:
    """A row of a transaction so far behind: xids begin anew after 2^32. What a step has written nobody else has."""
    empty.rows("CREATE TABLE a (id int); INSERT INTO a VALUES (1)")
    xid = int(empty.value("SELECT xmin::text FROM a"))
    kept: Any = SimpleNamespace(xid=str(xid - behind), elsewhere=False)
    ranges = [(xid + first, xid + last) for first, last in steps]

    assert empty.value(f"SELECT {since.written(kept, 'l', ranges)} FROM a AS l") is written
