"""Leave a drop to a deferred trigger of a temporary table.

Version: 001
Description: Leave a drop to a deferred trigger of a temporary table, and see what is left
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
UP = """CREATE TABLE a (id int PRIMARY KEY, v text, w int)"""
FILL = """INSERT INTO a SELECT n, 'v' || n, n FROM generate_series(1, 9) AS n"""
DOWN = """
CREATE TEMP TABLE later (id int);
CREATE FUNCTION pg_temp.gone() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DROP TABLE public.a; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER gone AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pg_temp.gone();
INSERT INTO later VALUES (1)
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
