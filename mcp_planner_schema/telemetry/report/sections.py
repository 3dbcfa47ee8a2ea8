"""What a report says, and in which order: what to do first, then what happened, then what is there to look up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mcp_planner_schema.inspect.plan_text import size
from mcp_planner_schema.telemetry.report import timeline
from mcp_planner_schema.telemetry.report.facts import Blocker, Change, Report, Run, Step, Wait
from mcp_planner_schema.telemetry.report.page import Block, Code, Facts, Folded, Page, Section, Table, Text, Timeline
from mcp_planner_schema.telemetry.report.words import clock, count, heads, lasting, many, when

MOST = 200
"""Rows of a table, and objects of the schema, that a page shows; JSON has all of them."""

_SAYS = {
    "done": "is done",
    "failed": "failed",
    "interrupted": "was interrupted",
    "running": "is running",
    "killed": "was killed",
}
_SIGNS = {"came": "+", "went": "-", "changed": "~"}


def page(report: Report) -> Page:
    """All of it."""
    run = report.run
    made = (
        Section("next", "Next", tuple(_next(report))),
        Section("steps", "Steps", tuple(_steps(report))),
        Section("waits", "Waits", tuple(_waits(report))),
        Section("locks", "Locks", tuple(_locks(report))),
        Section("findings", "Findings", tuple(_findings(report))),
        Section("schema", "Schema", tuple(_schema(report))),
        Section("scripts", "Scripts", tuple(_scripts(report))),
        Section("backfills", "Backfills", tuple(_backfills(report))),
        Section("kept", "Kept", tuple(_kept(report))),
        Section("operations", "Operations", tuple(_operations(report))),
        Section("run", "The run", (Facts(tuple(_run(run))),)),
    )
    return Page(
        run.state, f"Run {run.id} {_SAYS[run.state]}", f"{run.database} · {run.environment}", _summary(report),
        tuple(_numbers(report)), tuple(one for one in made if one.blocks),
        f"Read {when(run.read_at)} from the guard's tables; nothing was changed. mcp-planner-schema {run.tool_version}.",
    )  # fmt: skip


def _summary(report: Report) -> str:
    run, steps = report.run, report.steps
    ended = [one for one in steps if one.outcome in ("done", "skipped")]
    before, after = heads(run.heads_before), heads(run.heads_after)
    went = {
        ("upgrade",): f"It went up from {before} to {after}",
        ("downgrade",): f"It went back from {before} to {after}",
        ("stamp",): f"Only the version was moved, from {before} to {after}",
        ("accept",): f"An edited revision was accepted as it is; the database stands at {after}",
        (): f"It has changed no version; the database stands at {after}",
    }
    directions = tuple({one.direction for one in ended})
    told = went.get(directions, f"It went from {before} to {after}")
    return f"{told}: {len(ended)} of {many(run.planned, 'step')} done."


def _numbers(report: Report) -> Iterator[tuple[str, str]]:
    run, steps = report.run, report.steps
    until = {"running": run.read_at, "done": run.ended, "failed": run.ended}.get(run.state)
    if until:
        yield lasting((until - run.started).total_seconds() * 1000), "so far" if run.state == "running" else "in all"
    if steps:
        held = [*(one.held for one in steps), *(one.held or 0.0 for one in report.waits)]
        if held:
            yield lasting(max(held)), "locks held at most"
        yield lasting(sum(one.waited for one in steps)), "waited for locks"
        again = sum(one.attempts - 1 for one in steps if one.attempts)
        # An operation that commits by itself is tried again by itself, within one try of its step.
        yield count(max(again, sum(one.attempt is not None and not one.last for one in report.waits))), "tried again"
    written = [one.rows for one in steps if one.rows is not None]
    if written:
        yield count(sum(written)), "rows written"


# --- what follows -----------------------------------------------------------------------------------------------------


def _next(report: Report) -> Iterator[Block]:
    if report.run.error:
        yield Code("What it said", report.run.error)
    yield Text(report.next.why)
    yield Code("Type", report.next.command)


# --- what happened ----------------------------------------------------------------------------------------------------


def _steps(report: Report) -> Iterator[Block]:
    if not report.steps:
        yield Text("No step has begun, or none has left a trace.")
        return
    yield Timeline(*timeline.rows(report))
    heads_of = (("Revision", "code"), ("Way", "text"), ("Outcome", "text"), ("What", "text"), ("Took", "number"),
                ("Waited", "number"), ("Held", "number"), ("Tries", "number"), ("Rows", "number"))  # fmt: skip
    yield from _table(
        "Each step: how long it took, waited for locks and held them", heads_of, [_step(one) for one in report.steps]
    )
    for one in report.steps:
        if one.error and one.error != report.run.error:
            yield Code(f"What ended {one.revision}{f' (SQLSTATE {one.sqlstate})' if one.sqlstate else ''}", one.error)
        if one.notes:
            yield Code(f"Said of {one.revision}", "\n".join(one.notes))


def _step(one: Step) -> tuple[str, ...]:
    return (
        one.revision, one.direction, outcome(one), one.description or "", lasting(one.duration), lasting(one.waited),
        _held(one), count(one.attempts),
        count(one.rows, "not counted" if one.outcome == "done" else "none"),
    )  # fmt: skip


def _held(one: Step) -> str:
    if not one.parts:
        return lasting(one.held)
    return f"{lasting(one.held)} in parts" if one.held else "in parts"


def outcome(one: Step) -> str:
    """How a step ended, with a sign that needs no colour."""
    sign = {"done": "✓", "failed": "✕", "skipped": "○", "running": "…", "cut off": "✕"}.get(one.outcome, "·")
    return f"{sign} {one.outcome}"


def _waits(report: Report) -> Iterator[Block]:
    if report.waits:
        named = (("When", "short"), ("What", "short"), ("Waited", "number"), ("pid", "number"), ("Application", "code"),
                 ("User", "code"), ("State", "text"), ("Holds", "code"))  # fmt: skip
        rows = [_wait(one, who) for one in report.waits for who in one.blockers or (None,)]
        yield from _table("Who was in the way: in which state, and for how long in its transaction", named, rows)
    elif any(one.waited >= 1 for one in report.steps):
        yield Text(
            "It waited for locks, as the steps above say; nobody who was in the way was written down."
            + ("" if report.events else " The run has left no events: it was one of an older version.")
        )
    elif report.steps:
        yield Text("Nobody was in the way." if report.events else "No step was seen waiting for a lock.")


def _wait(one: Wait, blocker: Blocker | None) -> tuple[str, ...]:
    ended = "failed" if one.last else "undone"
    what = f"{one.revision} try {one.attempt} {ended}" if one.attempt is not None else f"{one.revision} waits"
    what += f" ({one.sqlstate})" if one.sqlstate else ""
    what += f", told {one.seen} times" if one.seen > 1 else ""
    first = (clock(one.at), what, "" if one.waited is None else lasting(one.waited))
    if blocker is None:
        return (*first, "", "", "", "", "a session that has gone")
    state = blocker.state + ("" if blocker.age is None else f" for {lasting(blocker.age * 1000)}")
    return (
        *first,
        "" if blocker.pid is None else str(blocker.pid),
        blocker.application,
        blocker.user,
        state,
        blocker.holds,
    )


def _locks(report: Report) -> Iterator[Block]:
    rows = [
        (table.removeprefix("public."), mode, one.revision, one.locks_from)
        for one in report.steps
        for table, mode in one.locks
    ]
    named = (("Table", "code"), ("Strongest lock", "text"), ("Revision", "code"), ("Known", "text"))
    if rows:
        yield from _table("The strongest lock on each table that was there before", named, rows)
    elif report.steps:
        yield Text("No lock on a table that was there before is known of these steps.")


def _findings(report: Report) -> Iterator[Block]:
    rows = [
        (one.how, one.said, one.reason or "not written", one.where or "the run", one.until or "this run")
        for one in report.findings
    ]
    named = (("How", "text"), ("Finding", "text"), ("Why", "text"), ("Where", "code"), ("Until", "short"))
    if rows:
        yield from _table("What stood against the run or was told: let through for a reason, or refused", named, rows)
    else:
        yield Text("Nothing was accepted, waived or silenced.")


# --- what there is to look up -----------------------------------------------------------------------------------------


def _schema(report: Report) -> Iterator[Block]:
    found = report.schema
    if found.unknown:
        yield Text(f"What it has changed in the catalog is not known here: {found.unknown}")
        return
    if not found.changes:
        yield Text("The catalog is the same before and after.")
        return
    before, after = heads(report.run.heads_before), heads(report.run.heads_after)
    named = (
        ("Kind", "text"),
        (f"Before ({before})", "number"),
        (f"After ({after})", "number"),
        ("Difference", "number"),
    )
    rows = [(kind, count(was), count(now), f"{now - was:+,}" if now != was else "0") for kind, was, now in found.counts]
    yield from _table("How many of each kind, by what the revisions make", named, rows)
    how = {sign: sum(one.how == name for one in found.changes) for name, sign in _SIGNS.items()}
    yield Text(f"{how['+']} came, {how['-']} went, {how['~']} changed.")
    yield from (_changed(one) for one in found.changes[:MOST])
    if len(found.changes) > MOST:
        yield Text(f"{len(found.changes) - MOST} more are in make migrate-report JSON=1.")


def _changed(one: Change) -> Folded:
    return Folded(_SIGNS[one.how], f"{one.kind} {one.name.removeprefix('public.')}", one.parts)


def _scripts(report: Report) -> Iterator[Block]:
    rows = [
        (
            script.name,
            one.revision,
            script.arguments,
            "not known" if script.seconds is None else lasting(script.seconds * 1000),
        )
        for one in report.steps
        for script in one.scripts
    ]
    if rows:
        named = (("Script", "code"), ("Revision", "code"), ("Arguments", "code"), ("Took", "number"))
        yield from _table("Scripts that ran, with secrets masked", named, rows)


def _backfills(report: Report) -> Iterator[Block]:
    rows = [
        (one.name, f"{one.revision} {one.direction}", one.table, one.state + (f": {one.waits_for}" if one.waits_for else ""),
         count(one.rows), count(one.written), count(one.expected), "" if one.seconds is None else lasting(one.seconds * 1000))
        for one in report.backfills
    ]  # fmt: skip
    if rows:
        named = (("Backfill", "code"), ("Of", "code"), ("Table", "code"), ("State", "text"), ("Looked at", "number"),
                 ("Written", "number"), ("Expected", "number"), ("Took", "number"))  # fmt: skip
        yield from _table("Backfills, as they stand now", named, rows)


def _kept(report: Report) -> Iterator[Block]:
    for one in report.kept:
        rows = [
            (
                what,
                "moved, not counted" if moved and rows is None else count(rows, "none"),
                "" if bytes is None else size(bytes),
            )
            for what, rows, bytes, moved in one.objects
        ]
        named = (("What", "code"), ("Rows", "number"), ("Size", "number"))
        why = f" Why: {one.why}." if one.why else ""
        yield Text(
            f"Stash {one.id} of {one.revision} ({one.direction}) lies in the schema {one.kept_in}, is {one.state}, and "
            f"stays until {when(one.until)} at least.{why}" + (f" Archive: {one.archive}." if one.archive else "")
        )
        yield from _table(f"What stash {one.id} holds", named, rows)


def _operations(report: Report) -> Iterator[Block]:
    rows = [
        (one.revision, str(one.place), one.operation, one.target, one.state,
         lasting((one.done - one.begun).total_seconds() * 1000) if one.done else f"begun {clock(one.begun)}")
        for one in report.operations
    ]  # fmt: skip
    if rows:
        named = (
            ("Revision", "code"),
            ("No.", "number"),
            ("Operation", "text"),
            ("On", "code"),
            ("State", "text"),
            ("Took", "number"),
        )
        yield from _table("Operations that commit by themselves, which this run was the last to work on", named, rows)


def _run(run: Run) -> Iterator[tuple[str, str]]:
    yield "Command", run.command
    yield "Database", run.database
    yield "Environment", run.environment
    yield "Outcome", run.state + ("" if run.exit_code is None else f", exit code {run.exit_code}")
    yield "Version", f"{heads(run.heads_before)} → {heads(run.heads_after)}"
    yield "Planned", many(run.planned, "step")
    yield "Began", when(run.started)
    if run.state == "interrupted" and run.ended:
        yield "Found dead", when(run.ended)
    else:
        yield "Ended", when(run.ended) if run.ended else "not yet" if run.state == "running" else "not written"
    yield "Who", f"{run.who}, as {run.db_user}"
    yield "Host", f"{run.host}, process {run.pid}"
    yield "Commit", run.commit or "not known"
    yield "Tool", f"mcp-planner-schema {run.tool_version}"
    yield "Version table", run.version_table


def _table(caption: str, named: tuple[tuple[str, str], ...], rows: Sequence[tuple[str, ...]]) -> Iterator[Block]:
    yield Table(caption, named, tuple(rows[:MOST]))
    if len(rows) > MOST:
        yield Text(f"{len(rows) - MOST} more rows are in make migrate-report JSON=1.")
