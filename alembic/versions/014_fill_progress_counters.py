"""Fill the progress counters.

Version: 014
Description: Counts the children of tasks and projects that are older than the counters, project by project.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-24
Dependencies: 013
Type: data
Phase: migrate
Transaction: single
Reversible: lossless
"""

from alembic import op

from mcp_planner_schema.operations import expect

revision = "014"
down_revision = "013"
branch_labels = None
depends_on = None

expectations = [
    expect.rows("SELECT FROM public.projects WHERE child_count IS NULL OR child_progress IS NULL", count=0),
    expect.rows(
        "SELECT FROM public.tasks WHERE (child_count IS NULL OR child_progress IS NULL)"
        # A circle that is older than the checks hangs below no root; validate_progress names its tasks.
        " AND parent_task_id IS NULL",
        count=0,
    ),
]
expectations_down = [
    expect.function("recalculate_project_progress(uuid)"),
]


def upgrade() -> None:
    # Every project, not only those with a NULL: counters from before a downgrade may have gone stale while no trigger
    # kept them. A row that is right is not written. Writers of a project wait from here to COMMIT, readers do not.
    op.execute("DO $$ BEGIN PERFORM public.recalculate_project_progress(id) FROM public.projects ORDER BY id; END $$")


def downgrade() -> None:
    # What was counted stays true: the triggers of 013 are still there and keep it.
    op.execute("DO $$ BEGIN END $$")
