"""Create the navigation tables.

Version: 008
Description: The prev/next chain as rows with foreign keys, and where each actor stands in it.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-22
Dependencies: 007
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

import sqlalchemy as sa
from alembic import op

from mcp_planner_schema.operations import expect

revision = "008"
down_revision = "007"
branch_labels = None
depends_on = None

expectations = [
    expect.table("navigation_links"),
    expect.column("navigation_links", "from_ref", type="text", nullable=True),
    expect.column("navigation_links", "to_ref", type="text", nullable=True),
    expect.column("navigation_links", "position", type="bigint", nullable=False),
    expect.constraint("navigation_links", "pk_navigation_links"),
    expect.constraint("navigation_links", "uq_navigation_links_from_ref_project_id"),
    expect.constraint("navigation_links", "uq_navigation_links_to_ref_project_id"),
    expect.constraint("navigation_links", "fk_navigation_links_project_id_from_task_id_tasks"),
    expect.constraint("navigation_links", "fk_navigation_links_project_id_from_step_id_steps"),
    expect.constraint("navigation_links", "fk_navigation_links_project_id_to_task_id_tasks"),
    expect.constraint("navigation_links", "fk_navigation_links_project_id_to_step_id_steps"),
    expect.constraint("navigation_links", "ck_navigation_links_from_exactly_one"),
    expect.constraint("navigation_links", "ck_navigation_links_to_exactly_one"),
    expect.constraint("navigation_links", "ck_navigation_links_ends_differ"),
    expect.table("navigation_cursors"),
    expect.constraint("navigation_cursors", "pk_navigation_cursors"),
    expect.constraint("navigation_cursors", "uq_navigation_cursors_project_id_actor"),
    expect.constraint("navigation_cursors", "fk_navigation_cursors_project_id_current_task_id_tasks"),
    expect.constraint("navigation_cursors", "fk_navigation_cursors_project_id_current_step_id_steps"),
    expect.constraint("navigation_cursors", "ck_navigation_cursors_actor_not_blank"),
    expect.constraint("navigation_cursors", "ck_navigation_cursors_current_exactly_one"),
]

# See 001.
VISIBLE_CHARACTER = r"[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]"


def upgrade() -> None:
    op.create_table(
        "navigation_links",
        sa.Column("id", sa.Uuid(), nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column("project_id", sa.Uuid(), nullable=False, comment="Project of both ends."),
        sa.Column(
            "from_task_id",
            sa.Uuid(),
            comment="Where the link starts, if a task: exactly one of this and from_step_id.",
        ),
        sa.Column(
            "from_step_id",
            sa.Uuid(),
            comment="Where the link starts, if a step: exactly one of this and from_task_id.",
        ),
        sa.Column(
            "to_task_id",
            sa.Uuid(),
            comment="Where the link leads, if to a task: exactly one of this and to_step_id.",
        ),
        sa.Column(
            "to_step_id",
            sa.Uuid(),
            comment="Where the link leads, if to a step: exactly one of this and to_task_id.",
        ),
        # Generated columns must be IMMUTABLE: text || text is, text || uuid is only STABLE.
        # Nullable in name only: the checks leave no way to be null, and a missing end is then refused by their name.
        sa.Column(
            "from_ref",
            sa.Text(),
            sa.Computed("coalesce('task://' || from_task_id::text, 'step://' || from_step_id::text)", persisted=True),
            comment="Start as a reference; unique in the project: an item has at most one successor.",
        ),
        sa.Column(
            "to_ref",
            sa.Text(),
            sa.Computed("coalesce('task://' || to_task_id::text, 'step://' || to_step_id::text)", persisted=True),
            comment="Target as a reference; unique in the project: an item has at most one predecessor.",
        ),
        sa.Column(
            "position",
            sa.BigInteger(),
            nullable=False,
            comment="Order within the project; gaps are allowed.",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_navigation_links")),
        # The reference first: it names one item of all projects, so the text alone finds its link.
        sa.UniqueConstraint("from_ref", "project_id", name=op.f("uq_navigation_links_from_ref_project_id")),
        sa.UniqueConstraint("to_ref", "project_id", name=op.f("uq_navigation_links_to_ref_project_id")),
        sa.ForeignKeyConstraint(
            ["project_id", "from_task_id"],
            ["tasks.project_id", "tasks.id"],
            ondelete="CASCADE",
            name=op.f("fk_navigation_links_project_id_from_task_id_tasks"),
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "from_step_id"],
            ["steps.project_id", "steps.id"],
            ondelete="CASCADE",
            name=op.f("fk_navigation_links_project_id_from_step_id_steps"),
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "to_task_id"],
            ["tasks.project_id", "tasks.id"],
            ondelete="CASCADE",
            name=op.f("fk_navigation_links_project_id_to_task_id_tasks"),
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "to_step_id"],
            ["steps.project_id", "steps.id"],
            ondelete="CASCADE",
            name=op.f("fk_navigation_links_project_id_to_step_id_steps"),
        ),
        sa.CheckConstraint(
            "num_nonnulls(from_task_id, from_step_id) = 1", name=op.f("ck_navigation_links_from_exactly_one")
        ),
        sa.CheckConstraint("num_nonnulls(to_task_id, to_step_id) = 1", name=op.f("ck_navigation_links_to_exactly_one")),
        sa.CheckConstraint("from_ref <> to_ref", name=op.f("ck_navigation_links_ends_differ")),
        comment="One hop of the prev/next chain, from a task or step to the next.",
    )

    op.create_table(
        "navigation_cursors",
        sa.Column("id", sa.Uuid(), nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column("project_id", sa.Uuid(), nullable=False, comment="Project of the current item."),
        sa.Column(
            "actor",
            sa.String(255),
            nullable=False,
            comment="Agent or user; not blank, one cursor per project.",
        ),
        sa.Column(
            "current_task_id",
            sa.Uuid(),
            comment="Current item, if a task: exactly one of this and current_step_id.",
        ),
        sa.Column(
            "current_step_id",
            sa.Uuid(),
            comment="Current item, if a step: exactly one of this and current_task_id.",
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("now()"),
            comment="Time of the last change; kept by trigger.",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_navigation_cursors")),
        sa.UniqueConstraint("project_id", "actor", name=op.f("uq_navigation_cursors_project_id_actor")),
        sa.ForeignKeyConstraint(
            ["project_id", "current_task_id"],
            ["tasks.project_id", "tasks.id"],
            ondelete="CASCADE",
            name=op.f("fk_navigation_cursors_project_id_current_task_id_tasks"),
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "current_step_id"],
            ["steps.project_id", "steps.id"],
            ondelete="CASCADE",
            name=op.f("fk_navigation_cursors_project_id_current_step_id_steps"),
        ),
        sa.CheckConstraint(
            f"actor COLLATE \"C\" ~ '{VISIBLE_CHARACTER}'", name=op.f("ck_navigation_cursors_actor_not_blank")
        ),
        sa.CheckConstraint(
            "num_nonnulls(current_task_id, current_step_id) = 1",
            name=op.f("ck_navigation_cursors_current_exactly_one"),
        ),
        comment="Where an agent or user stands in a project.",
    )


def downgrade() -> None:
    op.drop_table("navigation_cursors")
    op.drop_table("navigation_links")
