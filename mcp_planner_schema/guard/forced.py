"""What has to be so before only the version is moved (``migrate-force``, ``alembic stamp``), and nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import catalog_change, connect, fingerprint
from mcp_planner_schema.guard.findings import Finding, refuse
from mcp_planner_schema.guard.fingerprint import stored
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

_SHOWN = 12
"""Lines of what differs that are shown: of a version far away it is everything."""


def require(
    connection: Connection, settings: Settings, script: Any, destination: Sequence[str], reason: str | None
) -> None:
    """Raise :class:`Refused` where the version may not be moved to ``destination`` (revisions, or ``base``).

    That takes a reason, or a database that is what the revisions up to there make of it; where the history has no fingerprints
    to tell that by, a reason in staging and production. ``connection`` is under the deployers' lock; ``script`` is Alembic's
    folder.
    """
    if reason:
        return
    revision = ", ".join(destination)
    if catalog_change.kept(script):
        told = _differing(settings, script, destination, connection)
        if told:
            more = [f"… and {len(told) - _SHOWN} lines more"] if len(told) > _SHOWN else []
            values = {"revision": revision, "differences": "\n".join([*told[:_SHOWN], *more])}
            refuse(
                [Finding("stamp-differs", "alembic", revision, values)],
                f'make migrate-force VERSION={revision} REASON="…"',
            )
        return
    if settings.environment == "development":
        return
    values = {"environment": settings.environment, "revision": revision}
    refuse(
        [Finding("stamp-unexplained", "alembic", revision, values)], f'make migrate-force VERSION={revision} REASON="…"'
    )


def _differing(settings: Settings, script: Any, destination: Sequence[str], connection: Connection) -> list[str]:
    heads = [one for one in destination if one != "base"]
    applied = catalog_change.chain(script, heads)
    there = stored.fingerprints(script.dir)
    unknown = [one for one in applied if one not in there]
    if unknown:
        return [f"nothing is stored of what revision {unknown[0]} makes of the catalog"]
    with connect.opened(connection.engine) as asking:
        found = fingerprint.together(fingerprint.read(asking, settings.schema))
        asking.rollback()
    return catalog_change.differing(script, heads, found)


def reason(context: Any) -> str | None:
    """Why a version is moved: ``config.attributes["reason"]``, or ``-x reason="…"``; None where nobody says."""
    given = context.config.attributes.get("reason") or context.get_x_argument(as_dictionary=True).get("reason")
    return str(given).strip() or None if given else None
