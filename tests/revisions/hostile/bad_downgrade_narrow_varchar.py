"""Cut texts off.

Version: 001
Description: Cut texts off, and see what is left
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
# beside: a writer
# BEFORE is there before the revision, FILL is written after it.
BEFORE = """CREATE TABLE a (id int PRIMARY KEY, v varchar(3))"""
UP = """ALTER TABLE a ALTER v TYPE varchar(50)"""
FILL = """INSERT INTO a VALUES (1, 'abcdef'), (2, 'abc'), (3, NULL), (4, '')"""
DOWN = """ALTER TABLE a ALTER v TYPE varchar(3) USING substr(v, 1, 3)"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
