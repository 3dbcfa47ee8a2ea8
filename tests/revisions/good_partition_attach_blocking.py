# leaves alone: partition-attach-blocking
"""Alter a thing.

Version: 002
Description: A change of tables that are in use
Author: A Tester <tester@example.org>
Date: 2026-01-31
Dependencies: 001
Type: schema
Phase: expand
Transaction: none
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
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE loose ADD CONSTRAINT ck_loose CHECK (id IS NOT NULL AND id >= 10 AND id < 20) NOT VALID")
        op.execute("ALTER TABLE loose VALIDATE CONSTRAINT ck_loose")
        op.execute("ALTER TABLE parts ATTACH PARTITION loose FOR VALUES FROM (10) TO (20)")


def downgrade() -> None:
    op.execute("SELECT 1")
