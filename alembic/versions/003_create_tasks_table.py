"""Create the tasks table.

Version: 003
Description: Tasks as a tree below each project, with the text form of the prev/next chain.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-22
Dependencies: 002
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

import sqlalchemy as sa
from alembic import op

from mcp_planner_schema.operations import expect

revision = "003"
down_revision = "002"
branch_labels = None
depends_on = None

expectations = [
    expect.table("tasks"),
    expect.column("tasks", "project_id", type="uuid", nullable=False),
    expect.column("tasks", "parent_task_id", type="uuid", nullable=True),
    expect.column("tasks", "title", type="character varying(255)", nullable=False),
    expect.column("tasks", "prev_id", type="character varying(50)", nullable=True),
    expect.column("tasks", "next_id", type="character varying(50)", nullable=True),
    expect.constraint("tasks", "pk_tasks"),
    expect.constraint("tasks", "uq_tasks_project_id_id"),
    expect.constraint("tasks", "fk_tasks_project_id_projects"),
    expect.constraint("tasks", "fk_tasks_project_id_parent_task_id_tasks"),
    expect.constraint("tasks", "ck_tasks_title_not_blank"),
    expect.constraint("tasks", "ck_tasks_objective_not_blank"),
    expect.constraint("tasks", "ck_tasks_progress_range"),
    expect.constraint("tasks", "ck_tasks_parent_task_id_not_itself"),
    expect.constraint("tasks", "ck_tasks_prev_id_form"),
    expect.constraint("tasks", "ck_tasks_next_id_form"),
    expect.constraint("tasks", "ck_tasks_prev_id_not_itself"),
    expect.constraint("tasks", "ck_tasks_next_id_not_itself"),
    expect.index("uq_tasks_project_id_parent_task_id_title", table="tasks", unique=True),
    expect.index("uq_tasks_project_id_title_root", table="tasks", unique=True),
]

# See 001.
VISIBLE_CHARACTER = r"[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]"

# The canonical lower-case form only: references are compared as text, and one item must have one spelling.
ITEM_REFERENCE = "^(task|step)://[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.Uuid(), nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column(
            "project_id",
            sa.Uuid(),
            nullable=False,
            comment="Project of the task; filled from the parent task when left out.",
        ),
        sa.Column(
            "parent_task_id",
            sa.Uuid(),
            comment="Parent task of the same project, never the task itself; null for a root task.",
        ),
        sa.Column("title", sa.String(255), nullable=False, comment="Not blank; unique among its siblings."),
        sa.Column("objective", sa.Text(), nullable=False, comment="Not blank."),
        sa.Column(
            "progress",
            sa.Double(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Share done, 0 to 1; mean over direct steps and sub-tasks.",
        ),
        sa.Column(
            "prev_id",
            sa.String(50),
            comment=("Reference to the previous item, task://<uuid> or step://<uuid>; kept equal to navigation_links."),
        ),
        sa.Column(
            "next_id",
            sa.String(50),
            comment="Reference to the next item, task://<uuid> or step://<uuid>; kept equal to navigation_links.",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("now()"),
            comment="Time of the last change; kept by trigger.",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        # What "same project" foreign keys point at; the primary key alone cannot say it.
        sa.UniqueConstraint("project_id", "id", name=op.f("uq_tasks_project_id_id")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], ondelete="CASCADE", name=op.f("fk_tasks_project_id_projects")
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "parent_task_id"],
            ["tasks.project_id", "tasks.id"],
            ondelete="CASCADE",
            name=op.f("fk_tasks_project_id_parent_task_id_tasks"),
        ),
        sa.CheckConstraint(f"title COLLATE \"C\" ~ '{VISIBLE_CHARACTER}'", name=op.f("ck_tasks_title_not_blank")),
        sa.CheckConstraint(
            f"objective COLLATE \"C\" ~ '{VISIBLE_CHARACTER}'", name=op.f("ck_tasks_objective_not_blank")
        ),
        sa.CheckConstraint("progress BETWEEN 0 AND 1", name=op.f("ck_tasks_progress_range")),
        sa.CheckConstraint("parent_task_id <> id", name=op.f("ck_tasks_parent_task_id_not_itself")),
        sa.CheckConstraint(f"prev_id ~ '{ITEM_REFERENCE}'", name=op.f("ck_tasks_prev_id_form")),
        sa.CheckConstraint(f"next_id ~ '{ITEM_REFERENCE}'", name=op.f("ck_tasks_next_id_form")),
        sa.CheckConstraint("prev_id <> 'task://' || id::text", name=op.f("ck_tasks_prev_id_not_itself")),
        sa.CheckConstraint("next_id <> 'task://' || id::text", name=op.f("ck_tasks_next_id_not_itself")),
        comment="A unit of work; tasks form a tree below their project.",
    )
    # A title is unique below its parent, root tasks included. NULLs are distinct to a unique key, so roots need an
    # index of their own (NULLS NOT DISTINCT: PostgreSQL 15). The first one is partial as well, because a full one
    # would make title and parent key columns: each rename would then wait for inserts that reference the task.
    op.create_index(
        "uq_tasks_project_id_parent_task_id_title",
        "tasks",
        ["project_id", "parent_task_id", "title"],
        unique=True,
        postgresql_where=sa.text("parent_task_id IS NOT NULL"),
    )
    op.create_index(
        "uq_tasks_project_id_title_root",
        "tasks",
        ["project_id", "title"],
        unique=True,
        postgresql_where=sa.text("parent_task_id IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("tasks")
