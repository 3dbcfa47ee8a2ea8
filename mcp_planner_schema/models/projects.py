"""Projects: the root that every other table belongs to."""

from sqlalchemy import Column, Double, Index, Integer, String, Table, Text, text

from mcp_planner_schema.models.conventions import (
    child_count_column,
    child_progress_column,
    created_at_column,
    id_column,
    metadata,
    not_blank,
    positive,
    progress_column,
    unit_interval,
    updated_at_column,
)

projects = Table(
    "projects",
    metadata,
    id_column(),
    Column("name", String(255), nullable=False, comment="Not blank."),
    Column("description", Text(), nullable=False, comment="Not blank."),
    progress_column("mean over the root tasks"),
    created_at_column(),
    updated_at_column(),
    # Last, because revision 002 added them: a table created from these models has the same column order.
    Column(
        "complexity_threshold",
        Double(),
        nullable=False,
        server_default=text("0.7"),
        comment="Complexity score, 0 to 1, above which a step is promoted to a task.",
    ),
    Column(
        "max_iterations",
        Integer(),
        nullable=False,
        server_default=text("3"),
        comment="Rounds the two agents may take over a step; at least 1.",
    ),
    child_count_column("root tasks"),
    child_progress_column("root tasks"),
    not_blank("name"),
    not_blank("description"),
    unit_interval("progress"),
    unit_interval("complexity_threshold"),
    positive("max_iterations"),
    # With id, because one transaction gives many projects the same time.
    Index("ix_projects_updated_at_id", "updated_at", "id"),
    comment="A project that agents break down into tasks and steps.",
)
