"""Before a step's first try: what is kept of its revision, who is there that may be in its way, what it rests on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import blockers, lineage, lock_order, plan, progress, stored_locks, verified
from mcp_planner_schema.guard.findings import Refused
from mcp_planner_schema.guard.progress import Progress

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.progress import Step
    from mcp_planner_schema.guard.tries import Run


def look(run: Run, one: Step, at: Progress, another: Callable[[], AbstractContextManager[Connection]]) -> None:
    """Fill in what is known, tell who is there, and raise :class:`Refused` where it may not begin.

    ``another`` opens a session like the step's own.
    """
    at.known = stored_locks.locks(run.folder, at.name, at.direction) or {}
    at.noted = _noted(run, one, at)
    _refuse_unverified(run, at, another)
    _tell_who_is_there(run, at)
    header = at.judged.header if at.judged else None
    said = {"phase": header.phase, "type": header.type, "transaction": header.transaction} if header else {}
    run.emit("step-started", at, **said)


def _noted(run: Run, one: Step, at: Progress) -> list[lineage.Noted]:
    """What is to be kept of the revision that is applied; of a stamp's, and of all that it passes over."""
    if at.direction == "upgrade":
        return lineage.of([progress.script_of(one)])
    if at.direction == "downgrade" or at.name == "base":
        return []
    return lineage.of(run.migration().opts["script"].iterate_revisions(at.name.split(", "), "base"))


def _tell_who_is_there(run: Run, at: Progress) -> None:
    """Who has long held a table that the revision is known to need, or names."""
    judged = at.judged
    if judged is None or judged.source is None:
        return
    text = "\n".join([judged.source.text, *filter(None, judged.sql.values())])
    wanted = {name for name, mode in at.known.items() if mode in lock_order.STRONG.values()} if at.known else text
    for line in blockers.beforehand(run.beside, run.settings.schema, wanted, run.processes()):
        run.say(f"{at.name:<4} {line}")


def _refuse_unverified(run: Run, at: Progress, another: Callable[[], AbstractContextManager[Connection]]) -> None:
    """Before a contract revision: raise :class:`Refused` where rows lack again what a backfill has given them."""
    header = at.judged.header if at.judged else None
    if at.direction != "upgrade" or header is None or header.phase != "contract":
        return
    named = plan.version_table(run.migration())
    found = verified.unmet(run.beside, another, run.settings.schema, named, run.migration().opts["script"], run.say)
    if found:
        raise Refused(found, run.repeat)
