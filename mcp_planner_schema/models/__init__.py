"""The MCP-Planner schema as SQLAlchemy tables: `metadata` holds them all. Nothing else of this package is imported.

They describe the database at head, without its functions and triggers: those are SQL files of their revisions.
Importing a module below is what registers its tables.
"""

from mcp_planner_schema.models import audit, complexity, disputes, enums, navigation, projects, steps, tasks
from mcp_planner_schema.models.conventions import metadata

__all__ = ["audit", "complexity", "disputes", "enums", "metadata", "navigation", "projects", "steps", "tasks"]
