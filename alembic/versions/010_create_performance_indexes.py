"""Create the performance indexes.

Version: 010
Description: One index for each question the application asks often, and no other.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-24
Dependencies: 009
Type: schema
Phase: expand
Transaction: none
Reversible: lossless
"""

import sqlalchemy as sa
from alembic import op

from mcp_planner_schema.operations import expect

revision = "010"
down_revision = "009"
branch_labels = None
depends_on = None

expectations = [
    expect.index("ix_projects_updated_at_id", table="projects", unique=False),
    expect.index("ix_steps_project_id_status_created_at_id", table="steps", unique=False),
    expect.index("ix_steps_project_id_complexity_score", table="steps", unique=False),
    expect.index("ix_disputes_created_at_id_pending", table="disputes", unique=False),
    expect.index("ix_tasks_search", table="tasks", unique=False),
    expect.index("ix_steps_search", table="steps", unique=False),
]


def upgrade() -> None:
    # Whoever migrates a filled database goes through this too: nobody waits behind these.

    # Dashboard: the projects last changed, page by page. With id, because one transaction gives many the same time.
    op.create_index_concurrently("ix_projects_updated_at_id", "projects", ["updated_at", "id"])

    # On steps no index names progress or updated_at, not even in its predicate: an update is HOT only where no
    # indexed column changes, and these two change most often.

    # Work queue: what of a project waits for an agent or the user, oldest first. Most steps are AGREED in the end.
    op.create_index_concurrently(
        "ix_steps_project_id_status_created_at_id",
        "steps",
        ["project_id", "status", "created_at", "id"],
        postgresql_where=sa.text("status <> 'AGREED'"),
    )
    # Steps above the project's threshold, most complex first. The threshold is another table's, so it is no predicate.
    op.create_index_concurrently(
        "ix_steps_project_id_complexity_score",
        "steps",
        ["project_id", "complexity_score"],
        postgresql_where=sa.text("complexity_score IS NOT NULL"),
    )
    # Disputes that wait for the user, of all projects, oldest first.
    op.create_index_concurrently(
        "ix_disputes_created_at_id_pending",
        "disputes",
        ["created_at", "id"],
        postgresql_where=sa.text("status = 'PENDING'"),
    )

    # Full-text search; a query must use the same expression. The configuration is a constant, because to_tsvector
    # without one follows the session and is only STABLE. left(): a tsvector of more than 1 MB is an error, and the
    # index would refuse the row; 50,000 characters make 0.4 MB at most (measured, of hyphenated words). No drafts: they
    # change in every round, and each change would be one of the index. Parentheses as PostgreSQL shows them, because
    # `alembic check` compares the text.
    op.create_index_concurrently(
        "ix_tasks_search",
        "tasks",
        [sa.text("to_tsvector('english', (title || ' ') || left(objective, 50000))")],
        postgresql_using="gin",
    )
    op.create_index_concurrently(
        "ix_steps_search",
        "steps",
        [sa.text("to_tsvector('english', (title || ' ') || left(coalesce(final_content, ''), 50000))")],
        postgresql_using="gin",
    )


def downgrade() -> None:
    op.drop_index("ix_steps_search", table_name="steps")
    op.drop_index("ix_tasks_search", table_name="tasks")
    op.drop_index("ix_disputes_created_at_id_pending", table_name="disputes")
    op.drop_index("ix_steps_project_id_complexity_score", table_name="steps")
    op.drop_index("ix_steps_project_id_status_created_at_id", table_name="steps")
    op.drop_index("ix_projects_updated_at_id", table_name="projects")
