"""Create the steps table.

Version: 004
Description: Steps of a task, with what the two agents write about them, how far they are and how complex.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-22
Dependencies: 003
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ENUM

from mcp_planner_schema.operations import expect

revision = "004"
down_revision = "003"
branch_labels = None
depends_on = None

expectations = [
    expect.enum("step_status", ["PENDING", "SERVER_DRAFT", "CLIENT_REVIEW", "AGREED", "DISPUTED", "USER_RESOLUTION"]),
    expect.enum("complexity_level", ["LOW", "MEDIUM", "HIGH"]),
    expect.table("steps"),
    expect.column("steps", "project_id", type="uuid", nullable=False),
    expect.column("steps", "task_id", type="uuid", nullable=False),
    expect.column("steps", "status", type="step_status", nullable=False),
    expect.column("steps", "agreed_complexity", type="complexity_level", nullable=True),
    expect.constraint("steps", "pk_steps"),
    expect.constraint("steps", "uq_steps_project_id_id"),
    expect.constraint("steps", "uq_steps_project_id_task_id_title"),
    expect.constraint("steps", "fk_steps_project_id_task_id_tasks"),
    expect.constraint("steps", "ck_steps_title_not_blank"),
    expect.constraint("steps", "ck_steps_prev_id_form"),
    expect.constraint("steps", "ck_steps_next_id_form"),
    expect.constraint("steps", "ck_steps_prev_id_not_itself"),
    expect.constraint("steps", "ck_steps_next_id_not_itself"),
    expect.constraint("steps", "ck_steps_progress_range"),
    expect.constraint("steps", "ck_steps_iteration_count_not_negative"),
    expect.constraint("steps", "ck_steps_complexity_score_range"),
    expect.constraint("steps", "ck_steps_agreed_has_final_content"),
]

# See 001 and 003.
VISIBLE_CHARACTER = r"[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]"
ITEM_REFERENCE = "^(task|step)://[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"


def upgrade() -> None:
    # Types are created and dropped by statements of their own: several tables share them, and dropping a table
    # leaves its types behind.
    op.execute(
        "CREATE TYPE step_status AS ENUM"
        " ('PENDING', 'SERVER_DRAFT', 'CLIENT_REVIEW', 'AGREED', 'DISPUTED', 'USER_RESOLUTION')"
    )
    op.execute("CREATE TYPE complexity_level AS ENUM ('LOW', 'MEDIUM', 'HIGH')")
    complexity_level = ENUM(name="complexity_level", create_type=False)
    op.create_table(
        "steps",
        sa.Column("id", sa.Uuid(), nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column(
            "project_id",
            sa.Uuid(),
            nullable=False,
            comment="Project of the step, always its task's; filled from the task when left out.",
        ),
        sa.Column("task_id", sa.Uuid(), nullable=False, comment="Task of the same project that the step belongs to."),
        sa.Column("title", sa.String(255), nullable=False, comment="Not blank; unique among its siblings."),
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
        sa.Column(
            "progress",
            sa.Double(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Share done, 0 to 1; 1 once the step is agreed.",
        ),
        sa.Column("server_content", sa.Text(), comment="Draft of the server AI."),
        sa.Column("client_content", sa.Text(), comment="Version of the client AI."),
        sa.Column(
            "final_content",
            sa.Text(),
            comment="What was agreed; required, and not blank, when the status is AGREED.",
        ),
        sa.Column(
            "iteration_count",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Rounds taken so far; not negative.",
        ),
        sa.Column(
            "max_iterations_reached",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="Whether the agents used up the project's max_iterations.",
        ),
        sa.Column(
            "status",
            ENUM(name="step_status", create_type=False),
            nullable=False,
            server_default=sa.text("'PENDING'"),
            comment="Where the negotiation stands; AGREED requires final_content.",
        ),
        sa.Column(
            "server_ready",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="Whether the server AI considers its draft complete.",
        ),
        sa.Column(
            "client_approved",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="Whether the client AI accepts the draft.",
        ),
        sa.Column("server_complexity", complexity_level, comment="Latest judgement of the server AI."),
        sa.Column("client_complexity", complexity_level, comment="Latest judgement of the client AI."),
        sa.Column("agreed_complexity", complexity_level, comment="What both agents settled on."),
        sa.Column("complexity_score", sa.Double(), comment="0 to 1; null until assessed."),
        sa.Column(
            "should_promote",
            sa.Boolean(),
            comment="Whether the step should become a task; null until assessed.",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("now()"),
            comment="Time of the last change; kept by trigger.",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_steps")),
        # What "same project" foreign keys point at; the primary key alone cannot say it.
        sa.UniqueConstraint("project_id", "id", name=op.f("uq_steps_project_id_id")),
        # Serves the foreign key below as well: it begins with the same columns.
        sa.UniqueConstraint("project_id", "task_id", "title", name=op.f("uq_steps_project_id_task_id_title")),
        sa.ForeignKeyConstraint(
            ["project_id", "task_id"],
            ["tasks.project_id", "tasks.id"],
            ondelete="CASCADE",
            name=op.f("fk_steps_project_id_task_id_tasks"),
        ),
        sa.CheckConstraint(f"title COLLATE \"C\" ~ '{VISIBLE_CHARACTER}'", name=op.f("ck_steps_title_not_blank")),
        sa.CheckConstraint(f"prev_id ~ '{ITEM_REFERENCE}'", name=op.f("ck_steps_prev_id_form")),
        sa.CheckConstraint(f"next_id ~ '{ITEM_REFERENCE}'", name=op.f("ck_steps_next_id_form")),
        sa.CheckConstraint("prev_id <> 'step://' || id::text", name=op.f("ck_steps_prev_id_not_itself")),
        sa.CheckConstraint("next_id <> 'step://' || id::text", name=op.f("ck_steps_next_id_not_itself")),
        sa.CheckConstraint("progress BETWEEN 0 AND 1", name=op.f("ck_steps_progress_range")),
        sa.CheckConstraint("iteration_count >= 0", name=op.f("ck_steps_iteration_count_not_negative")),
        sa.CheckConstraint("complexity_score BETWEEN 0 AND 1", name=op.f("ck_steps_complexity_score_range")),
        # IS NOT NULL is not redundant: without it a missing text makes the condition unknown, and unknown passes.
        sa.CheckConstraint(
            "status <> 'AGREED' OR"
            f" (final_content IS NOT NULL AND final_content COLLATE \"C\" ~ '{VISIBLE_CHARACTER}')",
            name=op.f("ck_steps_agreed_has_final_content"),
        ),
        comment="The smallest unit of work, negotiated between server AI and client AI.",
    )


def downgrade() -> None:
    op.drop_table("steps")
    op.execute("DROP TYPE complexity_level")
    op.execute("DROP TYPE step_status")
