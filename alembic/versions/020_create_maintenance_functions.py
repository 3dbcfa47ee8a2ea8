"""Create the maintenance functions.

Version: 020
Description: Monthly partitions of the audit log come and go by a call, and rows without a parent are removed.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-27
Dependencies: 019
Type: function
Phase: expand
Transaction: single
Reversible: lossless
"""

from mcp_planner_schema.operations import expect, sql

revision = "020"
down_revision = "019"
branch_labels = None
depends_on = None

sql_files = [
    "020/lock_for_maintenance.sql",
    "020/audit_partitions.sql",
    "020/create_audit_partition.sql",
    "020/maintain_audit_partitions.sql",
    "020/retire_audit_partitions.sql",
    "020/cleanup_orphans.sql",
]

expectations = [
    expect.function("lock_for_maintenance(regclass[], text, text)"),
    expect.function("audit_partitions()"),
    expect.function("create_audit_partition(timestamp with time zone)"),
    expect.function("maintain_audit_partitions(integer)"),
    expect.function("retire_audit_partitions(interval, boolean)"),
    expect.function("cleanup_orphans()"),
]


def upgrade() -> None:
    sql.apply(sql_files)


def downgrade() -> None:
    sql.revert(sql_files)
