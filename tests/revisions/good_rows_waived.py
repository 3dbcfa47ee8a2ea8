# leaves alone: rows-not-kept
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
Waive: rows-not-kept | the next release counts from 2 | 2999-12-31
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
expectations_down = [
    expect.query("SELECT id FROM thing", equals=2),
]


def upgrade() -> None:
    op.execute("CREATE TABLE thing (id int)")
    op.execute("INSERT INTO thing VALUES (1)")


def downgrade() -> None:
    op.execute("UPDATE thing SET id = id + 1")
