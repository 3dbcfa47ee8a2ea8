"""The changes whose availability is measured: as people write them with Alembic, and with this project's operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.load import Script

# Wide enough that reading all rows takes time, with an index more than the key; nothing refers to anything yet.
TABLES = """
CREATE TYPE step_status AS ENUM ('open', 'done');
CREATE TABLE projects (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE tasks (id integer PRIMARY KEY, project_id integer NOT NULL, title text NOT NULL, touched timestamptz);
CREATE TABLE steps (
    id bigint PRIMARY KEY,
    task_id integer NOT NULL,
    number integer NOT NULL,
    title text NOT NULL,
    note text,
    effort integer NOT NULL,
    status step_status NOT NULL,
    done boolean NOT NULL,
    legacy text,
    created_at timestamptz NOT NULL
);
CREATE INDEX ix_steps_created_at ON steps (created_at);
CREATE INDEX ix_steps_task_id ON steps (task_id)
"""
FILL = """
INSERT INTO projects SELECT n, 'project ' || n FROM generate_series(1, 100) AS n;
INSERT INTO tasks SELECT n, 1 + n % 100, 'task ' || n FROM generate_series(1, greatest({rows} / 100, 1)) AS n;
INSERT INTO steps
SELECT n, 1 + n % greatest({rows} / 100, 1), n, 'step ' || n, 'some words ' || n, n % 1000, 'open', false, 'old ' || n,
       timestamptz '2026-01-01' + make_interval(secs => n)
FROM generate_series(1, {rows}) AS n
"""
_READS = """\
\\set id random(1, :rows)
SELECT s.title, s.done, t.title FROM {steps} s JOIN tasks t ON t.id = s.task_id WHERE s.id = :id;
"""
_WRITES = """\
\\set id random(1, :rows)
BEGIN;
UPDATE {steps} SET done = NOT done WHERE id = :id;
UPDATE tasks SET touched = now() WHERE id = 1 + :id % greatest(:rows / 100, 1);
COMMIT;
"""
_PARTITIONED = "CREATE TABLE all_steps (LIKE steps INCLUDING DEFAULTS) PARTITION BY RANGE (id)"
_BOUND = "FOR VALUES FROM (0) TO (1000000000)"
# The application finds its rows by an index all the time; only the key, and that id is NOT NULL, are missing.
_WITHOUT_KEY = """CREATE UNIQUE INDEX ix_steps_id ON steps (id);
ALTER TABLE steps DROP CONSTRAINT steps_pkey;
ALTER TABLE steps ALTER COLUMN id DROP NOT NULL"""


@dataclass(frozen=True)
class Change:
    """One change. ``plain`` and ``ours`` are the lines of ``upgrade()``; ``kind`` has our revisions written instead.

    ``last`` is how many of the written revisions run while the application is at work; without it, all.
    """

    name: str
    plain: str
    ours: str = ""
    back: str = ""
    expects: str = ""
    alone: bool = True
    kind: Mapping[str, str] = field(default_factory=dict)
    last: int | None = None
    phase: str = "expand"
    before: str = ""
    table: str = "steps"

    @property
    def scripts(self) -> dict[str, Script]:
        """The application: it reads and writes single rows by key."""
        return {
            "readers": Script(_READS.format(steps=self.table), rate=200),
            "writers": Script(_WRITES.format(steps=self.table), rate=100),
        }


def _in_three(statement: str) -> str:
    return "; ".join(statement.format(one) for one in ("projects", "tasks", "steps"))


CHANGES: Sequence[Change] = (
    Change(
        "create index",
        'op.create_index("ix_steps_title", "steps", ["title"])',
        'op.create_index_concurrently("ix_steps_title", "steps", ["title"])',
        'op.drop_index_concurrently("ix_steps_title", "steps")',
        'expect.index("ix_steps_title", table="steps")',
    ),
    Change(
        "drop index",
        'op.drop_index("ix_steps_created_at", "steps")',
        'op.drop_index_concurrently("ix_steps_created_at", "steps")',
        'op.create_index_concurrently("ix_steps_created_at", "steps", ["created_at"])',
        'expect.absent(expect.index("ix_steps_created_at"))',
    ),
    Change(
        "reindex",
        'op.execute("REINDEX TABLE steps")',
        'op.reindex_concurrently("steps")',
        'op.reindex_concurrently("steps")',
        'expect.index("ix_steps_created_at", table="steps")',
    ),
    Change(
        "unique constraint",
        'op.create_unique_constraint("uq_steps_number", "steps", ["number"])',
        'op.add_unique_concurrently("uq_steps_number", "steps", ["number"])',
        'op.drop_constraint_concurrently("uq_steps_number", "steps")',
        'expect.constraint("steps", "uq_steps_number")',
    ),
    Change(
        "primary key",
        'op.create_primary_key("pk_steps", "steps", ["id"])',
        'op.add_primary_key_concurrently("pk_steps", "steps", ["id"])',
        'op.drop_constraint_concurrently("pk_steps", "steps")',
        'expect.constraint("steps", "pk_steps")',
        before=_WITHOUT_KEY,
    ),
    Change(
        "foreign key",
        'op.create_foreign_key("fk_steps_task_id", "steps", "tasks", ["task_id"], ["id"])',
        'op.add_foreign_key_concurrently("fk_steps_task_id", "steps", "tasks", ["task_id"], ["id"])',
        'op.drop_constraint_concurrently("fk_steps_task_id", "steps")',
        'expect.constraint("steps", "fk_steps_task_id")',
    ),
    Change(
        "check",
        'op.create_check_constraint("ck_steps_effort", "steps", "effort >= 0")',
        'op.add_check_concurrently("ck_steps_effort", "steps", "effort >= 0")',
        'op.drop_constraint_concurrently("ck_steps_effort", "steps")',
        'expect.constraint("steps", "ck_steps_effort")',
    ),
    Change(
        "set not null",
        'op.alter_column("steps", "note", nullable=False)',
        'op.set_not_null_concurrently("steps", "note")',
        'op.drop_not_null("steps", "note")',
        'expect.column("steps", "note", nullable=False)',
    ),
    Change(
        "add column with constant default",
        'op.add_column("steps", sa.Column("rank", sa.Integer, server_default="7", nullable=False))',
        'op.add_column_with_default("steps", "rank", "integer", "7", nullable=False)',
        'op.drop_column("steps", "rank")',
        'expect.column("steps", "rank", nullable=False)',
    ),
    Change(
        "add column with volatile default",
        'op.add_column("steps", sa.Column("token", sa.Uuid, server_default=sa.text("gen_random_uuid()"), nullable=False))',
        'op.add_column_with_default("steps", "token", "uuid", "gen_random_uuid()", nullable=False)',
        'op.drop_column("steps", "token")',
        'expect.column("steps", "token", nullable=False)',
    ),
    Change(
        "drop column",
        'op.drop_column("steps", "legacy")',
        kind={"KIND": "drop_column", "TABLE": "steps", "FROM": "legacy"},
    ),
    Change(
        "rename column (expand and migrate)",
        'op.alter_column("steps", "title", new_column_name="name")',
        kind={"KIND": "rename_column", "TABLE": "steps", "FROM": "title", "TO": "name"},
        last=2,
    ),
    Change(
        "integer to bigint",
        'op.alter_column("steps", "effort", type_=sa.BigInteger())',
        kind={"KIND": "change_type", "TABLE": "steps", "FROM": "effort", "TO": "efforts", "TO_TYPE": "bigint"},
    ),
    Change(
        "add enum value",
        "op.execute(\"ALTER TYPE step_status ADD VALUE 'blocked'\")",
        'op.add_enum_value("step_status", "blocked")',
        'op.leave_enum_value("step_status", "blocked")',
        'expect.enum("step_status", ["open", "done", "blocked"])',
    ),
    Change(
        "attach partition",
        f'op.execute("ALTER TABLE all_steps ATTACH PARTITION steps {_BOUND}")',
        f'op.attach_partition("all_steps", "steps", "{_BOUND}")',
        'op.detach_partition("all_steps", "steps")',
        'expect.table("all_steps")',
        before=_PARTITIONED,
    ),
    Change(
        "detach partition",
        'op.execute("ALTER TABLE all_steps DETACH PARTITION steps")',
        'op.detach_partition("all_steps", "steps")',
        f'op.attach_partition("all_steps", "steps", "{_BOUND}")',
        'expect.table("all_steps")',
        before=f"{_PARTITIONED}; ALTER TABLE all_steps ATTACH PARTITION steps {_BOUND}",
        table="all_steps",
    ),
    Change(
        "blocking step on one table",
        'op.add_column("steps", sa.Column("remark", sa.Text))',
        'op.add_column("steps", sa.Column("remark", sa.Text))',
        'op.drop_column("steps", "remark")',
        'expect.column("steps", "remark")',
        alone=False,
    ),
    Change(
        "blocking step on three tables",
        _in_three('op.add_column("{}", sa.Column("remark", sa.Text))'),
        _in_three('op.add_column("{}", sa.Column("remark", sa.Text))'),
        _in_three('op.drop_column("{}", "remark")'),
        'expect.column("steps", "remark")',
        alone=False,
    ),
)
"""``alone``: the pieces commit by themselves (``Transaction: none``)."""
