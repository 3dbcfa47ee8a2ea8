"""Drop max_iterations of the complexity runs.

Version: 024
Description: No release uses the old name of the limit any more, so it goes, and with it what kept the two names equal.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-27
Dependencies: 023
Type: schema
Phase: contract
Transaction: single
Reversible: stash
"""

from alembic import op

from mcp_planner_schema.operations import expect, sql

revision = "024"
down_revision = "023"
branch_labels = None
depends_on = None

sql_files = [
    "022/sync_iterations_allowed.sql",
    "022/complexity_runs_10_sync_iterations_allowed.sql",
]

expectations = [
    expect.column("complexity_runs", "iterations_allowed", type="integer", nullable=False),
    expect.absent(expect.column("complexity_runs", "max_iterations")),
    expect.absent(expect.constraint("complexity_runs", "ck_complexity_runs_max_iterations_positive")),
    expect.absent(expect.constraint("complexity_runs", "ck_complexity_runs_iterations_allowed_not_null")),
    expect.absent(expect.constraint("complexity_runs", "ck_complexity_runs_iterations_used_within_allowed")),
    expect.absent(expect.trigger("complexity_runs", "complexity_runs_10_sync_iterations_allowed")),
    expect.absent(expect.function("sync_iterations_allowed()")),
]
expectations_down = [
    expect.column("complexity_runs", "iterations_allowed", type="integer", nullable=True),
    expect.column("complexity_runs", "max_iterations", type="integer", nullable=False),
    expect.constraint("complexity_runs", "ck_complexity_runs_max_iterations_positive"),
    expect.constraint("complexity_runs", "ck_complexity_runs_iterations_used_within_limit"),
    expect.constraint("complexity_runs", "ck_complexity_runs_iterations_allowed_not_null"),
    expect.constraint("complexity_runs", "ck_complexity_runs_iterations_used_within_allowed"),
    expect.trigger("complexity_runs", "complexity_runs_10_sync_iterations_allowed"),
    expect.rows("SELECT FROM public.complexity_runs WHERE max_iterations IS DISTINCT FROM iterations_allowed", count=0),
]


def upgrade() -> None:
    # A validated check that says the same spares SET NOT NULL the reading of all rows under this lock.
    op.execute("ALTER TABLE complexity_runs ALTER COLUMN iterations_allowed SET NOT NULL")
    sql.remove(sql_files)
    op.execute(
        """
        ALTER TABLE complexity_runs
            DROP CONSTRAINT ck_complexity_runs_iterations_allowed_not_null,
            DROP CONSTRAINT ck_complexity_runs_max_iterations_positive,
            DROP CONSTRAINT ck_complexity_runs_iterations_used_within_limit,
            DROP COLUMN max_iterations
        """
    )
    op.execute(
        "ALTER TABLE complexity_runs RENAME CONSTRAINT ck_complexity_runs_iterations_used_within_allowed"
        " TO ck_complexity_runs_iterations_used_within_limit"
    )
    op.execute(
        "COMMENT ON COLUMN complexity_runs.iterations_used IS 'Passes made; not negative, at most iterations_allowed.'"
    )


def downgrade() -> None:
    op.execute(
        "ALTER TABLE complexity_runs RENAME CONSTRAINT ck_complexity_runs_iterations_used_within_limit"
        " TO ck_complexity_runs_iterations_used_within_allowed"
    )
    # The column stands last now: PostgreSQL cannot put one back in its old place.
    op.execute("ALTER TABLE complexity_runs ADD COLUMN max_iterations integer")
    op.execute("COMMENT ON COLUMN complexity_runs.max_iterations IS 'Passes that were allowed; at least 1.'")
    op.execute(
        "COMMENT ON COLUMN complexity_runs.iterations_used IS 'Passes made; not negative, at most max_iterations.'"
    )
    # Under the lock, for the old release is to find no row without its value.
    op.execute("UPDATE complexity_runs SET max_iterations = iterations_allowed")
    op.execute(
        """
        ALTER TABLE complexity_runs
            ADD CONSTRAINT ck_complexity_runs_iterations_allowed_not_null CHECK (iterations_allowed IS NOT NULL),
            ADD CONSTRAINT ck_complexity_runs_max_iterations_positive CHECK (max_iterations > 0),
            ADD CONSTRAINT ck_complexity_runs_iterations_used_within_limit CHECK (iterations_used <= max_iterations),
            ALTER COLUMN max_iterations SET NOT NULL,
            ALTER COLUMN iterations_allowed DROP NOT NULL
        """
    )
    sql.apply(sql_files)
