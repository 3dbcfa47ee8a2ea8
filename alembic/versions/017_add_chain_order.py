"""Add the order of items in their chains.

Version: 017
Description: Each task and step knows its place in the chain and whether it is finished: the next one is one index lookup away.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-27
Dependencies: 016
Type: schema
Phase: expand
Transaction: none
Reversible: stash
"""

import sqlalchemy as sa
from alembic import op

from mcp_planner_schema.operations import expect

revision = "017"
down_revision = "016"
branch_labels = None
depends_on = None

PARENTS = (("tasks", "parent_task_id"), ("steps", "task_id"))

expectations = [
    expect.column("tasks", "chain_position", type="bigint", nullable=True),
    expect.column("tasks", "finished", type="boolean", nullable=True),
    expect.column("steps", "chain_position", type="bigint", nullable=True),
    expect.column("steps", "finished", type="boolean", nullable=True),
    expect.column("navigation_links", "closes_circle", type="boolean", nullable=False, default="false"),
    expect.index("ix_navigation_links_project_id_closes_circle", table="navigation_links", unique=False),
    expect.index("ix_tasks_project_id_unfinished", table="tasks", unique=False),
    expect.index("ix_tasks_parent_task_id_unfinished", table="tasks", unique=False),
    expect.index("ix_steps_project_id_unfinished", table="steps", unique=False),
    expect.index("ix_steps_task_id_unfinished", table="steps", unique=False),
]


def upgrade() -> None:
    for table, _ in PARENTS:
        # Without a default: the rows that are there are not rewritten, and NULL says that they have not been looked at.
        op.ensure_column(
            table, "chain_position", "bigint",
            comment="Place in the chain, greater than that of the item before; kept by trigger, null outside of chains.",
        )  # fmt: skip
        op.ensure_column(
            table, "finished", "boolean", comment="Whether progress is 1; kept by trigger, null until looked at."
        )
    op.add_column_with_default("navigation_links", "closes_circle", "boolean", "false", nullable=False, key=["id"])
    op.execute(
        "COMMENT ON COLUMN navigation_links.closes_circle"
        " IS 'Whether the link leads back to the beginning of its chain; kept by trigger.'"
    )
    # What next_actionable_item walks, over a project and below a task. Not on progress itself: every change of it would
    # then be written to all indexes of the row (no HOT update).
    for table, parent in PARENTS:
        for column in ("project_id", parent):
            op.create_index_concurrently(
                f"ix_{table}_{column}_unfinished",
                table,
                [column, "chain_position", "created_at", "id"],
                postgresql_where=sa.text("finished IS NOT TRUE"),
            )
    op.create_index_concurrently(
        "ix_navigation_links_project_id_closes_circle",
        "navigation_links",
        ["project_id"],
        postgresql_where=sa.text("closes_circle"),
    )


def downgrade() -> None:
    op.drop_index("ix_navigation_links_project_id_closes_circle", table_name="navigation_links")
    op.drop_column("navigation_links", "closes_circle")
    for table, parent in reversed(PARENTS):
        for column in (parent, "project_id"):
            op.drop_index(f"ix_{table}_{column}_unfinished", table_name=table)
        op.execute(f"ALTER TABLE {table} DROP COLUMN finished, DROP COLUMN chain_position")
