"""Drop a table and what hangs on it.

Version: 001
Description: Drop a table and what hangs on it, and see what is left
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
# beside: a writer
# BEFORE is there before the revision, FILL is written after it.
BEFORE = """CREATE TABLE k (id int PRIMARY KEY, a int)"""
UP = """
CREATE TABLE a (id int PRIMARY KEY, v text, w int);
ALTER TABLE k ADD CONSTRAINT k_a FOREIGN KEY (a) REFERENCES a;
CREATE VIEW va AS SELECT id, v FROM a
"""
FILL = """
INSERT INTO a SELECT n, 'v' || n, n FROM generate_series(1, 9) AS n;
INSERT INTO k VALUES (1, 1), (2, 9), (3, NULL)
"""
DOWN = """DROP TABLE a CASCADE"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
