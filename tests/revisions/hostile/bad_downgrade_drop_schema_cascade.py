"""Drop a whole schema.

Version: 001
Description: Drop a whole schema, and see what is left
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
CREATE SCHEMA app;
CREATE SEQUENCE app.s;
CREATE TYPE app.mood AS ENUM ('sad');
CREATE TABLE app.a (id int PRIMARY KEY DEFAULT nextval('app.s'), m app.mood);
CREATE TABLE app.b (a int REFERENCES app.a)
"""
FILL = """
INSERT INTO app.a (m) VALUES ('sad'), (NULL), ('sad');
INSERT INTO app.b VALUES (1), (1), (NULL)
"""
DOWN = """DROP SCHEMA app CASCADE"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
