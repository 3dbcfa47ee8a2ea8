"""Rights on what a downgrade takes away: recorded, and given again on what the upgrade makes anew."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mcp_planner_schema import cli
from mcp_planner_schema.guard import structure
from mcp_planner_schema.guard.findings import Refused
from mcp_planner_schema.guard.postcheck import identifier, literal
from tests.conftest import Database, Project, some
from tests.test_restore import down_and_up, two
from tests.test_stash import sql
from tests.test_stashes import run

# setup, upgrade, downgrade, and what the DBA has given and taken by hand; {r} is a role, {s} another
GIVEN = {
    "a sequence that no column owns": (
        "SELECT", "CREATE SEQUENCE q", "DROP SEQUENCE q", "GRANT USAGE, SELECT ON SEQUENCE q TO {r} WITH GRANT OPTION"),
    "sequences of a table's columns": (
        "SELECT", 'CREATE TABLE t (id serial PRIMARY KEY, "A b" int GENERATED ALWAYS AS IDENTITY)', "DROP TABLE t",
        'GRANT USAGE ON SEQUENCE t_id_seq TO {r}; GRANT SELECT ON SEQUENCE "t_A b_seq" TO {s}; INSERT INTO t DEFAULT VALUES'),
    "the sequence of a column that goes": (
        "CREATE TABLE t (id int PRIMARY KEY)", "ALTER TABLE t ADD n bigserial", "ALTER TABLE t DROP n",
        "GRANT UPDATE ON SEQUENCE t_n_seq TO {r}; INSERT INTO t VALUES (1)"),
    "views": (
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "CREATE VIEW w AS SELECT * FROM t; CREATE MATERIALIZED VIEW m AS SELECT * FROM t",
        "DROP VIEW w; DROP MATERIALIZED VIEW m",
        "GRANT SELECT (id), UPDATE (v) ON w TO {r}; GRANT SELECT ON m TO {s}; GRANT INSERT ON w TO PUBLIC"),
    "a view that goes with its table": (
        "SELECT", "CREATE TABLE t (id int); CREATE VIEW w AS SELECT * FROM t", "DROP TABLE t CASCADE",
        "GRANT SELECT ON w TO {r}; INSERT INTO t VALUES (1)"),
    "routines": (
        "SELECT",
        "CREATE FUNCTION f(a int, b text DEFAULT '') RETURNS int LANGUAGE sql AS 'SELECT 1'; "
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE PROCEDURE p(x int[]) LANGUAGE sql AS 'SELECT 1'; "
        "CREATE AGGREGATE g(int) (SFUNC = int4pl, STYPE = int)",
        "DROP FUNCTION f(int, text); DROP FUNCTION f(); DROP PROCEDURE p; DROP AGGREGATE g(int)",
        "REVOKE EXECUTE ON FUNCTION f(int, text) FROM PUBLIC; GRANT EXECUTE ON FUNCTION f(int, text) TO {r}; "
        "REVOKE ALL ON PROCEDURE p FROM PUBLIC; GRANT EXECUTE ON FUNCTION g(int) TO {s} WITH GRANT OPTION"),
    "types": (
        "SELECT", "CREATE TYPE e AS ENUM ('a'); CREATE DOMAIN d AS int; CREATE TYPE c AS (x int); CREATE TYPE u AS ENUM ()",
        "DROP TYPE e, c, u; DROP DOMAIN d",
        "REVOKE USAGE ON TYPE e, c, u FROM PUBLIC; GRANT USAGE ON TYPE e, c TO {r}; GRANT USAGE ON DOMAIN d TO {s}"),
    "a schema with all in it": (
        "SELECT",
        'CREATE SCHEMA "My s"; CREATE TABLE "My s"."T" (id serial); '
        'CREATE FUNCTION "My s".f() RETURNS int LANGUAGE sql AS \'SELECT 1\'',
        'DROP SCHEMA "My s" CASCADE',
        'GRANT USAGE ON SCHEMA "My s" TO {r}; GRANT CREATE ON SCHEMA "My s" TO {s} WITH GRANT OPTION; '
        'GRANT SELECT ON "My s"."T", "My s"."T_id_seq" TO {r}; REVOKE ALL ON FUNCTION "My s".f FROM PUBLIC; '
        'INSERT INTO "My s"."T" DEFAULT VALUES'),
    "a view that both ways make anew": (
        "CREATE VIEW w AS SELECT 1 AS a", "DROP VIEW w; CREATE VIEW w AS SELECT 1 AS a, 2 AS b",
        "DROP VIEW w; CREATE VIEW w AS SELECT 1 AS a", "GRANT SELECT (b) ON w TO {r}; GRANT SELECT ON w TO {s}"),
    "a function that takes a type which goes too": (
        "SELECT", "CREATE TYPE e AS ENUM ('a'); CREATE FUNCTION f(a e, b e[]) RETURNS e LANGUAGE sql AS 'SELECT a'",
        "DROP FUNCTION f; DROP TYPE e", "REVOKE EXECUTE ON FUNCTION f FROM PUBLIC; GRANT EXECUTE ON FUNCTION f TO {r}"),
    "the type of a table's rows": (
        "SELECT", "CREATE TABLE t (id int)", "DROP TABLE t",
        "REVOKE USAGE ON TYPE t FROM PUBLIC; GRANT USAGE ON TYPE t TO {s}; INSERT INTO t VALUES (1)"),
    "what stood before others got more by default": (
        "SELECT", "CREATE TABLE t (id serial); CREATE SEQUENCE q; CREATE VIEW w AS SELECT 1 AS a",
        "DROP TABLE t; DROP SEQUENCE q; DROP VIEW w",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {r}; ALTER DEFAULT PRIVILEGES GRANT USAGE ON SEQUENCES TO {r}; "
        "INSERT INTO t DEFAULT VALUES"),
    "what is handed to somebody else": (
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {r}; GRANT CREATE ON SCHEMA public TO {s}; "
        "ALTER DEFAULT PRIVILEGES FOR ROLE {s} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
        "CREATE VIEW w AS SELECT 1 AS a; ALTER VIEW w OWNER TO {s}; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; "
        "ALTER FUNCTION f OWNER TO {s}",
        "DROP VIEW w; DROP FUNCTION f", "REVOKE SELECT ON w FROM {r}; REVOKE EXECUTE ON FUNCTION f FROM PUBLIC"),
    "a grant option that was taken back": (
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {r} WITH GRANT OPTION; "
        "ALTER DEFAULT PRIVILEGES GRANT INSERT ON TABLES TO {s}", "CREATE TABLE t (id int)", "DROP TABLE t",
        "REVOKE GRANT OPTION FOR SELECT ON t FROM {r}; GRANT INSERT ON t TO {s} WITH GRANT OPTION; INSERT INTO t VALUES (1)"),
    "a partition": (
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE p PARTITION OF t FOR VALUES FROM (0) TO (9)", "DROP TABLE p",
        "GRANT SELECT (id), DELETE ON p TO {r}; INSERT INTO t VALUES (1)"),
    "a table of which nobody may read what all others are read for": (
        "ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT ON TABLES TO {r}; "
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO {r}; "
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
        "CREATE TABLE t (id serial PRIMARY KEY); CREATE TABLE o (id int); GRANT UPDATE ON t TO {s}; "
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "DROP TABLE t, o; DROP FUNCTION f()",
        "REVOKE SELECT ON t FROM {r}; REVOKE ALL ON SEQUENCE t_id_seq FROM {r}; GRANT EXECUTE ON FUNCTION f() TO PUBLIC; "
        "INSERT INTO t DEFAULT VALUES"),
}  # fmt: skip
ACLS = """
SELECT kind, name, grantee, privilege, grantable FROM (
  SELECT c.relkind::text AS kind, c.oid::regclass::text AS name, coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's'
         ELSE 'r' END::"char", c.relowner)) AS acl FROM pg_class c
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND {user} c.relnamespace)
  UNION ALL SELECT 'column', a.attrelid::regclass || '.' || a.attname, a.attacl FROM pg_attribute a
         JOIN pg_class c ON c.oid = a.attrelid WHERE a.attacl IS NOT NULL AND {user} c.relnamespace)
  UNION ALL SELECT 'routine', p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner)) FROM pg_proc p
         WHERE {user} p.pronamespace)
  UNION ALL SELECT 'type', t.oid::regtype::text, coalesce(t.typacl, acldefault('T', t.typowner)) FROM pg_type t
         WHERE {user} t.typnamespace) AND t.typelem = 0
  UNION ALL SELECT 'schema', n.nspname, coalesce(n.nspacl, acldefault('n', n.nspowner)) FROM pg_namespace n WHERE {user} n.oid)
) AS o, LATERAL (SELECT coalesce(r.rolname, 'PUBLIC') AS grantee, a.privilege_type AS privilege, a.is_grantable AS grantable
                 FROM aclexplode(o.acl) a LEFT JOIN pg_roles r ON r.oid = a.grantee) AS a
ORDER BY kind, name COLLATE "C", grantee, privilege
""".replace(
    "{user}", "EXISTS (SELECT FROM pg_namespace m WHERE m.nspname !~ '^(pg_|information_schema|migration)' AND m.oid ="
)  # fmt: skip


@contextmanager
def readers(database: Database) -> Iterator[dict[str, str]]:
    """Two roles that end with the test, quoted."""
    made = {"r": identifier(f'reader "{database.name}"'), "s": identifier(f"second {database.name}")}
    database.rows("; ".join(f"CREATE ROLE {role}" for role in made.values()))
    try:
        yield made
    finally:
        for role in made.values():
            if database.rows(f"SELECT 1 FROM pg_roles WHERE quote_ident(rolname) = {literal(role)}"):
                database.rows(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


@pytest.fixture
def roles(empty: Database) -> Iterator[dict[str, str]]:
    """Two roles, see :func:`readers`."""
    with readers(empty) as made:
        yield made


def go_and_come(database: Database, project: Project, roles: dict[str, str], what: str) -> None:
    """One of GIVEN goes and comes back: the rights are what they were."""
    setup, up, down, by_hand = (text.format(**roles) for text in GIVEN[what])
    two(project, setup, up, down)
    database.rows(by_hand)
    before = database.rows(ACLS)

    down_and_up(project, database, "SELECT")

    assert database.rows(ACLS) == before
    assert database.rows("SELECT state FROM migration.stash") == [("restored",)]


@pytest.mark.parametrize("what", some(GIVEN))
def test_rights_stand_again_as_they_stood(empty: Database, project: Project, roles: dict[str, str], what: str) -> None:
    """Whatever anybody could do with it before the downgrade, he can after the next upgrade, and nobody can more."""
    go_and_come(empty, project, roles, what)


def test_what_the_upgrade_grants_stays(empty: Database, project: Project, roles: dict[str, str]) -> None:
    """A revision that was written anew between and grants more keeps that, beside what is given again."""
    plain = "CREATE SEQUENCE q; CREATE TABLE t (id int PRIMARY KEY)"
    two(project, "SELECT", plain, "DROP SEQUENCE q; DROP TABLE t")
    empty.rows("GRANT SELECT ON SEQUENCE q TO {r}; GRANT SELECT ON t TO {r}; INSERT INTO t VALUES (1)".format(**roles))
    project.downgrade("-1")
    more = "; GRANT UPDATE ON SEQUENCE q TO {s}; GRANT INSERT ON t TO {s}".format(**roles)
    (file,) = project.versions.glob("002*.py")
    file.write_text(file.read_text().replace(repr(plain), repr(plain + more)))

    project.upgrade()

    asked = f"SELECT name, privilege FROM ({ACLS}) AS a WHERE grantee <> current_user AND name IN ('q', 't') AND kind <> 'type'"
    assert empty.rows(asked) == [("q", "SELECT"), ("q", "UPDATE"), ("t", "SELECT"), ("t", "INSERT")]


def test_what_is_given_by_default_since_the_downgrade_stays(
    empty: Database, project: Project, roles: dict[str, str]
) -> None:
    """Whoever has got rights on all tables to come in between has them on those that come back, beside who had been refused."""
    two(
        project,
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {s}".format(**roles),
        "CREATE TABLE t (id int)",
        "DROP TABLE t",
    )
    empty.rows("REVOKE SELECT ON t FROM {s}; INSERT INTO t VALUES (1)".format(**roles))

    down_and_up(project, empty, "ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT ON TABLES TO {r}".format(**roles))

    asked = f"SELECT grantee, privilege FROM ({ACLS}) AS a WHERE name = 't' AND kind = 'r' AND grantee <> current_user"
    assert empty.rows(asked) == [(f'reader "{empty.name}"', "INSERT"), (f'reader "{empty.name}"', "SELECT")]


def test_what_the_upgrade_takes_from_everybody_stays_taken(
    empty: Database, project: Project, roles: dict[str, str]
) -> None:
    """What others had only because a new function gives it is no right to be given again, beside one that somebody granted."""
    plain = "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'"
    two(project, "SELECT", plain, "DROP FUNCTION f()")
    empty.rows("GRANT EXECUTE ON FUNCTION f TO {r}".format(**roles))
    project.downgrade("-1")
    (file,) = project.versions.glob("002*.py")
    file.write_text(file.read_text().replace(repr(plain), repr(plain + "; REVOKE EXECUTE ON FUNCTION f FROM PUBLIC")))

    project.upgrade()

    asked = f"SELECT grantee FROM ({ACLS}) AS a WHERE kind = 'routine' AND grantee <> current_user"
    assert empty.rows(asked) == [(f'reader "{empty.name}"',)]


def test_whoever_owns_it_then_keeps_his_own(empty: Database, project: Project, roles: dict[str, str]) -> None:
    """The default rights of a maker name himself: as the owner of what he makes he is not to lose them."""
    two(
        project,
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {r}".format(**roles),
        "CREATE TABLE t (id int)",
        "DROP TABLE t",
    )
    empty.rows(
        "GRANT CREATE ON SCHEMA public TO {s}; ALTER TABLE t OWNER TO {s}; INSERT INTO t VALUES (1)".format(**roles)
    )

    down_and_up(project, empty, "SELECT")

    own = f"SELECT count(*) FROM ({ACLS}) AS a WHERE name = 't' AND kind = 'r' AND grantee = current_user"
    assert empty.value(own) >= 7
    assert (
        empty.value(f"SELECT count(*) FROM ({ACLS}) AS a WHERE name = 't' AND grantee = 'reader \"{empty.name}\"'") == 1
    )


def test_a_table_that_somebody_had_for_himself_keeps_them(
    empty: Database, project: Project, roles: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody could look at it as the trial began, the step is refused and not gone through without its rights."""
    two(project, "SELECT", "CREATE TABLE t (id int)", "DROP TABLE t")
    empty.rows("GRANT SELECT ON t TO {r}; INSERT INTO t VALUES (1)".format(**roles))
    before, real = empty.rows(ACLS), structure.of_everything

    def locked(*given: Any) -> Any:
        with empty.connect(autocommit=False) as other, other.cursor() as cursor:
            cursor.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
            found = real(*given)
            other.rollback()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(structure, "of_everything", locked)
        with pytest.raises(Refused, match="in its trial"):
            project.downgrade("-1")
    down_and_up(project, empty, "SELECT")

    assert empty.rows(ACLS) == before


def test_rights_wait_for_row_level_security(
    empty: Database, project: Project, roles: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Who might read some rows is not given a right to read all: policies made by hand do not come back by themselves."""
    two(project, "SELECT", "CREATE TABLE t (id int)", "DROP TABLE t")
    empty.rows("GRANT SELECT ON t TO {r}; INSERT INTO t VALUES (1), (2)".format(**roles))
    empty.rows("CREATE POLICY first ON t USING (id = 1); ALTER TABLE t ENABLE ROW LEVEL SECURITY")

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, "SELECT")

    assert "not given again: rights on t: its row level security is not there again" in caplog.text
    assert empty.value("SELECT relacl FROM pg_class WHERE relname = 't'") is None


def test_another_owner_is_told(
    empty: Database, project: Project, roles: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """What the upgrade makes belongs to whoever migrates, and whose it was has no right on it any more."""
    two(project, "SELECT", "CREATE VIEW w AS SELECT 1 AS a", "DROP VIEW w")
    empty.rows("GRANT CREATE ON SCHEMA public TO {s}; ALTER VIEW w OWNER TO {s}".format(**roles))

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, "SELECT")

    assert f"w belonged to second {empty.name} and belongs to " in caplog.text


def test_a_role_that_is_gone_is_told(
    empty: Database, project: Project, roles: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Where nobody is called so any more, the right cannot be given, and that is said; all others are."""
    two(project, "SELECT", "CREATE SEQUENCE q", "DROP SEQUENCE q")
    empty.rows("GRANT SELECT ON SEQUENCE q TO {r}, {s}".format(**roles))

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, "DROP ROLE {s}".format(**roles))

    assert f"not given again: SELECT on sequence q to second {empty.name}: there is no such role" in caplog.text
    reader = literal(f'reader "{empty.name}"')
    assert empty.value(f"SELECT has_sequence_privilege({reader}, 'q', 'SELECT')")


@pytest.mark.parametrize(
    ("up", "meanwhile", "name"),
    [
        ("CREATE SEQUENCE IF NOT EXISTS q", "CREATE SEQUENCE q", "q"),
        ("ALTER SEQUENCE IF EXISTS o RENAME TO q; CREATE SEQUENCE IF NOT EXISTS q", "CREATE SEQUENCE o", "q"),
    ],
    ids=["under its name", "under another name"],
)
def test_what_is_there_already_gets_none(
    empty: Database, project: Project, roles: dict[str, str], caplog: pytest.LogCaptureFixture, up: str, meanwhile: str,
    name: str,
) -> None:  # fmt: skip
    """What somebody has made between is his, and rights on it are his to give; that is told."""
    two(project, "SELECT", up, "DROP SEQUENCE q")
    empty.rows("GRANT SELECT ON SEQUENCE q TO {r}".format(**roles))

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, meanwhile)

    assert empty.value(f"SELECT relacl FROM pg_class WHERE relname = '{name}'") is None
    assert "not given again: rights on sequence q, which was there before" in caplog.text


def test_a_column_that_is_gone_is_told(
    empty: Database, project: Project, roles: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """A right on a column that the revision makes no more hinders no upgrade."""
    two(project, "SELECT", "CREATE VIEW w AS SELECT 1 AS a, 2 AS b", "DROP VIEW w")
    empty.rows("GRANT SELECT (a, b) ON w TO {r}".format(**roles))
    project.downgrade("-1")
    (file,) = project.versions.glob("002*.py")
    file.write_text(file.read_text().replace(", 2 AS b", ""))

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        project.upgrade()

    reader = f'reader "{empty.name}"'
    assert f"not given again: SELECT on column b of w to {reader}: there is no such column" in caplog.text
    assert empty.value(f"SELECT has_column_privilege({literal(reader)}, 'w', 'a', 'SELECT')")


def test_a_body_that_commits_keeps_them_too(empty: Database, project: Project, roles: dict[str, str]) -> None:
    """What such a downgrade takes with rights on it is recorded before the body makes it final."""
    body = "with op.get_context().autocommit_block():\n    op.execute('DROP INDEX CONCURRENTLY i')\n"
    project.revision(
        "001",
        "create_things",
        sql("CREATE TABLE t (id int)"),
        "raise NotImplementedError",
        reversible="forward-only: x",
    )
    project.revision(
        "002", "alter_things", sql("CREATE INDEX i ON t (id); CREATE VIEW w AS SELECT 1 AS a"), body + sql("DROP VIEW w"),
        transaction="none",
    )  # fmt: skip
    project.upgrade()
    empty.rows("GRANT SELECT ON w TO {r}".format(**roles))
    before = empty.rows(ACLS)

    down_and_up(project, empty, "SELECT")

    assert empty.rows(ACLS) == before
    assert empty.rows("SELECT state FROM migration.stash") == [("restored",)]


BOTH_WAYS = (
    "CREATE TABLE t (id int PRIMARY KEY, secret text)",
    "DROP VIEW IF EXISTS w; CREATE VIEW w AS SELECT id, 1 AS n FROM t; DROP FUNCTION IF EXISTS f; "
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'",
    "DROP VIEW w; CREATE VIEW w AS SELECT id FROM t; DROP FUNCTION f; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
)  # fmt: skip
BY_HAND = """
    GRANT SELECT ON w TO {r}, {s}; GRANT SELECT (n) ON w TO {r}; REVOKE EXECUTE ON FUNCTION f FROM PUBLIC;
    GRANT EXECUTE ON FUNCTION f TO {s}
"""


def others(database: Database) -> list[tuple[Any, ...]]:
    """What others than the owner may do with w and f."""
    asked = f"SELECT name, grantee, privilege FROM ({ACLS}) AS a WHERE grantee <> current_user AND kind IN ('v', 'r', 'routine')"
    return database.rows(asked)


def test_what_the_downgrade_makes_anew_is_told(
    empty: Database, project: Project, roles: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """What it lacks or has too many is told as SQL, and given by nobody: then all is as it was, and after the next upgrade."""
    two(project, *BOTH_WAYS)
    empty.rows(BY_HAND.format(**roles))
    before, all_ = others(empty), empty.rows(ACLS)

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        project.downgrade("-1")
    bare = others(empty)
    said = re.findall(r"was made anew, and others may not do with it what they might: (.*)", caplog.text)
    r, s = roles["r"], roles["s"]
    empty.rows(";".join(one.replace(f'; GRANT SELECT ("n") ON TABLE public.w TO {r}', "") for one in said))
    between = others(empty)
    project.upgrade()

    assert bare == [("f()", "PUBLIC", "EXECUTE")]
    assert sorted(said) == [
        f'GRANT SELECT ON TABLE public.w TO {r}; GRANT SELECT ("n") ON TABLE public.w TO {r}; '
        f"GRANT SELECT ON TABLE public.w TO {s}",
        f"REVOKE EXECUTE ON ROUTINE public.f() FROM PUBLIC; GRANT EXECUTE ON ROUTINE public.f() TO {s}",
    ]
    assert between == before
    assert empty.rows(ACLS) == all_


def test_a_body_that_commits_tells_what_it_makes_anew(
    empty: Database, project: Project, roles: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """What such a downgrade makes in the place of something else is told like any other's."""
    setup, up, down = BOTH_WAYS
    project.revision("001", "create_things", sql(setup), "raise NotImplementedError", reversible="forward-only: x")
    body = "with op.get_context().autocommit_block():\n    op.execute('DROP INDEX CONCURRENTLY i')\n"
    project.revision(
        "002", "alter_things", sql(up + "; CREATE INDEX i ON t (id)"), body + sql(down), transaction="none"
    )
    project.upgrade()
    empty.rows("GRANT SELECT ON w TO {r}".format(**roles))

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        project.downgrade("-1")

    assert (
        f"w was made anew, and others may not do with it what they might: GRANT SELECT ON TABLE public.w TO {roles['r']}"
        in (caplog.text)
    )


def test_rights_alone_need_no_schema_and_guard_no_rows(
    empty: Database, project: Project, roles: dict[str, str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Their stash is a row of the manifest: it can be shown, verified and purged, and an older one stays the newest with rows."""
    project.revision("001", "create_things", sql("CREATE TABLE t (id int PRIMARY KEY)"), sql("DROP TABLE t"))
    project.revision("002", "alter_things", sql("ALTER TABLE t ADD v int"), sql("ALTER TABLE t DROP v"))
    project.revision("003", "add_view", sql("CREATE VIEW w AS SELECT 1 AS a"), sql("DROP VIEW w"))
    project.upgrade("002")
    empty.rows("INSERT INTO t VALUES (1, 2)")
    project.downgrade("-1")
    project.upgrade("003")
    empty.rows("GRANT SELECT ON w TO {r} WITH GRANT OPTION".format(**roles))
    project.downgrade("-1")
    assert empty.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'migration_stash_2'") == 0
    empty.rows("UPDATE migration.stash SET keep_until = now(), kept_at = now() - interval '99 days'")

    monkeypatch.setattr(cli, "ROOT", project.folder)

    assert run(capsys, "migrate-stash-list")[0] == 0
    assert (
        f'rights     on w: SELECT to reader "{empty.name}" with grant option'
        in run(capsys, "migrate-stash-show", "ID=2")[1]
    )
    assert run(capsys, "migrate-stash-verify")[0] == 0
    assert "it is the newest there is" in run(capsys, "migrate-stash-purge", "ID=1", "CONFIRM=migration_stash_1")[2]
    assert run(capsys, "migrate-stash-purge", "ID=2", "CONFIRM=migration_stash_2")[0] == 0


def test_names_of_the_record_are_looked_up_and_never_run(
    empty: Database, project: Project, roles: dict[str, str]
) -> None:
    """Whoever can write to the manifest cannot have SQL run by whoever upgrades."""
    two(project, "SELECT", "CREATE SEQUENCE q; CREATE TABLE t (id int)", "DROP SEQUENCE q; DROP TABLE t")
    empty.rows("INSERT INTO t VALUES (1)")
    project.downgrade("-1")
    hostile = [
        ["SEQUENCE", '"q TO PUBLIC; DROP TABLE t; --"', [["", "SELECT", False]], [], "", False],
        ["TABLE; DROP TABLE t", "t", [], [], "", False],
        ["SEQUENCE", "q", [["", "SELECT ON q TO PUBLIC; DROP TABLE t; --", False], ["", "ALL", False]], [], "", False],
    ]
    bad = json.dumps(hostile)
    empty.rows("UPDATE migration.stash SET rights = " + literal(bad))

    project.upgrade()

    assert empty.rows("SELECT id FROM t") == [(1,)]
    assert empty.value("SELECT relacl FROM pg_class WHERE relname = 'q'") is None
