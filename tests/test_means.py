"""Rows and what refers to them, by ways that testers have found: nothing means another row, and nothing is there twice."""

from __future__ import annotations

import pytest

from tests.conftest import Database, Project
from tests.test_restore import down_and_up, two
from tests.test_stash import sql

COUNTRIES = (
    "CREATE TABLE country (code text PRIMARY KEY, n text); "
    "CREATE TABLE city (id serial PRIMARY KEY, n text, cc text CONSTRAINT f REFERENCES country); "
    "INSERT INTO country VALUES ('de', 'd'), ('fr', 'f'), ('it', 'i'); "
    "INSERT INTO city (n, cc) VALUES ('berlin', 'de'), ('paris', 'fr'), ('rome', 'it')"
)
KINDS = {"uuid": "uuid DEFAULT gen_random_uuid()", "int": "serial", "bigint": "bigint GENERATED ALWAYS AS IDENTITY"}
ADDED = {
    "a child": ("INSERT INTO city (n, cc) VALUES ('bonn', 'de')", [("bonn", "de")], []),
    "one for another": (
        "DELETE FROM city WHERE cc = 'de'; DELETE FROM country WHERE code = 'de'; INSERT INTO country VALUES ('aa', 'a'); "
        "INSERT INTO city (n, cc) VALUES ('ahn', 'aa')",
        [("ahn", "aa")],
        ["berlin"],
    ),
    "nothing": ("SELECT", [], []),
}


@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_primary_key_is_the_rows_own(empty: Database, project: Project, kind: str, added: str) -> None:
    """Others have added to the tables that the revision keys anew: each row has the key that it had, and its children."""
    meanwhile, new, gone = ADDED[added]
    ups = [
        "ALTER TABLE city DROP CONSTRAINT f",
        "ALTER TABLE country DROP CONSTRAINT country_pkey",
        f"ALTER TABLE country ADD id {KINDS[kind]} PRIMARY KEY",
        "ALTER TABLE country ADD CONSTRAINT u UNIQUE (code)",
        f"ALTER TABLE city ADD country_id {kind} REFERENCES country",
        "UPDATE city SET country_id = c.id FROM country c WHERE c.code = cc",
        "ALTER TABLE city DROP cc",
    ]
    down = (
        "ALTER TABLE city ADD cc text; UPDATE city SET cc = c.code FROM country c WHERE c.id = country_id; "
        "ALTER TABLE city DROP country_id; ALTER TABLE country DROP CONSTRAINT u; ALTER TABLE country DROP id; "
        "ALTER TABLE country ADD PRIMARY KEY (code); ALTER TABLE city ADD CONSTRAINT f FOREIGN KEY (cc) REFERENCES country"
    )
    two(project, COUNTRIES, "", down, ups="\n".join(map(sql, ups)))
    had = empty.rows("SELECT ci.n, code, co.id FROM city ci JOIN country co ON co.id = country_id")

    down_and_up(project, empty, meanwhile)

    there = empty.rows("SELECT ci.n, code, co.id FROM city ci LEFT JOIN country co ON co.id = country_id")
    assert set(there) >= {row for row in had if row[0] not in gone}
    assert sorted(row[:2] for row in there) == sorted([*new, *(row[:2] for row in had if row[0] not in gone)])


PRODUCTS = (
    "CREATE TABLE product (id serial PRIMARY KEY, sku text UNIQUE); CREATE TABLE ol (id serial PRIMARY KEY, sku text); "
    "INSERT INTO product (sku) VALUES ('a'), ('b'); INSERT INTO ol (sku) VALUES ('a'), ('b')"
)


@pytest.mark.parametrize("meanwhile", [
    "INSERT INTO ol (sku) VALUES ('a')",
    "DELETE FROM ol WHERE sku = 'a'; DELETE FROM product WHERE sku = 'a'; INSERT INTO product (sku) VALUES ('d'); "
    "INSERT INTO ol (sku) VALUES ('d'), ('b')",
])  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_a_second_key_is_the_rows_own(empty: Database, project: Project, kind: str, meanwhile: str) -> None:
    """A number that others refer to by now, of a table that stays."""
    ups = [
        f"ALTER TABLE product ADD pid {KINDS[kind]} UNIQUE",
        f"ALTER TABLE ol ADD pid {kind} REFERENCES product (pid)",
        "UPDATE ol SET pid = p.pid FROM product p WHERE p.sku = ol.sku",
        "ALTER TABLE ol DROP sku",
    ]
    down = (
        "ALTER TABLE ol ADD sku text; UPDATE ol SET sku = p.sku FROM product p WHERE p.pid = ol.pid; ALTER TABLE ol DROP pid; "
        "ALTER TABLE product DROP pid"
    )
    two(project, PRODUCTS, "", down, ups="\n".join(map(sql, ups)))
    kept = dict(empty.rows("SELECT sku, pid FROM product"))

    down_and_up(project, empty, meanwhile)

    there = dict(empty.rows("SELECT sku, pid FROM product"))
    assert all(there[sku] == pid for sku, pid in kept.items() if sku in there)
    lines = empty.rows("SELECT ol.id, p.sku FROM ol JOIN product p ON p.pid = ol.pid ORDER BY 1")
    assert lines == (
        [(1, "a"), (2, "b"), (3, "a")] if meanwhile.startswith("INSERT") else [(2, "b"), (3, "d"), (4, "b")]
    )


WALLETS = "CREATE TABLE usr (id serial PRIMARY KEY, n text); INSERT INTO usr (n) VALUES ('a'), ('b')"


@pytest.mark.parametrize("changed", [False, True], ids=["all alike", "changed"])
@pytest.mark.parametrize("unique", ["", " UNIQUE"])
def test_a_row_that_a_trigger_makes_for_each_is_nobody_elses(
    empty: Database, project: Project, unique: str, changed: bool
) -> None:
    """Nothing tells one wallet from another but who has it."""
    ups = [
        "CREATE TABLE wallet (id serial PRIMARY KEY, bal int NOT NULL DEFAULT 0)",
        f"ALTER TABLE usr ADD wallet_id int{unique} REFERENCES wallet",
        "CREATE FUNCTION w() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF new.wallet_id IS NULL THEN "
        "INSERT INTO wallet DEFAULT VALUES RETURNING id INTO new.wallet_id; END IF; RETURN new; END $$",
        "CREATE TRIGGER w BEFORE INSERT OR UPDATE ON usr FOR EACH ROW EXECUTE FUNCTION w()",
        "UPDATE usr SET n = n",
    ]
    down = "DROP TRIGGER w ON usr; DROP FUNCTION w; ALTER TABLE usr DROP wallet_id; DROP TABLE wallet"
    two(project, WALLETS, "", down, ups="\n".join(map(sql, ups)))
    empty.rows("UPDATE wallet SET bal = 100 * id" if changed else "SELECT")

    down_and_up(project, empty, "DELETE FROM usr WHERE id = 1; INSERT INTO usr (n) VALUES ('c')")

    rows = empty.rows("SELECT n, wallet_id, bal FROM usr JOIN wallet w ON w.id = wallet_id ORDER BY 1")
    assert [(n, bal) for n, _, bal in rows] == [("b", 200 if changed else 0), ("c", 0)]
    assert rows[0][1] == 2
    assert rows[1][1] != 2


def test_a_table_that_gets_its_numbers_afterwards_keeps_them(empty: Database, project: Project) -> None:
    """Made of a query, and numbered by a column that is added: a reference without a key means what it meant."""
    setup = (
        "CREATE TABLE o (id serial PRIMARY KEY, city text); CREATE TABLE log (city_id int, city_n text); "
        "INSERT INTO o (city) VALUES ('bonn'), ('kiel'), ('rom')"
    )
    ups = [
        "CREATE TABLE city AS SELECT DISTINCT city n FROM o ORDER BY 1",
        "ALTER TABLE city ADD id serial PRIMARY KEY",
        "ALTER TABLE o ADD city_id int REFERENCES city",
        "UPDATE o SET city_id = c.id FROM city c WHERE c.n = o.city",
        "ALTER TABLE o DROP city",
    ]
    down = (
        "ALTER TABLE o ADD city text; UPDATE o SET city = c.n FROM city c WHERE c.id = city_id; ALTER TABLE o DROP city_id; "
        "DROP TABLE city"
    )
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))
    empty.rows("INSERT INTO log SELECT id, n FROM city")

    down_and_up(project, empty, "INSERT INTO o (city) VALUES ('aach')")

    assert empty.rows("SELECT city_n, n FROM log JOIN city ON id = city_id ORDER BY 1") == [
        (n, n) for n in ("bonn", "kiel", "rom")
    ]
    assert empty.rows("SELECT c.n FROM o JOIN city c ON c.id = city_id ORDER BY o.id") == [
        ("bonn",),
        ("kiel",),
        ("rom",),
        ("aach",),
    ]


STAY = {
    "recoloured": (
        "CREATE TABLE st (id serial PRIMARY KEY, name text NOT NULL, colour text DEFAULT 'grey'); "
        "CREATE TABLE ticket (id serial PRIMARY KEY, status text, st_id int REFERENCES st); "
        "INSERT INTO ticket (status) VALUES ('done'), ('open')",
        [
            "INSERT INTO st (name) VALUES ('open'), ('done')",
            "UPDATE ticket SET st_id = st.id FROM st WHERE st.name = status",
        ],
        "UPDATE ticket SET st_id = NULL; DELETE FROM st",
        "UPDATE st SET colour = 'green' WHERE name = 'done'",
        ["st", "ticket"],
    ),
    "with a child": (
        "CREATE TABLE menu (id serial PRIMARY KEY, n text); "
        "CREATE TABLE item (id serial PRIMARY KEY, menu_id int REFERENCES menu ON DELETE CASCADE, n text)",
        [
            "INSERT INTO menu (n) VALUES ('admin')",
            "INSERT INTO item (menu_id, n) VALUES (currval('menu_id_seq'), 'users')",
        ],
        "DELETE FROM menu WHERE id IN (SELECT menu_id FROM item WHERE n = 'users')",
        "UPDATE menu SET n = 'Administration'",
        ["menu", "item"],
    ),
}


@pytest.mark.parametrize("way", STAY)
def test_seeds_that_refer_to_each_other_are_not_there_twice(empty: Database, project: Project, way: str) -> None:
    """However often it goes back and forth: nothing was written, and all is as it was."""
    setup, ups, down, edit, tables = STAY[way]
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))
    empty.rows(edit)
    had = [empty.rows(f"SELECT * FROM {name} ORDER BY id") for name in tables]

    for _ in range(3):
        down_and_up(project, empty, "SELECT")

        assert [empty.rows(f"SELECT * FROM {name} ORDER BY id") for name in tables] == had


def test_an_archive_that_shares_a_sequence_carries_keys_along(empty: Database, project: Project) -> None:
    """Its default is that of the table which stays, and nobody has asked it: the newer row is the same one."""
    setup = (
        "CREATE TABLE doc (id serial PRIMARY KEY, t text, gone bool DEFAULT false); "
        "INSERT INTO doc (t, gone) VALUES ('a', false), ('b', true), ('c', false), ('d', true)"
    )
    ups = [
        "CREATE TABLE arch (LIKE doc INCLUDING ALL)",
        "INSERT INTO arch SELECT * FROM doc WHERE gone",
        "DELETE FROM doc WHERE gone",
    ]
    two(project, setup, "", "INSERT INTO doc SELECT * FROM arch; DROP TABLE arch", ups="\n".join(map(sql, ups)))

    down_and_up(project, empty, "UPDATE doc SET t = 'B!' WHERE id = 2")

    assert empty.rows("SELECT id, t FROM arch ORDER BY 1") == [(2, "B!"), (4, "d")]


def test_lines_of_a_new_parent_of_the_revision_before_stay(empty: Database, project: Project) -> None:
    """A group of today makes a team in one step, and a budget for it in the next."""
    project.revision(
        "001", "create_m", sql("CREATE TABLE m (id serial PRIMARY KEY, grp text); INSERT INTO m (grp) VALUES ('g1'), ('g2')"),
        "raise NotImplementedError", reversible="forward-only: the base",
    )  # fmt: skip
    team = [
        "CREATE TABLE team (id serial PRIMARY KEY, name text)",
        "INSERT INTO team (name) SELECT DISTINCT grp FROM m ORDER BY 1",
        "ALTER TABLE m ADD team_id int REFERENCES team",
        "UPDATE m SET team_id = t.id FROM team t WHERE t.name = grp",
    ]
    project.revision(
        "002", "create_team", "\n".join(map(sql, team)), sql("ALTER TABLE m DROP team_id; DROP TABLE team")
    )
    budget = [
        "CREATE TABLE budget (id serial PRIMARY KEY, team_id int REFERENCES team, amt int DEFAULT 0)",
        "INSERT INTO budget (team_id) SELECT id FROM team ORDER BY 1",
    ]
    project.revision("003", "create_budget", "\n".join(map(sql, budget)), sql("DROP TABLE budget"))
    project.upgrade()
    empty.rows("UPDATE budget SET amt = 7 WHERE team_id = 1")
    project.downgrade("001")
    empty.rows("INSERT INTO m (grp) VALUES ('g3')")

    project.upgrade()

    rows = empty.rows("SELECT name, amt FROM team LEFT JOIN budget ON team_id = team.id ORDER BY 1")
    assert rows == [("g1", 7), ("g2", 0), ("g3", 0)]


def test_rows_that_are_alike_are_told_by_those_that_say_the_same(empty: Database, project: Project) -> None:
    """Two towns of one name, and somebody who has moved meanwhile: nobody who refers to a town refers to another then."""
    setup = (
        "CREATE TABLE customer (id int PRIMARY KEY, city text); "
        "INSERT INTO customer VALUES (1, 'Berlin'), (2, 'Hamburg'), (3, 'Kiel')"
    )
    ups = [
        "CREATE TABLE city (id serial PRIMARY KEY, name text)",
        "INSERT INTO city (name) SELECT DISTINCT city FROM customer ORDER BY 1",
        "ALTER TABLE customer ADD city_id int REFERENCES city",
        "UPDATE customer SET city_id = c.id FROM city c WHERE c.name = customer.city", "ALTER TABLE customer DROP city",
    ]  # fmt: skip
    down = (
        "ALTER TABLE customer ADD city text; UPDATE customer SET city = c.name FROM city c WHERE c.id = city_id; "
        "ALTER TABLE customer DROP city_id; DROP TABLE city"
    )
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))
    empty.rows("INSERT INTO city (name) VALUES ('Berlin'); INSERT INTO customer VALUES (4, 4)")
    asked = "SELECT customer.id, name FROM customer JOIN city ON city.id = city_id ORDER BY 1"

    down_and_up(
        project, empty, "UPDATE customer SET city = 'Berlin' WHERE id = 2; INSERT INTO customer VALUES (5, 'Berlin')"
    )

    assert empty.rows(asked) == [(1, "Berlin"), (2, "Berlin"), (3, "Kiel"), (4, "Berlin"), (5, "Berlin")]


@pytest.mark.parametrize(
    "then", ["ALTER TABLE t ADD x int", "UPDATE other SET n = (SELECT count(DISTINCT uid) FROM t)"]
)
def test_a_value_that_was_moved_is_not_overwritten_afterwards(empty: Database, project: Project, then: str) -> None:
    """The server has filled the column first, and the body then: what people changed elsewhere stays."""
    setup = (
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2); CREATE TABLE other (n int); "
        "INSERT INTO other VALUES (0); CREATE TABLE legacy (id int PRIMARY KEY, uid uuid)"
    )
    ups = [
        "ALTER TABLE t ADD uid uuid DEFAULT gen_random_uuid()",
        "UPDATE t SET uid = l.uid FROM legacy l WHERE l.id = t.id",
        then,
        "DELETE FROM legacy",
    ]
    down = "INSERT INTO legacy SELECT id, uid FROM t; ALTER TABLE t DROP uid" + (
        "; ALTER TABLE t DROP x" if "x int" in then else ""
    )
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))
    kept = empty.value("SELECT uid FROM t WHERE id = 2")

    down_and_up(project, empty, f"UPDATE legacy SET uid = '{'1' * 32}' WHERE id = 1")

    assert str(empty.value("SELECT uid FROM t WHERE id = 1")).startswith("11111111")
    assert empty.value("SELECT uid FROM t WHERE id = 2") == kept


ROLES = (
    "CREATE TABLE role (id serial PRIMARY KEY, n text{unique}); "
    "CREATE TABLE usr (id serial PRIMARY KEY, role_id int REFERENCES role); "
    "INSERT INTO role (n) VALUES ('a'), ('b'); INSERT INTO usr (role_id) VALUES (1), (2)"
)


@pytest.mark.parametrize(
    ("newer", "unique"),
    [("INSERT INTO role (n) VALUES ('newer')", " UNIQUE"), ("INSERT INTO role VALUES (3, 'newer')", " UNIQUE"),
     ("INSERT INTO role (n) VALUES ('newer')", ""), ("INSERT INTO role VALUES (3, 'newer')", "")],
)  # fmt: skip
def test_a_key_that_another_row_has_by_now_is_given_to_nobody(
    empty: Database, project: Project, newer: str, unique: str
) -> None:
    """Who had a role that is not back has not got the one which has its number: his stays in the stash, and the seed is there."""
    down = "UPDATE usr SET role_id = NULL WHERE role_id > 2; DELETE FROM role WHERE id > 2"
    down += "; SELECT setval('role_id_seq', (SELECT max(id) FROM role))" if "VALUES (3" not in newer else ""
    two(project, ROLES.format(unique=unique), "INSERT INTO role (n) VALUES ('editor'), ('viewer')", down)
    empty.rows("UPDATE usr SET role_id = id + 2")

    down_and_up(project, empty, newer)

    roles = dict(empty.rows("SELECT usr.id, n FROM usr LEFT JOIN role ON role.id = role_id"))
    assert roles[1] in (None, "editor")
    assert roles[2] in (None, "viewer")
    assert sorted(n for (n,) in empty.rows("SELECT n FROM role")) == ["a", "b", "editor", "newer", "viewer"]
    assert empty.rows("SELECT state FROM migration.stash") == [("partly restored",)]


COLOURED = {
    "nothing": ([], ["a", "b", "editor", "newer", "viewer"], []),
    "one": (["viewer"], ["a", "b", "editor", "newer", "viewer"], ["viewer"]),
    "all": (["editor", "viewer"], ["a", "b", "editor", "newer", "viewer", "viewer"], []),
}


@pytest.mark.parametrize("cascade", ["", " ON UPDATE CASCADE"])
@pytest.mark.parametrize("coloured", COLOURED)
def test_seeds_that_get_each_others_numbers_are_still_themselves(
    empty: Database, project: Project, coloured: str, cascade: str
) -> None:
    """The downgrade sets the sequence back, and somebody takes a number: no seed comes back under another's, none is missing."""
    edited, names, aside = COLOURED[coloured]
    setup = ROLES.format(unique=", colour text DEFAULT 'grey'").replace("REFERENCES role", f"REFERENCES role{cascade}")
    down = "UPDATE usr SET role_id = NULL WHERE role_id > 2; DELETE FROM role WHERE id > 2"
    down += "; SELECT setval('role_id_seq', (SELECT max(id) FROM role))"
    two(project, setup, "INSERT INTO role (n) VALUES ('editor'), ('viewer')", down)
    empty.rows("UPDATE usr SET role_id = id + 2")
    for name in edited:
        empty.rows(f"UPDATE role SET colour = n WHERE n = '{name}'")

    down_and_up(project, empty, "INSERT INTO role (n) VALUES ('newer')")

    assert sorted(n for (n,) in empty.rows("SELECT n FROM role")) == names
    assert empty.rows("SELECT id, n FROM role WHERE id IN (3, 4) ORDER BY 1") == [(3, "newer"), (4, "viewer")]
    who = empty.rows("SELECT usr.id, n FROM usr LEFT JOIN role ON role.id = role_id ORDER BY 1")
    assert who == [(1, None), (2, "viewer")]
    for table in empty.rows("SELECT relname::text FROM pg_class WHERE relname ~ '^guard:aside_._inserted$'"):
        assert empty.rows(f'SELECT n FROM migration_stash_1."{table[0]}"') == [(name,) for name in aside]
    assert empty.value("SELECT last_value FROM role_id_seq") >= empty.value("SELECT max(id) FROM role")


LINES = {
    "a query": "INSERT INTO step (rec_id, pos, t) SELECT rec.id, o, s FROM rec, "
    "unnest(string_to_array(steps, ';')) WITH ORDINALITY u (s, o)",
    "a loop": "DO $$ DECLARE r record; s text; i int; BEGIN FOR r IN SELECT * FROM rec ORDER BY id LOOP i := 0; "
    "FOREACH s IN ARRAY string_to_array(r.steps, ';') LOOP i := i + 1; "
    "INSERT INTO step (rec_id, pos, t) VALUES (r.id, i, s); END LOOP; END LOOP; END $$",
}


@pytest.mark.parametrize("new", ["cut;FRY", "cut;boil;salt;PEPPER", "FRY", "salt;cut;boil"])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("how", LINES)
def test_lines_of_one_parent_that_was_changed_move_nobody_elses(
    empty: Database, project: Project, how: str, added: bool, new: str
) -> None:
    """Steps of recipes, numbered by the server: a photo of another recipe's step is still one of that step."""
    setup = (
        "CREATE TABLE rec (id serial PRIMARY KEY, steps text); "
        "INSERT INTO rec (steps) VALUES ('cut;fry;eat'), ('cut;boil;salt'), ('mix;fry')"
    )
    project.revision("001", "create_rec", sql(setup), "raise NotImplementedError", reversible="forward-only: the base")
    made = (
        "CREATE TABLE step (id serial PRIMARY KEY, rec_id int NOT NULL REFERENCES rec, pos int NOT NULL, t text, "
        "UNIQUE (rec_id, pos))"
    )
    back = (
        "ALTER TABLE rec ADD steps text; UPDATE rec SET steps = "
        "(SELECT string_agg(t, ';' ORDER BY pos) FROM step WHERE rec_id = rec.id); DROP TABLE step"
    )
    ups = [made, LINES[how], "ALTER TABLE rec DROP steps"]
    project.revision("002", "create_step", "\n".join(f"op.execute({one!r})" for one in ups), sql(back))
    photo = "CREATE TABLE photo (id serial PRIMARY KEY, step_id int REFERENCES step, url text)"
    project.revision("003", "create_photo", sql(photo), sql("DROP TABLE photo"))
    project.upgrade()
    empty.rows("INSERT INTO photo (step_id, url) SELECT id, rec_id || t FROM step")
    if added:
        empty.rows("INSERT INTO step (rec_id, pos, t) VALUES (1, 4, 'wash')")
    asked = "SELECT rec_id, pos, t, step.id, url FROM step LEFT JOIN photo ON step_id = step.id WHERE {} ORDER BY 1, 2"
    had = empty.rows(asked.format("rec_id <> 2"))

    project.downgrade("001")
    empty.rows(f"UPDATE rec SET steps = '{new}' WHERE id = 2")
    project.upgrade()

    assert empty.rows(asked.format("rec_id <> 2")) == had
    there = [row[2] for row in empty.rows(asked.format("rec_id = 2"))]
    assert there[: new.count(";") + 1] == new.split(";")
