"""Exchange a composite type for one with fewer attributes.

Version: 001
Description: Exchange a composite type for one with fewer attributes, and see what is left
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
BEFORE = """
CREATE TYPE addr AS (street text);
CREATE TABLE a (id int PRIMARY KEY, home addr)
"""
UP = """
ALTER TYPE addr RENAME TO addr_old;
CREATE TYPE addr AS (street text, zip text);
ALTER TABLE a ALTER home TYPE addr USING ROW((home).street, NULL)::addr;
DROP TYPE addr_old
"""
FILL = """INSERT INTO a SELECT n, ROW('x', n)::addr FROM generate_series(1, 9) AS n"""
DOWN = """
ALTER TYPE addr RENAME TO addr_old;
CREATE TYPE addr AS (street text);
ALTER TABLE a ALTER home TYPE addr USING ROW((home).street)::addr;
DROP TYPE addr_old
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
