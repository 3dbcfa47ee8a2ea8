"""Fill iterations_allowed of the complexity runs.

Version: 023
Description: Runs that are older than the column get its value, a thousand at a time, and then all rows are known to have it.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-27
Dependencies: 022
Type: data
Phase: migrate
Transaction: none
Reversible: lossless
"""

from alembic import op

from mcp_planner_schema.operations import expect

revision = "023"
down_revision = "022"
branch_labels = None
depends_on = None

budgets = {"statement_timeout": "1h"}

expectations = [
    expect.rows("SELECT FROM public.complexity_runs WHERE iterations_allowed IS NULL", count=0),
    expect.constraint("complexity_runs", "ck_complexity_runs_iterations_allowed_positive"),
    expect.constraint("complexity_runs", "ck_complexity_runs_iterations_allowed_not_null"),
    expect.constraint("complexity_runs", "ck_complexity_runs_iterations_used_within_allowed"),
]

CHECKS = {
    "ck_complexity_runs_iterations_allowed_positive": "iterations_allowed > 0",
    "ck_complexity_runs_iterations_allowed_not_null": "iterations_allowed IS NOT NULL",
    "ck_complexity_runs_iterations_used_within_allowed": "iterations_used <= iterations_allowed",
}

# Each batch commits, so that no row is locked longer than its batch takes, and a run that was stopped goes on with the rest.
FILL = """
DO $fill$
DECLARE
    reached uuid := '00000000-0000-0000-0000-000000000000';
BEGIN
    LOOP
        WITH batch AS (
            SELECT id FROM public.complexity_runs WHERE id >= reached AND iterations_allowed IS NULL
            ORDER BY id LIMIT 1000 FOR NO KEY UPDATE
        ), filled AS (
            UPDATE public.complexity_runs AS run SET iterations_allowed = run.max_iterations
            FROM batch WHERE run.id = batch.id RETURNING run.id
        )
        SELECT id INTO reached FROM filled ORDER BY id DESC LIMIT 1;
        EXIT WHEN NOT FOUND;
        COMMIT;
    END LOOP;
END
$fill$
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(FILL)
    # Reads the table once, while everybody reads and writes on (SHARE UPDATE EXCLUSIVE).
    for name in CHECKS:
        op.execute(f"ALTER TABLE complexity_runs VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    # What was filled stays true: the trigger of 022 keeps it. A check cannot be made NOT VALID again, only made anew.
    changes = [
        f"DROP CONSTRAINT {name}, ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID"
        for name, condition in CHECKS.items()
    ]
    op.execute(f"ALTER TABLE complexity_runs {', '.join(changes)}")
