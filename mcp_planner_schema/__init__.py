"""MCP-Planner's schema, and the guard that changes it without anyone noticing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_planner_schema.compatible import check_compatible as check_compatible

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``check_compatible``, loaded when an application asks for it and not before."""
    if name == "check_compatible":
        from mcp_planner_schema.compatible import check_compatible

        return check_compatible
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
