# index-drop-blocking: 30
"""Alter a thing.

Version: 002
Description: A change of tables that are in use
Author: A Tester <tester@example.org>
Date: 2026-01-31
Dependencies: 001
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

from alembic import op

from mcp_planner_schema.operations import expect

revision = "002"
down_revision = "001"
branch_labels = None
depends_on = None

expectations = [
    expect.table("thing"),
]


def upgrade() -> None:
    op.execute("DROP INDEX ix_thing_name")


def downgrade() -> None:
    op.execute("SELECT 1")
