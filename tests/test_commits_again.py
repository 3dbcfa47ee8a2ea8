"""Upgrades that commit in the middle: changed and deleted rows come back all the same, and what others write there stays."""

from __future__ import annotations

import logging

import pytest

from mcp_planner_schema import cli
from mcp_planner_schema.guard.findings import GuardError
from tests.conftest import Database, Project
from tests.test_restore import there_and_back
from tests.test_seeds_again import committing
from tests.test_stash import sql
from tests.test_stashes import run

T = (
    "CREATE TABLE t (id serial PRIMARY KEY, v text, n int); CREATE TABLE other (t int REFERENCES t); "
    "INSERT INTO t (v, n) SELECT 'v' || n, n FROM generate_series(1, 6) n"
)
INDEX = "with op.get_context().autocommit_block():\n    op.execute('CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {on}')"
I1, I2 = INDEX.format(name="i1", on="t (v)"), INDEX.format(name="i2", on="t (n)")
DROPS = "DROP INDEX i1; "
# What the upgrade does, and what its downgrade.
WAYS = {
    "changed rows": (["UPDATE t SET v = upper(v)", I1], "UPDATE t SET v = 'lost' WHERE id < 4"),
    "changed after it": ([I1, "UPDATE t SET v = upper(v)"], "UPDATE t SET v = 'lost' WHERE id < 4"),
    "changed before and after": (
        ["UPDATE t SET v = upper(v)", I1, "UPDATE t SET v = v || '!'", I2, "UPDATE t SET v = v || '?'"],
        "DROP INDEX i2; UPDATE t SET v = 'lost'",
    ),
    "deleted rows": (["ALTER TABLE t ADD w int", I1], "ALTER TABLE t DROP w; DELETE FROM t WHERE id > 4"),
    "seeds before": (["INSERT INTO t (v) VALUES ('a'), ('b')", I1], "DELETE FROM t WHERE v IN ('a', 'b') OR id = 2"),
    "seeds after": ([I1, "INSERT INTO t (v) VALUES ('a'), ('b')"], "DELETE FROM t WHERE v IN ('a', 'b') OR id = 2"),
    "seeds around": (
        ["INSERT INTO t (v) VALUES ('a')", I1, I2, "INSERT INTO t (v) VALUES ('b')"],
        "DROP INDEX i2; DELETE FROM t WHERE v IN ('a', 'b') OR id = 2",
    ),
    "renamed between": (
        [
            "UPDATE t SET v = upper(v)", I1, "ALTER TABLE t RENAME v TO text; ALTER TABLE t RENAME id TO key",
             "ALTER TABLE t RENAME TO tt"],
        "ALTER TABLE tt RENAME TO t; ALTER TABLE t RENAME text TO v; ALTER TABLE t RENAME key TO id; UPDATE t SET v = 'lost'",
    ),
    "rewritten after it": (
        ["UPDATE t SET v = upper(v)", I1, "ALTER TABLE t ALTER n TYPE bigint"],
        "ALTER TABLE t ALTER n TYPE int; UPDATE t SET v = 'lost' WHERE id < 4",
    ),
    "a column, overwritten later": (
        ["ALTER TABLE t ADD w text", I1, "UPDATE t SET w = 'from ' || v", I2, "UPDATE t SET w = w || '!'"],
        "DROP INDEX i2; ALTER TABLE t DROP w",
    ),
}  # fmt: skip


def body(parts: list[str]) -> list[str]:
    """Statements as calls; what is Python already, as it is."""
    return [part if part.startswith(("with ", "import ")) else sql(part) for part in parts]


@pytest.mark.parametrize("way", WAYS)
def test_what_the_downgrade_changed_comes_back_over_a_commit(empty: Database, project: Project, way: str) -> None:
    """What nobody has written to since is known after the commit too, whatever the body itself does to it."""
    up, down = WAYS[way]
    committing(project, T, body(up), DROPS + down)
    name = "tt" if way == "renamed between" else "t"
    empty.rows(f"UPDATE {name} SET n = 100 + n")
    if "overwritten" in way:
        empty.rows("UPDATE t SET w = 'mine' WHERE id = 2")

    there_and_back(project, empty, {name: "*"})

    assert empty.rows("SELECT relname FROM pg_class WHERE relname ~ '^guard:(?!aside_)'") == []


def meanwhile(index: str, statement: str) -> str:
    """Between two transactions of the body another session writes and commits, as soon as there is a table ``go``."""
    lines = [
        index,
        "    if op.get_bind().exec_driver_sql(\"SELECT to_regclass('go')\").scalar():",
        "        import sqlalchemy",
        "        engine = sqlalchemy.create_engine(op.get_bind().engine.url)",
        "        with engine.begin() as other:",
        f"            other.exec_driver_sql({statement!r})",
        "        engine.dispose()",
    ]
    return "\n".join(lines)


AFTER = {"nothing": "SELECT", "an update": "UPDATE t SET n = n + 1", "a rewrite": "ALTER TABLE t ALTER n TYPE bigint"}
BETWEEN = {
    "changed": ("UPDATE t SET v = 'newer' WHERE id IN (1, 5)", {1: "newer", 5: "newer"}),
    "deleted": ("DELETE FROM t WHERE id IN (2, 5)", {2: None, 5: None}),
    "inserted": ("INSERT INTO t VALUES (50, 'newer')", {50: "newer"}),
    "in a deleted one's place": ("INSERT INTO t VALUES (6, 'newer')", {6: "newer"}),
}


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("between", BETWEEN)
def test_what_others_write_between_two_transactions_stays(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture, between: str, after: str
) -> None:
    """They may as soon as the body has committed: their rows stay as they are, also where the body changes them after that."""
    statement, stays = BETWEEN[between]
    narrow = "ALTER TABLE t ALTER n TYPE int; " if "TYPE" in AFTER[after] else ""
    down = f"DROP INDEX i1; {narrow}UPDATE t SET v = 'lost' WHERE id < 4; DELETE FROM t WHERE id = 6"
    committing(project, T, [sql("UPDATE t SET v = upper(v)"), meanwhile(I1, statement), sql(AFTER[after])], down)
    expected = dict(empty.rows("SELECT id, v FROM t")) | stays
    project.downgrade("-1")
    empty.rows("CREATE TABLE go ()")

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        project.upgrade()

    assert dict(empty.rows("SELECT id, v FROM t")) == {id_: v for id_, v in expected.items() if v is not None}
    lost = {1, 2, 3, 6} & stays.keys()
    assert empty.rows("SELECT state FROM migration.stash") == [("partly restored" if lost else "restored",)]
    assert ("1 rows stay in" in caplog.text) == bool(lost)


@pytest.mark.parametrize("after", ["nothing", "an update"])
def test_a_value_that_others_write_between_two_transactions_stays(
    empty: Database, project: Project, after: str
) -> None:
    """The column is everybody's after the commit: what somebody sets there is newer, what the body sets itself is not."""
    write = "UPDATE t SET w = 'newer' WHERE id = 1"
    update = "UPDATE t SET w = 'mine' WHERE id = 2" if after == "an update" else "SELECT"
    committing(project, T, [sql("ALTER TABLE t ADD w text"), meanwhile(I1, write), sql(update)], "ALTER TABLE t DROP w")
    empty.rows("UPDATE t SET w = 'kept ' || id WHERE id < 4")
    project.downgrade("-1")
    empty.rows("CREATE TABLE go ()")

    project.upgrade()

    assert empty.rows("SELECT id, w FROM t WHERE id < 4 ORDER BY 1") == [(1, "newer"), (2, "kept 2"), (3, "kept 3")]


@pytest.mark.parametrize("skip", ["ON CONFLICT DO NOTHING", "ON CONFLICT (name) DO NOTHING"])
@pytest.mark.parametrize("key", ["serial", "uuid"])
def test_seeds_after_a_commit_meet_no_kept_rows(empty: Database, project: Project, key: str, skip: str) -> None:
    """They are looked up by their name right after, so they have to be there, and what refers to them means what it meant."""
    made = "serial PRIMARY KEY" if key == "serial" else "uuid DEFAULT gen_random_uuid() PRIMARY KEY"
    type_ = "int" if key == "serial" else "uuid"
    ups = [
        sql(f"CREATE TABLE c (id {made}, name text UNIQUE); ALTER TABLE t ADD c {type_} REFERENCES c"),
        I1,
        sql(f"INSERT INTO c (name) VALUES ('red'), ('green') {skip}"),
        sql("UPDATE t SET c = (SELECT id FROM c WHERE name = CASE WHEN t.id % 2 = 0 THEN 'red' ELSE 'green' END)"),
        sql("ALTER TABLE t ALTER c SET NOT NULL"),
    ]
    committing(project, T, ups, "DROP INDEX i1; ALTER TABLE t DROP c; DROP TABLE c")
    empty.rows(
        "UPDATE c SET name = 'crimson' WHERE name = 'red'; INSERT INTO c (name) VALUES ('blue'); "
        "UPDATE t SET c = (SELECT id FROM c WHERE name = 'blue') WHERE id = 1"
    )
    means = "SELECT t.id, c.name FROM t JOIN c ON c.id = t.c ORDER BY 1"
    before = empty.rows(means)

    project.downgrade("-1")
    project.upgrade()

    assert empty.rows(means) == before


def test_a_lookup_made_before_a_commit_keeps_its_keys(empty: Database, project: Project) -> None:
    """Its rows get the keys that they had before they are everybody's, and the column that refers to them is kept as well."""
    ups = [
        sql("CREATE TABLE c (id uuid DEFAULT gen_random_uuid() PRIMARY KEY, name text UNIQUE)"),
        sql("INSERT INTO c (name) VALUES ('red'), ('green')"),
        sql("ALTER TABLE t ADD c uuid REFERENCES c; UPDATE t SET c = (SELECT id FROM c WHERE name = 'red')"),
        I1,
        sql("UPDATE t SET n = n + 1"),
    ]
    committing(project, T, ups, "DROP INDEX i1; UPDATE t SET n = n - 1; ALTER TABLE t DROP c; DROP TABLE c")
    empty.rows(
        "INSERT INTO c (name) VALUES ('blue'); UPDATE t SET c = (SELECT id FROM c WHERE name = 'blue') WHERE id = 1"
    )

    there_and_back(project, empty, {"c": "*", "t": "*"})


def test_a_lock_that_is_not_to_be_had_again_ends_no_step(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody is writing to the table as the next transaction begins: its changed rows stay in the stash, and are told."""
    held = (
        "go = op.get_bind().exec_driver_sql(\"SELECT to_regclass('go')\").scalar()\n"
        + I1
        + (
            "\n    if go:\n"
            "        import sqlalchemy, threading\n        engine = sqlalchemy.create_engine(op.get_bind().engine.url)\n"
            "        other = engine.connect()\n        other.exec_driver_sql(\"UPDATE t SET v = 'newer' WHERE id = 1\")\n"
            "        threading.Timer(1.5, lambda: (other.commit(), other.close(), engine.dispose())).start()"
        )
    )
    project.configure(lock_timeout="200ms")
    down = "DROP INDEX i1; UPDATE t SET v = 'lost' WHERE id < 4"
    committing(project, T, [sql("UPDATE t SET v = upper(v)"), held, sql("SELECT 1")], down)
    project.downgrade("-1")
    empty.rows("CREATE TABLE go ()")

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        project.upgrade()

    assert "left: 3 rows stay in" in caplog.text
    empty.rows("SELECT pg_sleep(2)")
    assert empty.rows("SELECT v FROM t WHERE id < 4 ORDER BY id") == [("newer",), ("LOST",), ("LOST",)]
    assert empty.rows("SELECT relname FROM pg_class WHERE relname ~ '^guard:(un|st|to)'") == []


def goes_on(
    empty: Database,
    project: Project,
    setup: str,
    ups: list[str],
    down: str,
    mine: str = "SELECT",
    before: str = "SELECT",
) -> None:
    """Up; ``mine`` is what people write then; down; ``before`` what they write there; and up, where others write in between."""
    committing(project, setup, body(ups), down)
    empty.rows(mine)
    project.downgrade("-1")
    empty.rows(f"{before}; CREATE TABLE go ()")
    project.upgrade()


def test_a_table_that_is_another_by_now_has_no_list(empty: Database, project: Project) -> None:
    """Nobody knows what was written to the rows of one that was made anew: they stay, and the kept ones in the stash."""
    ups = [
        "CREATE TABLE t_new (LIKE t INCLUDING ALL); INSERT INTO t_new SELECT id, upper(v) FROM t; DROP TABLE t; "
        "ALTER TABLE t_new RENAME TO t",
        meanwhile(I1, "UPDATE t SET v = 'newer' WHERE id = 1"),
    ]
    setup = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 5) n"
    goes_on(empty, project, setup, ups, "DROP INDEX i1; UPDATE t SET v = 'lost' WHERE id < 4")

    assert empty.value("SELECT v FROM t WHERE id = 1") == "newer"
    assert empty.rows("SELECT state FROM migration.stash") == [("partly restored",)]


def test_rows_without_a_key_are_told_over_a_commit(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody knows them from others then: the upgrade gets on all the same."""
    ups = ["INSERT INTO log VALUES ('a')", INDEX.format(name="i1", on="log (w)")]
    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        goes_on(empty, project, "CREATE TABLE log (w text)", ups, "DROP INDEX i1; DELETE FROM log WHERE w = 'a'")

    assert empty.rows("SELECT w FROM log") == [("a",)]
    assert "left: 1 rows stay in" in caplog.text


@pytest.mark.parametrize("skip", ["ON CONFLICT DO NOTHING", "plain"])
def test_seeds_of_several_statements_stay_until_the_end(empty: Database, project: Project, skip: str) -> None:
    """What the first has written is like a kept row, and is the body's own all the same."""
    conflict = "" if skip == "plain" else f" {skip}"
    ups = [
        "CREATE TABLE c (id serial PRIMARY KEY, name text UNIQUE); ALTER TABLE t ADD c int REFERENCES c", I1,
        f"INSERT INTO c (name) VALUES ('red'){conflict}", f"INSERT INTO c (name) VALUES ('green'){conflict}",
        "UPDATE t SET c = (SELECT id FROM c WHERE name = 'red')", "ALTER TABLE t ALTER c SET NOT NULL",
    ]  # fmt: skip
    down = "DROP INDEX i1; ALTER TABLE t DROP c; DROP TABLE c"
    goes_on(empty, project, T, ups, down, before="INSERT INTO t VALUES (50, 'mine')")

    assert empty.value("SELECT c.name FROM t JOIN c ON c.id = t.c WHERE t.id = 50") == "red"


def test_a_backfill_is_the_body_s_own(empty: Database, project: Project) -> None:
    """It writes over connections of its own, and what people had typed comes back all the same."""
    ups = [
        "ALTER TABLE t ADD w text",
        """with op.get_context().autocommit_block():
    pass
op.backfill("t", set={"w": "'from ' || filled.v"})""",
    ]
    goes_on(empty, project, T, ups, "ALTER TABLE t DROP w", "UPDATE t SET w = 'mine' WHERE id = 2")

    assert empty.value("SELECT w FROM t WHERE id = 2") == "mine"


def test_seeds_of_a_table_that_gets_its_name_later_are_the_body_s_own(empty: Database, project: Project) -> None:
    """As it commits it is called otherwise."""
    ups = [
        "CREATE TABLE c_new (id int PRIMARY KEY, name text); INSERT INTO c_new VALUES (1, 'red')",
        INDEX.format(name="i1", on="c_new (name)"), "ALTER TABLE c_new RENAME TO c",
    ]  # fmt: skip
    goes_on(empty, project, T, ups, "DROP TABLE c", "UPDATE c SET name = 'crimson'")

    assert empty.rows("SELECT id, name FROM c") == [(1, "crimson")]


LATER = {
    "a table, and the body elsewhere": (
        ["CREATE TABLE c (id int PRIMARY KEY, name text)"], "INSERT INTO c VALUES (9, 'newer')",
        [I1.replace("CREATE INDEX CONCURRENTLY IF NOT EXISTS i1 ON t (v)", "UPDATE t SET n = 0 WHERE n IS NULL"), "SELECT"],
        "DROP TABLE c", "INSERT INTO c VALUES (1, 'mine')", "SELECT name FROM c ORDER BY id", ["mine", "newer"],
    ),
    "a column": (
        ["ALTER TABLE t ADD w text"], "UPDATE t SET w = 'newer' WHERE id = 1", ["UPDATE t SET n = n + 1"],
        "ALTER TABLE t DROP w", "UPDATE t SET w = 'mine'", "SELECT w FROM t WHERE id IN (1, 2) ORDER BY id", ["newer", "mine"],
    ),
    "a column, rewritten": (
        ["ALTER TABLE t ADD w text"], "UPDATE t SET w = 'newer' WHERE id = 1", ["ALTER TABLE t ALTER n TYPE bigint"],
        "ALTER TABLE t ALTER n TYPE int; ALTER TABLE t DROP w", "UPDATE t SET w = 'mine'",
        "SELECT w FROM t WHERE id IN (1, 2) ORDER BY id", ["newer", "mine"],
    ),
    "a table": (
        ["CREATE TABLE c (id int PRIMARY KEY, name text, n int)"], "INSERT INTO c VALUES (9, 'newer')", ["UPDATE c SET n = id"],
        "DROP TABLE c", "INSERT INTO c VALUES (1, 'mine')", "SELECT name FROM c ORDER BY id", ["mine", "newer"],
    ),
    "a table without a key": (
        ["CREATE TABLE c (name text)"], "INSERT INTO c VALUES ('login')", ["SELECT"],
        "DROP TABLE c", "INSERT INTO c VALUES ('login')", "SELECT name FROM c", ["login", "login"],
    ),
    "a column that comes later": (
        ["SELECT"], "UPDATE t SET n = n + 1 WHERE id = 1", ["ALTER TABLE t ADD w text DEFAULT 'x'"],
        "ALTER TABLE t DROP w", "UPDATE t SET w = 'mine'", "SELECT w FROM t WHERE id IN (1, 2) ORDER BY id", ["mine", "mine"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("later", LATER)
def test_what_others_write_stays_theirs_whatever_the_body_does_then(
    empty: Database, project: Project, later: str
) -> None:
    """It writes each row anew, and their rows are theirs still."""
    first, others, then, down, mine, asked, rows = LATER[later]
    goes_on(empty, project, T, [*first, meanwhile(I1, others), *then], f"DROP INDEX i1; {down}", mine)

    assert [value for (value,) in empty.rows(asked)] == rows


def test_an_old_transaction_makes_nothing_newer(empty: Database, project: Project) -> None:
    """Somebody has begun to write elsewhere long before: what the downgrade has left is nobody's for that."""
    committing(project, T, body(["UPDATE t SET v = upper(v)", I1]), "DROP INDEX i1; UPDATE t SET v = 'lost'")
    with empty.connect(autocommit=False) as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()")
        there_and_back(project, empty, {"t": "*"})


PRICE = "CREATE TABLE item (id int PRIMARY KEY, price int, n int); INSERT INTO item SELECT n, n, 0 FROM generate_series(1, 4) n"
I3 = INDEX.format(name="i1", on="item (n)")


@pytest.mark.parametrize(
    "then", [[], ["SELECT"], [INDEX.format(name="i2", on="item (id, n)")]], ids=["", "select", "twice"]
)
@pytest.mark.parametrize("where", ["", " WHERE cents IS NULL"], ids=["", "empty"])
@pytest.mark.parametrize("when", ["before", "between", "both"])
def test_what_is_moved_after_a_commit_may_be_newer(
    empty: Database, project: Project, when: str, where: str, then: list[str]
) -> None:
    """Somebody has changed the source before the upgrade, or while its body held no lock: what is moved from there is newer."""
    change = "UPDATE item SET price = 70 WHERE id = 1" if when != "before" else "SELECT"
    ups = [
        meanwhile(I3, change), "ALTER TABLE item ADD cents int", *then, f"UPDATE item SET cents = price * 100{where}",
        "ALTER TABLE item DROP price",
    ]  # fmt: skip
    down = (
        "DROP INDEX i1; DROP INDEX IF EXISTS i2; ALTER TABLE item ADD price int; UPDATE item SET price = cents / 100; "
        "ALTER TABLE item DROP cents"
    )
    early = "UPDATE item SET price = 90 WHERE id = 3" if when != "between" else "SELECT"
    goes_on(empty, project, PRICE, ups, down, "UPDATE item SET cents = cents + 99", early)

    cents = dict(empty.rows("SELECT id, cents FROM item"))
    assert cents[2] == 299
    assert cents[4] == 499
    assert cents[1] == (199 if when == "before" else 7000)
    assert cents[3] == (399 if when == "between" else 9000)


def test_who_writes_after_a_commit_gets_a_key_of_his_own(empty: Database, project: Project) -> None:
    """Kept rows are back by then, and the sequence stands behind them."""
    ups = [
        "CREATE TABLE c (id serial PRIMARY KEY, name text)",
        meanwhile(INDEX.format(name="i1", on="c (name)"), "INSERT INTO c (name) VALUES ('newer')"),
    ]
    goes_on(empty, project, "SELECT", ups, "DROP TABLE c", "INSERT INTO c (name) VALUES ('a'), ('b')")

    assert empty.rows("SELECT name FROM c ORDER BY id") == [("a",), ("b",), ("newer",)]


def test_a_try_that_failed_after_a_commit_is_repeated(empty: Database, project: Project) -> None:
    """Its lists are still there and are nobody's any more; what it had given back before the commit is there, and stays."""
    fails = "if op.get_bind().exec_driver_sql(\"SELECT to_regclass('go')\").scalar():\n    op.execute('SELECT 1 / 0')"
    ups = ["ALTER TABLE t ADD COLUMN IF NOT EXISTS w text", I1, fails, "UPDATE t SET n = n + 1"]
    down = "DROP INDEX i1; UPDATE t SET n = n - 1, v = 'lost' WHERE id < 4; ALTER TABLE t DROP w; DELETE FROM t WHERE id = 6"
    committing(project, T, [part if part.startswith("if") else body([part])[0] for part in ups], down)
    empty.rows("UPDATE t SET w = 'w' || id, v = 'mine' || id")
    before = empty.rows("SELECT id, v, w FROM t WHERE id <> 1 ORDER BY id")
    project.downgrade("-1")
    empty.rows("CREATE TABLE go ()")
    with pytest.raises(GuardError):
        project.upgrade()
    empty.rows("DROP TABLE go; UPDATE t SET v = 'newer', w = 'newer' WHERE id = 1")

    project.upgrade()

    assert empty.rows("SELECT id, v, w FROM t WHERE id <> 1 ORDER BY id") == before
    assert empty.rows("SELECT v, w FROM t WHERE id = 1") == [("newer", "newer")]
    assert empty.rows("SELECT relname FROM pg_class WHERE relname ~ '^guard:(?!aside_|left_)'") == []


def autocommit(statement: str) -> str:
    """A statement of the body's that stands in no transaction."""
    return f"with op.get_context().autocommit_block():\n    op.execute({statement!r})"


TABLE = "CREATE TABLE IF NOT EXISTS c (id int PRIMARY KEY, name text)"
OUTSIDE = {
    "a column": (
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS w text", "UPDATE t SET w = 'newer' WHERE id = 1", "ALTER TABLE t DROP w",
        "UPDATE t SET w = 'mine'", "SELECT w FROM t WHERE id IN (1, 2) ORDER BY id", ["newer", "mine"],
    ),
    "a column that writes the table anew": (
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS w uuid DEFAULT gen_random_uuid()",
        f"UPDATE t SET w = '{'1' * 32}' WHERE id = 1", "ALTER TABLE t DROP w", f"UPDATE t SET w = '{'2' * 32}'",
        "SELECT left(w::text, 1) FROM t WHERE id IN (1, 2) ORDER BY id", ["1", "2"],
    ),
    "a table": (
        TABLE, "INSERT INTO c VALUES (9, 'newer')", "DROP TABLE c", "INSERT INTO c VALUES (1, 'mine')",
        "SELECT name FROM c ORDER BY id", ["mine", "newer"],
    ),
    "a table, and a kept row's key": (
        TABLE, "INSERT INTO c VALUES (1, 'newer')", "DROP TABLE c", "INSERT INTO c VALUES (1, 'mine'), (2, 'too')",
        "SELECT name FROM c ORDER BY id", ["newer", "too"],
    ),
    "a table and its rows": (
        "CREATE TABLE IF NOT EXISTS c AS SELECT 1 AS id, 'seed' AS name", "SELECT", "DROP TABLE c",
        "UPDATE c SET name = 'mine'", "SELECT name FROM c", ["mine"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("then", ["ends", "goes on", "commits once more"])
@pytest.mark.parametrize("way", OUTSIDE)
def test_a_place_that_comes_without_a_transaction_is_everybodys_at_once(
    empty: Database, project: Project, way: str, then: str
) -> None:
    """What others write there is newer, before the body has begun its next transaction; and what people had comes back."""
    place, others, down, mine, asked, rows = OUTSIDE[way]
    after = {"ends": [], "goes on": ["UPDATE t SET n = n + 1"], "commits once more": [I2, "UPDATE t SET n = n + 1"]}[
        then
    ]
    down = f"DROP INDEX IF EXISTS i2; {down}"
    goes_on(
        empty, project, T, ["SELECT", I1, meanwhile(autocommit(place), others), *after], f"DROP INDEX i1; {down}", mine
    )

    assert [value for (value,) in empty.rows(asked)] == rows


@pytest.mark.parametrize("key", ["tenant, id", "id, tenant", "id, at"])
def test_a_key_of_several_columns_is_told_in_its_own_order(empty: Database, project: Project, key: str) -> None:
    """What others write between two transactions is no seed of the body's, in whatever order the key has its columns."""
    setup = (
        "CREATE TABLE t (tenant int DEFAULT 1, id serial, at date DEFAULT now(), name text UNIQUE, v text, n int, "
        f"PRIMARY KEY ({key})); INSERT INTO t (name, v) VALUES ('a', 'kept'), ('b', 'kept')"
    )  # fmt: skip
    between = meanwhile(I1, "INSERT INTO t (name, v) VALUES ('a', 'newer')")
    goes_on(empty, project, setup, ["UPDATE t SET n = 1", between], "DROP INDEX i1; DELETE FROM t WHERE name = 'a'")

    assert empty.rows("SELECT name, v FROM t ORDER BY 1") == [("a", "newer"), ("b", "kept")]
    assert empty.rows("SELECT state FROM migration.stash") == [("partly restored",)]


def test_deleted_rows_without_a_key_are_put_in_once(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody would know them after a commit: they are not let in before it, and given back later."""
    monkeypatch.setattr(cli, "ROOT", project.folder)
    setup = (
        "CREATE TABLE parent (id serial PRIMARY KEY, name text); INSERT INTO parent (name) VALUES ('a'), ('b'), ('c'); "
        "CREATE TABLE t (p int, v text, n int); INSERT INTO t VALUES (3), (1); CREATE TABLE log (w text); "
        "INSERT INTO log VALUES ('a'), ('b')"
    )  # fmt: skip
    down = (
        "DROP INDEX i1; ALTER TABLE t DROP CONSTRAINT f; DELETE FROM parent WHERE id = 3; DELETE FROM log WHERE w = 'a'"
    )
    goes_on(empty, project, setup, ["ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (p) REFERENCES parent", I1], down)
    assert empty.value("SELECT count(*) FROM parent") == 3

    assert run(capsys, "migrate-restore", "VERSION=002")[0] == 0

    assert empty.rows("SELECT w FROM log ORDER BY 1") == [("a",), ("b",)]


def test_a_lock_on_what_it_has_made_is_tried_again(empty: Database, project: Project) -> None:
    """Somebody writes there as the body ends: a step that has committed is not begun once more, and goes on as soon as it can."""
    held = (
        "go = op.get_bind().exec_driver_sql(\"SELECT to_regclass('go')\").scalar()\n" + I1 + "\n    if go:\n"
        "        import sqlalchemy, threading\n        engine = sqlalchemy.create_engine(op.get_bind().engine.url)\n"
        "        other = engine.connect()\n        other.exec_driver_sql(\"INSERT INTO c VALUES (9, 'newer')\")\n"
        "        threading.Timer(1.2, lambda: (other.commit(), other.close(), engine.dispose())).start()"
    )  # fmt: skip
    project.configure(lock_timeout="400ms")
    committing(project, T, [sql("CREATE TABLE c (id int PRIMARY KEY, name text)"), held], "DROP INDEX i1; DROP TABLE c")
    empty.rows("INSERT INTO c VALUES (1, 'mine')")
    project.downgrade("-1")
    empty.rows("CREATE TABLE go ()")

    project.upgrade()

    assert empty.rows("SELECT name FROM c ORDER BY id") == [("mine",), ("newer",)]
