"""``make migrate-preflight``: what a run would be refused for, asked without one. Reads only."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import connect, graph, judge, plan, session, settings
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.preflight import check, gate, pending
from mcp_planner_schema.guard.preflight.check import Report
from mcp_planner_schema.inspect import route, status

if TYPE_CHECKING:
    from alembic.config import Config

    from mcp_planner_schema.guard.judge import Judged
    from mcp_planner_schema.guard.settings import Settings


def ask(config: Config, target: str, *, contract: bool = False, accepted: str | None = None) -> Report:
    """Ask the configured server about the way from where the database is to ``target``, after what stands in the files.

    As a run would: what is held for its phase, or is not for this environment, does not count. A pooler is a refusal too.
    ``accepted`` are the codes that a run would accept.
    """
    given, codes = settings.load(config), gate.codes(accepted)
    try:
        way = route.find(config, target)
        folder, judged = _judged(config, given, way, contract=contract)
        against = _against(config, given, way, judged)
        back = "downgrade" if way.back else "upgrade"
        steps = [
            pending.of(folder, revision, back, one)
            for revision, one in judged.items()
            if one.header is None or given.environment in one.header.environments
        ]
        asking = connect.engine(connect.url(given), "mcp-planner-guard preflight")
        with connect.opened(asking) as connection:
            session.read(connection)
        report = check.ask(connect.own(asking), given, steps, accepted=codes)
        return replace(report, refused=(*against, *report.refused))
    except Refused as refused:
        if {one.code for one in refused.findings} != {"pooled-connection"}:
            raise
        return Report(given.environment, refused.findings)


def _judged(config: Config, given: Settings, way: route.Route, *, contract: bool) -> tuple[str, dict[str, Judged]]:
    """Where the history lies, and the revisions of it that a run on that way would take now."""
    with route.history(config, given, ()) as script:
        found = judge.judge_pending(script, [script.get_revision(one).path for one in way.steps], given)
        folder = script.dir
    taken: dict[str, Judged] = {}
    for revision, one in zip(way.steps, found, strict=True):
        held = one.header is not None and one.header.phase == "contract" and given.environment != "development"
        if held and not (way.back or contract):
            break
        taken[revision] = one
    return folder, taken


def _against(config: Config, given: Settings, way: route.Route, judged: dict[str, Judged]) -> tuple[Finding, ...]:
    """What a run would be refused for before it asks the server: headers, bodies, fingerprints, edits of what is applied."""
    if not judged:
        return ()
    found = [one for step in judged.values() for one in step.findings if one.rule.refuses]
    with status.connected(config) as (connection, _), route.history(config, given, (), connection) as script:
        if not way.back and given.environment != "development":
            found += plan.unknown(script, judged)
        found += graph.edited(script, given, connection, status.VERSION_TABLE, status.heads(connection))
    return tuple(found)
