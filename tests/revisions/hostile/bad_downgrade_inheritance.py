"""Drop a table and its inheritance child.

Version: 001
Description: Drop a table and its inheritance child, and see what is left
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
BEFORE = """"""
UP = """
CREATE TABLE i (id int PRIMARY KEY);
CREATE TABLE i1 (x int) INHERITS (i)
"""
FILL = """
INSERT INTO i VALUES (1);
INSERT INTO i1 VALUES (2, 3), (2, 3)
"""
DOWN = """DROP TABLE i CASCADE"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
