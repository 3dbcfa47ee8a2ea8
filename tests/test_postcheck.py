"""Post-checks in a run: they roll the step back whole, name everything that is wrong, and are the same text offline."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, event

from mcp_planner_schema.guard.findings import Broken
from mcp_planner_schema.guard.postcheck import compile_block, literal
from mcp_planner_schema.operations import expect
from tests.catalog import catalog, difference, kept
from tests.conftest import Database, Project

CREATE = "op.execute('CREATE TABLE a (id int)')"
DROP = "op.execute('DROP TABLE a')"


def test_a_failing_check_rolls_the_step_back(empty: Database, project: Project) -> None:
    """Exit code 1, all failures in one message with what was found, and neither table nor version remain."""
    project.revision("001", "create_first", "op.execute('CREATE TABLE first (id int)')", "op.drop_table('first')",
                     expectations='expect.table("first")')  # fmt: skip
    project.revision(
        "002", "create_a", CREATE, DROP,
        expectations='expect.table("b"), expect.table("a"), expect.column("a", "id", type="bigint"), '
        'expect.index("a_id"), expect.rows("SELECT 1", count=2), expect.query("SELECT x FROM a", equals=1)',
    )  # fmt: skip

    ran = project.alembic("upgrade", "head")

    assert ran.returncode == 1
    assert (
        "Migration failed: revision 002: expected table b, found nothing; "
        "expected column a.id of type bigint, found integer; expected valid index a_id, found nothing; "
        "expected 2 rows from SELECT 1, found 1 rows; "
        'expected 1 from SELECT x FROM a, found an error: column "x" does not exist'
    ) in ran.stderr
    assert "Traceback" not in ran.stderr
    assert empty.rows(
        "SELECT to_regclass('a')::text, to_regclass('first')::text, version_num FROM alembic_version"
    ) == [(None, "first", "001")]
    assert empty.rows("SELECT revision, outcome FROM migration.history ORDER BY id") == [
        ("001", "done"),
        ("002", "failed"),
    ]


def test_a_failing_check_rolls_the_downgrade_back(empty: Database, project: Project) -> None:
    """A downgrade that leaves behind what the upgrade promised fails with its own words and changes nothing."""
    project.revision("001", "create_a", CREATE, "op.execute('ALTER TABLE a RENAME TO b; CREATE TABLE a (id int)')",
                     expectations='expect.table("a"), expect.column("a", "id", type="integer")')  # fmt: skip
    project.upgrade()
    before = catalog(empty)

    ran = project.alembic("downgrade", "base")

    assert ran.returncode == 1
    assert (
        "Rollback failed: revision 001: expected no table a, found the table; "
        "expected no column a.id of type integer, found integer"
    ) in ran.stderr
    assert difference(before, catalog(empty)) == []
    assert empty.rows("SELECT version_num FROM alembic_version") == [("001",)]


@pytest.mark.parametrize(
    ("down", "fails"),
    [
        ("", "expected no table a, found the table"),
        ('expectations_down = [expect.table("a"), expect.rows("SELECT * FROM a", count=0)]', ""),
        ('expectations_down = [expect.rows("SELECT * FROM a", count=7)]', "expected 7 rows from SELECT"),
    ],
)
def test_expectations_down_say_otherwise(empty: Database, project: Project, down: str, fails: str) -> None:
    """Where expectations_down is given it is checked as written, instead of the opposite of expectations."""
    project.revision(
        "001", "create_a", CREATE, "op.execute('DELETE FROM a')", expectations='expect.table("a")', more=down
    )
    project.upgrade()

    if fails:
        with pytest.raises(Broken, match=f"Rollback failed: revision 001: {fails}"):
            project.downgrade("base")
    else:
        project.downgrade("base")

    assert empty.value("SELECT count(*) FROM alembic_version") == (1 if fails else 0)


def test_queries_are_not_turned_around(empty: Database, project: Project) -> None:
    """What a query gives after the upgrade says nothing about the way back; they are left out there."""
    project.revision(
        "001",
        "create_a",
        CREATE,
        DROP,
        expectations='expect.table("a"), expect.rows("SELECT * FROM a", count=0), expect.query("SELECT 1", equals=1)',
    )
    project.upgrade()

    project.downgrade("base")

    assert empty.rows("SELECT * FROM alembic_version") == []


def test_what_holds_already_is_warned_of(empty: Database, project: Project) -> None:
    """An expectation that is true before the upgrade proves nothing about it: one warning names them, and the run goes on."""
    empty.rows("CREATE SCHEMA app; CREATE TABLE app.old (id int); CREATE TABLE old (id int)")
    project.revision(
        "001", "create_a", CREATE, DROP,
        expectations='expect.table("a"), expect.table("old"), expect.absent(expect.table("none")), '
        'expect.column("old", "id", schema="app"), expect.rows("SELECT 1", count=1)',
        more='expectations_down = [expect.table("old")]',
    )  # fmt: skip

    ran = project.alembic("upgrade", "head", PGOPTIONS="-c search_path=app")

    assert ran.returncode == 0, ran.stderr
    warned = [line.strip() for line in ran.stderr.splitlines() if "holds already before the upgrade" in line]
    assert warned == [
        "what  this holds already before the upgrade: table old; no table none; column app.old.id",
    ]


def test_online_and_offline_run_the_same_text(empty: Database, project: Project) -> None:
    """The DO block that --sql writes is to the letter the one that the server is sent."""
    nasty = "$check$ 'q' \\ %s :x é"
    wanted = [expect.query(f"SELECT {literal(nasty)} IS NULL", equals=False), expect.table("a")]
    project.revision("001", "create_a", CREATE, DROP,
                     expectations=f'expect.query({wanted[0].subject!r}, equals=False), expect.table("a")')  # fmt: skip
    sent: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        project.upgrade()
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    written = project.alembic("upgrade", "head", "--sql").stdout

    block = compile_block("001", wanted, upgrade=True)
    assert block in sent
    assert f"\n{block};\n" in written
    assert block.startswith("DO $check_$")


HOSTILE = (
    *(
        f"FUNCTION public.{name} RETURNS {gives} LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hostile %', '{name}'; END $$"
        for name, gives in (
            ("nextval(text)", "bigint"), ("array_to_string(text[], text)", "text"), ("format(text, mood)", "text"),
            ("array_append(text[], text)", "text[]"), ("to_regclass(text, text)", "regclass"), ("left(name, int)", "text"),
            ("num_nonnulls(mood)", "int"), ("joined(text[], text)", "text[]"), ("joined(bigint, text)", "text"),
            ("joined(name, text)", "text"), ("same(oid, regclass)", "boolean"), ("same(oid, regnamespace)", "boolean"),
            ("same(text[], text[])", "boolean"), ("cardinality(text[])", "int"),
        )
    ),
    *(
        f"OPERATOR public.{sign} (FUNCTION = public.{function}, LEFTARG = {left}, RIGHTARG = {right})"
        for sign, function, left, right in (
            ("||", "joined", "text[]", "text"), ("||", "joined", "bigint", "text"), ("||", "joined", "name", "text"),
            ("=", "same", "oid", "regclass"), ("=", "same", "oid", "regnamespace"), ("=", "same", "text[]", "text[]"),
        )
    ),
)  # fmt: skip


def test_functions_and_operators_of_somebodys_own_are_never_called(empty: Database, project: Project) -> None:
    """Who may create in public can write functions that fit better than PostgreSQL's own: none of them is run."""
    empty.rows("CREATE TYPE mood AS ENUM ('sad')")
    for one in HOSTILE:
        empty.rows("CREATE " + one)
    project.revision(
        "001", "create_a",
        "op.execute(\"CREATE TABLE a (id int PRIMARY KEY, m mood, CONSTRAINT c CHECK (id > 0)); CREATE INDEX i ON a (m); "
        "INSERT INTO a VALUES (1, 'sad'); CREATE FUNCTION f(int) RETURNS int LANGUAGE sql RETURN 1\")",
        "op.execute('DROP FUNCTION f(int)')\nop.execute('DROP TABLE a')",
        expectations='expect.table("a"), expect.column("a", "m", type="mood", nullable=True), expect.index("i", table="a"), '
        'expect.constraint("a", "c"), expect.enum("mood", ["sad"]), expect.function("f(integer)"), '
        'expect.absent(expect.trigger("a", "t")), expect.rows("SELECT 1", count=1), expect.query("SELECT 1", equals=1)',
        more='expectations_down = [expect.absent(expect.table("a"))]',
    )  # fmt: skip
    project.revision(
        "002", "add_nothing", "op.execute('SELECT 1')", "op.execute('SELECT 1')",
        expectations='expect.table("b"), expect.enum("mood", ["x"]), expect.function("f(text)"), '
        'expect.rows("SELECT 1", count=2), expect.query("SELECT 1", equals=2), expect.query("SELECT 1/0", equals=2)',
    )  # fmt: skip
    project.upgrade("001")

    with pytest.raises(Broken) as broken:
        project.upgrade()
    project.downgrade("base")

    assert (
        "expected table b, found nothing; expected enum mood (x), found (sad); expected function f(text), found f(integer); "
        "expected 2 rows from SELECT 1, found 1 rows; expected 2 from SELECT 1, found 1; "
        "expected 2 from SELECT 1/0, found an error: division by zero"
    ) in broken.value.message
    assert empty.rows(f"SELECT * FROM {kept(empty)['a']}") == [(1, "sad")]
