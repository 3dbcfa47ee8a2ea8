"""Every operation: importing this registers them with Alembic, and how autogenerate writes them."""

from mcp_planner_schema.operations import aliases as aliases
from mcp_planner_schema.operations import backfill as backfill
from mcp_planner_schema.operations import columns as columns
from mcp_planner_schema.operations import constraint_ops as constraint_ops
from mcp_planner_schema.operations import enums as enums
from mcp_planner_schema.operations import give_back as give_back
from mcp_planner_schema.operations import index_ops as index_ops
from mcp_planner_schema.operations import maintenance_ops as maintenance_ops
from mcp_planner_schema.operations import moves as moves
from mcp_planner_schema.operations import not_null_ops as not_null_ops
from mcp_planner_schema.operations import partition_ops as partition_ops
from mcp_planner_schema.operations import render as render
from mcp_planner_schema.operations import scripts as scripts
from mcp_planner_schema.operations import sql_body as sql_body
from mcp_planner_schema.operations import sync as sync
