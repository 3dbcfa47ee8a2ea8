"""The tries of one step: again and again while only locks are in the way, rolled back whole each time."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import (
    backfill_tables,
    beforehand,
    blockers,
    brief,
    budget,
    checksum,
    connect,
    deadline,
    deploy_lock,
    failure,
    forced,
    history,
    journal,
    ladder,
    lineage,
    noted_types,
    outcome,
    plan,
    progress,
    session,
    step,
    transaction,
    trial,
    watch,
)
from mcp_planner_schema.guard.deadline import Clock
from mcp_planner_schema.guard.findings import Broken, GuardError
from mcp_planner_schema.guard.judge import Judged
from mcp_planner_schema.guard.progress import Progress
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection, Engine

    from mcp_planner_schema.guard.allowed import Asked
    from mcp_planner_schema.guard.catalog_change import Catalog
    from mcp_planner_schema.guard.events import Events
    from mcp_planner_schema.guard.progress import Step


@dataclass
class Run:
    """What all steps of one run share. ``beside`` writes what must survive a rollback; ``say`` prints one line. ``heads``
    is what is final, all the time; ``still_held`` raises where the deployers' lock is lost.

    ``session`` is what each step begins with, ``callbacks`` are the environment's own ``on_version_apply``, ``reason`` is
    why a version is stamped. ``watcher`` is the connection that looks at the running step, ``asked`` what whoever runs it
    allows, ``tag`` what the sessions of this run are called by, ``folder`` where Alembic's files lie, ``events`` where what
    happens goes, ``catalog`` what is known of the catalog, where steps are held to it, ``noted`` the named types that its
    steps have made.
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
    events: Events
    catalog: Catalog | None = None
    noted: noted_types.Noted = field(default_factory=dict)

    def emit(self, kind: str, at: Progress | None = None, *, line: str = "", **data: Any) -> None:
        """Something has happened, in the thread that migrates. ``line`` says it to people."""
        name, direction = (at.name, at.direction) if at else (None, None)
        self.events.emit(kind, name, direction, on=self.beside, line=line, **data)

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
    original = one.migration_fn
    beforehand.look(run, one, at, functools.partial(_another, run, at))
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
                run.noted = noted_types.after(run.migration(), run.beside)
                outcome.final(run, at, f"{at.name:<4} the step is final; only its acknowledgement was lost")
                return
            if _again_without(run, at, error):
                continue
            failed = failed_as(run, one, at, error)
            if failed is None:
                try:
                    pause(run, at, error)
                except KeyboardInterrupt as stop:
                    raise KeyboardInterrupt(_stopped(run, at, stop, final=False)) from None
                continue
            outcome.failed(run, at, failed, failure.sqlstate(error, at))
            raise failed from error
        run.migration().connection.info.pop(trial.STOOD, None)  # type: ignore[union-attr]  # online there is one
        run.heads = at.heads
        run.noted = noted_types.after(run.migration(), run.beside)
        outcome.done(run, at)
        return


def _again_without(run: Run, at: Progress, error: Exception) -> bool:
    """Whether the upgrade is to be begun once more because of the rows that had come back, which then come after its body.

    First those of tables, then the values of columns too. No lock was in the way: it does not count as a try.
    """
    from sqlalchemy.exc import SQLAlchemyError

    met, at.in_the_way = at.in_the_way, False
    with contextlib.suppress(SQLAlchemyError):  # the other connection is gone too
        if met and at.afterwards < 2 and failure.of_rows(error, at, run.beside):
            said = connect.masked(failure.told(error), run.engine.url).splitlines()[0]
            run.say(
                f"{at.name:<4} kept rows were in the way of its own ({said}); once more, and they come back after those"
            )
            at.afterwards += 1
            at.attempts -= 1
            return True
    return False


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
        outcome.final(run, at, "")
        return f"Stopped{by} when revision {at.name} was final already; it stays."
    told = f"Stopped{by} in revision {at.name}. {failure.state(at, run.beside, run.settings.schema, run.number, run.repeat)}"
    outcome.failed(run, at, Broken(told, run.repeat), None)
    return told


def _once(run: Run, one: Step, at: Progress, original: Any) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    def applied(ctx: MigrationContext, heads: set[str], **_: Any) -> None:
        assert ctx.connection is not None
        at.heads = tuple(sorted(heads))
        at.hold_ms = at.held()
        row = progress.entry(at, "skipped" if at.skipped else "done")
        # What is checked at COMMIT would be checked when nothing can be cancelled any more.
        ctx.connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
        run.still_held("")
        with contextlib.suppress(SQLAlchemyError):  # told, and nothing else
            at.locks = watch.held(run.beside, pid, run.settings.schema)
        settled = (ctx.connection, run.settings.schema, plan.version_table(ctx), at.name, at.direction)
        journal.settle(*settled)
        backfill_tables.settle(*settled)
        lineage.note(ctx.connection, run.settings.schema, plan.version_table(ctx), at.noted, run.origin.git_commit)
        at.row_xid = history.write(ctx.connection, run.settings.schema, run.number, run.origin, row)
        at.clock.stop()

    @functools.wraps(original)
    def guarded(**arguments: Any) -> None:
        body = functools.partial(original, **arguments)
        step.guarded(run, one, at, functools.partial(noted_types.beginning, run.migration(), run.noted, body))

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
    waits = watch.Waits(queries={} if run.settings.sensitive_log else None)
    tell = functools.partial(outcome.waits, run, at.name, at.direction, waits)
    with (
        watch.watching(
            run.watcher,
            pid,
            tell,
            clock=at.clock,
            schema=run.settings.schema,
            waits=waits,
            progress=functools.partial(outcome.underway, run, at.name, at.direction),
        ),
        deadline.shrinking(connection, at.clock, "; ".join(budget.statements(budgets))),
    ):
        connection.info[brief.POLICY] = brief.Policy(
            at.name, at.where, run.settings.lock_attempts, at.clock, waits, run.say, run.repeat,
            functools.partial(_emit, run, at, waits), functools.partial(_cancel, run), run.settings.backfill, run.asked.workers,
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
            at.waits.queries = waits.queries
            at.waits.applications = waits.applications or at.waits.applications
            at.waits.blockers, at.waits.seen = waits.blockers or at.waits.blockers, waits.seen or at.waits.seen


def _emit(run: Run, at: Progress, waits: watch.Waits, kind: str, *, line: str = "", **data: Any) -> None:
    """What the step's operations say of themselves. What is to be stored comes from the thread that migrates."""
    run.emit(kind, at, line=line, **data)
    if kind == "try-failed":
        outcome.remember(run, at.name, waits)


def failed_as(run: Run, one: Step, at: Progress, error: Exception) -> GuardError | None:
    """What ended this attempt means for the run; None where the step is to be tried again."""
    from sqlalchemy.exc import SQLAlchemyError

    path = None if at.direction == "stamp" else progress.script_of(one).path
    try:
        if failure.may_retry(error, at, run.beside, run.settings.lock_attempts):
            return None
        meant = failure.meaning(error, at, run.beside, path, run.repeat, run.settings.schema, run.number)
        named = plan.version_table(run.migration())
        if path is None:
            return meant
        return forced.reminded(run.beside, run.settings, run.migration().opts["script"], at, run.heads, named, meant)
    except SQLAlchemyError:  # the other connection is gone too
        return Broken(f"Revision {at.name}: {failure.told(error)}\n{failure.state(at, run.beside)}", run.repeat)


def pause(run: Run, at: Progress, error: Exception) -> None:
    """Say who is in the way, and give way for a moment."""
    outcome.try_failed(run, at, error)
    _cancel(run, at.waits)
    time.sleep(ladder.pause(at.attempts))


def _cancel(run: Run, waits: watch.Waits) -> None:
    if run.asked.cancel is not None and waits.blockers:
        for line in blockers.end(run.beside, waits.blockers, run.asked.cancel, waits.seen):
            run.say(line)
