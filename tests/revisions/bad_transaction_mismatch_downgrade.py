# transaction-mismatch: 35
"""Create a thing.

Version: 001
Description: A thing for the tests
Author: A Tester <tester@example.org>
Date: 2026-01-31
Dependencies: None
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

import alembic.op as migration
from alembic import op

from mcp_planner_schema.operations import expect

revision = "001"
down_revision = None
branch_labels = None
depends_on = None

expectations = [
    expect.table("thing"),
]


def upgrade() -> None:
    op.execute("CREATE TABLE thing (id int PRIMARY KEY, size int)")


def downgrade() -> None:
    migration.validate_constraint("ck", "thing")
    op.drop_table("thing")
