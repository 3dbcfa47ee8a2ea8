"""Drop an attribute of a composite type that no value has.

Version: 001
Description: Drop an attribute of a composite type that no value has, and see what is left
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
CREATE TYPE addr AS (street text);
CREATE TABLE a (id int, home addr)
"""
UP = """ALTER TYPE addr ADD ATTRIBUTE zip text"""
FILL = """INSERT INTO a SELECT n, ROW('x', NULL)::addr FROM generate_series(1, 9) AS n"""
DOWN = """ALTER TYPE addr DROP ATTRIBUTE zip"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
