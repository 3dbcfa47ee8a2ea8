"""Change rows of a table without a key.

Version: 001
Description: Change rows of a table without a key, and see what is left
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

# outcome: rows-not-kept: l (2 changed)
# BEFORE is there before the revision, FILL is written after it.
BEFORE = """CREATE TABLE l (a int, b json)"""
UP = """COMMENT ON TABLE l IS 'x'"""
FILL = """INSERT INTO l VALUES (1, '{}'), (1, '{}'), (2, NULL), (3, '{"k": 1, "k": 2}')"""
DOWN = """UPDATE l SET a = 0 WHERE a = 1"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
