"""Backup before downgrade: what a step destroys is copied first, whole, in the same transaction."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg2
import pytest

from mcp_planner_schema.guard import stash
from mcp_planner_schema.guard.findings import Broken, GuardError, Refused
from tests.catalog import catalog, difference, kept
from tests.conftest import Database, Project, some
from tests.until import until

NASTY = 'a "b" c\'d %s :e \\f $g$ Ж'
QUOTED = '"' + NASTY.replace('"', '""') + '"'


def applied(project: Project, setup: str, downgrade: str, *, reversible: str = "stash", **more: str) -> None:
    """A history of one revision: applied, with this SQL as its upgrade and this Python as its downgrade."""
    upgrade = sql(setup)
    project.revision("001", "create_things", upgrade, downgrade, reversible=reversible, **more)
    project.upgrade()


def sql(text: str) -> str:
    """A body that runs this text as it is."""
    return f"op.get_bind().exec_driver_sql({text!r}, execution_options={{'no_parameters': True}})"


def shown(database: Database, relation: str, columns: str = "*") -> list[str]:
    """The rows of a table as text, sorted: what must be the same in original and copy."""
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET DateStyle = 'ISO, YMD'; SET TimeZone = 'UTC'; SET extra_float_digits = 1")
        cursor.execute(f"SELECT {columns} FROM {relation} LIMIT 0")
        shapes = (
            f"CASE num_nonnulls({name}) WHEN 1 THEN format('%s', {name}) END"
            for name in ('x."' + one.name.replace('"', '""') + '"' for one in cursor.description)
        )
        cursor.execute(f"SELECT ROW({', '.join(shapes)})::text FROM {relation} AS x")
        return sorted(row[0] for row in cursor.fetchall())


TABLE_A = "CREATE TABLE a (id int PRIMARY KEY, v text, w int); INSERT INTO a SELECT n, 'v' || n, n FROM generate_series(1, 5) n"
LOSSES = {
    "op.drop_table": (TABLE_A, 'op.drop_table("a")', {"a": "*"}),
    "op.drop_column": (TABLE_A, 'op.drop_column("a", "v")', {"a": "id, v"}),
    "two columns": (TABLE_A, sql("ALTER TABLE a DROP w, DROP v"), {"a": "id, v, w"}),
    "column dropped and added": (TABLE_A, sql("ALTER TABLE a DROP v, ADD v text"), {"a": "id, v"}),
    "renamed, then dropped": (TABLE_A, sql("ALTER TABLE a RENAME TO b; DROP TABLE b"), {"a": "*"}),
    "dropped and created": (TABLE_A, sql("DROP TABLE a; CREATE TABLE a (id int PRIMARY KEY, v text, w int)"), {"a": "*"}),
    "emptied, then dropped": (TABLE_A, sql("DELETE FROM a; TRUNCATE a; DROP TABLE a"), {"a": "*"}),
    "hidden in the guard's schema": (TABLE_A, sql("ALTER TABLE a SET SCHEMA migration"), {"a": "*"}),
    "DO block": (TABLE_A, sql("DO $$ BEGIN EXECUTE 'DROP ' || 'TABLE a'; END $$"), {"a": "*"}),
    "function": (
        TABLE_A + "; CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP TABLE a; END $$",
        sql("SELECT f()"), {"a": "*"},
    ),
    "in a savepoint of the body": (TABLE_A, 'with op.get_bind().begin_nested():\n    op.drop_table("a")', {"a": "*"}),
    "cascade over foreign keys and views": (
        TABLE_A + "; CREATE TABLE b (a int REFERENCES a); INSERT INTO b VALUES (1); CREATE VIEW va AS SELECT * FROM a",
        sql("DROP TABLE a CASCADE"), {"a": "*"},
    ),
    "schema": (
        "CREATE SCHEMA app; CREATE TABLE app.a (id int); CREATE TABLE app.b (t text); INSERT INTO app.a VALUES (1); "
        "INSERT INTO app.b VALUES ('x'), (NULL)",
        sql("DROP SCHEMA app CASCADE"), {"app.a": "*", "app.b": "*"},
    ),
    "partitioned table": (
        "CREATE TABLE p (id int, at date) PARTITION BY RANGE (at); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM "
        "('2026-01-01') TO ('2026-02-01') ; CREATE TABLE p2 PARTITION OF p DEFAULT PARTITION BY LIST (id); CREATE TABLE p21 "
        "PARTITION OF p2 DEFAULT; INSERT INTO p VALUES (1, '2026-01-05'), (2, '2027-01-01')",
        'op.drop_table("p")', {"p": "*"},
    ),
    "one partition": (
        "CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 "
        "PARTITION OF p DEFAULT; INSERT INTO p VALUES (1), (2)",
        'op.drop_table("p1")', {"p1": "*"},
    ),
    "partition in the middle": (
        "CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT PARTITION BY LIST (id); "
        "CREATE TABLE p11 PARTITION OF p1 DEFAULT; INSERT INTO p VALUES (1), (2)",
        'op.drop_table("p1")', {"p1": "*"},
    ),
    "column of a partitioned table": (
        "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT; "
        "INSERT INTO p VALUES (1, 'x')",
        'op.drop_column("p", "v")', {"p": "*"},
    ),
    "column of a detached partition": (
        "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT; "
        "INSERT INTO p VALUES (1, 'x')",
        sql("ALTER TABLE p DETACH PARTITION p1; ALTER TABLE p1 DROP v"), {"p1": "*"},
    ),
    "detached partition dropped": (
        "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT; "
        "INSERT INTO p VALUES (1, 'x')",
        sql("ALTER TABLE p DETACH PARTITION p1; DROP TABLE p1; ALTER TABLE p DROP v"), {"p": "*", "p1": "*"},
    ),
    "inheritance child": (
        "CREATE TABLE i (id int); CREATE TABLE i1 (x int) INHERITS (i); INSERT INTO i VALUES (1); INSERT INTO i1 VALUES (2, 3)",
        'op.drop_table("i1")', {"i1": "*"},
    ),
    "inheritance parent": (
        "CREATE TABLE i (id int); CREATE TABLE i1 (x int) INHERITS (i); INSERT INTO i VALUES (1); INSERT INTO i1 VALUES (2, 3)",
        sql("DROP TABLE i CASCADE"), {"ONLY i": "*", "i1": "*"},
    ),
    "inherited column": (
        "CREATE TABLE i (id int PRIMARY KEY, v text); CREATE TABLE i1 (PRIMARY KEY (id)) INHERITS (i); "
        "INSERT INTO i VALUES (1, 'x'); INSERT INTO i1 VALUES (2, 'y')",
        'op.drop_column("i", "v")', {"ONLY i": "*", "i1": "*"},
    ),
    "composite key": (
        "CREATE TABLE k (b int, c text, a int, v text, PRIMARY KEY (a, b) INCLUDE (c)); INSERT INTO k VALUES (1, 'c', 2, 'v')",
        'op.drop_column("k", "v")', {"k": "b, a, v"},
    ),
    "key column": (TABLE_A, 'op.drop_column("a", "id")', {"a": "*"}),
    "keyless and empty": ("CREATE TABLE l (a int, b int)", 'op.drop_column("l", "b")', {"l": "*"}),
    "keyless, dropped whole": ("CREATE TABLE l (a int); INSERT INTO l VALUES (1), (1)", 'op.drop_table("l")', {"l": "*"}),
    "user types, then dropped themselves": (
        "CREATE TYPE mood AS ENUM ('sad', 'so so'); CREATE DOMAIN d AS timestamptz; CREATE DOMAIN f AS float8; CREATE TYPE c "
        "AS (x float8, y text); CREATE TYPE r AS RANGE (subtype = mood); CREATE TABLE t (id mood PRIMARY KEY, m mood[], d d, "
        "f f, c c, r r, n int); INSERT INTO t VALUES ('so so', '{sad,NULL,\"so so\"}', '2026-02-03 04:05:06.789+02', 0.1::float8 "
        "+ 0.2, (1e-300, 'a,\"b\"'), '[sad,sad]', 1), ('sad', NULL, 'infinity', 'NaN', NULL, 'empty', 2)",
        sql("DROP TABLE t; DROP TYPE mood CASCADE; DROP DOMAIN d CASCADE; DROP DOMAIN f CASCADE; DROP TYPE c CASCADE"),
        {"t": "*"},
    ),
    "column through its type": (
        "CREATE TYPE mood AS ENUM ('sad', 'so so'); CREATE TABLE t (id int PRIMARY KEY, m mood, n int); "
        "INSERT INTO t VALUES (1, 'sad', 1), (2, 'so so', 2)",
        sql("DROP TYPE mood CASCADE"), {"t": "id, m"},
    ),
    "row type of another table": (
        "CREATE TABLE t (id int, n text); CREATE TABLE u (id int PRIMARY KEY, x t, y t[]); "
        "INSERT INTO u VALUES (1, (1, 'a b'), ARRAY[(2, NULL)::t])",
        sql("DROP TABLE t CASCADE"), {"t": "*", "u": "*"},
    ),
    "collation, then dropped itself": (
        "CREATE COLLATION own (locale = 'C'); CREATE TABLE t (id int PRIMARY KEY, a text COLLATE own, b varchar(5) COLLATE own, "
        "c char(4) COLLATE own); INSERT INTO t VALUES (1, 'x', 'y', 'z')",
        sql("DROP TABLE t; DROP COLLATION own CASCADE"), {"t": "*"},
    ),
    "generated and identity": (
        "CREATE TABLE g (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED, "
        "s serial); INSERT INTO g (a) VALUES (1), (NULL)",
        'op.drop_table("g")', {"g": "*"},
    ),
    "generated column": (
        "CREATE TABLE g (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED); INSERT INTO g VALUES (1, 2)",
        'op.drop_column("g", "b")', {"g": "id, b"},
    ),
    "nasty names": (
        f"CREATE SCHEMA {QUOTED}; CREATE TABLE {QUOTED}.{QUOTED} ({QUOTED} int PRIMARY KEY, v text); "
        f"INSERT INTO {QUOTED}.{QUOTED} VALUES (1, '%s')",
        sql(f"DROP TABLE {QUOTED}.{QUOTED}"), {f"{QUOTED}.{QUOTED}": "*"},
    ),
    "63 bytes and keywords": (
        f'CREATE TABLE "{"ä" * 31}x" ("select" int PRIMARY KEY, "user" text, "{"ö" * 31}y" int); '
        f'INSERT INTO "{"ä" * 31}x" VALUES (1, \'a\', 2)',
        sql(f'ALTER TABLE "{"ä" * 31}x" DROP "user", DROP "{"ö" * 31}y"'), {f'"{"ä" * 31}x"': "*"},
    ),
    "odd values": (
        "CREATE TABLE o (id int PRIMARY KEY, b bytea, j json, jb jsonb, a int[], n numeric, f float4, i interval, h bit(3)); "
        "INSERT INTO o VALUES (1, decode(repeat('00ff', 50000), 'hex'), '{\"a\": 1, \"a\": 2}', '{\"a\": 1}', '[0:1]={1,2}', "
        "'NaN', '-0', '-1 mon +2 days', B'101'), (2, '', NULL, NULL, '{}', 1.10, 'infinity', '0', NULL)",
        'op.drop_table("o")', {"o": "*"},
    ),
    "large values": (
        "CREATE TABLE o (id int PRIMARY KEY, t text); ALTER TABLE o ALTER t SET STORAGE EXTERNAL; "
        "INSERT INTO o SELECT n, repeat(md5(n::text), 30000) FROM generate_series(1, 5) n",
        'op.drop_column("o", "t")', {"o": "*"},
    ),
    "no rows": ("CREATE TABLE n (id int)", 'op.drop_table("n")', {"n": "*"}),
    "unlogged": ("CREATE UNLOGGED TABLE n (id int); INSERT INTO n VALUES (1)", 'op.drop_table("n")', {"n": "*"}),
    "only what holds rows of its own": (
        TABLE_A + "; CREATE MATERIALIZED VIEW m AS SELECT * FROM a; CREATE VIEW v AS SELECT * FROM a; CREATE SEQUENCE s; "
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER z FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE f (a int) SERVER z; "
        "CREATE TYPE ty AS (a int); CREATE INDEX a_v ON a (v)",
        sql("DROP MATERIALIZED VIEW m; DROP VIEW v; DROP FOREIGN TABLE f; DROP SEQUENCE s; DROP TYPE ty; DROP INDEX a_v; "
            "CREATE TEMP TABLE t (a int); DROP TABLE t"), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", some(LOSSES))
def test_what_a_downgrade_drops_is_kept_first(empty: Database, project: Project, case: str) -> None:
    """Whatever way a table or column goes, the manifest names it and its copy holds the same rows."""
    setup, downgrade, lost = LOSSES[case]
    applied(project, setup, downgrade)
    before = [shown(empty, relation, columns) for relation, columns in lost.items()]

    project.downgrade("base")

    copies = kept(empty)
    counts = empty.rows("SELECT row_count FROM migration.stash_object WHERE relation IS NOT NULL ORDER BY number")
    assert [count for (count,) in counts] == [len(rows) for rows in before]
    assert [shown(empty, place) for place in copies.values()] == before


def test_the_manifest_tells_what_is_where(empty: Database, project: Project) -> None:
    """A manifest row names run, revision, object, columns with their types and schemas, key and person."""
    applied(
        project,
        "CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('sad'); CREATE TYPE mood AS ENUM ('x'); CREATE TABLE app.t "
        "(id bigint PRIMARY KEY, m app.mood, n mood[], v varchar(7)); INSERT INTO app.t VALUES (1, 'sad', '{x}', 'v')",
        sql("ALTER TABLE app.t DROP m, DROP n, DROP v"),
    )

    project.downgrade("base")

    assert empty.rows(
        "SELECT s.run_id = r.id, s.revision, s.state, s.who = r.who, s.keep_until - s.kept_at > interval '89 days', "
        "s.kept_in, number, kind, object_schema, object_name, relation, key_columns, columns, types, lost_columns, row_count "
        "FROM migration.stash s JOIN migration.stash_object o ON o.stash_id = s.id "
        "JOIN migration.run r ON r.from_heads = '{001}'"
    ) == [
        (True, "001", "kept", True, True, "migration_stash_1", 1, "columns", "app", "t", "t", ["id"], ["id", "m", "n", "v"],
         ["bigint", "app.mood", "public.mood[]", "character varying(7)"], ["m", "n", "v"], 1),
    ]  # fmt: skip


def test_keyless_rows_are_refused(empty: Database, project: Project) -> None:
    """A column of a table with rows and no primary key could never be put back: refused, and nothing was changed."""
    applied(project, "CREATE TABLE l (a int, b int); INSERT INTO l VALUES (1, 2)", 'op.drop_column("l", "b")')
    before = catalog(empty)

    with pytest.raises(Refused) as refused:
        project.downgrade("base")

    assert [one.code for one in refused.value.findings] == ["stash-keyless"]
    assert 'ALTER TABLE "public"."l" ADD PRIMARY KEY' in refused.value.next_command
    assert difference(before, catalog(empty)) == []
    assert empty.rows("SELECT * FROM migration.stash") == []


def test_merging_back_keeps_both(empty: Database, project: Project) -> None:
    """A downgrade that reads a table, writes its values elsewhere and drops it finds its rows; both tables' old rows are kept."""
    applied(
        project,
        "CREATE TABLE users (id int PRIMARY KEY, email text); INSERT INTO users VALUES (1), (2); "
        "CREATE TABLE emails (id int PRIMARY KEY, email text); INSERT INTO emails VALUES (1, 'a@b'), (2, 'c@d')",
        sql("UPDATE users u SET email = e.email FROM emails e WHERE e.id = u.id; DROP TABLE emails"),
    )

    project.downgrade("base")

    assert empty.rows("SELECT * FROM users ORDER BY id") == [(1, "a@b"), (2, "c@d")]
    copies = kept(empty)
    assert empty.rows(f"SELECT id, email FROM {copies['users']} ORDER BY id") == [(1, None), (2, None)]
    assert empty.rows(f"SELECT * FROM {copies['emails']} ORDER BY id") == [(1, "a@b"), (2, "c@d")]


def test_the_copy_depends_on_no_setting_and_changes_none(empty: Database, project: Project) -> None:
    """Under a role's odd output settings the copy is exact all the same, and the body sees those settings, not the copy's."""
    for setting in ("DateStyle = 'SQL, DMY'", "TimeZone = 'Asia/Tokyo'", "extra_float_digits = -10"):
        empty.rows(f"ALTER ROLE postgres IN DATABASE {empty.name} SET {setting}")
    applied(
        project,
        "CREATE DOMAIN f AS float8; CREATE DOMAIN d AS timestamptz; CREATE TABLE t (id int PRIMARY KEY, f f, d d); "
        "INSERT INTO t VALUES (1, 0.1::float8 + 0.2, '2026-02-03 04:05:06+00'); CREATE TABLE seen (at text)",
        sql("INSERT INTO seen SELECT concat_ws(' ', f, d, current_setting('row_security')) FROM t; DROP TABLE t"),
    )

    project.downgrade("base")

    assert empty.rows(f"SELECT f, d FROM {kept(empty)['t']}") == [("0.30000000000000004", "2026-02-03 04:05:06+00")]
    # psycopg2 itself asks for the ISO style.
    assert empty.rows("SELECT at FROM seen") == [("0.3 2026-02-03 13:05:06+09 on",)]


@pytest.mark.parametrize("cast", ["", "AS ASSIGNMENT", "AS IMPLICIT"])
def test_a_cast_of_somebodys_own_is_never_used(empty: Database, project: Project, cast: str) -> None:
    """Enums, composites, domains and arrays are kept as their types write them, whatever a cast to text would say."""
    lie = (
        "CREATE FUNCTION lie({0}) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO ran VALUES (1); RETURN 'lie'; END $$; "
        f"CREATE CAST ({{0}} AS text) WITH FUNCTION lie({{0}}) {cast}; "
    )
    applied(
        project,
        "CREATE TABLE ran (n int); CREATE TYPE mood AS ENUM ('sad', '100%s'); CREATE TYPE pair AS (m mood, t text); "
        "CREATE DOMAIN small AS varchar(9); CREATE DOMAIN feel AS mood; CREATE TABLE t (id int PRIMARY KEY, m mood, p pair, "
        "s small, ms mood[], ps pair[], f feel, \"%s%\" mood); INSERT INTO t VALUES (1, '100%s', (NULL, NULL), '', '{sad,NULL}', "
        "ARRAY[('sad', 'a b')::pair], 'sad', 'sad'), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL), "
        "(3, 'sad', ('sad', NULL), 'x', '{}', '{}', 'sad', NULL); "
        + "".join(map(lie.format, ("mood", "pair", "mood[]", "pair[]"))),
        sql("DROP TABLE t"),
    )

    project.downgrade("base")

    assert empty.rows(f"SELECT * FROM {kept(empty)['t']} ORDER BY id") == [
        (1, "100%s", "(,)", "", "{sad,NULL}", '{"(sad,\\"a b\\")"}', "sad", "sad"),
        (2, None, None, None, None, None, None, None),
        (3, "sad", "(sad,)", "x", "{}", "{}", "sad", None),
    ]
    assert empty.rows("SELECT * FROM ran") == []


def test_a_copy_is_closed_whatever_default_privileges_say(empty: Database, project: Project) -> None:
    """Who was kept from the table is kept from its copy, though default privileges would open every new table."""
    roles = [f'"r {uuid.uuid4().hex[:8]}"' for _ in range(2)]
    for role in roles:
        empty.rows(f"CREATE ROLE {role}")
    try:
        for whom in (*roles, "PUBLIC"):
            empty.rows(f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {whom}")
            empty.rows(f"ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO {whom}")
        empty.rows(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {roles[0]} WITH GRANT OPTION")
        applied(project, TABLE_A + "; REVOKE ALL ON a FROM PUBLIC, " + ", ".join(roles), 'op.drop_table("a")')

        project.downgrade("base")

        place = kept(empty)["a"]
        assert empty.rows(
            "SELECT x.grantee::regrole::text FROM pg_class, aclexplode(relacl) x "
            "WHERE oid = %s::regclass AND x.grantee <> relowner UNION ALL "
            "SELECT x.grantee::regrole::text FROM pg_namespace, aclexplode(nspacl) x "
            "WHERE nspname = 'migration_stash_1' AND x.grantee <> nspowner",
            place,
        ) == []  # fmt: skip
        assert empty.value("SELECT has_table_privilege('postgres', %s, 'SELECT')", place) is True
    finally:
        for role in roles:
            empty.rows(f"DROP OWNED BY {role}")
            empty.rows(f"DROP ROLE {role}")


@pytest.fixture
def owner(empty: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The database as its owner sees it, a role that is no superuser and named by DATABASE_URL."""
    role = f"owner_{uuid.uuid4().hex[:8]}"
    empty.rows(f"CREATE ROLE {role} LOGIN")
    empty.rows(f"ALTER DATABASE {empty.name} OWNER TO {role}")
    empty.rows(f"ALTER SCHEMA public OWNER TO {role}")
    owned = replace(empty, user=role)
    monkeypatch.setenv("DATABASE_URL", owned.url)
    yield owned
    empty.rows(f"REASSIGN OWNED BY {role} TO postgres")
    empty.rows(f"DROP OWNED BY {role}")
    empty.rows(f"DROP ROLE {role}")


@pytest.mark.parametrize("body", ['op.drop_table("t")', 'op.drop_column("t", "v")'])
@pytest.mark.parametrize("kind", ["", "PARTITION BY LIST (id)"])
def test_row_level_security_shortens_no_copy(owner: Database, project: Project, body: str, kind: str) -> None:
    """With FORCE ROW LEVEL SECURITY the owner sees one row of two; the copy has both, and the table's rule stands."""
    applied(
        project,
        f"CREATE TABLE t (id int PRIMARY KEY, v text) {kind}; "
        + ("CREATE TABLE t1 PARTITION OF t DEFAULT; " if kind else "")
        + "INSERT INTO t VALUES (1, 'mine'), (2, 'theirs'); ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; "
        "CREATE POLICY p ON t USING (id = 1)",
        body,
    )
    assert owner.value("SELECT count(*) FROM t") == 1

    project.downgrade("base")

    assert owner.rows(f"SELECT * FROM {kept(owner)['t']} ORDER BY id") == [(1, "mine"), (2, "theirs")]
    if "column" in body:
        assert owner.value("SELECT relforcerowsecurity FROM pg_class WHERE oid = 't'::regclass") is True


def test_a_table_of_somebody_else_is_refused(owner: Database, empty: Database, project: Project) -> None:
    """What the role may drop but not read whole is not destroyed: the step fails and nothing is lost."""
    applied(project, "CREATE SCHEMA app", sql("DROP SCHEMA app CASCADE"))
    empty.rows("CREATE TABLE app.t (id int); INSERT INTO app.t VALUES (1)")

    with pytest.raises(Broken, match="permission denied for table t"):
        project.downgrade("base")

    assert empty.rows("SELECT * FROM app.t") == [(1,)]
    assert empty.rows("SELECT * FROM migration.stash") == []


@pytest.mark.parametrize("policy", ["", "ALTER TABLE log ENABLE ROW LEVEL SECURITY; GRANT SELECT ON log TO PUBLIC"])
def test_a_log_of_somebody_else_is_left_alone(owner: Database, empty: Database, project: Project, policy: str) -> None:
    """A trigger writes with its owner's rights into a table that the migrating role may not read: that is no hindrance."""
    empty.rows("CREATE TABLE log (v text)")
    empty.rows(policy or "SELECT 1")
    empty.rows(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN "
        "INSERT INTO public.log VALUES (old.v); RETURN old; END $$"
    )
    trigger = "CREATE TRIGGER note BEFORE DELETE ON a FOR EACH ROW EXECUTE FUNCTION note()"
    applied(project, "CREATE TABLE b (id int)", sql("DELETE FROM a WHERE id < 3; DROP TABLE b"), reversible="stash")
    owner.rows(f"{TABLE_A}; {trigger}")
    before = shown(empty, "a")

    project.downgrade("base")
    project.upgrade()

    assert shown(empty, "a") == before
    assert empty.value("SELECT count(*) FROM log") == 2


def test_rows_committed_meanwhile_are_in_the_copy(empty: Database, project: Project) -> None:
    """A session that inserts all the time loses no row it has committed: each is in the copy."""
    applied(project, "CREATE TABLE t (id int PRIMARY KEY)", 'op.drop_table("t")')
    committed: list[int] = []
    many = threading.Event()

    def write() -> None:
        with empty.connect() as connection, connection.cursor() as cursor:
            while True:
                try:
                    cursor.execute("INSERT INTO t VALUES (%s)", (len(committed),))
                except psycopg2.errors.UndefinedTable:
                    return
                committed.append(len(committed))
                if len(committed) > 100:
                    many.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert many.wait(10)

    project.downgrade("base")
    writer.join(10)

    assert [row[0] for row in empty.rows(f"SELECT id FROM {kept(empty)['t']} ORDER BY id")] == committed


@pytest.mark.parametrize("body", ['op.drop_table("a")', 'op.drop_column("a", "v")'])
def test_readers_go_on_while_the_copy_is_made(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    """Before, during and after each copy a reader gets its rows at once, and a writer waits."""
    from mcp_planner_schema.guard import stash

    applied(project, TABLE_A, body)
    copy, seen = stash._copy, []

    def watched(*arguments: Any) -> Any:
        copied = None
        for part in ("before", "after"):
            with empty.connect() as other, other.cursor() as cursor:
                cursor.execute("SET lock_timeout = 100")
                cursor.execute("SELECT count(*) FROM a")
                seen.append((part, cursor.fetchone()[0]))
                with pytest.raises(psycopg2.errors.LockNotAvailable):
                    cursor.execute("INSERT INTO a VALUES (99)")
            copied = copy(*arguments) if part == "before" else copied
        return copied

    monkeypatch.setattr(stash, "_copy", watched)

    project.downgrade("base")

    assert seen == [("before", 5), ("after", 5)]
    assert empty.value(f"SELECT count(v) FROM {kept(empty)['a']}") == 5


def test_a_session_that_has_read_and_now_writes_is_no_end(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the copy's lock and the drop for its: one of the two gives way, the step is tried again, no row is lost."""
    from mcp_planner_schema.guard import stash

    project.configure(lock_attempts="50")
    applied(project, "CREATE TABLE t (id int PRIMARY KEY)", 'op.drop_table("t")')
    keep, read, began = stash.keep, threading.Event(), threading.Event()
    committed: list[int] = []

    def write() -> None:
        with empty.connect(autocommit=False) as connection, connection.cursor() as cursor:
            assert began.wait(10)
            cursor.execute("SELECT count(*) FROM t")
            read.set()
            try:
                cursor.execute("INSERT INTO t VALUES (1)")
                connection.commit()
                committed.append(1)
            except psycopg2.errors.DeadlockDetected:
                connection.rollback()

    writer = threading.Thread(target=write)
    attempts: list[int] = []

    def late(*arguments: Any) -> Any:
        made = keep(*arguments)
        attempts.append(1)
        began.set()
        assert read.wait(10)
        if len(attempts) == 1:  # the writer waits for the copy's lock by now
            until(
                lambda: empty.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 't'::regclass") == 1
            )
        return made

    monkeypatch.setattr(stash, "keep", late)
    writer.start()

    project.downgrade("base")
    writer.join(10)

    assert len(attempts) > 1 or not committed
    (place,) = kept(empty).values()
    assert [row[0] for row in empty.rows(f"SELECT id FROM {place}")] == committed


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_an_older_snapshot_is_refused(empty: Database, project: Project, level: str) -> None:
    """A transaction that does not see rows committed since it began could not copy them: refused, nothing changed."""
    applied(project, TABLE_A, 'op.drop_table("a")')
    empty.rows(f"ALTER DATABASE {empty.name} SET default_transaction_isolation = '{level}'")

    try:
        project.downgrade("base")
    except Refused as refused:
        assert level in refused.message
        assert empty.value("SELECT count(*) FROM a") == 5
    else:
        # The guard's own connections may ask for read committed themselves; then the copy is whole.
        assert empty.value(f"SELECT count(*) FROM {kept(empty)['a']}") == 5


TWICE = "runs = []"
IN_STASH = (
    'place = op.get_bind().exec_driver_sql("SELECT oid::regclass FROM pg_class '
    "WHERE relname = 'a' AND relnamespace::regnamespace::text ~ '^migration_stash_'\").scalar()\n    "
)
SECOND = {
    "it fails": ("op.execute('SELECT 1 / 0')", Broken, "division by zero"),
    "it drops another table": ("op.drop_table('b')", Refused, "destroys more than in its trial: table b"),
    "it drops another column": ("op.drop_column('b', 'x')", Refused, "destroys more than in its trial: column b.x"),
    "it drops the copy": (
        f"{IN_STASH}op.execute(f'DROP TABLE {{place}}')", Refused, 'what was kept in "migration_stash_[0-9]+"."a"'
    ),
    "it drops a column of the copy": (
        f"{IN_STASH}op.execute(f'ALTER TABLE {{place}} DROP v')", Refused, 'what was kept in "migration_stash_[0-9]+"."a"'
    ),
    "it changes a row of the copy": (
        f"{IN_STASH}op.execute(f'UPDATE {{place}} SET v = 1 WHERE id = 1')", Refused, "what was kept in"
    ),
    "it drops the stash's schema": (
        f"{IN_STASH}op.execute('DROP SCHEMA ' + place.split('.')[0] + ' CASCADE')", Refused, "what was kept in"
    ),
    "it commits": ("op.execute('COMMIT')", GuardError, "commits"),
    "it rolls back": ("op.execute('ROLLBACK')", GuardError, "rolls its transaction back"),
    "it rolls back and goes on": ("op.execute('/**/ rollback; drop table b')", GuardError, "rolls its transaction back"),
    "it drops the guard's schema": ("op.execute('DROP SCHEMA migration CASCADE')", GuardError, "commit_guard"),
}  # fmt: skip


@pytest.mark.parametrize("what", SECOND)
def test_a_real_run_unlike_its_trial_is_undone(empty: Database, project: Project, what: str) -> None:
    """Where the real run fails, or does other than its trial, everything is undone: tables, copies and manifest."""
    body, kind, said = SECOND[what]
    applied(
        project, TABLE_A + "; CREATE TABLE b (x int)",
        f"runs.append(1)\nop.drop_column('a', 'v')\nif len(runs) == 2:\n    {body}", more=TWICE,
    )  # fmt: skip
    before = catalog(empty)

    with pytest.raises(kind, match=said):
        project.downgrade("base")

    assert difference(before, catalog(empty)) == []
    assert empty.rows("SELECT count(v) FROM a") == [(5,)]
    assert empty.rows("SELECT * FROM migration.stash") == []
    assert empty.rows("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'migration\\_stash%'") == []
    assert empty.rows("SELECT version_num FROM alembic_version") == [("001",)]
    assert empty.rows("SELECT revision, direction, outcome FROM migration.history ORDER BY id DESC LIMIT 1") == [
        ("001", "downgrade", "failed")
    ]


def test_a_table_emptied_only_when_run_for_real_is_seen(empty: Database, project: Project) -> None:
    """Its trial gives a table another file, with all rows; run for real it is emptied in the same way: that is undone."""
    applied(
        project, TABLE_A + "; CREATE TABLE b (x int)",
        "runs.append(1)\nop.execute('ALTER TABLE a SET UNLOGGED')\nop.drop_table('b')\n"
        "if len(runs) == 2:\n    op.execute('TRUNCATE a')", more=TWICE,
    )  # fmt: skip

    with pytest.raises(Refused, match="only wrote anew in its trial"):
        project.downgrade("base")

    assert empty.value("SELECT count(*) FROM a") == 5


@pytest.mark.parametrize("small", [16 * 1024 * 1024, 0])
def test_a_copy_that_somebody_alters_is_seen(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    """An event trigger that masks what is in every new table: the step is undone, whatever the table's size."""
    monkeypatch.setattr(stash, "_SMALL", small)
    filled = "INSERT INTO a SELECT n, repeat('v', 100) || n, n FROM generate_series(1, 5) n"
    applied(project, f"CREATE TABLE a (id int PRIMARY KEY, v text, w int); {filled}", 'op.drop_table("a")')
    empty.rows(
        "CREATE FUNCTION mask() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE made text; BEGIN "
        "FOR made IN SELECT object_identity FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table' "
        "AND schema_name ~ '^migration_stash' LOOP EXECUTE format('UPDATE %s SET v = NULL WHERE id = 3', made); END LOOP; END $$"
    )
    empty.rows(
        "CREATE EVENT TRIGGER masking ON ddl_command_end WHEN TAG IN ('CREATE TABLE AS') EXECUTE FUNCTION mask()"
    )
    before = shown(empty, "a")

    with pytest.raises(Refused) as caught:
        project.downgrade("base")

    said = "the copy of a is not what stands in it: other values" if small else "it destroys what was kept in"
    assert said in " ".join(caught.value.text().split())
    assert shown(empty, "a") == before
    assert empty.value("SELECT count(*) FROM migration.stash") == 0


def test_a_failing_post_check_takes_the_copy_along(empty: Database, project: Project) -> None:
    """Where the post-check of the downgrade fails, the copy goes with the rest of the step."""
    applied(project, TABLE_A, 'op.drop_table("a")', more='expectations_down = [expect.table("a")]')

    with pytest.raises(Broken, match="Rollback failed: revision 001: expected table a, found nothing"):
        project.downgrade("base")

    assert empty.value("SELECT count(*) FROM a") == 5
    assert empty.rows("SELECT * FROM migration.stash") == []


def test_a_table_changed_since_the_trial_is_refused(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where somebody adds a column between trial and copy, the copy would miss it: refused, nothing changed."""
    from mcp_planner_schema.guard import stash

    applied(project, TABLE_A, 'op.drop_table("a")')
    keep = stash.keep

    def late(*arguments: Any) -> Any:
        empty.rows("ALTER TABLE a ADD late int DEFAULT 7")
        return keep(*arguments)

    monkeypatch.setattr(stash, "keep", late)

    with pytest.raises(Refused, match="a was changed by somebody else since the trial"):
        project.downgrade("base")

    assert empty.value("SELECT sum(late) FROM a") == 35


def test_a_child_made_since_the_trial_is_not_dropped_along(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where CASCADE reaches a table that was not there in the trial, nothing is dropped."""
    from mcp_planner_schema.guard import stash

    applied(project, TABLE_A, sql("DROP TABLE a CASCADE"))
    keep = stash.keep

    def late(*arguments: Any) -> Any:
        empty.rows("CREATE TABLE child () INHERITS (a); INSERT INTO child VALUES (9)")
        return keep(*arguments)

    monkeypatch.setattr(stash, "keep", late)

    with pytest.raises(Refused, match="more than in its trial: table child"):
        project.downgrade("base")

    assert empty.value("SELECT count(*) FROM a") == 6


def test_people_are_told_what_was_kept(empty: Database, project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """The step's lines name each kept object, its rows and its place."""
    applied(project, TABLE_A + "; CREATE TABLE b (x int)", sql("ALTER TABLE a DROP v, DROP w; DROP TABLE b"))
    caplog.set_level(logging.INFO)

    project.downgrade("base")

    assert "kept column a.v, column a.w: 5 rows in migration_stash_1.a" in caplog.text
    assert "kept table b: 0 rows in migration_stash_1.b" in caplog.text


def test_people_are_told_what_goes_along(empty: Database, project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """Views, and foreign keys and triggers of tables that stay, are named where CASCADE takes them; what stays is not."""
    applied(
        project,
        TABLE_A
        + "; CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a, w int); CREATE VIEW report_v AS SELECT v FROM a; "
        "CREATE SCHEMA app; CREATE MATERIALIZED VIEW app.m AS SELECT * FROM report_v; CREATE VIEW stays AS SELECT id FROM b; "
        "CREATE VIEW again AS SELECT id FROM a; "
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$; CREATE TRIGGER own BEFORE UPDATE "
        "ON a FOR EACH ROW EXECUTE FUNCTION f(); CREATE TRIGGER other BEFORE UPDATE OF w ON b FOR EACH ROW EXECUTE FUNCTION f()",
        sql("DROP TABLE a CASCADE; ALTER TABLE b DROP w CASCADE; CREATE VIEW again AS SELECT id FROM b"),
    )
    caplog.set_level(logging.INFO)

    project.downgrade("base")

    told = sorted(line.strip() for line in caplog.messages if "also goes" in line)
    assert told == [
        "also goes: foreign key b_a_fkey of b",
        "also goes: materialized view app.m",
        "also goes: trigger other of b",
        "also goes: view report_v",
    ]


@pytest.mark.parametrize(
    "body",
    [
        "op.execute('CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$')", "op.execute('DROP VIEW w')",
        "op.execute('GRANT SELECT ON s TO PUBLIC')", "op.execute(\"COMMENT ON TABLE s IS 'x'\")", "return",
        "op.execute('CREATE INDEX i ON s (id)')", "op.execute('ALTER TABLE s ALTER id SET DEFAULT 7')",
    ],
)  # fmt: skip
def test_a_real_run_that_does_something_else_to_the_schema_is_undone(
    empty: Database, project: Project, body: str
) -> None:
    """What no row shows is compared too: functions, views, rights, comments, indexes, defaults of tables that stay."""
    down = f"runs.append(1)\nif len(runs) == 2:\n    {body}\nop.drop_table('a')"
    up = "CREATE TABLE a (id int); CREATE TABLE s (id int); CREATE VIEW w AS SELECT id FROM s; INSERT INTO a VALUES (1)"
    project.revision("001", "create_things", sql(up), down, more="runs = []")
    project.upgrade()
    before = catalog(empty)

    with pytest.raises(Refused, match="does not do to the schema what it did in its trial") as refused:
        project.downgrade("base")

    assert [one.code for one in refused.value.findings] == ["downgrade-untried"]
    assert difference(before, catalog(empty)) == []
    assert empty.value("SELECT count(*) FROM a") == 1
