"""``make migrate-preflight``: what a run would be refused for, asked without one. Reads only."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import (
    banner,
    connect,
    graph,
    history,
    judge,
    marker,
    plan,
    session,
    settings,
    version_table,
)
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.preflight import check, gate, pending
from mcp_planner_schema.guard.preflight.check import Report
from mcp_planner_schema.guard.version_table import VersionTable
from mcp_planner_schema.inspect import route, status

if TYPE_CHECKING:
    from alembic.config import Config

    from mcp_planner_schema.guard.judge import Judged
    from mcp_planner_schema.guard.settings import Settings


def ask(config: Config, target: str, *, contract: bool = False, accepted: str | None = None) -> Report:
    """Ask the configured server about the way from where the database is to ``target``, after what stands in the files.

    As a run would: what is held for its phase, or is not for this environment, does not count. A pooler, and a server that
    lets nobody in with settings of today, are refusals too.
    ``accepted`` are the codes that a run would accept. Where there is nothing to run, nothing is refused, only told.
    """
    given, codes, table = settings.load(config), gate.codes(accepted), version_table.of(config)
    try:
        way = route.find(config, target)
        folder, judged = _judged(config, given, way, contract=contract)
        against, told, recorded = _against(config, given, table, way, judged)
        back = "downgrade" if way.back else "upgrade"
        steps = [
            pending.of(folder, revision, back, one)
            for revision, one in judged.items()
            if not judge.left_out(one, given, recorded.get(revision) if way.back else None)
        ]
        asking = connect.engine(connect.url(given), "mcp-planner-guard preflight")
        with connect.opened(asking) as connection:
            session.read(connection)
        report = check.ask(connect.own(asking), given, steps, accepted=codes, version_table=table.shown)
        if not judged:
            return report.idle()
        return replace(report, refused=(*against, *report.refused), told=(*told, *report.told))
    except Refused as refused:
        if not {one.code for one in refused.findings} <= {"pooled-connection", "server-too-old"}:
            raise
        return Report(given.environment, refused.findings)


def _judged(config: Config, given: Settings, way: route.Route, *, contract: bool) -> tuple[str, dict[str, Judged]]:
    """Where the history lies, and the revisions of it that a run on that way would take now."""
    with route.history(config, given, ()) as script:
        found = judge.judge_pending(script, [script.get_revision(one).path for one in way.steps], given)
        folder = script.dir
    taken: dict[str, Judged] = {}
    for revision, one in zip(way.steps, found, strict=True):
        held = one.header is not None and one.header.phase == "contract" and given.rules.contract_waits
        if held and not (way.back or contract):
            break
        taken[revision] = one
    return folder, taken


def _against(
    config: Config, given: Settings, table: VersionTable, way: route.Route, judged: dict[str, Judged]
) -> tuple[list[Finding], list[Finding], dict[str, str]]:
    """What a run would be refused for before it asks the server, and what is told: headers, bodies, fingerprints, edits of
    what is applied. A revision of which nothing is stored is written down by a run in development, and refused elsewhere.
    And how what is applied has come: done, or skipped."""
    if not judged:
        return [], [], {}
    with status.connected(config) as (connection, _), route.history(config, given, (), connection, table) as script:
        marked = marker.differing(connection, given, banner.place(connection))
        found = [marked] if marked else []
        found += plan.against(script, given, judged, back=way.back)
        found += graph.edited(script, given, connection, table.shown, version_table.heads(connection, table))
        told = plan.unknown(script, judged) if not given.rules.stored and not way.back else []
        recorded = history.upgraded_as(connection, given.schema, table.shown)
    return [one for one in found if one.rule.refuses], told, recorded
