"""Add the progress counters.

Version: 012
Description: Each task and project counts its children and the sum of their progress, so that a change adds instead of recounting.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-24
Dependencies: 011
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

from alembic import op

from mcp_planner_schema.operations import expect

revision = "012"
down_revision = "011"
branch_labels = None
depends_on = None

expectations = [
    expect.column("projects", "child_count", type="integer", nullable=True),
    expect.column("projects", "child_progress", type="numeric(38,15)", nullable=True),
    expect.column("tasks", "child_count", type="integer", nullable=True),
    expect.column("tasks", "child_progress", type="numeric(38,15)", nullable=True),
]

CHILDREN = (("projects", "root tasks"), ("tasks", "direct steps and sub-tasks"))


def upgrade() -> None:
    # Without a default: the rows that are there are not counted, and NULL says so until they are.
    for table, children in CHILDREN:
        op.execute(f"ALTER TABLE {table} ADD COLUMN child_count integer, ADD COLUMN child_progress numeric(38,15)")
        op.execute(
            f"COMMENT ON COLUMN {table}.child_count IS 'Number of {children}; kept by trigger, null until counted.'"
        )
        op.execute(
            f"COMMENT ON COLUMN {table}.child_progress"
            f" IS 'Sum of the progress of {children}, each at 15 decimals; kept by trigger, null until counted.'"
        )


def downgrade() -> None:
    for table, _ in reversed(CHILDREN):
        op.execute(f"ALTER TABLE {table} DROP COLUMN child_progress, DROP COLUMN child_count")
