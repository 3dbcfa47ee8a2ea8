"""What happens inside a step's transaction: what was kept comes back, the revision itself, and the proof before it may commit."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import (
    budget,
    catalog_change,
    downgrade,
    history,
    inline,
    journal,
    judge,
    lock_order,
    manifest,
    plan,
    postcheck,
    progress,
    transaction,
)
from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.guard.progress import Progress

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.progress import Step
    from mcp_planner_schema.guard.tries import Run


def guarded(run: Run, one: Step, at: Progress, original: Any) -> None:
    """Do the step, within its transaction: stash, the revision itself, post-check. After any error it is to be rolled back."""
    context = run.migration()
    connection = context.connection
    assert connection is not None
    asked = (
        "SELECT pg_catalog.pg_current_xact_id()::text, pg_catalog.clock_timestamp(), "
        "pg_catalog.pg_current_wal_insert_lsn()::text"
    )
    at.seen.xid, now, at.wal_from = connection.exec_driver_sql(asked).one()
    at.started_at = at.started_at or now
    at.hold_from = time.monotonic()
    if at.direction == "stamp":
        original()
        return
    at.skipped = skipped(run, at, connection)
    if at.skipped:
        return
    module = progress.script_of(one).module
    upgrade = at.direction == "upgrade"
    then = catalog_change.before(run.catalog, connection) if run.catalog else None
    original = functools.partial(_in_order, at, connection, original)
    if upgrade:
        _warn_of_empty(run, at, connection, postcheck.expectations(module, upgrade=True))
        before = progress.counters(connection)
        at.hold_from = time.monotonic()
        with _committing(run, at), transaction.observed(connection, at.seen), _restoring(run, at, connection):
            original()
    else:
        before = downgrade.take(run, at, original, functools.partial(_committing, run, at))
    xid, locked = progress.touched(connection)
    if not at.committed and xid != at.seen.xid:
        raise transaction.Ended("a commit or rollback inside the revision")
    written = {} if at.committed else progress.written(connection, locked, before, run.settings.schema)
    inline.require_few(
        connection, at, {oid: rows for oid, rows in written.items() if oid in before}, run.settings.inline_rows
    )
    _postcheck(at, connection, postcheck.expectations(module, upgrade=upgrade), upgrade=upgrade)
    if not at.committed:
        at.rows = sum(written.values())
        at.wrote = at.wrote if upgrade else tuple(sorted(written))
    if run.catalog and then:
        at.picture = catalog_change.require(run.catalog, at, connection, then)


def _in_order(at: Progress, connection: Connection, original: Any) -> None:
    """The body, with the tables that it is known to need locked in one order.

    On the first try right before it needs the first of them: a body may do a lot before that. From the second on, when somebody
    is in the way, before it begins, whatever its text names. Not of a step that fills rows, or that has missed its deadline by
    itself.
    """
    header = at.judged.header if at.judged else None
    if header is None or header.transaction != "single" or header.type == "data" or at.slow:
        original()
    elif at.attempts == 1:
        with lock_order.before_needed(connection, at.known):
            original()
    else:
        lock_order.take(connection, lock_order.stronger(at.known, at.clock.locks))
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
    recorded: dict[str, str] = {}
    if at.direction == "downgrade":
        recorded = history.upgraded_as(connection, run.settings.schema, plan.version_table(run.migration()))
    return judge.left_out(at.judged, run.settings, recorded.get(at.name))


@contextmanager
def _restoring(run: Run, at: Progress, connection: Connection) -> Iterator[None]:
    """While inside, what an earlier downgrade of this revision kept comes back as soon as there is a place for it."""
    named = plan.version_table(run.migration())
    waiting = manifest.waiting(connection, run.settings.schema, named, at.name)
    at.notes = manifest.left_behind(connection, run.settings.schema, named, at.name)
    if not waiting:
        yield
        return
    from mcp_planner_schema.guard import fresh, giveback, meanwhile, restore, sources, told
    from mcp_planner_schema.guard.back import InTheWay, undoable

    at.clock.allow(run.asked.hold / 1000)
    at.clock.keeping = True
    with journal.own(connection):
        stash, schema = waiting[0], run.settings.schema
        steps = [] if stash.elsewhere else history.steps_since(connection, schema, stash.id, stash.xid.split()[0])
        others = manifest.others_wait(connection, schema, named, stash.id)
        now = restore.Now(_edited(run, at, connection), tuple(steps), others)
        back = restore.begin(connection, run.settings.schema, waiting[0], afterwards=at.afterwards, now=now)
    before = progress.counters(connection) if at.afterwards else {}
    at.before_commit = functools.partial(meanwhile.before_commit, connection, back)
    try:
        with giveback.watching(connection, back):
            yield
        if not (back.in_the_way or back.afterwards):
            with journal.own(connection):
                back.in_the_way = fresh.in_the_way(connection, back)
                sources.note(connection, back)
        if back.in_the_way and undoable(connection, back):  # a body may go on after an error of its statement
            raise InTheWay
    except Exception:
        at.in_the_way = back.in_the_way or back.met
        raise
    finally:
        at.before_commit = None
    if at.afterwards and back.blindly and not at.committed:
        _, locked = progress.touched(connection)
        at.notes += told.computed_without(
            connection, back, progress.written(connection, locked, before, run.settings.schema)
        )
    with journal.own(connection):
        at.notes += restore.finish(connection, back, run.origin.who)
        at.restored, at.wrote = back.changed(), fresh.wrote(connection, back)


def _edited(run: Run, at: Progress, connection: Connection) -> str | None:
    """The text of the revision as it was when it was last applied, where that was another."""
    before = history.made_by(connection, run.settings.schema, plan.version_table(run.migration()), at.name)
    return before[1] if before and at.checksum and before[0] != at.checksum else None


@contextmanager
def _committing(run: Run, at: Progress) -> Iterator[None]:
    """While inside, ``autocommit_block()`` is noted (such a step is never tried again), and budgets hold in and after it."""
    context, budgets = run.migration(), budget.of_revision(run.settings.budgets, at.own)
    connection = context.connection
    assert connection is not None
    inherited = context.autocommit_block

    @contextmanager
    def block() -> Iterator[None]:
        if at.before_commit is not None:
            at.before_commit()
        at.committed, stopped = True, None
        with budget.in_autocommit(connection, budgets, at.own):
            try:
                with inherited():
                    try:
                        yield
                    except KeyboardInterrupt as stop:
                        stopped = stop
                        raise
            except Exception:
                if stopped is None:
                    raise
                raise stopped from None  # SQLAlchemy has given the connection up, and Alembic has tripped over that
        with journal.own(connection):
            budget.apply(connection, budgets)

    context.autocommit_block = block  # type: ignore[method-assign]
    try:
        yield
    finally:
        del context.autocommit_block  # the class's own shows again


def _warn_of_empty(run: Run, at: Progress, connection: Connection, wanted: list[postcheck.Expectation]) -> None:
    held = postcheck.already_true(connection, wanted) if at.attempts == 1 and not at.afterwards else []
    if held:
        values = {"says": "; ".join(one.says for one in held)}
        found = Finding("expectation-empty", at.where, at.name, values)
        run.emit("finding", at, line=f"warning: {found.text()}", code=found.code, where=found.where, weight="warned")
