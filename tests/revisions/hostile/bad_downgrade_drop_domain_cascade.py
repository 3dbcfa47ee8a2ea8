"""Drop a domain, and with it a column.

Version: 001
Description: Drop a domain, and with it a column, and see what is left
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
BEFORE = """CREATE TABLE a (id int PRIMARY KEY, v text)"""
UP = """
CREATE DOMAIN mark AS int CHECK (VALUE > 0);
ALTER TABLE a ADD m mark
"""
FILL = """INSERT INTO a VALUES (1, 'v', 5), (2, 'v', NULL)"""
DOWN = """DROP DOMAIN mark CASCADE"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
