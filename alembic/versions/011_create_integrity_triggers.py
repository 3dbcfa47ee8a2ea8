"""Create the integrity triggers.

Version: 011
Description: Status moves, references, the task tree, project_id and updated_at are kept by triggers, one file each.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-24
Dependencies: 010
Type: function
Phase: expand
Transaction: single
Reversible: lossless
"""

from mcp_planner_schema.operations import expect, sql

revision = "011"
down_revision = "010"
branch_labels = None
depends_on = None

sql_files = [
    "011/touch_updated_at.sql",
    "011/fill_project_id.sql",
    "011/check_step_status.sql",
    "011/complete_agreed_step.sql",
    "011/check_references.sql",
    "011/lock_task_tree.sql",
    "011/lock_ancestors.sql",
    "011/check_new_tasks.sql",
    "011/check_moved_task.sql",
    "011/complexity_agreements_10_fill_project_id.sql",
    "011/complexity_assessments_10_fill_project_id.sql",
    "011/disputes_10_fill_project_id.sql",
    "011/disputes_90_touch_updated_at.sql",
    "011/navigation_cursors_10_fill_project_id.sql",
    "011/navigation_cursors_90_touch_updated_at.sql",
    "011/navigation_links_10_fill_project_id.sql",
    "011/projects_90_touch_updated_at.sql",
    "011/step_promotions_10_fill_project_id.sql",
    "011/steps_10_fill_project_id.sql",
    "011/steps_20_check_references_insert.sql",
    "011/steps_20_check_references_update.sql",
    "011/steps_20_check_status.sql",
    "011/steps_30_complete_agreed.sql",
    "011/steps_90_touch_updated_at.sql",
    "011/tasks_05_lock_tree.sql",
    "011/tasks_10_fill_project_id.sql",
    "011/tasks_20_check_references_insert.sql",
    "011/tasks_20_check_references_update.sql",
    "011/tasks_40_check_move.sql",
    "011/tasks_40_check_new.sql",
    "011/tasks_90_touch_updated_at.sql",
]

expectations = [
    expect.function("touch_updated_at()"),
    expect.function("fill_project_id()"),
    expect.function("check_step_status()"),
    expect.function("complete_agreed_step()"),
    expect.function("check_references()"),
    expect.function("lock_task_tree()"),
    expect.function("lock_ancestors(uuid[])"),
    expect.function("check_new_tasks()"),
    expect.function("check_moved_task()"),
    expect.trigger("complexity_agreements", "complexity_agreements_10_fill_project_id"),
    expect.trigger("complexity_assessments", "complexity_assessments_10_fill_project_id"),
    expect.trigger("disputes", "disputes_10_fill_project_id"),
    expect.trigger("disputes", "disputes_90_touch_updated_at"),
    expect.trigger("navigation_cursors", "navigation_cursors_10_fill_project_id"),
    expect.trigger("navigation_cursors", "navigation_cursors_90_touch_updated_at"),
    expect.trigger("navigation_links", "navigation_links_10_fill_project_id"),
    expect.trigger("projects", "projects_90_touch_updated_at"),
    expect.trigger("step_promotions", "step_promotions_10_fill_project_id"),
    expect.trigger("steps", "steps_10_fill_project_id"),
    expect.trigger("steps", "steps_20_check_references_insert"),
    expect.trigger("steps", "steps_20_check_references_update"),
    expect.trigger("steps", "steps_20_check_status"),
    expect.trigger("steps", "steps_30_complete_agreed"),
    expect.trigger("steps", "steps_90_touch_updated_at"),
    expect.trigger("tasks", "tasks_05_lock_tree"),
    expect.trigger("tasks", "tasks_10_fill_project_id"),
    expect.trigger("tasks", "tasks_20_check_references_insert"),
    expect.trigger("tasks", "tasks_20_check_references_update"),
    expect.trigger("tasks", "tasks_40_check_move"),
    expect.trigger("tasks", "tasks_40_check_new"),
    expect.trigger("tasks", "tasks_90_touch_updated_at"),
]


def upgrade() -> None:
    # Each CREATE TRIGGER waits for writers of its table and lets readers through (SHARE ROW EXCLUSIVE). Rows that are
    # there already are not looked at: what an old release left wrong stays until somebody changes it.
    sql.apply(sql_files)


def downgrade() -> None:
    sql.revert(sql_files)
