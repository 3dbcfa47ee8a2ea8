# transaction-mismatch: 32
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

import sqlalchemy as sa
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
    op.create_table("thing", sa.Column("id", sa.BigInteger, primary_key=True))
    op.create_index_concurrently("ix_thing_id", "thing", ["id"])


def downgrade() -> None:
    op.drop_table("thing")
