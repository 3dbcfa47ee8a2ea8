"""Delete rows whose deferred trigger deletes others.

Version: 001
Description: Delete rows whose deferred trigger deletes others, and see what is left
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
CREATE TABLE a (id int PRIMARY KEY, v text, w int);
CREATE TABLE b (id int PRIMARY KEY, a int);
CREATE FUNCTION sweep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  DELETE FROM a WHERE id = OLD.a AND NOT EXISTS (SELECT FROM b WHERE b.a = OLD.a);
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER sweep AFTER DELETE ON b DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sweep()
"""
UP = """COMMENT ON TABLE a IS 'x'"""
FILL = """
INSERT INTO a SELECT n, 'v' || n, n FROM generate_series(1, 9) AS n;
INSERT INTO b SELECT n, n FROM generate_series(1, 9) AS n
"""
DOWN = """DELETE FROM b WHERE id < 4"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
