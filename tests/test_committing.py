"""Which operations commit by themselves: the guard's list of names says what the operations do."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from mcp_planner_schema import operations
from mcp_planner_schema.guard import committing, judge, settings
from mcp_planner_schema.guard.findings import Refused
from tests.conftest import Database, Project

SYNC: dict[str, Any] = {"table": "t", "old": ["a"], "new": ["b"], "key": ["id"]}
MOVE: dict[str, Any] = {
    "table": "t",
    "column": "a",
    "to_table": "u",
    "on": ["id", "t_id"],
    "key": ["id"],
    "to_key": ["id"],
}


def _nowhere(op: Any) -> None:
    """Without an env.py nobody knows where a file lies; test_scripts.py and test_plain_sql.py run some, within the step's
    transaction."""
    with pytest.raises(NotImplementedError):
        op.run_script("001/x.sql")
    with pytest.raises(NotImplementedError):
        op.run_sql("001_add_x.up.sql")


CALLS: dict[str, Callable[[Any], None]] = {
    "add_check_concurrently": lambda op: op.add_check_concurrently("c", "t", "a > 0"),
    "add_column_with_default": lambda op: op.add_column_with_default("t", "a", "int", "7", key=["id"]),
    "add_enum_value": lambda op: op.add_enum_value("e", "A"),
    "add_foreign_key_concurrently": lambda op: op.add_foreign_key_concurrently("f", "t", "u", ["a"], ["id"]),
    "add_primary_key_concurrently": lambda op: op.add_primary_key_concurrently("p", "t", ["id"]),
    "add_unique_concurrently": lambda op: op.add_unique_concurrently("k", "t", ["a"]),
    "analyze": lambda op: op.analyze("t"),
    "attach_partition": lambda op: op.attach_partition("t", "p", "DEFAULT"),
    "create_index_concurrently": lambda op: op.create_index_concurrently("i", "t", ["a"]),
    "backfill": lambda op: op.backfill("t", set={"a": "7"}, key=["id"]),
    "create_table_alias": lambda op: op.create_table_alias("v", "t"),
    "detach_partition": lambda op: op.detach_partition("t", "p"),
    "drop_constraint_concurrently": lambda op: op.drop_constraint_concurrently("c", "t"),
    "drop_index_concurrently": lambda op: op.drop_index_concurrently("i", "t"),
    "drop_moved_sync": lambda op: op.drop_moved_sync(**MOVE),
    "drop_not_null": lambda op: op.drop_not_null("t", "a"),
    "drop_sync": lambda op: op.drop_sync(**SYNC),
    "drop_table_alias": lambda op: op.drop_table_alias("v", "t"),
    "ensure_column": lambda op: op.ensure_column("t", "a", "int"),
    "ensure_constraint": lambda op: op.ensure_constraint("t", "c", "CHECK (a > 0)"),
    "fill_column": lambda op: op.fill_column("t", "a", "7", key=["id"]),
    "fill_moved_column": lambda op: op.fill_moved_column(**MOVE),
    "fill_synced_columns": lambda op: op.fill_synced_columns(**SYNC),
    "leave_enum_value": lambda op: op.leave_enum_value("e", "A"),
    "reindex_concurrently": lambda op: op.reindex_concurrently("t"),
    "refuse_used_enum_values": lambda op: op.refuse_used_enum_values("e", ["A"]),
    "replace_index_concurrently": lambda op: op.replace_index_concurrently("i", "t", ["a"]),
    "run_script": _nowhere,
    "run_sql": _nowhere,
    "set_not_null_concurrently": lambda op: op.set_not_null_concurrently("t", "a"),
    "sync_columns": lambda op: op.sync_columns(**SYNC),
    "sync_moved_column": lambda op: op.sync_moved_column(**MOVE),
    "validate_constraint": lambda op: op.validate_constraint("c", "t"),
    # Offline it cannot be written; online it goes the same way as drop_constraint_concurrently.
    "invalidate_constraint": lambda op: op.drop_constraint_concurrently("c", "t"),
    # Nor can this; online it is a backfill.
    "give_back_backfill": lambda op: op.backfill("t", set={"a": "7"}, key=["id"]),
}


def registered() -> set[str]:
    """The names under which this project's operations stand in ``op``."""
    keys = [key for (key, *_) in Operations._to_impl._registry]
    ours = [one for one in keys if isinstance(one, type) and one.__module__.startswith(operations.__name__)]
    return {name for one in ours for name in vars(one) if name in vars(Operations) and not name.startswith("_")}


def test_each_operation_is_known_by_what_it_does() -> None:
    """Written offline, exactly those whose names the guard has leave the step's transaction."""
    commits = set()
    for name, call in CALLS.items():
        context = MigrationContext.configure(
            dialect_name="postgresql", opts={"as_sql": True, "output_buffer": io.StringIO()}
        )
        inherited, left = context.autocommit_block, []

        def block(
            inherited: Callable[[], AbstractContextManager[None]] = inherited, left: list[bool] = left
        ) -> AbstractContextManager[None]:
            left.append(True)
            return inherited()

        context.autocommit_block = block  # type: ignore[method-assign]

        call(Operations(context))

        commits |= {name} if left else set()

    assert registered() == CALLS.keys()
    assert commits == committing.NAMES


@pytest.mark.parametrize(
    ("imported", "called", "found"),
    [
        ("from alembic import op", "op.create_index_concurrently('i', 't', ['a'])", True),
        ("from alembic import op as o", "o.fill_column('t', 'a', '1')", True),
        ("import alembic.op", "alembic.op.analyze('t')", True),
        ("import alembic.op as o", "o.analyze('t')", True),
        ("from alembic.op import analyze", "analyze('t')", True),
        ("from alembic import op", "op.sync_columns('t', 'a', 'b')", False),
        ("from alembic import op", "op.get_bind().analyze('t')", False),
    ],
)
def test_an_operation_that_commits_is_found_however_it_is_called(
    project: Project, imported: str, called: str, found: bool
) -> None:
    """By any name of Alembic's op; what only has such a name is left alone."""
    project.revision("001", "create_t", called, "op.execute('SELECT 1')", more=imported)
    config = project.config()

    judged = judge.judge_all(ScriptDirectory.from_config(config), settings.load(config, {}))

    codes = [one.code for file in judged for one in file.findings]
    assert codes == (["transaction-mismatch"] if found else [])


def test_nothing_has_run_when_it_is_found(empty: Database, project: Project) -> None:
    """The revision before it is pending too, and is not begun; the finding names the operation and what to write."""
    project.revision("001", "create_t", "op.execute('CREATE TABLE t (a int)')", "op.execute('DROP TABLE t')")
    project.revision(
        "002", "add_i", "op.create_index_concurrently('i', 't', ['a'])", "op.drop_index_concurrently('i', 't')"
    )

    with pytest.raises(Refused) as caught:
        project.upgrade()

    assert "op.create_index_concurrently(), which commits by itself" in caught.value.text()
    assert "Transaction: none" in caught.value.text()
    assert empty.value("SELECT to_regclass('t') IS NULL AND to_regclass('alembic_version') IS NULL")


def test_a_new_revision_says_what_commits_by_itself(project: Project) -> None:
    """``alembic revision`` tells its author when the header must say Transaction: none."""
    result = project.alembic("revision", "-m", "add thing")

    assert result.returncode == 0, result.stderr
    assert committing.EXPLAINED in " ".join(result.stderr.split())
