"""Truncate every table of that name, and drop one.

Version: 001
Description: Truncate every table of that name, and drop one, and see what is left
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

# outcome: downgrade-untried: destroys what
# BEFORE is there before the revision, FILL is written after it.
BEFORE = """"""
UP = """CREATE TABLE a (id int PRIMARY KEY, v text, w int)"""
FILL = """INSERT INTO a SELECT n, 'v' || n, n FROM generate_series(1, 9) AS n"""
DOWN = """
DO $$ DECLARE one record; BEGIN
  FOR one IN SELECT * FROM pg_tables WHERE tablename = 'a' LOOP
    EXECUTE format('TRUNCATE %I.%I', one.schemaname, one.tablename);
  END LOOP;
END $$;
DROP TABLE a
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
