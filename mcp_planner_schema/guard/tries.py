"""The tries of one step: again and again while only locks are in the way, rolled back whole each time."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import (
    backfill_tables,
    blockers,
    brief,
    budget,
    checksum,
    connect,
    deadline,
    deploy_lock,
    failure,
    history,
    journal,
    ladder,
    lineage,
    lock_order,
    plan,
    progress,
    session,
    source,
    step,
    stored_locks,
    transaction,
    trial,
    verified,
    watch,
)
from mcp_planner_schema.guard.deadline import Clock
from mcp_planner_schema.guard.findings import Broken, GuardError, Refused, WrongUse
from mcp_planner_schema.guard.judge import Judged
from mcp_planner_schema.guard.progress import Progress
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection, Engine

    from mcp_planner_schema.guard.catalog_change import Catalog
    from mcp_planner_schema.guard.progress import Step


@dataclass(frozen=True)
class Asked:
    """What whoever runs this allows: how long rows may be kept or given back under locks, in milliseconds, the application
    whose sessions may be ended when they are in the way, how many sessions a backfill may use, and whether it tells a machine
    how far it is."""

    hold: int
    cancel: str | None = None
    workers: int = 1
    events: bool = False


@dataclass
class Run:
    """What all steps of one run share. ``beside`` writes what must survive a rollback; ``say`` prints one line. ``heads``
    is what is final, all the time; ``still_held`` raises where the deployers' lock is lost.

    ``session`` is what each step begins with, ``callbacks`` are the environment's own ``on_version_apply``, ``reason`` is
    why a version is stamped. ``watcher`` is the connection that looks at the running step, ``asked`` what whoever runs it
    allows, ``tag`` what the sessions of this run are called by, ``folder`` where Alembic's files lie, ``catalog``
    what is known of the catalog, where steps are held to it.
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
    folder: str
    catalog: Catalog | None = None

    def called(self, revision: str) -> str:
        """What a session is called by that works on a revision."""
        return deploy_lock.called(self.tag, self.number, revision)

    def processes(self) -> list[int]:
        """The run's own backends, as far as they work on tables."""
        own = (self.migration().connection, self.beside, self.watcher)
        return [one.connection.dbapi_connection.info.backend_pid for one in own if one is not None]  # type: ignore[union-attr]


def take(run: Run, one: Step, judged: Judged | None) -> None:
    """Run one step to its commit, trying again while only locks are in the way. Then ``run.heads`` are those after it.

    One transaction, unless the revision itself commits. Raises :class:`Broken`, :class:`Busy` or :class:`Refused`; the
    database is then as before the step, and a row in ``history`` says what happened. KeyboardInterrupt passes, told.
    """

    at = progress.of(one, judged, run.reason)
    at.known = stored_locks.locks(run.folder, at.name, at.direction) or {}
    at.noted = _noted(run, one, at)
    original = one.migration_fn
    _refuse_unverified(run, at)
    _tell_who_is_there(run, at)
    while True:
        at.attempts += 1
        at.seen, at.row_xid, at.scripts, at.bypassed = transaction.Seen(), "", [], []
        try:
            _once(run, one, at, original)
        except (Exception, KeyboardInterrupt) as error:
            _sequences_back(run)
            final = failure.became_final(at, run.engine, run.session, run.migration())
            run.heads = at.heads if final else run.heads
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(_stopped(run, at, error, final=final)) from None
            if final:
                run.say(f"{at.name:<4} the step is final; only its acknowledgement was lost")
                return
            failed = failed_as(run, one, at, error)
            if failed is None:
                try:
                    pause(run, at, error)
                except KeyboardInterrupt as stop:
                    raise KeyboardInterrupt(_stopped(run, at, stop, final=False)) from None
                continue
            _record_failure(run, at, failed)
            raise failed from error
        run.migration().connection.info.pop(trial.STOOD, None)  # type: ignore[union-attr]  # online there is one
        run.say(progress.line(at))
        for note in at.notes:
            run.say(f"     {note}")
        run.heads = at.heads
        if run.catalog and at.picture is not None:
            _changed(run, run.catalog, at)
        return


def _changed(run: Run, catalog: Catalog, at: Progress) -> None:
    """The catalog is as the step has left it; of a new revision, in development, that is written down."""
    from mcp_planner_schema.guard import catalog_change

    assert at.picture is not None
    if run.settings.environment == "development" and at.direction == "upgrade":
        try:
            written = catalog_change.write(catalog, at.name, at.picture)
            for path in written:
                run.say(f"     wrote {source.shown(path)}: commit it with the revision")
            if written:
                run.say(
                    f"     next: make migrate-trace VERSION={at.name} and make schema-sql, and commit what they write too"
                )
        except WrongUse as error:  # the step is final: the run goes on
            run.say(
                f"     warning: what it changes in the catalog was not written: {error}; next: {error.next_command}"
            )
        except OSError as error:
            run.say(f"     warning: what it changes in the catalog was not written: {error}")
    catalog_change.final(catalog, at.heads, at.picture)


def _noted(run: Run, one: Step, at: Progress) -> list[lineage.Noted]:
    """What is to be kept of the revision that is applied; of a stamp's, and of all that it passes over."""
    if at.direction == "upgrade":
        return lineage.of([progress.script_of(one)])
    if at.direction == "downgrade" or at.name == "base":
        return []
    return lineage.of(run.migration().opts["script"].iterate_revisions(at.name.split(", "), "base"))


def _keeping(run: Run, at: Progress) -> brief.Keeping | None:
    """What a downgrade destroys is kept by the step; what an upgrade fills is kept by the backfill."""
    header = at.judged.header if at.judged else None
    stashing = header is not None and header.reversible == "stash"
    return brief.Keeping(run.origin.who, run.settings.stash_retention) if stashing else None


@contextmanager
def _another(run: Run, at: Progress) -> Iterator[Connection]:
    """A further session that works on the step: in autocommit, with the step's own settings and name."""
    with connect.opened(run.engine, autocommit=True) as connection:
        session.restore(connection, run.session)
        session.call(connection, run.called(at.name))
        yield connection


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


def _once(run: Run, one: Step, at: Progress, original: Any) -> None:
    def applied(ctx: MigrationContext, heads: set[str], **_: Any) -> None:
        assert ctx.connection is not None
        at.heads = tuple(sorted(heads))
        at.hold_ms = (time.monotonic() - at.hold_from) * 1000
        row = progress.entry(at, "skipped" if at.skipped else "done")
        # What is checked at COMMIT would be checked when nothing can be cancelled any more.
        ctx.connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
        run.still_held("")
        settled = (ctx.connection, run.settings.schema, plan.version_table(ctx), at.name, at.direction)
        journal.settle(*settled)
        backfill_tables.settle(*settled)
        lineage.note(ctx.connection, run.settings.schema, plan.version_table(ctx), at.noted, run.origin.git_commit)
        at.row_xid = history.write(ctx.connection, run.settings.schema, run.number, run.origin, row)
        at.clock.stop()

    @functools.wraps(original)
    def guarded(**arguments: Any) -> None:
        step.guarded(run, one, at, functools.partial(original, **arguments))

    one.migration_fn = guarded
    run.configure(fn=lambda heads, ctx: [one], on_version_apply=(*run.callbacks, applied))
    connection = run.migration().connection
    assert connection is not None
    connection.info[checksum.TIMEOUT] = run.settings.stash_timeout
    connection.info[journal.STEP] = journal.Step(
        run.settings.schema, plan.version_table(run.migration()), at.name, at.direction, run.number, at.where,
        run.repeat, run.say, scripts=at.scripts, bypassed=at.bypassed,
    )  # fmt: skip
    pid = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]
    # Begun here and not by Alembic, so that making (or with --purge emptying) the version table belongs to the step.
    connection.begin()
    budgets, before = budget.of_revision(run.settings.budgets, at.own), at.clock.locks
    at.clock = Clock(budgets.deadline / 1000, budgets.deadline / 1000, budgets.lock_timeout / 1000)
    tell = functools.partial(_tell, run, at)
    with (
        watch.watching(run.watcher, pid, tell, clock=at.clock, schema=run.settings.schema) as waits,
        deadline.shrinking(connection, at.clock, "; ".join(budget.statements(budgets))),
    ):
        connection.info[brief.POLICY] = brief.Policy(
            at.name, at.where, run.settings.lock_attempts, at.clock, waits, run.say, run.repeat,
            functools.partial(_cancel, run), run.settings.backfill, run.asked.workers,
            functools.partial(_another, run, at), functools.partial(connect.opened, run.engine, autocommit=True),
            run.asked.events, _keeping(run, at),
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
            at.clock.end()
            if connection.in_transaction():
                connection.rollback()
            transaction.finish(connection)
            at.waits.waited += waits.waited
            at.waits.blockers, at.waits.seen = waits.blockers or at.waits.blockers, waits.seen or at.waits.seen


def _tell(run: Run, at: Progress, waiting: str) -> None:
    run.say(f"{at.name:<4} {waiting}")


def _tell_who_is_there(run: Run, at: Progress) -> None:
    """Before the first try: who has long held a table that the revision is known to need, or names."""
    judged = at.judged
    if judged is None or judged.source is None:
        return
    text = "\n".join([judged.source.text, *filter(None, judged.sql.values())])
    wanted = {name for name, mode in at.known.items() if mode in lock_order.STRONG.values()} if at.known else text
    for line in blockers.beforehand(run.beside, run.settings.schema, wanted, run.processes()):
        run.say(f"{at.name:<4} {line}")


def _refuse_unverified(run: Run, at: Progress) -> None:
    """Before a contract revision: raise :class:`Refused` where rows lack again what a backfill has given them."""
    header = at.judged.header if at.judged else None
    if at.direction != "upgrade" or header is None or header.phase != "contract":
        return
    opened, named = functools.partial(_another, run, at), plan.version_table(run.migration())
    found = verified.unmet(run.beside, opened, run.settings.schema, named, run.migration().opts["script"], run.say)
    if found:
        raise Refused(found, run.repeat)


def failed_as(run: Run, one: Step, at: Progress, error: Exception) -> GuardError | None:
    """What ended this attempt means for the run; None where the step is to be tried again."""
    from sqlalchemy.exc import SQLAlchemyError

    path = None if at.direction == "stamp" else progress.script_of(one).path
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
        for line in blockers.end(run.beside, waits.blockers, run.asked.cancel, waits.seen):
            run.say(line)


def _record_failure(run: Run, at: Progress, failed: GuardError) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    at.hold_ms = (time.monotonic() - at.hold_from) * 1000 if at.hold_from else 0.0
    row = progress.entry(at, "failed", failed.message)
    try:
        history.write(run.beside, run.settings.schema, run.number, run.origin, row)
    except SQLAlchemyError:
        run.say("the failure could not be written into the history: the connection is gone")
