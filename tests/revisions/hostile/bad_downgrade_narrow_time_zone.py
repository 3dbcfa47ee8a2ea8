"""Take the zone off, which writes no row anew.

Version: 001
Description: Take the zone off, which writes no row anew, and see what is left
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

# outcome: no loss
# BEFORE is there before the revision, FILL is written after it.
BEFORE = """CREATE TABLE a (id int PRIMARY KEY, v timestamp)"""
UP = """
SET LOCAL TimeZone = 'UTC';
ALTER TABLE a ALTER v TYPE timestamptz
"""
FILL = """INSERT INTO a VALUES (1, '2026-01-31 23:59:59+05'), (2, NULL)"""
DOWN = """
SET LOCAL TimeZone = 'UTC';
ALTER TABLE a ALTER v TYPE timestamp
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
