"""Drop an extension, and with it a column.

Version: 001
Description: Drop an extension, and with it a column, and see what is left
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
# as: superuser
# BEFORE is there before the revision, FILL is written after it.
BEFORE = """CREATE TABLE a (id int PRIMARY KEY)"""
UP = """
CREATE EXTENSION citext;
ALTER TABLE a ADD v citext
"""
FILL = """INSERT INTO a VALUES (1, 'X'), (2, NULL), (3, 'x')"""
DOWN = """DROP EXTENSION citext CASCADE"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
