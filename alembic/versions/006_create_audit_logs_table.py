"""Create the audit log.

Version: 006
Description: Append-only log of every change, partitioned by month, with a partition for what no month covers.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-22
Dependencies: 005
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ENUM, JSONB

from mcp_planner_schema.operations import expect

revision = "006"
down_revision = "005"
branch_labels = None
depends_on = None

expectations = [
    expect.enum("entity_type", ["PROJECT", "TASK", "STEP", "DISPUTE"]),
    expect.enum("audit_action", ["CREATED", "UPDATED", "DELETED", "PROMOTED", "DISPUTED", "RESOLVED", "COMPLETED"]),
    expect.enum("ai_agent", ["SERVER_AI", "CLIENT_AI"]),
    expect.table("audit_logs"),
    expect.column("audit_logs", "entity_type", type="entity_type", nullable=False),
    expect.column("audit_logs", "action", type="audit_action", nullable=False),
    expect.column("audit_logs", "ai_agent", type="ai_agent", nullable=True),
    expect.column("audit_logs", "occurred_at", type="timestamp with time zone", nullable=False),
    expect.constraint("audit_logs", "pk_audit_logs"),
    expect.table("audit_logs_default"),
]


def upgrade() -> None:
    op.execute("CREATE TYPE entity_type AS ENUM ('PROJECT', 'TASK', 'STEP', 'DISPUTE')")
    op.execute(
        "CREATE TYPE audit_action AS ENUM"
        " ('CREATED', 'UPDATED', 'DELETED', 'PROMOTED', 'DISPUTED', 'RESOLVED', 'COMPLETED')"
    )
    op.execute("CREATE TYPE ai_agent AS ENUM ('SERVER_AI', 'CLIENT_AI')")
    # No foreign keys: the log outlives what it tells about. No check on the actor or the values either: a change
    # is never refused because its audit row is not to someone's liking.
    op.create_table(
        "audit_logs",
        sa.Column("id", sa.Uuid(), nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column(
            "entity_type",
            ENUM(name="entity_type", create_type=False),
            nullable=False,
            comment="Kind of the row that changed.",
        ),
        sa.Column(
            "entity_id",
            sa.Uuid(),
            nullable=False,
            comment="Id of the row that changed; it may be gone by now.",
        ),
        sa.Column(
            "action",
            ENUM(name="audit_action", create_type=False),
            nullable=False,
            comment="What happened to it.",
        ),
        sa.Column("old_values", JSONB(), comment="Values before; for an update only the columns that changed."),
        sa.Column("new_values", JSONB(), comment="Values after; for an update only the columns that changed."),
        sa.Column("metadata", JSONB(), comment="Context of the change beyond the row itself."),
        sa.Column(
            "user_id",
            sa.String(255),
            comment="User who acted, from the setting planner.user_id; system where no actor is set.",
        ),
        sa.Column(
            "ai_agent",
            ENUM(name="ai_agent", create_type=False),
            comment="Agent that acted, from the setting planner.ai_agent.",
        ),
        sa.Column(
            "occurred_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("now()"),
            comment="Time of the change; partition key.",
        ),
        # PostgreSQL demands the partition key in every unique key of a partitioned table.
        sa.PrimaryKeyConstraint("occurred_at", "id", name=op.f("pk_audit_logs")),
        postgresql_partition_by="RANGE (occurred_at)",
        comment="Every change of projects, tasks, steps and disputes; only grows, partitioned by month.",
    )
    op.execute("CREATE TABLE audit_logs_default PARTITION OF audit_logs DEFAULT")
    op.execute("COMMENT ON TABLE audit_logs_default IS 'Catches what no monthly partition covers, so no write fails.'")


def downgrade() -> None:
    # The partitions go with it, those made by maintenance included.
    op.drop_table("audit_logs")
    op.execute("DROP TYPE ai_agent")
    op.execute("DROP TYPE audit_action")
    op.execute("DROP TYPE entity_type")
