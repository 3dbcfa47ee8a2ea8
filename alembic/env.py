"""Alembic's entry point: the guard does the work, the models say what the schema should be."""

from alembic import context

from mcp_planner_schema.guard import run
from mcp_planner_schema.models import metadata

run(context, target_metadata=metadata)
