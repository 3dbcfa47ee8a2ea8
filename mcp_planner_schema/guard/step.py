"""One step of a history: its transaction, its tries, and what is proven before it may commit."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import (
    blockers,
    brief,
    budget,
    checksum,
    deadline,
    deploy_lock,
    estimate,
    failure,
    history,
    ladder,
    lock_order,
    manifest,
    move,
    plan,
    postcheck,
    progress,
    proof,
    sequences,
    session,
    stash,
    transaction,
    trial,
    verdict,
    watch,
)
from mcp_planner_schema.guard.deadline import Clock
from mcp_planner_schema.guard.findings import Broken, Finding, GuardError, Refused
from mcp_planner_schema.guard.judge import Judged
from mcp_planner_schema.guard.progress import Progress, direction_of, name_of
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import Script
    from sqlalchemy import Connection, Engine

    from mcp_planner_schema.guard.evidence import Table
    from mcp_planner_schema.guard.progress import Step as Step

__all__ = ["Run", "direction_of", "failed_as", "name_of", "pause", "script_of", "skipped", "take"]


@dataclass(frozen=True)
class Asked:
    """What whoever runs this allows: how long rows may be kept or given back under locks, in milliseconds, and the
    application whose sessions may be ended when they are in the way."""

    hold: int
    cancel: str | None = None


@dataclass
class Run:
    """What all steps of one run share. ``beside`` writes what must survive a rollback; ``say`` prints one line. ``heads``
    is what is final, all the time; ``still_held`` raises where the deployers' lock is lost.

    ``session`` is what each step begins with, ``callbacks`` are the environment's own ``on_version_apply``, ``reason`` is
    why a version is stamped. ``watcher`` is the connection that looks at the running step, ``asked`` what whoever runs it
    allows, ``tag`` what the sessions of this run are called by.
    """

    settings: Settings
    number: int
    origin: history.Origin
    engine: Engine
    beside: Connection
    session: session.Session
    configure: Callable[..., None]
    migrate: Callable[[], None]
    migration: Callable[[], MigrationContext]
    callbacks: tuple[Any, ...]
    reason: str | None
    say: Callable[[str], None]
    repeat: str
    still_held: Callable[[str], None]
    heads: tuple[str, ...]
    watcher: Connection
    asked: Asked
    tag: str

    def called(self, revision: str) -> str:
        """What a session is called by that works on a revision."""
        return deploy_lock.called(self.tag, self.number, revision)

    def processes(self) -> list[int]:
        """The run's own backends, as far as they work on tables."""
        own = (self.migration().connection, self.beside, self.watcher)
        return [one.connection.dbapi_connection.info.backend_pid for one in own if one is not None]  # type: ignore[union-attr]


def take(run: Run, step: Step, judged: Judged | None) -> None:
    """Run one step to its commit, trying again while only locks are in the way. Then ``run.heads`` are those after it.

    One transaction, unless the revision itself commits. Raises :class:`Broken`, :class:`Busy` or :class:`Refused`; the
    database is then as before the step, and a row in ``history`` says what happened. KeyboardInterrupt passes, told.
    """

    at = progress.of(step, judged, run.reason)
    original = step.migration_fn
    _tell_who_is_there(run, at)
    while True:
        at.attempts += 1
        at.seen, at.row_xid = transaction.Seen(), ""
        try:
            _once(run, step, at, original)
        except (Exception, KeyboardInterrupt) as error:
            _sequences_back(run)
            final = failure.became_final(at, run.engine, run.session, run.migration())
            run.heads = at.heads if final else run.heads
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(_stopped(run, at, error, final=final)) from None
            if final:
                run.say(f"{at.name:<4} the step is final; only its acknowledgement was lost")
                return
            failed = failed_as(run, step, at, error)
            if failed is None:
                pause(run, at, error)
                continue
            _record_failure(run, at, failed)
            raise failed from error
        run.migration().connection.info.pop(trial.STOOD, None)  # type: ignore[union-attr]  # online there is one
        run.say(progress.line(at))
        for note in at.notes:
            run.say(f"     {note}")
        run.heads = at.heads
        return


def _sequences_back(run: Run) -> None:
    """setval() outlasts a rollback: after a failed attempt no sequence stands behind where it stood."""
    from sqlalchemy.exc import SQLAlchemyError

    connection = run.migration().connection
    if connection is None or connection.closed or connection.invalidated:
        return
    with contextlib.suppress(SQLAlchemyError):  # the connection is gone; the failure itself is told
        trial.sequences_back(run.beside, connection.info.pop(trial.STOOD, None), run.settings.schema)


def _stopped(run: Run, at: Progress, stop: KeyboardInterrupt, *, final: bool) -> str:
    by = f" by {stop}" if str(stop) else ""
    if final:
        return f"Stopped{by} when revision {at.name} was final already; it stays."
    told = f"Stopped{by} in revision {at.name}. {failure.state(at, run.beside)}"
    _record_failure(run, at, Broken(told, run.repeat))
    return told


def script_of(step: Step) -> Script:
    """The revision file behind a step; a stamp has none."""
    script: Script = step.revision  # type: ignore[union-attr]  # callers have asked direction_of() first
    return script


def _once(run: Run, step: Step, at: Progress, original: Any) -> None:
    def applied(ctx: MigrationContext, heads: set[str], **_: Any) -> None:
        assert ctx.connection is not None
        at.heads = tuple(sorted(heads))
        at.hold_ms = (time.monotonic() - at.hold_from) * 1000
        row = progress.entry(at, "skipped" if at.skipped else "done")
        run.still_held("")
        at.row_xid = history.write(ctx.connection, run.settings.schema, run.number, run.origin, row)
        at.clock.stop()

    @functools.wraps(original)
    def guarded(**arguments: Any) -> None:
        _guarded(run, step, at, functools.partial(original, **arguments))

    step.migration_fn = guarded
    run.configure(fn=lambda heads, ctx: [step], on_version_apply=(*run.callbacks, applied))
    connection = run.migration().connection
    assert connection is not None
    connection.info[checksum.TIMEOUT] = run.settings.stash_timeout
    pid = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]
    # Begun here and not by Alembic, so that making (or with --purge emptying) the version table belongs to the step.
    connection.begin()
    budgets, before = budget.of_revision(run.settings.budgets, at.own), at.clock.locks
    at.clock = Clock(budgets.deadline / 1000, budgets.deadline / 1000)
    tell = functools.partial(_tell, run, at)
    with (
        watch.watching(run.watcher, pid, tell, clock=at.clock, schema=run.settings.schema) as waits,
        deadline.shrinking(connection, at.clock, "; ".join(budget.statements(budgets))),
    ):
        connection.info[brief.POLICY] = brief.Policy(
            at.name, at.where, run.settings.lock_attempts, at.clock, waits, run.say, run.repeat,
            functools.partial(_cancel, run),
        )  # fmt: skip
        try:
            session.restore(connection, run.session)
            session.call(connection, run.called(at.name))
            budget.apply(connection, budgets)
            at.clock.locks = before  # what an earlier try has met
            run.migrate()
        except Exception as error:
            failure.note_late(error, at, waits)
            raise
        finally:
            if not connection.invalidated:  # to ask a lost connection for its info is to make a new one
                connection.info.pop(brief.POLICY, None)
            if connection.in_transaction():
                connection.rollback()
            at.waits.waited += waits.waited
            at.waits.blockers = waits.blockers or at.waits.blockers


def _tell(run: Run, at: Progress, waiting: str) -> None:
    run.say(f"{at.name:<4} {waiting}")


def _tell_who_is_there(run: Run, at: Progress) -> None:
    """Before the first try: who has long held a table that the revision names."""
    judged = at.judged
    if judged is None or judged.source is None:
        return
    texts = [judged.source.text, *filter(None, judged.sql.values())]
    for line in blockers.beforehand(run.beside, run.settings.schema, "\n".join(texts), run.processes()):
        run.say(f"{at.name:<4} {line}")


def _guarded(run: Run, step: Step, at: Progress, original: Any) -> None:
    """What happens inside the step's transaction: stash, the revision itself, post-check."""
    context = run.migration()
    connection = context.connection
    assert connection is not None
    asked = "SELECT pg_catalog.pg_current_xact_id()::text, pg_catalog.clock_timestamp()"
    at.seen.xid, now = connection.exec_driver_sql(asked).one()
    at.started_at = at.started_at or now
    at.hold_from = time.monotonic()
    if at.direction == "stamp":
        original()
        return
    at.skipped = skipped(run, at, connection)
    if at.skipped:
        return
    module = script_of(step).module
    upgrade = at.direction == "upgrade"
    original = functools.partial(_in_order, at, connection, original)
    if upgrade:
        _warn_of_empty(run, at, connection, postcheck.expectations(module, upgrade=True))
        before = progress.counters(connection)
        at.hold_from = time.monotonic()
        with _committing(run, at), transaction.observed(connection, at.seen), _restoring(run, at, connection):
            original()
    else:
        before = _downgrade(run, at, original)
    xid, touched = progress.touched(connection)
    if not at.committed and xid != at.seen.xid:
        raise transaction.Ended("a commit or rollback inside the revision")
    _postcheck(at, connection, postcheck.expectations(module, upgrade=upgrade), upgrade=upgrade)
    if not at.committed:
        at.rows = progress.rows(connection, touched, before, run.settings.schema)


def _in_order(at: Progress, connection: Connection, original: Any) -> None:
    """The body, with the tables that it is known to need locked in one order before it.

    Not of a step that fills rows, or that has missed its deadline by itself: it may work for long before it needs them.
    """
    header = at.judged.header if at.judged else None
    if header is not None and header.transaction == "single" and header.type != "data" and not at.slow:
        lock_order.take(connection, at.clock.locks)
    original()


def _postcheck(at: Progress, connection: Connection, wanted: list[postcheck.Expectation], *, upgrade: bool) -> None:
    """Raise where the revision's expectations do not hold.

    Queries are only told of where kept rows came back: nobody can say whether those rows met them before the downgrade (people
    may have deleted a seed), and the upgrade cannot be asked without them, for they come back while it runs. What the
    catalog is expected to hold does not depend on rows.
    """
    told = [one for one in wanted if at.restored and not one.catalog]
    strict = [one for one in wanted if one not in told]
    if strict:
        postcheck.execute(connection, postcheck.compile_block(at.name, strict, upgrade=upgrade))
    at.notes += [
        f"warning: expectation {one.says} does not hold for the rows that came back: found {found}"
        for one, found in postcheck.unmet(connection, told)
    ]


def skipped(run: Run, at: Progress, connection: Connection) -> bool:
    """Whether the revision is not for here. What was skipped on the way up is on the way down, wherever this runs now."""
    if at.direction == "downgrade":
        named = plan.version_table(run.migration())
        before = history.upgraded_as(connection, run.settings.schema, named, at.name)
        if before:
            return before == "skipped"
    header = at.judged.header if at.judged else None
    return header is not None and run.settings.environment not in header.environments


def _downgrade(run: Run, at: Progress, original: Any) -> dict[int, int]:
    """Try, keep what would be lost, run for real. Gives the row counters as they stood before the real run."""
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
    at.hold_from = time.monotonic()
    if tried.commits:
        stash.keep(connection, schema, at.name, tried)
        with _committing(run, at), transaction.observed(connection, at.seen):
            original()
        return {}
    before = progress.counters(connection)
    moving = move.candidates(connection, tried)
    _afford(run, at, connection, tried, moving)

    def for_real(moved: Sequence[Table] = ()) -> stash.Kept:
        kept = stash.keep(connection, schema, at.name, tried, moved)
        trial.arm(connection, schema)
        with trial.no_rollback(connection), transaction.observed(connection, at.seen):
            original()
        return proof.prove(connection, schema, kept)

    kept, why = move.first(connection, moving, for_real)
    if kept is None:
        at.seen = transaction.Seen(at.seen.xid)
        kept = for_real()
    if kept.id:
        manifest.write(
            connection, schema, kept.id, run=run.number, version_table=plan.version_table(context), revision=at.name,
            who=run.origin.who, why=run.reason, days=run.settings.stash_retention, objects=kept.objects,
            written=kept.written,
            archive=(str(at.archive.path), at.archive.sha256) if at.archive else None,
        )  # fmt: skip
    archived = [f"archived in {at.archive.path}"] if at.archive else []
    at.notes = archived + manifest.lines(connection, schema, kept.id, kept.objects) + ([why] if why else [])
    trial.disarm(connection, schema)
    return before


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
        keeping = estimate.keeping(connection, tried, moving)
    run.say(f"{at.name:<4} {'; '.join(keeping.lines())}")
    if keeping.ms > run.asked.hold:
        limit = {"copied": ", ".join(keeping.copied), "needs": f"{keeping.ms / 1000:.0f} s", "limit": f"{allowed:g} s"}
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


@contextmanager
def _restoring(run: Run, at: Progress, connection: Connection) -> Iterator[None]:
    """While inside, what an earlier downgrade of this revision kept comes back as soon as there is a place for it."""
    named = plan.version_table(run.migration())
    waiting = manifest.waiting(connection, run.settings.schema, named, at.name)
    at.notes = manifest.left_behind(connection, run.settings.schema, named, at.name)
    if not waiting:
        yield
        return
    from mcp_planner_schema.guard import giveback, restore

    at.clock.allow(run.asked.hold / 1000)
    at.clock.keeping = True
    back = restore.begin(connection, run.settings.schema, waiting[0])
    with giveback.watching(connection, back):
        yield
    at.notes += restore.finish(connection, back, run.origin.who)
    at.restored = back.changed()


@contextmanager
def _committing(run: Run, at: Progress) -> Iterator[None]:
    """While inside, ``autocommit_block()`` is noted (such a step is never tried again), and budgets hold in and after it."""
    context, budgets = run.migration(), budget.of_revision(run.settings.budgets, at.own)
    connection = context.connection
    assert connection is not None
    inherited = context.autocommit_block

    @contextmanager
    def block() -> Iterator[None]:
        at.committed = True
        with budget.in_autocommit(connection, budgets, at.own), inherited():
            yield
        budget.apply(connection, budgets)

    context.autocommit_block = block  # type: ignore[method-assign]
    try:
        yield
    finally:
        del context.autocommit_block  # the class's own shows again


def _warn_of_empty(run: Run, at: Progress, connection: Connection, wanted: list[postcheck.Expectation]) -> None:
    held = postcheck.already_true(connection, wanted) if at.attempts == 1 else []
    if held:
        values = {"says": "; ".join(one.says for one in held)}
        run.say(f"warning: {Finding('expectation-empty', at.where, at.name, values).text()}")


def failed_as(run: Run, step: Step, at: Progress, error: Exception) -> GuardError | None:
    """What ended this attempt means for the run; None where the step is to be tried again."""
    from sqlalchemy.exc import SQLAlchemyError

    path = None if at.direction == "stamp" else script_of(step).path
    try:
        if failure.may_retry(error, at, run.beside, run.settings.lock_attempts):
            return None
        return failure.meaning(error, at, run.beside, path, run.repeat)
    except SQLAlchemyError:  # the other connection is gone too
        return Broken(f"Revision {at.name}: {failure.told(error)}\n{failure.state(at, run.beside)}", run.repeat)


def pause(run: Run, at: Progress, error: Exception) -> None:
    """Say who is in the way, and give way for a moment."""
    tries = f"try {at.attempts} of {run.settings.lock_attempts}"
    run.say(f"{at.name:<4} waits ({tries}): {failure.blockers(error, at)}")
    _cancel(run, at.waits)
    time.sleep(ladder.pause(at.attempts))


def _cancel(run: Run, waits: watch.Waits) -> None:
    if run.asked.cancel is not None and waits.blockers:
        for line in blockers.end(run.beside, waits.blockers, run.asked.cancel):
            run.say(line)


def _record_failure(run: Run, at: Progress, failed: GuardError) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    at.hold_ms = (time.monotonic() - at.hold_from) * 1000 if at.hold_from else 0.0
    row = progress.entry(at, "failed", failed.message)
    try:
        history.write(run.beside, run.settings.schema, run.number, run.origin, row)
    except SQLAlchemyError:
        run.say("the failure could not be written into the history: the connection is gone")
