"""What surrounds every step of an Alembic history.

An environment needs one line of it::

    from mcp_planner_schema.guard import run

    run(context, target_metadata=metadata)
"""

from mcp_planner_schema.guard.runner import run

__all__ = ["run"]
