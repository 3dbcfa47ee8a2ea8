"""Delete large objects.

Version: 001
Description: Delete large objects, and see what is left
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

# outcome: stash-impossible: it deletes 3 large objects
# BEFORE is there before the revision, FILL is written after it.
BEFORE = """CREATE TABLE a (id int PRIMARY KEY, o oid)"""
UP = """COMMENT ON TABLE a IS 'x'"""
FILL = """INSERT INTO a SELECT n, lo_from_bytea(0, 'bytes') FROM generate_series(1, 3) AS n"""
DOWN = """SELECT lo_unlink(o) FROM a"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
