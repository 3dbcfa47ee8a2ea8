"""A newer value is never taken for a column's default; who was written to has the newer rows, and nobody's are doubled."""

from __future__ import annotations

import logging

import pytest

from tests.conftest import Database, Project
from tests.test_restore import down_and_up, two
from tests.test_seeds_again import committing
from tests.test_stash import sql

USERS = "CREATE TABLE users (id int PRIMARY KEY, name text); INSERT INTO users VALUES (1, 'a'), (2, 'b'), (3, 'c')"
MOVES = {  # ways to move users.lang to users.locale that do not say so in an UPDATE of that name
    "renamed afterwards": [
        "ALTER TABLE users ADD tmp text DEFAULT 'en'", "UPDATE users SET tmp = lang", "ALTER TABLE users DROP lang",
        "ALTER TABLE users RENAME tmp TO locale",
    ],
    "renamed": ["ALTER TABLE users RENAME lang TO locale"],
    "another type": [
        "ALTER TABLE users ADD locale text DEFAULT 'en'", "ALTER TABLE users ALTER locale TYPE text USING lang",
        "ALTER TABLE users DROP lang",
    ],
    "another table": [
        "CREATE TABLE u2 AS SELECT id, name, lang AS x FROM users", "DROP TABLE users", "ALTER TABLE u2 RENAME x TO locale",
        "ALTER TABLE u2 RENAME TO users", "ALTER TABLE users ADD PRIMARY KEY (id)",
    ],
    "by position": [
        "CREATE TABLE u2 (id int PRIMARY KEY, name text, locale text DEFAULT 'en')", "INSERT INTO u2 SELECT * FROM users",
        "DROP TABLE users", "ALTER TABLE u2 RENAME TO users",
    ],
    "a trigger": [
        "ALTER TABLE users ADD locale text DEFAULT 'en'",
        "CREATE FUNCTION moved() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.locale := NEW.lang; RETURN NEW; END'",
        "CREATE TRIGGER moved BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION moved()", "UPDATE users SET lang = lang",
        "DROP TRIGGER moved ON users", "DROP FUNCTION moved", "ALTER TABLE users DROP lang",
    ],
    "a function": [
        "ALTER TABLE users ADD locale text DEFAULT 'en'",
        "CREATE FUNCTION moved(int) RETURNS int LANGUAGE sql AS 'UPDATE users SET locale = lang WHERE id = $1 RETURNING 1'",
        "CREATE TABLE log (n int)", "INSERT INTO log SELECT moved(id) FROM users", "DROP FUNCTION moved", "DROP TABLE log",
        "ALTER TABLE users DROP lang",
    ],
    "a function of a plain update": [
        "ALTER TABLE users ADD locale text DEFAULT 'en'",
        "CREATE FUNCTION moved() RETURNS int LANGUAGE sql AS 'UPDATE users SET locale = lang RETURNING 1'",
        "UPDATE users SET name = name WHERE moved() = 0", "DROP FUNCTION moved", "ALTER TABLE users DROP lang",
    ],
    "where it is another than the default": [
        "ALTER TABLE users ADD locale text NOT NULL DEFAULT 'en'", "UPDATE users SET locale = lang WHERE lang <> 'en'",
        "ALTER TABLE users DROP lang",
    ],
    "by way of itself": [
        "ALTER TABLE users ADD locale text DEFAULT 'en'", "CREATE TABLE t AS SELECT id, name, lang AS l, lang FROM users",
        "DELETE FROM users", "INSERT INTO users SELECT * FROM t", "DROP TABLE t", "ALTER TABLE users DROP lang",
    ],
    "a trigger of another table": [
        "ALTER TABLE users ADD locale text DEFAULT 'en'", "CREATE TABLE log (n int)", "INSERT INTO log VALUES (1)",
        "CREATE FUNCTION moved() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE users SET locale = lang; RETURN NEW; END'",
        "CREATE TRIGGER moved BEFORE UPDATE ON log FOR EACH ROW EXECUTE FUNCTION moved()", "UPDATE log SET n = n",
        "DROP TABLE log", "DROP FUNCTION moved", "ALTER TABLE users DROP lang",
    ],
    "a view": [
        "ALTER TABLE users ADD locale text DEFAULT 'en'", "CREATE VIEW v AS SELECT id, lang, locale AS l FROM users",
        "UPDATE v SET l = lang", "DROP VIEW v", "ALTER TABLE users DROP lang",
    ],
    "a function outside": [
        "ALTER TABLE users ADD locale text DEFAULT 'en'",
        "CREATE FUNCTION moved() RETURNS void LANGUAGE sql AS 'UPDATE users SET locale = lang'",
        "COMMIT SELECT moved()", "DROP FUNCTION moved", "ALTER TABLE users DROP lang",
    ],
    "a transaction of its own": [
        "ALTER TABLE users ADD locale text DEFAULT 'en'", "COMMIT UPDATE users SET locale = lang", "ALTER TABLE users DROP lang",
    ],
}  # fmt: skip
MOVED_BACK = "ALTER TABLE users ADD lang text; UPDATE users SET lang = locale; ALTER TABLE users DROP locale"


def body(statements: list[str]) -> str:
    """An upgrade of these; what begins with COMMIT is run outside of the transaction."""
    return "\n".join(
        f"with op.get_context().autocommit_block():\n    {sql(one.removeprefix('COMMIT '))}"
        if one.startswith("COMMIT")
        else sql(one)
        for one in statements
    )


@pytest.mark.parametrize("value", ["fr", "en"])
@pytest.mark.parametrize("way", MOVES)
def test_a_value_that_was_moved_is_newer_however_it_was(
    empty: Database, project: Project, way: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The statement that has moved it need not name the column, the value may be the column's default by chance, and the kept one
    stays in the stash."""
    setup = f"{USERS}; ALTER TABLE users ADD lang text; UPDATE users SET lang = 'de'"
    committing(project, setup, [body(MOVES[way])], MOVED_BACK) if "COMMIT" in str(MOVES[way]) else two(
        project, setup, "", MOVED_BACK, ups=body(MOVES[way])
    )

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, f"UPDATE users SET lang = '{value}' WHERE id = 1")

    assert empty.rows("SELECT id, locale FROM users ORDER BY id") == [(1, value), (2, "de"), (3, "de")]
    stash = empty.value("SELECT max(id) FROM migration.stash")
    assert empty.rows(f"SELECT locale FROM migration_stash_{stash}.users WHERE id = 1") == [("de",)]
    assert "left: 1 rows" in caplog.text or "replaced: 1 rows" in caplog.text


@pytest.mark.parametrize("name", ["discount %", "ok?", "price (€)", 'a"b', "Ünïcode", "a$"])
def test_a_name_that_is_no_word_is_named_as_well(empty: Database, project: Project, name: str) -> None:
    """What a moved value equals by chance, the column's own default, is newer too where the body has named the column."""
    quoted = '"' + name.replace('"', '""') + '"'
    ups = [
        f"ALTER TABLE users ADD {quoted} int DEFAULT 7",
        f"UPDATE users SET {quoted} = d",
        "ALTER TABLE users DROP d",
    ]
    down = f"ALTER TABLE users ADD d int; UPDATE users SET d = {quoted}; ALTER TABLE users DROP {quoted}"
    setup = f"{USERS}; ALTER TABLE users ADD d int DEFAULT 5"
    two(
        project,
        setup,
        "",
        down,
        ups=body(ups),
    )

    down_and_up(project, empty, "UPDATE users SET d = 7 WHERE id = 1")

    assert [row[2] for row in empty.rows("SELECT * FROM users ORDER BY id")] == [7, 5, 5]


def test_a_column_that_people_have_made_again_is_theirs(empty: Database, project: Project) -> None:
    """One of two lost columns is there again before the upgrade, and what stands in it was written by people."""
    up = "ALTER TABLE users ADD locale text; ALTER TABLE users ADD COLUMN IF NOT EXISTS phone text DEFAULT '999'"
    two(project, USERS, up, "UPDATE users SET name = name || '!'; ALTER TABLE users DROP locale, DROP phone")
    empty.rows("UPDATE users SET locale = 'de', phone = '1'")

    down_and_up(
        project, empty, "ALTER TABLE users ADD phone text DEFAULT '999'; UPDATE users SET name = 'z' WHERE id = 1"
    )

    assert empty.rows("SELECT phone FROM users WHERE id = 1") == [("999",)]


TYPES = [("json", "'{\"a\": 1}'", "jsonb", "'{}'"), ("int", "5", "text", "''"), ("uuid", "gen_random_uuid()", "text", "''"),
         ("boolean", "true", "text", "''"), ("real", "0.1", "numeric", "12345678.9"), ("char(3)", "'abc'", "text", "''"),
         ("varchar(9)", "'abc'", "varchar(9)", "''"), ("bit(3)", "B'101'", "bit(3)", "B'000'")]  # fmt: skip


@pytest.mark.parametrize("where", ["a column", "a table"])
@pytest.mark.parametrize(("was", "value", "now", "default"), TYPES)
def test_a_corrected_type_that_must_have_a_value(
    empty: Database, project: Project, where: str, was: str, value: str, now: str, default: str
) -> None:
    """What was kept goes in in the new type, and what was kept empty yields to what stands there."""
    up, gone = f"ALTER TABLE users ADD score {was}", "ALTER TABLE users DROP score"
    if where == "a table":
        up, gone = f"CREATE TABLE scores (id int PRIMARY KEY, score {was})", "DROP TABLE scores"
    two(project, USERS, up, gone)
    table = "users" if where == "a column" else "scores"
    empty.rows("SELECT" if where == "a column" else "INSERT INTO scores VALUES (1, NULL), (2, NULL)")
    empty.rows(f"UPDATE {table} SET score = {value} WHERE id = 1")
    had = empty.value(f"SELECT score::text FROM {table} WHERE id = 1")
    project.downgrade("-1")
    project.revision("002", "alter_things", sql(f"{up.replace(f'score {was}', f'score {now} NOT NULL DEFAULT {default}')}"),
                     sql(gone))  # fmt: skip

    project.upgrade()

    assert empty.value(f"SELECT score::text FROM {table} WHERE id = 1") == had
    if where == "a column":
        assert empty.value(f"SELECT count(*) FROM users WHERE id > 1 AND score = {default}::{now}") == 2


@pytest.mark.parametrize("how", ["a domain", "a domain of a domain", "a partition"])
def test_a_rule_that_is_not_the_columns_own_bars_no_way_up(empty: Database, project: Project, how: str) -> None:
    """A corrected revision lets in no NULL by its domain, or in one partition."""
    setup, type_ = USERS, "int"
    then = ""
    if how == "a partition":
        setup = (
            "CREATE TABLE users (id int PRIMARY KEY, name text) PARTITION BY RANGE (id); "
            "CREATE TABLE u1 PARTITION OF users FOR VALUES FROM (1) TO (3); "
            "CREATE TABLE u2 PARTITION OF users DEFAULT; INSERT INTO users VALUES (1, 'a'), (2, 'b'), (3, 'c')"
        )
        then = "; UPDATE users SET score = 0; ALTER TABLE u1 ALTER score SET NOT NULL"
    else:
        setup += (
            "; CREATE DOMAIN plain AS int; CREATE DOMAIN score AS int NOT NULL DEFAULT 0; CREATE DOMAIN mark AS score"
        )
        type_ = "score DEFAULT 0" if how == "a domain" else "mark DEFAULT 0"
    two(project, setup, "ALTER TABLE users ADD score int", "ALTER TABLE users DROP score")
    empty.rows("UPDATE users SET score = 5 WHERE id = 1")
    project.downgrade("-1")
    project.revision("002", "alter_things", sql(f"ALTER TABLE users ADD score {type_}{then}"),
                     sql("ALTER TABLE users DROP score"))  # fmt: skip

    project.upgrade()

    assert empty.rows("SELECT id, score FROM users WHERE id < 3 ORDER BY id") == [(1, 5), (2, 0)]


def test_what_is_too_long_by_now_bars_no_way_up_with_a_new_column(empty: Database, project: Project) -> None:
    """Two corrections at once: a shorter text, and a column that must have a value and has no default."""
    two(project, "SELECT", "CREATE TABLE notes (id int PRIMARY KEY, t text)", "DROP TABLE notes")
    empty.rows("INSERT INTO notes VALUES (1, 'short'), (2, 'much too long')")
    project.downgrade("-1")
    project.revision("002", "alter_things", sql("CREATE TABLE notes (id int PRIMARY KEY, t varchar(5), who text NOT NULL)"),
                     sql("DROP TABLE notes"))  # fmt: skip

    project.upgrade()

    assert empty.rows("SELECT * FROM notes") == []
    stash = empty.value("SELECT max(id) FROM migration.stash")
    assert empty.value(f"SELECT count(*) FROM migration_stash_{stash}.notes") == 2


def test_columns_of_one_check_go_together(empty: Database, project: Project) -> None:
    """The body names one of two that a constraint binds: both are back in the row that somebody has written to."""
    setup = "CREATE TABLE orders (id int PRIMARY KEY, seen int); INSERT INTO orders VALUES (1, 0), (2, 0)"
    up = ("ALTER TABLE orders ADD amount numeric, ADD currency text, ADD CHECK ((amount IS NULL) = (currency IS NULL)); "
          "UPDATE orders SET currency = upper(currency)")  # fmt: skip
    two(project, setup, up, "UPDATE orders SET seen = seen + 1; ALTER TABLE orders DROP amount, DROP currency")
    empty.rows("UPDATE orders SET amount = 5, currency = 'EUR'")

    down_and_up(project, empty, "UPDATE orders SET seen = 9 WHERE id = 1")

    assert empty.rows("SELECT id, amount, currency FROM orders ORDER BY id") == [(1, 5, "EUR"), (2, 5, "EUR")]


PREFS = "CREATE TABLE prefs (user_id int REFERENCES users, kind text, v text, PRIMARY KEY (user_id, kind))"


def test_rows_of_a_corrected_revision_stay_with_everybody(empty: Database, project: Project) -> None:
    """It makes rows that it had not made then; one user was written to, and all of them have those."""
    setup = "CREATE TABLE users (id int PRIMARY KEY, mail text, phone text); "
    setup += "INSERT INTO users VALUES (1, 'a', '1'), (2, 'b', '2')"
    first = [PREFS, "INSERT INTO prefs SELECT id, 'mail', mail FROM users", "ALTER TABLE users DROP mail"]
    down = (
        "ALTER TABLE users ADD mail text; UPDATE users SET mail = v FROM prefs WHERE user_id = id AND kind = 'mail'; "
        "DROP TABLE prefs"
    )
    two(project, setup, "", down, ups=body(first))
    project.downgrade("-1")
    empty.rows("UPDATE users SET mail = 'newer' WHERE id = 1")
    then = [*first[:2], "INSERT INTO prefs SELECT id, 'sms', phone FROM users", first[2]]
    project.revision("002", "alter_things", body(then), sql(down))

    project.upgrade()

    assert empty.rows("SELECT * FROM prefs ORDER BY 1, 2") == [
        (1, "mail", "newer"), (1, "sms", "1"), (2, "mail", "b"), (2, "sms", "2"),
    ]  # fmt: skip


def test_rows_that_people_have_put_into_a_table_of_their_own_stay(empty: Database, project: Project) -> None:
    """Somebody has made the table again by himself: nothing that stands there is overwritten."""
    setup = f"{USERS}; ALTER TABLE users ADD email text; UPDATE users SET email = name || '@x'"
    made = "CREATE TABLE IF NOT EXISTS emails (id serial PRIMARY KEY, user_id int REFERENCES users, address text)"
    ups = [made, "INSERT INTO emails (user_id, address) SELECT id, email FROM users"]
    down = "UPDATE users SET email = e.address FROM emails e WHERE e.user_id = users.id; DROP TABLE emails"
    two(project, setup, "", down, ups=body(ups))
    own = f"{made}; INSERT INTO emails (user_id, address) VALUES (2, 'own@x')"

    down_and_up(project, empty, f"{own}; UPDATE users SET email = 'new@x' WHERE id = 1")

    there = empty.rows("SELECT user_id, address FROM emails")
    assert {(2, "own@x"), (1, "new@x")} <= set(there)


KEYS = ["friend_id int REFERENCES users, user_id int REFERENCES users",
        "user_id int REFERENCES users, friend_id int REFERENCES users"]  # fmt: skip


@pytest.mark.parametrize("order", KEYS)
def test_a_row_is_newer_by_any_of_two_keys(empty: Database, project: Project, order: str) -> None:
    """Friends of whom one was chosen anew: that one is there, whoever is asked first."""
    setup = f"{USERS}; ALTER TABLE users ADD best int; UPDATE users SET best = mod(id, 3) + 1"
    ups = [f"CREATE TABLE friends (id serial PRIMARY KEY, {order})",
           "INSERT INTO friends (user_id, friend_id) SELECT id, best FROM users ORDER BY id",
           "ALTER TABLE users DROP best"]  # fmt: skip
    down = (
        "ALTER TABLE users ADD best int; UPDATE users SET best = f.friend_id FROM friends f WHERE f.user_id = users.id; "
        "DROP TABLE friends"
    )
    two(project, setup, "", down, ups=body(ups))

    down_and_up(project, empty, "UPDATE users SET best = 3 WHERE id = 1")

    assert empty.rows("SELECT user_id, friend_id FROM friends ORDER BY 1, 2") == [(1, 3), (2, 3), (3, 1)]


MAILS = ["CREATE TABLE emails (id {key}, user_id int NOT NULL REFERENCES users, address text)",
         "INSERT INTO emails (user_id, address) SELECT id, email FROM users ORDER BY id",
         "ALTER TABLE users DROP email"]  # fmt: skip
MAILS_BACK = (
    "ALTER TABLE users ADD email text; UPDATE users SET email = e.address FROM emails e WHERE e.user_id = users.id; "
    "DROP TABLE emails"
)


@pytest.mark.parametrize("log", ["", "CASCADE", "SET NULL", "RESTRICT"])
@pytest.mark.parametrize("key", ["serial PRIMARY KEY", "uuid PRIMARY KEY DEFAULT gen_random_uuid()"])
def test_who_was_written_to_has_the_newer_row_and_nobody_two(
    empty: Database, project: Project, key: str, log: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The kept one stays in the stash, told; and so it is with everybody, where the body has made what refers to some."""
    ups = [one.format(key=key) for one in MAILS]
    down = MAILS_BACK
    if log:
        type_ = "int" if key.startswith("serial") else "uuid"
        ups.append(f"CREATE TABLE email_log (email_id {type_} REFERENCES emails ON DELETE {log}, n int)")
        down = f"DROP TABLE email_log; {down}"
    two(project, f"{USERS}; ALTER TABLE users ADD email text; UPDATE users SET email = name || '@x'", "", down,
        ups=body(ups))  # fmt: skip
    had = dict(empty.rows("SELECT id::text, user_id FROM emails"))

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, "UPDATE users SET email = 'new@x' WHERE id = 1")

    there = empty.rows("SELECT user_id, address FROM emails ORDER BY 1, 2")
    if log:  # what referred to it must not be lost: both are there, and that is told
        assert there == [(1, "a@x"), (1, "new@x"), (2, "b@x"), (3, "c@x")]
        assert "look at" in caplog.text
        return
    assert there == [(1, "new@x"), (2, "b@x"), (3, "c@x")]
    assert {had[id] for id, user in empty.rows("SELECT id::text, user_id FROM emails WHERE user_id > 1")} == {2, 3}
    assert "whom they belong to has newer ones" in caplog.text
    stash = empty.value("SELECT max(id) FROM migration.stash")
    assert empty.rows(f"SELECT address FROM migration_stash_{stash}.emails WHERE user_id = 1") == [("a@x",)]


KINDS = [
    ("mood", "'sad'", "int"), ("plain", "7", "int"), ("inet", "'::1'", "int"), ("mood", "'sad'", "text"), ("int", "7", "inet"),
    ("mood", "'sad'", "other"), ("int", "7", "plain"), ("int", "7", "mood"),
    ("mood", "'sad'", "interval"), ("plain", "7", "bigint"), ("int[]", "'{7}'", "bigint[]"),
]  # fmt: skip


@pytest.mark.parametrize("where", ["a column", "a table", "changed rows"])
@pytest.mark.parametrize(("was", "value", "now"), KINDS)
def test_a_corrected_column_of_another_kind_bars_no_way_up(
    empty: Database, project: Project, where: str, was: str, value: str, now: str
) -> None:
    """What its type reads goes in; else it stays in the stash, and all else goes in."""
    types = "CREATE TYPE mood AS ENUM ('sad'); CREATE TYPE other AS ENUM ('sad', 'glad'); CREATE DOMAIN plain AS int"
    setup, up, gone = f"{USERS}; {types}", f"ALTER TABLE users ADD score {was}", "ALTER TABLE users DROP score"
    then = f"ALTER TABLE users ADD score {now}"
    if where == "a table":
        up, gone = f"CREATE TABLE scores (id int PRIMARY KEY, score {was}, n int)", "DROP TABLE scores"
        then = f"CREATE TABLE scores (id int PRIMARY KEY, score {now}, n int)"
    if where == "changed rows":
        gone = f"UPDATE users SET name = 'x'; {gone}"
    two(project, setup, up, gone)
    table = "scores" if where == "a table" else "users"
    empty.rows(
        f"INSERT INTO scores VALUES (1, {value}, 5)" if where == "a table" else f"UPDATE users SET score = {value}"
    )
    project.downgrade("-1")
    project.revision("002", "alter_things", sql(then), sql(gone))

    project.upgrade()

    rows = empty.value(f"SELECT count(*) FROM {table} WHERE score IS NOT NULL")
    kept = empty.value("SELECT count(*) FROM migration.stash WHERE state = 'partly restored'")
    reads = now in ("text", "other", "plain", "bigint[]")
    assert (rows, kept) == ((1 if where == "a table" else 3, 0) if reads else (0, 1))
    if now == "mood":  # it could read some numbers' text, and not this one's: then the row stays out whole
        return
    if where == "a table":
        assert empty.rows("SELECT id, n FROM scores") == [(1, 5)]
    if where == "changed rows":
        assert empty.rows("SELECT name FROM users ORDER BY id") == [("a",), ("b",), ("c",)]


def test_what_others_write_between_two_transactions_is_no_default(empty: Database, project: Project) -> None:
    """Somebody sets the very value that the column was added with, when the body has made an index."""
    other = [
        "with op.get_context().autocommit_block():",
        "    op.execute('CREATE INDEX CONCURRENTLY i ON users (locale)')",
        "import sqlalchemy",
        "engine = sqlalchemy.create_engine(op.get_bind().engine.url)",
        "with engine.begin() as other:",
        "    other.exec_driver_sql(\"UPDATE users SET locale = 'en' WHERE id = 1\")",
        "engine.dispose()",
    ]
    ups = [sql("ALTER TABLE users ADD locale text DEFAULT 'en'"), "\n".join(other)]
    committing(project, USERS, ups, "DROP INDEX i; UPDATE users SET name = name || '!'; ALTER TABLE users DROP locale")
    empty.rows("UPDATE users SET locale = 'de'")

    down_and_up(project, empty, "UPDATE users SET name = 'z' WHERE id < 3")

    assert empty.rows("SELECT id, locale FROM users ORDER BY id") == [(1, "en"), (2, "de"), (3, "de")]


def test_what_people_had_deleted_is_not_made_anew_for_others(empty: Database, project: Project) -> None:
    """A user without a mail has none afterwards, though another one was written to."""
    ups = body([one.format(key="serial PRIMARY KEY") for one in MAILS])
    two(
        project,
        f"{USERS}; ALTER TABLE users ADD email text; UPDATE users SET email = name || '@x'",
        "",
        MAILS_BACK,
        ups=ups,
    )
    empty.rows("DELETE FROM emails WHERE user_id = 2")

    down_and_up(project, empty, "UPDATE users SET email = 'new@x' WHERE id = 1")

    assert empty.rows("SELECT user_id, address FROM emails ORDER BY 1") == [(1, "new@x"), (3, "c@x")]


@pytest.mark.parametrize("action", ["", "ON DELETE CASCADE", "ON DELETE SET NULL"])
def test_a_tree_of_each_that_nobody_has_written_to(empty: Database, project: Project, action: str) -> None:
    """Two nodes for each, renamed by people: they are there once, whatever their own key does."""
    ups = [
        "CREATE TABLE node (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id int REFERENCES users, "
        f"parent uuid REFERENCES node {action}, t text)",
        "INSERT INTO node (user_id, t) SELECT id, t FROM users",
        "INSERT INTO node (user_id, parent, t) SELECT user_id, id, t || '/child' FROM node",
    ]
    down = "UPDATE users SET t = node.t FROM node WHERE user_id = users.id AND parent IS NULL; DROP TABLE node"
    two(project, f"{USERS}; ALTER TABLE users ADD t text; UPDATE users SET t = name", "", down, ups=body(ups))
    empty.rows(
        "UPDATE node SET t = 'renamed ' || t WHERE user_id = 2; UPDATE node SET t = t || '!' WHERE parent IS NOT NULL"
    )
    asked = "SELECT * FROM node WHERE user_id > 1 ORDER BY id"
    had = empty.rows(asked)

    down_and_up(project, empty, "UPDATE users SET name = 'z' WHERE id = 1")

    assert empty.rows(asked) == had


def test_an_empty_value_takes_its_kept_one(empty: Database, project: Project) -> None:
    """The column has no default, and the body moves only what there is: an empty value takes its kept one."""
    ups = [
        "ALTER TABLE users ADD locale text",
        "UPDATE users SET locale = lang WHERE lang IS NOT NULL",
        "ALTER TABLE users DROP lang",
    ]
    two(
        project,
        f"{USERS}; ALTER TABLE users ADD lang text; UPDATE users SET lang = 'de'",
        "",
        MOVED_BACK,
        ups=body(ups),
    )

    down_and_up(project, empty, "UPDATE users SET lang = NULL WHERE id = 1")

    assert empty.rows("SELECT id, locale FROM users ORDER BY id") == [(1, "de"), (2, "de"), (3, "de")]


NEW = {"a text": ("tag text", None, "kept"), "a default": ("tag text NOT NULL DEFAULT 'x'", "x", "kept"),
       "a number": ("tag int NOT NULL DEFAULT 5", 5, 9)}  # fmt: skip


@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("new", NEW)
def test_a_new_column_is_back_though_another_was_moved(
    empty: Database, project: Project, new: str, first: bool
) -> None:
    """One column holds what was moved there; the other comes back, but not beside a newer value: the two never were together."""
    column, default, kept = NEW[new]
    ups = ["ALTER TABLE users ADD locale text", "UPDATE users SET locale = lang", "ALTER TABLE users DROP lang"]
    ups.insert(0 if first else 3, f"ALTER TABLE users ADD {column}")
    down = MOVED_BACK.replace("DROP locale", "DROP locale, DROP tag")
    two(
        project,
        f"{USERS}; ALTER TABLE users ADD lang text, ADD seen int; UPDATE users SET lang = 'de'",
        "",
        down,
        ups=body(ups),
    )
    empty.rows(f"UPDATE users SET tag = '{kept}'")

    down_and_up(project, empty, "UPDATE users SET seen = 1 WHERE id = 1; UPDATE users SET lang = 'fr' WHERE id = 2")

    assert empty.rows("SELECT id, locale, tag FROM users ORDER BY id") == [
        (1, "de", kept),
        (2, "fr", default),
        (3, "de", kept),
    ]


def test_what_the_guard_has_put_back_itself_is_not_set_aside(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """Two columns by two statements: the first is back before the second is there, and nothing was replaced."""
    ups = ["ALTER TABLE users ADD prio int NOT NULL DEFAULT 5", "ALTER TABLE users ADD tag text"]
    two(project, USERS, "", "UPDATE users SET name = name || '!'; ALTER TABLE users DROP prio, DROP tag", ups=body(ups))
    empty.rows("UPDATE users SET prio = 9, tag = 'kept'")

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, "UPDATE users SET name = 'z' WHERE id = 1")

    assert empty.rows("SELECT prio, tag FROM users ORDER BY id") == [(9, "kept")] * 3
    assert "replaced" not in caplog.text


@pytest.mark.parametrize("now", ["text", "varchar(20)"])
@pytest.mark.parametrize("was", ["code", "mood"])
def test_a_key_of_ones_own_type_that_is_text_by_now(empty: Database, project: Project, was: str, now: str) -> None:
    """The copy is text, and so is the corrected key: all rows are back."""
    setup = "CREATE DOMAIN code AS text; CREATE TYPE mood AS ENUM ('sad', 'glad')"
    two(project, setup, f"CREATE TABLE t (id {was} PRIMARY KEY, n int)", "DROP TABLE t")
    empty.rows("INSERT INTO t VALUES ('sad', 1), ('glad', 2)")
    project.downgrade("-1")
    project.revision("002", "alter_things", sql(f"CREATE TABLE t (id {now} PRIMARY KEY, n int)"), sql("DROP TABLE t"))

    project.upgrade()

    assert empty.rows("SELECT id, n FROM t ORDER BY n") == [("sad", 1), ("glad", 2)]


def test_a_long_text_is_read_once(empty: Database, project: Project) -> None:
    """A file in a statement is one long word: looking for functions in it takes no longer than sending it."""
    ups = [
        "ALTER TABLE users ADD locale text DEFAULT 'en', ADD file bytea",
        f"UPDATE users SET file = '\\x{'61' * 100_000}'",
    ]
    setup = f"{USERS}; CREATE FUNCTION somebodys() RETURNS int LANGUAGE sql AS 'SELECT 1'"
    two(
        project,
        setup,
        "",
        "UPDATE users SET name = name || '!'; ALTER TABLE users DROP locale, DROP file",
        ups=body(ups),
    )
    empty.rows("UPDATE users SET locale = 'de'")

    down_and_up(project, empty, "UPDATE users SET name = 'z' WHERE id = 1")

    assert empty.rows("SELECT locale, length(file) FROM users WHERE id > 1") == [("de", 100_000)] * 2
