"""Navigation: the prev/next chain as rows, and where each actor stands in it."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    ForeignKeyConstraint,
    Index,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from mcp_planner_schema.models.conventions import (
    exactly_one,
    id_column,
    metadata,
    not_blank,
    updated_at_column,
)


def item_reference(task_column: str, step_column: str) -> Computed:
    """Text form of a polymorphic end. A generated column must be IMMUTABLE: `||` with a uuid is only STABLE."""
    return Computed(f"coalesce('task://' || {task_column}::text, 'step://' || {step_column}::text)", persisted=True)


navigation_links = Table(
    "navigation_links",
    metadata,
    id_column(),
    Column("project_id", Uuid(), nullable=False, comment="Project of both ends."),
    Column("from_task_id", Uuid(), comment="Where the link starts, if a task: exactly one of this and from_step_id."),
    Column("from_step_id", Uuid(), comment="Where the link starts, if a step: exactly one of this and from_task_id."),
    Column("to_task_id", Uuid(), comment="Where the link leads, if to a task: exactly one of this and to_step_id."),
    Column("to_step_id", Uuid(), comment="Where the link leads, if to a step: exactly one of this and to_task_id."),
    # Nullable in name only: the checks leave no way to be null, and a missing end is then refused by their name.
    Column(
        "from_ref",
        Text(),
        item_reference("from_task_id", "from_step_id"),
        comment="Start as a reference; unique in the project: an item has at most one successor.",
    ),
    Column(
        "to_ref",
        Text(),
        item_reference("to_task_id", "to_step_id"),
        comment="Target as a reference; unique in the project: an item has at most one predecessor.",
    ),
    # The default stands for "find a place": the triggers of revision 018 do.
    Column(
        "position",
        BigInteger(),
        nullable=False,
        server_default=text("'-9223372036854775808'::bigint"),
        comment="Order within the project; gaps are allowed.",
    ),
    Column(
        "closes_circle",
        Boolean(),
        nullable=False,
        server_default=text("false"),
        comment="Whether the link leads back to the beginning of its chain; kept by trigger.",
    ),
    # The reference first: it names one item of all projects, so the text alone finds its link.
    UniqueConstraint("from_ref", "project_id"),
    UniqueConstraint("to_ref", "project_id"),
    ForeignKeyConstraint(["project_id", "from_task_id"], ["tasks.project_id", "tasks.id"], ondelete="CASCADE"),
    ForeignKeyConstraint(["project_id", "from_step_id"], ["steps.project_id", "steps.id"], ondelete="CASCADE"),
    ForeignKeyConstraint(["project_id", "to_task_id"], ["tasks.project_id", "tasks.id"], ondelete="CASCADE"),
    ForeignKeyConstraint(["project_id", "to_step_id"], ["steps.project_id", "steps.id"], ondelete="CASCADE"),
    exactly_one("from_task_id", "from_step_id", name="from_exactly_one"),
    exactly_one("to_task_id", "to_step_id", name="to_exactly_one"),
    CheckConstraint("from_ref <> to_ref", name="ends_differ"),
    Index("ix_navigation_links_project_id_position", "project_id", "position"),
    # Almost always empty: what a removed link may have opened.
    Index("ix_navigation_links_project_id_closes_circle", "project_id", postgresql_where=text("closes_circle")),
    # One for each foreign key, or deleting a task or step reads all links. Partial: each end is null in some rows.
    Index(
        "ix_navigation_links_project_id_from_task_id",
        "project_id",
        "from_task_id",
        postgresql_where=text("from_task_id IS NOT NULL"),
    ),
    Index(
        "ix_navigation_links_project_id_from_step_id",
        "project_id",
        "from_step_id",
        postgresql_where=text("from_step_id IS NOT NULL"),
    ),
    Index(
        "ix_navigation_links_project_id_to_task_id",
        "project_id",
        "to_task_id",
        postgresql_where=text("to_task_id IS NOT NULL"),
    ),
    Index(
        "ix_navigation_links_project_id_to_step_id",
        "project_id",
        "to_step_id",
        postgresql_where=text("to_step_id IS NOT NULL"),
    ),
    comment="One hop of the prev/next chain, from a task or step to the next.",
)

navigation_cursors = Table(
    "navigation_cursors",
    metadata,
    id_column(),
    Column("project_id", Uuid(), nullable=False, comment="Project of the current item."),
    Column("actor", String(255), nullable=False, comment="Agent or user; not blank, one cursor per project."),
    Column("current_task_id", Uuid(), comment="Current item, if a task: exactly one of this and current_step_id."),
    Column("current_step_id", Uuid(), comment="Current item, if a step: exactly one of this and current_task_id."),
    updated_at_column(),
    UniqueConstraint("project_id", "actor"),
    ForeignKeyConstraint(["project_id", "current_task_id"], ["tasks.project_id", "tasks.id"], ondelete="CASCADE"),
    ForeignKeyConstraint(["project_id", "current_step_id"], ["steps.project_id", "steps.id"], ondelete="CASCADE"),
    not_blank("actor"),
    exactly_one("current_task_id", "current_step_id", name="current_exactly_one"),
    Index(
        "ix_navigation_cursors_project_id_current_task_id",
        "project_id",
        "current_task_id",
        postgresql_where=text("current_task_id IS NOT NULL"),
    ),
    Index(
        "ix_navigation_cursors_project_id_current_step_id",
        "project_id",
        "current_step_id",
        postgresql_where=text("current_step_id IS NOT NULL"),
    ),
    comment="Where an agent or user stands in a project.",
)
