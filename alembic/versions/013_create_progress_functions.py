"""Create the progress functions.

Version: 013
Description: Progress flows up by triggers that add to the counters, once a statement; functions count anew, compare and report.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-24
Dependencies: 012
Type: function
Phase: expand
Transaction: single
Reversible: lossless
"""

from alembic import op

from mcp_planner_schema.operations import expect, sql

revision = "013"
down_revision = "012"
branch_labels = None
depends_on = None

sql_files = [
    "013/touch_updated_at.sql",
    "013/mean_progress.sql",
    "013/lock_ancestors.sql",
    "013/derive_progress.sql",
    "013/roll_up_steps.sql",
    "013/roll_up_tasks.sql",
    "013/progress_tree.sql",
    "013/calculate_task_progress.sql",
    "013/calculate_project_progress.sql",
    "013/validate_progress.sql",
    "013/recalculate_project_progress.sql",
    "013/project_statistics.sql",
    "013/recount_progress.sql",
    "013/projects_50_derive_progress_insert.sql",
    "013/projects_50_derive_progress_update.sql",
    "013/steps_50_recount_truncate.sql",
    "013/steps_50_roll_up_delete.sql",
    "013/steps_50_roll_up_insert.sql",
    "013/steps_50_roll_up_update.sql",
    "013/tasks_50_derive_progress_insert.sql",
    "013/tasks_50_derive_progress_update.sql",
    "013/tasks_50_recount_truncate.sql",
    "013/tasks_50_roll_up_delete.sql",
    "013/tasks_50_roll_up_insert.sql",
    "013/tasks_50_roll_up_update.sql",
]

expectations = [
    expect.column("projects", "child_count", default="0"),
    expect.column("projects", "child_progress", default="0"),
    expect.column("tasks", "child_count", default="0"),
    expect.column("tasks", "child_progress", default="0"),
    expect.function("mean_progress(integer, numeric)"),
    expect.function("derive_progress()"),
    expect.function("roll_up_steps()"),
    expect.function("roll_up_tasks()"),
    expect.function("progress_tree(uuid[])"),
    expect.function("calculate_task_progress(uuid)"),
    expect.function("calculate_project_progress(uuid)"),
    expect.function("validate_progress(uuid)"),
    expect.function("recalculate_project_progress(uuid)"),
    expect.function("project_statistics(uuid)"),
    expect.function("recount_progress()"),
    expect.trigger("projects", "projects_50_derive_progress_insert"),
    expect.trigger("projects", "projects_50_derive_progress_update"),
    expect.trigger("steps", "steps_50_recount_truncate"),
    expect.trigger("steps", "steps_50_roll_up_delete"),
    expect.trigger("steps", "steps_50_roll_up_insert"),
    expect.trigger("steps", "steps_50_roll_up_update"),
    expect.trigger("tasks", "tasks_50_derive_progress_insert"),
    expect.trigger("tasks", "tasks_50_derive_progress_update"),
    expect.trigger("tasks", "tasks_50_recount_truncate"),
    expect.trigger("tasks", "tasks_50_roll_up_delete"),
    expect.trigger("tasks", "tasks_50_roll_up_insert"),
    expect.trigger("tasks", "tasks_50_roll_up_update"),
]


def upgrade() -> None:
    # Default and triggers in one transaction: a row from before has NULL, is not counted and stays so until it is; a row
    # from now on starts at 0 with its triggers in place. There is no moment between the two.
    for table in ("projects", "tasks"):
        op.execute(f"ALTER TABLE {table} ALTER child_count SET DEFAULT 0, ALTER child_progress SET DEFAULT 0")
    sql.apply(sql_files)


def downgrade() -> None:
    sql.revert(sql_files)
    for table in ("tasks", "projects"):
        op.execute(f"ALTER TABLE {table} ALTER child_count DROP DEFAULT, ALTER child_progress DROP DEFAULT")
