"""Giving back: what a downgrade kept comes back with the next upgrade of the same revision."""

from __future__ import annotations

import logging

import pytest

from mcp_planner_schema.guard.findings import BROKEN, GuardError
from tests.conftest import Database, Project
from tests.test_stash import QUOTED, shown, sql


def there_and_back(project: Project, database: Database, tables: dict[str, str]) -> None:
    """Down one step and up again: every table shows the same rows as before."""
    before = {table: shown(database, table, columns) for table, columns in tables.items()}
    assert any(before.values())

    project.downgrade("-1")
    project.upgrade()

    assert {table: shown(database, table, columns) for table, columns in tables.items()} == before
    assert database.rows("SELECT DISTINCT state FROM migration.stash") == [("restored",)]


TABLE_A = "CREATE TABLE a (id int PRIMARY KEY, v text, w int)"
ROWS_A = "INSERT INTO a SELECT n, 'v' || n, n FROM generate_series(1, 5) n"
# setup (revision 001), upgrade and downgrade of revision 002, rows written after it, what must be the same
ROUTES = {
    "table": ("CREATE TABLE z ()", TABLE_A, "DROP TABLE a", ROWS_A, {"a": "*"}),
    "column": (
        TABLE_A + ";" + ROWS_A,
        "ALTER TABLE a ADD x text",
        "ALTER TABLE a DROP x",
        "UPDATE a SET x = id::text",
        {"a": "*"},
    ),
    "required column": (
        TABLE_A + ";" + ROWS_A,
        "ALTER TABLE a ADD x text; UPDATE a SET x = ''; ALTER TABLE a ALTER x SET NOT NULL",
        "ALTER TABLE a DROP x",
        "UPDATE a SET x = id::text",
        {"a": "*"},
    ),
    "rows deleted": (
        TABLE_A + ";" + ROWS_A,
        "ALTER TABLE a ADD x int DEFAULT 3",
        "DELETE FROM a WHERE id > 2; ALTER TABLE a DROP x",
        "UPDATE a SET x = id",
        {"a": "*"},
    ),
    "rows changed": (
        TABLE_A + ";" + ROWS_A,
        "COMMENT ON TABLE a IS 'x'",
        "UPDATE a SET v = 'gone'; COMMENT ON TABLE a IS NULL",
        "",
        {"a": "*"},
    ),
    "a column made anew under its name": (
        "CREATE TABLE a (id int PRIMARY KEY, x varchar(3)); INSERT INTO a VALUES (1, 'one'), (2, NULL)",
        "ALTER TABLE a ADD n text; UPDATE a SET n = x; ALTER TABLE a DROP x; ALTER TABLE a RENAME n TO x",
        "ALTER TABLE a ADD n varchar(3); UPDATE a SET n = left(x, 3); ALTER TABLE a DROP x; ALTER TABLE a RENAME n TO x",
        "UPDATE a SET x = 'a long value' WHERE id = 1; INSERT INTO a VALUES (3, 'another')",
        {"a": "id, x"},
    ),
    "emptied": (TABLE_A + ";" + ROWS_A, "COMMENT ON TABLE a IS 'x'", "TRUNCATE a", "", {"a": "*"}),
    "emptied without a key": (
        "CREATE TABLE l (a int, b json); INSERT INTO l VALUES (1, '{}'), (1, '{}'), (2, NULL)",
        "COMMENT ON TABLE l IS 'x'",
        "TRUNCATE l",
        "",
        {"l": "*"},
    ),
    "some deleted without a key": (
        "CREATE TABLE l (a int, b json); INSERT INTO l VALUES (1, '{}'), (1, '{}'), (2, NULL)",
        "COMMENT ON TABLE l IS 'x'",
        "DELETE FROM l WHERE ctid = (SELECT min(ctid) FROM l)",
        "",
        {"l": "*"},
    ),
    "narrowed": (
        "CREATE TABLE n (id int PRIMARY KEY, v numeric(10,0))",
        "ALTER TABLE n ALTER v TYPE numeric(10,2)",
        "ALTER TABLE n ALTER v TYPE numeric(10,0)",
        "INSERT INTO n VALUES (1, 1.25), (2, 2), (3, NULL)",
        {"n": "*"},
    ),
    "renamed on the way back": (
        TABLE_A + ";" + ROWS_A,
        "ALTER TABLE a RENAME v TO vv; ALTER TABLE a RENAME TO aa",
        "UPDATE aa SET vv = 'x' WHERE id = 1; ALTER TABLE aa RENAME TO a; ALTER TABLE a RENAME vv TO v",
        "",
        {"aa": "*"},
    ),
    "table and its children": (
        "CREATE TABLE k (id int PRIMARY KEY, a int)",
        TABLE_A + "; ALTER TABLE k ADD CONSTRAINT k_a FOREIGN KEY (a) REFERENCES a",
        "ALTER TABLE k DROP CONSTRAINT k_a; DROP TABLE a",
        ROWS_A + "; INSERT INTO k VALUES (1, 1), (2, 5)",
        {"a": "*", "k": "*"},
    ),
    "enum, identity, generated": (
        "CREATE TABLE z ()",
        "CREATE TYPE mood AS ENUM ('sad', 'so so'); CREATE TABLE e (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m mood, "
        "ms mood[], g text GENERATED ALWAYS AS (id::text) STORED)",
        "DROP TABLE e; DROP TYPE mood",
        "INSERT INTO e (m, ms) VALUES ('sad', '{sad,NULL}'), (NULL, NULL), ('so so', '{}')",
        {"e": "*"},
    ),
    "partitioned": (
        "CREATE TABLE z ()",
        "CREATE TABLE p (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); "
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2026-02-01'); CREATE TABLE p2 PARTITION OF p DEFAULT",
        "DROP TABLE p",
        "INSERT INTO p VALUES (1, '2026-01-05'), (2, '2027-01-01')",
        {"p": "*", "p1": "*"},
    ),
    "itself": (
        "CREATE TABLE z ()",
        "CREATE TABLE s (id int PRIMARY KEY, up int REFERENCES s)",
        "DROP TABLE s",
        "INSERT INTO s VALUES (1, NULL), (2, 1), (3, 2)",
        {"s": "*"},
    ),
    "each other": (
        "CREATE TABLE z ()",
        "CREATE TABLE s (id int PRIMARY KEY, t int); CREATE TABLE t (id int PRIMARY KEY, s int REFERENCES s); "
        "ALTER TABLE s ADD FOREIGN KEY (t) REFERENCES t",
        "DROP TABLE s, t CASCADE",
        "INSERT INTO s VALUES (1, NULL); INSERT INTO t VALUES (2, 1); UPDATE s SET t = 2",
        {"s": "*", "t": "*"},
    ),
    "seeds that were changed": (
        "CREATE TABLE z ()",
        TABLE_A + "; INSERT INTO a VALUES (1, 'seed', 1), (2, 'seed', 2)",
        "DROP TABLE a",
        "DELETE FROM a WHERE id = 1; UPDATE a SET v = 'mine'; INSERT INTO a VALUES (3, 'x', 3)",
        {"a": "*"},
    ),
    "seeds in a table that stays": (
        TABLE_A,
        "INSERT INTO a VALUES (1, 'seed', 1), (2, 'seed', 2)",
        "DELETE FROM a WHERE v = 'seed' OR id < 3",
        "UPDATE a SET v = 'mine'",
        {"a": "*"},
    ),
    "triggers that change rows": (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.v := 'trigger'; RETURN new; END $$",
        TABLE_A + "; CREATE TRIGGER f BEFORE INSERT OR UPDATE ON a FOR EACH ROW EXECUTE FUNCTION f(); "
        "ALTER TABLE a ENABLE ALWAYS TRIGGER f",
        "DROP TABLE a",
        "ALTER TABLE a DISABLE TRIGGER f; " + ROWS_A + "; ALTER TABLE a ENABLE ALWAYS TRIGGER f",
        {"a": "*"},
    ),
    "a rule that swallows": (
        "CREATE TABLE z ()",
        TABLE_A + "; CREATE RULE r AS ON INSERT TO a DO INSTEAD NOTHING",
        "DROP TABLE a",
        "ALTER TABLE a DISABLE RULE r; " + ROWS_A + "; ALTER TABLE a ENABLE RULE r",
        {"a": "*"},
    ),
    "inheritance": (
        "CREATE TABLE z ()",
        "CREATE TABLE i (id int PRIMARY KEY); CREATE TABLE i1 (x int) INHERITS (i)",
        "DROP TABLE i CASCADE",
        "INSERT INTO i VALUES (1); INSERT INTO i1 VALUES (2, 3)",
        {"ONLY i": "*", "i1": "*"},
    ),
    "nasty names": (
        "CREATE TABLE z ()",
        f"CREATE TABLE {QUOTED} ({QUOTED} text PRIMARY KEY, b int)",
        f"DROP TABLE {QUOTED}",
        f"INSERT INTO {QUOTED} VALUES ('x', 1), ($$a'\"\\%$$, 2)",
        {QUOTED: "*"},
    ),
    "merged back": (
        "CREATE TABLE u (id int PRIMARY KEY, mail text)",
        "CREATE TABLE m (id int PRIMARY KEY REFERENCES u, mail text); INSERT INTO m SELECT id, mail FROM u; "
        "ALTER TABLE u DROP mail",
        "ALTER TABLE u ADD mail text; UPDATE u SET mail = m.mail FROM m WHERE m.id = u.id; DROP TABLE m",
        "INSERT INTO u VALUES (1), (2); INSERT INTO m VALUES (1, 'a@b'), (2, 'c@d')",
        {"u": "*", "m": "*"},
    ),
    "moved between partitions": (
        "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); "
        "CREATE TABLE p2 PARTITION OF p DEFAULT; INSERT INTO p VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        "COMMENT ON TABLE p IS 'x'",
        "UPDATE p SET v = 'gone' WHERE id > 1",
        "",
        {"p": "*", "p2": "*"},
    ),
}


@pytest.mark.parametrize("route", ROUTES)
def test_what_went_comes_back(empty: Database, project: Project, route: str) -> None:
    """Down and up again, whatever the downgrade destroyed: the same rows stand in the same tables."""
    setup, up, down, rows, tables = ROUTES[route]
    project.revision(
        "001", "create_things", sql(setup), "raise NotImplementedError", reversible="forward-only: the base"
    )
    project.revision("002", "alter_things", sql(up), sql(down))
    project.upgrade()
    if rows:
        empty.rows(rows)

    there_and_back(project, empty, tables)


def down_and_up(project: Project, database: Database, meanwhile: str) -> None:
    """One step down, somebody writes, one step up."""
    project.downgrade("-1")
    database.rows(meanwhile)
    project.upgrade()


def two(project: Project, setup: str, up: str, down: str, *, ups: str | None = None) -> None:
    """A base that stays and a revision that goes back and forth; applied."""
    project.revision(
        "001", "create_things", sql(setup), "raise NotImplementedError", reversible="forward-only: the base"
    )
    project.revision("002", "alter_things", ups or sql(up), sql(down))
    project.upgrade()


def test_a_row_written_meanwhile_stays(empty: Database, project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """What the downgrade changed and somebody has changed since is left; the old row stays in the stash and is told."""
    two(
        project,
        TABLE_A + ";" + ROWS_A,
        "COMMENT ON TABLE a IS 'x'",
        "UPDATE a SET v = 'gone'; DELETE FROM a WHERE id > 3",
    )

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(
            project, empty, "UPDATE a SET v = 'newer' WHERE id = 1; INSERT INTO a VALUES (5, 'new', 0), (6, 'new', 0)"
        )

    assert empty.rows("SELECT id, v FROM a ORDER BY id") == [
        (1, "newer"), (2, "v2"), (3, "v3"), (4, "v4"), (5, "new"), (6, "new"),
    ]  # fmt: skip
    asked = "SELECT state, restored_rows, left_rows FROM migration.stash JOIN migration.stash_object ON id = stash_id"
    assert empty.rows(asked) == [("partly restored", 3, 2)]
    assert empty.rows("SELECT id, v FROM migration_stash_1.a WHERE id IN (1, 5) ORDER BY id") == [(1, "v1"), (5, "v5")]
    assert 'left: 2 rows stay in "migration_stash_1"."a": newer ones are in their place' in caplog.text


def test_values_come_back_to_the_rows_that_are_left(empty: Database, project: Project) -> None:
    """Of a dropped column, a row that is gone keeps its value in the stash, and a new row has none."""
    two(project, TABLE_A + ";" + ROWS_A, "ALTER TABLE a ADD x int", "ALTER TABLE a DROP x")
    empty.rows("UPDATE a SET x = id * 10")

    down_and_up(
        project, empty, "DELETE FROM a WHERE id = 1; INSERT INTO a VALUES (6); UPDATE a SET v = 'newer' WHERE id = 2"
    )

    assert empty.rows("SELECT id, v, x FROM a ORDER BY id") == [
        (2, "newer", 20), (3, "v3", 30), (4, "v4", 40), (5, "v5", 50), (6, None, None),
    ]  # fmt: skip
    assert empty.rows("SELECT id, x FROM migration_stash_1.a WHERE id = 1") == [(1, 10)]
    assert empty.value("SELECT state FROM migration.stash") == "partly restored"


@pytest.mark.parametrize(
    "required",
    ["ALTER TABLE a ADD x int NOT NULL", "ALTER TABLE a ADD COLUMN IF NOT EXISTS x int not /* ! */ null, ADD y int"],
)
def test_a_required_column_gets_its_values_before_it_is_required(
    empty: Database, project: Project, required: str
) -> None:
    """A column that is NOT NULL at once has no values for the rows that are there, but those that were kept."""
    two(project, TABLE_A, required, "ALTER TABLE a DROP x" + (", DROP y" if "y" in required else ""))
    empty.rows("INSERT INTO a (id, x) SELECT n, n * 10 FROM generate_series(1, 5) n")

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT id, x FROM a ORDER BY id") == [(n, n * 10) for n in range(1, 6)]
    assert empty.value("SELECT attnotnull FROM pg_attribute WHERE attrelid = 'a'::regclass AND attname = 'x'") is True


def test_a_required_column_without_a_value_for_each_row_is_no_upgrade(empty: Database, project: Project) -> None:
    """Where a row was added since, nobody knows its value: the step fails and the stash is as it was."""
    two(project, TABLE_A, "ALTER TABLE a ADD x int NOT NULL", "ALTER TABLE a DROP x")
    empty.rows("INSERT INTO a (id, x) VALUES (1, 10)")

    with pytest.raises(GuardError, match='column "x" of relation "a" contains null values'):
        down_and_up(project, empty, "INSERT INTO a (id) VALUES (2)")

    assert empty.rows("SELECT * FROM a") == [(1, None, None), (2, None, None)]
    assert empty.value("SELECT state FROM migration.stash") == "kept"
    assert empty.rows("SELECT id, x FROM migration_stash_1.a") == [(1, 10)]


def test_a_foreign_key_in_the_same_string_finds_its_rows(empty: Database, project: Project) -> None:
    """One string makes the table and the key that refers to it: the rows come back between its statements."""
    two(
        project, "CREATE TABLE k (id int PRIMARY KEY, a int)",
        f"{TABLE_A}; /* ; */ ALTER TABLE k ADD CONSTRAINT \"k;a\" FOREIGN KEY (a) REFERENCES a; COMMENT ON TABLE a IS ';'",
        "ALTER TABLE k DROP CONSTRAINT \"k;a\"; DROP TABLE a",
    )  # fmt: skip
    empty.rows(ROWS_A + "; INSERT INTO k VALUES (1, 2)")

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT count(*), obj_description('a'::regclass) FROM a") == [(5, ";")]
    assert empty.value("SELECT convalidated FROM pg_constraint WHERE conname = 'k;a'") is True


def test_a_body_that_reads_the_rows_finds_them(empty: Database, project: Project) -> None:
    """What the upgrade computes from a table that it has just made, it computes from the rows that came back."""
    two(
        project, "CREATE TABLE n (id int PRIMARY KEY, n int); INSERT INTO n VALUES (1, 0)",
        f"{TABLE_A}", "DROP TABLE a", ups=f"{sql(TABLE_A)}\n{sql('UPDATE n SET n = (SELECT count(*) FROM a)')}",
    )  # fmt: skip
    empty.rows(ROWS_A)

    down_and_up(project, empty, "SELECT")

    assert empty.value("SELECT n FROM n") == 5


SEEDED = "CREATE TABLE a (id int PRIMARY KEY, v text)"
BRANCH = "CREATE TABLE b (id int PRIMARY KEY, a int NOT NULL REFERENCES a)"
SEEDS = {
    "INSERT": [
        sql(SEEDED), sql("INSERT INTO a VALUES (1, 'seed'), (2, 'seed')"), sql(BRANCH), sql("INSERT INTO b VALUES (1, 2)"),
    ],
    "both tables first": [
        sql(SEEDED), sql(BRANCH), sql("INSERT INTO a VALUES (1, 'seed'), (2, 'seed')"), sql("INSERT INTO b VALUES (1, 2)"),
    ],
    "bulk_insert": [
        'a = op.create_table("a", sa.Column("id", sa.Integer, primary_key=True), sa.Column("v", sa.Text))',
        'op.bulk_insert(a, [{"id": 1, "v": "seed"}, {"id": 2, "v": "seed"}])', sql(BRANCH), sql("INSERT INTO b VALUES (1, 2)"),
    ],
    "in a savepoint": [
        sql(SEEDED), sql(BRANCH),
        "with op.get_bind().begin_nested():\n    op.execute(\"INSERT INTO a VALUES (1, 'seed'), (2, 'seed')\")",
        sql("INSERT INTO b VALUES (1, 2)"),
    ],
    "with RETURNING": [
        sql(SEEDED), sql(BRANCH),
        "a = op.get_bind().exec_driver_sql(\"INSERT INTO a VALUES (1, 'seed'), (2, 'seed') RETURNING id\").scalars().all()[-1]",
        'op.execute(f"INSERT INTO b VALUES (1, {a})")',
    ],
}  # fmt: skip


@pytest.mark.parametrize("way", SEEDS)
def test_a_table_that_is_filled_by_its_upgrade_comes_back_as_it_was(
    empty: Database, project: Project, way: str
) -> None:
    """Seeds inserted by statements of their own meet no rows of before, and give way to them at the end."""
    two(project, "CREATE TABLE z ()", "", "DROP TABLE b, a", ups="import sqlalchemy as sa\n" + "\n".join(SEEDS[way]))
    empty.rows("DELETE FROM b; DELETE FROM a WHERE id = 2; UPDATE a SET v = 'mine'; INSERT INTO a VALUES (3, 'mine')")
    empty.rows("INSERT INTO b VALUES (1, 1), (7, 3)")

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT * FROM a ORDER BY id") == [(1, "mine"), (3, "mine")]
    assert empty.rows("SELECT * FROM b ORDER BY id") == [(1, 1), (7, 3)]
    assert empty.value("SELECT state FROM migration.stash") == "restored"


def test_seeds_with_generated_keys_are_there_once(empty: Database, project: Project) -> None:
    """Rows that an upgrade inserts into a table that stays, and its downgrade deletes, are not there twice after both."""
    two(
        project, "CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)",
        "INSERT INTO a (v) VALUES ('seed'), ('other seed')", "DELETE FROM a WHERE v LIKE '%seed'",
    )  # fmt: skip

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT v FROM a ORDER BY v") == [("other seed",), ("seed",)]


def test_a_new_row_under_an_old_key_gets_no_value_of_the_old_one(empty: Database, project: Project) -> None:
    """The downgrade had deleted it and renamed what would tell the two apart: by the key alone they are not the same."""
    two(
        project, "CREATE TABLE b (id int PRIMARY KEY, v text); INSERT INTO b VALUES (1, 'v1'), (3, 'v3')",
        "ALTER TABLE b ADD x text",
        "DELETE FROM b WHERE id = 3; ALTER TABLE b DROP x; ALTER TABLE b RENAME v TO w",
    )  # fmt: skip
    empty.rows("UPDATE b SET x = 'x' || id")
    project.downgrade("-1")
    empty.rows("INSERT INTO b VALUES (3, 'other')")
    project.revision(
        "002", "alter_things", sql("ALTER TABLE b ADD x text; ALTER TABLE b RENAME w TO v"),
        sql("DELETE FROM b WHERE id = 3; ALTER TABLE b DROP x; ALTER TABLE b RENAME v TO w"),
    )  # fmt: skip

    project.upgrade()

    assert empty.rows("SELECT id, v, x FROM b ORDER BY id") == [(1, "v1", "x1"), (3, "other", None)]


def test_changed_rows_without_a_key_stay_in_the_stash(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a waiver let a downgrade change them, the old rows are told and not put beside the new ones."""
    project.revision(
        "001", "create_l", sql("CREATE TABLE l (a int); INSERT INTO l VALUES (1), (2)"), "op.drop_table('l')"
    )
    project.revision(
        "002", "alter_l", sql("COMMENT ON TABLE l IS 'x'"), sql("UPDATE l SET a = 3 WHERE a = 1; COMMENT ON TABLE l IS NULL"),
        extra="Waive: rows-not-kept | nobody counts them | 2999-12-31",
    )  # fmt: skip
    project.upgrade()

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT a FROM l ORDER BY a") == [(2,), (3,)]
    assert "left: 1 rows" in caplog.text
    assert empty.value("SELECT state FROM migration.stash") == "partly restored"


def test_rows_whose_owner_is_gone_are_left(empty: Database, project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """A kept row that refers to a row deleted meanwhile, and those that refer to it, stay in the stash; the others come back."""
    two(
        project, TABLE_A + ";" + ROWS_A,
        "CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a, up int REFERENCES b)", "DROP TABLE b",
    )  # fmt: skip
    empty.rows("INSERT INTO b VALUES (1, 1, NULL), (2, 2, 1), (3, 3, 2), (4, 4, NULL), (5, NULL, 4)")

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, "DELETE FROM a WHERE id = 1")

    assert empty.rows("SELECT id FROM b ORDER BY id") == [(4,), (5,)]
    assert "left: 3 rows" in caplog.text
    assert "what they refer to is gone, or another row has what only one may have" in caplog.text
    assert empty.value("SELECT state FROM migration.stash") == "partly restored"


def test_a_table_that_somebody_made_meanwhile_keeps_its_rows(empty: Database, project: Project) -> None:
    """Where the table stands already, its rows are the newer ones; the others come in beside them."""
    two(project, "CREATE TABLE z ()", TABLE_A.replace("TABLE", "TABLE IF NOT EXISTS"), "DROP TABLE a")
    empty.rows(ROWS_A)

    down_and_up(project, empty, TABLE_A + "; INSERT INTO a VALUES (1, 'newer', 0), (7, 'newer', 0), (2, 'v2', 2)")

    assert empty.rows("SELECT id, v FROM a ORDER BY id") == [
        (1, "newer"), (2, "v2"), (3, "v3"), (4, "v4"), (5, "v5"), (7, "newer"),
    ]  # fmt: skip
    assert empty.rows("SELECT restored_rows, left_rows FROM migration.stash_object WHERE kind = 'table'") == [(4, 1)]


def test_what_has_no_place_anymore_is_named(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the upgrade makes another table than it once did, common columns are filled and the rest is told."""
    two(project, "CREATE TABLE z ()", TABLE_A, "DROP TABLE a")
    empty.rows(ROWS_A)
    project.downgrade("-1")
    project.revision(
        "002", "alter_things", sql("CREATE TABLE a (id bigint PRIMARY KEY, v text, other int)"), sql("DROP TABLE a")
    )

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        project.upgrade()

    assert empty.rows("SELECT * FROM a ORDER BY id") == [(n, f"v{n}", None) for n in range(1, 6)]
    assert "not restored column w of a" in caplog.text
    assert empty.value("SELECT state FROM migration.stash") == "partly restored"


def test_rights_and_sequences_come_back(empty: Database, project: Project) -> None:
    """Who could read the table can read it again, and no number is given twice."""
    role = f"reader_{empty.name}"
    up = "CREATE TABLE i (id serial PRIMARY KEY, n int GENERATED BY DEFAULT AS IDENTITY)"
    two(project, "CREATE TABLE z ()", up, "DROP TABLE i")
    empty.rows(f"CREATE ROLE {role}")
    try:
        empty.rows(f"GRANT SELECT, UPDATE ON i TO {role} WITH GRANT OPTION; GRANT INSERT ON i TO PUBLIC")
        empty.rows("INSERT INTO i DEFAULT VALUES; INSERT INTO i DEFAULT VALUES; SELECT nextval('i_id_seq')")
        before = empty.value("SELECT relacl::text FROM pg_class WHERE oid = 'i'::regclass")

        down_and_up(project, empty, "SELECT")

        after = empty.value("SELECT relacl::text FROM pg_class WHERE oid = 'i'::regclass")
        assert sorted(after.strip("{}").split(",")) == sorted(before.strip("{}").split(","))
        assert empty.rows("INSERT INTO i DEFAULT VALUES RETURNING id, n") == [(4, 3)]
    finally:
        empty.rows(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_rights_on_columns_come_back(empty: Database, project: Project) -> None:
    """Those on columns of a table that went, and on columns that went from one that stayed; no other of that one is given."""
    role = f'reader "{empty.name}"'
    quoted = '"' + role.replace('"', '""') + '"'
    up = 'CREATE TABLE i (id int PRIMARY KEY, "a (b" text, c text); ALTER TABLE z ADD w int'
    two(project, "CREATE TABLE z (id int PRIMARY KEY, v int)", up, "DROP TABLE i; ALTER TABLE z DROP w")
    empty.rows(f"CREATE ROLE {quoted}")
    acl = "array(SELECT x::text FROM unnest(attacl) AS x ORDER BY 1)"
    asked = (
        f"SELECT attrelid::regclass::text, attname, {acl} FROM pg_attribute WHERE attacl IS NOT NULL AND attnum > 0 "
    )
    asked += "AND attrelid >= 16384 ORDER BY 1, 2"
    try:
        empty.rows(
            f'GRANT SELECT ("a (b"), UPDATE (c) ON i TO {quoted} WITH GRANT OPTION; GRANT SELECT (c) ON i TO PUBLIC'
        )
        empty.rows(f"GRANT UPDATE (w), SELECT (v) ON z TO {quoted}; INSERT INTO z VALUES (1, 2, 3)")
        before = empty.rows(asked)

        down_and_up(project, empty, f"REVOKE SELECT (v) ON z FROM {quoted}")

        assert before[:2] == empty.rows(asked)[:2]
        assert [row[1] for row in empty.rows(asked)] == ["a (b", "c", "w"]
    finally:
        empty.rows(f"DROP OWNED BY {quoted}; DROP ROLE {quoted}")


def test_triggers_are_awake_again_as_they_were(empty: Database, project: Project) -> None:
    """Triggers sleep while values come back and stand afterwards as they stood: always, for replicas, off."""
    two(
        project,
        TABLE_A + ";" + ROWS_A + "; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$; "
        + "".join(
            f"CREATE TRIGGER t_{state} BEFORE UPDATE ON a FOR EACH ROW EXECUTE FUNCTION f(); "
            f"ALTER TABLE a {word} TRIGGER t_{state};"
            for state, word in (("o", "ENABLE"), ("a", "ENABLE ALWAYS"), ("r", "ENABLE REPLICA"), ("d", "DISABLE"))
        ),
        "ALTER TABLE a ADD x int", "ALTER TABLE a DROP x",
    )  # fmt: skip
    empty.rows("ALTER TABLE a DISABLE TRIGGER USER; UPDATE a SET x = id; ALTER TABLE a ENABLE TRIGGER t_o; "
               "ALTER TABLE a ENABLE ALWAYS TRIGGER t_a; ALTER TABLE a ENABLE REPLICA TRIGGER t_r")  # fmt: skip

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT sum(x) FROM a") == [(15,)]
    assert empty.rows("SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'a'::regclass ORDER BY 1") == [
        ("t_a", "A"), ("t_d", "D"), ("t_o", "O"), ("t_r", "R"),
    ]  # fmt: skip


def test_what_went_along_and_is_not_there_again_is_told(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """A view that CASCADE took is not made again by the upgrade: its definition is kept, and named."""
    two(project, "CREATE TABLE z ()", TABLE_A, "DROP TABLE a CASCADE")
    empty.rows("CREATE VIEW va AS SELECT id FROM a; CREATE TABLE k (a int REFERENCES a)")

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, "SELECT")

    assert "not there again: view va" in caplog.text
    assert "not there again: foreign key k_a_fkey of k" in caplog.text
    assert "FROM public.a" in empty.value("SELECT definition FROM migration.stash_object WHERE object_name = 'view va'")


def test_a_failing_upgrade_leaves_the_stash_as_it_was(empty: Database, project: Project) -> None:
    """Where the upgrade breaks after rows came back, nothing has happened, and the next one gives them back."""
    two(project, "CREATE TABLE z ()", TABLE_A, "DROP TABLE a")
    empty.rows(ROWS_A)
    project.downgrade("-1")
    broken = project.revision("002", "alter_things", sql(TABLE_A) + "\n" + sql("SELECT 1 / 0"), sql("DROP TABLE a"))

    with pytest.raises(GuardError, match="division by zero"):
        project.upgrade()

    assert empty.value("SELECT state FROM migration.stash") == "kept"
    assert empty.rows("SELECT restored_rows FROM migration.stash_object") == [(None,)]
    broken.unlink()
    project.revision("002", "alter_things", sql(TABLE_A), sql("DROP TABLE a"))
    project.upgrade()
    assert empty.value("SELECT count(*) FROM a") == 5


def test_an_opaque_body_gets_its_rows_at_the_end(empty: Database, project: Project) -> None:
    """A DO block that makes two tables with a key between them is one statement: the rows come back after it."""
    block = f"DO $$ BEGIN {TABLE_A}; CREATE TABLE b (a int REFERENCES a); CREATE UNIQUE INDEX ON b (a); END $$"
    two(project, "CREATE TABLE z ()", block, "DROP TABLE b, a")
    empty.rows(ROWS_A + "; INSERT INTO b VALUES (1), (NULL), (5)")

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT count(*), count(a) FROM b") == [(3, 2)]


# setup, the statements of one block, the way down, rows, what they are called
OPAQUE = {
    "key": (
        "CREATE TABLE k (id int PRIMARY KEY, a int)",
        [TABLE_A, "ALTER TABLE k ADD CONSTRAINT k_a FOREIGN KEY (a) REFERENCES a"],
        "ALTER TABLE k DROP CONSTRAINT k_a; DROP TABLE a",
        f"{ROWS_A}; INSERT INTO k VALUES (1, 1), (2, 5), (3, NULL)",
        "table a",
    ),
    "not null": (
        TABLE_A,
        ["ALTER TABLE a ADD x int", "ALTER TABLE a ALTER x SET NOT NULL"],
        "ALTER TABLE a DROP x",
        "INSERT INTO a SELECT n, 'v', n, n FROM generate_series(1, 5) n",
        "column a.x",
    ),
}


@pytest.mark.parametrize("what", OPAQUE)
def test_a_block_that_needs_its_rows_at_once_gets_its_constraints_later(
    empty: Database, project: Project, what: str
) -> None:
    """Nothing comes between the statements of a DO block: its foreign keys are proven, and its NOT NULL set, at the end."""
    setup, parts, down, rows, _ = OPAQUE[what]
    two(project, setup, f"DO $$ BEGIN {'; '.join(parts)}; END $$", down)
    empty.rows(rows)
    asked = "SELECT conname, convalidated FROM pg_constraint WHERE contype = 'f'"
    required = "SELECT attname, attnotnull FROM pg_attribute WHERE attrelid = 'a'::regclass AND attnum > 0 AND NOT attisdropped"
    before = empty.rows(asked), empty.rows(required)

    there_and_back(project, empty, {"a": "*"})

    assert (empty.rows(asked), empty.rows(required)) == before


@pytest.mark.parametrize("what", OPAQUE)
def test_a_function_that_needs_its_rows_at_once_says_so(empty: Database, project: Project, what: str) -> None:
    """Nothing comes between the statements of a call: it fails, nothing is lost, and written apart it works."""
    setup, parts, down, rows, named = OPAQUE[what]
    setup += f"; CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN {'; '.join(parts)}; END $$"
    two(project, setup, "SELECT f()", down)
    empty.rows(rows)
    before = shown(empty, "a"), empty.rows("SELECT conname FROM pg_constraint WHERE contype = 'f'")
    project.downgrade("-1")

    with pytest.raises(GuardError, match=f"(?s)kept rows of {named} come back between two statements") as failed:
        project.upgrade()

    assert failed.value.code == BROKEN
    assert "two statements of their own" in failed.value.next_command
    assert empty.value("SELECT version_num FROM alembic_version") == "001"
    assert empty.rows("SELECT state FROM migration.stash") == [("kept",)]
    project.revision("002", "alter_things", "\n".join(map(sql, parts)), sql(down))
    project.upgrade()
    assert (shown(empty, "a"), empty.rows("SELECT conname FROM pg_constraint WHERE contype = 'f'")) == before
    assert empty.rows("SELECT state FROM migration.stash") == [("restored",)]


@pytest.mark.parametrize("where", ["a table", "a column"])
def test_autocommit_on_the_way_up(empty: Database, project: Project, where: str) -> None:
    """An upgrade that commits in the middle gets its rows back all the same."""
    setup, up, down = (
        ("CREATE TABLE z ()", TABLE_A, "DROP TABLE a")
        if where == "a table"
        else (TABLE_A + ";" + ROWS_A, "ALTER TABLE a ADD x int", "DROP INDEX ix; ALTER TABLE a DROP x")
    )
    project.revision(
        "001", "create_things", sql(setup), "raise NotImplementedError", reversible="forward-only: the base"
    )
    body = (
        f"{sql(up)}\nwith op.get_context().autocommit_block():\n    op.execute('CREATE INDEX CONCURRENTLY ix ON a (v)')"
    )
    project.revision("002", "alter_things", body, sql(down), transaction="none")
    project.upgrade()
    empty.rows(ROWS_A if where == "a table" else "UPDATE a SET x = id")

    down_and_up(project, empty, "SELECT")

    assert empty.value("SELECT count(*) FROM a WHERE w = id") == 5
    assert empty.value(f"SELECT sum({'w' if where == 'a table' else 'x'}) FROM a") == 15


@pytest.mark.parametrize(("values", "times"), [("id", 2), ("NULL", 1)])
def test_values_of_a_column_are_written_once(empty: Database, project: Project, values: str, times: int) -> None:
    """Each row that gets its value is written once, however often that is looked after; one that has it already not at all."""
    many = (
        "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT n, 'v' || n FROM generate_series(1, 5000) n"
    )
    up = f"{sql('ALTER TABLE a ADD x int')}\n{sql('ALTER TABLE a ADD y int')}"
    two(project, many, "", "ALTER TABLE a DROP y; ALTER TABLE a DROP x", ups=up)
    empty.rows(f"UPDATE a SET x = {values}")
    empty.rows("VACUUM FULL a")
    size = empty.value("SELECT pg_relation_size('a')")

    there_and_back(project, empty, {"a": "*"})

    assert empty.value("SELECT pg_relation_size('a')") <= size * (times + 0.2)
