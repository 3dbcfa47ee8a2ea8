"""Create the performance indexes.

Version: 010
Description: One index for each question the application asks often, and no other.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-24
Dependencies: 009
Type: schema
Phase: expand
Transaction: single
Reversible: lossless
"""

from alembic import op

from mcp_planner_schema.operations import expect

revision = "010"
down_revision = "009"
branch_labels = None
depends_on = None

expectations = [
    expect.index("ix_projects_updated_at", table="projects", unique=False),
]


def upgrade() -> None:
    op.create_index("ix_projects_updated_at", "projects", ["updated_at"])


def downgrade() -> None:
    op.drop_index("ix_projects_updated_at", table_name="projects")
