"""A brief transaction of an operation: blocking statements that commit by themselves, held to the deadline, tried again.

A revision that commits in the middle is never tried again as a whole, so its blocking statements are, one by one. Strong
locks are held for no longer than the deadline; who is in the way is named at each try; at the ladder's end it is Busy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import blockers, ladder
from mcp_planner_schema.guard.deadline import Clock
from mcp_planner_schema.guard.findings import Busy, Finding, Refused
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.guard.settings import Backfill
from mcp_planner_schema.guard.watch import Waits

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection

POLICY = "mcp_planner_guard.brief"
"""Where the running step's :class:`Policy` stands in ``connection.info``."""

LIMITS = "mcp_planner_guard.limits"
"""Where the milliseconds stand there that a statement which commits by itself may wait for a lock and last in all; while it
is a usual one, nothing does."""


@dataclass(frozen=True)
class Keeping:
    """The revision says ``Reversible: stash``: who keeps what a backfill overwrites, and for how many days."""

    who: str
    days: int


@dataclass(frozen=True)
class Policy:
    """What a step lends to its operations. ``emit`` is told what has happened, by its kind, with a ``line`` for people;
    ``gave_way`` of each failed try, to do something about who was in the way.

    ``workers`` is how many sessions a backfill may use, ``opened`` gives one like the step's own, in autocommit, ``beside`` one
    of the guard's; ``events``: how far it is is told to a machine, by a line of JSON each. ``keeping`` is None where a backfill
    keeps nothing of what it overwrites.
    """

    name: str
    where: str
    attempts: int
    clock: Clock
    waits: Waits
    say: Callable[[str], None]
    repeat: str
    emit: Callable[..., None]
    gave_way: Callable[[Waits], None] = lambda waits: None
    backfill: Backfill | None = None
    workers: int = 1
    opened: Callable[[], AbstractContextManager[Connection]] | None = None
    beside: Callable[[], AbstractContextManager[Connection]] | None = None
    events: bool = False
    keeping: Keeping | None = None


def run(context: MigrationContext, sql: str) -> None:
    """Send ``sql`` (one statement or several, all or none) in a transaction of its own, and commit.

    Inside a downgrade's trial it is part of that and commits nothing; offline it is written down. Raises :class:`Busy`
    where locks stay in the way, :class:`Refused` where the statements take longer than the deadline by themselves.
    """
    if context.as_sql:
        with context.autocommit_block():
            context.impl.static_output(f"BEGIN;\n{sql.rstrip().rstrip(';')};\nCOMMIT;")
        return
    connection = context.connection
    assert connection is not None
    with context.autocommit_block():
        driver: Any = connection.connection.dbapi_connection
        policy = connection.info.get(POLICY)
        if policy is None or not driver.autocommit:
            execute(connection, sql)
            return
        limit = int(policy.clock.usual * 1000)
        connection.info[LIMITS] = min(int(policy.clock.wait * 1000), limit), limit
        try:
            _until_done(policy, lambda: execute(connection, sql))
        finally:
            connection.info.pop(LIMITS, None)


def _until_done(policy: Policy, work: Callable[[], Any]) -> None:
    from sqlalchemy.exc import DBAPIError

    slow = 0
    for tries in range(1, policy.attempts + 1):
        policy.waits.blockers.clear()
        try:
            work()
            return
        except DBAPIError as error:
            code = getattr(error.orig, "pgcode", None)
            late = (
                code == ladder.CANCELED
            )  # by the watcher or by the server's own timer; a person who cancels it does no harm
            if error.connection_invalidated or not (late or code in ladder.TRANSIENT):
                raise
        policy.clock.missed = False
        slow = slow + 1 if late and not policy.waits.blockers else 0
        if slow == ladder.HOPELESS:
            values = {
                "lock": policy.clock.lock or "a strong lock", "limit": f"{policy.clock.limit * 1000:.0f} ms",
                "tries": str(slow),
            }  # fmt: skip
            raise Refused([Finding("deadline-missed", policy.where, policy.name, values)], f"edit {policy.where}")
        shown = policy.waits.shown() if policy.waits.blockers or not late else policy.clock.told()
        if tries == policy.attempts:
            raise Busy(
                f"Revision {policy.name} met a lock it did not get, try {tries}: {shown}.\n"
                "What its operations had finished stays and is not done again; the version has not moved."
                + blockers.told(policy.repeat, policy.waits.named(), "\nOr, where nobody needs it: "),
                policy.repeat,
            )
        policy.emit(
            "try-failed", line=f"{policy.name:<4} waits (try {tries} of {policy.attempts}): {shown}", attempt=tries,
            of=policy.attempts, sqlstate=code, late=late, blockers=list(policy.waits.blockers.values()) or [shown],
        )  # fmt: skip
        if tries == 1 and (line := blockers.told(policy.repeat, policy.waits.named(), "nobody needs it? ")):
            policy.say(f"     {line}")
        policy.gave_way(policy.waits)
        time.sleep(ladder.pause(tries))
