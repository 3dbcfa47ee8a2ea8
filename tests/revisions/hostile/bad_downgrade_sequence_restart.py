"""Begin a sequence anew.

Version: 001
Description: Begin a sequence anew, and see what is left
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

expectations = [expect.query("SELECT 1", equals=1)]

# outcome: comes back
# BEFORE is there before the revision, FILL is written after it.
BEFORE = """CREATE SEQUENCE s"""
UP = """COMMENT ON SEQUENCE s IS 'x'"""
FILL = """SELECT nextval('s') FROM generate_series(1, 7)"""
DOWN = """ALTER SEQUENCE s RESTART"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
