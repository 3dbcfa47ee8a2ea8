"""``make migrate-preflight``: what a run would be refused for, asked without one. Reads only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import connect, judge, session, settings
from mcp_planner_schema.guard.findings import Refused
from mcp_planner_schema.guard.preflight import check, pending
from mcp_planner_schema.guard.preflight.check import Report
from mcp_planner_schema.guard.preflight.pending import Pending
from mcp_planner_schema.inspect import route

if TYPE_CHECKING:
    from alembic.config import Config

    from mcp_planner_schema.guard.settings import Settings


def ask(config: Config, target: str, *, contract: bool = False) -> Report:
    """Ask the configured server about the way from where the database is to ``target``.

    As a run would: what is held for its phase, or is not for this environment, does not count. A pooler is a refusal too.
    """
    given = settings.load(config)
    try:
        way = route.find(config, target)
        steps = _steps(config, given, way, contract=contract)
        asking = connect.engine(connect.url(given), "mcp-planner-guard preflight")
        with connect.opened(asking) as connection:
            session.read(connection)
        return check.ask(connect.own(asking), given, steps)
    except Refused as refused:
        if {one.code for one in refused.findings} != {"pooled-connection"}:
            raise
        return Report(given.environment, refused.findings)


def _steps(config: Config, given: Settings, way: route.Route, *, contract: bool) -> list[Pending]:
    """What a run on that way would do now."""
    with route.history(config, given, ()) as script:
        judged = judge.judge_pending(script, [script.get_revision(one).path for one in way.steps], given)
        folder = Path(script.dir)
    steps = []
    for revision, one in zip(way.steps, judged, strict=True):
        held = one.header is not None and one.header.phase == "contract" and given.environment != "development"
        if held and not (way.back or contract):
            break
        if one.header is None or given.environment in one.header.environments:
            steps.append(pending.of(folder, revision, "downgrade" if way.back else "upgrade", one))
    return steps
