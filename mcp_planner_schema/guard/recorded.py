"""A run's own row: it says running before the first step, and how it ended afterwards, whatever ended it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import connect, dead_runs, history, session
from mcp_planner_schema.guard.events import Events
from mcp_planner_schema.guard.findings import BROKEN, BUSY, DONE, REFUSED, GuardError, Refused

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from mcp_planner_schema.guard.tries import Run

_OUTCOMES = {DONE: "done", BROKEN: "broken", REFUSED: "refused", BUSY: "busy"}


@contextmanager
def told(events: Events, engine: Engine) -> Iterator[None]:
    """While inside, a failure ends in an event, however early it comes."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as failure:
        if not events.ended:
            _ended(events, failure, engine, None)
        raise


@contextmanager
def running(
    run: Run, connection: Connection, *, command: str, version_table: str, steps: Sequence[str],
    preflight: Mapping[str, Any] | None, orphans: Sequence[str],
) -> Iterator[None]:  # fmt: skip
    """While inside, the run has a row; ``connection``, on which it migrates, has its own settings again afterwards."""
    from sqlalchemy.exc import SQLAlchemyError

    run.number, dead = history.begin(
        run.beside, run.settings.schema, run.origin, version_table=version_table, command=command, heads=run.heads,
        planned=len(steps), preflight=preflight,
    )  # fmt: skip
    failure: BaseException | None = None
    error: str | None = "stopped"
    try:  # from here on it has a row, and whatever comes is written there
        run.events.begin(run.number, run.beside)
        dead_runs.tell(dead, orphans)
        run.emit(
            "run-started", database=run.engine.url.database, environment=run.settings.environment, command=command,
            heads=list(run.heads), steps=list(steps),
        )  # fmt: skip
        yield
        error = None
    except (Exception, KeyboardInterrupt) as raised:
        failure, error = raised, connect.masked(str(raised), run.engine.url) or type(raised).__name__
        raise
    finally:
        _end(run, failure, error)
        with contextlib.suppress(SQLAlchemyError):  # a connection that is gone needs no settings
            session.restore(connection, run.session)
            connection.commit()


def _end(run: Run, failure: BaseException | None, error: str | None) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        history.end(run.beside, run.settings.schema, run.number, run.heads, error)
        _ended(run.events, failure, run.engine, run.beside, heads=list(run.heads))
    except SQLAlchemyError:
        try:
            with connect.opened(run.engine, autocommit=True) as fresh:
                history.end(fresh, run.settings.schema, run.number, run.heads, error)
                _ended(run.events, failure, run.engine, fresh, heads=list(run.heads))
        except (GuardError, SQLAlchemyError):
            run.say("how the run ended could not be written: the connection is gone")
            _ended(run.events, failure, run.engine, None, heads=list(run.heads))


def _ended(
    events: Events, failure: BaseException | None, engine: Engine, on: Connection | None, **data: Any
) -> None:  # fmt: skip
    """The event that ends a run, and one for each finding that stands against it."""
    if isinstance(failure, GuardError):
        failure.heard = True
    code = getattr(failure, "code", BROKEN) if failure else DONE
    outcome = _OUTCOMES.get(code, "wrong use") if isinstance(failure, GuardError) or not failure else "broken"
    if isinstance(failure, KeyboardInterrupt):
        code, outcome = BUSY, "stopped"
    for one in failure.findings if isinstance(failure, Refused) else ():
        events.emit("finding", one.revision or None, on=on, code=one.code, where=one.where, weight="refused")
    said = connect.masked(str(failure), engine.url).strip().split("\n")[0] if failure else None
    then = connect.masked(failure.next_command, engine.url) if isinstance(failure, GuardError) else None
    events.emit("run-ended", on=on, outcome=outcome, exit=code, error=said, next=then, **data)
