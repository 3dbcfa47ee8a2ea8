"""Moving: a large table that a downgrade drops is kept without being copied, where nothing can tell the difference."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_planner_schema import cli
from mcp_planner_schema.guard import move, recheck
from mcp_planner_schema.guard.findings import Broken, Refused, WrongUse
from tests.catalog import catalog, difference
from tests.conftest import Database, Project, some
from tests.test_stash import shown, sql

PARENT = "CREATE TABLE o (id int PRIMARY KEY); INSERT INTO o VALUES (1), (2)"
RICH = """
    CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
    CREATE TABLE m (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n serial, o int CONSTRAINT m_to_o REFERENCES o,
        up bigint REFERENCES m,
        v varchar(20) COLLATE "C" DEFAULT 'x' NOT NULL, w numeric(10,2) CHECK (w > 0), g int GENERATED ALWAYS AS (n * 2) STORED,
        CONSTRAINT m_un UNIQUE (n, v)) WITH (fillfactor = 70);
    CREATE INDEX m_part ON m (v) WHERE w > 3;
    CREATE STATISTICS m_st ON n, w FROM m;
    CREATE TRIGGER m_tr BEFORE UPDATE ON m FOR EACH ROW EXECUTE FUNCTION f();
    ALTER TABLE m ENABLE ALWAYS TRIGGER m_tr;
    COMMENT ON TABLE m IS 'it''s'; COMMENT ON COLUMN m.v IS 'v';
    COMMENT ON INDEX m_part IS 'i'; COMMENT ON CONSTRAINT m_un ON m IS 'c';
    COMMENT ON TRIGGER m_tr ON m IS 't';
    GRANT SELECT ON m TO PUBLIC;
    CREATE TABLE k (id int PRIMARY KEY, m bigint CONSTRAINT k_m REFERENCES m ON DELETE CASCADE)
"""
ROWS = "INSERT INTO m (o, v, w) SELECT 1, 'v' || n, n FROM generate_series(1, 50) n"


def test_a_moved_table_whose_checksums_are_known_comes_back_only_as_it_was(empty: Database, project: Project) -> None:
    """Verified once, it is compared like a copy: a row that is gone from the stash stops the upgrade."""
    made(project, empty, *MOVED["plain"])
    project.downgrade("-1")
    recheck.recheck(project.config(repeat="make migrate-stash-verify"), None)
    empty.rows("DELETE FROM migration_stash_1.m WHERE id = 7")

    with pytest.raises(Refused) as caught:
        project.upgrade()

    assert [one.code for one in caught.value.findings] == ["stash-damaged"]
    assert empty.rows("SELECT to_regclass('m')") == [(None,)]
    assert empty.value("SELECT count(*) FROM migration_stash_1.m") == 49


ID = "CREATE TABLE m (id int PRIMARY KEY, v text)"
FIFTY = "INSERT INTO m (id) SELECT n FROM generate_series(1, 50) n"
# Kept as it is and put back: the setup of 001, up and down of 002, rows.
MOVED = {
    "plain": ("CREATE TABLE z ()", "CREATE TABLE m (id int PRIMARY KEY, v text)", "DROP TABLE m",
              "INSERT INTO m SELECT n, 'v' FROM generate_series(1, 50) n"),
    "without a key": ("CREATE TABLE z ()", "CREATE TABLE m (v text)", "DROP TABLE m",
                      "INSERT INTO m VALUES ('a'), ('a'), (NULL)"),
    "everything a table has": (PARENT, RICH, "DROP TABLE k; DROP TABLE m; DROP FUNCTION f()",
                               ROWS + "; INSERT INTO k VALUES (1, 1)"),
    "dropped part by part": (
        PARENT, RICH,
        "ALTER TABLE k DROP CONSTRAINT k_m; DROP TRIGGER m_tr ON m; DROP INDEX m_part; DROP STATISTICS m_st; "
        "ALTER TABLE m DROP CONSTRAINT m_un, DROP CONSTRAINT m_to_o, DROP v; DROP TABLE m; DROP TABLE k; DROP FUNCTION f()", ROWS,
    ),
    "function dropped with cascade": (PARENT, RICH, "DROP FUNCTION f() CASCADE; DROP TABLE k, m", ROWS),
    "it holds rows of its own upgrade": (
        "CREATE TABLE z ()", "CREATE TABLE m (id serial PRIMARY KEY, v text); INSERT INTO m (v) VALUES ('seed'), ('seed')",
        "DROP TABLE m", "UPDATE m SET v = 'mine' WHERE id = 1; DELETE FROM m WHERE id = 2; INSERT INTO m (v) VALUES ('more')",
    ),
    "statement by statement": (
        "CREATE TABLE z ()", "CREATE TABLE m (id int); ;INSERT INTO m VALUES (1); CREATE INDEX m_id ON m (id)", "DROP TABLE m",
        "INSERT INTO m VALUES (2)",
    ),
    "with rights that somebody has given by hand": (
        "CREATE TABLE z ()", ID, "DROP TABLE m", FIFTY + "; GRANT SELECT (v), DELETE ON m TO pg_monitor WITH GRANT OPTION",
    ),
    "with rights on a column": ("CREATE TABLE z ()", ID + "; GRANT SELECT (v) ON m TO pg_monitor", "DROP TABLE m", FIFTY),
    "with options": ("CREATE TABLE z ()", ID + " WITH (fillfactor = 50, toast.autovacuum_enabled = off)", "DROP TABLE m", FIFTY),
    "another schema": ("CREATE SCHEMA app", "CREATE TABLE app.m (id serial PRIMARY KEY); COMMENT ON TABLE app.m IS 'x'",
                       "DROP TABLE app.m", "INSERT INTO app.m DEFAULT VALUES"),
}  # fmt: skip


def made(project: Project, database: Database, setup: str, up: str, down: str, rows: str) -> None:
    """A history of two revisions, applied, with rows; every table that is not empty is large."""
    project.configure(stash_move_above="0kB")
    project.revision(
        "001", "create_things", sql(setup), "raise NotImplementedError", reversible="forward-only: the base"
    )
    project.revision("002", "alter_things", "\n".join(map(sql, up.split("; ;"))), sql(down))
    project.upgrade()
    database.rows(rows)


def kept(database: Database, name: str = "m") -> tuple[bool, str | None]:
    """Whether the newest stash has the table itself, and what it is called there."""
    moved, relation = database.rows(
        "SELECT moved, relation FROM migration.stash_object "
        "WHERE kind = 'table' AND object_name = %s ORDER BY stash_id DESC",
        name,
    )[0]
    return moved, relation


def oid(database: Database, name: str) -> int:
    """The table's own identity, whatever schema it lies in."""
    value: int = database.value("SELECT oid::bigint FROM pg_class WHERE relname = %s AND relkind = 'r'", name)
    return value


@pytest.mark.parametrize("case", some(MOVED))
def test_a_large_table_is_moved_and_moved_back(empty: Database, project: Project, case: str) -> None:
    """The very same table comes back, with its rows, and the schema is exactly what it was."""
    made(project, empty, *MOVED[case])
    table = "app.m" if "schema" in case else "m"
    before, was, structure = oid(empty, "m"), shown(empty, table), catalog(empty)

    project.downgrade("-1")

    assert kept(empty) == (True, "m")
    assert (
        empty.value("SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = %s", before)
        == "migration_stash_1"
    )
    assert (
        empty.rows(
            "SELECT conname FROM pg_constraint "
            "WHERE contype = 'f' AND conrelid <> confrelid AND %s IN (conrelid, confrelid)",
            before,
        )
        == []
    )
    project.upgrade()
    assert oid(empty, "m") == before
    assert shown(empty, table) == was
    assert difference(structure, catalog(empty)) == []
    assert kept(empty) == (True, None)
    assert empty.rows("SELECT state FROM migration.stash") == [("restored",)]


def test_rows_that_a_foreign_key_needs_come_back_before_it(empty: Database, project: Project) -> None:
    """A table that kept its rows refers to the moved one: its rows are put into the new table before the key is made."""
    made(
        project, empty, PARENT + "; CREATE TABLE k (id int PRIMARY KEY, m int)",
        "CREATE TABLE m (id int PRIMARY KEY, o int REFERENCES o, v text); "
        "ALTER TABLE k ADD CONSTRAINT k_m FOREIGN KEY (m) REFERENCES m",
        "DROP TABLE m CASCADE",
        "INSERT INTO m SELECT n, 1, 'v' FROM generate_series(1, 50) n; INSERT INTO k VALUES (1, 7)",
    )  # fmt: skip
    was, structure = shown(empty, "m"), catalog(empty)

    project.downgrade("-1")
    project.upgrade()

    assert shown(empty, "m") == was
    assert difference(structure, catalog(empty)) == []
    assert kept(empty) == (True, "m")
    assert empty.rows("SELECT state FROM migration.stash") == [("restored",)]


@pytest.mark.parametrize("key", ["", " PRIMARY KEY"])
def test_newer_rows_of_the_upgrade_are_set_aside_before_the_table_is_moved_back(
    empty: Database, project: Project, key: str
) -> None:
    """What the upgrade has put into the new table and the moved one holds otherwise stays to be read; what is new, by its key, is
    in the table."""
    made(
        project, empty, "CREATE TABLE u (id int, v text)",
        f"CREATE TABLE m (id int{key}, v text); INSERT INTO m SELECT * FROM u", "DROP TABLE m",
        "INSERT INTO m SELECT n, 'kept' FROM generate_series(1, 50) n",
    )  # fmt: skip
    project.downgrade("-1")
    empty.rows("INSERT INTO u VALUES (1, 'newer'), (2, 'kept'), (99, 'new')")

    project.upgrade()

    new = [(99, "new")]
    assert empty.rows("SELECT count(*) FROM m WHERE v = 'kept'") == [(50,)]
    assert empty.rows("SELECT id, v FROM m WHERE v <> 'kept'") == (new if key else [])
    aside = empty.rows('SELECT id, v FROM migration_stash_1."guard:aside_1" ORDER BY id')
    assert aside == [(1, "newer"), *([] if key else new)]
    assert kept(empty) == (True, "m" if key else None)


# Reasons why it must be copied: setup of 001, up and down of 002, rows.
COPIED = {
    "the downgrade merges it back": (
        "CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1), (2)", ID,
        "ALTER TABLE u ADD v text; UPDATE u SET v = m.v FROM m WHERE m.id = u.id; DROP TABLE m", FIFTY + "; "
        "UPDATE m SET v = 'v' || id",
    ),
    "it only looks whether there is a row": (
        "CREATE TABLE z ()", ID, "DO $$ BEGIN PERFORM FROM m; DROP TABLE m; END $$", FIFTY,
    ),
    "it looks one row up by its key": (
        "CREATE TABLE z ()", ID, "SET enable_seqscan = off; SELECT FROM m WHERE id = 7; RESET enable_seqscan; "
        "DROP TABLE m", FIFTY,
    ),
    "it reads a view of it": (
        "CREATE TABLE z ()", ID + "; CREATE VIEW w AS SELECT * FROM m", "SELECT * FROM w; DROP VIEW w; DROP TABLE m", FIFTY,
    ),
    "it writes rows elsewhere": ("CREATE TABLE u (id int)", ID, "INSERT INTO u VALUES (1); DROP TABLE m", FIFTY),
    "it deletes rows of it first": ("CREATE TABLE z ()", ID, "DELETE FROM m WHERE id = 1; DROP TABLE m", FIFTY),
    "it fills a new table from what the catalog tells of it": (
        "CREATE TABLE z ()", ID, "CREATE TABLE x AS SELECT reltuples FROM pg_class WHERE relname = 'm'; DROP TABLE m", FIFTY,
    ),
    "it fills a new table from a place in its file": (
        "CREATE TABLE z ()", ID, "CREATE TABLE x AS SELECT id FROM m WHERE ctid = '(0,1)'; DROP TABLE m", FIFTY,
    ),
    "it empties it first": ("CREATE TABLE z ()", ID, "TRUNCATE m; DROP TABLE m", FIFTY),
    "it writes it anew first": ("CREATE TABLE z ()", ID, "ALTER TABLE m ALTER id TYPE bigint; DROP TABLE m", FIFTY),
    "it checks a new constraint": ("CREATE TABLE z ()", ID, "ALTER TABLE m ADD CHECK (id > 0); DROP TABLE m", FIFTY),
    "a view": ("CREATE TABLE z ()", ID + "; CREATE VIEW w AS SELECT * FROM m", "DROP TABLE m CASCADE", FIFTY),
    "a materialized view": ("CREATE TABLE z ()", ID + "; CREATE MATERIALIZED VIEW w AS SELECT 1 FROM m WITH NO DATA",
                            "DROP MATERIALIZED VIEW w; DROP TABLE m", FIFTY),
    "a column of its row type": ("CREATE TABLE z ()", ID + "; CREATE TABLE h (m m)", "DROP TABLE h; DROP TABLE m", FIFTY),
    "a function of its row type": (
        "CREATE TABLE z ()", ID + "; CREATE FUNCTION f(m) RETURNS int LANGUAGE sql AS 'SELECT 1'", "DROP FUNCTION f; "
        "DROP TABLE m", FIFTY,
    ),
    "a function in a default, dropped with cascade": (
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$",
        "CREATE TABLE m (id int PRIMARY KEY, v text DEFAULT f())",
        "DROP TABLE m", FIFTY,
    ),
    "a function in an index": (
        "CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'", ID + "; "
        "CREATE INDEX ON m (f(id))", "DROP TABLE m", FIFTY,
    ),
    "a sequence that is not its own": (
        "CREATE SEQUENCE s", "CREATE TABLE m (id int PRIMARY KEY, v int DEFAULT nextval('s'))", "DROP TABLE m", FIFTY,
    ),
    "its own sequence serves another table": (
        "CREATE TABLE z ()", "CREATE TABLE m (id serial); CREATE TABLE h (id int DEFAULT nextval('m_id_seq'))",
        "DROP TABLE h; DROP TABLE m", "INSERT INTO m DEFAULT VALUES; INSERT INTO h DEFAULT VALUES",
    ),
    "a type of the user's own": ("CREATE TYPE mood AS ENUM ('sad')", "CREATE TABLE m (id int, v mood)", "DROP TABLE m",
                                 "INSERT INTO m VALUES (1, 'sad')"),
    "a policy": ("CREATE TABLE z ()", ID + "; CREATE POLICY p ON m", "DROP TABLE m", FIFTY),
    "row level security": ("CREATE TABLE z ()", ID + "; ALTER TABLE m ENABLE ROW LEVEL SECURITY", "DROP TABLE m", FIFTY),
    "a rule": ("CREATE TABLE z ()", ID + "; CREATE RULE r AS ON DELETE TO m DO INSTEAD NOTHING", "DROP TABLE m", FIFTY),
    "a publication": ("CREATE PUBLICATION p", ID + "; ALTER PUBLICATION p ADD TABLE m", "DROP TABLE m", FIFTY),
    "a publication of its schema": ("CREATE PUBLICATION p FOR TABLES IN SCHEMA public", ID, "DROP TABLE m", FIFTY),
    "a foreign key that was put to sleep": (
        "CREATE TABLE o (id int PRIMARY KEY)", "CREATE TABLE m (id int PRIMARY KEY REFERENCES o); "
        "ALTER TABLE m DISABLE TRIGGER ALL", "DROP TABLE m", FIFTY,
    ),
    "inheritance": ("CREATE TABLE z ()", ID + "; CREATE TABLE h () INHERITS (m)", "DROP TABLE h; DROP TABLE m", FIFTY),
    "inherited": ("CREATE TABLE h (id int)", "CREATE TABLE m (v text) INHERITS (h)", "DROP TABLE m", FIFTY),
    "partitioned": ("CREATE TABLE z ()", "CREATE TABLE m (id int) PARTITION BY LIST (id); CREATE TABLE m1 "
    "PARTITION OF m DEFAULT",
                    "DROP TABLE m", FIFTY),
    "a foreign key of a partitioned table": (
        "CREATE TABLE z ()", ID + "; CREATE TABLE h (id int REFERENCES m) PARTITION BY LIST (id); "
        "CREATE TABLE h1 PARTITION OF h DEFAULT",
        "DROP TABLE h; DROP TABLE m", FIFTY,
    ),
    "unlogged": ("CREATE TABLE z ()", ID.replace("TABLE", "UNLOGGED TABLE"), "DROP TABLE m", FIFTY),
    "two of the same name": (
        "CREATE SCHEMA app", ID + "; CREATE TABLE app.m (id int)", "DROP TABLE m; DROP TABLE app.m", FIFTY + "; "
        "INSERT INTO app.m VALUES (1)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", some(COPIED))
def test_what_could_make_a_difference_is_copied(empty: Database, project: Project, case: str) -> None:
    """Its rows lie in the stash as a copy, and come back from there."""
    made(project, empty, *COPIED[case])
    before, was = empty.value("SELECT 'm'::regclass::oid::bigint"), shown(empty, "m")

    project.downgrade("-1")

    assert not kept(empty)[0]
    assert empty.value("SELECT count(*) FROM pg_class WHERE oid = %s", before) == 0
    assert empty.value("SELECT count(*) FROM migration_stash_1.m") == len(was)
    project.upgrade()
    assert shown(empty, "m") == was


UNLIKE = {
    "replica identity": "ALTER TABLE m REPLICA IDENTITY FULL",
    "clustered": "ALTER TABLE m CLUSTER ON m_pkey",
    "statistics target": "ALTER TABLE m ALTER v SET STATISTICS 7",
    "column options": "ALTER TABLE m ALTER v SET (n_distinct = 3)",
    "statistics target of an index": "CREATE INDEX i ON m ((id + 1)); ALTER INDEX i ALTER 1 SET STATISTICS 7",
    "a check that was not validated": "ALTER TABLE m ADD CONSTRAINT c CHECK (id > 0) NOT VALID",
    "a constraint that has another name than its index": "ALTER TABLE m ADD CONSTRAINT u UNIQUE (v); COMMENT ON TYPE m IS 'x'",
}


@pytest.mark.parametrize("case", some(UNLIKE))
def test_without_an_exact_stand_in_it_is_copied(
    empty: Database, project: Project, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """Whatever the stand-in lacks, the downgrade could find missing; it is said why a large table is copied."""
    made(project, empty, "CREATE TABLE z ()", ID + "; " + UNLIKE[case], "DROP TABLE m", FIFTY)

    project.downgrade("-1")

    assert not kept(empty)[0]
    assert "copied and not moved: m: no stand-in for m is like it" in capsys.readouterr().err
    project.upgrade()
    assert empty.value("SELECT count(*) FROM m") == 50


# What the body does the second time, when its table stands in the stash and a stand-in in its place.
OTHERWISE = {
    "it makes something else": ("op.execute('CREATE TABLE extra ()')", "it does not do to the schema what"),
    "it reads it": ("op.execute('SELECT FROM m')", "it reads a table that it did not read in its trial"),
    "it writes rows": ("op.execute('INSERT INTO z VALUES (1)')", "it writes rows, and did not in its trial"),
    "it fills a new table": ("op.execute('CREATE TABLE extra AS SELECT 1 AS n')", "it does not do to the schema what"),
    "it sets a sequence back": ('op.execute("SELECT setval(\'s\', 1)")', "it sets the sequence s back"),
    "it leaves it": ("return", "it does not do to the schema what"),
    "its statement fails": ("op.execute('SELECT 1 / 0')", "division by zero"),
    "it drops what was kept": ("op.execute('DROP TABLE migration_stash_1.m')", "it destroys what was kept"),
    "it changes what was kept": ("op.execute('DELETE FROM migration_stash_1.m')", "it destroys what was kept"),
}  # fmt: skip


@pytest.mark.parametrize("case", some(OTHERWISE))
def test_a_real_run_unlike_its_trial_is_undone_and_it_is_copied(
    empty: Database, project: Project, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """The step begins again from before the move, and the third run finds the table itself."""
    body, said = OTHERWISE[case]
    down = f"runs.append(1)\nif len(runs) == 2:\n    {body}\nop.drop_table('m')"
    project.configure(stash_move_above="0kB")
    project.revision(
        "001", "create_things", sql("CREATE TABLE z (id int); CREATE SEQUENCE s; " + ID), down, more="runs = []"
    )
    project.upgrade()
    empty.rows(FIFTY + "; SELECT setval('s', 5)")

    project.downgrade("base")

    assert not kept(empty)[0]
    assert said in capsys.readouterr().err
    assert empty.rows("SELECT kept_in FROM migration.stash") == [("migration_stash_2",)]
    assert empty.value("SELECT count(*) FROM migration_stash_2.m") == 50
    assert empty.rows("SELECT to_regclass('extra'), to_regclass('m'), to_regnamespace('migration_stash_1')") == [
        (None,) * 3
    ]


@pytest.mark.parametrize(("above", "moved"), [("never", False), ("1MB", False), ("24kB", False), ("8kB", True)])
def test_only_large_tables_are_moved(empty: Database, project: Project, above: str, moved: bool) -> None:
    """A table of one page with an index of two takes 24 kB."""
    made(project, empty, "CREATE TABLE z ()", "CREATE TABLE m (id int PRIMARY KEY)", "DROP TABLE m", FIFTY)
    project.configure(stash_move_above=above)

    project.downgrade("-1")

    assert kept(empty)[0] is moved


@pytest.mark.parametrize("above", ["", "0", "100", "1 TB", "-1MB", "no"])
def test_a_size_has_its_unit(empty: Database, project: Project, above: str) -> None:
    """Anything else is refused before the database is asked."""
    project.configure(stash_move_above=above)

    with pytest.raises(WrongUse, match="stash_move_above"):
        project.upgrade()


CHANGED = {
    "a column more": "CREATE TABLE m (id int PRIMARY KEY, v text, w int)",
    "an index more": ID + "; CREATE INDEX ON m (v)",
    "a right more": ID + "; GRANT SELECT ON m TO PUBLIC",
    "a trigger more": (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$; "
        + ID + "; CREATE TRIGGER t AFTER INSERT ON m FOR EACH ROW EXECUTE FUNCTION f()"
    ),
    "a view": ID + "; CREATE VIEW w AS SELECT * FROM m",
    "an option of its toast": ID + " WITH (toast.autovacuum_enabled = off)",
    "a statistics target of an index": "CREATE TABLE m (id int PRIMARY KEY, v text); CREATE INDEX i ON m ((id + 1)); "
                                       "ALTER INDEX i ALTER 1 SET STATISTICS 7",
    "another type": ID.replace("text", "varchar"),
}  # fmt: skip


@pytest.mark.parametrize("case", some(CHANGED))
def test_another_structure_gets_the_rows_only(empty: Database, project: Project, case: str) -> None:
    """Where the upgrade makes something else than went, that stays as made, and the moved table stays in the stash."""
    made(project, empty, "CREATE TABLE z ()", ID, "DROP TABLE m", FIFTY)
    before = oid(empty, "m")
    project.downgrade("-1")
    project.revision("002", "alter_things", sql(CHANGED[case]), sql("DROP TABLE m CASCADE"))

    project.upgrade()

    assert kept(empty) == (True, "m")
    assert empty.value("SELECT 'm'::regclass::oid::bigint") != before
    assert empty.value("SELECT count(*) FROM m") == 50
    assert empty.rows("SELECT s.state, o.restored_rows, o.left_rows FROM migration.stash s, migration.stash_object o "
                      "WHERE kind = 'table'") == [("restored", 50, 0)]  # fmt: skip


def test_rows_whose_reference_has_gone_are_left_behind(empty: Database, project: Project) -> None:
    """A foreign key that no longer holds lets the table not back as it is; what refers to nothing stays in the stash."""
    made(
        project,
        empty,
        PARENT,
        "CREATE TABLE m (id int PRIMARY KEY, o int REFERENCES o)",
        "DROP TABLE m",
        "INSERT INTO m VALUES (1, 1), (2, 2)",
    )
    project.downgrade("-1")
    empty.rows("DELETE FROM o WHERE id = 2")

    project.upgrade()

    assert empty.rows("SELECT * FROM m") == [(1, 1)]
    assert empty.rows("SELECT moved, restored_rows, left_rows FROM migration.stash_object") == [(True, 1, 1)]
    assert empty.rows("SELECT state FROM migration.stash") == [("partly restored",)]


def test_sequences_go_on_where_the_higher_one_stood(empty: Database, project: Project) -> None:
    """Neither a number of the old rows nor one that the upgrade's own rows have taken is given again."""
    made(project, empty, "CREATE TABLE z ()", "CREATE TABLE m (id serial PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY); "
         "SELECT setval('m_id_seq', 5), setval('m_n_seq', 90)", "DROP TABLE m", "INSERT INTO m SELECT "
         "FROM generate_series(1, 50)")  # fmt: skip
    empty.rows("SELECT setval('m_n_seq', 7)")

    project.downgrade("-1")
    project.upgrade()

    assert kept(empty) == (True, None)
    assert empty.rows("INSERT INTO m DEFAULT VALUES RETURNING id, n") == [(56, 91)]


def test_nobody_reaches_a_moved_table(empty: Database, project: Project) -> None:
    """Who could read it before cannot read it in the stash."""
    made(project, empty, "CREATE TABLE z ()", ID + "; GRANT SELECT ON m TO pg_monitor", "DROP TABLE m", FIFTY)

    project.downgrade("-1")

    assert empty.value("SELECT has_schema_privilege('pg_monitor', 'migration_stash_1', 'USAGE')") is False


def test_a_view_that_somebody_makes_meanwhile_is_no_way_into_the_stash(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between trial and move nothing keeps others from it; the step is undone, and dropping the table then fails on the view."""
    made(project, empty, "CREATE TABLE z ()", ID, "DROP TABLE m", FIFTY)
    looked = move.candidates

    def candidates(connection: Any, tried: Any) -> Any:
        found = looked(connection, tried)
        empty.rows("CREATE VIEW w AS SELECT * FROM m")
        return found

    monkeypatch.setattr(move, "candidates", candidates)

    with pytest.raises(Broken, match="cannot drop table m because other objects depend on it"):
        project.downgrade("-1")

    assert empty.value("SELECT count(*) FROM w") == 50
    assert empty.rows("SELECT to_regnamespace('migration_stash_1'), to_regnamespace('migration_stash_2')") == [
        (None, None)
    ]


def test_a_row_written_meanwhile_is_in_the_stash(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed between trial and lock moves along."""
    made(project, empty, "CREATE TABLE z ()", ID, "DROP TABLE m", FIFTY)
    looked = move.candidates

    def candidates(connection: Any, tried: Any) -> Any:
        empty.rows("INSERT INTO m VALUES (51)")
        return looked(connection, tried)

    monkeypatch.setattr(move, "candidates", candidates)

    project.downgrade("-1")

    assert kept(empty) == (True, "m")
    assert empty.value("SELECT count(*) FROM migration_stash_1.m") == 51


@pytest.mark.parametrize(
    "what",
    [
        "ALTER TABLE m ALTER v SET DEFAULT f()", "ALTER TABLE m ADD CHECK (f() <> v)", "ALTER PUBLICATION p ADD TABLE m",
        "CREATE POLICY p ON m", "CREATE RULE r AS ON DELETE TO m DO INSTEAD NOTHING",
    ],
)  # fmt: skip
def test_what_comes_to_hang_on_it_meanwhile_lets_it_be_copied_by_the_next_command(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A moved table that depends on a function of somebody's would fall with DROP FUNCTION … CASCADE.

    What goes is then not what went in the trial: the step is undone, and the command need only be repeated.
    """
    made(
        project, empty, "CREATE PUBLICATION p; CREATE FUNCTION f() RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'x' $$",
        ID, "DROP TABLE m", FIFTY,
    )  # fmt: skip
    looked = move.candidates

    def candidates(connection: Any, tried: Any) -> Any:
        found = looked(connection, tried)
        empty.rows(what)
        return found

    monkeypatch.setattr(move, "candidates", candidates)

    with pytest.raises(Refused, match="the command need only be repeated"):
        project.downgrade("-1")

    assert empty.value("SELECT count(*) FROM m") == 50
    monkeypatch.setattr(move, "candidates", looked)
    project.downgrade("-1")
    assert kept(empty) == (False, "m")
    assert empty.value(f"SELECT count(*) FROM {empty.value('SELECT kept_in FROM migration.stash')}.m") == 50


def test_a_stand_ins_sequences_stand_where_the_tables_stood(empty: Database, project: Project) -> None:
    """A downgrade that hands its numbers on to another sequence hands on the right one."""
    made(
        project, empty, "CREATE SEQUENCE s", "CREATE TABLE m (id serial PRIMARY KEY)",
        "SELECT setval('s', (SELECT last_value FROM m_id_seq)); DROP TABLE m", "INSERT INTO m SELECT FROM generate_series(1, 50)",
    )  # fmt: skip

    project.downgrade("-1")

    assert kept(empty) == (True, "m")
    assert empty.value("SELECT nextval('s')") == 51


def test_where_nothing_is_counted_everything_is_copied(empty: Database, project: Project) -> None:
    """Without track_counts nobody knows whether the downgrade has read the table."""
    made(
        project, empty, "CREATE TABLE z ()", ID, "SELECT FROM m; DROP TABLE m", FIFTY
    )  # fmt: skip
    empty.rows(f"ALTER DATABASE {empty.name} SET track_counts = off")

    project.downgrade("-1")

    assert kept(empty) == (False, "m")


NEEDED = {
    "it changes other rows": "UPDATE u SET m = NULL WHERE m NOT IN (SELECT id FROM m)",
    "it deletes other rows": "/* m */ DELETE FROM u WHERE NOT EXISTS (SELECT FROM m WHERE m.id = u.m)",
    "it refers to them": "CREATE TABLE k (m int REFERENCES m); INSERT INTO k SELECT m FROM u WHERE m = 7; DROP TABLE k",
    "it fails without them": (
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM m) AND EXISTS (SELECT FROM u) THEN RAISE 'no rows'; END IF; END $$"
    ),
    "it inserts one of them, having looked at them": "INSERT INTO m SELECT 1 WHERE (SELECT count(*) FROM m) <> 3; -- a seed",
    "a default computes from them": (
        "CREATE FUNCTION f() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM m'; ALTER TABLE u ADD n bigint DEFAULT f(); "
        "UPDATE u SET m = nullif(m, 7) WHERE n < 50; ALTER TABLE u DROP n; DROP FUNCTION f()"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", some(NEEDED))
def test_a_statement_that_reads_them_finds_the_rows_back(empty: Database, project: Project, case: str) -> None:
    """What a later statement of the upgrade computes from the table is computed from its rows, not from an empty table."""
    made(
        project, empty, "CREATE TABLE u (id int PRIMARY KEY, m int)", ID + "; ;" + NEEDED[case], "DROP TABLE m",
        FIFTY + " ON CONFLICT DO NOTHING; INSERT INTO u VALUES (1, 7)",
    )  # fmt: skip
    project.downgrade("-1")
    assert kept(empty) == (True, "m")

    project.upgrade()

    assert empty.rows("SELECT * FROM u") == [(1, 7)]
    assert empty.value("SELECT count(*) FROM m") == 50
    assert empty.rows("SELECT state FROM migration.stash") == [("restored",)]


def test_what_a_table_is_built_of_needs_none_of_its_rows(empty: Database, project: Project) -> None:
    """An index and a constraint read the new table; the moved one has its own, and still comes back as it is."""
    made(
        project, empty, "CREATE TABLE z ()",
        "CREATE TABLE m (id int, v text); ;INSERT INTO m VALUES (0, 'seed'); ;"
        "-- by v\nCREATE INDEX m_v ON m (v); COMMENT ON INDEX m_v IS ';'; ;"
        "ALTER TABLE m ADD CONSTRAINT m_c CHECK (id >= 0), ADD PRIMARY KEY (id)",
        "DROP TABLE m", FIFTY,
    )  # fmt: skip
    before = oid(empty, "m")

    project.downgrade("-1")
    project.upgrade()

    assert oid(empty, "m") == before
    assert empty.value("SELECT count(*) FROM m") == 51


def test_a_view_of_a_moved_table_lets_only_its_rows_back(empty: Database, project: Project) -> None:
    """Who reads the stash through a view does not find that view on the table afterwards."""
    made(project, empty, "CREATE TABLE z ()", ID, "DROP TABLE m", FIFTY)
    project.downgrade("-1")
    empty.rows("CREATE VIEW w AS SELECT * FROM migration_stash_1.m")

    project.upgrade()

    assert kept(empty) == (True, "m")
    assert empty.rows("SELECT (SELECT count(*) FROM m), (SELECT count(*) FROM w)") == [(50, 50)]


@pytest.mark.parametrize("known", ["ANALYZE m", "SELECT"])
def test_a_moved_table_is_told_by_its_size(
    empty: Database, project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, known: str
) -> None:
    """Nobody has counted its rows: the lines say how large it is, and as many rows as ANALYZE has found, if it ever ran."""
    monkeypatch.setattr(cli, "ROOT", project.folder)
    made(project, empty, *MOVED["plain"])
    empty.rows(known)
    size = empty.value("SELECT pg_size_pretty(pg_total_relation_size('m'))")
    capsys.readouterr()

    project.downgrade("-1")
    said = capsys.readouterr().err
    cli.main(["migrate-stash-list"])
    listed = capsys.readouterr().out
    cli.main(["migrate-stash-show", "ID=1"])
    shown_ = capsys.readouterr().out

    rows = "about 50 rows, " if known != "SELECT" else ""
    assert f"kept table m: moved to migration_stash_1.m ({rows}{size})" in said
    assert [text in listed for text in ("about 50", "  0  ")] == [bool(rows), not rows]
    assert ("rows      about 50" in shown_) is bool(rows)
