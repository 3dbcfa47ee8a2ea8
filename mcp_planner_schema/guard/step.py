"""One step of a history: its transaction, its tries, and what is proven before it may commit."""

from __future__ import annotations

import datetime as dt
import functools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import body, budget, history, postcheck, source, stash, trial, watch
from mcp_planner_schema.guard.findings import Broken, Busy, Finding, GuardError, Refused
from mcp_planner_schema.guard.judge import Judged
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext, RevisionStep, StampStep
    from alembic.script import Script
    from sqlalchemy import Connection, Engine

    Step = RevisionStep | StampStep

_COUNTERS = """
SELECT c.oid, pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid) + pg_catalog.pg_stat_get_xact_tuples_updated(c.oid)
       + pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid)
FROM pg_catalog.pg_class c WHERE c.relkind = 'r' AND c.oid = ANY (%s::oid[])
  AND c.relnamespace <> %s::regnamespace
"""
_TOUCHED = """
SELECT DISTINCT relation::oid::bigint FROM pg_catalog.pg_locks
WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation >= 16384 AND mode <> 'AccessShareLock'
"""


@dataclass(frozen=True)
class Run:
    """What all steps of one run share. ``beside`` writes what must survive a rollback; ``say`` prints one line."""

    settings: Settings
    number: int
    origin: history.Origin
    engine: Engine
    beside: Connection
    configure: Callable[..., None]
    migrate: Callable[[], None]
    migration: Callable[[], MigrationContext]
    say: Callable[[str], None]
    repeat: str


@dataclass
class Progress:
    """How far a step has come: filled while it runs, read when its history row is written."""

    direction: str
    began: float = field(default_factory=time.monotonic)
    started_at: Any = None
    hold_from: float = 0.0
    hold_ms: float = 0.0
    attempts: int = 0
    waits: watch.Waits = field(default_factory=watch.Waits)
    rows: int | None = None
    xid: str = ""
    committed: bool = False
    skipped: bool = False
    heads: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def take(run: Run, step: Step, judged: Judged | None) -> tuple[str, ...]:
    """Run one step to its commit, trying again while only locks are in the way. Gives the heads after it.

    One transaction, unless the revision itself commits. Raises :class:`Broken`, :class:`Busy` or :class:`Refused`; the
    database is then as before the step, and a row in ``history`` says what happened.
    """
    from sqlalchemy.exc import DBAPIError

    progress = Progress(direction_of(step))
    original = step.migration_fn
    while True:
        progress.attempts += 1
        try:
            _once(run, step, judged, progress, original)
        except (DBAPIError, trial.CommitInside, GuardError) as error:
            failure = _failure(run, step, judged, progress, error)
            if failure is None:
                _pause(run, step, progress, error)
                continue
            _record_failure(run, step, judged, progress, failure)
            raise failure from error
        except Exception as error:
            failure = Broken(
                f"Revision {name_of(step)}: {type(error).__name__}: {error}\n{_state(run, progress)}", run.repeat
            )
            _record_failure(run, step, judged, progress, failure)
            raise failure from error
        run.say(_line(step, judged, progress))
        for note in progress.notes:
            run.say(f"     {note}")
        return progress.heads


def script_of(step: Step) -> Script:
    """The revision file behind a step; a stamp has none."""
    script: Script = step.revision  # type: ignore[union-attr]  # callers have asked direction_of() first
    return script


def direction_of(step: Step) -> str:
    """``upgrade``, ``downgrade`` or ``stamp``."""
    return "stamp" if step.info.is_stamp else "upgrade" if step.is_upgrade else "downgrade"


def name_of(step: Step) -> str:
    """The revision a step is about: the one it applies or takes back, or the stamped one."""
    info = step.info
    ids = info.destination_revision_ids if info.is_stamp else info.up_revision_ids
    return ", ".join(ids) or "base"


def _once(run: Run, step: Step, judged: Judged | None, progress: Progress, original: Any) -> None:
    def applied(ctx: MigrationContext, heads: set[str], **_: Any) -> None:
        assert ctx.connection is not None
        progress.heads = tuple(sorted(heads))
        progress.hold_ms = (time.monotonic() - progress.hold_from) * 1000
        outcome = "skipped" if progress.skipped else "done"
        history.write(
            ctx.connection, run.settings.schema, run.number, run.origin, _entry(step, judged, progress, outcome)
        )

    @functools.wraps(original)
    def guarded(**arguments: Any) -> None:
        _guarded(run, step, judged, progress, functools.partial(original, **arguments))

    step.migration_fn = guarded
    run.configure(fn=lambda heads, ctx: [step], on_version_apply=applied)
    connection = run.migration().connection
    assert connection is not None
    pid = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]
    with watch.watching(run.engine, pid) as waits:
        try:
            run.migrate()
        finally:
            progress.waits.waited += waits.waited
            progress.waits.blockers = waits.blockers or progress.waits.blockers


def _guarded(run: Run, step: Step, judged: Judged | None, progress: Progress, original: Any) -> None:
    """What happens inside the step's transaction: budget, stash, the revision itself, post-check."""
    context = run.migration()
    connection = context.connection
    assert connection is not None
    progress.xid, now = connection.exec_driver_sql("SELECT pg_current_xact_id()::text, clock_timestamp()").one()
    progress.started_at = progress.started_at or now
    progress.hold_from = time.monotonic()
    if progress.direction == "stamp":
        original()
        return
    header = judged.header if judged else None
    if header and run.settings.environment not in header.environments:
        progress.skipped = True
        return
    own = body.budgets(judged.source) if judged and judged.source else {}
    budgets = budget.of_revision(run.settings.budgets, own)
    budget.apply(connection, budgets)
    module = script_of(step).module
    upgrade = progress.direction == "upgrade"
    if upgrade:
        _warn_of_empty(run, step, connection, postcheck.expectations(module, upgrade=True), progress)
        before = _counters(connection)
        progress.hold_from = time.monotonic()
        with _committing(context, budgets, progress):
            original()
    else:
        before = _downgrade(run, step, judged, progress, budgets, original)
    wanted = postcheck.expectations(module, upgrade=upgrade)
    if wanted:
        postcheck.execute(connection, postcheck.compile_block(name_of(step), wanted, upgrade=upgrade))
    progress.rows = None if progress.committed else _rows(connection, before, run.settings.schema)


def _downgrade(
    run: Run, step: Step, judged: Judged | None, progress: Progress, budgets: Any, original: Any
) -> dict[int, int]:
    """Try, keep what would be lost, run for real. Gives the row counters as they stood before the real run."""
    context, schema = run.migration(), run.settings.schema
    connection = context.connection
    assert connection is not None
    tried = trial.attempt(context, schema, original)
    where = judged.source.shown + ":1" if judged and judged.source else name_of(step)
    header = judged.header if judged else None
    if tried.losses and header and header.reversible == "lossless":
        raise Refused(
            [Finding("reversible-false", where, name_of(step), {"objects": "; ".join(map(str, tried.losses))})],
            f"edit {where}: Reversible: stash",
        )
    if tried.commits and tried.losses:
        problem = "it commits in the middle and destroys " + "; ".join(map(str, tried.losses))
        raise _untried(where, step, problem)
    progress.hold_from = time.monotonic()
    progress.notes = stash.keep(connection, schema, run.number, name_of(step), tried.losses, run.origin.who)
    if tried.commits:
        with _committing(context, budgets, progress):
            original()
        return {}
    before = _counters(connection)
    trial.arm(connection, schema)
    with trial.no_rollback(connection):
        original()
    trial.disarm(connection, schema)
    return before


@contextmanager
def _committing(context: MigrationContext, budgets: Any, progress: Progress) -> Iterator[None]:
    """While inside, ``autocommit_block()`` is noted (such a step is never tried again), and budgets hold in and after it."""
    connection = context.connection
    assert connection is not None
    inherited = context.autocommit_block

    @contextmanager
    def block() -> Iterator[None]:
        progress.committed = True
        with budget.in_autocommit(connection, budgets), inherited():
            yield
        budget.apply(connection, budgets)

    context.autocommit_block = block  # type: ignore[method-assign]
    try:
        yield
    finally:
        del context.autocommit_block  # the class's own shows again


def _warn_of_empty(
    run: Run, step: Step, connection: Connection, wanted: list[postcheck.Expectation], progress: Progress
) -> None:
    if progress.attempts > 1:
        return
    for one in postcheck.already_true(connection, wanted):
        finding = Finding("expectation-empty", name_of(step), name_of(step), {"says": one.says})
        run.say(f"warning: {finding.text()}")


def _counters(connection: Connection) -> dict[int, int]:
    """Row counters that earlier transactions of this session have left behind: only differences count."""
    rows = connection.exec_driver_sql(
        "SELECT oid, pg_catalog.pg_stat_get_xact_tuples_inserted(oid) + pg_catalog.pg_stat_get_xact_tuples_updated(oid) "
        "+ pg_catalog.pg_stat_get_xact_tuples_deleted(oid) FROM pg_catalog.pg_class WHERE relkind = 'r' AND oid >= 16384"
    )
    return {oid: count for oid, count in rows if count}


def _rows(connection: Connection, before: dict[int, int], schema: str) -> int:
    """Rows written in this transaction, over the tables it has locked: a few catalog lookups, no scan."""
    touched = [row[0] for row in connection.exec_driver_sql(_TOUCHED)]
    counted = connection.exec_driver_sql(_COUNTERS, (touched, schema))
    return sum(max(0, count - before.get(oid, 0)) for oid, count in counted)


def _failure(run: Run, step: Step, judged: Judged | None, progress: Progress, error: Exception) -> GuardError | None:
    """What an error means for the run; None when the step may be tried again."""
    if isinstance(error, GuardError):
        return error
    where = judged.source.shown + ":1" if judged and judged.source else name_of(step)
    if isinstance(error, trial.CommitInside):
        return _untried(where, step, str(error))
    original = getattr(error, "orig", error)
    code = getattr(original, "pgcode", None)
    said = str(original).strip().split("\nCONTEXT:")[0]
    if code in trial.TRANSIENT:
        progress.committed = progress.committed or _has_committed(run, progress)
        if not progress.committed and progress.attempts < run.settings.lock_attempts:
            return None
        message = (
            f"Revision {name_of(step)} met a lock it did not get: {progress.waits.shown()}.\n{_state(run, progress)}"
        )
        return Broken(message, run.repeat) if progress.committed else Busy(message, run.repeat)
    return Broken(f"Revision {name_of(step)}: {said}\n{_state(run, progress)}", run.repeat)


def _untried(where: str, step: Step, problem: str) -> Refused:
    return Refused([Finding("downgrade-untried", where, name_of(step), {"problem": problem})], f"edit {where}")


def _has_committed(run: Run, progress: Progress) -> bool:
    """Whether the step's first transaction became final: the server knows, whatever the revision did."""
    if not progress.xid:
        return False
    status = run.beside.exec_driver_sql("SELECT pg_xact_status(%s::xid8)", (progress.xid,)).scalar_one()
    return bool(status == "committed")


def _state(run: Run, progress: Progress) -> str:
    from sqlalchemy.exc import DBAPIError

    try:
        final = progress.committed or _has_committed(run, progress)
    except DBAPIError:
        return "The connection is gone: what the step did is either whole or undone."
    if final:
        return "Part of the step had committed before it failed and stays; the version has not moved."
    return "The step was rolled back whole; steps before it stay."


def _pause(run: Run, step: Step, progress: Progress, error: Exception) -> None:
    tries = f"try {progress.attempts} of {run.settings.lock_attempts}"
    run.say(f"{name_of(step):<4} waits ({tries}): {progress.waits.shown()}")
    ceiling = min(5.0, 0.1 * 1.5**progress.attempts)
    time.sleep(ceiling * (0.5 + random.random() / 2))


def _record_failure(run: Run, step: Step, judged: Judged | None, progress: Progress, failure: GuardError) -> None:
    from sqlalchemy.exc import DBAPIError

    progress.hold_ms = (time.monotonic() - progress.hold_from) * 1000 if progress.hold_from else 0.0
    entry = _entry(step, judged, progress, "failed", failure.message)
    try:
        history.write(run.beside, run.settings.schema, run.number, run.origin, entry)
    except DBAPIError:
        run.say("the failure could not be written into the history: the connection is gone")


def _entry(
    step: Step, judged: Judged | None, progress: Progress, outcome: str, error: str | None = None
) -> history.Entry:
    header = judged.header if judged else None
    text = judged.source if judged else None
    return history.Entry(
        revision=name_of(step),
        direction=progress.direction,
        outcome=outcome,
        description=header.description if header else step.doc,
        author=header.author if header else None,
        started_at=progress.started_at or dt.datetime.now(dt.UTC),
        duration_ms=(time.monotonic() - progress.began) * 1000,
        lock_wait_ms=progress.waits.waited * 1000,
        hold_ms=progress.hold_ms,
        attempts=progress.attempts,
        rows_touched=progress.rows,
        checksum=source.checksum(text) if text else None,
        source=text.text if text else None,
        waivers=tuple(map(str, header.waivers)) if header else (),
        error=error,
    )


def _line(step: Step, judged: Judged | None, progress: Progress) -> str:
    path = judged.path.stem if judged else name_of(step)
    took = (time.monotonic() - progress.began) * 1000
    parts = [f"{progress.direction:<9} {path:<44} {took:7.0f} ms  held {progress.hold_ms:5.0f} ms"]
    if progress.skipped:
        parts.append("skipped (not for this environment)")
    if progress.attempts > 1:
        parts.append(f"{progress.attempts} tries")
    if progress.rows:
        parts.append(f"{progress.rows} rows")
    return "  ".join(parts)
