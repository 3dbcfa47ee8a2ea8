"""What all operations have in common: they turn around, autogenerate can write them, a trial and a rehearsal leave no trace."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations, ops

from mcp_planner_schema.guard.findings import Broken
from mcp_planner_schema.operations import constraint_ops, index_ops, maintenance_ops, partition_ops, registered
from tests.catalog import catalog, difference
from tests.conftest import ROOT, Database, Project
from tests.test_index_operations import CREATE, DROP, JOURNAL, only_index, revision

assert registered  # what is written by autogenerate is known only then

CALLS = {
    "op.create_index_concurrently('ix', 't', ['k'], unique=True, schema='s', postgresql_include=['v'])":
        "op.drop_index_concurrently('ix', table_name='t', schema='s', postgresql_include=['v'])",
    "op.create_index_concurrently('ix', 't', [sa.literal_column('lower(v)')], unique=False, postgresql_where=sa.text('k > 1'))":
        "op.drop_index_concurrently('ix', table_name='t', postgresql_where=sa.text('k > 1'))",
    "op.replace_index_concurrently('ix', 't', ['k'], unique=False)": "",
    "op.add_check_concurrently('c', 't', 'k > 0')": "op.drop_constraint_concurrently('c', 't')",
    "op.add_unique_concurrently('c', 't', ['k'], schema='s', deferrable=True, postgresql_include=['v'])":
        "op.drop_constraint_concurrently('c', 't', schema='s')",
    "op.add_primary_key_concurrently('c', 't', ['k', 'id'])": "op.drop_constraint_concurrently('c', 't')",
    "op.add_foreign_key_concurrently('c', 't', 'r', ['k'], ['a'], ondelete='CASCADE', source_schema='s', referent_schema='u')":
        "op.drop_constraint_concurrently('c', 't', schema='s')",
    "op.validate_constraint('c', 't')": "op.invalidate_constraint('c', 't')",
    "op.set_not_null_concurrently('t', 'k', schema='s')": "op.drop_not_null('t', 'k', schema='s')",
    "op.attach_partition('t', 'p', 'DEFAULT')": "op.detach_partition('t', 'p')",
    "op.reindex_concurrently('t', 'ix')": "op.reindex_concurrently('t', 'ix')",
    "op.reindex_concurrently('t')": "op.reindex_concurrently('t')",
    "op.analyze('t', ['k'], schema='s')": "op.analyze('t', ['k'], schema='s')",
}  # fmt: skip


class Caught(Operations):
    """Alembic's ``op``, catching each operation instead of running it."""

    def invoke(self, operation: Any) -> Any:
        """Keep it."""
        self.caught = operation


def called(text: str) -> Any:
    """The operation that a call makes."""
    catching = Caught(MigrationContext.configure(dialect_name="postgresql"))
    eval(text, {"op": catching, "sa": sa})
    return catching.caught


def written(operation: Any) -> str:
    """The call alone."""
    text = render_python_code(ops.UpgradeOps([operation]))
    return " ".join(line.strip() for line in text.splitlines() if "###" not in line)


@pytest.mark.parametrize("call", CALLS)
def test_written_by_autogenerate_and_turned_around(call: str) -> None:
    """The call is written as it was made; its reverse is the other call, and that one's reverse is the first."""
    operation = called(call)

    assert written(operation) == call
    if CALLS[call]:
        assert written(operation.reverse()) == CALLS[call]
        assert written(operation.reverse().reverse()) == call
    else:
        with pytest.raises(ValueError, match="does not know"):
            operation.reverse()


@pytest.mark.parametrize(
    "call",
    [
        "op.drop_index_concurrently('ix', 't')",
        "op.drop_constraint_concurrently('c', 't')",
        "op.detach_partition('t', 'p')",
    ],
)
def test_what_does_not_know_what_it_drops_says_so(call: str) -> None:
    """A reverse that would be a guess is an error."""
    with pytest.raises(ValueError, match="does not know"):
        called(call).reverse()


@pytest.mark.parametrize("module", [constraint_ops, partition_ops, maintenance_ops, index_ops])
def test_operations_are_values(module: Any) -> None:
    """What is not Alembic's own class cannot be changed after the fact."""
    own = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]

    assert own
    for one in own:
        assert issubclass(one, ops.CreateIndexOp | ops.DropIndexOp) or one.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert dataclasses.is_dataclass(one) or issubclass(one, ops.CreateIndexOp | ops.DropIndexOp)


def test_a_rehearsal_of_several_steps_leaves_no_trace(empty: Database, project: Project) -> None:
    """Two steps with operations go back in one command: tried, rehearsed, then done; each keeps its own journal."""
    empty.rows("CREATE TABLE t (id int PRIMARY KEY, k int, v text)")
    empty.rows("INSERT INTO t SELECT n, n, 'x' FROM generate_series(1, 100) n")
    revision(project, CREATE, DROP)
    revision(project, f"{DROP}\nop.add_check_concurrently('c', 't', 'k > 0')",
             f"op.drop_constraint_concurrently('c', 't')\n{CREATE}", "002")  # fmt: skip
    before = catalog(empty)
    project.upgrade()

    project.downgrade("base")

    assert difference(before, catalog(empty)) == []
    assert [row[:4] for row in empty.rows(JOURNAL)] == [
        ("001", "downgrade", 1, "drop_index_concurrently"),
        ("002", "downgrade", 1, "drop_constraint_concurrently"),
        ("002", "downgrade", 2, "create_index_concurrently"),
    ]


def test_the_trial_of_a_large_table_builds_nothing(empty: Database, project: Project) -> None:
    """A downgrade that builds an index of more than 8 MB builds it once, and not under the trial's lock before."""
    empty.rows("CREATE TABLE t (id int PRIMARY KEY, k int, v text)")
    empty.rows("INSERT INTO t SELECT n, n, repeat('x', 200) FROM generate_series(1, 50000) n; CREATE INDEX ix ON t (k)")
    revision(project, DROP, CREATE)
    project.upgrade()
    sent: list[str] = []

    def after(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "CREATE INDEX" in statement:
            sent.append(cursor.query.decode())

    sa.event.listen(sa.Engine, "after_cursor_execute", after)
    try:
        project.downgrade("base")
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", after)

    assert sent == ['CREATE INDEX CONCURRENTLY "ix" ON "public"."t" (k)']
    assert only_index(empty) == [("ix", True, "CREATE INDEX ix ON public.t USING btree (k)")]


def test_a_value_that_a_killed_run_has_added_is_journaled_as_done(empty: Database, project: Project) -> None:
    """Killed behind ALTER TYPE, the row says begun; run again it is done, and the next operation has a row of its own."""
    empty.rows("CREATE TABLE t (id int PRIMARY KEY, k int); CREATE TYPE e AS ENUM ('A')")
    body = "op.add_enum_value('e', 'B')\nop.execute('SELECT 1 / (SELECT count(*) FROM t)')\n" + CREATE
    revision(project, body, f"{DROP}\nop.leave_enum_value('e', 'B')")
    with pytest.raises(Broken, match="division by zero"):
        project.upgrade()
    empty.rows("INSERT INTO t VALUES (1, 1); UPDATE migration.journal SET state = 'begun', done_at = NULL")

    project.upgrade()

    assert [row[2:] for row in empty.rows(JOURNAL)] == [
        (1, "add_enum_value", "public.e.B", "done"),
        (2, "create_index_concurrently", "ix", "done"),
    ]


def test_every_operation_is_named() -> None:
    """What op knows before any operation is loaded is exactly what is registered with the first one."""
    code = (
        "from alembic.operations import Operations\nplain = set(vars(Operations))\n"
        "from mcp_planner_schema.operations import NAMES\nstand_ins = set(vars(Operations)) - plain\n"
        "import mcp_planner_schema.operations.registered\n"
        "left = [one for one in NAMES if vars(Operations)[one].__name__ == 'operation']\n"
        "print(sorted(NAMES) == sorted(stand_ins) == sorted(set(vars(Operations)) - plain), left)"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "True []"
