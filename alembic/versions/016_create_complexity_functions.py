"""Create the complexity functions.

Version: 016
Description: What the agents' judgements of a project's steps come to.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-24
Dependencies: 015
Type: function
Phase: expand
Transaction: single
Reversible: lossless
"""

from mcp_planner_schema.operations import expect, sql

revision = "016"
down_revision = "015"
branch_labels = None
depends_on = None

sql_files = [
    "016/complexity_summary.sql",
]

expectations = [
    expect.function("complexity_summary(uuid)"),
]


def upgrade() -> None:
    sql.apply(sql_files)


def downgrade() -> None:
    sql.revert(sql_files)
