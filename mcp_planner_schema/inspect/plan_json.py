"""A plan for machines. Names and meanings stay as they are within one ``format``; a new name may come."""

from __future__ import annotations

from typing import Any

from mcp_planner_schema.inspect.planned import Plan, Revision, Said, Table

FORMAT = 1


def as_json(plan: Plan) -> dict[str, Any]:
    """Plain values; null is what is not known. Times are in seconds, or in milliseconds where the name says so."""
    return {
        "format": FORMAT,
        "database": plan.database,
        "environment": plan.environment,
        "from": plan.here,
        "to": plan.there,
        "risk": plan.risk,
        "exit_code": plan.code,
        "sizes_from": plan.sizes or None,
        "rates_from": plan.rates or None,
        "findings": [_finding(one) for one in plan.said],
        "notes": list(plan.notes),
        "revisions": [_revision(one) for one in plan.revisions],
    }


def _revision(one: Revision) -> dict[str, Any]:
    took = one.estimate.before
    return {
        "revision": one.revision,
        "title": one.title,
        "file": one.file,
        "type": one.type or None,
        "phase": one.phase or None,
        "transaction": one.transaction or None,
        "reversible": one.reversible or None,
        "risk": one.risk,
        "reasons": list(one.reasons),
        "waits": one.waits or None,
        "skipped": one.skipped,
        "locks_from": one.locks.origin or None,
        "locks_unknown": one.locks.problem or None,
        "tables": [_table(table) for table in one.locks.tables],
        "seconds": {"least": one.estimate.least, "most": one.estimate.most, "held": one.estimate.held},
        "deadline_ms": one.deadline_ms,
        "reckoned": list(one.estimate.parts),
        "not_reckoned": list(one.estimate.unknown),
        "before": {"day": took.day, "duration_ms": took.duration_ms, "hold_ms": took.hold_ms} if took else None,
        "backfills": list(one.backfills),
        "findings": [_finding(said) for said in one.said],
        "sql": one.sql,
        "no_sql": one.no_sql or None,
    }


def _table(table: Table) -> dict[str, Any]:
    return {
        "table": table.name,
        "lock": table.mode or None,
        "stops": table.stops or None,
        "rewritten": table.rewritten,
        "there": table.there,
        "bytes": table.bytes,
        "rows": table.rows,
        "writes_per_second": table.writes,
        "scans_per_second": table.reads,
        "in_use_by": list(table.users),
    }


def _finding(said: Said) -> dict[str, Any]:
    finding, rule = said.finding, said.finding.rule
    return {
        "code": finding.code,
        "where": finding.where,
        "refuses": said.stands,
        "what": rule.happens.format_map(finding.values),
        "why": rule.hurts.format_map(finding.values),
        "write": rule.instead.format_map(finding.values),
    }
