# run it
"""Create a thing.

Version: 001
Description: A thing for the tests
Author: A Tester <tester@example.org>
Date: 2026-01-31
Dependencies: None
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

from alembic import op

from mcp_planner_schema.operations import expect

revision = "001"
down_revision = None
branch_labels = None
depends_on = None

expectations = [
    expect.table("thing"),
]


def upgrade() -> None:
    op.execute("CREATE TABLE thing (id int)")
    op.execute("INSERT INTO thing VALUES (1)")


def downgrade() -> None:
    op.execute("UPDATE thing SET id = id + 1")
