"""Drop a schema in which somebody else has a table.

Version: 001
Description: Drop a schema in which somebody else has a table, and see what is left
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

# outcome: is kept: app.mine
# BEFORE is there before the revision, FILL is written after it.
BEFORE = """
CREATE SCHEMA app;
CREATE TABLE app.mine (id int PRIMARY KEY, v text)
"""
UP = """
CREATE TABLE IF NOT EXISTS app_note ();
CREATE SCHEMA IF NOT EXISTS app
"""
FILL = """INSERT INTO app.mine VALUES (1, 'x'), (2, NULL)"""
DOWN = """
DROP TABLE app_note;
DROP SCHEMA app CASCADE
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
