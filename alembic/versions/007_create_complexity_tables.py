"""Create the complexity tables.

Version: 007
Description: What the agents judge of a step's complexity, what they settle on, and what follows from it.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-22
Dependencies: 006
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ENUM, JSONB

from mcp_planner_schema.operations import expect

revision = "007"
down_revision = "006"
branch_labels = None
depends_on = None

expectations = [
    expect.enum("complexity_resolution", ["CONSENSUS", "WEIGHTED", "ESCALATED"]),
    expect.table("complexity_assessments"),
    expect.constraint("complexity_assessments", "pk_complexity_assessments"),
    expect.constraint("complexity_assessments", "uq_complexity_assessments_project_id_step_id_agent_iteration"),
    expect.constraint("complexity_assessments", "fk_complexity_assessments_project_id_step_id_steps"),
    expect.constraint("complexity_assessments", "ck_complexity_assessments_iteration_not_negative"),
    expect.constraint("complexity_assessments", "ck_complexity_assessments_score_range"),
    expect.constraint("complexity_assessments", "ck_complexity_assessments_confidence_range"),
    expect.constraint("complexity_assessments", "ck_complexity_assessments_suggested_breakdown_is_array"),
    expect.constraint("complexity_assessments", "ck_complexity_assessments_metrics_is_object"),
    expect.table("complexity_agreements"),
    expect.constraint("complexity_agreements", "pk_complexity_agreements"),
    expect.constraint("complexity_agreements", "uq_complexity_agreements_project_id_step_id_iteration"),
    expect.constraint("complexity_agreements", "fk_complexity_agreements_project_id_step_id_steps"),
    expect.constraint("complexity_agreements", "ck_complexity_agreements_iteration_not_negative"),
    expect.constraint("complexity_agreements", "ck_complexity_agreements_final_score_range"),
    expect.table("step_promotions"),
    expect.constraint("step_promotions", "pk_step_promotions"),
    expect.constraint("step_promotions", "uq_step_promotions_project_id_step_id"),
    expect.constraint("step_promotions", "uq_step_promotions_project_id_new_task_id"),
    expect.constraint("step_promotions", "fk_step_promotions_project_id_new_task_id_tasks"),
    expect.constraint("step_promotions", "ck_step_promotions_step_title_not_blank"),
    expect.constraint("step_promotions", "ck_step_promotions_reason_not_blank"),
    expect.constraint("step_promotions", "ck_step_promotions_complexity_score_range"),
    expect.table("complexity_runs"),
    expect.constraint("complexity_runs", "pk_complexity_runs"),
    expect.constraint("complexity_runs", "fk_complexity_runs_project_id_projects"),
    expect.constraint("complexity_runs", "ck_complexity_runs_threshold_range"),
    expect.constraint("complexity_runs", "ck_complexity_runs_iterations_used_not_negative"),
    expect.constraint("complexity_runs", "ck_complexity_runs_max_iterations_positive"),
    expect.constraint("complexity_runs", "ck_complexity_runs_iterations_used_within_limit"),
    expect.constraint("complexity_runs", "ck_complexity_runs_steps_analysed_not_negative"),
    expect.constraint("complexity_runs", "ck_complexity_runs_steps_promoted_not_negative"),
    expect.index("ix_complexity_runs_project_id_started_at", table="complexity_runs", unique=False),
    expect.table("threshold_changes"),
    expect.constraint("threshold_changes", "pk_threshold_changes"),
    expect.constraint("threshold_changes", "fk_threshold_changes_project_id_projects"),
    expect.constraint("threshold_changes", "ck_threshold_changes_old_threshold_range"),
    expect.constraint("threshold_changes", "ck_threshold_changes_new_threshold_range"),
    expect.index("ix_threshold_changes_project_id_changed_at", table="threshold_changes", unique=False),
]

# See 001.
VISIBLE_CHARACTER = r"[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]"


def upgrade() -> None:
    op.execute("CREATE TYPE complexity_resolution AS ENUM ('CONSENSUS', 'WEIGHTED', 'ESCALATED')")
    # Of earlier revisions: 004 and 006.
    complexity_level = ENUM(name="complexity_level", create_type=False)
    ai_agent = ENUM(name="ai_agent", create_type=False)

    op.create_table(
        "complexity_assessments",
        sa.Column("id", sa.Uuid(), nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column(
            "project_id",
            sa.Uuid(),
            nullable=False,
            comment="Project of the assessment, always its step's.",
        ),
        sa.Column("step_id", sa.Uuid(), nullable=False, comment="Step of the same project that was assessed."),
        sa.Column("agent", ai_agent, nullable=False, comment="Who judged; once per step and iteration."),
        sa.Column("iteration", sa.Integer(), nullable=False, comment="Round of the negotiation; not negative."),
        sa.Column("level", complexity_level, nullable=False, comment="The judgement."),
        sa.Column("score", sa.Double(), nullable=False, comment="The judgement as a number, 0 to 1."),
        sa.Column("reasoning", sa.Text(), comment="Why the agent judges so."),
        sa.Column(
            "should_promote",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="Whether the agent would make the step a task.",
        ),
        sa.Column("confidence", sa.Double(), nullable=False, comment="How sure the agent is, 0 to 1."),
        sa.Column(
            "suggested_breakdown",
            JSONB(),
            nullable=False,
            server_default=sa.text("'[]'::jsonb"),
            comment="Array of the parts the agent would split the step into.",
        ),
        sa.Column(
            "metrics",
            JSONB(),
            nullable=False,
            server_default=sa.text("'{}'::jsonb"),
            comment="Object of what was measured: content length, code blocks, list items and the like.",
        ),
        sa.Column("assessed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_complexity_assessments")),
        sa.UniqueConstraint(
            "project_id",
            "step_id",
            "agent",
            "iteration",
            name=op.f("uq_complexity_assessments_project_id_step_id_agent_iteration"),
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "step_id"],
            ["steps.project_id", "steps.id"],
            ondelete="CASCADE",
            name=op.f("fk_complexity_assessments_project_id_step_id_steps"),
        ),
        sa.CheckConstraint("iteration >= 0", name=op.f("ck_complexity_assessments_iteration_not_negative")),
        sa.CheckConstraint("score BETWEEN 0 AND 1", name=op.f("ck_complexity_assessments_score_range")),
        sa.CheckConstraint("confidence BETWEEN 0 AND 1", name=op.f("ck_complexity_assessments_confidence_range")),
        sa.CheckConstraint(
            "jsonb_typeof(suggested_breakdown) = 'array'",
            name=op.f("ck_complexity_assessments_suggested_breakdown_is_array"),
        ),
        sa.CheckConstraint(
            "jsonb_typeof(metrics) = 'object'", name=op.f("ck_complexity_assessments_metrics_is_object")
        ),
        comment="How complex one agent judged a step in one iteration.",
    )

    op.create_table(
        "complexity_agreements",
        sa.Column("id", sa.Uuid(), nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column(
            "project_id",
            sa.Uuid(),
            nullable=False,
            comment="Project of the agreement, always its step's.",
        ),
        sa.Column("step_id", sa.Uuid(), nullable=False, comment="Step of the same project; one row per iteration."),
        sa.Column("iteration", sa.Integer(), nullable=False, comment="Round of the negotiation; not negative."),
        sa.Column("agreed", sa.Boolean(), nullable=False, comment="Whether the two assessments agreed."),
        sa.Column(
            "final_level",
            complexity_level,
            comment="Level that holds from here on; null where none was found.",
        ),
        sa.Column(
            "final_score",
            sa.Double(),
            comment="Score that holds from here on, 0 to 1; null where none was found.",
        ),
        sa.Column(
            "should_promote",
            sa.Boolean(),
            comment="Whether the step is to become a task; null where undecided.",
        ),
        sa.Column(
            "resolution",
            ENUM(name="complexity_resolution", create_type=False),
            nullable=False,
            comment="How the outcome was reached.",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_complexity_agreements")),
        sa.UniqueConstraint(
            "project_id",
            "step_id",
            "iteration",
            name=op.f("uq_complexity_agreements_project_id_step_id_iteration"),
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "step_id"],
            ["steps.project_id", "steps.id"],
            ondelete="CASCADE",
            name=op.f("fk_complexity_agreements_project_id_step_id_steps"),
        ),
        sa.CheckConstraint("iteration >= 0", name=op.f("ck_complexity_agreements_iteration_not_negative")),
        sa.CheckConstraint("final_score BETWEEN 0 AND 1", name=op.f("ck_complexity_agreements_final_score_range")),
        comment="What the two assessments of a step and iteration came to.",
    )

    op.create_table(
        "step_promotions",
        sa.Column("id", sa.Uuid(), nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column(
            "project_id",
            sa.Uuid(),
            nullable=False,
            comment="Project of the step and of the task it became.",
        ),
        # No foreign key: promotion deletes the step, and this row is what remains of it.
        sa.Column(
            "step_id",
            sa.Uuid(),
            nullable=False,
            comment="Id the step had; kept after the step is gone. Promoted once.",
        ),
        sa.Column("step_title", sa.String(255), nullable=False, comment="Title the step had; not blank."),
        # SET NULL would keep the row, but nulls project_id as well before PostgreSQL 15 learned SET NULL (column).
        sa.Column(
            "new_task_id",
            sa.Uuid(),
            nullable=False,
            comment="Task of the same project that the step became.",
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why it was promoted; not blank."),
        sa.Column(
            "complexity_score",
            sa.Double(),
            comment="Score that tipped it, 0 to 1; null where a user decided.",
        ),
        sa.Column("preserved_content", sa.Text(), comment="What the step had to say when it was promoted."),
        sa.Column("promoted_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_step_promotions")),
        sa.UniqueConstraint("project_id", "step_id", name=op.f("uq_step_promotions_project_id_step_id")),
        sa.UniqueConstraint("project_id", "new_task_id", name=op.f("uq_step_promotions_project_id_new_task_id")),
        sa.ForeignKeyConstraint(
            ["project_id", "new_task_id"],
            ["tasks.project_id", "tasks.id"],
            ondelete="CASCADE",
            name=op.f("fk_step_promotions_project_id_new_task_id_tasks"),
        ),
        sa.CheckConstraint(
            f"step_title COLLATE \"C\" ~ '{VISIBLE_CHARACTER}'", name=op.f("ck_step_promotions_step_title_not_blank")
        ),
        sa.CheckConstraint(
            f"reason COLLATE \"C\" ~ '{VISIBLE_CHARACTER}'", name=op.f("ck_step_promotions_reason_not_blank")
        ),
        sa.CheckConstraint("complexity_score BETWEEN 0 AND 1", name=op.f("ck_step_promotions_complexity_score_range")),
        comment="A step that became a task of its own.",
    )

    op.create_table(
        "complexity_runs",
        sa.Column("id", sa.Uuid(), nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column("project_id", sa.Uuid(), nullable=False, comment="Project that was optimised."),
        sa.Column(
            "threshold",
            sa.Double(),
            nullable=False,
            comment="complexity_threshold that the run used, 0 to 1.",
        ),
        sa.Column(
            "iterations_used",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Passes made; not negative, at most max_iterations.",
        ),
        sa.Column(
            "max_iterations",
            sa.Integer(),
            nullable=False,
            comment="Passes that were allowed; at least 1.",
        ),
        sa.Column(
            "steps_analysed",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Steps looked at; not negative.",
        ),
        sa.Column(
            "steps_promoted",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Steps made tasks; not negative.",
        ),
        sa.Column("convergence_reason", sa.Text(), comment="Why the run stopped; null while it is under way."),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("finished_at", sa.DateTime(timezone=True), comment="Null while the run is under way."),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_complexity_runs")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], ondelete="CASCADE", name=op.f("fk_complexity_runs_project_id_projects")
        ),
        sa.CheckConstraint("threshold BETWEEN 0 AND 1", name=op.f("ck_complexity_runs_threshold_range")),
        sa.CheckConstraint("iterations_used >= 0", name=op.f("ck_complexity_runs_iterations_used_not_negative")),
        sa.CheckConstraint("max_iterations > 0", name=op.f("ck_complexity_runs_max_iterations_positive")),
        sa.CheckConstraint(
            "iterations_used <= max_iterations", name=op.f("ck_complexity_runs_iterations_used_within_limit")
        ),
        sa.CheckConstraint("steps_analysed >= 0", name=op.f("ck_complexity_runs_steps_analysed_not_negative")),
        sa.CheckConstraint("steps_promoted >= 0", name=op.f("ck_complexity_runs_steps_promoted_not_negative")),
        comment="One optimisation of a project: what was allowed, what it did and why it stopped.",
    )
    # Leads with project_id, so that deleting a project does not read every run there ever was.
    op.create_index("ix_complexity_runs_project_id_started_at", "complexity_runs", ["project_id", "started_at"])

    op.create_table(
        "threshold_changes",
        sa.Column("id", sa.Uuid(), nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column(
            "project_id",
            sa.Uuid(),
            nullable=False,
            comment="Project whose complexity_threshold changed.",
        ),
        sa.Column("old_threshold", sa.Double(), comment="Value before, 0 to 1; null for the first one."),
        sa.Column("new_threshold", sa.Double(), nullable=False, comment="Value after, 0 to 1."),
        sa.Column(
            "changed_by",
            sa.String(255),
            nullable=False,
            server_default=sa.text("'system'"),
            comment="User or agent who changed it; system where no actor is set.",
        ),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_threshold_changes")),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            ondelete="CASCADE",
            name=op.f("fk_threshold_changes_project_id_projects"),
        ),
        sa.CheckConstraint("old_threshold BETWEEN 0 AND 1", name=op.f("ck_threshold_changes_old_threshold_range")),
        sa.CheckConstraint("new_threshold BETWEEN 0 AND 1", name=op.f("ck_threshold_changes_new_threshold_range")),
        comment="History of each project's complexity_threshold; written by trigger.",
    )
    # Leads with project_id, so that deleting a project does not read every change there ever was.
    op.create_index("ix_threshold_changes_project_id_changed_at", "threshold_changes", ["project_id", "changed_at"])


def downgrade() -> None:
    op.drop_table("threshold_changes")
    op.drop_table("complexity_runs")
    op.drop_table("step_promotions")
    op.drop_table("complexity_agreements")
    op.drop_table("complexity_assessments")
    op.execute("DROP TYPE complexity_resolution")
