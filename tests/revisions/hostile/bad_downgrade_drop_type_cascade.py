"""Drop a type, and with it a column of another table.

Version: 001
Description: Drop a type, and with it a column of another table, and see what is left
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
CREATE TYPE mood AS ENUM ('sad', 'so so');
ALTER TABLE a ADD m mood, ADD ms mood[]
"""
FILL = """INSERT INTO a VALUES (1, 'v', 'sad', '{sad,NULL}'), (2, 'v', NULL, '{}'), (3, NULL, 'so so', NULL)"""
DOWN = """DROP TYPE mood CASCADE"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
