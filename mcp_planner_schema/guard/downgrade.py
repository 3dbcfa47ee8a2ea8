"""A step back: tried, what it would destroy kept, run for real and held to its trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import (
    budget,
    estimate,
    flow,
    handed_on,
    manifest,
    move,
    plan,
    postcheck,
    progress,
    proof,
    regrant,
    sequences,
    stash,
    transaction,
    trial,
    verdict,
)
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.progress import Progress

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.evidence import Table
    from mcp_planner_schema.guard.tries import Run


def take(
    run: Run, at: Progress, original: Callable[[], Any], committing: Callable[[], AbstractContextManager[None]]
) -> dict[int, int]:
    """Try, keep what would be lost, run for real. Gives the row counters as they stood before the real run.

    ``committing`` is entered around a body that commits by itself.
    """
    context, schema = run.migration(), run.settings.schema
    connection = context.connection
    assert connection is not None
    sequences.remember(run.beside, schema, run.number, at.name)
    with transaction.observed(connection, at.seen):
        tried = trial.attempt(
            context, schema, original, large=run.settings.stash_move_above, clock=at.clock, proven=True
        )
    at.seen = transaction.Seen(at.seen.xid)
    verdict.refuse(tried, at.judged.header if at.judged else None, at.where, at.name)
    _archive(run, at, connection, tried)
    states = trial.watched(connection, tried.before, tried)  # of many tables, so while nothing is locked
    at.hold_from = time.monotonic()
    if tried.commits:
        # Nothing is lost, or it would have been refused; the body's own COMMIT makes final what is recorded here.
        kept = stash.keep(connection, schema, at.name, tried, states)
        _record(run, at, context, kept)
        with committing(), transaction.observed(connection, at.seen):
            original()
        at.notes += regrant.told(connection, kept.rights)
        return {}
    before, counted = progress.counters(connection), flow.reads(connection, {})
    moving = move.candidates(connection, tried)
    _afford(run, at, connection, tried, moving)

    def for_real(moved: Sequence[Table] = ()) -> stash.Kept:
        kept = stash.keep(connection, schema, at.name, tried, states, moved)
        trial.arm(connection, schema)
        mine = {oid for found in stash.parts_of(kept).values() for oid in found}
        copied = flow.reads(connection, {}, mine) if mine else {}
        with trial.no_rollback(connection), transaction.observed(connection, at.seen):
            original()
            trial.settle(connection, schema)
        read = flow.reads(connection, {**counted, **copied})
        done = proof.prove(connection, schema, stash.read(connection, kept))
        at.handed = handed_on.entry(connection, list(read), kept.before)
        return handed_on.noted(connection, schema, plan.version_table(context), done)

    done, why = move.first(connection, moving, for_real)
    if done is None:
        at.seen = transaction.Seen(at.seen.xid)
        done = for_real()
    _record(run, at, context, done)
    at.notes += regrant.told(connection, done.rights) + ([why] if why else [])
    trial.disarm(connection, schema)
    return before


def _record(run: Run, at: Progress, context: MigrationContext, kept: stash.Kept) -> None:
    """Write the manifest of what is kept, if anything is, in the step's transaction; what is told of it becomes ``at.notes``."""
    connection, schema = context.connection, run.settings.schema
    assert connection is not None
    if kept.id:
        manifest.write(
            connection, schema, kept.id, run=run.number, version_table=plan.version_table(context), revision=at.name,
            who=run.origin.who, why=run.reason, days=run.settings.stash_retention, objects=kept.objects,
            written=kept.written, rights=kept.rights, went=kept.went,
            archive=(str(at.archive.path), at.archive.sha256) if at.archive else None,
        )  # fmt: skip
    archived = [f"archived in {at.archive.path}"] if at.archive else []
    at.notes = archived + manifest.lines(connection, schema, kept.id, kept.objects)


def _afford(run: Run, at: Progress, connection: Connection, tried: trial.Trial, moving: Sequence[Table]) -> None:
    """Writers wait while rows are copied: for no longer than whoever runs this allows, and it is refused beforehand where
    a sample says that it will take longer. Where nothing is copied the step keeps its usual deadline."""
    copied = [table for table, *_ in stash.plan(tried) if table not in moving]
    if not copied and not moving:
        return
    allowed = run.asked.hold / 1000
    at.clock.allow(allowed)
    at.clock.keeping = True
    if not any(estimate.worth_knowing(connection, table) for table in copied):
        return
    with stash.readable(connection, tried.losses):
        keeping = estimate.keeping(connection, run.settings.schema, tried, moving)
    run.say(f"{at.name:<4} {'; '.join(keeping.lines())}")
    if keeping.ms > run.asked.hold:
        limit = {
            "copied": ", ".join(keeping.copied),
            "needs": f"about {keeping.ms / 1000:.0f} s",
            "limit": f"{allowed:g} s",
        }
        again = f"alembic -x hold_limit={2 * keeping.ms / 1000:.0f}s downgrade …   (when nobody works)"
        raise Refused([Finding("hold-limit", at.where, at.name, limit)], again)


def _archive(run: Run, at: Progress, connection: Connection, tried: trial.Trial) -> None:
    """Where the environment wants one, archive what the trial has shown to go, before anything is locked."""
    touched = [loss.table for loss in tried.losses] + [harm.table for harm in tried.harms]
    tables = {(table.schema, table.name) for table in touched}
    if not tables:
        return
    from mcp_planner_schema.guard import archive

    if not archive.wanted(run.settings):
        return
    if at.archive is not None and tables <= {(one[0], one[1]) for one in at.archive.tables}:
        return  # an earlier try of this step has made it
    # Nothing is locked or changed yet, and pg_dump takes its time.
    postcheck.execute(connection, "SET LOCAL idle_in_transaction_session_timeout = 0")
    at.archive = archive.make(run.settings, run.engine, sorted(tables), at.name, run.repeat)
    budget.apply(connection, budget.of_revision(run.settings.budgets, at.own))
