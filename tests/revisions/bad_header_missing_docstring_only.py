# header-missing: 1
"""Create a thing.
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
