"""Add iterations_allowed to the complexity runs.

Version: 022
Description: A run's limit gets the name of its partner, iterations_used; both are kept equal until no release needs the old one.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-27
Dependencies: 021
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

from alembic import op

from mcp_planner_schema.operations import expect, sql

revision = "022"
down_revision = "021"
branch_labels = None
depends_on = None

sql_files = [
    "022/sync_iterations_allowed.sql",
    "022/complexity_runs_10_sync_iterations_allowed.sql",
]

expectations = [
    expect.column("complexity_runs", "iterations_allowed", type="integer", nullable=True),
    expect.constraint("complexity_runs", "ck_complexity_runs_iterations_allowed_positive", validated=False),
    expect.constraint("complexity_runs", "ck_complexity_runs_iterations_allowed_not_null", validated=False),
    expect.constraint("complexity_runs", "ck_complexity_runs_iterations_used_within_allowed", validated=False),
    expect.function("sync_iterations_allowed()"),
    expect.trigger("complexity_runs", "complexity_runs_10_sync_iterations_allowed"),
]


def upgrade() -> None:
    # NOT VALID holds for every row written from now on and reads none of those that are there: the lock is short.
    op.execute(
        """
        ALTER TABLE complexity_runs
            ADD COLUMN iterations_allowed integer,
            ADD CONSTRAINT ck_complexity_runs_iterations_allowed_positive CHECK (iterations_allowed > 0) NOT VALID,
            ADD CONSTRAINT ck_complexity_runs_iterations_allowed_not_null CHECK (iterations_allowed IS NOT NULL) NOT VALID,
            ADD CONSTRAINT ck_complexity_runs_iterations_used_within_allowed
                CHECK (iterations_used <= iterations_allowed) NOT VALID
        """
    )
    op.execute("COMMENT ON COLUMN complexity_runs.iterations_allowed IS 'Passes that were allowed; at least 1.'")
    # In the same transaction, and before the checks of NOT NULL: no statement finds the column without the trigger.
    sql.apply(sql_files)


def downgrade() -> None:
    # What the new release wrote is in max_iterations too.
    sql.revert(sql_files)
    op.execute("ALTER TABLE complexity_runs DROP COLUMN iterations_allowed")
