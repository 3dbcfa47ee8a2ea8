"""Drop a table of five megabytes of random bytes.

Version: 001
Description: Drop a table of five megabytes of random bytes, and see what is left
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
UP = """CREATE TABLE a (id int PRIMARY KEY, v bytea)"""
FILL = r"""
INSERT INTO a SELECT n, (SELECT string_agg(sha512((n * 100000 + m)::text::bytea), NULL) FROM generate_series(1, 8192 * 2) AS m) FROM generate_series(1, 5) AS n;
INSERT INTO a VALUES (6, ''), (7, NULL), (8, '\x00')
"""
DOWN = """DROP TABLE a"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
