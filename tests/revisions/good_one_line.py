# leaves alone: header-missing
# leaves alone: header-field-missing
"Create a thing.\n\nVersion: 001\nDescription: A thing for the tests\nAuthor: A Tester <tester@example.org>\nDate: 2026-01-31\nDependencies: None\nType: schema\nPhase: expand\nTransaction: single\nReversible: stash\n"

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
