"""Complexity: how hard the agents judge a step, and what followed from it."""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from mcp_planner_schema.models.conventions import (
    created_at_column,
    id_column,
    metadata,
    not_blank,
    not_negative,
    positive,
    unit_interval,
)
from mcp_planner_schema.models.enums import ai_agent, complexity_level, complexity_resolution

# Its rows are part of the schema: the revision that creates it fills it. Belongs to no project.
complexity_levels = Table(
    "complexity_levels",
    metadata,
    Column("level", complexity_level, primary_key=True, comment="The level; one row each."),
    Column(
        "lowest_score",
        Double(),
        nullable=False,
        comment="Score, 0 to 1, from which the level holds, up to where the next begins.",
    ),
    Column("title", String(255), nullable=False, comment="What people call it; not blank."),
    Column("description", Text(), nullable=False, comment="What it says about a step; not blank."),
    UniqueConstraint("lowest_score"),
    unit_interval("lowest_score"),
    not_blank("title"),
    not_blank("description"),
    comment="Reference data: what each complexity level means. Filled by its revision, of no project.",
)

complexity_assessments = Table(
    "complexity_assessments",
    metadata,
    id_column(),
    Column(
        "project_id",
        Uuid(),
        nullable=False,
        comment="Project of the assessment, always its step's.",
    ),
    Column("step_id", Uuid(), nullable=False, comment="Step of the same project that was assessed."),
    Column("agent", ai_agent, nullable=False, comment="Who judged; once per step and iteration."),
    Column("iteration", Integer(), nullable=False, comment="Round of the negotiation; not negative."),
    Column("level", complexity_level, nullable=False, comment="The judgement."),
    Column("score", Double(), nullable=False, comment="The judgement as a number, 0 to 1."),
    Column("reasoning", Text(), comment="Why the agent judges so."),
    Column(
        "should_promote",
        Boolean(),
        nullable=False,
        server_default=text("false"),
        comment="Whether the agent would make the step a task.",
    ),
    Column("confidence", Double(), nullable=False, comment="How sure the agent is, 0 to 1."),
    Column(
        "suggested_breakdown",
        JSONB(),
        nullable=False,
        server_default=text("'[]'::jsonb"),
        comment="Array of the parts the agent would split the step into.",
    ),
    Column(
        "metrics",
        JSONB(),
        nullable=False,
        server_default=text("'{}'::jsonb"),
        comment="Object of what was measured: content length, code blocks, list items and the like.",
    ),
    Column("assessed_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    UniqueConstraint("project_id", "step_id", "agent", "iteration"),
    ForeignKeyConstraint(["project_id", "step_id"], ["steps.project_id", "steps.id"], ondelete="CASCADE"),
    not_negative("iteration"),
    unit_interval("score"),
    unit_interval("confidence"),
    CheckConstraint("jsonb_typeof(suggested_breakdown) = 'array'", name="suggested_breakdown_is_array"),
    CheckConstraint("jsonb_typeof(metrics) = 'object'", name="metrics_is_object"),
    comment="How complex one agent judged a step in one iteration.",
)

complexity_agreements = Table(
    "complexity_agreements",
    metadata,
    id_column(),
    Column(
        "project_id",
        Uuid(),
        nullable=False,
        comment="Project of the agreement, always its step's.",
    ),
    Column("step_id", Uuid(), nullable=False, comment="Step of the same project; one row per iteration."),
    Column("iteration", Integer(), nullable=False, comment="Round of the negotiation; not negative."),
    Column("agreed", Boolean(), nullable=False, comment="Whether the two assessments agreed."),
    Column("final_level", complexity_level, comment="Level that holds from here on; null where none was found."),
    Column("final_score", Double(), comment="Score that holds from here on, 0 to 1; null where none was found."),
    Column("should_promote", Boolean(), comment="Whether the step is to become a task; null where undecided."),
    Column("resolution", complexity_resolution, nullable=False, comment="How the outcome was reached."),
    created_at_column(),
    UniqueConstraint("project_id", "step_id", "iteration"),
    ForeignKeyConstraint(["project_id", "step_id"], ["steps.project_id", "steps.id"], ondelete="CASCADE"),
    not_negative("iteration"),
    unit_interval("final_score"),
    comment="What the two assessments of a step and iteration came to.",
)

step_promotions = Table(
    "step_promotions",
    metadata,
    id_column(),
    Column("project_id", Uuid(), nullable=False, comment="Project of the step and of the task it became."),
    # No foreign key: promotion deletes the step, and this row is what remains of it.
    Column("step_id", Uuid(), nullable=False, comment="Id the step had; kept after the step is gone. Promoted once."),
    Column("step_title", String(255), nullable=False, comment="Title the step had; not blank."),
    # SET NULL would keep the row, but nulls project_id as well before PostgreSQL 15 learned SET NULL (column).
    Column("new_task_id", Uuid(), nullable=False, comment="Task of the same project that the step became."),
    Column("reason", Text(), nullable=False, comment="Why it was promoted; not blank."),
    Column("complexity_score", Double(), comment="Score that tipped it, 0 to 1; null where a user decided."),
    Column("preserved_content", Text(), comment="What the step had to say when it was promoted."),
    Column("promoted_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    UniqueConstraint("project_id", "step_id"),
    UniqueConstraint("project_id", "new_task_id"),
    ForeignKeyConstraint(["project_id", "new_task_id"], ["tasks.project_id", "tasks.id"], ondelete="CASCADE"),
    not_blank("step_title"),
    not_blank("reason"),
    unit_interval("complexity_score"),
    comment="A step that became a task of its own.",
)

complexity_runs = Table(
    "complexity_runs",
    metadata,
    id_column(),
    Column(
        "project_id",
        Uuid(),
        ForeignKey("projects.id", ondelete="CASCADE"),
        nullable=False,
        comment="Project that was optimised.",
    ),
    Column("threshold", Double(), nullable=False, comment="complexity_threshold that the run used, 0 to 1."),
    Column(
        "iterations_used",
        Integer(),
        nullable=False,
        server_default=text("0"),
        comment="Passes made; not negative, at most iterations_allowed.",
    ),
    Column(
        "steps_analysed",
        Integer(),
        nullable=False,
        server_default=text("0"),
        comment="Steps looked at; not negative.",
    ),
    Column(
        "steps_promoted",
        Integer(),
        nullable=False,
        server_default=text("0"),
        comment="Steps made tasks; not negative.",
    ),
    Column("convergence_reason", Text(), comment="Why the run stopped; null while it is under way."),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("finished_at", DateTime(timezone=True), comment="Null while the run is under way."),
    # Last, because a later revision added it; its name was max_iterations before.
    Column("iterations_allowed", Integer(), nullable=False, comment="Passes that were allowed; at least 1."),
    unit_interval("threshold"),
    not_negative("iterations_used"),
    positive("iterations_allowed"),
    CheckConstraint("iterations_used <= iterations_allowed", name="iterations_used_within_limit"),
    not_negative("steps_analysed"),
    not_negative("steps_promoted"),
    # Leads with project_id, so that deleting a project does not read every run there ever was.
    Index("ix_complexity_runs_project_id_started_at", "project_id", "started_at"),
    comment="One optimisation of a project: what was allowed, what it did and why it stopped.",
)

threshold_changes = Table(
    "threshold_changes",
    metadata,
    id_column(),
    Column(
        "project_id",
        Uuid(),
        ForeignKey("projects.id", ondelete="CASCADE"),
        nullable=False,
        comment="Project whose complexity_threshold changed.",
    ),
    Column("old_threshold", Double(), comment="Value before, 0 to 1; null for the first one."),
    Column("new_threshold", Double(), nullable=False, comment="Value after, 0 to 1."),
    Column(
        "changed_by",
        String(255),
        nullable=False,
        server_default=text("'system'"),
        comment="User or agent who changed it; system where no actor is set.",
    ),
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    unit_interval("old_threshold"),
    unit_interval("new_threshold"),
    # Leads with project_id, so that deleting a project does not read every change there ever was.
    Index("ix_threshold_changes_project_id_changed_at", "project_id", "changed_at"),
    comment="History of each project's complexity_threshold; written by trigger.",
)
