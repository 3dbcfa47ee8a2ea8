"""Create a thing.

Version: 004
Description: A thing for the tests
Author: A Tester <tester@example.org>
Date: 2026-01-31
Dependencies: 002, 003
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

from alembic import op

from mcp_planner_schema.operations import expect

revision = "004"
down_revision = ("003", "002")
branch_labels = None
depends_on = None

expectations = []


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
