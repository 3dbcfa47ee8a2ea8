"""Add complexity fields to projects.

Version: 002
Description: Threshold and iteration limit that decide when a step becomes a task.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-22
Dependencies: 001
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

from alembic import op

from mcp_planner_schema.operations import expect

revision = "002"
down_revision = "001"
branch_labels = None
depends_on = None

expectations = [
    expect.column("projects", "complexity_threshold", type="double precision", nullable=False),
    expect.column("projects", "max_iterations", type="integer", nullable=False),
    expect.constraint("projects", "ck_projects_complexity_threshold_range"),
    expect.constraint("projects", "ck_projects_max_iterations_positive"),
]


def upgrade() -> None:
    # Constant defaults are kept in the catalog: no row is rewritten. The checks do cost a scan, under the ACCESS
    # EXCLUSIVE lock that ADD COLUMN takes. NOT VALID would not spare it: the lock is held to COMMIT, so a VALIDATE
    # in this transaction scans under the same lock, once for each check. One statement takes the lock once and
    # scans once, and projects is the smallest table there is: a row per project, none of the content.
    op.execute(
        """
        ALTER TABLE projects
            ADD COLUMN complexity_threshold double precision DEFAULT 0.7 NOT NULL,
            ADD COLUMN max_iterations integer DEFAULT 3 NOT NULL,
            ADD CONSTRAINT ck_projects_complexity_threshold_range CHECK (complexity_threshold BETWEEN 0 AND 1),
            ADD CONSTRAINT ck_projects_max_iterations_positive CHECK (max_iterations > 0)
        """
    )
    op.execute(
        "COMMENT ON COLUMN projects.complexity_threshold"
        " IS 'Complexity score, 0 to 1, above which a step is promoted to a task.'"
    )
    op.execute("COMMENT ON COLUMN projects.max_iterations IS 'Rounds the two agents may take over a step; at least 1.'")


def downgrade() -> None:
    # The checks go with the columns.
    op.execute("ALTER TABLE projects DROP COLUMN max_iterations, DROP COLUMN complexity_threshold")
