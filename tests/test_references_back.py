"""Kept references, and the tables they are in: none means another row, and none bars the way up."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg2.extras import DictCursor
from sqlalchemy import event
from sqlalchemy.engine import Engine

from mcp_planner_schema import cli
from mcp_planner_schema.guard import proof, since
from tests.conftest import Database, Project
from tests.test_backfill import ordinary  # noqa: F401  # a fixture
from tests.test_restore import down_and_up, two
from tests.test_seeds_again import committing
from tests.test_stash import sql

ROLES = (
    "CREATE TABLE role (id serial PRIMARY KEY, n text UNIQUE); CREATE TABLE usr (id serial PRIMARY KEY{column}); "
    "INSERT INTO role (n) VALUES ('a'), ('b'); INSERT INTO usr SELECT FROM generate_series(1, 3)"
)
SEEDS = "INSERT INTO role (n) VALUES ('editor'), ('viewer')"
GONE = "DELETE FROM role WHERE id > 2"
BACK = "; SELECT setval('role_id_seq', (SELECT max(id) FROM role))"
COMMITS = "with op.get_context().autocommit_block():\n    op.execute('SELECT 1')"
WAYS = {  # what there was before, what the upgrade does besides its seeds, what the downgrade does, who was what
    "a column": (
        "",
        ["ALTER TABLE usr ADD role_id int REFERENCES role"],
        "ALTER TABLE usr DROP role_id",
        "UPDATE usr SET role_id = id + 2 WHERE id < 3",
        "SELECT usr.id, n FROM usr LEFT JOIN role ON role.id = role_id ORDER BY 1",
    ),
    "a table": (
        "",
        ["CREATE TABLE perm (id int PRIMARY KEY, role_id int REFERENCES role, may text)"],
        "DROP TABLE perm",
        "INSERT INTO perm VALUES (1, 3, 'write'), (2, 4, 'read'), (3, NULL, 'x')",
        "SELECT u.id, n FROM usr AS u LEFT JOIN perm USING (id) LEFT JOIN role ON role.id = role_id ORDER BY 1",
    ),
    "a column, its key afterwards": (
        "",
        ["ALTER TABLE usr ADD role_id int", "ALTER TABLE usr ADD FOREIGN KEY (role_id) REFERENCES role"],
        "ALTER TABLE usr DROP role_id",
        "UPDATE usr SET role_id = id + 2 WHERE id < 3",
        "SELECT usr.id, n FROM usr LEFT JOIN role ON role.id = role_id ORDER BY 1",
    ),
    "a table, its key afterwards": (
        "",
        [
            "CREATE TABLE perm (id int PRIMARY KEY, role_id int, may text)",
            "ALTER TABLE perm ADD FOREIGN KEY (role_id) REFERENCES role",
        ],
        "DROP TABLE perm",
        "INSERT INTO perm VALUES (1, 3, 'write'), (2, 4, 'read'), (3, NULL, 'x')",
        "SELECT u.id, n FROM usr AS u LEFT JOIN perm USING (id) LEFT JOIN role ON role.id = role_id ORDER BY 1",
    ),
    "a table with a seed that was changed": (
        "",
        [
            "CREATE TABLE perm (id int PRIMARY KEY, role_id int REFERENCES role, may text)",
            "INSERT INTO perm VALUES (1, 1, 'x')",
        ],
        "DROP TABLE perm",
        "UPDATE perm SET role_id = 3; INSERT INTO perm SELECT n, 4, 'read' FROM generate_series(2, 21) AS n",
        "SELECT u.id, n FROM usr AS u LEFT JOIN perm USING (id) LEFT JOIN role ON role.id = role_id ORDER BY 1",
    ),
    "deleted rows": (
        "",
        ["CREATE TABLE IF NOT EXISTS member (id serial PRIMARY KEY, usr_id int, role_id int REFERENCES role)"],
        "DELETE FROM member WHERE role_id > 2",
        "INSERT INTO member (usr_id, role_id) VALUES (1, 3), (2, 4)",
        "SELECT usr.id, n FROM usr LEFT JOIN member ON usr_id = usr.id LEFT JOIN role ON role.id = role_id ORDER BY 1",
    ),
    "changed rows": (
        ", role_id int REFERENCES role",
        ["ALTER TABLE usr ADD note text"],
        "UPDATE usr SET role_id = NULL WHERE role_id > 2; ALTER TABLE usr DROP note",
        "UPDATE usr SET role_id = id + 2, note = 'x' WHERE id < 3",
        "SELECT usr.id, n FROM usr LEFT JOIN role ON role.id = role_id ORDER BY 1",
    ),
}


@pytest.mark.parametrize("key", ["serial", "sequence set back"])
@pytest.mark.parametrize("kind", ["int", "domain"])
@pytest.mark.parametrize("commits", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_kept_reference_is_not_to_who_has_its_number_now(
    empty: Database, project: Project, way: str, commits: bool, kind: str, key: str
) -> None:
    """Who was an editor is not what came in the editor's place; his own stays in the stash, and nobody else's."""
    column, ups, down, before, asked = WAYS[way]
    setup = ROLES.format(column=column)
    if kind == "domain":
        setup = "CREATE DOMAIN ident AS int; CREATE SEQUENCE role_id_seq; " + setup.replace(
            "(id serial PRIMARY KEY, n", "(id ident PRIMARY KEY DEFAULT nextval('role_id_seq'), n"
        )
    down = f"{down}; {GONE}{BACK if key != 'serial' else ''}"
    if commits:
        committing(project, setup, [sql(SEEDS), *map(sql, ups), COMMITS], down)
    else:
        two(project, setup, "", down, ups="\n".join(map(sql, [SEEDS, *ups])))
    empty.rows(before)
    had = dict(empty.rows(asked))

    down_and_up(
        project,
        empty,
        "INSERT INTO role VALUES (3, 'newer')" if key == "serial" else "INSERT INTO role (n) VALUES ('newer')",
    )

    there = dict(empty.rows(asked))
    seed = "a" if "seed" in way else None  # the upgrade's own, in the place of one that is not back
    assert all(there[one] in (None, had[one], seed) for one in had), there
    assert "newer" not in there.values()
    assert sorted(n for (n,) in empty.rows("SELECT n FROM role")) == ["a", "b", "editor", "newer", "viewer"]
    assert empty.rows("SELECT state FROM migration.stash") == [("partly restored",)]


def test_within_one_table_too(empty: Database, project: Project) -> None:
    """A category under a seed that is gone is not under what has its number now."""
    setup = (
        "CREATE TABLE cat (id serial PRIMARY KEY, n text UNIQUE, parent_id int REFERENCES cat); "
        "INSERT INTO cat (n) VALUES ('own')"
    )
    down = "UPDATE cat SET parent_id = NULL; DELETE FROM cat WHERE n = 'seed'"
    two(project, setup, "INSERT INTO cat (n) VALUES ('seed')", down)
    empty.rows("UPDATE cat SET parent_id = 2 WHERE id = 1")

    down_and_up(project, empty, "INSERT INTO cat VALUES (2, 'newer')")

    rows = dict(empty.rows("SELECT a.n, b.n FROM cat a LEFT JOIN cat b ON b.id = a.parent_id"))
    assert rows in ({"own": None, "newer": None, "seed": None}, {"own": "seed", "newer": None, "seed": None})


def test_a_body_may_change_several_rows_at_once(empty: Database, project: Project) -> None:
    """An ORM counts what its statements have changed, and takes what is missing there for stale."""
    body = (
        "import sqlalchemy as sa\n"
        "from sqlalchemy import orm\n"
        "op.add_column('t', sa.Column('v', sa.Text()))\n"
        "class Base(orm.DeclarativeBase):\n    pass\n"
        "class T(Base):\n    __tablename__ = 't'\n    id = sa.Column(sa.Integer, primary_key=True)\n    v = sa.Column(sa.Text)\n"
        "with orm.Session(bind=op.get_bind()) as session:\n"
        "    for row in session.scalars(sa.select(T).order_by(T.id)).all():\n        row.v = 'own'\n"
        "    session.flush()\n"
        "done = op.get_bind().execute(sa.text('UPDATE t SET v = v WHERE id = :id'), [{'id': 1}, {'id': 2}, {'id': 9}])\n"
        "assert done.rowcount == 2\n"
    )
    two(
        project,
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3)",
        "",
        "ALTER TABLE t DROP v",
        ups=body,
    )
    empty.rows("UPDATE t SET v = 'kept ' || id")

    down_and_up(project, empty, "INSERT INTO t VALUES (4)")

    assert empty.rows("SELECT * FROM t ORDER BY id") == [(1, "kept 1"), (2, "kept 2"), (3, "kept 3"), (4, "own")]


BETWEEN = {
    "nothing": ("SELECT", [(1, 1), (2, 3)], [(1, 1), (2, 2)]),
    "a parent deleted": ("DELETE FROM c WHERE p_id = 1; DELETE FROM p WHERE id = 1", [(2, 3)], [(2, 2)]),
    "its number taken": ("INSERT INTO p VALUES (3, 'newer')", [(1, 1), (2, None)], [(1, 1), (2, 2)]),
}


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("way", ["changed rows", "a table"])
def test_parents_whose_rows_are_hidden_bar_no_way_up(
    ordinary: Database,  # noqa: F811
    project: Project,
    way: str,
    between: str,
) -> None:
    """FORCE ROW LEVEL SECURITY on both sides of a foreign key, and an owner who may not pass it by."""
    meanwhile, changed, table = BETWEEN[between]
    base = "CREATE TABLE p (id int PRIMARY KEY, n text); INSERT INTO p VALUES (1, 'a'), (2, 'b')"
    child = "CREATE TABLE c (id int PRIMARY KEY, p_id int REFERENCES p DEFERRABLE INITIALLY DEFERRED)"
    if way == "changed rows":
        up = "INSERT INTO p VALUES (3, 'seed') ON CONFLICT DO NOTHING"
        down = "UPDATE c SET p_id = NULL WHERE p_id > 2; DELETE FROM p WHERE id > 2"
        two(project, f"{base}; {child}; {_hidden('p')}; {_hidden('c')}", up, down)
        ordinary.rows("INSERT INTO c VALUES (1, 1), (2, 3)")
    else:
        up = f"{child}; {_hidden('c')}; INSERT INTO c VALUES (2, 2)"
        two(project, f"{base}; {_hidden('p')}", up, "DROP TABLE c")
        ordinary.rows("INSERT INTO c VALUES (1, 1)")
        meanwhile = meanwhile.removeprefix("DELETE FROM c WHERE p_id = 1; ")

    down_and_up(project, ordinary, meanwhile)

    assert ordinary.rows("SELECT id, p_id FROM c ORDER BY 1") == (changed if way == "changed rows" else table)
    asked = "SELECT count(*) FROM pg_class WHERE relforcerowsecurity AND relname IN ('p', 'c')"
    assert ordinary.value(asked) == 2


def _hidden(name: str) -> str:
    return (
        f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY; ALTER TABLE {name} FORCE ROW LEVEL SECURITY; "
        f"CREATE POLICY all_of_it ON {name} USING (true)"
    )


@pytest.mark.parametrize("between", ["SELECT", "DELETE FROM p WHERE id = 'a'"])
def test_the_two_sides_of_a_key_may_have_collations_of_their_own(
    empty: Database, project: Project, between: str
) -> None:
    """PostgreSQL lets them be a foreign key, and asks which collation is meant where the two are compared by hand."""
    setup = "CREATE TABLE p (id text COLLATE \"C\" PRIMARY KEY, n text); INSERT INTO p VALUES ('a'), ('b')"
    child = 'CREATE TABLE c (id text COLLATE "POSIX" PRIMARY KEY, p_id text COLLATE "POSIX" REFERENCES p)'
    up = f"{child}; INSERT INTO p VALUES ('seed'); INSERT INTO c VALUES ('1', 'seed')"
    two(project, setup, up, "DROP TABLE c; DELETE FROM p WHERE id = 'seed'")
    empty.rows("INSERT INTO c VALUES ('2', 'a'), ('3', 'seed'); UPDATE p SET n = 'edited'")

    down_and_up(project, empty, between)

    rows = [("1", "seed"), ("2", "a"), ("3", "seed")]
    assert empty.rows("SELECT * FROM c ORDER BY 1") == (rows if between == "SELECT" else [rows[0], rows[2]])
    assert empty.value("SELECT n FROM p WHERE id = 'seed'") == "edited"


CORRECTED = {
    "a check": ("v int CHECK (v > 0)", [1]),
    "a narrower type": ("v smallint", [0, 1]),
    "a shorter text": ("v int, w varchar(3)", [0, 1]),
}


@pytest.mark.parametrize("how", ["a table", "a column"])
@pytest.mark.parametrize("corrected", CORRECTED)
def test_a_corrected_revision_that_lets_in_less_bars_no_way_up(
    empty: Database, project: Project, corrected: str, how: str
) -> None:
    """What fits comes back, and what does not stays in the stash and is told."""
    new, fits = CORRECTED[corrected]
    columns = "v int, w text"
    setup = "CREATE TABLE base (id int PRIMARY KEY); INSERT INTO base SELECT generate_series(1, 3)"

    def text(found: str) -> str:
        if how == "a table":
            return f"CREATE TABLE s (id int PRIMARY KEY, {found}); INSERT INTO s (id) VALUES (1)"
        return "; ".join(f"ALTER TABLE base ADD {column}" for column in found.split(", "))

    table, gone = ("s", "DROP TABLE s") if how == "a table" else ("base", "ALTER TABLE base DROP v, DROP w")
    two(project, setup, text(columns), gone)
    empty.rows("INSERT INTO s VALUES (2), (3)" if how == "a table" else "SELECT")
    empty.rows(f"UPDATE {table} SET v = CASE id WHEN 1 THEN 1 WHEN 2 THEN 0 ELSE 70000 END, w = repeat('w', id + 1)")
    if new.startswith("v int CHECK"):
        empty.rows(f"UPDATE {table} SET v = 0 WHERE id = 3")
    project.downgrade("-1")
    new = new if "w " in new else f"{new}, w text"
    gone = gone if how == "a table" else "ALTER TABLE base DROP v, DROP w"
    project.revision("002", "alter_things", sql(text(new)), sql(gone))

    project.upgrade()

    if corrected == "a shorter text" and how == "a column":
        fits = [*fits, 70000]  # it was back before the other column was there
    assert empty.rows(f"SELECT id, v FROM {table} WHERE v IS NOT NULL ORDER BY 1") == [
        (id, v) for id, v in ((1, 1), (2, 0), (3, 70000)) if v in fits
    ]
    assert empty.rows("SELECT state FROM migration.stash") == [("partly restored",)]


def test_what_the_body_computes_is_set_aside_though_it_goes_on(empty: Database, project: Project) -> None:
    """Another new column, and the kept values have come back already: what the body has written there stands nowhere else."""
    ups = [
        "ALTER TABLE t ADD cnt int",
        "UPDATE t SET cnt = (SELECT count(*) FROM ev WHERE t_id = t.id)",
        "ALTER TABLE t ADD x int",
    ]
    setup = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2); CREATE TABLE ev (t_id int)"
    two(project, setup, "", "ALTER TABLE t DROP cnt, DROP x", ups="\n".join(map(sql, ups)))

    down_and_up(project, empty, "INSERT INTO ev VALUES (1), (1)")

    assert empty.rows("SELECT id, cnt FROM t ORDER BY 1") == [(1, 0), (2, 0)]
    assert empty.rows('SELECT id, cnt FROM migration_stash_1."guard:aside_1"') == [(1, 2)]


RENAMED = (
    "CREATE TABLE a (id int PRIMARY KEY, y text); INSERT INTO a VALUES (1, 'One'), (2, 'Two'), (3, 'Three')",
    ["ALTER TABLE a ADD x text", "UPDATE a SET x = y", "ALTER TABLE a DROP y"],
    "ALTER TABLE a ADD y text; UPDATE a SET y = lower(x); ALTER TABLE a DROP x",
)


@pytest.mark.parametrize("server", ["the same", "restored from a dump"])
def test_newer_values_are_known_on_another_server_too(empty: Database, project: Project, server: str) -> None:
    """Its transactions have other numbers, and all rows are written anew there: none is taken for an old one."""
    setup, ups, down = RENAMED
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))
    project.downgrade("-1")
    empty.rows("UPDATE a SET y = 'new' WHERE id = 1")
    if server != "the same":
        empty.rows("UPDATE migration.stash SET xid = '900000000000 900000000000 1/1'")

    project.upgrade()

    assert empty.value("SELECT x FROM a WHERE id = 1") == "new"
    kept = [("Two",), ("Three",)] if server == "the same" else [("two",), ("three",)]  # there each may be newer: told
    assert empty.rows("SELECT x FROM a WHERE id > 1 ORDER BY id") == kept
    assert empty.rows("SELECT x FROM migration_stash_1.a ORDER BY id") == [("One",), ("Two",), ("Three",)]


AUDIT = (
    "CREATE TABLE {log} (at timestamptz DEFAULT now(), what text); CREATE TABLE t (id int PRIMARY KEY, v text); "
    "INSERT INTO t VALUES (1, 'a'), (2, 'b'); CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "INSERT INTO {log} (what) VALUES (tg_op); RETURN coalesce(new, old); END $$; "
    "CREATE TRIGGER audit BEFORE INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION audit()"
)


def test_a_log_that_is_somebody_elses_bars_no_way_up(
    ordinary: Database,  # noqa: F811
    project: Project,
    empty: Database,
) -> None:
    """The role may read it and write it, and not lock it."""
    empty.rows(
        f"CREATE TABLE log (at timestamptz DEFAULT now(), what text); GRANT SELECT, INSERT ON log TO {ordinary.user}"
    )
    two(
        project,
        AUDIT.partition("; ")[2].format(log="log"),
        "INSERT INTO t VALUES (3, 'seed')",
        "DELETE FROM t WHERE id > 1",
    )

    down_and_up(project, ordinary, "UPDATE t SET v = 'newer' WHERE id = 1")

    assert ordinary.rows("SELECT * FROM t ORDER BY 1") == [(1, "newer"), (2, "b"), (3, "seed")]


def test_triggers_of_somebody_elses_table_bar_no_way_up(
    ordinary: Database,  # noqa: F811
    project: Project,
    empty: Database,
) -> None:
    """Only the owner may put them to sleep: the rows stay in the stash, and whose turn it is is told."""
    empty.rows(AUDIT.format(log="log") + f"; GRANT ALL ON t, log TO {ordinary.user}")
    two(project, "SELECT 1", "SELECT 2", "DELETE FROM t WHERE id > 1")

    down_and_up(project, ordinary, "SELECT")

    assert ordinary.rows("SELECT * FROM t ORDER BY 1") == [(1, "a")]
    assert ordinary.rows("SELECT state FROM migration.stash") == [("partly restored",)]
    assert ordinary.rows("SELECT * FROM migration_stash_1.t") != []


def test_the_owner_gives_back_what_triggers_of_his_have_barred(
    ordinary: Database,  # noqa: F811
    project: Project,
    empty: Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The other role's stash is his to give back; his triggers sleep, and are awake afterwards."""
    empty.rows(AUDIT.format(log="log") + f"; GRANT ALL ON t, log TO {ordinary.user}")
    two(project, "SELECT 1", "SELECT 2", "DELETE FROM t WHERE id > 1")
    down_and_up(project, ordinary, "SELECT")
    logged = empty.value("SELECT count(*) FROM log")
    monkeypatch.setattr(cli, "ROOT", project.folder)
    monkeypatch.setenv("DATABASE_URL", empty.url)

    code = cli.main(["migrate-restore", "VERSION=002"])

    assert code == 0, capsys.readouterr()
    assert empty.rows("SELECT * FROM t ORDER BY 1") == [(1, "a"), (2, "b")]
    assert empty.value("SELECT count(*) FROM log") == logged
    assert empty.rows("SELECT tgenabled FROM pg_trigger WHERE tgrelid = 't'::regclass AND NOT tgisinternal") == [("O",)]
    assert empty.rows("SELECT state FROM migration.stash") == [("restored",)]


@pytest.mark.parametrize("local", ["LOCAL ", ""])
def test_a_session_that_is_made_a_replicas_bars_no_dangling_reference(
    empty: Database, project: Project, local: str
) -> None:
    """The body switches triggers off for itself; a kept row whose parent is gone stays in the stash all the same."""
    setup = (
        "CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p VALUES (1), (2); "
        "CREATE TABLE c (id int PRIMARY KEY, p_id int REFERENCES p)"
    )
    up = (
        f"SET {local}session_replication_role = replica; ALTER TABLE c ADD x int; "
        "CREATE TABLE d (id int PRIMARY KEY, p_id int REFERENCES p)"
    )
    two(project, setup, up, "DELETE FROM c; DROP TABLE d; ALTER TABLE c DROP x")
    empty.rows("INSERT INTO c VALUES (1, 1), (2, 2); INSERT INTO d VALUES (1, 1), (2, 2)")

    down_and_up(project, empty, "DELETE FROM p WHERE id = 2")

    assert empty.rows("SELECT id, p_id FROM c") == [(1, 1)]
    assert empty.rows("SELECT id, p_id FROM d") == [(1, 1)]


def test_a_large_log_is_neither_read_nor_locked_for_this(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as written to, and whoever writes there need not wait for the upgrade."""
    monkeypatch.setattr(since, "LARGE", 0)
    monkeypatch.setattr(proof, "LARGE", 0)
    two(project, AUDIT.format(log="log"), "INSERT INTO t VALUES (3, 'seed')", "DELETE FROM t WHERE id > 1")
    project.downgrade("-1")
    with empty.connect(autocommit=False) as other:
        other.cursor().execute("INSERT INTO log (what) VALUES ('open')")

        project.upgrade()

        other.commit()
    assert empty.rows("SELECT * FROM t ORDER BY 1") == [(1, "a"), (2, "b"), (3, "seed")]
    assert empty.value("SELECT written -> 0 ->> 1 FROM migration.stash") == "log"
    assert empty.value("SELECT jsonb_array_length((written -> 0)::jsonb) FROM migration.stash") == 3


def test_coloured_seeds_are_themselves_though_a_log_was_written(empty: Database, project: Project) -> None:
    """A log of all that happens has always changed; the seeds are none of it, for the upgrade has read it nowhere."""
    setup = AUDIT.format(log="log") + (
        "; CREATE TABLE st (id serial PRIMARY KEY, n text UNIQUE, colour text DEFAULT 'grey'); "
        "CREATE TRIGGER audit BEFORE INSERT OR UPDATE OR DELETE ON st FOR EACH ROW EXECUTE FUNCTION audit()"
    )
    two(project, setup, "INSERT INTO st (n) VALUES ('open'), ('done')", "DELETE FROM st")
    empty.rows("UPDATE st SET colour = 'green' WHERE n = 'done'")
    had = empty.rows("SELECT * FROM st ORDER BY id")

    down_and_up(project, empty, "UPDATE t SET v = 'newer' WHERE id = 1")

    assert empty.rows("SELECT * FROM st ORDER BY id") == had


def test_the_deleted_row_may_be_one_of_an_earlier_revision(empty: Database, project: Project) -> None:
    """A seed in one revision, the column that refers to it in the next."""
    project.revision(
        "001",
        "create_role",
        sql(ROLES.format(column="")),
        "raise NotImplementedError",
        reversible="forward-only: the base",
    )
    project.revision("002", "add_seeds", sql(SEEDS), sql(GONE))
    project.revision(
        "003", "add_role", sql("ALTER TABLE usr ADD role_id int REFERENCES role"), sql("ALTER TABLE usr DROP role_id")
    )
    project.upgrade()
    empty.rows("UPDATE usr SET role_id = id + 2 WHERE id < 3")
    project.downgrade("001")
    empty.rows("INSERT INTO role VALUES (3, 'newer')")

    project.upgrade()

    rows = empty.rows("SELECT usr.id, n FROM usr LEFT JOIN role ON role.id = role_id ORDER BY 1")
    assert rows == [(1, None), (2, "viewer"), (3, None)]
    empty.rows("UPDATE usr SET role_id = 3 WHERE id = 3")
    project.downgrade("002")
    project.upgrade()
    assert empty.rows("SELECT n FROM usr JOIN role ON role.id = role_id WHERE usr.id = 3") == [("newer",)]


def test_a_moved_column_of_a_table_whose_rows_are_hidden(
    ordinary: Database,  # noqa: F811
    project: Project,
) -> None:
    """FORCE ROW LEVEL SECURITY, and somebody has written in the column that the value was moved to."""
    setup = f"CREATE TABLE t (id int PRIMARY KEY, y text); INSERT INTO t VALUES (1, 'a'), (2, 'b'); {_hidden('t')}"
    ups = ["ALTER TABLE t ADD x text", "UPDATE t SET x = y", "ALTER TABLE t DROP y"]
    down = "ALTER TABLE t ADD y text; UPDATE t SET y = x; ALTER TABLE t DROP x"
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))

    down_and_up(project, ordinary, "UPDATE t SET y = 'newer' WHERE id = 1")

    assert ordinary.rows("SELECT * FROM t ORDER BY 1") == [(1, "newer"), (2, "b")]


def test_rows_whose_partition_is_not_there_yet_are_not_tried_one_by_one(empty: Database, project: Project) -> None:
    """Each partition is made by a statement of its own, and the rows wait for the last of them."""
    parts = [f"CREATE TABLE ev{n} PARTITION OF ev FOR VALUES FROM ({n}000) TO ({n + 1}000)" for n in range(4)]
    ups = ["CREATE TABLE ev (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)", *parts]
    two(project, "CREATE TABLE base (id int)", "", "DROP TABLE ev", ups="\n".join(map(sql, ups)))
    empty.rows("INSERT INTO ev SELECT n, 'v' FROM generate_series(1, 3999) AS n")
    sent = 0

    def count(conn: object, cursor: object, statement: str, *_: object) -> None:
        nonlocal sent
        sent += "guard_half" in statement

    event.listen(Engine, "before_cursor_execute", count)
    try:
        down_and_up(project, empty, "SELECT")
    finally:
        event.remove(Engine, "before_cursor_execute", count)

    assert empty.value("SELECT count(*) FROM ev") == 3999
    assert sent == 0


@pytest.mark.parametrize("between", ["SELECT", "UPDATE t SET v = 'newer' WHERE id::text = '1'"])
@pytest.mark.parametrize(("was", "now"), [("int", "text"), ("uuid", "text"), ("bigint", "int")])
def test_a_key_that_gets_another_type_and_back(
    empty: Database, project: Project, was: str, now: str, between: str
) -> None:
    """The rows are the same ones, whatever their keys are written in."""
    value = "g::int" if was != "uuid" else "('00000000-0000-0000-0000-00000000000' || g)::uuid"
    setup = f"CREATE TABLE t (id {was} PRIMARY KEY, v text); INSERT INTO t SELECT {value}, 'v' FROM generate_series(1, 3) AS g"
    up = f"ALTER TABLE t ALTER id TYPE {now} USING id::{now}"
    two(project, setup, up, f"ALTER TABLE t ALTER id TYPE {was} USING id::{was}; UPDATE t SET v = upper(v)")
    had = empty.rows("SELECT * FROM t ORDER BY id")

    down_and_up(project, empty, between)

    there = empty.rows("SELECT * FROM t ORDER BY id")
    newer = between != "SELECT" and was != "uuid"
    assert there == [(id, "newer" if newer and str(id) == "1" else v) for id, v in had]


@pytest.mark.parametrize("up", ["INSERT INTO t VALUES (3, 'seed') ON CONFLICT DO NOTHING", "SELECT 2"])
def test_triggers_of_somebody_elses_table_and_a_seed(
    ordinary: Database,  # noqa: F811
    project: Project,
    empty: Database,
    up: str,
) -> None:
    """The upgrade inserts there itself, which the role may do."""
    empty.rows(AUDIT.format(log="log") + f"; GRANT ALL ON t, log TO {ordinary.user}")
    two(project, "SELECT 1", up, "DELETE FROM t WHERE id > 1")

    down_and_up(project, ordinary, "SELECT")

    assert ordinary.rows("SELECT * FROM t ORDER BY 1") == [(1, "a"), (3, "seed")][: 1 + up.startswith("INSERT")]


def test_who_may_not_see_the_other_side_of_a_key_goes_up_all_the_same(
    ordinary: Database,  # noqa: F811
    project: Project,
    empty: Database,
) -> None:
    """Tables of others refer to the role's, and it refers to theirs, and may use neither."""
    empty.rows(
        "CREATE SCHEMA hr; CREATE SCHEMA ref; CREATE TABLE ref.country (code text PRIMARY KEY); "
        f"INSERT INTO ref.country VALUES ('de'), ('fr'); GRANT USAGE ON SCHEMA ref TO {ordinary.user}; "
        f"GRANT REFERENCES ON ref.country TO {ordinary.user}"
    )
    setup = "CREATE TABLE role (id serial PRIMARY KEY, n text UNIQUE)"
    up = (
        "INSERT INTO role (n) VALUES ('editor'); "
        "CREATE TABLE city (n text PRIMARY KEY, code text REFERENCES ref.country)"
    )
    two(project, setup, up, "DELETE FROM role WHERE n = 'editor'; DROP TABLE city")
    empty.rows("CREATE TABLE hr.person (id int, role_id int REFERENCES public.role)")
    ordinary.rows("INSERT INTO city VALUES ('berlin', 'de'), ('paris', 'fr')")
    project.downgrade("-1")
    empty.rows("DELETE FROM ref.country WHERE code = 'fr'")

    project.upgrade()

    assert ordinary.rows("SELECT n FROM role") == [("editor",)]
    assert ordinary.rows("SELECT n FROM city") == [("berlin",)]
    empty.rows("DROP SCHEMA hr CASCADE; DROP SCHEMA ref CASCADE")


def test_what_the_body_defers_goes_by_its_own_settings(empty: Database, project: Project) -> None:
    """A constraint trigger of the application's says the table's bare name."""
    setup = (
        "CREATE TABLE acc (id int PRIMARY KEY, bal int); CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); "
        "CREATE FUNCTION checked() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF (SELECT sum(bal) FROM acc) <> 0 THEN RAISE 'not even'; END IF; RETURN NULL; END $$; "
        "CREATE CONSTRAINT TRIGGER checked AFTER INSERT ON acc DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
        "EXECUTE FUNCTION checked(); CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$; "
        "CREATE TRIGGER noted BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION noted()"
    )
    ups = ["INSERT INTO acc VALUES (1, 0)", "ALTER TABLE t ADD note text"]
    two(project, setup, "", "DELETE FROM acc; ALTER TABLE t DROP note", ups="\n".join(map(sql, ups)))
    empty.rows("UPDATE t SET note = 'x'")

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT * FROM t") == [(1, "x")]
    assert empty.rows("SELECT * FROM acc") == [(1, 0)]


def test_a_body_reads_by_the_cursors_that_the_application_has_asked_for(empty: Database, project: Project) -> None:
    """Its rows are named on the way back and on the way up."""
    body = (
        "cursor = op.get_bind().connection.cursor()\n"
        "cursor.execute('SELECT id FROM t ORDER BY id')\n"
        "assert [row['id'] for row in cursor.fetchall()] == [1, 2]\n"
    )
    setup = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)"

    def named(driver: Any, _: object) -> None:
        driver.cursor_factory = DictCursor

    event.listen(Engine, "connect", named)
    try:
        project.revision(
            "001", "create_t", sql(setup), "raise NotImplementedError", reversible="forward-only: the base"
        )
        project.revision(
            "002", "add_v", sql("ALTER TABLE t ADD v text") + "\n" + body, body + sql("ALTER TABLE t DROP v")
        )
        project.upgrade()
        empty.rows("UPDATE t SET v = 'kept'")

        down_and_up(project, empty, "SELECT")
    finally:
        event.remove(Engine, "connect", named)

    assert empty.rows("SELECT * FROM t ORDER BY 1") == [(1, "kept"), (2, "kept")]


@pytest.mark.parametrize("how", ["a table", "a column"])
def test_a_key_that_is_made_by_itself_finds_no_parent(empty: Database, project: Project, how: str) -> None:
    """The parent was deleted meanwhile: that row stays in the stash, and the way up goes through."""
    setup = "CREATE TABLE k (id int PRIMARY KEY); INSERT INTO k VALUES (1), (2); CREATE TABLE t (id int PRIMARY KEY)"
    setup += "; INSERT INTO t VALUES (1), (2)"
    if how == "a table":
        ups = ["CREATE TABLE c (id int PRIMARY KEY, k int)", "ALTER TABLE c ADD FOREIGN KEY (k) REFERENCES k"]
        two(project, setup, "", "DROP TABLE c", ups="\n".join(map(sql, ups)))
        empty.rows("INSERT INTO c VALUES (1, 1), (2, 2)")
    else:
        ups = ["ALTER TABLE t ADD k int", "ALTER TABLE t ADD FOREIGN KEY (k) REFERENCES k"]
        two(project, setup, "", "ALTER TABLE t DROP k", ups="\n".join(map(sql, ups)))
        empty.rows("UPDATE t SET k = id")

    down_and_up(project, empty, "DELETE FROM k WHERE id = 2")

    asked = "SELECT * FROM c" if how == "a table" else "SELECT * FROM t WHERE k IS NOT NULL"
    assert empty.rows(asked) == [(1, 1)]
    assert empty.rows("SELECT state FROM migration.stash") == [("partly restored",)]


def test_a_row_without_a_partition_stays_in_the_stash(empty: Database, project: Project) -> None:
    """Someone had made a partition of his own: the others' rows are back, and the way up goes through."""
    ups = [
        "CREATE TABLE ev (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
        "CREATE TABLE ev_1 PARTITION OF ev FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
    ]
    two(project, "CREATE TABLE base (id int)", "", "DROP TABLE ev", ups="\n".join(map(sql, ups)))
    empty.rows("CREATE TABLE ev_2 PARTITION OF ev FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')")
    empty.rows("INSERT INTO ev VALUES (1, '2026-01-05'), (2, '2026-02-05')")

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT id FROM ev") == [(1,)]
    assert empty.rows("SELECT state FROM migration.stash") == [("partly restored",)]


def test_what_the_upgrade_makes_for_a_new_row_under_an_old_number_stays(empty: Database, project: Project) -> None:
    """It is equal to the kept row of the one that had the number, and is not that."""
    setup = "CREATE TABLE person (id serial PRIMARY KEY, name text); INSERT INTO person (name) VALUES ('ann'), ('bob')"
    ups = [
        "ALTER TABLE person ADD kind text NOT NULL DEFAULT 'staff'",
        "CREATE TABLE member (person_id int PRIMARY KEY REFERENCES person, role text)",
        "INSERT INTO member SELECT id, 'user' FROM person",
    ]
    down = (
        "DROP TABLE member; DELETE FROM person WHERE kind = 'guest'; ALTER TABLE person DROP kind; "
        "SELECT setval('person_id_seq', (SELECT max(id) FROM person))"
    )
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))
    empty.rows("INSERT INTO person (name, kind) VALUES ('gus', 'guest'); INSERT INTO member VALUES (3, 'user')")

    down_and_up(project, empty, "INSERT INTO person (name) VALUES ('cy')")

    asked = "SELECT name, role FROM person LEFT JOIN member ON person_id = person.id ORDER BY person.id"
    assert empty.rows(asked) == [("ann", "user"), ("bob", "user"), ("cy", "user")]


def test_rights_of_one_are_not_given_to_another_of_the_name(empty: Database, project: Project) -> None:
    """The upgrade changes the new row as well, and that makes it none of its own."""
    setup = "CREATE TABLE person (login text PRIMARY KEY, name text); INSERT INTO person VALUES ('eva', 'Eva')"
    ups = [
        "ALTER TABLE person ADD active bool",
        "UPDATE person SET active = true WHERE active IS NULL",
        "CREATE TABLE grants (login text REFERENCES person, what text, PRIMARY KEY (login, what))",
    ]
    down = "DROP TABLE grants; DELETE FROM person WHERE NOT active; ALTER TABLE person DROP active"
    two(project, setup, "", down, ups="\n".join(map(sql, ups)))
    empty.rows(
        "INSERT INTO person VALUES ('max', 'Max Old', false); INSERT INTO grants VALUES ('max', 'admin'), ('eva', 'read')"
    )

    down_and_up(project, empty, "INSERT INTO person VALUES ('max', 'Max New')")

    assert empty.rows("SELECT login, what FROM grants") == [("eva", "read")]
    assert empty.value("SELECT name FROM person WHERE login = 'max'") == "Max New"
