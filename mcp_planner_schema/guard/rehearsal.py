"""The rehearsal: a downgrade of several steps is run whole in one transaction, which is rolled back at its end.

So a step that would be refused, or fails, is known before the first one is final. Each step is tried as :mod:`.step` tries
it (:mod:`.trial`), and then run once more for the next one to find the schema as it will be. Its locks are real while it
runs. What no rollback takes back has happened after it: ``nextval()`` has moved a sequence, and ``downgrade()`` has run as
Python code.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from alembic.operations import Operations

from mcp_planner_schema.guard import (
    budget,
    checksum,
    damage,
    estimate,
    failure,
    forecast,
    history,
    move,
    noted_types,
    postcheck,
    progress,
    seal,
    sequences,
    session,
    silence,
    stash,
    step,
    transaction,
    trial,
    tries,
    verdict,
    watch,
)
from mcp_planner_schema.guard.evidence import Table, snapshot
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.forecast import Forecast
from mcp_planner_schema.guard.judge import Judged
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, pinned
from mcp_planner_schema.guard.progress import Progress

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.progress import Step
    from mcp_planner_schema.guard.tries import Run

_UNSAFE_LABEL = "55P04"
_RAISED = "P0001"
"""SQLSTATE of a post-check that does not hold: raise_exception."""


def show(run: Run, steps: Sequence[Step], judged: Mapping[str, Judged], tell: Callable[[str], None]) -> None:
    """Rehearse for people: tell the forecast, then raise :class:`Refused` where something stands against it."""
    found, held_ms = rehearse(run, steps, judged, measured=True)
    there = ", ".join(steps[-1].to_revisions_no_deps) or "base"
    tell(forecast.text(found, ", ".join(run.heads), there, held_ms))
    _refuse(found)


def require(run: Run, steps: Sequence[Step], judged: Mapping[str, Judged]) -> None:
    """Rehearse before the first of several steps. Raises where one of them would be refused or fail."""
    found, held_ms = rehearse(run, steps, judged)
    _refuse(found)
    run.say(f"rehearsed: {len(steps)} steps in {held_ms:.0f} ms, rolled back")


def rehearse(
    run: Run, steps: Sequence[Step], judged: Mapping[str, Judged], *, measured: bool = False
) -> tuple[list[Forecast], float]:
    """Rehearse these steps, in order, trying again while only locks are in the way. Gives also how long, in milliseconds.

    ``measured``: count what goes. What the judgement on a step's trial finds stands in its forecast. Whatever keeps a step
    from being rehearsed at all is raised: :class:`Broken`, :class:`Busy` or :class:`Refused`; so is a post-check that fails,
    where nothing else stands against the steps: a refusal further down is told first.
    """
    ways = [progress.of(one, judged.get(progress.name_of(one)), None) for one in steps]
    while True:
        found: list[Forecast] = []
        unmet: dict[BaseException, int] = {}
        began = time.monotonic()
        try:
            _once(run, steps, ways, found, unmet, measured=measured)
            took = (time.monotonic() - began) * 1000
            if not any(one.findings for one in found):
                for error in unmet:
                    raise error
            for error, place in unmet.items():
                run.say(f"{ways[place].name:<4} {failure.told(error)}")
            return found, took
        except (Exception, KeyboardInterrupt) as error:
            here = unmet.get(error, min(len(found), len(steps) - 1))
            at = ways[here]
            if isinstance(error, KeyboardInterrupt):
                by = f" by {error}" if str(error) else ""
                raise KeyboardInterrupt(f"Stopped{by} in the rehearsal of {at.name}. Nothing was changed.") from None
            if here and getattr(getattr(error, "orig", None), "pgcode", None) == _UNSAFE_LABEL:
                raise _uncommitted(run, at) from error
            failed = tries.failed_as(run, steps[here], at, error)
            if failed is not None:
                raise failed from error
            tries.pause(run, at, error)


def _refuse(found: Sequence[Forecast]) -> None:
    """Raise :class:`Refused` with everything that stands against the steps."""
    findings = [finding for one in found for finding in one.findings]
    if findings:
        raise Refused(findings, next(one.next_command for one in found if one.findings))


def _once(
    run: Run, steps: Sequence[Step], ways: list[Progress], found: list[Forecast], unmet: dict[BaseException, int], *,
    measured: bool,
) -> None:  # fmt: skip
    context, schema = run.migration(), run.settings.schema
    connection = context.connection
    assert connection is not None
    connection.info[checksum.TIMEOUT] = run.settings.stash_timeout
    pid = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]
    for at in ways:
        at.attempts, at.rehearsed = at.attempts + 1, True
    if run.number:  # a dry run has no row that could remember it
        sequences.remember(run.beside, schema, run.number, ways[0].name)
    context.impl.memo = run.noted
    connection.begin()
    told = f"{ways[0].name:<4} rehearsal"
    with watch.watching(run.watcher, pid, lambda waiting: run.say(f"{told} {waiting}")) as waits:
        try:
            with pinned(connection, search_path=SYSTEM_PATH):
                history.prepare(connection, schema)
            with Operations.context(context):
                for one, at in zip(steps, ways, strict=True):
                    found.append(_rehearsed(run, one, at, unmet, len(found), last=at is ways[-1], measured=measured))
        finally:
            if connection.in_transaction():
                connection.rollback()
            trial.sequences_back(run.beside, connection.info.pop(trial.STOOD, None), schema)
            for at in ways:
                at.waits = waits


def _rehearsed(
    run: Run, one: Step, at: Progress, unmet: dict[BaseException, int], place: int, *, last: bool, measured: bool
) -> Forecast:
    context, schema = run.migration(), run.settings.schema
    connection = context.connection
    assert connection is not None
    body = functools.partial(noted_types.beginning, context, noted_types.after(context, connection), one.migration_fn)
    session.restore(connection, run.session)
    budget.apply(connection, budget.of_revision(run.settings.budgets, at.own))
    asked = "SELECT pg_catalog.pg_current_xact_id()::text"
    at.seen = transaction.Seen(connection.exec_driver_sql(asked).scalar_one())
    file = at.judged.path.stem if at.judged else at.name
    if step.skipped(run, at, connection):
        return Forecast(at.name, file, skipped=True)
    wanted = postcheck.expectations(progress.script_of(one).module, upgrade=False)
    tables, before = snapshot(connection, schema), forecast.locked(connection)
    body_ms, after = 0.0, before

    def whole() -> None:
        nonlocal body_ms, after
        began = time.monotonic()
        body()
        body_ms, after = (time.monotonic() - began) * 1000, forecast.locked(connection)
        if wanted and trial.LEFT_OUT not in connection.info:
            error = _unmet(connection, postcheck.compile_block(at.name, wanted, upgrade=False))
            if error:
                unmet[error] = place

    with transaction.observed(connection, at.seen):
        tried = trial.attempt(context, schema, whole, large=run.settings.stash_move_above if measured else None)
    with stash.readable(connection, tried.losses):
        findings, then = _findings(connection, tried, at)
        goes = forecast.measure(connection, tried.losses) if measured else ()
    kept = estimate.Keeping()
    if measured and not findings:
        kept = estimate.keeping(connection, schema, tried, move.candidates(connection, tried))
    keys = [] if findings else seal.note_keys(connection, schema, tried)
    if keys or not last:
        states = trial.watched(connection, tried.before, tried)
        trial.arm(connection, schema)
        with transaction.observed(connection, at.seen), trial.inert(context, tried):
            body()
            trial.settle(connection, schema)
        findings, then = _renumbered(connection, schema, tried, at, (keys, states)) if keys else (findings, then)
        _as_committed(connection, schema)
    locked = (after - before) | {loss.table.oid for loss in tried.losses}
    return Forecast(
        at.name, file, False, tried.losses, tried.harms, goes, tuple(shown for *_, shown in tried.also), body_ms,
        forecast.names(locked, tables), tried.commits, findings, then, kept,
    )  # fmt: skip


def _unmet(connection: Connection, block: str) -> Exception | None:
    """The error of a post-check that does not hold; the steps below it can be rehearsed all the same."""
    from sqlalchemy.exc import DBAPIError

    execute(connection, "SAVEPOINT guard_postcheck")
    try:
        execute(connection, block)
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) != _RAISED:
            raise
        execute(connection, "ROLLBACK TO SAVEPOINT guard_postcheck")
        return error
    execute(connection, "RELEASE SAVEPOINT guard_postcheck")
    return None


def _findings(connection: Connection, tried: trial.Trial, at: Progress) -> tuple[tuple[Finding, ...], str]:
    """What stands against the step, and the command to type next."""
    header = at.judged.header if at.judged else None
    try:
        verdict.refuse(tried, header, at.where, at.name)
        stash.refuse_keyless(connection, at.name, tried.losses)
    except Refused as refused:
        return refused.findings, refused.next_command
    return (), ""


def _renumbered(
    connection: Connection, schema: str, tried: trial.Trial, at: Progress,
    found: tuple[list[tuple[Table, str]], dict[int, damage.State]],
) -> tuple[tuple[Finding, ...], str]:  # fmt: skip
    """What only the rows after the body can show, and the command to type next."""
    keys, states = found
    try:
        seal.refuse_renumbered(connection, schema, at.name, tried, keys, states)
    except Refused as refused:
        return refused.findings, refused.next_command
    return (), ""


def _as_committed(connection: Connection, schema: str) -> None:
    """What a COMMIT does and the next step builds on: deferred constraints are checked, temporary tables go."""
    trial.disarm(connection, schema)
    silence.flush(connection)
    execute(connection, "DISCARD TEMP")
    execute(connection, "SELECT pg_catalog.set_config('mcp_planner_guard.open', '', true)")


def _uncommitted(run: Run, at: Progress) -> Refused:
    problem = "it uses an enum label that a step before it adds, which works only after that step's COMMIT"
    go = "make migrate-down TO=" if run.repeat.startswith("make ") else "alembic downgrade "
    finding = Finding("downgrade-untried", at.where, at.name, {"problem": problem})
    return Refused([finding], f"{go}{at.name}, then {run.repeat}")
