"""Fill iterations_allowed of the complexity runs.

Version: 023
Description: Runs that are older than the column get its value, in batches, and then all rows are known to have it.
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

LEFT = "SELECT count(*) FROM public.complexity_runs WHERE iterations_allowed IS NULL"


def upgrade() -> None:
    op.backfill(
        "complexity_runs",
        set={"iterations_allowed": "filled.max_iterations"},
        where="filled.iterations_allowed IS NULL",
        verify=LEFT,
        key=["id"],
    )
    for name in CHECKS:
        op.validate_constraint(name, "complexity_runs")


def downgrade() -> None:
    # What was filled stays true: the trigger of 022 keeps it. A check cannot be made NOT VALID again, only made anew.
    changes = [
        f"DROP CONSTRAINT {name}, ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID"
        for name, condition in CHECKS.items()
    ]
    op.execute(f"ALTER TABLE complexity_runs {', '.join(changes)}")
