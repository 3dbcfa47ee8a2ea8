"""What an error inside a step means: tried again, broken, busy or refused, and what is left in the database."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import connect, source, trial
from mcp_planner_schema.guard.findings import Broken, Busy, Finding, GuardError, Refused
from mcp_planner_schema.guard.progress import Progress
from mcp_planner_schema.guard.transaction import Ended

if TYPE_CHECKING:
    from sqlalchemy import Connection


def may_retry(error: BaseException, progress: Progress, beside: Connection, attempts: int) -> bool:
    """Whether only a lock was in the way and nothing has become final. Asks the server on another connection."""
    return (
        getattr(_original(error, progress), "pgcode", None) in trial.TRANSIENT
        and progress.attempts < attempts
        and not _committed(progress, beside)
    )


def meaning(error: Exception, progress: Progress, beside: Connection, path: str | None, repeat: str) -> GuardError:
    """The error to end the run with; ``path`` is the revision's file. Asks the server on another connection."""
    original = _original(error, progress)
    if isinstance(error, GuardError):
        return error
    if isinstance(error, trial.CommitInside) and original is error:
        values = {"problem": str(error)}
        return Refused([Finding("downgrade-untried", progress.where, progress.name, values)], f"edit {progress.where}")
    place, left = f"Revision {progress.name}{_at(error, path)}", state(progress, beside)
    if isinstance(error, Ended):
        return Broken(
            f"{place}: {error} ended the step's transaction, so the rest could not be undone together with it.\n{left}",
            f"edit {progress.where.split(':')[0]} (no COMMIT or ROLLBACK; op.get_context().autocommit_block() for what "
            f"cannot run in a transaction), then {repeat}",
        )
    code = getattr(original, "pgcode", None)
    if code in trial.TRANSIENT:
        message = f"{place} met a lock it did not get, try {progress.attempts}: {blockers(error, progress)}.\n{left}"
        return Broken(message, repeat) if _committed(progress, beside) else Busy(message, repeat)
    said = connect.masked(str(original).strip().split("\nCONTEXT:")[0], beside.engine.url)
    # The server's errors speak for themselves; Python's need their type ("name 'x' is not defined", "'id'").
    kind = "" if hasattr(original, "pgcode") else f"{type(original).__name__}: "
    return Broken(f"{place}: {kind}{said}\n{left}", repeat)


def state(progress: Progress, beside: Connection) -> str:
    """What the failed attempt has left in the database, for people."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        committed = _committed(progress, beside)
    except SQLAlchemyError:
        return "The connection is gone: what the step did is either whole or undone."
    if not committed:
        return "The step was rolled back whole; steps before it stay."
    done = "".join(f"\n  {statement[:120]}" for statement in progress.seen.final)
    return (
        "Part of the step had committed before it failed and stays; the version has not moved."
        + (f" Done:{done}" if done else "")
    )  # fmt: skip


def blockers(error: BaseException, progress: Progress) -> str:
    """Who was in the way: what was seen while waiting, else what the server says of a deadlock."""
    detail = getattr(getattr(_original(error, progress), "diag", None), "message_detail", None)
    if progress.waits.blockers or not detail:
        return progress.waits.shown()
    return "deadlock: " + " ".join(detail.split())


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
        asked = beside.exec_driver_sql("SELECT pg_xact_status(%s::xid8)", (progress.seen.xid,))
        progress.committed = asked.scalar_one() == "committed"
    if progress.committed and not progress.seen.final:
        progress.seen.final = progress.seen.pending
    return progress.committed


def _at(error: BaseException, path: str | None) -> str:
    if path is None:
        return ""
    lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == path]
    return f" ({source.shown(Path(path))}:{lines[-1]})" if lines else ""
