"""What authors of revisions write with. Importing it gives ``op`` the operations that nobody waits behind.

A history is read on every run, also when there is nothing to do: so the operations themselves are imported when the first one
is called.
"""

from __future__ import annotations

import importlib
from typing import Any

from alembic.operations import Operations

from mcp_planner_schema.guard import scope

NAMES = (
    "add_check_concurrently", "add_column_with_default", "add_enum_value", "add_foreign_key_concurrently",
    "add_primary_key_concurrently", "add_unique_concurrently", "analyze", "attach_partition", "backfill",
    "create_index_concurrently", "create_table_alias", "detach_partition", "drop_constraint_concurrently",
    "drop_index_concurrently", "drop_moved_sync", "drop_not_null", "drop_sync", "drop_table_alias", "ensure_column",
    "ensure_constraint", "fill_column", "fill_moved_column", "fill_synced_columns", "give_back_backfill", "invalidate_constraint",
    "leave_enum_value", "refuse_used_enum_values", "reindex_concurrently", "replace_index_concurrently", "run_script",
    "run_sql", "set_not_null_concurrently", "sync_columns", "sync_moved_column", "validate_constraint",
)  # fmt: skip
"""What ``op`` knows besides Alembic's own."""


def _until_called(name: str) -> Any:
    def operation(self: Operations, *arguments: Any, **named: Any) -> Any:
        importlib.import_module(f"{__name__}.registered")  # puts the operation itself in the place of this
        return getattr(self, name)(*arguments, **named)

    return operation


for _name in NAMES:
    if not hasattr(Operations, _name):
        setattr(Operations, _name, _until_called(_name))


def _revise(migration: Any, revision: Any, directives: list[Any]) -> None:
    importlib.import_module(f"{__name__}.registered")
    importlib.import_module(f"{__name__}.automatic").revise(migration, revision, directives)


scope.REVISERS.append(_revise)
