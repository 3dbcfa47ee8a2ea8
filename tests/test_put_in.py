"""What a downgrade has moved into a table that stays is in one table again, also where people had changed it in between."""

from __future__ import annotations

import logging

import pytest

from tests.conftest import Database, Project
from tests.test_backfill import ordinary  # noqa: F401  # a fixture
from tests.test_restore import down_and_up, two
from tests.test_stash import sql

TASKS = "CREATE TABLE task (id int{key}, title text, done bool); "
ROWS = "INSERT INTO task VALUES (1, 'one', true), (2, 'two', true), (3, 'three', false)"
ARCHIVE = [
    "CREATE TABLE archive (id int{key}, title text, done bool)",
    "INSERT INTO archive SELECT * FROM task WHERE done",
    "DELETE FROM task WHERE done",
]
BACK = "INSERT INTO task SELECT * FROM archive; DROP TABLE archive"
USED = {
    "one is open again": ("UPDATE archive SET done = false WHERE id = 1", 1),
    "one was put there by hand": ("INSERT INTO archive VALUES (9, 'nine', false)", 1),
    "one has another title": ("UPDATE archive SET title = 'uno' WHERE id = 1", 0),
    "one has another number": ("UPDATE archive SET id = 77, done = NULL WHERE id = 1", 1),
}


@pytest.mark.parametrize("key", [" PRIMARY KEY", ""])
@pytest.mark.parametrize("between", ["SELECT", "INSERT INTO task VALUES (4, 'four', true)"])
@pytest.mark.parametrize("used", USED)
def test_a_row_is_in_one_of_two_tables(
    empty: Database, project: Project, used: str, between: str, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The upgrade moves by a condition that the changed row does not fulfil: it is in the archive, as it was."""
    did, moved = USED[used]
    two(project, TASKS.format(key=key) + ROWS, "", BACK, ups="\n".join(sql(one.format(key=key)) for one in ARCHIVE))
    empty.rows(did)
    had = {table: empty.rows(f"SELECT * FROM {table} ORDER BY id") for table in ("task", "archive")}
    newer = [(4, "four", True)] if between != "SELECT" else []

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, between)

    assert empty.rows("SELECT * FROM task ORDER BY id") == had["task"]
    assert empty.rows("SELECT * FROM archive ORDER BY id") == sorted([*had["archive"], *newer])
    told = "removed 1 rows of task that the downgrade had put there, and that are in archive again"
    assert (told in caplog.text) == bool(moved)
    if moved:
        assert empty.value('SELECT count(*) FROM migration_stash_1."guard:aside_1_written_2"') == 1


def test_a_row_that_was_written_since_or_is_referred_to_stays(empty: Database, project: Project) -> None:
    """Only what nobody has touched since the downgrade goes."""
    setup = (
        TASKS.format(key=" PRIMARY KEY") + ROWS + "; CREATE TABLE note (task_id int REFERENCES task ON DELETE CASCADE)"
    )
    two(project, setup, "", BACK, ups="\n".join(sql(one.format(key=" PRIMARY KEY")) for one in ARCHIVE))
    empty.rows("UPDATE archive SET done = false")
    empty.rows("INSERT INTO archive VALUES (5, 'five', false)")

    down_and_up(project, empty, "UPDATE task SET title = 'newer' WHERE id = 1; INSERT INTO note VALUES (2)")

    assert empty.rows("SELECT id, title FROM task ORDER BY id") == [(1, "newer"), (2, "two"), (3, "three")]
    assert empty.rows("SELECT * FROM note") == [(2,)]


def test_a_log_keeps_what_the_downgrade_has_said(empty: Database, project: Project) -> None:
    """What is of another form than what went is no row of it."""
    setup = "CREATE TABLE log (id serial PRIMARY KEY, said text)"
    up = "CREATE TABLE t (id int PRIMARY KEY, title text, done bool)"
    two(project, setup, up, "INSERT INTO log (said) SELECT format('gone: %s', title) FROM t; DROP TABLE t")
    empty.rows("INSERT INTO t VALUES (1, 'one', true)")

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT said FROM log") == [("gone: one",)]
    assert empty.rows("SELECT * FROM t") == [(1, "one", True)]


def test_a_row_that_was_there_before_stays(empty: Database, project: Project) -> None:
    """The upgrade copies, and the downgrade puts the copies in the place of the rows."""
    back = f"DELETE FROM task t USING archive a WHERE a.id = t.id; {BACK}"
    two(project, TASKS.format(key=" PRIMARY KEY") + ROWS, "", back,
        ups="\n".join(sql(one.format(key=" PRIMARY KEY")) for one in ARCHIVE[:2]))  # fmt: skip
    had = empty.rows("SELECT * FROM task ORDER BY id")

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT * FROM task ORDER BY id") == had
    assert empty.rows("SELECT id FROM archive ORDER BY id") == [(1,), (2,)]


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "NO ACTION"])
def test_what_refers_to_a_row_of_a_partition_keeps_it(empty: Database, project: Project, action: str) -> None:
    """The key is that of the table it is a partition of; a row that is only about to be referred to stays as well."""
    setup = (
        "CREATE TABLE task (id int PRIMARY KEY, title text, done bool) PARTITION BY RANGE (id); "
        f"CREATE TABLE task1 PARTITION OF task DEFAULT; {ROWS}; "
        f"CREATE TABLE note (task_id int REFERENCES task ON DELETE {action})"
    )
    two(project, setup, "", BACK, ups="\n".join(sql(one.format(key=" PRIMARY KEY")) for one in ARCHIVE))
    empty.rows("UPDATE archive SET done = false")
    project.downgrade("-1")
    empty.rows("INSERT INTO note VALUES (2)")
    with empty.connect(autocommit=False) as other:
        other.cursor().execute("INSERT INTO note VALUES (1)")

        project.upgrade()

        other.commit()
    assert empty.rows("SELECT task_id FROM note ORDER BY 1") == [(1,), (2,)]
    assert empty.rows("SELECT id FROM task ORDER BY 1") == [(1,), (2,), (3,)]


@pytest.mark.parametrize("type_", ["task_id", "mood", 'text COLLATE "POSIX"', "int[]", "numeric"])
def test_a_key_of_any_type(empty: Database, project: Project, type_: str) -> None:
    """Types of one's own are text in the copy, and collations are the copy's own."""
    setup = (
        "CREATE DOMAIN task_id AS int; CREATE TYPE mood AS ENUM ('1', '2'); "
        f"CREATE TABLE task (id {type_} PRIMARY KEY, done bool); CREATE TABLE archive0 (id {type_} PRIMARY KEY, done bool)"
    )
    ups = [
        f"CREATE TABLE archive (id {type_.replace('POSIX', 'C')} PRIMARY KEY, done bool)",
        "INSERT INTO archive SELECT * FROM task WHERE done", "DELETE FROM task WHERE done",
    ]  # fmt: skip
    two(project, setup, "", BACK, ups="\n".join(map(sql, ups)))
    empty.rows(f"INSERT INTO archive VALUES ('{'{1}' if type_ == 'int[]' else 1}', false)")

    down_and_up(project, empty, "SELECT")

    assert len(empty.rows("SELECT * FROM archive")) == 1
    assert empty.rows("SELECT * FROM task") == []


def test_another_row_under_its_number_is_not_meant(empty: Database, project: Project) -> None:
    """A log of the same columns whose numbers are its own."""
    two(project, "CREATE TABLE log (id serial PRIMARY KEY, title text)", "CREATE TABLE t (id int PRIMARY KEY, title text, x int)",
        "INSERT INTO log (title) SELECT 'gone: ' || title FROM t; DROP TABLE t")  # fmt: skip
    empty.rows("INSERT INTO t VALUES (1, 'one', 1)")

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT title FROM log") == [("gone: one",)]


def test_two_equal_rows_that_nothing_tells_stay(empty: Database, project: Project) -> None:
    """One comes out of the archive, the other of somewhere else."""
    two(project, TASKS.format(key="") + "SELECT", "",
        "INSERT INTO task SELECT * FROM archive; INSERT INTO task SELECT * FROM other; DROP TABLE archive, other",
        ups="\n".join(map(sql, ["CREATE TABLE archive (id int, title text, done bool)",
                                "CREATE TABLE other (id int, title text, done bool)"])))  # fmt: skip
    empty.rows("INSERT INTO archive VALUES (1, 'one', true); INSERT INTO other VALUES (1, 'one', true)")

    down_and_up(project, empty, "DROP TABLE IF EXISTS nothing")

    assert len(empty.rows("SELECT * FROM task")) == 2
    assert len(empty.rows("SELECT * FROM archive UNION ALL SELECT * FROM other")) == 2


@pytest.mark.parametrize("how", ["a trigger's", "the body's own"])
def test_an_audit_keeps_what_the_downgrade_has_made(empty: Database, project: Project, how: str) -> None:
    """It has all columns of the table and some of its own, and the upgrade makes nothing of it."""
    audit = (
        "CREATE TABLE audit (audit_id bigserial PRIMARY KEY, op text DEFAULT 'D', at timestamptz DEFAULT now(), "
        "id int, title text); "
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO audit (id, title) VALUES (OLD.id, OLD.title); RETURN OLD; END'"
    )
    up = "CREATE TABLE t (id int PRIMARY KEY, title text)"
    down = "INSERT INTO audit (id, title) SELECT * FROM t; DROP TABLE t"
    if how == "a trigger's":
        up += "; CREATE TRIGGER audit BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION audit()"
        down = "DELETE FROM t; DROP TABLE t"
    two(project, audit, up, down)
    empty.rows("INSERT INTO t VALUES (1, 'one'), (2, 'two')")

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT id, title FROM audit ORDER BY 1") == [(1, "one"), (2, "two")]
    assert empty.rows("SELECT * FROM t ORDER BY 1") == [(1, "one"), (2, "two")]


def test_a_corrected_revision_leaves_rows_where_it_wants_them(empty: Database, project: Project) -> None:
    """It archives less than before: what it leaves in the table stays there."""
    key = " PRIMARY KEY"
    two(project, TASKS.format(key=key) + ROWS, "", BACK, ups="\n".join(sql(one.format(key=key)) for one in ARCHIVE))
    project.downgrade("-1")
    project.revision("002", "alter_things", "\n".join(sql(one.format(key=key)) for one in ARCHIVE[:2]), sql(BACK))

    project.upgrade()

    assert empty.rows("SELECT id FROM task ORDER BY 1") == [(1,), (2,), (3,)]


def test_whole_tables_need_no_temporary_ones(empty: Database, project: Project, ordinary: Database) -> None:  # noqa: F811
    """A role that may make none gets its archive back; what stands in both stays."""
    key = " PRIMARY KEY"
    two(project, TASKS.format(key=key) + ROWS, "", BACK, ups="\n".join(sql(one.format(key=key)) for one in ARCHIVE))
    ordinary.rows("UPDATE archive SET done = false WHERE id = 1")
    empty.rows(f"REVOKE TEMPORARY ON DATABASE {empty.name} FROM PUBLIC, {ordinary.user}")

    down_and_up(project, ordinary, "SELECT")

    assert ordinary.rows("SELECT id FROM archive ORDER BY 1") == [(1,), (2,)]


@pytest.mark.parametrize("moves", [False, True], ids=["the application", "the upgrade"])
def test_an_archive_with_a_time_of_its_own(empty: Database, project: Project, moves: bool) -> None:
    """It has all columns of the table, whoever moves the rows there."""
    ups = [
        "CREATE TABLE archive (id int PRIMARY KEY, title text, done bool, archived_at timestamptz DEFAULT now())",
        "INSERT INTO archive (id, title, done) SELECT id, title, done FROM task WHERE done AND id < 2",
        "DELETE FROM task WHERE done AND id < 2",
    ]  # fmt: skip
    back = "INSERT INTO task SELECT id, title, done FROM archive; DROP TABLE archive"
    two(project, TASKS.format(key=" PRIMARY KEY") + ROWS, "", back, ups="\n".join(map(sql, ups if moves else ups[:1])))
    empty.rows(
        "WITH gone AS (DELETE FROM task WHERE id = 2 RETURNING *) INSERT INTO archive SELECT *, '2026-01-01' FROM gone"
    )
    had = [empty.rows(f"SELECT * FROM {table} ORDER BY id") for table in ("task", "archive")]

    down_and_up(project, empty, "SELECT")

    assert [empty.rows(f"SELECT * FROM {table} ORDER BY id") for table in ("task", "archive")] == had


def test_parents_go_with_their_children(empty: Database, project: Project) -> None:
    """Two archives of which one refers to the other, and a tree in one table: all of it is in one place again."""
    setup = (
        "CREATE TABLE ord (id int PRIMARY KEY, done bool); INSERT INTO ord VALUES (1, true), (2, false); "
        "CREATE TABLE item (id int PRIMARY KEY, ord_id int REFERENCES ord, up int REFERENCES item); "
        "INSERT INTO item VALUES (1, 1, NULL), (2, 1, 1), (3, 1, 2), (4, 2, NULL)"
    )
    ups = [
        "CREATE TABLE ord_old (id int PRIMARY KEY, done bool)",
        "CREATE TABLE item_old (id int PRIMARY KEY, ord_id int, up int)",
        "INSERT INTO ord_old SELECT * FROM ord WHERE done",
        "INSERT INTO item_old SELECT i.* FROM item i JOIN ord_old o ON o.id = ord_id",
        "DELETE FROM item USING ord_old o WHERE o.id = ord_id",
        "DELETE FROM ord WHERE done",
    ]
    back = "INSERT INTO ord SELECT * FROM ord_old; INSERT INTO item SELECT * FROM item_old ORDER BY id"
    back += "; DROP TABLE ord_old, item_old"
    two(project, setup, "", back, ups="\n".join(map(sql, ups)))
    empty.rows("UPDATE ord_old SET done = false")
    tables = ("ord", "item", "ord_old", "item_old")
    had = [empty.rows(f"SELECT * FROM {table} ORDER BY id") for table in tables]

    down_and_up(project, empty, "SELECT")

    assert [empty.rows(f"SELECT * FROM {table} ORDER BY id") for table in tables] == had


@pytest.mark.parametrize("between", ["INSERT INTO task VALUES (4, 'four', true)", "UPDATE task SET title = 'newer' WHERE id = 1",
                                     "DELETE FROM task WHERE id = 3"])  # fmt: skip
@pytest.mark.parametrize("key", ["int", "serial", "uuid DEFAULT gen_random_uuid()"])
def test_an_archive_says_what_it_said_of_those_nobody_has_touched(
    empty: Database, project: Project, key: str, between: str
) -> None:
    """When and why a row was archived only the archive knows; a write to another task changes nothing of it."""
    number = (lambda n: f"'00000000-0000-0000-0000-00000000000{n}'") if key.startswith("uuid") else str
    type_ = "uuid" if key.startswith("uuid") else "int"
    setup = f"CREATE TABLE task (id {type_} PRIMARY KEY, title text, done bool); INSERT INTO task VALUES " + ", ".join(
        f"({number(n)}, 't{n}', {n < 3})" for n in (1, 2, 3)
    )
    ups = [
        f"CREATE TABLE archive (id {key} PRIMARY KEY, title text, done bool, at date NOT NULL DEFAULT '2026-11-11', why text)",
        "INSERT INTO archive (id, title, done) SELECT id, title, done FROM task WHERE done", "DELETE FROM task WHERE done",
    ]  # fmt: skip
    two(project, setup, "", "INSERT INTO task SELECT id, title, done FROM archive; DROP TABLE archive",
        ups="\n".join(map(sql, ups)))  # fmt: skip
    empty.rows("UPDATE archive SET at = '2020-01-01', why = 'old'")
    for n in (1, 3, 4):
        between = between.replace(f"({n},", f"({number(n)},").replace(f"id = {n}", f"id = {number(n)}")

    down_and_up(project, empty, between)

    said = dict(empty.rows("SELECT title, why FROM archive"))
    assert said["t2"] == "old"
    assert said.get("t1", "none") == ("none" if "newer" in between else "old")
    if "newer" in between:
        assert "newer" in said
    if "INSERT" in between:
        assert said["four"] is None
    assert len(said) == (3 if "INSERT" in between else 2)


@pytest.mark.parametrize("action", ["NO ACTION", "CASCADE", "SET NULL"])
def test_a_root_stays_for_a_leaf_that_stays(empty: Database, project: Project, action: str) -> None:
    """A leaf has a comment by now; what it hangs from stays with it."""
    setup = (
        f"CREATE TABLE task (id int PRIMARY KEY, up int REFERENCES task ON DELETE {action}, done bool); "
        "CREATE TABLE comment (id int PRIMARY KEY, task_id int REFERENCES task ON DELETE CASCADE); "
        "INSERT INTO task VALUES (1, NULL, true), (2, 1, true), (3, NULL, true), (4, 3, true)"
    )
    ups = [
        "CREATE TABLE archive (id int PRIMARY KEY, up int, done bool)", "INSERT INTO archive SELECT * FROM task WHERE done",
        "DELETE FROM task WHERE done",
    ]  # fmt: skip
    two(
        project,
        setup,
        "",
        "INSERT INTO task SELECT * FROM archive ORDER BY id; DROP TABLE archive",
        ups="\n".join(map(sql, ups)),
    )
    empty.rows("UPDATE archive SET done = false")

    down_and_up(project, empty, "INSERT INTO comment VALUES (1, 2)")

    assert empty.rows("SELECT id, up FROM task ORDER BY id") == [(1, None), (2, 1)]
    assert empty.rows("SELECT * FROM comment") == [(1, 2)]
    assert empty.rows("SELECT id FROM archive ORDER BY id") == [(1,), (2,), (3,), (4,)]


def test_the_latest_of_several_is_newer(empty: Database, project: Project) -> None:
    """The table that was moved to has more rows for one number than the one that was moved from."""
    setup = "CREATE TABLE version (id int, n int, title text, PRIMARY KEY (id, n)); "
    setup += "INSERT INTO version VALUES (1, 1, 'old'), (2, 1, 'b')"
    ups = [
        "CREATE TABLE now (id int PRIMARY KEY, title text, why text)",
        "INSERT INTO now SELECT DISTINCT ON (id) id, title FROM version ORDER BY id, n DESC", "DELETE FROM version",
    ]  # fmt: skip
    two(
        project,
        setup,
        "",
        "INSERT INTO version SELECT id, 1, title FROM now; DROP TABLE now",
        ups="\n".join(map(sql, ups)),
    )

    down_and_up(project, empty, "INSERT INTO version VALUES (1, 2, 'newer')")

    assert empty.rows("SELECT id, title FROM now ORDER BY id") == [(1, "newer"), (2, "b")]


def test_a_table_that_publishes_no_deletes_bars_no_way_up(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """Its rows cannot be deleted, as subscribers could not be told which: they stay, and that is said."""
    back = "INSERT INTO task SELECT * FROM archive ON CONFLICT DO NOTHING; DROP TABLE archive"
    two(project, TASKS.format(key=" PRIMARY KEY") + ROWS, "", back,
        ups="\n".join(sql(one.format(key=" PRIMARY KEY")) for one in ARCHIVE[:2]))  # fmt: skip
    empty.rows("DELETE FROM task WHERE id = 1")
    project.downgrade("-1")
    empty.rows("ALTER TABLE task REPLICA IDENTITY NOTHING; CREATE PUBLICATION all_of_it FOR TABLE task")

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        project.upgrade()

    assert empty.rows("SELECT id FROM archive ORDER BY id") == [(1,), (2,)]
    assert "look at task: what the downgrade has put there from archive may be there still" in caplog.text
