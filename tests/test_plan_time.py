"""What a statement costs per row is reckoned from sizes; what changes the catalog is a moment; the rest is not known."""

from __future__ import annotations

import pytest
from alembic.script import ScriptDirectory

from mcp_planner_schema.inspect import plan_time, statements
from mcp_planner_schema.inspect.plan_time import SLOWER, SPEEDS, Deploy
from mcp_planner_schema.inspect.planned import Estimate
from mcp_planner_schema.inspect.table_sizes import Size
from tests.conftest import Project

MB = 1_000_000
SIZES = {"public.thing": Size(300 * MB, 200 * MB, 9), "public.parent": Size(70 * MB, 40 * MB, 9)}
READ, INDEX, REWRITE = 200 / SPEEDS["read"], 200 / SPEEDS["index"], 300 / SPEEDS["rewrite"]
OTHER = 40 / SPEEDS["read"]


def reckoned(
    project: Project, *sql: str, rewritten: tuple[str, ...] | None = (), alone: bool = False, body: str = ""
) -> Estimate:
    """The time of a revision that sends these statements, in one transaction or each by itself."""
    calls = "\n".join(f"op.execute({one!r})" for one in sql)
    if alone:
        calls = "with op.get_context().autocommit_block():\n    " + calls.replace("\n", "\n    ")
    project.revision("001", "alter_thing", body or calls, 'op.execute("SELECT 1")',
                     transaction="none" if alone else "single")  # fmt: skip
    script = ScriptDirectory.from_config(project.config())
    revision = script.get_revision("001")
    assert revision is not None
    captured = statements.capture(project.config(), script, revision)
    return plan_time.reckon(captured, Deploy(), rewritten, SIZES, single=not alone)


@pytest.mark.parametrize(
    ("statement", "least"),
    [
        ("CREATE INDEX ix ON thing (a)", INDEX),
        ("CREATE UNIQUE INDEX CONCURRENTLY ix ON thing (a)", INDEX),
        ("ALTER TABLE thing ADD CONSTRAINT u UNIQUE (a)", INDEX),
        ("ALTER TABLE thing ADD CONSTRAINT u UNIQUE USING INDEX ix", 0),
        ("ALTER TABLE thing ADD CHECK (a > 0)", READ),
        ("ALTER TABLE thing ADD CONSTRAINT c CHECK (a > 0) NOT VALID", 0),
        ("ALTER TABLE thing VALIDATE CONSTRAINT c", READ),
        ("ALTER TABLE thing ADD FOREIGN KEY (a) REFERENCES parent", READ + OTHER),
        ("ALTER TABLE thing ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.parent (id) NOT VALID", 0),
        ("ALTER TABLE thing ALTER a SET NOT NULL", READ),
        ("ALTER TABLE parts ATTACH PARTITION thing DEFAULT", READ),
        ("ALTER TABLE thing ADD COLUMN b text DEFAULT 'x'", 0),
        ("ALTER TABLE thing DROP COLUMN a, ALTER b DROP DEFAULT", 0),
        ("CREATE TABLE fresh (id int, n int GENERATED ALWAYS AS (id + 1) STORED)", 0),
        ("COMMENT ON TABLE thing IS 'SELECT'", 0),
        ("INSERT INTO thing VALUES (1), (2)", 0),
        ("TRUNCATE thing", 0),
    ],
)
def test_what_can_be_reckoned(project: Project, statement: str, least: float) -> None:
    """Reading and indexing by the table alone, a foreign key by both tables; a change of the catalog is nothing."""
    found = reckoned(project, statement)

    assert found.unknown == ()
    assert (found.least, found.most) == (pytest.approx(least), pytest.approx(least * SLOWER))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE thing SET a = 1 WHERE b", "DELETE FROM thing WHERE a", "INSERT INTO thing SELECT * FROM parent",
        "SELECT f()", "DO $$ BEGIN END $$", "CREATE TABLE fresh AS SELECT 1", "CREATE TABLE fresh (a, b) AS (SELECT 1, 2)",
        "CREATE MATERIALIZED VIEW v AS SELECT 1", "REFRESH MATERIALIZED VIEW v", "CALL p()", "ANALYZE thing",
        "CREATE INDEX ix ON nowhere (a)",
    ],
)  # fmt: skip
def test_what_nobody_knows_has_no_number(project: Project, statement: str) -> None:
    """It is said what that is, and neither the whole time nor that under locks has an end."""
    found = reckoned(project, statement)

    assert len(found.unknown) == 1
    assert (found.least, found.most, found.held) == (0, None, None)


@pytest.mark.parametrize(
    ("statement", "rewritten", "least"),
    [
        ("ALTER TABLE thing ALTER a TYPE bigint", ("public.thing",), REWRITE),
        ("ALTER TABLE thing ALTER a TYPE varchar(90)", (), 0),
        ("ALTER TABLE thing ALTER a TYPE bigint", None, REWRITE),
        ("ALTER TABLE thing ADD b uuid DEFAULT gen_random_uuid()", None, REWRITE),
        ("ALTER TABLE thing ADD b timestamptz DEFAULT now()", None, 0),
        ("COMMENT ON FUNCTION f() IS 'the one that does it'", ("public.thing",), REWRITE),
    ],
)
def test_a_rewrite_is_what_the_trace_has_seen(
    project: Project, statement: str, rewritten: tuple[str, ...] | None, least: float
) -> None:
    """Its word stands above that of the statement, which counts only where nothing was traced."""
    assert reckoned(project, statement, rewritten=rewritten).least == pytest.approx(least)


def test_locks_are_held_to_the_end_of_a_transaction(project: Project) -> None:
    """In one transaction all adds up; by themselves the longest counts, and one that lets others pass does not."""
    index, check = "CREATE INDEX ix ON thing (a)", "ALTER TABLE thing ADD CHECK (a > 0)"
    online = ["CREATE INDEX CONCURRENTLY ix ON thing (a)", "ALTER TABLE thing VALIDATE CONSTRAINT c", "ANALYZE thing"]

    together = reckoned(project, index, check)
    apart = reckoned(project, index, check, *online, alone=True)
    beside = reckoned(project, *online, alone=True)

    assert together.held == together.most == pytest.approx((INDEX + READ) * SLOWER)
    assert apart.held == pytest.approx(max(INDEX, READ) * SLOWER)
    assert (beside.held, beside.most) == (0, None)


def test_what_was_proven_before_is_not_read_again(project: Project) -> None:
    """SET NOT NULL behind a validated check that says the same costs a moment."""
    check = "ALTER TABLE thing ADD CONSTRAINT c CHECK (a IS NOT NULL)"

    found = reckoned(
        project,
        f"{check} NOT VALID",
        "ALTER TABLE thing VALIDATE CONSTRAINT c",
        "ALTER TABLE thing ALTER a SET NOT NULL",
    )

    assert found.parts == (f"reading thing: {plan_time.between(READ, READ * SLOWER)}",)


def test_an_operations_backfill_is_told_apart(project: Project) -> None:
    """Its batches hold nobody up for long, and what they take is told with their rows."""
    body = 'op.backfill("thing", set={"a": "1"}, key=["id"])'

    found = reckoned(project, body=body, alone=True)

    assert (found.unknown, found.held) == (("its backfill",), 0)


@pytest.mark.parametrize(
    ("least", "most", "said"),
    [
        (0, 0.04, "a moment"),
        (0.01, 0.2, "up to about 0.2 s"),
        (2, 20, "about 2 s to 20 s"),
        (90, 900, "about 1 min 30 s to 15 min"),
    ],
)
def test_a_time_is_told_as_people_say_it(least: float, most: float, said: str) -> None:
    """What nobody notices is a moment."""
    assert plan_time.between(least, most) == said
