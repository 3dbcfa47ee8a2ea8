"""What whoever runs the command allows for this once: with ``-x name=value`` of ``alembic``, or ``attributes`` so named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mcp_planner_schema.guard import blockers, settings
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.settings import Settings


@dataclass(frozen=True)
class Asked:
    """How long rows may be kept or given back under locks, in milliseconds, the application whose sessions may be ended when they
    are in the way, how many sessions a backfill may use, and whether it tells a machine how far it is."""

    hold: int
    cancel: str | None = None
    workers: int = 1
    events: bool = False


def read(context: Any, given: Settings) -> Asked:
    """``-x hold_limit=5min``, ``-x cancel_blockers=app=NAME``, ``-x workers=4``, ``-x progress=json``.

    Raises :class:`WrongUse` for what is none of these.
    """
    named = context.get_x_argument(as_dictionary=True)
    hold, cancel, workers, told = (
        named.get(name) or context.config.attributes.get(name)
        for name in ("hold_limit", "cancel_blockers", "workers", "progress")
    )
    try:
        limit = settings.duration(hold) if hold else given.hold_limit
    except ValueError as error:
        raise WrongUse(f"hold_limit is {hold!r}: {error}.", "alembic -x hold_limit=5min downgrade -1") from None
    if not re.fullmatch("[1-9]|[1-5][0-9]|6[0-4]", str(workers or 1)):
        raise WrongUse(f"workers is {workers!r}; it is a number from 1 to 64.", "alembic -x workers=4 upgrade head")
    if told not in (None, "json"):
        raise WrongUse(f"progress is {told!r}; it is json or left out.", "alembic -x progress=json upgrade head")
    return Asked(limit, blockers.application(cancel), int(workers or 1), told == "json")


def only_shown(context: Any, *, back: bool) -> bool:
    """Whether the steps are to be rehearsed and told, and not run: ``attributes["dry_run"]``, or ``-x dry_run=1``."""
    named = context.get_x_argument(as_dictionary=True)
    asked = context.config.attributes.get("dry_run") or named.get("dry_run") == "1"
    if ("dry_run" in named and not asked) or (asked and not back):
        raise WrongUse(
            "dry_run is 1 or left out, and shows what a downgrade would do; of an upgrade there is the SQL.",
            "alembic -x dry_run=1 downgrade -1, or alembic upgrade <from>:<to> --sql",
        )
    return bool(asked)
