# leaves alone: header-missing
# leaves alone: header-field-missing
# leaves alone: header-version
# leaves alone: header-date
# leaves alone: header-field-apart
# leaves alone: revision-missing
# leaves alone: upgrade-missing
# leaves alone: downgrade-missing
# leaves alone: expectation-missing
# leaves alone: order-of-parts
# leaves alone: source-syntax
# leaves alone: source-unreadable
# leaves alone: source-too-large
# leaves alone: source-link
# leaves alone: source-line-endings
# leaves alone: file-name
# leaves alone: type-word
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
    op.execute("CREATE TABLE thing (id int PRIMARY KEY)")


def downgrade() -> None:
    op.drop_table("thing")
