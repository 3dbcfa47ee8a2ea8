"""Believable rows for every table of a planner database, of any size, the same for the same seed.

`rows` makes them as COPY text and knows no database; `loading` copies them in::

    with engine.begin() as connection:
        example_data.load(connection, projects=100)
"""

from mcp_planner_schema.example_data.loading import Loaded, fill, load
from mcp_planner_schema.example_data.project import COLUMNS, project_id
from mcp_planner_schema.example_data.rows import rows

__all__ = ["COLUMNS", "Loaded", "fill", "load", "project_id", "rows"]
