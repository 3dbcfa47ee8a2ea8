"""The audit log: append-only, partitioned by month.

Only the DEFAULT partition is schema. Partitions made by maintenance are data: whoever compares this metadata with
a database skips every relation with `pg_class.relispartition`, audit_logs_default included (SQLAlchemy has no
construct for a partition, so the metadata does not list it).
"""

from sqlalchemy import Column, Connection, DateTime, Index, PrimaryKeyConstraint, String, Table, Uuid, event, text
from sqlalchemy.dialects.postgresql import JSONB

from mcp_planner_schema.models.conventions import metadata
from mcp_planner_schema.models.enums import ai_agent, audit_action, entity_type

# No foreign keys: the log outlives what it tells about. No check on the actor or the values either: a change is
# never refused because its audit row is not to someone's liking.
audit_logs = Table(
    "audit_logs",
    metadata,
    Column("id", Uuid(), nullable=False, server_default=text("gen_random_uuid()")),
    Column("entity_type", entity_type, nullable=False, comment="Kind of the row that changed."),
    Column("entity_id", Uuid(), nullable=False, comment="Id of the row that changed; it may be gone by now."),
    Column("action", audit_action, nullable=False, comment="What happened to it."),
    Column("old_values", JSONB(), comment="Values before; for an update only the columns that changed."),
    Column("new_values", JSONB(), comment="Values after; for an update only the columns that changed."),
    Column("metadata", JSONB(), comment="Context of the change beyond the row itself."),
    Column(
        "user_id",
        String(255),
        comment="User who acted, from the setting planner.user_id; system where no actor is set.",
    ),
    Column("ai_agent", ai_agent, comment="Agent that acted, from the setting planner.ai_agent."),
    Column(
        "occurred_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("now()"),
        comment="Time of the change; partition key.",
    ),
    # Last, because the revision of the audit triggers added it.
    Column(
        "project_id",
        Uuid(),
        comment="Project of the row that changed; null in rows from before it was logged. No foreign key.",
    ),
    # PostgreSQL demands the partition key in every unique key of a partitioned table.
    PrimaryKeyConstraint("occurred_at", "id"),
    Index("ix_audit_logs_project_id_occurred_at", "project_id", "occurred_at"),
    Index("ix_audit_logs_entity_type_entity_id_occurred_at", "entity_type", "entity_id", "occurred_at"),
    postgresql_partition_by="RANGE (occurred_at)",
    comment="Every change of projects, tasks, steps and disputes; only grows, partitioned by month.",
)


@event.listens_for(audit_logs, "after_create")
def create_default_partition(target: Table, connection: Connection, **_: object) -> None:
    """Give `create_all` what revision 006 gives: a table that accepts rows before any month has its partition."""
    connection.execute(text("CREATE TABLE audit_logs_default PARTITION OF audit_logs DEFAULT"))
    connection.execute(
        text("COMMENT ON TABLE audit_logs_default IS 'Catches what no monthly partition covers, so no write fails.'")
    )
