"""Drop a partitioned table of two levels.

Version: 001
Description: Drop a partitioned table of two levels, and see what is left
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
CREATE TABLE p (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE p_1 PARTITION OF p FOR VALUES IN (1);
CREATE TABLE p_rest PARTITION OF p DEFAULT PARTITION BY RANGE (id);
CREATE TABLE p_rest_low PARTITION OF p_rest FOR VALUES FROM (MINVALUE) TO (6);
CREATE TABLE p_rest_high PARTITION OF p_rest DEFAULT
"""
FILL = """INSERT INTO p SELECT n, n % 3, 'v' || n FROM generate_series(1, 12) AS n"""
DOWN = """DROP TABLE p"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
