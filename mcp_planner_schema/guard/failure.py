"""What an error inside a step means: tried again, broken, busy or refused, and what is left in the database."""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import backfill_tables, checksum, connect, ladder, plan, source, sql_body, trial
from mcp_planner_schema.guard import blockers as blocking
from mcp_planner_schema.guard.deadline import Missed
from mcp_planner_schema.guard.findings import Broken, Busy, Finding, GuardError, Refused
from mcp_planner_schema.guard.judge import later
from mcp_planner_schema.guard.progress import Progress
from mcp_planner_schema.guard.transaction import Ended

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection, Engine

    from mcp_planner_schema.guard.session import Session
    from mcp_planner_schema.guard.watch import Waits

_DEPENDENT = "2BP01"
"""dependent_objects_still_exist: what it names are objects, and no rows."""

_OF_ROWS = ("21", "22", "23", "P0")
"""Classes of SQLSTATE that rows may explain: cardinality, data, integrity, and what PL/pgSQL raises."""

_ASKED_FOR = 10.0
"""Seconds to ask what became of a COMMIT whose answer was lost: the server may be about to end it, or be restarting."""


def may_retry(error: BaseException, progress: Progress, beside: Connection, attempts: int) -> bool:
    """Whether only a lock or the deadline was in the way and nothing has become final. Asks the server on another connection.

    A step that misses its deadline again and again with nobody in the way does so by itself.
    """
    return (
        not progress.clock.ended
        and (_busy(error, progress) or progress.late)
        and progress.attempts < attempts
        and progress.slow < ladder.HOPELESS
        and not _committed(progress, beside)
    )


def of_rows(error: BaseException, progress: Progress, beside: Connection) -> bool:
    """Whether rows that had come back may be why a body has failed, and nothing has become final.

    The first time it ran without them: it may write rows of its own that meet them, or count on what is no longer so. What the
    guard refuses, what a lock or the server has ended, and what its text cannot mean has another reason.
    """
    original = _original(error, progress)
    code = getattr(original, "pgcode", None)
    of_rows = code is not None and code[:2] in _OF_ROWS
    if not hasattr(original, "pgcode"):
        of_rows = not isinstance(original, (GuardError, Ended, Missed, NameError, ImportError, trial.CommitInside))
    return of_rows and not progress.late and not progress.clock.ended and not _committed(progress, beside)


def note_late(error: BaseException, progress: Progress, waits: Waits) -> None:
    """Note of a failed try whether its deadline ended it, and whether nobody was in the way."""
    code = getattr(_original(error, progress), "pgcode", None)
    timed = code == ladder.CANCELED or (code in ladder.TRANSIENT and not waits.blockers)
    progress.late = isinstance(error, Missed) or (timed and progress.clock.over())
    if not progress.late or waits.blockers:
        progress.slow = 0
    else:  # where rows are kept or given back, once is long enough
        progress.slow = progress.slow + 1 if not progress.clock.keeping else ladder.HOPELESS


def meaning(
    error: Exception, progress: Progress, beside: Connection, path: str | None, repeat: str, schema: str = "", run: int = 0
) -> GuardError:  # fmt: skip
    """The error to end the run with; ``path`` is the revision's file. Asks the server on another connection.

    ``schema`` and ``run`` say where the run's backfills stand.
    """
    original = _original(error, progress)
    if isinstance(error, GuardError):
        return error
    if isinstance(error, trial.CommitInside) and original is error:
        values = {"problem": str(error)}
        return Refused([Finding("downgrade-untried", progress.where, progress.name, values)], f"edit {progress.where}")
    place, left = f"Revision {progress.name}{_at(error, path)}", state(progress, beside, schema, run, repeat)
    if checksum.was_reading(error):
        up = progress.direction == "upgrade"
        place += ", while kept rows were given back" if up else ", while what goes was kept"
    if isinstance(error, Ended):
        return Broken(
            f"{place}: {error} ended the step's transaction, so the rest could not be undone together with it.\n{left}",
            f"edit {progress.where.split(':')[0]} (no COMMIT or ROLLBACK; op.get_context().autocommit_block() for what "
            f"cannot run in a transaction), then {repeat}",
        )
    if progress.clock.ended:
        return Broken(
            f"{place}: the guard has ended its session: {progress.clock.ended}.\n{left}",
            f"edit {progress.where.split(':')[0]} (what takes long comes before its first strong lock), then {repeat}",
        )
    code = getattr(original, "pgcode", None)
    if progress.late and progress.slow >= ladder.HOPELESS and not _committed(progress, beside):
        return _too_long(progress, repeat)
    if progress.late or _busy(error, progress):
        message = f"{place} met a lock it did not get, try {progress.attempts}: {blockers(error, progress)}.\n{left}"
        message += blocking.told(repeat, progress.waits.named(), "\nOr, where nobody needs it: ")
        return Broken(message, repeat) if _committed(progress, beside) else Busy(message, repeat)
    said = connect.masked(told(original), beside.engine.url)
    # The server's errors speak for themselves; Python's need their type ("name 'x' is not defined", "'id'").
    kind = "" if hasattr(original, "pgcode") else f"{type(original).__name__}: "
    # The same command would meet the same error, unless it was the server's state and not the revision's text.
    of_the_text = path is not None and (kind or (code or "08")[:2] not in ("08", "53", "57", "58"))
    then = repeat
    if code == ladder.CANCELED and "timeout" in said:
        then = f"{_longer(error, progress)}, then {repeat}"
    elif of_the_text:
        # The revision is applied, and its text is held against what was applied.
        waived = (
            f' (with "Waive: applied-edited | why | {later()}" in its header)'
            if progress.direction == "downgrade"
            else ""
        )
        then = f"correct {place.partition('(')[2].rstrip(')') or progress.where.split(':')[0]}{waived}, then {repeat}"
    if f"failed: revision {progress.name}: " in said:
        return Broken(f"{said}\n{left}", then)
    written = connect.masked(_written(error, original), beside.engine.url)
    return Broken(f"{place}: {kind}{said}\n{written}{left}", then)


def _too_long(progress: Progress, repeat: str) -> Refused:
    clock = progress.clock
    limit, lock = f"{clock.limit * 1000:.0f} ms", clock.lock or "a strong lock"
    if clock.keeping:
        values = {"copied": lock, "needs": "longer", "limit": limit}
        longer = f"write hold_limit = 5min into alembic.ini, then {repeat}"
        if repeat.startswith("make "):
            longer = f"HOLD_LIMIT=5min {repeat}"
        elif repeat.startswith("alembic "):
            longer = f"alembic -x hold_limit=5min {repeat.removeprefix('alembic ')}"
        return Refused(
            [Finding("hold-limit", progress.where, progress.name, values)], f"{longer}   (when nobody works)"
        )
    finding = Finding(
        "deadline-missed", progress.where, progress.name, {"lock": lock, "limit": limit, "tries": str(ladder.HOPELESS)}
    )
    return Refused([finding], f"edit {progress.where.split(':')[0]}, then {repeat}")


def _longer(error: BaseException, progress: Progress) -> str:
    """Where to write that a statement may run longer than it has."""
    if checksum.was_reading(error):
        return "set stash_timeout in alembic.ini higher (it holds for the guard's own work on kept rows)"
    return f'give the statement more time in {progress.where.split(":")[0]}: budgets = {{"statement_timeout": "5min"}}'


def told(error: BaseException) -> str:
    """What the server says of an error, without its DETAIL: that holds the rows themselves, but where it names what depends."""
    original: BaseException = getattr(error, "orig", None) or error
    diag = getattr(original, "diag", None)
    if not getattr(diag, "message_primary", None):
        return str(original).strip().split("\nDETAIL:")[0].split("\nCONTEXT:")[0]
    assert diag is not None
    named = [("table", diag.table_name), ("constraint", diag.constraint_name)]
    where = ", ".join(f"{kind} {name}" for kind, name in named if name)
    hint = f"\nHINT:  {diag.message_hint}" if diag.message_hint else ""
    names = diag.message_detail if diag.sqlstate == _DEPENDENT else None
    detail = f"\nDETAIL:  {names}" if names else ""
    return str(diag.message_primary) + (f" ({where})" if where else "") + detail + hint


def became_final(progress: Progress, engine: Engine, before: Session, migration: MigrationContext) -> bool:
    """Whether an attempt that ended in an error is final all the same: its COMMIT was done, only the answer was lost.

    Asks on fresh connections; the attempt must have written its row of ``history``, its last statement.
    """
    from sqlalchemy.exc import SQLAlchemyError

    end = time.monotonic() + _ASKED_FOR
    while progress.row_xid:
        try:
            with connect.opened(engine, autocommit=True) as fresh:
                status = _status(fresh, progress.row_xid)
            if status != "in progress":
                return status == "committed" and plan.version(engine, before, migration) == progress.heads
        except (GuardError, SQLAlchemyError):
            pass  # restarting, or failing over
        if time.monotonic() >= end:
            return False
        time.sleep(0.2)
    return False


def state(progress: Progress, beside: Connection, schema: str = "", run: int = 0, repeat: str = "") -> str:
    """What the failed attempt has left in the database, for people; how far the run's backfills are, where they are begun."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if progress.row_xid and _status(beside, progress.row_xid) == "in progress":
            return "The server has not ended the step yet: what it did will be either whole or undone."
        committed = _committed(progress, beside)
        fills = backfill_tables.unfinished(beside, schema, run) if committed and run else []
    except SQLAlchemyError:
        return "The connection is gone: what the step did is either whole or undone."
    if not committed and progress.rehearsed:
        return "That was the rehearsal: nothing was changed."
    if not committed:
        return "The step was rolled back whole; steps before it stay."
    done = "".join(f"\n  {statement[:120]}" for statement in progress.seen.final)
    return (
        "Part of the step had committed before it failed and stays; the version has not moved."
        + (f" Done:{done}" if done else "")
        + "".join(f"\n{fill}; {repeat} goes on there." for fill in fills)
    )  # fmt: skip


def blockers(error: BaseException, progress: Progress) -> str:
    """Who was in the way: what was seen while waiting, else what the server says of a deadlock."""
    original = _original(error, progress)
    deadlock = getattr(original, "pgcode", None) == "40P01"  # only of this the detail holds nobody's rows
    detail = getattr(getattr(original, "diag", None), "message_detail", None) if deadlock else None
    if progress.late and not progress.waits.blockers:
        return progress.clock.told()
    if progress.waits.blockers or not detail:
        return progress.waits.shown()
    return "deadlock: " + " ".join(detail.split())


def sqlstate(error: BaseException, progress: Progress) -> str | None:
    """The server's code for what ended the attempt; None where that was not the server."""
    original = _original(error, progress)
    return getattr(original, "pgcode", None) or getattr(getattr(original, "orig", None), "pgcode", None)


def _busy(error: BaseException, progress: Progress) -> bool:
    return getattr(_original(error, progress), "pgcode", None) in ladder.TRANSIENT


def _original(error: BaseException, progress: Progress) -> BaseException:
    """The driver's error; the first one where this is only the echo of a transaction that was broken before."""
    known = error.__cause__ if isinstance(error, trial.CommitInside) and error.__cause__ else error
    original: BaseException = getattr(known, "orig", None) or known
    if getattr(original, "pgcode", None) == "25P02" and progress.seen.cause:
        return progress.seen.cause
    return original if known is error else error


def _committed(progress: Progress, beside: Connection) -> bool:
    """Whether anything of the step is final: the server knows, whatever the revision did."""
    if not progress.committed and progress.seen.xid:
        progress.committed = _status(beside, progress.seen.xid) == "committed"
    if progress.committed and not progress.seen.final:
        progress.seen.final = progress.seen.pending
    return progress.committed


def _status(connection: Connection, xid: str) -> str | None:
    status: str | None = connection.exec_driver_sql(
        "SELECT pg_catalog.pg_xact_status(%s::pg_catalog.xid8)", (xid,)
    ).scalar_one()
    return status


def _at(error: BaseException, path: str | None) -> str:
    if body := sql_body.of(error):
        return f" ({sql_body.where(body, _position(error))[0]})"
    if path is None:
        return ""
    lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == path]
    return f" ({source.shown(Path(path))}:{lines[-1]})" if lines else ""


def _written(error: BaseException, original: BaseException) -> str:
    """The line of a SQL body that the server's error is about, as it stands there; empty where it is no such error."""
    body = sql_body.of(error)
    if body is None:
        return ""
    place, text = sql_body.where(body, _position(original))
    return f"{place.rpartition(':')[2]:>5} | {text}\n"


def _position(error: BaseException) -> int | None:
    """The character of the statement that the server's error is about, counted from 1."""
    known = error.__cause__ if isinstance(error, trial.CommitInside) and error.__cause__ else error
    diag = getattr(getattr(known, "orig", None) or known, "diag", None)
    position = getattr(diag, "statement_position", None)
    return int(position) if position else None
