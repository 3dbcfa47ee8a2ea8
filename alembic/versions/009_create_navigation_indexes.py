"""Create the navigation indexes.

Version: 009
Description: Lookup of prev/next references, order within a project, and the ends of links and cursors.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-22
Dependencies: 008
Type: schema
Phase: expand
Transaction: none
Reversible: lossless
"""

import sqlalchemy as sa
from alembic import op

from mcp_planner_schema.operations import expect

revision = "009"
down_revision = "008"
branch_labels = None
depends_on = None

expectations = [
    expect.index("ix_tasks_prev_id", table="tasks", unique=False),
    expect.index("ix_tasks_next_id", table="tasks", unique=False),
    expect.index("ix_steps_prev_id", table="steps", unique=False),
    expect.index("ix_steps_next_id", table="steps", unique=False),
    expect.index("ix_navigation_links_project_id_position", table="navigation_links", unique=False),
    expect.index("ix_navigation_links_project_id_from_task_id", table="navigation_links", unique=False),
    expect.index("ix_navigation_links_project_id_from_step_id", table="navigation_links", unique=False),
    expect.index("ix_navigation_links_project_id_to_task_id", table="navigation_links", unique=False),
    expect.index("ix_navigation_links_project_id_to_step_id", table="navigation_links", unique=False),
    expect.index("ix_navigation_cursors_project_id_current_task_id", table="navigation_cursors", unique=False),
    expect.index("ix_navigation_cursors_project_id_current_step_id", table="navigation_cursors", unique=False),
]


def upgrade() -> None:
    # Whoever migrates a filled database goes through this too: nobody waits behind these.

    # A reference names one item of all projects, so the text alone finds its row.
    op.create_index_concurrently(
        "ix_tasks_prev_id", "tasks", ["prev_id"], postgresql_where=sa.text("prev_id IS NOT NULL")
    )
    op.create_index_concurrently(
        "ix_tasks_next_id", "tasks", ["next_id"], postgresql_where=sa.text("next_id IS NOT NULL")
    )
    op.create_index_concurrently(
        "ix_steps_prev_id", "steps", ["prev_id"], postgresql_where=sa.text("prev_id IS NOT NULL")
    )
    op.create_index_concurrently(
        "ix_steps_next_id", "steps", ["next_id"], postgresql_where=sa.text("next_id IS NOT NULL")
    )

    op.create_index_concurrently(
        "ix_navigation_links_project_id_position", "navigation_links", ["project_id", "position"]
    )

    # One for each foreign key, or deleting a task or step reads all links. Partial: each end is null in some rows.
    op.create_index_concurrently(
        "ix_navigation_links_project_id_from_task_id",
        "navigation_links",
        ["project_id", "from_task_id"],
        postgresql_where=sa.text("from_task_id IS NOT NULL"),
    )
    op.create_index_concurrently(
        "ix_navigation_links_project_id_from_step_id",
        "navigation_links",
        ["project_id", "from_step_id"],
        postgresql_where=sa.text("from_step_id IS NOT NULL"),
    )
    op.create_index_concurrently(
        "ix_navigation_links_project_id_to_task_id",
        "navigation_links",
        ["project_id", "to_task_id"],
        postgresql_where=sa.text("to_task_id IS NOT NULL"),
    )
    op.create_index_concurrently(
        "ix_navigation_links_project_id_to_step_id",
        "navigation_links",
        ["project_id", "to_step_id"],
        postgresql_where=sa.text("to_step_id IS NOT NULL"),
    )
    op.create_index_concurrently(
        "ix_navigation_cursors_project_id_current_task_id",
        "navigation_cursors",
        ["project_id", "current_task_id"],
        postgresql_where=sa.text("current_task_id IS NOT NULL"),
    )
    op.create_index_concurrently(
        "ix_navigation_cursors_project_id_current_step_id",
        "navigation_cursors",
        ["project_id", "current_step_id"],
        postgresql_where=sa.text("current_step_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_navigation_cursors_project_id_current_step_id", table_name="navigation_cursors")
    op.drop_index("ix_navigation_cursors_project_id_current_task_id", table_name="navigation_cursors")
    op.drop_index("ix_navigation_links_project_id_to_step_id", table_name="navigation_links")
    op.drop_index("ix_navigation_links_project_id_to_task_id", table_name="navigation_links")
    op.drop_index("ix_navigation_links_project_id_from_step_id", table_name="navigation_links")
    op.drop_index("ix_navigation_links_project_id_from_task_id", table_name="navigation_links")
    op.drop_index("ix_navigation_links_project_id_position", table_name="navigation_links")
    op.drop_index("ix_steps_next_id", table_name="steps")
    op.drop_index("ix_steps_prev_id", table_name="steps")
    op.drop_index("ix_tasks_next_id", table_name="tasks")
    op.drop_index("ix_tasks_prev_id", table_name="tasks")
