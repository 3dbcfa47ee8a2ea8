"""The operations that commit by themselves, by name: what a revision with ``Transaction: single`` cannot have.

The guard imports no operation, so they stand here; a test runs each registered operation and compares.
"""

from __future__ import annotations

NAMES = frozenset(
    {
        "add_check_concurrently", "add_column_with_default", "add_enum_value", "add_foreign_key_concurrently",
        "add_primary_key_concurrently", "add_unique_concurrently", "analyze", "attach_partition", "backfill",
        "create_index_concurrently", "detach_partition", "drop_constraint_concurrently", "drop_index_concurrently",
        "drop_not_null", "fill_column", "fill_moved_column", "fill_synced_columns", "give_back_backfill", "invalidate_constraint",
        "reindex_concurrently", "replace_index_concurrently", "set_not_null_concurrently", "validate_constraint",
    }
)  # fmt: skip

EXPLAINED = (
    "op.…_concurrently and whatever else commits by itself (docs/5-zero-downtime.md) wants Transaction: none in the header, "
    "and nothing beside it that could not run twice"
)


def commits(operation: object) -> bool:
    """Whether one of Alembic's operations is such a one: its class has the method that stands in ``op``."""
    return not NAMES.isdisjoint(dir(operation))
