"""Drop a column, and by CASCADE the one made of it.

Version: 001
Description: Drop a column, and by CASCADE the one made of it, and see what is left
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
BEFORE = """CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)"""
UP = """ALTER TABLE a ADD v text, ADD g text GENERATED ALWAYS AS (upper(v)) STORED"""
FILL = """INSERT INTO a (v) VALUES ('x'), (NULL), ('y')"""
DOWN = """ALTER TABLE a DROP v CASCADE"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
