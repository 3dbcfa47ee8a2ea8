"""Create the disputes table.

Version: 005
Description: Steps the two agents could not agree on, one open dispute at a time, and how a user settled them.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-22
Dependencies: 004
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ENUM

from mcp_planner_schema.operations import expect

revision = "005"
down_revision = "004"
branch_labels = None
depends_on = None

expectations = [
    expect.enum("dispute_status", ["PENDING", "RESOLVED"]),
    expect.enum("resolution_type", ["SERVER", "CLIENT", "CUSTOM", "HYBRID"]),
    expect.table("disputes"),
    expect.column("disputes", "project_id", type="uuid", nullable=False),
    expect.column("disputes", "step_id", type="uuid", nullable=False),
    expect.column("disputes", "status", type="dispute_status", nullable=False),
    expect.column("disputes", "user_resolution", type="resolution_type", nullable=True),
    expect.constraint("disputes", "pk_disputes"),
    expect.constraint("disputes", "fk_disputes_project_id_projects"),
    expect.constraint("disputes", "fk_disputes_project_id_step_id_steps"),
    expect.constraint("disputes", "ck_disputes_server_content_not_blank"),
    expect.constraint("disputes", "ck_disputes_client_content_not_blank"),
    expect.constraint("disputes", "ck_disputes_server_reasoning_not_blank"),
    expect.constraint("disputes", "ck_disputes_client_reasoning_not_blank"),
    expect.constraint("disputes", "ck_disputes_resolved_content_not_blank"),
    expect.constraint("disputes", "ck_disputes_resolution_when_resolved"),
    expect.index("uq_disputes_project_id_step_id_pending", table="disputes", unique=True),
    expect.index("ix_disputes_project_id_step_id", table="disputes", unique=False),
]

# See 001.
VISIBLE_CHARACTER = r"[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]"


def upgrade() -> None:
    op.execute("CREATE TYPE dispute_status AS ENUM ('PENDING', 'RESOLVED')")
    op.execute("CREATE TYPE resolution_type AS ENUM ('SERVER', 'CLIENT', 'CUSTOM', 'HYBRID')")
    op.create_table(
        "disputes",
        sa.Column("id", sa.Uuid(), nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column(
            "project_id",
            sa.Uuid(),
            nullable=False,
            comment="Project of the dispute, always its step's; filled from the step when left out.",
        ),
        sa.Column(
            "step_id",
            sa.Uuid(),
            nullable=False,
            comment="Step of the same project; one PENDING dispute at a time.",
        ),
        sa.Column("server_content", sa.Text(), nullable=False, comment="Version of the server AI; not blank."),
        sa.Column("client_content", sa.Text(), nullable=False, comment="Version of the client AI; not blank."),
        sa.Column("server_reasoning", sa.Text(), nullable=False, comment="Why the server AI insists; not blank."),
        sa.Column("client_reasoning", sa.Text(), nullable=False, comment="Why the client AI insists; not blank."),
        sa.Column(
            "status",
            ENUM(name="dispute_status", create_type=False),
            nullable=False,
            server_default=sa.text("'PENDING'"),
            comment="RESOLVED exactly when user_resolution, resolved_content and resolved_at are present.",
        ),
        sa.Column(
            "user_resolution",
            ENUM(name="resolution_type", create_type=False),
            comment="Whose version the user chose; present when RESOLVED only.",
        ),
        sa.Column(
            "resolved_content",
            sa.Text(),
            comment="What the user settled on, not blank; present when RESOLVED only.",
        ),
        sa.Column(
            "resolved_at",
            sa.DateTime(timezone=True),
            comment="When the user settled it; present when RESOLVED only.",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("now()"),
            comment="Time of the last change; kept by trigger.",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_disputes")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], ondelete="CASCADE", name=op.f("fk_disputes_project_id_projects")
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "step_id"],
            ["steps.project_id", "steps.id"],
            ondelete="CASCADE",
            name=op.f("fk_disputes_project_id_step_id_steps"),
        ),
        sa.CheckConstraint(
            f"server_content COLLATE \"C\" ~ '{VISIBLE_CHARACTER}'", name=op.f("ck_disputes_server_content_not_blank")
        ),
        sa.CheckConstraint(
            f"client_content COLLATE \"C\" ~ '{VISIBLE_CHARACTER}'", name=op.f("ck_disputes_client_content_not_blank")
        ),
        sa.CheckConstraint(
            f"server_reasoning COLLATE \"C\" ~ '{VISIBLE_CHARACTER}'",
            name=op.f("ck_disputes_server_reasoning_not_blank"),
        ),
        sa.CheckConstraint(
            f"client_reasoning COLLATE \"C\" ~ '{VISIBLE_CHARACTER}'",
            name=op.f("ck_disputes_client_reasoning_not_blank"),
        ),
        sa.CheckConstraint(
            f"resolved_content COLLATE \"C\" ~ '{VISIBLE_CHARACTER}'",
            name=op.f("ck_disputes_resolved_content_not_blank"),
        ),
        sa.CheckConstraint(
            "num_nonnulls(user_resolution, resolved_content, resolved_at)"
            " = CASE status WHEN 'RESOLVED' THEN 3 ELSE 0 END",
            name=op.f("ck_disputes_resolution_when_resolved"),
        ),
        comment="A step the two agents could not agree on, for a user to settle.",
    )
    op.create_index(
        "uq_disputes_project_id_step_id_pending",
        "disputes",
        ["project_id", "step_id"],
        unique=True,
        postgresql_where=sa.text("status = 'PENDING'"),
    )
    # The partial index above cannot serve the foreign keys: deleting a step or project looks for all its disputes.
    op.create_index("ix_disputes_project_id_step_id", "disputes", ["project_id", "step_id"])


def downgrade() -> None:
    op.drop_table("disputes")
    op.execute("DROP TYPE resolution_type")
    op.execute("DROP TYPE dispute_status")
