"""Rows that a revision itself has written: deleted by people, or written anew by the upgrade while the kept ones come back."""

from __future__ import annotations

import logging

import pytest

from mcp_planner_schema.guard.findings import GuardError
from tests.conftest import Database, Project
from tests.test_restore import down_and_up, there_and_back, two
from tests.test_stash import sql

BOTH_THERE = "expect.rows(\"SELECT FROM s WHERE v = 'seed'\", count=2)"
SEEDED = (
    sql("CREATE TABLE s (id int PRIMARY KEY, v text)") + "\n" + sql("INSERT INTO s VALUES (1, 'seed'), (2, 'seed')")
)


def seeded(project: Project, expectations: str, *, up: str = SEEDED, down: str = "DROP TABLE s") -> None:
    """A base, and a revision with seeds and these expectations; applied."""
    project.revision(
        "001", "create_z", sql("CREATE TABLE z ()"), "raise NotImplementedError", reversible="forward-only: the base"
    )
    project.revision("002", "seed_s", up, sql(down), expectations=expectations)
    project.upgrade()


@pytest.mark.parametrize("deleted", ["WHERE id = 2", ""])
def test_an_expectation_about_rows_that_came_back_is_told(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture, deleted: str
) -> None:
    """One seed deleted by people, or all of them: the way up is free, the deleted ones stay deleted, and one line says so."""
    seeded(project, f'expect.table("s"), {BOTH_THERE}')
    empty.rows(f"DELETE FROM s {deleted}")
    before = empty.rows("SELECT * FROM s")

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT * FROM s") == before
    told = f"does not hold for the rows that came back: found {len(before)} rows"
    assert f"warning: expectation 2 rows from SELECT FROM s WHERE v = 'seed' {told}" in caplog.text


def test_a_query_that_fails_of_itself_is_told_and_harms_nothing(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the query's own ends in its savepoint: what it wrote is undone, and the step is final all the same."""
    empty.rows("CREATE TABLE log (n int); CREATE FUNCTION f(n int) RETURNS int LANGUAGE plpgsql "
               "AS 'BEGIN INSERT INTO log VALUES (n); RETURN 10 / (SELECT count(*) FROM s); END'")  # fmt: skip
    seeded(project, 'expect.query("SELECT f(1)", equals=5), expect.query("SELECT count(*) FROM log", equals=1)')
    empty.rows("DELETE FROM s; TRUNCATE log")

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, "SELECT")

    told = "does not hold for the rows that came back: found an error: division by zero"
    assert f"expectation 5 from SELECT f(1) {told}" in caplog.text
    assert "expectation 1 from SELECT count(*) FROM log does not hold" in caplog.text
    assert empty.value("SELECT version_num FROM alembic_version") == "002"
    assert empty.value("SELECT count(*) FROM log") == 0


def test_an_expectation_about_structure_stays_strict(empty: Database, project: Project) -> None:
    """Rows came back, and yet an upgrade that no longer makes its column is no upgrade."""
    seeded(project, f'expect.column("s", "v"), {BOTH_THERE}')
    empty.rows("DELETE FROM s WHERE id = 1")
    project.downgrade("-1")
    project.revision(
        "002", "seed_s", sql("CREATE TABLE s (id int PRIMARY KEY)"), sql("DROP TABLE s"),
        expectations=f'expect.column("s", "v"), {BOTH_THERE}',
    )  # fmt: skip

    with pytest.raises(GuardError, match=r"expected column s\.v, found nothing\n"):
        project.upgrade()

    assert empty.value("SELECT state FROM migration.stash") == "kept"


def test_where_nothing_came_back_an_expectation_about_rows_is_strict(empty: Database, project: Project) -> None:
    """The kept sequence holds no rows: the seeds are the upgrade's own, and must be what it says."""
    up = sql("CREATE TABLE IF NOT EXISTS z2 (id int); CREATE SEQUENCE q")
    seeded(project, 'expect.rows("SELECT FROM z2", count=0)', up=up, down="DROP SEQUENCE q")

    with pytest.raises(GuardError, match="expected 0 rows from SELECT FROM z2, found 1 rows"):
        down_and_up(project, empty, "INSERT INTO z2 VALUES (1)")


A = "CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)"
INSERTED = "INSERT INTO a (v) VALUES ('seed'), ('other')"
# The table, what the upgrade does to it, what of v the downgrade deletes: keys that the server makes, and how they get there.
ANEW = {
    "identity": (A, [INSERTED]),
    "by default": (A.replace("ALWAYS", "BY DEFAULT"), [INSERTED]),
    "serial": ("CREATE TABLE a (id serial PRIMARY KEY, v text)", [INSERTED]),
    "uuid": ("CREATE TABLE a (id uuid DEFAULT gen_random_uuid() PRIMARY KEY, v text)", [INSERTED]),
    "two of them": ("CREATE TABLE a (id serial, v text, u uuid DEFAULT gen_random_uuid(), PRIMARY KEY (u, id))", [INSERTED]),
    "nothing but a key": ("CREATE TABLE a (id serial PRIMARY KEY)", 2 * ["INSERT INTO a DEFAULT VALUES"]),
    "the time of writing": (
        "CREATE TABLE a (id serial PRIMARY KEY, v text, at timestamptz NOT NULL DEFAULT now(), "
        "utc timestamp DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'utc'))", [INSERTED],
    ),
    "types of one's own": (
        "CREATE TYPE mood AS ENUM ('fine'); CREATE TABLE a (id serial PRIMARY KEY, v text, m mood DEFAULT 'fine', "
        "ms mood[] DEFAULT '{fine,NULL}', g text GENERATED ALWAYS AS (v || '!') STORED)", [INSERTED],
    ),
    "partitions": (
        "CREATE TABLE a (id serial, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id); "
        "CREATE TABLE a1 PARTITION OF a FOR VALUES FROM (1) TO (3); CREATE TABLE a2 PARTITION OF a DEFAULT", [INSERTED],
    ),
    "a function's": (
        f"{A}; CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql "
        f"AS $$ BEGIN {INSERTED}; EXCEPTION WHEN OTHERS THEN RAISE; END $$",
        ["SELECT f()"],
    ),
    "duplicates": (A, ["INSERT INTO a (v) SELECT v FROM unnest(ARRAY['seed', 'seed', 'other', NULL, NULL]) AS v"]),
    "renamed meanwhile": (A, ["ALTER TABLE a RENAME v TO w", "INSERT INTO a (w) VALUES ('seed'), ('other')"]),
    "a column that comes back as well": (A, ["ALTER TABLE a ADD x int", INSERTED]),
    "a key that grows": (A, ["ALTER TABLE a ALTER id TYPE bigint", INSERTED]),
}  # fmt: skip
BACK = {
    "renamed meanwhile": "ALTER TABLE a RENAME w TO v",
    "a column that comes back as well": "ALTER TABLE a DROP x",
    "a key that grows": "ALTER TABLE a ALTER id TYPE int",
}


@pytest.mark.parametrize("way", ANEW)
def test_a_seed_written_anew_is_the_one_that_was_kept(empty: Database, project: Project, way: str) -> None:
    """A table that stays, seeds that go and are inserted again under new keys: each is there once, and has its old key."""
    made, ups = ANEW[way]
    two(project, made, "", f"DELETE FROM a; {BACK.get(way, '')}", ups="\n".join(map(sql, ups)))

    there_and_back(project, empty, {"a": "*"})


def test_a_seed_with_a_unique_name_has_its_old_key_for_those_that_refer_to_it(
    empty: Database, project: Project
) -> None:
    """The new row would keep the old one out: it gives way, so that a restored child finds the key that it refers to."""
    two(
        project, A.replace("v text", "v text UNIQUE") + "; INSERT INTO a (v) VALUES ('base')", "",
        "DROP TABLE b; DELETE FROM a WHERE v <> 'base'",
        ups=sql("CREATE TABLE b (id int PRIMARY KEY, a int NOT NULL REFERENCES a)") + "\n"
        + sql(INSERTED + " ON CONFLICT DO NOTHING"),
    )  # fmt: skip
    empty.rows("INSERT INTO b SELECT id, id FROM a")

    there_and_back(project, empty, {"a": "*", "b": "*"})

    assert empty.rows("SELECT id, v FROM a ORDER BY id") == [(1, "base"), (2, "seed"), (3, "other")]


def test_a_seed_that_the_upgrade_refers_to_gets_its_key(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two seeds a row of the upgrade's own refers to one by its new key, and follows."""
    two(
        project, A + "; CREATE TABLE b (a int REFERENCES a ON DELETE CASCADE)", "", "DELETE FROM a",
        ups=sql(INSERTED) + "\n" + sql("INSERT INTO b SELECT id FROM a WHERE v = 'seed'"),
    )  # fmt: skip

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT id, v FROM a ORDER BY id") == [(1, "seed"), (2, "other")]
    assert empty.rows("SELECT a FROM b") == [(1,)]
    assert "restored changed rows of a: 2 rows" in caplog.text
    assert empty.value("SELECT state FROM migration.stash") == "restored"


def test_a_seed_that_could_not_follow_stays(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """A reference that would be emptied with it: the new one stays, and the kept one is told."""
    two(
        project, A + "; CREATE TABLE b (a int REFERENCES a ON UPDATE SET NULL ON DELETE CASCADE)", "", "DELETE FROM a",
        ups=sql(INSERTED) + "\n" + sql("INSERT INTO b SELECT id FROM a WHERE v = 'seed'"),
    )  # fmt: skip

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT id, v FROM a ORDER BY id") == [(2, "other"), (3, "seed")]
    assert (3,) in empty.rows("SELECT a FROM b")
    assert "restored changed rows of a: 1 rows" in caplog.text
    told = "newer ones are in their place, or other rows refer to those that the upgrade has written instead"
    assert f'left: 1 rows stay in "migration_stash_1"."a": {told}' in caplog.text
    assert empty.value("SELECT state FROM migration.stash") == "partly restored"


@pytest.mark.parametrize(
    "also", ["", "UPDATE a SET x = 1", "ALTER TABLE a ALTER x TYPE bigint", "ALTER TABLE a ALTER id TYPE bigint"]
)
def test_a_newer_row_of_the_same_values_stays(empty: Database, project: Project, also: str) -> None:
    """What people have written meanwhile is theirs, though the upgrade updates it, or writes its whole table anew."""
    ups = sql("INSERT INTO a (v, x) VALUES ('seed', 1)") + "\n" + (sql(also) if also else "")
    two(project, A.replace("v text", "v text, x int"), "", "DELETE FROM a WHERE id = 1", ups=ups)

    down_and_up(project, empty, "INSERT INTO a (v, x) VALUES ('seed', 1)")

    assert empty.rows("SELECT id, v, x FROM a ORDER BY id") == [(1, "seed", 1), (2, "seed", 1)]
    assert empty.value("SELECT state FROM migration.stash") == "restored"


def test_of_more_new_seeds_than_were_kept_the_others_are_set_aside(empty: Database, project: Project) -> None:
    """One to one: a seed that people had deleted is not there again, also where its table stays."""
    two(project, A, INSERTED + "; " + INSERTED, "DELETE FROM a")
    empty.rows("DELETE FROM a WHERE id IN (1, 4)")

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT v, count(*) FROM a GROUP BY v ORDER BY v") == [("other", 1), ("seed", 1)]
    assert empty.rows("SELECT id FROM a ORDER BY id") == [(2,), (3,)]
    assert empty.rows('SELECT v FROM migration_stash_1."guard:aside_1_inserted" ORDER BY v') == [("other",), ("seed",)]


def test_where_the_kept_row_cannot_come_back_the_new_one_stays(empty: Database, project: Project) -> None:
    """Somebody's newer row has what must be there once: neither the upgrade's seed nor that row goes."""
    made = "CREATE TABLE a (id serial PRIMARY KEY, v text, at timestamptz UNIQUE DEFAULT now())"
    two(project, made, "INSERT INTO a (v) VALUES ('seed')", "DELETE FROM a")
    at = empty.value("SELECT at FROM a")

    down_and_up(project, empty, f"INSERT INTO a (v, at) VALUES ('mine', '{at}')")

    assert empty.rows("SELECT id, v FROM a ORDER BY id") == [(2, "mine"), (3, "seed")]
    assert empty.rows("SELECT id, v FROM migration_stash_1.a") == [(1, "seed")]
    assert empty.value("SELECT state FROM migration.stash") == "partly restored"


def test_triggers_and_rules_sleep_while_a_seed_gives_way(empty: Database, project: Project) -> None:
    """Neither a trigger that forbids, nor one that writes a log, nor a rule sees it, and each stands as it stood."""
    two(
        project,
        A + "; CREATE TABLE log (n int); CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$; "
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (1); RETURN NULL; END $$",
        "", "DROP RULE r ON a; DROP TRIGGER t_no ON a; DROP TRIGGER t_log ON a; DELETE FROM a",
        ups=sql(INSERTED) + "\n" + sql(
            "CREATE TRIGGER t_no BEFORE DELETE ON a FOR EACH ROW EXECUTE FUNCTION no(); "
            "ALTER TABLE a ENABLE ALWAYS TRIGGER t_no; "
            "CREATE TRIGGER t_log AFTER INSERT OR DELETE ON a FOR EACH ROW EXECUTE FUNCTION note(); "
            "CREATE RULE r AS ON DELETE TO a DO INSTEAD NOTHING"),
    )  # fmt: skip

    there_and_back(project, empty, {"a": "*"})

    assert empty.rows("SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'a'::regclass ORDER BY 1") == [
        ("t_log", "O"), ("t_no", "A"),
    ]  # fmt: skip
    assert empty.value("SELECT ev_enabled FROM pg_rewrite WHERE rulename = 'r'") == "O"
    assert empty.rows("SELECT * FROM log") == []


@pytest.mark.long
def test_a_seed_among_many_rows_is_found_in_time(empty: Database, project: Project) -> None:
    """No statement compares each row of a table with each: that would end at its timeout."""
    many = "INSERT INTO a (v) SELECT 'mine ' || n FROM generate_series(1, 300000) n"
    two(project, f"{A}; {many}", INSERTED, "DELETE FROM a WHERE v IN ('seed', 'other')")

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT count(*), max(id) FROM a") == [(300002, 300002)]


MANY = "CREATE TABLE s (id int PRIMARY KEY, v text UNIQUE)"
MANY_SEEDS = "INSERT INTO s SELECT n, 'seed ' || n FROM generate_series(1, 5000) n"


@pytest.mark.parametrize(
    ("setup", "also", "written"),
    [
        ("SELECT", "SELECT", "INSERT INTO s VALUES (5001, 'mine')"),
        ("SELECT", "SELECT", "UPDATE s SET v = 'mine' WHERE id = 7; DELETE FROM s WHERE id = 8"),
        # One after the other they would meet: the two have each other's value.
        ("SELECT", "SELECT", "UPDATE s SET v = 'x' WHERE id = 7; UPDATE s SET v = 'seed 7' WHERE id = 8; "
                             "UPDATE s SET v = 'seed 8' WHERE id = 7; DELETE FROM s WHERE id = 9"),
        ("SELECT", "SELECT", "UPDATE s SET v = 'mine ' || id"),
        # PostgreSQL empties at once no table that another one refers to.
        ("CREATE TABLE k (s int)", "ALTER TABLE k ADD CONSTRAINT k_s FOREIGN KEY (s) REFERENCES s",
         "UPDATE s SET v = 'mine ' || id; DELETE FROM s WHERE id = 4"),
    ],
    ids=["one more", "few", "few that meet", "all", "referred to"],
)  # fmt: skip
def test_many_seeds_leave_no_dead_rows(empty: Database, project: Project, setup: str, also: str, written: str) -> None:
    """However many of them people have changed: the rows are what they were, and the table no larger than one just filled."""
    drop = "ALTER TABLE k DROP CONSTRAINT k_s; " if "k_s" in also else ""
    two(
        project, setup, "", f"{drop}DROP TABLE s",
        ups="\n".join(map(sql, (MANY, MANY_SEEDS, also))),
    )  # fmt: skip
    empty.rows(written)

    there_and_back(project, empty, {"s": "*"})

    size = empty.value("SELECT pg_relation_size('s')")
    fresh = empty.value("CREATE TABLE t AS SELECT * FROM s; SELECT pg_relation_size('t')")
    assert size <= fresh * (2.1 if drop else 1.1)


KEYLESS = "CREATE TABLE log (name text, value text, at timestamptz DEFAULT now())"


def test_without_a_key_a_row_that_the_upgrade_makes_alike_stays(empty: Database, project: Project) -> None:
    """An UPDATE of the upgrade makes somebody's row like a kept one: it is no seed, and no row of his goes for one."""
    up = "INSERT INTO log VALUES ('mode', 'dark'); UPDATE log SET value = 'dark' WHERE value IS NULL"
    project.revision("001", "create_things", sql(KEYLESS), sql("DROP TABLE log"))
    project.revision("002", "alter_things", sql(up), sql("DELETE FROM log WHERE name = 'mode'"))
    project.upgrade()
    empty.rows("INSERT INTO log VALUES ('mode', 'dark', '2020-01-01')")
    project.downgrade("-1")
    empty.rows("INSERT INTO log VALUES ('mode', NULL, '2020-01-02')")

    project.upgrade()

    assert empty.value("SELECT count(DISTINCT at) FROM log WHERE at < '2021-01-01'") == 2


def test_without_a_key_a_seed_in_a_freed_place_is_told_from_one_that_stayed(empty: Database, project: Project) -> None:
    """The upgrade's row takes the room of one that the downgrade deleted, before an equal one that stayed."""
    up, down = "INSERT INTO log (name) VALUES ('mode')", "DELETE FROM log WHERE ctid IN (SELECT min(ctid) FROM log)"
    project.revision("001", "create_things", sql(KEYLESS), sql("DROP TABLE log"))
    project.revision("002", "alter_things", sql(up), sql(down))
    project.upgrade()
    empty.rows("INSERT INTO log (name) VALUES ('mode'), ('mine')")
    project.downgrade("-1")
    empty.rows("VACUUM log")

    project.upgrade()

    assert empty.rows("SELECT name, count(*) FROM log GROUP BY 1 ORDER BY 1") == [("mine", 1), ("mode", 2)]


SEEDS = [
    "CREATE TABLE c (id serial PRIMARY KEY, name text NOT NULL UNIQUE)",
    "INSERT INTO c (name) VALUES ('red'), ('green')",
    "CREATE TABLE p (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, c int NOT NULL REFERENCES c, t text)",
    "INSERT INTO p (c, t) VALUES (1, 'a'), (2, 'b')",
]


@pytest.mark.parametrize(
    "change",
    ["SELECT", "UPDATE c SET name = 'crimson' WHERE id = 1", "DELETE FROM p; DELETE FROM c WHERE id = 2"],
    ids=["as they were", "changed", "deleted"],
)
def test_seeds_have_the_keys_that_the_upgrade_counts_on(empty: Database, project: Project, change: str) -> None:
    """Kept rows stand in the way of an INSERT once; sent again it gets the keys from a sequence that it got the first time."""
    two(project, "SELECT", "", "DROP TABLE p; DROP TABLE c", ups="\n".join(map(sql, SEEDS)))
    empty.rows(f"INSERT INTO c (name) VALUES ('blue'); INSERT INTO p (c, t) VALUES (3, 'z'); {change}")
    numbers = [empty.value(f"SELECT last_value FROM {name}_id_seq") for name in "cp"]

    there_and_back(project, empty, {"c": "*", "p": "*"})

    assert [empty.value(f"SELECT last_value FROM {name}_id_seq") for name in "cp"] == numbers


def test_a_seed_that_people_have_changed_is_told_by_what_is_unique(empty: Database, project: Project) -> None:
    """The upgrade writes it as it was at first: there is room for one of them, and what refers to the kept one needs its key."""
    kinds = (
        "CREATE TABLE kinds (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, code text UNIQUE, title text, uses int)"
    )
    ups = [
        "INSERT INTO kinds (code, title, uses) VALUES ('d', 'Delta', 1), ('e', 'Echo', 1)",
        "CREATE TABLE notes (id int PRIMARY KEY, kind int REFERENCES kinds)",
        "INSERT INTO notes SELECT 1, id FROM kinds WHERE code = 'd'",
    ]
    down = "DROP TABLE notes; DELETE FROM kinds WHERE code IN ('d', 'e')"
    two(project, f"{kinds}; INSERT INTO kinds (code) VALUES ('a')", "", down, ups="\n".join(map(sql, ups)))
    empty.rows("UPDATE kinds SET title = 'D2', uses = 7 WHERE code = 'd'; INSERT INTO notes VALUES (2, 2), (3, 3)")

    there_and_back(project, empty, {"kinds": "*", "notes": "*"})
