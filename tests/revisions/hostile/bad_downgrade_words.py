"""Speak of COMMIT, ROLLBACK and lo_unlink in comments and texts.

Version: 001
Description: Speak of COMMIT, ROLLBACK and lo_unlink in comments and texts, and see what is left
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
BEFORE = """CREATE TABLE a (id int PRIMARY KEY, v text, w int)"""
UP = """COMMENT ON TABLE a IS 'x'"""
FILL = """INSERT INTO a SELECT n, 'v' || n, n FROM generate_series(1, 9) AS n"""
DOWN = """
-- ROLLBACK; lo_unlink(1); COMMIT
DELETE FROM a /* ; ABORT; */ WHERE v <> '; ROLLBACK; -- '
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
