"""Create the projects table.

Version: 001
Description: Projects with name, description and progress, the root that every other table belongs to.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-22
Dependencies: None
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

import sqlalchemy as sa
from alembic import op

from mcp_planner_schema.operations import expect

revision = "001"
down_revision = None
branch_labels = None
depends_on = None

expectations = [
    expect.table("projects"),
    expect.column("projects", "id", type="uuid", nullable=False),
    expect.column("projects", "name", type="character varying(255)", nullable=False),
    expect.column("projects", "progress", type="double precision", nullable=False),
    expect.constraint("projects", "pk_projects"),
    expect.constraint("projects", "ck_projects_name_not_blank"),
    expect.constraint("projects", "ck_projects_description_not_blank"),
    expect.constraint("projects", "ck_projects_progress_range"),
]

# Any character that leaves ink: neither ASCII white space, nor Unicode's (no-break space, em space, line
# separator, ideographic space), nor a zero-width one. COLLATE "C" in the checks pins what \s means, or a row
# that passes under one server's locale would fail when its dump is restored under another's.
VISIBLE_CHARACTER = r"[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]"


def upgrade() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.Uuid(), nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column("name", sa.String(255), nullable=False, comment="Not blank."),
        sa.Column("description", sa.Text(), nullable=False, comment="Not blank."),
        sa.Column(
            "progress",
            sa.Double(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Share done, 0 to 1; mean over the root tasks.",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("now()"),
            comment="Time of the last change; kept by trigger.",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.CheckConstraint(f"name COLLATE \"C\" ~ '{VISIBLE_CHARACTER}'", name=op.f("ck_projects_name_not_blank")),
        sa.CheckConstraint(
            f"description COLLATE \"C\" ~ '{VISIBLE_CHARACTER}'", name=op.f("ck_projects_description_not_blank")
        ),
        # Refuses NaN too: PostgreSQL sorts it above every number.
        sa.CheckConstraint("progress BETWEEN 0 AND 1", name=op.f("ck_projects_progress_range")),
        comment="A project that agents break down into tasks and steps.",
    )


def downgrade() -> None:
    op.drop_table("projects")
