"""Asking, and changing nothing."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from mcp_planner_schema.cli.command import Command, Values
from mcp_planner_schema.guard import saying
from mcp_planner_schema.guard.findings import BROKEN, DONE, REFUSED, Broken, GuardError

if TYPE_CHECKING:
    from alembic.config import Config


def _status(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import status
    from mcp_planner_schema.telemetry import checked

    found = status.read(config)
    print(json.dumps(found.as_json(), indent=2) if values.get("JSON") else found.text())
    checked.tell(config)
    return DONE


def _history(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import status

    rows = status.history(config)
    print(json.dumps(rows, indent=2) if values.get("JSON") else status.history_text(rows))
    return DONE


def _validate(config: Config, values: Values) -> int:
    from alembic.script import ScriptDirectory

    from mcp_planner_schema.guard import graph, judge, settings

    read = settings.load(config)
    script = ScriptDirectory.from_config(config)
    judged = judge.judge_all(script, read)
    findings = [finding for one in judged for finding in one.findings]
    findings += [finding for finding in graph.problems(script, read) if finding.code == "graph-broken"]
    told = []
    if not findings:  # what cannot be read or put in order is not run, not even offline
        from mcp_planner_schema.inspect import lint

        found = lint.lint(config, script, judged)
        findings += found.findings
        for warning in found.warnings:
            print(f"warning: {warning.text()}\n")
        for warning in found.back:
            print(f"warning, of the downgrade: {warning.text()}\n")
        told = [*found.notes, *filter(None, [found.told()])]
    for finding in findings:
        print(finding.text() + "\n")
    print(f"{len(judged)} revisions judged, {len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}")
    for line in told:
        print(line)
    if any(finding.rule.refuses for finding in findings):
        print("\nnext: correct the first one above, then make migrate-validate", file=sys.stderr)
        return REFUSED
    return DONE


def _preflight(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import preflight

    found = preflight.ask(
        config,
        values.get("TO") or "head",
        contract=values.get("PHASE") == "contract",
        accepted=values.get("PREFLIGHT_ACCEPT"),
    )
    print(json.dumps(found.as_json(), indent=2) if values.get("JSON") else found.text())
    if found.refused:
        print("\nnext: correct the first one above, then make migrate-preflight", file=sys.stderr)
        return REFUSED
    return DONE


def _plan(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import plan, plan_told

    tell = plan_told.form(values.get("JSON"), values.get("FORMAT"), values.get("FULL"))
    found = plan.read(config, to=values.get("TO") or "head", start=values.get("FROM"), phase=values.get("PHASE"))
    print(tell(found))
    return found.code


def _verify(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import verify
    from mcp_planner_schema.telemetry import checked

    report = verify.verify(config)
    for line in report.failures:
        print(line)
    checked.tell(config, "integrity", violations=len(report.failures), expectations=report.checked)
    print(f"{report.checked} expectations of {report.revisions} applied revisions, {len(report.failures)} not met")
    if report.failures:
        raise Broken(
            "The database is not what its revisions said that it would be.",
            "make migrate-drift   (if it is what they made of it, a later one takes something away and does not say so)",
        )
    return DONE


def _drift(config: Config, values: Values) -> int:
    """``EXIT_CODE=1``: 0 where nothing differs, 2 where something does, 1 for whatever else, as ``prisma migrate diff`` ends."""
    if not values.get("EXIT_CODE"):
        return _compare(config, values)
    try:
        return 2 if _compare(config, values) == REFUSED else DONE
    except GuardError as error:
        saying.last(error)
        return BROKEN


def _compare(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import drift
    from mcp_planner_schema.telemetry import checked

    found = drift.read_drift(config)
    print(json.dumps(found.as_json(), indent=2) if values.get("JSON") else found.text())
    checked.tell(config, "drift", objects=sum(not line.startswith(" ") for line in found.structure))
    if found.structure:
        print("\nnext: make migrate-doctor   (what to do about each)", file=sys.stderr)
    return REFUSED if found.structure else DONE


def _doctor(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import doctor

    found = doctor.examine(config)
    print(json.dumps([one._asdict() for one in found], indent=2) if values.get("JSON") else doctor.text(found))
    return REFUSED if found else DONE


COMMANDS: dict[str, Command] = {
    "migrate-status": Command(_status, (), ("JSON",), "[JSON=1]"),
    "migrate-history": Command(_history, (), ("JSON",), "[JSON=1]"),
    "migrate-validate": Command(_validate),
    "migrate-preflight": Command(
        _preflight,
        (),
        ("TO", "PHASE", "JSON", "PREFLIGHT_ACCEPT", "REASON"),
        "[TO=003] [PHASE=contract] [JSON=1] [PREFLIGHT_ACCEPT=backup-old]",
    ),
    "migrate-plan": Command(
        _plan,
        (),
        ("TO", "FROM", "FULL", "JSON", "FORMAT", "PHASE"),
        "[TO=024] [FROM=023] [FULL=1] [JSON=1] [FORMAT=markdown] [PHASE=contract]",
    ),
    "migrate-verify": Command(_verify),
    "migrate-drift": Command(_drift, (), ("JSON", "EXIT_CODE"), "[JSON=1] [EXIT_CODE=1]"),
    "migrate-doctor": Command(_doctor, (), ("JSON",), "[JSON=1]"),
}
