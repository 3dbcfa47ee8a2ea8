"""Delete seeds of a table without a key.

Version: 001
Description: Delete seeds of a table without a key, and see what is left
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
CREATE TABLE a (name text, value text, at timestamptz DEFAULT now());
INSERT INTO a VALUES ('mode', 'dark')
"""
UP = """
INSERT INTO a (name, value) VALUES ('mode', 'dark'), ('size', 'small'), ('size', 'small');
ALTER TABLE a ALTER value TYPE varchar(50)
"""
FILL = """INSERT INTO a VALUES ('mode', 'dark'), ('mine', 'x')"""
DOWN = """
ALTER TABLE a ALTER value TYPE text;
DELETE FROM a WHERE name = 'size' OR ctid IN (SELECT max(ctid) FROM a WHERE name = 'mode')
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
