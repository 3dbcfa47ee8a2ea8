"""Hide a drop behind a catalog of its own.

Version: 001
Description: Hide a drop behind a catalog of its own, and see what is left
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
BEFORE = ""
UP = """CREATE TABLE a (id int PRIMARY KEY, v text, w int)"""
FILL = """INSERT INTO a SELECT n, 'v' || n, n FROM generate_series(1, 9) AS n"""
# A name in pg_temp is found before the one in pg_catalog, wherever the path does not say otherwise.
DOWN = """
CREATE TEMP TABLE before_class AS TABLE pg_catalog.pg_class;
CREATE TEMP TABLE before_constraint AS TABLE pg_catalog.pg_constraint;
CREATE TEMP VIEW pg_class AS SELECT '3'::xid AS xmin, * FROM before_class;
CREATE TEMP VIEW pg_constraint AS SELECT '3'::xid AS xmin, * FROM before_constraint;
DROP TABLE a
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
