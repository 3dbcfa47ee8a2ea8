"""Disputes: steps the two agents could not agree on, for a person to settle."""

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Table,
    Text,
    Uuid,
    text,
)

from mcp_planner_schema.models.conventions import (
    created_at_column,
    id_column,
    metadata,
    not_blank,
    updated_at_column,
)
from mcp_planner_schema.models.enums import dispute_status, resolution_type

disputes = Table(
    "disputes",
    metadata,
    id_column(),
    Column(
        "project_id",
        Uuid(),
        ForeignKey("projects.id", ondelete="CASCADE"),
        nullable=False,
        comment="Project of the dispute, always its step's; filled from the step when left out.",
    ),
    Column("step_id", Uuid(), nullable=False, comment="Step of the same project; one PENDING dispute at a time."),
    Column("server_content", Text(), nullable=False, comment="Version of the server AI; not blank."),
    Column("client_content", Text(), nullable=False, comment="Version of the client AI; not blank."),
    Column("server_reasoning", Text(), nullable=False, comment="Why the server AI insists; not blank."),
    Column("client_reasoning", Text(), nullable=False, comment="Why the client AI insists; not blank."),
    Column(
        "status",
        dispute_status,
        nullable=False,
        server_default=text("'PENDING'"),
        comment="RESOLVED exactly when user_resolution, resolved_content and resolved_at are present.",
    ),
    Column("user_resolution", resolution_type, comment="Whose version the user chose; present when RESOLVED only."),
    Column("resolved_content", Text(), comment="What the user settled on, not blank; present when RESOLVED only."),
    Column("resolved_at", DateTime(timezone=True), comment="When the user settled it; present when RESOLVED only."),
    created_at_column(),
    updated_at_column(),
    ForeignKeyConstraint(["project_id", "step_id"], ["steps.project_id", "steps.id"], ondelete="CASCADE"),
    not_blank("server_content"),
    not_blank("client_content"),
    not_blank("server_reasoning"),
    not_blank("client_reasoning"),
    not_blank("resolved_content"),
    CheckConstraint(
        "num_nonnulls(user_resolution, resolved_content, resolved_at) = CASE status WHEN 'RESOLVED' THEN 3 ELSE 0 END",
        name="resolution_when_resolved",
    ),
    Index(
        "uq_disputes_project_id_step_id_pending",
        "project_id",
        "step_id",
        unique=True,
        postgresql_where=text("status = 'PENDING'"),
    ),
    # The partial index above cannot serve the foreign keys: deleting a step or project looks for all its disputes.
    Index("ix_disputes_project_id_step_id", "project_id", "step_id"),
    # What waits for the user, of all projects, oldest first.
    Index("ix_disputes_created_at_id_pending", "created_at", "id", postgresql_where=text("status = 'PENDING'")),
    comment="A step the two agents could not agree on, for a user to settle.",
)
