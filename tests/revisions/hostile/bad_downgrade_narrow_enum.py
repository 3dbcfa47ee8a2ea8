"""Take a label from an enumeration, over text.

Version: 001
Description: Take a label from an enumeration, over text, and see what is left
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
CREATE TYPE level AS ENUM ('low', 'high');
CREATE TABLE a (id int PRIMARY KEY, v level)
"""
UP = """
ALTER TABLE a ALTER v TYPE text;
DROP TYPE level;
CREATE TYPE level AS ENUM ('low', 'medium', 'high');
ALTER TABLE a ALTER v TYPE level USING v::level
"""
FILL = """INSERT INTO a VALUES (1, 'low'), (2, 'medium'), (3, 'high'), (4, NULL)"""
DOWN = """
ALTER TABLE a ALTER v TYPE text;
UPDATE a SET v = 'high' WHERE v = 'medium';
DROP TYPE level;
CREATE TYPE level AS ENUM ('low', 'high');
ALTER TABLE a ALTER v TYPE level USING v::level
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
