"""Killed at any statement of any online operation, and run again, the end is that of a run which nobody has disturbed.

No moment is chosen by its name: the statements of an undisturbed run are counted, and others are struck right after each that
can have changed something, while any is at work, and at any time. Where there is no time for all it is every k-th, from a first
one that is drawn.
"""

from __future__ import annotations

import inspect
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mcp_planner_schema import generate, operations
from mcp_planner_schema.generate import kinds
from mcp_planner_schema.inspect import doctor
from tests import killing
from tests.catalog import catalog, difference
from tests.conftest import Database, Project
from tests.killing import Blow, Ended, Runner

SECONDS = float(os.environ.get("KILL_SECONDS", "45"))
"""How long one operation is struck again and again; KILL_SECONDS=3600 comes to each of its statements."""
TRIES = 3
DONE, BUSY = 0, 75
COUNT = 8_000  # more than a batch of each backfill
TABLES = f"""
CREATE TYPE status AS ENUM ('NEW', 'OPEN', 'DONE', 'LOST');
CREATE TABLE plans (id int PRIMARY KEY, step int NOT NULL UNIQUE);
CREATE TABLE steps (
    id int PRIMARY KEY, title text NOT NULL DEFAULT 'none' CONSTRAINT ck_steps_title CHECK (title <> ''), note text,
    rank int, state status NOT NULL DEFAULT 'NEW'
);
CREATE INDEX ix_steps_title ON steps (lower(title));
CREATE INDEX ix_steps_rank ON steps (rank);
CREATE TABLE bare (id int, k int, v text);
CREATE TABLE parts (id int NOT NULL, k int CHECK (k >= 0) REFERENCES plans, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE INDEX ix_parts_v ON parts (lower(v));
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (4000);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (4000) TO (6000) PARTITION BY LIST (id);
CREATE TABLE parts_2a PARTITION OF parts_2 DEFAULT;
CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM (6000) TO (8001);
CREATE TABLE parts_d PARTITION OF parts DEFAULT;
CREATE TABLE next_part (id int, k int, v text);
INSERT INTO plans SELECT n, n FROM generate_series(1, {COUNT}) AS n;
INSERT INTO steps SELECT n, 'step ' || n, 'note ' || n, n, (ARRAY['NEW', 'OPEN', 'DONE'])[1 + n % 3]::status
FROM generate_series(1, {COUNT}) AS n;
INSERT INTO bare SELECT n, n, 'v' || n FROM generate_series(1, {COUNT}) AS n;
INSERT INTO parts SELECT n, n, 'v' || n FROM generate_series(1, {COUNT}) AS n;
INSERT INTO next_part SELECT n, 1, 'x' FROM generate_series(20001, 25000) AS n
"""


@dataclass(frozen=True)
class Case:
    """One revision: what ``upgrade()`` says, or the kind that is written. ``before``: SQL that makes the tables fit for it.

    Of a ``drawn`` column only different values are counted.
    """

    body: str = ""
    kind: dict[str, str] = field(default_factory=dict)
    drawn: str = ""
    transaction: str = "none"
    type: str = "schema"
    before: str = "SELECT 1"


def _kind(name: str, **values: str) -> Case:
    return Case(kind={"KIND": name, **values})


CASES = {
    "create index": Case('op.create_index_concurrently("ix", "steps", ["title"], postgresql_include=["note"])'),
    "unique index": Case('op.create_index_concurrently("ix", "bare", ["k"], unique=True)'),
    "drop index": Case('op.drop_index_concurrently("ix_steps_title", "steps")'),
    "replace index": Case('op.replace_index_concurrently("ix_steps_title", "steps", ["title", "rank"])'),
    "create index on partitions": Case('op.create_index_concurrently("ix", "parts", ["k"])'),
    "drop index on partitions": Case('op.drop_index_concurrently("ix_parts_v", "parts")'),
    "replace index on partitions": Case('op.replace_index_concurrently("ix_parts_v", "parts", ["v", "k"])'),
    "unique": Case('op.add_unique_concurrently("c", "steps", ["title"])'),
    "unique on partitions": Case('op.add_unique_concurrently("c", "parts", ["id", "k"])'),
    "primary key": Case('op.add_primary_key_concurrently("c", "bare", ["id"])'),
    "primary key of two": Case('op.add_primary_key_concurrently("c", "bare", ["k", "v"])'),
    "foreign key": Case('op.add_foreign_key_concurrently("c", "bare", "plans", ["k"], ["id"])'),
    "foreign key on partitions": Case('op.add_foreign_key_concurrently("c", "parts", "plans", ["id"], ["step"])'),
    "check": Case('op.add_check_concurrently("c", "steps", "length(note) > 3")'),
    "check on partitions": Case('op.add_check_concurrently("c", "parts", "length(v) > 1")'),
    "drop constraint": Case('op.drop_constraint_concurrently("ck_steps_title", "steps")'),
    "validate": Case(
        'op.validate_constraint("ck_steps_rank", "steps")\nop.validate_constraint("fk_steps_rank", "steps")',
        before="ALTER TABLE steps ADD CONSTRAINT ck_steps_rank CHECK (rank > 0) NOT VALID, "
        "ADD CONSTRAINT fk_steps_rank FOREIGN KEY (rank) REFERENCES plans NOT VALID",
    ),
    "invalidate": Case('op.invalidate_constraint("ck_steps_title", "steps")'),
    "set not null": Case('op.set_not_null_concurrently("steps", "note")'),
    "drop not null": Case('op.drop_not_null("steps", "title")'),
    "add column": Case('op.add_column_with_default("steps", "c", "int", "7", nullable=False)'),
    "add column, volatile": Case(
        'op.add_column_with_default("steps", "c", "uuid", "gen_random_uuid()", nullable=False)', drawn="c"
    ),
    "ensure and fill": Case(
        'op.ensure_column("bare", "c", "int", comment="a copy")\n'
        'op.ensure_constraint("bare", "ck", "CHECK (c = k)")\n'
        'op.fill_column("bare", "c", "k")\nop.validate_constraint("ck", "bare")'
    ),
    "backfill": Case(
        'op.backfill("steps", set={"note": "filled.note || \' +\'", "rank": "filled.rank % 100 + 1"}, batch=1000)', type="data"
    ),
    "backfill by statement": Case(
        'op.backfill("plans", statement="INSERT INTO bare SELECT id + 100000, step, \'new\' FROM batch", batch=1000)',
        type="data",
    ),
    "backfill by function": Case(
        'op.backfill("steps", rows=lambda rows: [{"id": one["id"], "note": one["title"] + "!"} for one in rows], '
        'columns=["title"], writes=["note"], batch=1000)',
        type="data",
    ),
    "attach partition": Case('op.attach_partition("parts", "next_part", "FOR VALUES FROM (20000) TO (30000)")'),
    "detach partition": Case('op.detach_partition("parts", "parts_3")'),
    "reindex": Case('op.reindex_concurrently("steps")\nop.reindex_concurrently("bare")'),
    "reindex one": Case('op.reindex_concurrently("steps", "ix_steps_title")\nop.analyze("steps", ["title"])'),
    "several": Case(
        'op.create_index_concurrently("ix", "bare", ["k"])\nop.execute("CREATE TABLE IF NOT EXISTS beside (id int)")\n'
        'op.replace_index_concurrently("ix", "bare", ["k", "id"])\nop.add_check_concurrently("c", "bare", "k > 0")\n'
        'op.drop_index_concurrently("ix", "bare")\nop.drop_constraint_concurrently("c", "bare")'
    ),
    "rename column": _kind("rename_column", TABLE="steps", FROM="title", TO="heading"),
    "change type": _kind("change_type", TABLE="steps", FROM="note", TO="words", TO_TYPE="varchar(40)"),
    "split column": _kind(
        "split_column", TABLE="steps", FROM="note", TO="first | last",
        FORWARD="split_part(note, ' ', 1) | split_part(note, ' ', 2)", BACKWARD="concat_ws(' ', first, last)",
    ),
    "move column": _kind("move_column", TABLE="steps", FROM="note", TO_TABLE="plans", ON="id=step"),
    "rename table": _kind("rename_table", TABLE="steps", TO="items"),
    "drop column": _kind("drop_column", TABLE="steps", FROM="note"),
    "drop table": _kind("drop_table", TABLE="bare"),
    "add not null": _kind("add_not_null", TABLE="steps", FROM="note", FILL="''"),
    "add enum value": _kind("add_enum_value", ENUM="status", VALUE="HELD", AFTER="OPEN"),
    "remove and reorder enum values": _kind(
        "replace_enum", TABLE="steps", FROM="state", TO="stage", TO_TYPE="stage", LABELS="OPEN | NEW | DONE"
    ),
}  # fmt: skip
SHORT = "replace index"
SIDES = ("process", "session", "process") * 1000
# What only goes back, and files, which say for themselves what happens when they are stopped.
NOT_HERE = {"give_back_backfill", "run_script", "run_sql"}

# What the catalog of the schema leaves out: partitions, and whether what belongs to them is whole.
INSIDE = """
SELECT 'index', indexrelid::regclass::text, concat_ws(' ', pg_get_indexdef(indexrelid), indisvalid, indisready, indislive,
       indisprimary, inhparent::regclass)
FROM pg_index JOIN pg_class c ON c.oid = indexrelid LEFT JOIN pg_inherits ON inhrelid = indexrelid
WHERE relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'constraint', conrelid::regclass || '.' || conname, concat_ws(' ', pg_get_constraintdef(oid), convalidated, coninhcount,
       conislocal, conparentid <> 0)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'partition', c.oid::regclass::text, concat_ws(' ', inhparent::regclass, pg_get_expr(relpartbound, c.oid), inhdetachpending)
FROM pg_class c JOIN pg_inherits ON inhrelid = c.oid WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
UNION ALL
SELECT 'trigger', tgrelid::regclass || '.' || tgname, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'relation', nspname || '.' || relname, relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE nspname ~ '^(migration|public)'
"""
GUARD = {
    "journal": "SELECT revision, direction, place, operation, target, state FROM migration.journal ORDER BY 1, 2, 3",
    "version": "SELECT version_num FROM alembic_version",
    "backfill": "SELECT revision, direction, name, state FROM migration.backfill ORDER BY 1, 2, 3",
    "unended runs": "SELECT count(*) FROM migration.run WHERE state = 'running'",
}


def state(database: Database, drawn: str) -> dict[str, Any]:
    """All that a run leaves: the catalog with what is inside of it, the guard's rows, and the rows."""
    named = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    told: dict[str, Any] = {"catalog": catalog(database) | {(kind, *row) for kind, *row in database.rows(INSIDE)}}
    told |= {name: database.rows(sql) for name, sql in GUARD.items()}
    with database.connect() as connection, connection.cursor() as cursor:
        for (name,) in database.rows(named):
            if drawn:
                cursor.execute(f"SELECT count(DISTINCT to_jsonb(one) -> %s) FROM {name} AS one", (drawn,))
                told[f"different values in {name}"] = cursor.fetchall()
            cursor.execute(
                f"SELECT count(*), sum(hashtextextended((to_jsonb(one) - %s)::text, 0)) FROM {name} AS one",
                (drawn,),
            )
            told[f"rows of {name}"] = cursor.fetchall()
    return told


def told(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    lines = difference(expected["catalog"], found["catalog"])
    names = sorted((expected.keys() | found.keys()) - {"catalog"})
    return lines + [f"{one}: {found.get(one)} instead of {expected.get(one)}" for one in names
                    if found.get(one) != expected.get(one)]  # fmt: skip


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    """What forks the runs."""
    with killing.running() as made:
        yield made


@contextmanager
def clone(of: Database, name: str) -> Iterator[Database]:
    """A database as ``of`` is, which nobody may be in."""
    server = Database(of.host, of.port, "postgres")
    server.rows(f'CREATE DATABASE "{name}" TEMPLATE "{of.name}"')
    try:
        yield Database(of.host, of.port, name)
    finally:
        server.rows(f'DROP DATABASE "{name}" WITH (FORCE)')


class Struck:
    """One operation: a database right before it, and what an undisturbed run of it leaves."""

    def __init__(self, case: Case, prepared: Database, project: Project, runner: Runner) -> None:
        self.case, self.prepared, self.project, self.runner = case, prepared, project, runner
        self.attempts = 0
        with clone(prepared, f"{prepared.name}_u") as database:
            self.undisturbed = self.run(database)
            assert self.undisturbed.code == DONE, self.undisturbed.said
            self.expected = state(database, case.drawn) | {"doctor": self.ailments(database)}
            assert self.expected["doctor"] == [] or "op.invalidate_constraint" in case.body

    def run(self, database: Database, blow: Blow | None = None) -> Ended:
        """The alembic command, struck or not."""
        return self.runner.upgrade(self.project.folder, database.url, blow)

    def ailments(self, database: Database) -> list[str]:
        """What the doctor finds; no project of a test stores fingerprints."""
        os.environ["DATABASE_URL"] = database.url
        return [one.what for one in doctor.examine(self.project.config()) if one.kind != "fingerprint"]

    def strike(self, blow: Blow) -> tuple[bool, list[str]]:
        """Whether a run on a fresh database was struck, and what is wrong after the runs that follow it."""
        self.attempts += 1
        with clone(self.prepared, f"{self.prepared.name}_{self.attempts}") as database:
            first = self.run(database, blow)
            wrong = [f"not told: {first.said}"] if first.code == 70 else []
            for _ in range(TRIES):
                again = self.run(database)
                if again.code != BUSY:
                    break
            if again.code != DONE:
                wrong += [f"exit {again.code}", first.said, again.said]
            wrong += told(self.expected, state(database, self.case.drawn) | {"doctor": self.ailments(database)})
            return first.struck, [f"{blow}: {line}" for line in wrong]


@pytest.fixture
def prepare(
    new_database: Callable[[], Database], project: Project, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Struck]:
    """Makes the tables, writes the revisions, and runs them once, undisturbed."""

    def made(name: str) -> Struck:
        case, database = CASES[name], new_database()
        project.configure(lock_attempts="20")
        monkeypatch.setenv("DATABASE_URL", database.url)
        project.revision("001", "create_tables", f'op.execute("""{TABLES}""")', 'op.execute("SELECT 1")')
        project.upgrade()
        database.rows(case.before)
        if case.kind:
            generate.write(project.config(), case.kind)
        else:
            project.revision(
                "002", "alter_steps", case.body, 'op.execute("SELECT 1")', transaction=case.transaction, type=case.type,
                reversible="lossless",
            )  # fmt: skip
        return Struck(case, database, project, runner)

    return made


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_wherever_it_is_struck_the_end_is_the_same(name: str, prepare: Callable[[str], Struck]) -> None:
    """SIGKILL before and while any statement is sent, and at any time; sessions terminated likewise; then the command again."""
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    one = prepare(name)
    end, counts, wrong, began = one.undisturbed, {"process": 0, "session": 0}, list[str](), time.monotonic()

    for blow in blows(end, draw, int(SECONDS / (2 * end.seconds + 0.5))):
        struck, found = one.strike(blow)
        counts[blow.what] += struck
        wrong += found
        if time.monotonic() - began > 1.3 * SECONDS:
            break

    told = (
        f"{name}, seed {seed}: {end.sent} statements ({len(end.changing)} change something) in {end.seconds:.1f} s, "
        f"struck {counts} in {one.attempts} runs within {time.monotonic() - began:.0f} s"
    )
    print(told, *wrong, sep="\n", flush=True)
    assert not wrong, "\n".join([told, *wrong])
    assert counts["process"] > 0, told  # a session that is struck may have been closed a moment before


def test_struck_in_the_middle_the_end_is_the_same(prepare: Callable[[str], Struck]) -> None:
    """The same of one operation at one statement, in a few seconds."""
    one = prepare(SHORT)
    changing = one.undisturbed.changing

    struck, wrong = one.strike(Blow("process", changing[len(changing) // 2] + 1))

    assert struck
    assert wrong == []


def test_no_operation_is_left_out() -> None:
    """Each that is registered, and each kind that is written, is struck above."""
    folder = Path(inspect.getfile(generate)).parent
    written = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    written += "".join(case.body for case in CASES.values())

    assert {name for name in operations.NAMES if not re.search(rf"\bop\.{name}\b", written)} == NOT_HERE
    assert {case.kind["KIND"] for case in CASES.values() if case.kind} == set(kinds.KINDS)


def blows(undisturbed: Ended, draw: random.Random, count: int) -> list[Blow]:
    """Half of them right after statements that change something, a quarter while any statement is at work, the rest any time."""
    after = [Blow("session" if draw.random() < 0.2 else "process", number + 1)
             for number in some(undisturbed.changing, draw, max(count // 2, 2))]  # fmt: skip
    any_ones = range(1, undisturbed.sent + 1)
    within = [Blow(one, number, draw.uniform(0.0005, 0.02))
              for one, number in zip(SIDES, some(any_ones, draw, max(count // 4, 2)), strict=False)]  # fmt: skip
    at_any_time = [Blow(one, 0, draw.uniform(0.1, 0.9) * undisturbed.seconds, draw.randrange(100))
                   for one in SIDES[: max(count // 4, 2)]]  # fmt: skip
    return [*after, *within, *at_any_time]


def some(numbers: Sequence[int], draw: random.Random, count: int) -> list[int]:
    """All of them, or every k-th from a first one that is drawn."""
    every = max(len(numbers) / count, 1.0)
    first = draw.uniform(0, every)
    return [numbers[int(first + place * every)] for place in range(count) if first + place * every < len(numbers)]
