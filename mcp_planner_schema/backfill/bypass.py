"""Batches in which named triggers do not fire: each is a transaction that puts them to sleep and wakes them as they were.

The lock for that keeps writers out until the batch is committed, and readers in. Foreign keys stay in force: their triggers
are the system's, and session_replication_role, which would silence those too, is not touched.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mcp_planner_schema.backfill import record, together
from mcp_planner_schema.backfill.keys import Leaf
from mcp_planner_schema.backfill.spec import Backfill, Bypass
from mcp_planner_schema.guard import brief, ladder, silence
from mcp_planner_schema.guard.findings import Finding, Refused

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mcp_planner_schema.backfill.record import Record
    from mcp_planner_schema.guard.journal import Step

SHARE = 2
"""A batch may take one part in so many of the deadline."""

LOCK_SHARE = 4
"""One part in so many it may wait for the table's lock, and as long for a row that somebody has locked to read it."""

WAITED = "mcp_planner_guard.waited"
"""Where in ``connection.info`` stands how many seconds of a batch were spent on tries for the lock."""

_WAIT, _ATTEMPTS = 50, 41
"""Milliseconds to wait for the lock, and how often it is tried, where no guard says so."""

_THERE = """
SELECT DISTINCT g.tgname::text FROM pg_catalog.pg_trigger g
WHERE g.tgrelid::bigint = ANY (%s::bigint[]) AND NOT g.tgisinternal ORDER BY 1
"""


class Locked(Exception):
    """Somebody keeps the table for longer than all tries take."""


@contextmanager
def transaction(connection: Connection, leaf: Leaf, bypass: Bypass) -> Iterator[None]:
    """While inside, it is one transaction in which the triggers do not fire. Raises :class:`Locked` after the ladder's end."""
    with together.transaction(connection, functools.partial(_locked, connection, leaf)):
        awake = [one for one in silence.awake(connection, leaf.oid) if bypass.means(one[2])]
        together.send(connection, ";".join(silence.asleep(awake)) or "SELECT")
        yield
        if awake:  # PostgreSQL alters no table while checks of its rows are pending
            together.send(connection, ";".join(["SET CONSTRAINTS ALL IMMEDIATE", *silence.awakened(awake)]))


def begin(
    connection: Connection,
    step: Step,
    begun: Record,
    fill: Backfill,
    leaves: Sequence[Leaf],
    say: Callable[[str], None],
) -> None:
    """Write down and tell which triggers do not fire, and why. Raises :class:`Refused` for a name that no trigger has."""
    assert fill.bypass is not None
    there = set(connection.exec_driver_sql(_THERE, ([leaf.oid for leaf in leaves],)).scalars())
    unknown = [name for name in fill.bypass.triggers or () if name not in there]
    if unknown:
        values = {"what": f"trigger {unknown[0]} of {', '.join(leaf.told for leaf in leaves)}"}
        raise Refused([Finding("operation-missing", step.where, step.revision, values)], step.repeat)
    triggers = "user" if fill.bypass.triggers is None else list(fill.bypass.triggers)
    record.note(connection, begun, bypass={"triggers": triggers, "reason": fill.bypass.reason})
    step.bypassed.append(f"backfill {fill.name} bypasses {fill.bypass} | {fill.bypass.reason}")
    say(f"backfill {fill.name} bypasses {fill.bypass}: {fill.bypass.reason}")


def _locked(connection: Connection, leaf: Leaf) -> None:
    """Begin with the table locked. Many short tries: whoever comes behind a lock that waits, waits too."""
    from sqlalchemy.exc import DBAPIError

    policy, began = connection.info.get(brief.POLICY), time.monotonic()
    attempts = policy.attempts if policy else _ATTEMPTS
    wait = connection.info.get(brief.LIMITS, (_WAIT,))[0]
    lock = f"LOCK TABLE ONLY {leaf.sql.replace('%%', '%')} IN SHARE ROW EXCLUSIVE MODE"
    for tries in range(1, attempts + 1):
        try:
            with together.undone(connection):
                together.send(connection, f"BEGIN; SET LOCAL lock_timeout = '{wait}ms'; {lock}")
        except DBAPIError as error:
            code = getattr(error.orig, "pgcode", None)
            if code not in ladder.TRANSIENT:
                raise
            if policy:
                policy.emit(
                    "try-failed", line=f"{policy.name:<4} waits for the lock of {leaf.told} (try {tries} of {attempts})",
                    attempt=tries, of=attempts, sqlstate=code, late=False, blockers=list(policy.waits.blockers.values()),
                )  # fmt: skip
            time.sleep(ladder.pause(tries))
        else:
            connection.info[WAITED] = connection.info.get(WAITED, 0.0) + time.monotonic() - began
            return
    raise Locked(leaf.told)
