"""Give a label another name, in rows that no lock shows.

Version: 001
Description: Give a label another name, in rows that no lock shows, and see what is left
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
BEFORE = """
CREATE TYPE level AS ENUM ('low', 'high');
CREATE TABLE a (id int PRIMARY KEY, v level)
"""
UP = """ALTER TYPE level RENAME VALUE 'low' TO 'none'"""
FILL = """INSERT INTO a VALUES (1, 'none'), (2, 'high')"""
DOWN = """ALTER TYPE level RENAME VALUE 'none' TO 'low'"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
