"""What became of a step, or of one of its tries: written into the history, told to people, emitted as an event."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import blockers, failure, history, lock_order, progress, source
from mcp_planner_schema.guard.findings import GuardError, Refused, WrongUse
from mcp_planner_schema.guard.progress import Progress

if TYPE_CHECKING:
    from mcp_planner_schema.guard.catalog_change import Catalog
    from mcp_planner_schema.guard.tries import Run
    from mcp_planner_schema.guard.underway import Underway
    from mcp_planner_schema.guard.watch import Waits


def final(run: Run, at: Progress, line: str) -> None:
    """It is final, and that is how people are told."""
    run.emit("step-done", at, line=line, wal_bytes=_wal(run, at), skipped=at.skipped, **_measured(at))


def done(run: Run, at: Progress) -> None:
    """It is final, and what follows from that is done."""
    final(run, at, progress.line(at))
    for note in at.notes:
        run.say(f"     {note}")
    if run.catalog and at.picture is not None:
        _changed(run, run.catalog, at)


def failed(run: Run, at: Progress, error: GuardError, sqlstate: str | None) -> None:
    """It has failed, and the run ends with this error. Written beside the step, whose own row went with it."""
    from sqlalchemy.exc import SQLAlchemyError

    at.hold_ms = at.held()
    row = progress.entry(at, "failed", error.message)
    codes = [one.code for one in error.findings] if isinstance(error, Refused) else []
    met = list(at.waits.blockers.values())
    run.emit("step-failed", at, sqlstate=sqlstate, findings=codes, exit=error.code, blockers=met, **_measured(at))
    remember(run, at.name, at.waits)
    try:
        history.write(run.beside, run.settings.schema, run.number, run.origin, row)
    except SQLAlchemyError:
        run.say("the failure could not be written into the history: the connection is gone")


def try_failed(run: Run, at: Progress, error: BaseException) -> None:
    """A try was rolled back whole, and there will be another one."""
    attempts, shown = run.settings.lock_attempts, failure.blockers(error, at)
    held = at.held()
    run.emit(
        "try-failed", at, line=f"{at.name:<4} waits (try {at.attempts} of {attempts}): {shown}",
        attempt=at.attempts, of=attempts, waited_ms=round(at.waits.waited * 1000), held_ms=round(held), late=at.late,
        sqlstate=failure.sqlstate(error, at), blockers=_blockers(at.waits, shown),
    )  # fmt: skip
    if at.attempts == 1 and (line := blockers.told(run.repeat, at.waits.named(), "nobody needs it? ")):
        run.say(f"     {line}")
    remember(run, at.name, at.waits)


def waits(run: Run, name: str, direction: str, seen: Waits, text: str) -> None:
    """It waits, and has done so for a while. Called by the watcher's thread, whose connection nobody else uses."""
    text += blockers.told(run.repeat, seen.named(), "; ")
    run.events.emit(
        "waiting", name, direction, on=run.watcher, line=f"{name:<4} {text}", aside=True, seconds=round(seen.lasts, 1),
        blockers=list(seen.blockers.values()),
    )  # fmt: skip
    run.events.aside(functools.partial(_note, run, name, _taken(seen)))


def remember(run: Run, name: str, seen: Waits) -> None:
    """What those in the way were running goes to the sensitive log, and nowhere else."""
    _note(run, name, _taken(seen))


def _taken(seen: Waits) -> dict[int, str]:
    found = dict(seen.queries or {})  # the watcher may be adding to it
    if seen.queries:
        seen.queries.clear()
    return found


def _note(run: Run, name: str, found: dict[int, str]) -> None:
    if found:
        from mcp_planner_schema.guard import sensitive

        try:
            sensitive.note(run.settings.sensitive_log, run.number, name, found)
        except OSError as error:
            run.events.warn("sensitive", f"warning: the sensitive log is not written: {error}")


def underway(run: Run, name: str, direction: str, at: Underway) -> None:
    """A statement takes long, and is so far. Called by the watcher's thread."""
    run.events.emit(
        "progress", name, direction, line=f"{name:<4} {at.line()}", aside=True, what="command", name=at.command, phase=at.phase,
        table=at.table, index=at.index, done=at.done, total=at.total, unit=at.unit,
    )  # fmt: skip


def _blockers(seen: Waits, shown: str) -> list[str]:
    return list(seen.blockers.values()) or [shown]


def _measured(at: Progress) -> dict[str, Any]:
    return {
        "duration_ms": round((time.monotonic() - at.began) * 1000, 1), "lock_wait_ms": round(at.waits.waited * 1000, 1),
        "hold_ms": round(at.hold_ms, 1), "parts": at.parts, "attempts": at.attempts, "rows": at.rows,
        "locks": lock_order.stronger(at.clock.locks, at.locks), "notes": list(at.notes),
    }  # fmt: skip


def _wal(run: Run, at: Progress) -> int | None:
    """Bytes of WAL since the step's last try began, by whoever has written them: that much a replica has to take."""
    from sqlalchemy.exc import SQLAlchemyError

    asked = "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), %s::pg_catalog.pg_lsn)::bigint"
    try:
        return int(run.beside.exec_driver_sql(asked, (at.wal_from,)).scalar_one()) if at.wal_from else None
    except SQLAlchemyError:  # the step is final, whatever this connection says
        return None


def _changed(run: Run, catalog: Catalog, at: Progress) -> None:
    """The catalog is as the step has left it; of a new revision, in development, that is written down."""
    from mcp_planner_schema.guard import catalog_change

    assert at.picture is not None
    if not run.settings.rules.stored and at.direction == "upgrade":
        try:
            written = catalog_change.write(catalog, at.name, at.picture, at.judged)
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
