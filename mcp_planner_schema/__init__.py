"""MCP-Planner's schema, and the guard that changes it without anyone noticing."""

__version__ = "0.1.0"
