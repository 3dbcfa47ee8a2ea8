"""A plan for people: the whole in one table, then each revision with what is known of it, and its SQL."""

from __future__ import annotations

from collections.abc import Iterator

from mcp_planner_schema.guard import stored_locks
from mcp_planner_schema.inspect.plan_time import between, short
from mcp_planner_schema.inspect.planned import Estimate, Plan, Revision, Table

PREFLIGHT = "Whether rows, disk, sessions or rights stand in its way is asked by make migrate-preflight."


MANY = 5
"""From more revisions than these only the table is told, and what somebody should look at."""


def text(plan: Plan, *, full: bool = False) -> str:
    """All of it, of many revisions only on demand (``full``): then the table, and what is said of one revision or another."""
    lines = [*head(plan), ""]
    if plan.revisions:
        rows = [COLUMNS, *map(row, plan.revisions)]
        widths = [max(len(one[place]) for one in rows) for place in range(len(COLUMNS))]
        lines += ["  ".join(map(str.ljust, one, widths)).rstrip() for one in rows] + [""]
    short = len(plan.revisions) > MANY and not full
    for one in plan.revisions:
        if short:
            lines += _noted(one)
            continue
        lines += [f"=== {one.revision}  {one.title}", *(f"{name:<9} {value}".rstrip() for name, value in facts(one))]
        lines += ["sql", *(f"    {line}".rstrip() for line in (one.sql or f"-- none: {one.no_sql}").split("\n")), ""]
    if short:
        lines.append(f"The SQL, locks and times of all {len(plan.revisions)} revisions: make migrate-plan FULL=1")
    return "\n".join([*lines, *tail(plan)])


def _noted(one: Revision) -> list[str]:
    """Why somebody should look at the revision before it runs; nothing where there is no reason to."""
    if not (one.reasons or one.said or one.waits):
        return []
    keep = {"waits", "risk", "finding", "warning", "backfill"}
    kept, name = [], ""
    for label, value in facts(one):
        name = label or name
        if name in keep:
            kept.append(f"{label:<9} {value}".rstrip())
    return [f"=== {one.revision}  {one.title}", *kept, ""]


COLUMNS = ("revision", "what", "phase", "risk", "strongest lock", "time")


def row(one: Revision) -> tuple[str, ...]:
    """One revision in the table of all."""
    return (one.revision, one.title, one.phase, state(one), strongest(one), duration(one.estimate))


def head(plan: Plan) -> list[str]:
    """From where to where, the risk, and where the numbers are from."""
    count = f"{len(plan.revisions)} revision{'' if len(plan.revisions) == 1 else 's'}"
    where = plan.database or "no database was asked"
    lines = [
        f"{where} ({plan.environment}): from {plan.here} to {plan.there}, {count if plan.revisions else 'nothing to do'}"
    ]
    lines.append(f"risk: {plan.risk} (exit code {plan.code})")
    if plan.revisions:
        lines.append(f"sizes: {plan.sizes or 'not known'}; writes and scans: {plan.rates or 'not known'}")
    for said in plan.said:
        lines += said.finding.text().split("\n")
    return lines


def tail(plan: Plan) -> list[str]:
    """What could not be judged, and where the rest is asked."""
    return [*plan.notes, *([PREFLIGHT] if plan.revisions else [])]


def state(one: Revision) -> str:
    """The risk, or that it does not run now."""
    return "waits" if one.waits else "skipped here" if one.skipped else one.risk


def strongest(one: Revision) -> str:
    """The strongest lock that stops somebody, and on what; the others are counted."""
    if one.locks.problem:
        return "not known"
    stopping = [table for table in one.locks.tables if table.stops]
    if not stopping:
        return "stops nobody"
    mode = stored_locks.strongest(table.mode for table in stopping)
    first, *others = (short(table.name) for table in stopping if table.mode == mode)
    return f"{mode} on {first}{f' and {len(others)} more' if others else ''}"


def duration(estimate: Estimate) -> str:
    """How long it takes, or that nobody knows."""
    if estimate.most is not None:
        return between(estimate.least, estimate.most)
    return "not known" if estimate.least < 0.05 else f"{between(estimate.least, estimate.least)} and more"


def facts(one: Revision) -> Iterator[tuple[str, str]]:
    """Each fact of one revision with its name; more of the same come without it."""
    yield "file", one.file
    if one.phase:
        yield "header", f"{one.type}, {one.phase}, Transaction: {one.transaction}, Reversible: {one.reversible}"
    if one.waits:
        yield "waits", one.waits
    if one.skipped:
        yield "skipped", "it is not for this environment"
    yield "risk", one.risk
    yield from (("", reason) for reason in one.reasons)
    yield "locks", one.locks.problem or one.locks.origin
    for table in one.locks.tables:
        yield "", f"  {_table(table)}"
        yield from (("", f"    it has to wait for {user}") for user in table.users)
    if not one.locks.tables and not one.locks.problem:
        yield "", "  no table that is there before it"
    yield "time", duration(one.estimate)
    yield from (("", f"  {part}") for part in one.estimate.parts)
    yield from (("", f"  not known: {part}") for part in one.estimate.unknown)
    if one.estimate.before:
        took = one.estimate.before
        yield (
            "before",
            f"took {took.duration_ms:,.0f} ms here on {took.day}, its locks were held for {took.hold_ms:,.0f} ms",
        )
    for place, line in enumerate(one.backfills):
        yield "" if place else "backfill", line
    for said in one.said:
        first, *more = said.finding.text().split("\n")
        yield "finding" if said.stands else "warning", first
        yield from (("", line) for line in more)


def _table(table: Table) -> str:
    parts = [f"{short(table.name)}: {table.mode or 'no lock seen'}{', written anew' if table.rewritten else ''}"]
    if table.there == "new":
        return f"{parts[0]}; new in this deploy, nobody is in it yet"
    if table.there == "unknown":
        parts.append("size not known")
    else:
        rows = "rows never counted" if table.rows is None else f"{table.rows:,} rows"
        parts.append(f"{'size not known now' if table.bytes is None else size(table.bytes)}, {rows}")
    if table.writes is not None and table.reads is not None:
        parts.append(f"{rate(table.writes)} writes/s, {rate(table.reads)} scans/s")
    parts.append(f"{table.stops} wait" if table.stops else "nobody waits")
    return "; ".join(parts)


def size(number: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 10_000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:,.0f} TB"


def rate(number: float) -> str:
    """How many a second: what is rare is not shown as nothing."""
    if number == 0 or number >= 10:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 0.05 else "< 0.1"
