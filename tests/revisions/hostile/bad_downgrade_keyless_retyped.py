"""Delete a row of a table without a key, and give a column a type without writing it anew.

Version: 001
Description: Delete a row of a table without a key, and give a column a type without writing it anew, and see what is left
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

# outcome: rows-not-kept: deleted
# BEFORE is there before the revision, FILL is written after it.
BEFORE = """
CREATE TABLE a (net cidr, v text)
"""
UP = """ALTER TABLE a ALTER net TYPE inet"""
FILL = """INSERT INTO a SELECT '10.0.0.0/8', 'v' || n FROM generate_series(1, 9) AS n"""
DOWN = """
DELETE FROM a WHERE v = 'v1';
ALTER TABLE a ALTER net TYPE cidr
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
