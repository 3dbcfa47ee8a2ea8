# sql-files-literal: 22
"""Create a thing.

Version: 001
Description: A thing for the tests
Author: A Tester <tester@example.org>
Date: 2026-01-31
Dependencies: None
Type: function
Phase: expand
Transaction: single
Reversible: lossless
"""

from mcp_planner_schema.operations import expect, sql

revision = "001"
down_revision = None
branch_labels = None
depends_on = None

sql_files = ["../f.sql"]

expectations = [
    expect.function("f()"),
]


def upgrade() -> None:
    sql.apply(sql_files)


def downgrade() -> None:
    sql.revert(sql_files)
