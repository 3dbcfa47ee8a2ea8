"""Bodies as people write them: one string, a block, Python that carries keys. The way up means what single statements mean."""

from __future__ import annotations

import pytest

from tests.conftest import Database, Project
from tests.test_restore import down_and_up, two
from tests.test_stash import sql

A = "CREATE TABLE a (id serial PRIMARY KEY, v text); INSERT INTO a (v) VALUES ('1'), ('2'), ('3')"
LOOKUP = [
    "CREATE TABLE g (id serial PRIMARY KEY, name text NOT NULL UNIQUE)",
    "INSERT INTO g (name) SELECT DISTINCT v FROM a ORDER BY 1",
    "ALTER TABLE a ADD g int REFERENCES g",
    "UPDATE a SET g = g.id FROM g WHERE g.name = a.v",
]
GONE = ["ALTER TABLE a DROP g", "DROP TABLE g"]


def written(statements: list[str], how: str) -> str:
    """The statements as one body: each by itself, one string of all, or a block."""
    if how == "one string":
        return sql("; ".join(statements))
    if how == "a block":
        return sql("DO $$ BEGIN " + "; ".join(statements) + "; END $$")
    return "\n".join(map(sql, statements))


HOW = ["statements", "one string", "a block"]
WAYS = {  # what people did, what is written between, and what the new rows name
    "one deleted, one new": ("SELECT", "DELETE FROM a WHERE id = 3; INSERT INTO a (v) VALUES ('0')", [(4, "0")]),
    "one changed, one new": ("SELECT", "UPDATE a SET v = '0' WHERE id = 1; INSERT INTO a (v) VALUES ('0')", [(4, "0")]),
    "one renamed": (
        "UPDATE g SET name = 'eins' WHERE name = '1'",
        "INSERT INTO a (v) VALUES ('0'), ('1'); UPDATE a SET v = '3' WHERE id = 2",
        [(4, "0"), (5, "1")],
    ),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("way", WAYS)
def test_new_rows_name_what_they_say(empty: Database, project: Project, way: str, how: str) -> None:
    """A lookup of what is there: no new row refers to what has got its number back."""
    used, between, named = WAYS[way]
    two(project, A, "", "; ".join(GONE), ups=written(LOOKUP, how))
    empty.rows(used)
    had = dict(empty.rows("SELECT a.id, name FROM a JOIN g ON g.id = a.g"))

    down_and_up(project, empty, between)

    there = dict(empty.rows("SELECT a.id, name FROM a JOIN g ON g.id = a.g"))
    assert [(id, there[id]) for id, _ in named] == named
    assert {id: name for id, name in there.items() if id < 4} == {id: name for id, name in had.items() if id in there}


@pytest.mark.parametrize("how", HOW)
def test_seeds_whose_names_were_exchanged(empty: Database, project: Project, how: str) -> None:
    """A new row names what it says, and the old ones what they said."""
    ups = [
        LOOKUP[0],
        "INSERT INTO g (name) VALUES ('low'), ('mid'), ('high')",
        LOOKUP[2],
        "UPDATE a SET g = (SELECT id FROM g WHERE name = 'low') WHERE v = '1'",
        "UPDATE a SET g = (SELECT id FROM g WHERE name = 'high') WHERE v <> '1'",
    ]
    two(project, A, "", "; ".join(GONE), ups=written(ups, how))
    empty.rows("UPDATE g SET name = 'x' WHERE name = 'low'; UPDATE g SET name = 'low' WHERE name = 'high'; "
               "UPDATE g SET name = 'high' WHERE name = 'x'")  # fmt: skip
    asked = "SELECT a.id, name FROM a JOIN g ON g.id = a.g ORDER BY 1"
    had = empty.rows(asked)

    down_and_up(project, empty, "INSERT INTO a (v) VALUES ('1'), ('7')")

    assert empty.rows(asked) == [*had, (4, "low"), (5, "high")]


MADE = "op.execute('CREATE TABLE g (id serial PRIMARY KEY, name text NOT NULL{unique})')\n"
READ = (
    "import sqlalchemy as sa\nb = op.get_bind()\n"
    "names = [v for (v,) in b.execute(sa.text('SELECT DISTINCT v FROM a ORDER BY 1')).fetchall()]\n"
)
UPDATED = "for v, i in ids.items():\n    b.execute(sa.text('UPDATE a SET g = :i WHERE v = :v'), {'i': i, 'v': v})\n"
KEY = "op.execute('ALTER TABLE a ADD g int REFERENCES g')\n"
ONE_BY_ONE = (
    "ids = {v: b.execute(sa.text('INSERT INTO g (name) VALUES (:n) RETURNING id'), {'n': v}).scalar() for v in names}\n"
)
PYTHON = {
    "returned": MADE.format(unique="") + KEY + READ + ONE_BY_ONE + UPDATED,
    "returned, unique": MADE.format(unique=" UNIQUE") + KEY + READ + ONE_BY_ONE + UPDATED,
    "the key afterwards": MADE.format(unique="") + "op.execute('ALTER TABLE a ADD g int')\n" + READ + ONE_BY_ONE + UPDATED
    + "op.execute('ALTER TABLE a ADD FOREIGN KEY (g) REFERENCES g')\n",
    "asked afterwards": MADE.format(unique="") + KEY + READ
    + "b.execute(sa.text('INSERT INTO g (name) VALUES (:n)'), [{'n': v} for v in names])\n"
    + "ids = dict((n, i) for i, n in b.execute(sa.text('SELECT id, name FROM g')).fetchall())\n" + UPDATED,
    "the last value": MADE.format(unique="") + KEY + READ + "ids = {}\nfor v in names:\n"
    + "    b.execute(sa.text('INSERT INTO g (name) VALUES (:n)'), {'n': v})\n"
    + "    ids[v] = b.execute(sa.text('SELECT lastval()')).scalar()\n" + UPDATED,
}  # fmt: skip


@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize("way", PYTHON)
def test_keys_that_python_carries_are_those_of_its_rows(
    empty: Database, project: Project, way: str, stays: bool
) -> None:
    """What it has read it writes elsewhere: its rows have no other keys by then."""
    down = "ALTER TABLE a ADD v text; UPDATE a SET v = (SELECT name FROM g WHERE g.id = a.g); ALTER TABLE a DROP g; DROP TABLE g"
    body = PYTHON[way] if stays else PYTHON[way] + sql("ALTER TABLE a DROP v")
    two(project, A, "", "; ".join(GONE) if stays else down, ups=body)
    asked = "SELECT a.id, name FROM a JOIN g ON g.id = a.g ORDER BY 1"

    down_and_up(
        project, empty, "DELETE FROM a WHERE id = 3; INSERT INTO a (v) VALUES ('0'); UPDATE a SET v = '3' WHERE id = 2"
    )

    assert empty.rows(asked) == [(1, "1"), (2, "2" if stays else "3"), (4, "0")]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", ["bigint GENERATED BY DEFAULT AS IDENTITY", "serial"])
def test_a_table_that_is_made_anew_with_its_keys(empty: Database, project: Project, kind: str, how: str) -> None:
    """It sets its sequence to where the keys end: they are carried along, and no row is there twice."""
    set_ = "PERFORM" if how == "a block" else "SELECT"
    ups = [
        f"CREATE TABLE a_new (id {kind} PRIMARY KEY, v text, w int)",
        "INSERT INTO a_new (id, v) SELECT id, v FROM a",
        f"{set_} setval('a_new_id_seq', (SELECT max(id) FROM a))",
        "DROP TABLE a",
        "ALTER TABLE a_new RENAME TO a",
    ]
    downs = [
        "CREATE TABLE a_old (id serial PRIMARY KEY, v text)",
        "INSERT INTO a_old (id, v) SELECT id, v FROM a",
        f"{set_} setval('a_old_id_seq', (SELECT max(id) FROM a))",
        "DROP TABLE a",
        "ALTER TABLE a_old RENAME TO a",
    ]
    project.revision("001", "create_a", sql(A), "raise NotImplementedError", reversible="forward-only: the base")
    project.revision("002", "alter_a", written(ups, how), written(downs, how))
    project.upgrade()
    empty.rows("UPDATE a SET w = 1")

    down_and_up(project, empty, "UPDATE a SET v = 'one!' WHERE id = 1")

    assert empty.rows("SELECT id, v FROM a ORDER BY 1") == [(1, "one!"), (2, "2"), (3, "3")]


@pytest.mark.parametrize("how", HOW)
def test_what_was_written_in_a_table_that_goes_at_once(empty: Database, project: Project, how: str) -> None:
    """The upgrade reads it and drops it in one go: what others have written there is in the new one."""
    setup = "CREATE TABLE dog (id serial PRIMARY KEY, name text); INSERT INTO dog (name) VALUES ('rex'), ('fido')"
    ups = [
        "CREATE TABLE pet (id serial PRIMARY KEY, kind text NOT NULL, name text)",
        "INSERT INTO pet (kind, name) SELECT 'dog', name FROM dog ORDER BY id",
        "DROP TABLE dog",
    ]
    downs = [
        "CREATE TABLE dog (id serial PRIMARY KEY, name text)",
        "INSERT INTO dog (name) SELECT name FROM pet WHERE kind = 'dog' ORDER BY id",
        "DROP TABLE pet",
    ]
    project.revision("001", "create_dog", sql(setup), "raise NotImplementedError", reversible="forward-only: the base")
    project.revision("002", "create_pet", written(ups, how), written(downs, how))
    project.upgrade()

    down_and_up(
        project, empty, "INSERT INTO dog (name) VALUES ('new'); UPDATE dog SET name = 'FIDO' WHERE name = 'fido'"
    )

    names = [name for (name,) in empty.rows("SELECT name FROM pet")]
    assert {"rex", "new", "FIDO"} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("how", HOW)
def test_a_materialized_view_shows_what_is_back(empty: Database, project: Project, how: str) -> None:
    """One that the upgrade makes of the column in the same go, and one that it refreshes."""
    setup = f"{A}; CREATE MATERIALIZED VIEW stays AS SELECT count(*) FROM a"
    ups = [
        "ALTER TABLE a ADD w int DEFAULT 0",
        "CREATE MATERIALIZED VIEW mv AS SELECT sum(w) FROM a",
        "INSERT INTO a (v) VALUES ('seed')",
        "REFRESH MATERIALIZED VIEW stays",
    ]
    downs = ["DROP MATERIALIZED VIEW mv", "ALTER TABLE a DROP w", "DELETE FROM a WHERE id > 3"]
    project.revision("001", "create_a", sql(setup), "raise NotImplementedError", reversible="forward-only: the base")
    project.revision("002", "alter_a", written(ups, how), written(downs, how))
    project.upgrade()
    empty.rows("INSERT INTO a (v) VALUES ('mine'); UPDATE a SET w = 5; REFRESH MATERIALIZED VIEW mv")

    down_and_up(project, empty, "SELECT")

    assert empty.value("SELECT * FROM mv") == 25
    assert empty.value("SELECT * FROM stays") == 5


def test_values_of_a_column_that_the_server_made_meanwhile(empty: Database, project: Project) -> None:
    """The way back lets the server compute it, and that is nothing that people have written."""
    setup = (
        "CREATE TABLE t (id serial PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) STORED); "
        "INSERT INTO t (a) VALUES (1), (2)"
    )
    down = "ALTER TABLE t DROP g; ALTER TABLE t ADD g int GENERATED ALWAYS AS (a * 2) STORED"
    two(project, setup, "ALTER TABLE t ALTER g DROP EXPRESSION", down)
    empty.rows("UPDATE t SET g = 100 WHERE id = 1; INSERT INTO t (a, g) VALUES (5, 7)")

    down_and_up(project, empty, "INSERT INTO t (a) VALUES (6)")

    assert empty.rows("SELECT id, g FROM t ORDER BY 1") == [(1, 100), (2, 4), (3, 7), (4, 12)]


def test_a_row_beside_each_that_nobody_has_written_to(empty: Database, project: Project) -> None:
    """One new customer, and all others keep what people have put beside their number since."""
    setup = "CREATE TABLE c (id serial PRIMARY KEY, phone text); INSERT INTO c (phone) VALUES ('p1'), ('p2'), ('p3')"
    ups = [
        "CREATE TABLE cd (c int PRIMARY KEY REFERENCES c, phone text, verified bool NOT NULL DEFAULT false)",
        "INSERT INTO cd (c, phone) SELECT id, phone FROM c",
        "ALTER TABLE c DROP phone",
    ]
    down = "ALTER TABLE c ADD phone text; UPDATE c SET phone = (SELECT phone FROM cd WHERE cd.c = c.id); DROP TABLE cd"
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))
    empty.rows("UPDATE cd SET verified = true")

    down_and_up(project, empty, "INSERT INTO c (phone) VALUES ('new'); UPDATE c SET phone = 'P3' WHERE id = 3")

    rows = empty.rows("SELECT * FROM cd ORDER BY 1")
    assert rows == [(1, "p1", True), (2, "p2", True), (3, "P3", False), (4, "new", False)]


def test_a_key_and_what_refers_to_it_get_another_type(empty: Database, project: Project) -> None:
    """Under the same names: nothing is compared that cannot be, and the way up goes through."""
    setup = (
        "CREATE TABLE u (id serial PRIMARY KEY, email text UNIQUE NOT NULL); INSERT INTO u (email) VALUES ('a@x'), ('b@x'); "
        "CREATE TABLE p (id serial PRIMARY KEY, u int NOT NULL REFERENCES u); INSERT INTO p (u) VALUES (1), (2)"
    )
    ups = [
        "ALTER TABLE u ADD code text", "UPDATE u SET code = 'U' || id", "ALTER TABLE p ADD u_code text",
        "UPDATE p SET u_code = (SELECT code FROM u WHERE u.id = p.u)", "ALTER TABLE p DROP u", "ALTER TABLE u DROP id",
        "ALTER TABLE u RENAME code TO id", "ALTER TABLE u ADD PRIMARY KEY (id)", "ALTER TABLE p RENAME u_code TO u",
        "ALTER TABLE p ADD FOREIGN KEY (u) REFERENCES u (id)",
    ]  # fmt: skip
    downs = [
        "ALTER TABLE p DROP CONSTRAINT p_u_fkey", "ALTER TABLE u DROP CONSTRAINT u_pkey", "ALTER TABLE u RENAME id TO code",
        "ALTER TABLE u ADD id serial PRIMARY KEY", "ALTER TABLE p RENAME u TO u_code", "ALTER TABLE p ADD u int",
        "UPDATE p SET u = (SELECT id FROM u WHERE u.code = p.u_code)", "ALTER TABLE p DROP u_code",
        "ALTER TABLE p ADD FOREIGN KEY (u) REFERENCES u (id)", "ALTER TABLE u DROP code",
    ]  # fmt: skip
    project.revision("001", "create_u", sql(setup), "raise NotImplementedError", reversible="forward-only: the base")
    project.revision("002", "alter_u", "\n".join(map(sql, ups)), "\n".join(map(sql, downs)))
    project.upgrade()

    down_and_up(project, empty, "INSERT INTO p (u) VALUES (1)")

    rows = empty.rows("SELECT p.id, email FROM p JOIN u ON u.id = p.u ORDER BY 1")
    assert rows == [(1, "a@x"), (2, "b@x"), (3, "a@x")]


def test_a_seed_that_is_there_again_is_told(
    empty: Database, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """The upgrade changes rows of the table as well, and others have written there: nobody can tell, and it says so."""
    setup = "CREATE TABLE st (code text PRIMARY KEY, label text); INSERT INTO st VALUES ('n', 'New')"
    up = (
        "INSERT INTO st VALUES ('n', 'New!'), ('d', 'Done'), ('x', 'Gone') ON CONFLICT (code) "
        "DO UPDATE SET label = excluded.label"
    )
    down = "DELETE FROM st WHERE code IN ('d', 'x'); UPDATE st SET label = 'New' WHERE code = 'n'"
    two(project, setup, up, down)
    empty.rows("DELETE FROM st WHERE code = 'x'")
    capsys.readouterr()

    down_and_up(project, empty, "INSERT INTO st VALUES ('q', 'Q')")

    there = {code for (code,) in empty.rows("SELECT code FROM st")}
    assert {"n", "d", "q"} <= there
    assert ("x" in there) == ("new: 1 rows of st" in capsys.readouterr().err)


def test_keys_that_python_carries_while_another_table_is_filled(empty: Database, project: Project) -> None:
    """An UPDATE that names another new table exchanges none of those that the client has seen."""
    setup = "CREATE TABLE item (id serial PRIMARY KEY, k text, u text); INSERT INTO item (k, u) VALUES ('a', 'kg'), ('b', 'kg')"
    body = (
        "import sqlalchemy as sa\nb = op.get_bind()\n"
        + sql("CREATE TABLE kind (id serial PRIMARY KEY, name text UNIQUE)") + "\n"
        + sql("CREATE TABLE unit (id serial PRIMARY KEY, name text UNIQUE)") + "\n"
        + "ids = {n: b.execute(sa.text('INSERT INTO kind (name) VALUES (:n) RETURNING id'), {'n': n}).scalar() for n in 'ab'}\n"
        + sql("INSERT INTO unit (name) VALUES ('kg')") + "\n"
        + sql("ALTER TABLE item ADD kind_id int REFERENCES kind, ADD unit_id int REFERENCES unit") + "\n"
        + sql("UPDATE item SET unit_id = (SELECT id FROM unit WHERE unit.name = item.u)") + "\n"
        + "for n, i in ids.items():\n    b.execute(sa.text('UPDATE item SET kind_id = :i WHERE k = :n'), {'i': i, 'n': n})\n"
    )  # fmt: skip
    two(project, setup, "", "ALTER TABLE item DROP kind_id, DROP unit_id; DROP TABLE kind; DROP TABLE unit", ups=body)
    empty.rows("UPDATE kind SET name = 'x' WHERE id = 1; UPDATE kind SET name = 'a' WHERE id = 2")
    empty.rows("UPDATE kind SET name = 'b' WHERE id = 1")

    down_and_up(project, empty, "INSERT INTO item (k, u) VALUES ('a', 'kg')")

    rows = empty.rows("SELECT item.id, name FROM item LEFT JOIN kind ON kind.id = kind_id ORDER BY 1")
    assert rows == [(1, "b"), (2, "a"), (3, "a")]


def test_the_best_of_each_is_computed_anew(empty: Database, project: Project) -> None:
    """A row that refers to one that nobody has written to, but was chosen among those that somebody has."""
    setup = (
        "CREATE TABLE contact (id int PRIMARY KEY, cust int, prio int); INSERT INTO contact VALUES (1, 1, 5), (2, 1, 1)"
    )
    ups = [
        "CREATE TABLE main (cust int PRIMARY KEY, contact int REFERENCES contact)",
        "INSERT INTO main SELECT DISTINCT ON (cust) cust, id FROM contact ORDER BY cust, prio",
    ]
    down = "UPDATE contact SET prio = 0 WHERE id IN (SELECT contact FROM main); DROP TABLE main"
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))

    down_and_up(project, empty, "UPDATE contact SET prio = 9 WHERE id = 2")

    assert empty.rows("SELECT * FROM main") == [(1, 1)]


USERS = "CREATE TABLE users (id serial PRIMARY KEY, name text, email text, seen date); " + (
    "INSERT INTO users (name, email) VALUES ('ann', 'ann@x'), ('bob', 'bob@x'), ('cid', 'cid@x')"
)
MAILS = [
    "CREATE TABLE emails (id {key}, user_id int NOT NULL REFERENCES users, address text, verified bool NOT NULL DEFAULT false)",
    "INSERT INTO emails (user_id, address) SELECT id, email FROM users",
    "ALTER TABLE users DROP COLUMN email",
]
MAILS_BACK = (
    "ALTER TABLE users ADD COLUMN email text; UPDATE users u SET email = e.address FROM emails e WHERE e.user_id = u.id; "
    "DROP TABLE emails"
)


@pytest.mark.parametrize("key", ["serial PRIMARY KEY", "uuid PRIMARY KEY DEFAULT gen_random_uuid()"])
@pytest.mark.parametrize("between", ["UPDATE users SET name = 'Z' WHERE id = 3", "DELETE FROM users WHERE id = 3",
                                     "INSERT INTO users (name, email) VALUES ('new', 'new@x')"])  # fmt: skip
def test_rows_of_those_whom_nobody_has_written_to_are_not_doubled(
    empty: Database, project: Project, between: str, key: str
) -> None:
    """Under keys of the server's, with nothing unique, and a flag that the way back cannot carry."""
    ups = [one.format(key=key) for one in MAILS]
    two(project, USERS, "", MAILS_BACK, ups="\n".join(map(sql, ups)))
    empty.rows("UPDATE emails SET verified = true")
    asked = "SELECT id::text, user_id, address, verified FROM emails WHERE user_id < 3 ORDER BY user_id"
    had = empty.rows(asked)

    down_and_up(project, empty, between)

    assert empty.rows(asked) == had
    others = empty.rows("SELECT DISTINCT user_id FROM emails WHERE user_id > 2")
    assert others == {"UPDATE": [(3,)], "DELETE": [], "INSERT": [(3,), (4,)]}[between.split()[0]]


def test_history_of_those_whom_nobody_has_written_to_is_not_written_anew(empty: Database, project: Project) -> None:
    """Prices with their dates, of which the way back knows the last: one new product changes none of them."""
    setup = (
        "CREATE TABLE products (id serial PRIMARY KEY, sku text UNIQUE, price numeric); "
        "INSERT INTO products (sku, price) VALUES ('a', 1), ('b', 2)"
    )
    ups = [
        "CREATE TABLE prices (id serial PRIMARY KEY, product_id int NOT NULL REFERENCES products, amount numeric, "
        "since date NOT NULL DEFAULT '2026-01-01', UNIQUE (product_id, since))",
        "INSERT INTO prices (product_id, amount) SELECT id, price FROM products",
        "ALTER TABLE products DROP COLUMN price",
    ]
    down = (
        "ALTER TABLE products ADD COLUMN price numeric; UPDATE products p SET price = (SELECT amount FROM prices "
        "WHERE product_id = p.id ORDER BY since DESC LIMIT 1); DROP TABLE prices"
    )
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))
    empty.rows("INSERT INTO prices (product_id, amount, since) VALUES (1, 1.5, '2026-03-01'), (2, 2.5, '2026-03-01')")
    asked = "SELECT * FROM prices WHERE product_id < 3 ORDER BY id"
    had = empty.rows(asked)

    down_and_up(project, empty, "INSERT INTO products (sku, price) VALUES ('d', 4)")

    assert empty.rows(asked) == had
    assert empty.rows("SELECT amount FROM prices WHERE product_id = 3") == [(4,)]


@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("how", ["a column", "a table"])
def test_a_corrected_column_that_must_have_a_value_bars_no_way_up(
    empty: Database, project: Project, how: str, steps: bool
) -> None:
    """What was kept without one yields to what the corrected revision puts there, or stays in the stash."""
    if how == "a column":
        first, gone, table = "ALTER TABLE users ADD score int", "ALTER TABLE users DROP score", "users"
        then = ["ALTER TABLE users ADD score int NOT NULL DEFAULT 0"]
        if steps:
            then = ["ALTER TABLE users ADD score int", "UPDATE users SET score = 0 WHERE score IS NULL",
                    "ALTER TABLE users ALTER score SET NOT NULL"]  # fmt: skip
    else:
        first, gone, table = "CREATE TABLE notes (id int PRIMARY KEY, score int)", "DROP TABLE notes", "notes"
        then = ["CREATE TABLE notes (id int PRIMARY KEY, score int NOT NULL DEFAULT 0)"]
        if steps:
            then = [first, "ALTER TABLE notes ALTER score SET NOT NULL"]
    two(project, USERS, first, gone)
    empty.rows(
        "UPDATE users SET score = 5 WHERE id = 1" if table == "users" else "INSERT INTO notes VALUES (1, 5), (2, NULL)"
    )
    project.downgrade("-1")
    project.revision("002", "alter_things", "\n".join(map(sql, then)), sql(gone))

    project.upgrade()

    rows = empty.rows(f"SELECT id, score FROM {table} ORDER BY 1")
    assert rows == ([(1, 5), (2, 0), (3, 0)] if table == "users" else [(1, 5)])


def test_a_default_is_nothing_newer(empty: Database, project: Project) -> None:
    """Somebody logs in between the two: what he had in columns that the upgrade only adds is his again."""
    up = (
        "ALTER TABLE users ADD locale text NOT NULL DEFAULT 'en', ADD is_admin bool NOT NULL DEFAULT false, ADD phone text; "
        "UPDATE users SET email = 'mailto:' || email"
    )
    down = (
        "UPDATE users SET email = replace(email, 'mailto:', ''); "
        "ALTER TABLE users DROP locale, DROP is_admin, DROP phone"
    )
    two(project, USERS, up, down)
    empty.rows("UPDATE users SET locale = 'de', is_admin = true, phone = '1'")

    down_and_up(project, empty, "UPDATE users SET seen = '2026-05-05' WHERE id = 1")

    rows = empty.rows("SELECT email, locale, is_admin, phone FROM users ORDER BY id")
    assert rows == [(f"mailto:{name}@x", "de", True, "1") for name in ("ann", "bob", "cid")]
