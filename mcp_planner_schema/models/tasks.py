"""Tasks: a tree below each project."""

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from mcp_planner_schema.models.conventions import (
    chain_position_column,
    child_count_column,
    child_progress_column,
    created_at_column,
    finished_column,
    id_column,
    metadata,
    not_blank,
    progress_column,
    reference_column,
    reference_form,
    reference_not_itself,
    title_column,
    unfinished_index,
    unit_interval,
    updated_at_column,
)

tasks = Table(
    "tasks",
    metadata,
    id_column(),
    Column(
        "project_id",
        Uuid(),
        ForeignKey("projects.id", ondelete="CASCADE"),
        nullable=False,
        comment="Project of the task; filled from the parent task when left out.",
    ),
    Column(
        "parent_task_id",
        Uuid(),
        comment="Parent task of the same project, never the task itself; null for a root task.",
    ),
    title_column(),
    Column("objective", Text(), nullable=False, comment="Not blank."),
    progress_column("mean over direct steps and sub-tasks"),
    reference_column("prev_id", "previous"),
    reference_column("next_id", "next"),
    created_at_column(),
    updated_at_column(),
    # Last, because revisions 012 and 017 added them: a table created from these models has the same column order.
    child_count_column("direct steps and sub-tasks"),
    child_progress_column("direct steps and sub-tasks"),
    chain_position_column(),
    finished_column(),
    # What "same project" foreign keys point at; the primary key alone cannot say it.
    UniqueConstraint("project_id", "id"),
    ForeignKeyConstraint(["project_id", "parent_task_id"], ["tasks.project_id", "tasks.id"], ondelete="CASCADE"),
    not_blank("title"),
    not_blank("objective"),
    unit_interval("progress"),
    CheckConstraint("parent_task_id <> id", name="parent_task_id_not_itself"),
    reference_form("prev_id"),
    reference_form("next_id"),
    reference_not_itself("prev_id", "task"),
    reference_not_itself("next_id", "task"),
    # A title is unique below its parent, root tasks included. NULLs are distinct to a unique key, so roots need an
    # index of their own (NULLS NOT DISTINCT: PostgreSQL 15). The first one is partial as well, because a full one
    # would make title and parent key columns: each rename would then wait for inserts that reference the task.
    Index(
        "uq_tasks_project_id_parent_task_id_title",
        "project_id",
        "parent_task_id",
        "title",
        unique=True,
        postgresql_where=text("parent_task_id IS NOT NULL"),
    ),
    Index(
        "uq_tasks_project_id_title_root",
        "project_id",
        "title",
        unique=True,
        postgresql_where=text("parent_task_id IS NULL"),
    ),
    # A reference names one item of all projects, so the text alone finds its row.
    Index("ix_tasks_prev_id", "prev_id", postgresql_where=text("prev_id IS NOT NULL")),
    Index("ix_tasks_next_id", "next_id", postgresql_where=text("next_id IS NOT NULL")),
    unfinished_index("tasks", "project_id"),
    unfinished_index("tasks", "parent_task_id"),
    # left(): a tsvector of more than 1 MB is an error, and the index would refuse the row.
    Index(
        "ix_tasks_search",
        text("to_tsvector('english', (title || ' ') || left(objective, 50000))"),
        postgresql_using="gin",
    ),
    comment="A unit of work; tasks form a tree below their project.",
)
