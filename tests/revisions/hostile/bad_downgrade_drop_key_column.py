"""Drop the column that is the primary key.

Version: 001
Description: Drop the column that is the primary key, and see what is left
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

# outcome: is kept: a
# BEFORE is there before the revision, FILL is written after it.
BEFORE = """CREATE TABLE a (v text)"""
UP = """ALTER TABLE a ADD id int, ADD CONSTRAINT a_pkey PRIMARY KEY (id)"""
FILL = """INSERT INTO a (id, v) VALUES (1, 'x'), (2, 'y')"""
DOWN = """ALTER TABLE a DROP id"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
