"""Statements of the guard's own that a session plans once: where to plan takes longer than the answer."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

_IS_THERE = "SELECT EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE name = %s)"


def name(text: str) -> str:
    """What the statement is called. Behind a pooler another version of the guard may have left its own in the session."""
    return f"mcp_planner_guard_{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def is_there(connection: Connection, text: str) -> bool:
    """Whether the session has planned it."""
    return connection.exec_driver_sql(_IS_THERE, (name(text),)).scalar_one() is True
