"""``python -m mcp_planner_schema``."""

import sys

from mcp_planner_schema.cli import main

sys.exit(main(sys.argv[1:]))
