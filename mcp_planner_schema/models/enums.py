"""PostgreSQL enum types. The order of the labels is their sort order; new ones can only be added, not removed."""

from sqlalchemy.dialects.postgresql import ENUM

from mcp_planner_schema.models.conventions import metadata

# Bound to the metadata, not to a table, because several tables share a type.
step_status = ENUM(
    "PENDING",
    "SERVER_DRAFT",
    "CLIENT_REVIEW",
    "AGREED",
    "DISPUTED",
    "USER_RESOLUTION",
    name="step_status",
    metadata=metadata,
)
complexity_level = ENUM("LOW", "MEDIUM", "HIGH", name="complexity_level", metadata=metadata)
dispute_status = ENUM("PENDING", "RESOLVED", name="dispute_status", metadata=metadata)
resolution_type = ENUM("SERVER", "CLIENT", "CUSTOM", "HYBRID", name="resolution_type", metadata=metadata)
entity_type = ENUM("PROJECT", "TASK", "STEP", "DISPUTE", name="entity_type", metadata=metadata)
audit_action = ENUM(
    "CREATED",
    "UPDATED",
    "DELETED",
    "PROMOTED",
    "DISPUTED",
    "RESOLVED",
    "COMPLETED",
    name="audit_action",
    metadata=metadata,
)
ai_agent = ENUM("SERVER_AI", "CLIENT_AI", name="ai_agent", metadata=metadata)
complexity_resolution = ENUM("CONSENSUS", "WEIGHTED", "ESCALATED", name="complexity_resolution", metadata=metadata)
