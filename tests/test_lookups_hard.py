"""Lookups made anew where references, triggers, partitions, hierarchies and commits stand against it: no row means another."""

from __future__ import annotations

import logging

import pytest

from tests.conftest import Database, Project
from tests.test_lookups import DOWN, MOVED, TASK
from tests.test_restore import down_and_up, two
from tests.test_seeds_again import committing
from tests.test_stash import sql

MEANS = "SELECT t.id, st.name FROM task t LEFT JOIN st ON st.id = t.s ORDER BY 1"


def swapped(empty: Database, project: Project, ups: list[str], down: str = DOWN, setup: str = "") -> None:
    """A lookup whose names are numbered otherwise the next time, as somebody has written one that comes first."""
    two(project, f"{TASK}; {setup or 'SELECT'}", "", down, ups="\n".join(map(sql, ups)))
    project.downgrade("-1")
    empty.rows("INSERT INTO task VALUES (20, 'aaa'), (21, 'open'); UPDATE task SET state = 'done' WHERE id = 3")
    means = empty.rows("SELECT id, state FROM task ORDER BY 1")

    project.upgrade()

    assert empty.rows(MEANS) == means


MADE = "CREATE TABLE st (id serial PRIMARY KEY, tenant int DEFAULT 1, name text UNIQUE, UNIQUE (tenant, id))"
FILL = ["UPDATE task SET s = (SELECT id FROM st WHERE name = state)", "ALTER TABLE task DROP state"]
KEYS_TWICE = {
    "the same twice": "ALTER TABLE task ADD s int REFERENCES st, ADD FOREIGN KEY (s) REFERENCES st",
    "with a tenant": "ALTER TABLE task ADD s int REFERENCES st, ADD tenant int DEFAULT 1, "
    "ADD FOREIGN KEY (tenant, s) REFERENCES st (tenant, id)",
    "one that follows": "ALTER TABLE task ADD s int REFERENCES st ON UPDATE CASCADE, ADD FOREIGN KEY (s) REFERENCES st",
    "follows last": "ALTER TABLE task ADD s int REFERENCES st, ADD FOREIGN KEY (s) REFERENCES st ON UPDATE CASCADE",
}


@pytest.mark.parametrize("keys", KEYS_TWICE)
def test_a_reference_by_two_keys_is_exchanged_once(empty: Database, project: Project, keys: str) -> None:
    """A second time it would mean what the first had exchanged it with."""
    down = DOWN.replace("DROP s;", "DROP s, DROP IF EXISTS tenant;")
    swapped(empty, project, [MADE, MOVED, KEYS_TWICE[keys], *FILL], down)


def test_what_refers_to_a_reference_follows_too(empty: Database, project: Project) -> None:
    """A key that is a reference itself, with rows below it."""
    ups = [
        MADE, MOVED, "CREATE TABLE special (id int PRIMARY KEY REFERENCES st)", "INSERT INTO special SELECT id FROM st",
        "ALTER TABLE task ADD s int REFERENCES special", *FILL,
    ]  # fmt: skip
    swapped(empty, project, ups, DOWN.replace("DROP TABLE st", "DROP TABLE special; DROP TABLE st"))


def test_the_body_s_own_path_is_in_force(empty: Database, project: Project) -> None:
    """A check that calls a function by its bare name is met while keys are exchanged."""
    function = (
        "CREATE FUNCTION fine(int) RETURNS bool LANGUAGE plpgsql AS $$BEGIN RETURN (SELECT count(*) >= 0 FROM seen); END$$; "
        "CREATE TABLE seen (id int)"
    )
    ups = [
        MADE.replace("UNIQUE (tenant", "CHECK (fine(id)), UNIQUE (tenant"),
        MOVED,
        "ALTER TABLE task ADD s int REFERENCES st",
    ]
    swapped(empty, project, [*ups, *FILL], setup=function)


def test_checks_that_wait_are_no_bar(empty: Database, project: Project) -> None:
    """A deferred key of the lookup's own is pending as its identity is lifted."""
    made = (
        "CREATE TABLE st (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text UNIQUE, "
        "area int DEFAULT 1 REFERENCES area DEFERRABLE INITIALLY DEFERRED)"
    )
    area = "CREATE TABLE area (id int PRIMARY KEY); INSERT INTO area VALUES (1)"
    swapped(empty, project, [made, MOVED, "ALTER TABLE task ADD s int REFERENCES st", *FILL], setup=area)


@pytest.mark.parametrize("returns", ["NEW", "NULL"])
def test_triggers_sleep_where_references_follow_by_themselves(empty: Database, project: Project, returns: str) -> None:
    """One that logs sees nothing of it, and one that forbids leaves no row behind that refers to nothing."""
    trigger = (
        "CREATE TABLE seen (id int); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN IF OLD.s IS NOT NULL THEN INSERT INTO seen VALUES (OLD.id); RETURN {returns}; END IF; RETURN NEW; END$$"
    )
    down = DOWN.replace("UPDATE task", "DROP TRIGGER note ON task; UPDATE task")
    made = "CREATE TRIGGER note BEFORE UPDATE ON task FOR EACH ROW EXECUTE FUNCTION note()"
    ups = [MADE, MOVED, "ALTER TABLE task ADD s int REFERENCES st ON UPDATE CASCADE", *FILL, made]
    swapped(empty, project, ups, down, setup=trigger)
    assert empty.rows("SELECT * FROM seen") == []


def test_a_row_that_newer_ones_refer_to_stays(empty: Database, project: Project) -> None:
    """It was not there before, and what hangs on it would go along, though somebody has written that since."""
    up = [
        "CREATE TABLE kind (id serial PRIMARY KEY, name text UNIQUE)",
        "INSERT INTO kind (name) VALUES ('call'), ('mail'), ('fax')",
        "CREATE TABLE note (id int PRIMARY KEY, kind_id int REFERENCES kind ON DELETE CASCADE, body text)",
        "INSERT INTO note SELECT s.id, k.id, s.note FROM stock s JOIN kind k ON k.name = s.note_kind",
        "ALTER TABLE stock DROP note, DROP note_kind",
    ]
    down = (
        "ALTER TABLE stock ADD note text, ADD note_kind text; UPDATE stock SET note = n.body, note_kind = k.name FROM note n "
        "JOIN kind k ON k.id = n.kind_id WHERE n.id = stock.id; DROP TABLE note; DROP TABLE kind"
    )
    stock = (
        "CREATE TABLE stock (id int PRIMARY KEY, note text, note_kind text); "
        "INSERT INTO stock VALUES (1, 'old', 'call'), (2, 'two', 'mail')"
    )
    two(project, stock, "", down, ups="\n".join(map(sql, up)))
    empty.rows("DELETE FROM kind WHERE name = 'fax'")

    down_and_up(
        project,
        empty,
        "UPDATE stock SET note = 'urgent', note_kind = 'fax' WHERE id = 1; INSERT INTO stock VALUES (20, 'new', 'fax')",
    )

    found = empty.rows("SELECT n.id, k.name, n.body FROM note n JOIN kind k ON k.id = n.kind_id ORDER BY 1")
    assert found == [(1, "fax", "urgent"), (2, "mail", "two"), (20, "fax", "new")]


PARTED = [
    "CREATE TABLE n (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)", "CREATE TABLE n1 PARTITION OF n DEFAULT",
    "INSERT INTO n SELECT id, v FROM item", "ALTER TABLE item DROP v",
]  # fmt: skip
EMPTIED = [
    "CREATE TABLE n (id int PRIMARY KEY, v text)", "INSERT INTO n VALUES (1, 'seed'), (2, 'seed')", "SELECT count(*) FROM item",
    "TRUNCATE n", "INSERT INTO n SELECT id, v FROM item", "ALTER TABLE item DROP v",
]  # fmt: skip
ITEM = "CREATE TABLE item (id int PRIMARY KEY, v text); INSERT INTO item VALUES (1, 'a'), (2, 'b')"


@pytest.mark.parametrize("up", [PARTED, EMPTIED], ids=["partitions", "emptied"])
@pytest.mark.parametrize(
    "item", ["", " PARTITION BY RANGE (id); CREATE TABLE item1 PARTITION OF item DEFAULT"], ids=["", "from partitions"]
)
def test_what_was_moved_back_is_newer(empty: Database, project: Project, up: list[str], item: str) -> None:
    """The counters of a partitioned table are its partitions', and TRUNCATE sets them to nothing."""
    down = "ALTER TABLE item ADD v text; UPDATE item SET v = n.v FROM n WHERE n.id = item.id; DROP TABLE n"
    two(project, ITEM.replace("; INSERT", item + "; INSERT"), "", down, ups="\n".join(map(sql, up)))

    down_and_up(project, empty, "UPDATE item SET v = 'newer' WHERE id = 1")

    assert empty.rows("SELECT id, v FROM n ORDER BY 1") == [(1, "newer"), (2, "b")]


COMMITS = "with op.get_context().autocommit_block():\n    op.execute('CREATE INDEX CONCURRENTLY ON z (id)')"


@pytest.mark.parametrize("first", ["SELECT", "INSERT INTO em VALUES (50, 'seed')", "SELECT count(*) FROM old"])
def test_what_is_moved_back_after_a_commit_is_newer(empty: Database, project: Project, first: str) -> None:
    """A table that is empty as the body commits holds nothing yet, and one with seeds may get more."""
    up = [
        sql("CREATE TABLE em (id int PRIMARY KEY, v text)"), sql(first), COMMITS,
        sql("INSERT INTO em SELECT * FROM old"), sql("DROP TABLE old"),
    ]  # fmt: skip
    setup = "CREATE TABLE z (id int); CREATE TABLE old (id int PRIMARY KEY, v text); INSERT INTO old VALUES (1, 'a'), (2, 'b')"
    down = (
        "CREATE TABLE old (id int PRIMARY KEY, v text); INSERT INTO old SELECT * FROM em WHERE id < 50; DROP TABLE em; "
        "DROP INDEX z_id_idx"
    )
    committing(project, setup, up, down)

    down_and_up(project, empty, "UPDATE old SET v = 'newer' WHERE id = 1; INSERT INTO old VALUES (3, 'new')")

    assert empty.rows("SELECT id, v FROM em WHERE id < 50 ORDER BY 1") == [(1, "newer"), (2, "b"), (3, "new")]


def test_children_of_other_parents_are_not_the_same(empty: Database, project: Project) -> None:
    """A hierarchy in one table: what is unique in a row has a number in it that means another parent by now."""
    made = "CREATE TABLE st (id serial PRIMARY KEY, parent int REFERENCES st, name text, UNIQUE (parent, name))"
    roots = "INSERT INTO st (name) SELECT DISTINCT split_part(state, '/', 1) FROM task ORDER BY 1"
    leaves = (
        "INSERT INTO st (parent, name) SELECT DISTINCT r.id, split_part(state, '/', 2) FROM task "
        "JOIN st r ON r.parent IS NULL AND r.name = split_part(state, '/', 1) ORDER BY 1, 2"
    )
    fill = (
        "UPDATE task SET s = (SELECT l.id FROM st l JOIN st r ON r.id = l.parent WHERE r.name || '/' || l.name = state)"
    )
    down = (
        "ALTER TABLE task ADD state text; UPDATE task SET state = (SELECT r.name || '/' || l.name FROM st l "
        "JOIN st r ON r.id = l.parent WHERE l.id = s); ALTER TABLE task DROP s; DROP TABLE st"
    )
    setup = "CREATE TABLE task (id int PRIMARY KEY, state text); INSERT INTO task VALUES (1, 'b/misc'), (2, 'b/other')"
    ups = [made, roots, leaves, "ALTER TABLE task ADD s int REFERENCES st", fill, "ALTER TABLE task DROP state"]
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))
    empty.rows(
        "INSERT INTO st (name) VALUES ('a'); INSERT INTO st (parent, name) SELECT id, 'misc' FROM st WHERE name = 'a'; "
        "INSERT INTO task SELECT 3, max(id) FROM st"
    )
    project.downgrade("-1")
    empty.rows("UPDATE task SET state = 'a/other' WHERE id = 2; INSERT INTO task VALUES (4, 'b/misc')")
    means = empty.rows("SELECT id, state FROM task ORDER BY 1")

    project.upgrade()

    asked = "SELECT t.id, r.name || '/' || l.name FROM task t JOIN st l ON l.id = t.s JOIN st r ON r.id = l.parent ORDER BY 1"
    assert empty.rows(asked) == means


def test_a_lookup_in_partitions_keeps_what_refers_to_it(empty: Database, project: Project) -> None:
    """Before version 15 a row that moves to another partition is deleted in the one, with all that would go along."""
    made = "CREATE TABLE st (id serial PRIMARY KEY, name text) PARTITION BY RANGE (id)"
    parts = "CREATE TABLE st1 PARTITION OF st FOR VALUES FROM (0) TO (3); CREATE TABLE st2 PARTITION OF st DEFAULT"
    swapped(empty, project, [made, parts, MOVED, "ALTER TABLE task ADD s int REFERENCES st ON DELETE CASCADE", *FILL])


FILLS = {
    "a constant": ("UPDATE item SET weight = 0 WHERE weight IS NULL", [(1, 7), (2, 8)]),
    "computed elsewhere": ("UPDATE depot SET load = (SELECT sum(weight) FROM item)", [(1, 7), (2, 8)]),
    "its own": ("UPDATE item SET weight = length(label) WHERE weight IS NULL", [(1, 1), (2, 8)]),
}


@pytest.mark.parametrize("fills", FILLS)
def test_a_row_that_was_written_waits_only_for_a_newer_value(empty: Database, project: Project, fills: str) -> None:
    """What has no other value for it finds the kept one there, and a constant is none."""
    statement, rows = FILLS[fills]
    ups = [
        "ALTER TABLE item ADD weight int",
        statement,
        "ALTER TABLE item ALTER weight SET NOT NULL",
        "ALTER TABLE item DROP label",
    ]
    down = "ALTER TABLE item ADD label text; UPDATE item SET label = 'w' || weight; ALTER TABLE item DROP weight"
    setup = (
        "CREATE TABLE item (id int PRIMARY KEY, label text); INSERT INTO item VALUES (1, 'a'), (2, 'b'); "
        "CREATE TABLE depot (load int); INSERT INTO depot VALUES (NULL)"
    )
    if fills == "computed elsewhere":
        ups[2] = "SELECT"
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))
    empty.rows("UPDATE item SET weight = 6 + id; UPDATE depot SET load = 15")

    down_and_up(project, empty, "UPDATE item SET label = 'x' WHERE id = 1")

    assert empty.rows("SELECT id, weight FROM item ORDER BY 1") == rows
    assert empty.value("SELECT load FROM depot") == 15


@pytest.mark.parametrize("action", ["", " ON UPDATE CASCADE"])
def test_references_that_never_left_mean_what_they_meant(empty: Database, project: Project, action: str) -> None:
    """The downgrade drops the key and the lookup only; a column that stays keeps its numbers, and they mean the kept rows."""
    ups = [
        "CREATE TABLE st (id serial PRIMARY KEY, name text NOT NULL UNIQUE)", "INSERT INTO st (name) VALUES ('open'), ('done')",
        f"ALTER TABLE task ADD CONSTRAINT f FOREIGN KEY (s) REFERENCES st{action}", "UPDATE task SET n = n + 1",
    ]  # fmt: skip
    down = "ALTER TABLE task DROP CONSTRAINT f; DROP TABLE st; UPDATE task SET n = n - 1"
    setup = (
        "CREATE TABLE task (id int PRIMARY KEY, s int, n int); INSERT INTO task VALUES (1, 1, 1), (2, 2, 1), (3, 1, 1)"
    )
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))
    empty.rows("UPDATE st SET name = 'new' WHERE id = 1; INSERT INTO st (name) VALUES ('open')")
    before = empty.rows(MEANS)

    down_and_up(project, empty, "SELECT")

    assert empty.rows(MEANS) == before


def test_two_unique_indexes_that_say_different_things(empty: Database, project: Project) -> None:
    """People have put a lookup into another order: by its place a row is one, by its name another, and no row is renumbered."""
    ups = [
        "CREATE TABLE st (id serial PRIMARY KEY, pos int UNIQUE, name text UNIQUE)",
        "INSERT INTO st (pos, name) VALUES (1, 'open'), (2, 'doing'), (3, 'done')",
        "ALTER TABLE task ADD s int REFERENCES st", *FILL,
    ]  # fmt: skip
    two(project, TASK, "", DOWN, ups="\n".join(map(sql, ups)))
    empty.rows(
        "UPDATE st SET pos = -pos; UPDATE st SET pos = CASE name WHEN 'open' THEN 2 WHEN 'doing' THEN 1 ELSE 3 END"
    )
    project.downgrade("-1")
    empty.rows("INSERT INTO task VALUES (20, 'open')")
    means = empty.rows("SELECT id, state FROM task ORDER BY 1")

    project.upgrade()

    assert empty.rows(MEANS) == means


MOVES = "UPDATE p SET addr = q.addr FROM q WHERE p.id = q.pid"
Q = "CREATE TABLE p (id int PRIMARY KEY, addr text); CREATE TABLE q (pid int PRIMARY KEY); "
Q += "INSERT INTO p SELECT n, 'addr' || n FROM generate_series(1, 4) n; INSERT INTO q SELECT id FROM p"
MOVED_TO = {
    "as it was": ("q.addr", "p.addr", [(1, "newer"), (2, "addr2"), (3, "typed"), (4, "addr4")]),
    "with less": ("lower(q.addr)", "p.addr", [(1, "Typed"), (2, "ADDR2"), (3, "typed"), (4, "ADDR4")]),
}


@pytest.mark.parametrize("less", MOVED_TO)
def test_a_value_that_was_moved_to_another_table_is_newer_there(empty: Database, project: Project, less: str) -> None:
    """Where somebody has written to it: unless the move itself loses something, for then most rows would be others."""
    down_value, up_value, rows = MOVED_TO[less]
    ups = [
        "ALTER TABLE q ADD addr text", f"UPDATE q SET addr = {up_value} FROM p WHERE p.id = q.pid", "ALTER TABLE p DROP addr",
    ]  # fmt: skip
    down = f"ALTER TABLE p ADD addr text; UPDATE p SET addr = {down_value} FROM q WHERE p.id = q.pid; ALTER TABLE q DROP addr"
    two(project, Q, "", down, ups="\n".join(map(sql, ups)))
    empty.rows("UPDATE q SET addr = 'typed' WHERE pid = 3")
    if less == "with less":
        empty.rows("UPDATE q SET addr = upper(addr) WHERE pid <> 3; UPDATE q SET addr = 'Typed' WHERE pid = 1")

    down_and_up(project, empty, "UPDATE p SET addr = 'newer' WHERE id = 1")

    assert empty.rows("SELECT pid, addr FROM q ORDER BY 1") == rows
    if less == "with less":  # and what somebody has typed is not lost
        assert ("newer",) in empty.rows('SELECT addr FROM migration_stash_1."guard:aside_2"')


def test_an_empty_value_takes_its_kept_one_whatever_else_was_written(empty: Database, project: Project) -> None:
    """The row was changed by the downgrade, and by somebody in another column: nothing newer stands in the place."""
    ups = [
        "ALTER TABLE task ADD w text", "UPDATE task SET w = 'w' WHERE state = 'nothing like it'",
    ]  # fmt: skip
    two(
        project, TASK, "", "UPDATE task SET state = upper(state); ALTER TABLE task DROP w", ups="\n".join(map(sql, ups))
    )
    empty.rows("UPDATE task SET w = 'mine'")

    down_and_up(project, empty, "UPDATE task SET state = 'newer' WHERE id = 1")

    assert empty.rows("SELECT DISTINCT w FROM task") == [("mine",)]
    assert empty.value("SELECT state FROM task WHERE id = 1") == "newer"


BETWEEN_FILLS = {
    "an index": ["CREATE INDEX i ON item (cents)"], "a comment": ["COMMENT ON TABLE item IS 'x'"],
    "another column": ["ALTER TABLE item ADD other int"], "a table": ["CREATE TABLE st (id int)", "INSERT INTO st VALUES (1)"],
}  # fmt: skip


@pytest.mark.parametrize("between", BETWEEN_FILLS)
def test_what_comes_between_a_column_and_its_filling_takes_nothing_away(
    empty: Database, project: Project, between: str
) -> None:
    """Of a row that was written the kept value waits until the body has filled what is empty."""
    ups = [
        "ALTER TABLE item ADD cents int", *BETWEEN_FILLS[between], "UPDATE item SET cents = price * 100 WHERE cents IS NULL",
        "ALTER TABLE item DROP price",
    ]  # fmt: skip
    down = "ALTER TABLE item ADD price int; UPDATE item SET price = cents / 100; ALTER TABLE item DROP cents"
    down += {"another column": "; ALTER TABLE item DROP other", "a table": "; DROP TABLE st"}.get(between, "")
    setup = "CREATE TABLE item (id int PRIMARY KEY, price int); INSERT INTO item VALUES (1, 1), (2, 2)"
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))

    down_and_up(project, empty, "UPDATE item SET price = 70 WHERE id = 1")

    assert empty.rows("SELECT id, cents FROM item ORDER BY 1") == [(1, 7000), (2, 200)]


def test_what_the_guard_reads_makes_no_row_newer(empty: Database, project: Project) -> None:
    """Seeds that are written before the body has read what was changed yield, whatever came back before that."""
    ups = [
        "ALTER TABLE task ADD s int", "CREATE TABLE st (id int PRIMARY KEY, name text)",
        "INSERT INTO st VALUES (1, 'open'), (2, 'doing'), (3, 'done')", *FILL,
    ]  # fmt: skip
    two(project, TASK, "", DOWN, ups="\n".join(map(sql, ups)))
    empty.rows("UPDATE st SET name = 'offen' WHERE id = 1")

    down_and_up(project, empty, "UPDATE task SET state = 'done' WHERE id = 3")

    assert empty.rows("SELECT name FROM st ORDER BY id") == [("offen",), ("doing",), ("done",)]
    assert empty.rows("SELECT name FROM st JOIN task ON s = st.id WHERE task.id = 3") == [("done",)]


@pytest.mark.parametrize("then", ["", "; SELECT setval('em_id_seq', max(id)) FROM em"], ids=["", "setval"])
@pytest.mark.parametrize("key", ["int", "serial", "int GENERATED BY DEFAULT AS IDENTITY"])
def test_keys_that_the_body_carries_along_are_what_they_are(
    empty: Database, project: Project, key: str, then: str
) -> None:
    """Rows are moved out and back with their keys, though the server could make them: the newer one is the same row."""
    then = "" if key == "int" else then
    up = f"CREATE TABLE em (id {key} PRIMARY KEY, v text); INSERT INTO em (id, v) SELECT id, v FROM old{then}; DROP TABLE old"
    down = "CREATE TABLE old (id int PRIMARY KEY, v text); INSERT INTO old SELECT * FROM em; DROP TABLE em"
    two(project, "CREATE TABLE old (id int PRIMARY KEY, v text)", "", down, ups="\n".join(map(sql, up.split("; "))))
    empty.rows("INSERT INTO em (id, v) VALUES (1, 'one'), (2, 'two'), (3, 'three')")

    down_and_up(project, empty, "UPDATE old SET v = 'newer' WHERE id = 1; UPDATE old SET id = 7 WHERE id = 3")

    assert empty.rows("SELECT id, v FROM em ORDER BY 1") == [(1, "newer"), (2, "two"), (3, "three"), (7, "three")]
    assert empty.rows("SELECT state FROM migration.stash") == [("partly restored",)]


def test_uuids_that_the_body_carries_along_are_what_they_are(empty: Database, project: Project) -> None:
    """Nobody makes the same one twice by chance."""
    key = "id uuid DEFAULT gen_random_uuid() PRIMARY KEY"
    ups = [f"CREATE TABLE em ({key}, v text)", "INSERT INTO em SELECT * FROM old", "DROP TABLE old"]
    down = f"CREATE TABLE old ({key}, v text); INSERT INTO old SELECT * FROM em; DROP TABLE em"
    two(project, f"CREATE TABLE old ({key}, v text)", "", down, ups="\n".join(map(sql, ups)))
    empty.rows("INSERT INTO em (v) VALUES ('one'), ('two')")
    id_ = empty.value("SELECT id FROM em WHERE v = 'one'")

    down_and_up(project, empty, "UPDATE old SET v = 'newer' WHERE v = 'one'")

    assert empty.value(f"SELECT v FROM em WHERE id = '{id_}'") == "newer"
    assert empty.value("SELECT count(*) FROM em") == 2


@pytest.mark.parametrize("server", [False, True], ids=["carried along", "made by the server"])
@pytest.mark.parametrize("unique", ["", "code text UNIQUE, "], ids=["", "unique, empty"])
def test_a_tree_is_not_there_twice(empty: Database, project: Project, unique: str, server: bool) -> None:
    """Nothing but the parent's number tells its rows: none of them gets another key for that."""
    named = "name" if server else "id, parent, name"
    ups = [
        f"CREATE TABLE node (id serial PRIMARY KEY, {unique}parent int REFERENCES node, name text)",
        f"INSERT INTO node ({named}) SELECT {named} FROM legacy ORDER BY id",
        "UPDATE node SET parent = l.parent FROM legacy AS l WHERE l.id = node.id", "DROP TABLE legacy",
    ]  # fmt: skip
    down = "CREATE TABLE legacy AS SELECT id, parent, name FROM node; DROP TABLE node"
    rows = "(1, NULL, 'a'), (2, 1, 'b'), (3, 2, 'c')"
    setup = f"CREATE TABLE legacy (id int, parent int, name text); INSERT INTO legacy VALUES {rows}"
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))

    down_and_up(project, empty, "INSERT INTO legacy VALUES (4, 1, 'new')")

    asked = "SELECT n.name, p.name FROM node n LEFT JOIN node p ON p.id = n.parent ORDER BY 1"
    assert empty.rows(asked) == [("a", None), ("b", "a"), ("c", "b"), ("new", "a")]


DISTINCT = "SELECT DISTINCT name FROM stock ORDER BY 1"
INTO = "INSERT INTO cat (name) "
FORMS = {
    "a query": [sql(INTO + DISTINCT)],
    "a loop": [
        f"for (name,) in op.get_bind().exec_driver_sql('{DISTINCT}').all():\n"
        "    op.get_bind().exec_driver_sql('INSERT INTO cat (name) VALUES (%s)', (name,))"
    ],
    "with": [sql(f"WITH n AS ({DISTINCT}) {INTO}SELECT name FROM n ORDER BY 1")],
    "a list": [sql(INTO + "SELECT DISTINCT s.name FROM (SELECT 1) AS x, stock AS s ORDER BY 1")],
    "another table": [sql(f"CREATE TEMPORARY TABLE n AS {DISTINCT}"), sql(INTO + "SELECT name FROM n ORDER BY 1")],
    "a view": [
        sql("CREATE VIEW v AS SELECT name FROM stock"), sql(INTO + "SELECT DISTINCT name FROM v ORDER BY 1"), sql("DROP VIEW v")],
    "a block": [sql(f"DO $$ BEGIN {INTO}{DISTINCT}; END $$")],
    "bulk": [
        f"names = op.get_bind().exec_driver_sql('{DISTINCT}').scalars().all()\n"
        "op.bulk_insert(sa.table('cat', sa.column('name')), [{'name': name} for name in names])"
    ],
}  # fmt: skip


@pytest.mark.parametrize("action", ["", " ON UPDATE CASCADE"], ids=["", "cascade"])
@pytest.mark.parametrize("form", FORMS)
def test_a_lookup_of_what_is_written_now_knows_its_new_names(
    empty: Database, project: Project, form: str, action: str
) -> None:
    """However it is filled, a new name has not got the number of another for good: no new row means that one."""
    ups = [
        sql("CREATE TABLE cat (id serial PRIMARY KEY, name text UNIQUE)"), *FORMS[form],
        sql(f"ALTER TABLE stock ADD cat_id int REFERENCES cat{action}"),
        sql("UPDATE stock SET cat_id = cat.id FROM cat WHERE cat.name = stock.name"),
    ]  # fmt: skip
    setup = "CREATE TABLE stock (id int PRIMARY KEY, name text); INSERT INTO stock VALUES (1, 'A'), (2, 'B'), (3, 'C')"
    two(project, setup, "", "ALTER TABLE stock DROP cat_id; DROP TABLE cat", ups="\n".join(ups))

    down_and_up(project, empty, "DELETE FROM stock WHERE name = 'B'; INSERT INTO stock VALUES (9, 'AB')")

    asked = "SELECT stock.id, stock.name, cat.name FROM stock LEFT JOIN cat ON cat.id = cat_id ORDER BY 1"
    assert empty.rows(asked) == [(1, "A", "A"), (3, "C", "C"), (9, "AB", "AB")]
    assert empty.rows("SELECT name, count(*) FROM cat GROUP BY 1 HAVING count(*) > 1") == []


def test_keys_that_could_not_be_given_are_told_wherever_it_is(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """A reference that would be emptied: the new rows have other keys, and that is said."""
    ups = [
        "CREATE TABLE cat (id serial PRIMARY KEY, name text UNIQUE)", INTO + DISTINCT,
        "ALTER TABLE stock ADD cat_id int REFERENCES cat ON UPDATE SET NULL",
        "UPDATE stock SET cat_id = cat.id FROM cat WHERE cat.name = stock.name",
    ]  # fmt: skip
    setup = "CREATE TABLE stock (id int PRIMARY KEY, name text); INSERT INTO stock VALUES (1, 'A'), (2, 'B'), (3, 'C')"
    two(project, setup, "", "ALTER TABLE stock DROP cat_id; DROP TABLE cat", ups="\n".join(map(sql, ups)))

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, "DELETE FROM stock WHERE name = 'B'; INSERT INTO stock VALUES (9, 'C')")

    assert "warning: the rows of cat could not get the keys that they had" in caplog.text


NET = "ALTER TABLE p ADD net numeric"
MOVES = "UPDATE p SET net = price / 2 WHERE taxed"


@pytest.mark.parametrize(
    "reads",
    ["UPDATE p SET label = net || ' EUR' WHERE sold", 'UPDATE ONLY "p" AS q SET label = q.net || \' EUR\' WHERE q.sold',
     "UPDATE p SET label = (SELECT o.net || ' EUR' FROM p AS o WHERE o.id = p.id) WHERE sold",
     "INSERT INTO p (id, label) SELECT id + 10, net || ' EUR' FROM p WHERE sold"],
)  # fmt: skip
def test_an_update_that_reads_the_column_finds_what_was_kept(empty: Database, project: Project, reads: str) -> None:
    """It writes the same table, and does not fill what it reads."""
    setup = "CREATE TABLE p (id int PRIMARY KEY, price numeric, taxed bool, sold bool, label text)"
    two(
        project,
        setup,
        "",
        "UPDATE p SET price = net * 2 WHERE taxed; ALTER TABLE p DROP net",
        ups="\n".join(map(sql, [NET, MOVES, reads])),
    )
    empty.rows("DELETE FROM p; INSERT INTO p VALUES (1, 1, false, true, '7 EUR', 7), (2, 4, true, false, NULL, 2)")

    down_and_up(project, empty, "UPDATE p SET price = 8 WHERE id = 1")

    assert empty.value("SELECT label FROM p WHERE label IS NOT NULL ORDER BY id DESC LIMIT 1") == "7 EUR"
    assert empty.rows("SELECT id, net FROM p WHERE id < 10 ORDER BY id") == [(1, 7), (2, 2)]


@pytest.mark.parametrize(
    "value", ["now()", "CURRENT_DATE", "'2024-01-01'::timestamp with time zone", "E'2024-01-01'", "('2024-01-01')",
              "timestamptz '2024-01-01'", "least('2024-01-01'::timestamptz, now())"],
)  # fmt: skip
@pytest.mark.parametrize("named", ["added", '"added"'])
def test_a_default_is_none_that_was_moved(empty: Database, project: Project, value: str, named: str) -> None:
    """What fills the column with something that is in no row has no newer value for any."""
    setup = "CREATE TABLE p (id int PRIMARY KEY, price numeric, old timestamptz, n int)"
    ups = ["ALTER TABLE p ADD added timestamptz", f"UPDATE p SET {named} = {value} WHERE added IS NULL"]
    two(
        project,
        setup,
        "",
        "UPDATE p SET old = added WHERE n = 1; ALTER TABLE p DROP added",
        ups="\n".join(map(sql, ups)),
    )
    empty.rows("INSERT INTO p VALUES (1, 1, NULL, 0, '2001-01-01'), (2, 2, NULL, 1, '2002-02-02')")

    down_and_up(project, empty, "UPDATE p SET price = 8 WHERE id = 1")

    assert empty.rows("SELECT extract(year FROM added)::int FROM p ORDER BY id") == [(2001,), (2002,)]
