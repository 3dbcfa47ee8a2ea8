"""Expectations against real objects: true, false, and what is said to be there instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from mcp_planner_schema.guard import postcheck
from mcp_planner_schema.guard.postcheck import Expectation
from mcp_planner_schema.operations import expect
from tests.conftest import Database, _clone

NASTY = "a \"b\" c'd %s %% :e $check$ $$ \\f \\' Ж;--"
LONG = "ä" * 31 + "x"
QUOTED = '"' + NASTY.replace('"', '""') + '"'
TEXT = NASTY.replace("'", "''")

OBJECTS = f"""
CREATE TYPE mood AS ENUM ('sad', 'so, so', 'it''s \\ fine');
CREATE TYPE none_yet AS ENUM ();
CREATE TYPE pair AS (a int, b int);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE SCHEMA app;
CREATE TYPE app.mood AS ENUM ('other');
CREATE TABLE t (
    id int PRIMARY KEY, n numeric(10,2) NOT NULL DEFAULT 0.7, m mood DEFAULT 'sad', am app.mood, ms mood[],
    g int GENERATED ALWAYS AS (id * 2) STORED, k int, u int
);
INSERT INTO t (id, k, u) VALUES (1, 1, 1), (2, NULL, 1);
ALTER TABLE t ADD CONSTRAINT k_set NOT NULL k NOT VALID;
ALTER TABLE t ADD CONSTRAINT u_small CHECK (u < 9), ADD CONSTRAINT u_large CHECK (u > 9) NOT VALID;
CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE VIEW v AS SELECT 1 AS one;
CREATE MATERIALIZED VIEW mv AS SELECT 1 AS one;
CREATE SEQUENCE s;
CREATE INDEX t_u ON t (u);
CREATE UNIQUE INDEX t_n_id ON t (n, id);
CREATE TABLE part PARTITION OF p FOR VALUES FROM (1) TO (9);
CREATE INDEX p_only ON ONLY p (id);
CREATE FUNCTION f(uuid, integer DEFAULT 1) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION f(VARIADIC text[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION f(mood, app.mood) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE nothing() LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER on_it BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER off BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER replica BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER always BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE t DISABLE TRIGGER off, ENABLE REPLICA TRIGGER replica, ENABLE ALWAYS TRIGGER always;
CREATE SCHEMA {QUOTED};
CREATE TYPE app.{QUOTED} AS ENUM ('{TEXT}');
CREATE TABLE {QUOTED}.{QUOTED} ({QUOTED} int DEFAULT 1 NOT NULL, CONSTRAINT {QUOTED} CHECK (true));
CREATE INDEX "i {NASTY[:20].replace('"', '""')}" ON {QUOTED}.{QUOTED} ({QUOTED});
CREATE TRIGGER {QUOTED} BEFORE UPDATE ON {QUOTED}.{QUOTED} FOR EACH ROW EXECUTE FUNCTION touch();
CREATE FUNCTION {QUOTED}.{QUOTED}(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE "{LONG}" ("{LONG}" int CONSTRAINT "{LONG}" CHECK (true));
-- what a search_path could find instead
CREATE SCHEMA evil;
CREATE TABLE evil.only_here (id int);
CREATE TYPE evil.mood AS ENUM ('evil');
CREATE TABLE evil.pg_class (relname text, relnamespace oid, relkind text);
CREATE FUNCTION evil.cardinality(text[]) RETURNS int LANGUAGE sql AS 'SELECT 0';
CREATE FUNCTION evil.always(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR evil.= (FUNCTION = evil.always, LEFTARG = text, RIGHTARG = text);
"""


@pytest.fixture(scope="module")
def objects(empty_template: Any) -> Iterator[Database]:
    """A database with one of everything; nothing in it is changed."""
    with _clone(empty_template) as database:
        database.rows(OBJECTS)
        with pytest.raises(psycopg2.errors.UniqueViolation):  # leaves an INVALID index behind
            database.rows("CREATE UNIQUE INDEX CONCURRENTLY t_invalid ON t (u)")
        yield database


def problem(database: Database, one: Expectation, *, settings: str = "", upgrade: bool = True) -> str:
    """What the DO block says of one expectation; nothing where it holds."""
    with database.connect() as connection, connection.cursor() as cursor:
        if settings:
            cursor.execute(settings)
        try:
            cursor.execute(postcheck.compile_block("001", [one], upgrade=upgrade))
        except psycopg2.errors.RaiseException as error:
            return str(error.diag.message_primary).removeprefix("Migration failed: revision 001: expected ")
    return ""


TRUE = [
    expect.table("t"),
    expect.table("p"),
    expect.table("part"),
    expect.column("t", "id"),
    expect.column("t", "n", type="numeric(10,2)", nullable=False, default="0.7"),
    expect.column("t", "m", type="mood", nullable=True, default="'sad'::mood"),
    expect.column("t", "am", type="app.mood"),
    expect.column("t", "ms", type="mood[]"),
    expect.column("v", "one"),
    expect.index("t_u"),
    expect.index("t_u", table="t", unique=False),
    expect.index("t_n_id", table="t", unique=True),
    expect.constraint("t", "u_small"),
    expect.constraint("t", "u_large", validated=False),
    expect.constraint("t", "t_pkey"),
    expect.enum("mood", ["sad", "so, so", "it's \\ fine"]),
    expect.enum("mood", ["other"], schema="app"),
    expect.enum("none_yet", []),
    expect.function("f(uuid, integer)"),
    expect.function("f( uuid,integer )"),
    expect.function("f(text[])"),
    expect.function("f(mood, app.mood)"),
    expect.function("nothing()"),
    expect.trigger("t", "on_it"),
    expect.trigger("t", "always"),
    expect.absent(expect.table("u")),
    expect.absent(expect.absent(expect.table("t"))),
    expect.absent(expect.column("t", "id", type="bigint")),
    expect.absent(expect.index("t_invalid")),
    expect.query("SELECT count(*) FROM t", equals=2),
    expect.query("SELECT 1.50::numeric; ", equals="1.50"),
    expect.query("SELECT true -- really", equals=True),
    expect.query("SELECT NULL::int", equals=None),
    expect.query("SELECT '50%' || ':x' || E'\\\\' || $$'$$", equals="50%:x\\'"),
    expect.rows("SELECT * FROM t WHERE k IS NULL -- one", count=1),
    expect.rows("SELECT FROM t WHERE false", count=0),
    expect.table(NASTY, schema=NASTY),
    expect.column(NASTY, NASTY, schema=NASTY, type="integer", nullable=False, default="1"),
    expect.constraint(NASTY, NASTY, schema=NASTY),
    expect.trigger(NASTY, NASTY, schema=NASTY),
    expect.enum(NASTY, [NASTY], schema="app"),
    expect.function(f"{NASTY}(integer)", schema=NASTY),
    expect.index("i " + NASTY[:20], table=NASTY, schema=NASTY),
    expect.table(LONG),
    expect.column(LONG, LONG),
    expect.constraint(LONG, LONG),
    # Columns named like what the block itself uses.
    expect.query(
        "SELECT count(*) FROM (VALUES (1, 2, 3)) AS x (problems, own_path, found) WHERE problems < own_path", equals=1
    ),
]

FALSE = [
    (expect.table("u"), "table u, found nothing"),
    (expect.table("v"), "table v, found a view"),
    (expect.table("mv"), "table mv, found a materialized view"),
    (expect.table("s"), "table s, found a sequence"),
    (expect.table("t_u"), "table t_u, found an index"),
    (expect.table("p_only"), "table p_only, found an index"),
    (expect.table("pair"), "table pair, found a composite type"),
    (expect.table("only_here"), "table only_here, found nothing"),
    (expect.table("t", schema="app"), "table app.t, found nothing"),
    (expect.table("t", schema="gone"), "table gone.t, found nothing"),
    (expect.column("t", "x"), "column t.x, found nothing"),
    (expect.column("gone", "x"), "column gone.x, found nothing"),
    (expect.column("t", "id", type="bigint"), "column t.id of type bigint, found integer not null"),
    (expect.column("t", "n", type="numeric"), "column t.n of type numeric, found numeric(10,2) not null default 0.7"),
    (expect.column("t", "n", nullable=True), "column t.n null, found numeric(10,2) not null default 0.7"),
    (expect.column("t", "n", default="0.8"), "column t.n default 0.8, found numeric(10,2) not null default 0.7"),
    (expect.column("t", "g", default="(id * 2)"), "column t.g default (id * 2), found integer generated as (id * 2)"),
    (expect.column("t", "am", type="mood"), "column t.am of type mood, found app.mood"),
    (expect.index("t_invalid"), "valid index t_invalid, found INVALID: CREATE UNIQUE INDEX t_invalid ON public.t"),
    (expect.index("p_only"), "valid index p_only, found INVALID: CREATE INDEX p_only ON ONLY public.p USING btree (id)"),
    (expect.index("t_u", table="p"), "valid index t_u on p, found CREATE INDEX t_u ON public.t USING btree (u)"),
    (expect.index("t_u", unique=True), "valid unique index t_u, found CREATE INDEX t_u ON public.t USING btree (u)"),
    (expect.index("t_n_id", unique=False), "valid index that is not unique t_n_id, found CREATE UNIQUE INDEX"),
    (expect.index("t"), "valid index t, found nothing"),
    (expect.constraint("t", "u_large"), "constraint u_large on t, found CHECK ((u > 9)) NOT VALID"),
    (expect.constraint("t", "x"), "constraint x on t, found nothing"),
    (expect.constraint("p", "u_small"), "constraint u_small on p, found nothing"),
    (expect.enum("mood", ["sad"]), "enum mood (sad), found (sad, so, so, it's \\ fine)"),
    (expect.enum("mood", ["so, so", "sad", "it's \\ fine"]), "enum mood (so, so, sad, it's \\ fine), found (sad, so, so, "),
    (expect.enum("none_yet", ["a"]), "enum none_yet (a), found ()"),
    (expect.enum("positive", ["a"]), "enum positive (a), found a domain"),
    (expect.enum("pair", []), "enum pair (), found a composite type"),
    (expect.enum("gone", ["a"]), "enum gone (a), found nothing"),
    (expect.function("f(uuid)"), "function f(uuid), found f(mood, app.mood), f(text[]), f(uuid, integer)"),
    (expect.function("gone()"), "function gone(), found nothing"),
    (expect.trigger("t", "off"), "enabled trigger off on t, found disabled: CREATE TRIGGER off BEFORE UPDATE ON public.t"),
    (expect.trigger("t", "replica"), "enabled trigger replica on t, found for replicas only: CREATE TRIGGER"),
    (expect.trigger("t", "x"), "enabled trigger x on t, found nothing"),
    (expect.absent(expect.table("t")), "no table t, found the table"),
    (expect.query("SELECT count(*) FROM t", equals=3), "3 from SELECT count(*) FROM t, found 2"),
    (expect.query("SELECT NULL::text", equals="x"), "x from SELECT NULL::text, found nothing"),
    (expect.query("SELECT 1", equals=None), "None from SELECT 1, found 1"),
    (expect.rows("SELECT * FROM t", count=1), "1 rows from SELECT * FROM t, found 2 rows"),
    (expect.query("SELECT x FROM gone", equals=1), '1 from SELECT x FROM gone, found an error: relation "gone" does not exist'),
    (expect.query("SELECT id FROM t", equals=1), "1 from SELECT id FROM t, found an error: more than one row"),
    (expect.query("SELECT 1 / 0", equals=1), "1 from SELECT 1 / 0, found an error: division by zero"),
    (expect.table(NASTY), f"table {NASTY}, found nothing"),
]  # fmt: skip


@pytest.mark.parametrize("one", TRUE, ids=lambda one: one.says[:70])
def test_what_is_there_holds(objects: Database, one: Expectation) -> None:
    """An expectation that is met raises nothing, whatever its names are made of."""
    assert problem(objects, one) == ""


@pytest.mark.parametrize(("one", "said"), FALSE, ids=[said[:70] for _, said in FALSE])
def test_what_is_not_there_is_named(objects: Database, one: Expectation, said: str) -> None:
    """An expectation that is not met names what is there instead."""
    assert problem(objects, one).startswith(said)


@pytest.mark.parametrize(
    "settings",
    [
        "SET standard_conforming_strings = off; SET escape_string_warning = off",
        "SET search_path = evil, pg_catalog, public",
        "SET search_path = ''",
        "CREATE TEMP TABLE t (x int); CREATE TEMP TABLE u (x int)",
    ],
)
def test_settings_change_no_answer(objects: Database, settings: str) -> None:
    """Neither standard_conforming_strings nor a search_path that shadows tables, types and operators changes an answer."""
    catalog = [one for one in TRUE if one.catalog]
    wrong = [(one, said) for one, said in FALSE if one.catalog]

    assert [text for one in catalog if (text := problem(objects, one, settings=settings))] == []
    assert [said for one, said in wrong if not problem(objects, one, settings=settings).startswith(said)] == []


def test_a_not_null_that_was_never_checked_does_not_count(objects: Database) -> None:
    """PostgreSQL 18 calls a column NOT NULL whose constraint is NOT VALID; the rows may still hold nulls."""
    assert (
        problem(objects, expect.column("t", "k", nullable=False))
        == "column t.k not null, found integer not null (not valid)"
    )


def test_a_query_sees_the_steps_own_search_path(objects: Database) -> None:
    """A query of the author's finds what the revision's own search_path finds; the catalog is asked under a fixed one."""
    one = expect.query("SELECT count(*) FROM only_here", equals=0)

    assert "does not exist" in problem(objects, one)
    assert problem(objects, one, settings="SET search_path = evil") == ""


def test_the_search_path_is_the_steps_again_after_the_block(objects: Database) -> None:
    """The version row is written under the search_path that the step had before its post-check."""
    with objects.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute('SET search_path = "$user", app')

        cursor.execute(
            postcheck.compile_block("001", [expect.table("t"), expect.rows("SELECT 1", count=1)], upgrade=True)
        )

        cursor.execute("SHOW search_path")
        assert cursor.fetchone() == ('"$user", app',)


@pytest.mark.parametrize("one", [one for one in TRUE if one.reversible], ids=lambda one: one.says[:70])
def test_the_opposite_of_true_is_false(objects: Database, one: Expectation) -> None:
    """After a downgrade each expectation means the opposite, and says so without a double negation."""
    opposite = postcheck.opposite(one)

    assert problem(objects, opposite) != ""
    assert not opposite.says.startswith("no no ")
    assert postcheck.opposite(opposite).says == one.says


def test_a_query_is_one_query(objects: Database) -> None:
    """A second statement behind the first is a syntax error, and not run."""
    with pytest.raises(psycopg2.errors.SyntaxError):
        problem(objects, expect.query("SELECT 1; DROP TABLE t", equals=1))


def test_names_cannot_hold_nul() -> None:
    """A NUL byte, which no PostgreSQL text can hold, is refused where the revision is written."""
    with pytest.raises(ValueError, match="NUL"):
        expect.table("a\0b")


def test_a_function_needs_its_arguments() -> None:
    """A function without parentheses could mean any of its overloads: refused where it is written."""
    with pytest.raises(ValueError, match=r"name\(uuid, integer\)"):
        expect.function("calculate")
