"""What has to be so before only the version is moved (``migrate-force``, ``alembic stamp``), and nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.findings import Finding, refuse
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection


def require(
    connection: Connection, settings: Settings, script: Any, destination: Sequence[str], reason: str | None
) -> None:
    """Raise :class:`Refused` where the version may not be moved to ``destination`` (revisions, or ``base``).

    In staging and production that takes a reason. ``connection`` is in autocommit, under the deployers' lock; ``script`` is
    Alembic's folder.
    """
    if reason or settings.environment == "development":
        return
    revision = ", ".join(destination)
    values = {"environment": settings.environment, "revision": revision}
    refuse(
        [Finding("stamp-unexplained", "alembic", revision, values)], f'make migrate-force VERSION={revision} REASON="…"'
    )


def reason(context: Any) -> str | None:
    """Why a version is moved: ``config.attributes["reason"]``, or ``-x reason="…"``; None where nobody says."""
    given = context.config.attributes.get("reason") or context.get_x_argument(as_dictionary=True).get("reason")
    return str(given).strip() or None if given else None
