"""Read a table and then drop it.

Version: 001
Description: Read a table and then drop it, and see what is left
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
BEFORE = """CREATE TABLE u (id int PRIMARY KEY, mail text)"""
UP = """
CREATE TABLE m (id int PRIMARY KEY REFERENCES u, mail text);
INSERT INTO m SELECT id, mail FROM u;
ALTER TABLE u DROP mail
"""
FILL = """
INSERT INTO u VALUES (1), (2), (3);
INSERT INTO m VALUES (1, 'a@example.org'), (2, NULL)
"""
DOWN = """
ALTER TABLE u ADD mail text;
UPDATE u SET mail = m.mail FROM m WHERE m.id = u.id;
DROP TABLE m
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
