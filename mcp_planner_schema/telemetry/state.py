"""Where a database stands, as metrics: its version, what is pending, the newest backup."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema import __version__
from mcp_planner_schema.guard import lineage
from mcp_planner_schema.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.settings import Settings


def read(
    metrics: Metrics, connection: Connection, settings: Settings, script: ScriptDirectory, heads: Sequence[str], *,
    ask: bool,
) -> None:  # fmt: skip
    """Set what says where the database stands at ``heads``. Reads only.

    ``ask``: the command that knows the backups is run too, which may take its time.
    """
    metrics.forget("info")
    metrics.set("info", 1, version=__version__, environment=settings.environment)
    metrics.forget("revision_info")
    for one in heads or ("base",):
        metrics.set("revision_info", 1, revision=one)
    _pending(metrics, script, heads)
    from mcp_planner_schema.guard.preflight import backup

    age = backup.age(connection, settings, ask=ask)
    if age is not None:
        metrics.set("backup_timestamp_seconds", time.time() - age)


def _pending(metrics: Metrics, script: ScriptDirectory, heads: Sequence[str]) -> None:
    from alembic.util import CommandError

    try:
        applied = {one.revision for one in script.iterate_revisions(tuple(heads), "base")} if heads else set()
    except CommandError:  # the database is ahead of this folder
        return
    pending = lineage.of(one for one in script.walk_revisions() if one.revision not in applied)
    metrics.set("pending_revisions", len(pending))
    metrics.set("pending_contract_revisions", sum(one.phase == "contract" for one in pending))
