"""Create the audit triggers.

Version: 015
Description: Every change of projects, tasks, steps and disputes is logged, and every threshold, by the database alone.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-24
Dependencies: 014
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

import sqlalchemy as sa
from alembic import op

from mcp_planner_schema.operations import expect, sql

revision = "015"
down_revision = "014"
branch_labels = None
depends_on = None

sql_files = [
    "015/current_actor.sql",
    "015/write_audit_log.sql",
    "015/write_audit_row.sql",
    "015/record_threshold_change.sql",
    "015/entity_audit_trail.sql",
    "015/recent_activity.sql",
    "015/audit_statistics.sql",
    "015/projects_45_audit_insert.sql",
    "015/projects_45_audit_update.sql",
    "015/projects_45_audit_delete.sql",
    "015/projects_45_audit_truncate.sql",
    "015/tasks_45_audit_insert.sql",
    "015/tasks_45_audit_update.sql",
    "015/tasks_45_audit_delete.sql",
    "015/tasks_45_audit_truncate.sql",
    "015/steps_45_audit_insert.sql",
    "015/steps_45_audit_update.sql",
    "015/steps_45_audit_delete.sql",
    "015/steps_45_audit_truncate.sql",
    "015/disputes_45_audit_insert.sql",
    "015/disputes_45_audit_update.sql",
    "015/disputes_45_audit_delete.sql",
    "015/disputes_45_audit_truncate.sql",
    "015/projects_80_record_threshold.sql",
]

expectations = [
    expect.column("audit_logs", "project_id", type="uuid", nullable=True),
    expect.index("ix_audit_logs_project_id_occurred_at", table="audit_logs", unique=False),
    expect.index("ix_audit_logs_entity_type_entity_id_occurred_at", table="audit_logs", unique=False),
    expect.function("current_actor()"),
    expect.function("write_audit_log()"),
    expect.function("write_audit_row()"),
    expect.function("record_threshold_change()"),
    expect.function("entity_audit_trail(entity_type, uuid, integer)"),
    expect.function("recent_activity(uuid, integer, timestamp with time zone)"),
    expect.function("audit_statistics(timestamp with time zone)"),
    expect.trigger("projects", "projects_45_audit_insert"),
    expect.trigger("projects", "projects_45_audit_update"),
    expect.trigger("projects", "projects_45_audit_delete"),
    expect.trigger("projects", "projects_45_audit_truncate"),
    expect.trigger("tasks", "tasks_45_audit_insert"),
    expect.trigger("tasks", "tasks_45_audit_update"),
    expect.trigger("tasks", "tasks_45_audit_delete"),
    expect.trigger("tasks", "tasks_45_audit_truncate"),
    expect.trigger("steps", "steps_45_audit_insert"),
    expect.trigger("steps", "steps_45_audit_update"),
    expect.trigger("steps", "steps_45_audit_delete"),
    expect.trigger("steps", "steps_45_audit_truncate"),
    expect.trigger("disputes", "disputes_45_audit_insert"),
    expect.trigger("disputes", "disputes_45_audit_update"),
    expect.trigger("disputes", "disputes_45_audit_delete"),
    expect.trigger("disputes", "disputes_45_audit_truncate"),
    expect.trigger("projects", "projects_80_record_threshold"),
]

# roles.sql gives the application every new table, because it may run before there is any: from here on the log and the
# thresholds are written by triggers, and their owner's rights are the only ones needed. The way back gives nothing back:
# no release ever wrote them, and roles.sql says who may.
ONLY_TRIGGERS_WRITE = """
DO $$
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT c.oid::regclass AS relation, coalesce(pg_catalog.quote_ident(rolname), 'PUBLIC') AS grantee
        FROM pg_catalog.pg_class c CROSS JOIN pg_catalog.aclexplode(c.relacl) acl
        LEFT JOIN pg_catalog.pg_roles ON pg_roles.oid = acl.grantee
        WHERE acl.grantee <> c.relowner AND acl.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
            AND (c.oid IN ('public.audit_logs'::regclass, 'public.threshold_changes'::regclass)
                OR c.oid IN (SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = 'public.audit_logs'::regclass))
        GROUP BY 1, 2
    LOOP
        EXECUTE pg_catalog.format('REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON %s FROM %s', held.relation, held.grantee);
    END LOOP;
END
$$
"""


def upgrade() -> None:
    op.add_column(
        "audit_logs",
        sa.Column(
            "project_id",
            sa.Uuid(),
            comment="Project of the row that changed; null in rows from before it was logged. No foreign key.",
        ),
    )
    op.create_index("ix_audit_logs_project_id_occurred_at", "audit_logs", ["project_id", "occurred_at"])
    op.create_index(
        "ix_audit_logs_entity_type_entity_id_occurred_at", "audit_logs", ["entity_type", "entity_id", "occurred_at"]
    )
    op.execute(ONLY_TRIGGERS_WRITE)
    sql.apply(sql_files)


def downgrade() -> None:
    sql.revert(sql_files)
    op.drop_index("ix_audit_logs_entity_type_entity_id_occurred_at", table_name="audit_logs")
    op.drop_index("ix_audit_logs_project_id_occurred_at", table_name="audit_logs")
    op.drop_column("audit_logs", "project_id")
