"""Watches a running step from beside: how long it waits for locks, and for whom; and that it keeps its deadline."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import deadline, evidence, lock_order, prepared, underway
from mcp_planner_schema.guard.underway import Underway

if TYPE_CHECKING:
    from sqlalchemy import Connection

_INTERVAL = 0.02
"""Seconds between two looks: a tenth of the default deadline, for what is seen late is cancelled late."""

_SELDOM = 0.1
"""Seconds between two looks at what takes no strong lock and waits for nobody, a backfill: each costs the server half a
millisecond. A clock that begins then counts from the look before."""

_AGAIN = 0.1
"""Seconds after which a statement that has survived its cancelling is cancelled again: a body may catch query_canceled."""

_IDLE, _DEAF = 1.0, 2.0
"""Seconds after the deadline until the session itself is ended: it is idle, where no cancel reaches it, or goes on after each."""

_LOST = 0.05
"""Seconds until a watcher that has lost its connection asks for another."""

_TOLD_AFTER, _TOLD_EVERY = 2.0, 30.0
"""Seconds of one wait until people are told of it, and between two lines about it: an online statement has no limit."""

# What others cannot see yet stops nobody: tables made in the step itself are not in this session's catalog. An index is locked
# together with its table where queries feel it, and nobody writes to a materialized view but REFRESH.
_HELD = """
SELECT ARRAY[pg_catalog.concat(n.nspname, '.', c.relname), l.mode] FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_class c ON c.oid = l.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE l.pid = %(pid)s::int4 AND l.locktype = 'relation' AND l.mode = ANY (%(strong)s::text[])
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
  AND c.relkind NOT IN ('i', 'I') AND (c.relkind <> 'm' OR l.mode = 'AccessExclusiveLock')
  AND left(n.nspname, 3) <> 'pg_' AND n.nspname !~ %(own)s
ORDER BY pg_catalog.array_position(%(strong)s::text[], l.mode)
"""
_LOOK = f"""
SELECT pg_catalog.cardinality(pg_catalog.pg_blocking_pids(%(pid)s::int4)) > 0, locks,
       pg_catalog.cardinality(locks) > 0 AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_replication)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a
             WHERE a.datname = pg_catalog.current_database() AND a.usesysid IS NOT NULL
               AND a.pid NOT IN (%(pid)s::int4, pg_catalog.pg_backend_pid())
               AND NOT pg_catalog.starts_with(a.application_name, 'mcp-planner-guard')),
       EXISTS (SELECT FROM pg_catalog.pg_stat_activity a
               WHERE a.pid = %(pid)s::int4 AND pg_catalog.starts_with(a.state, 'idle in transaction'))
FROM (SELECT ARRAY({_HELD}) AS locks) AS held
"""
# Prepared: to plan it takes ten times what it takes itself, fifty times a second beside an application at work.
_NAME = prepared.name(_LOOK)
_PREPARE = "SET plan_cache_mode = force_generic_plan; " + (
    f"PREPARE {_NAME} (int4, text[], text) AS {_LOOK % {'pid': '$1', 'strong': '$2', 'own': '$3'}}"
)
_EXECUTE = f"EXECUTE {_NAME} (%(pid)s::int4, %(strong)s::text[], %(own)s::text)"
_CANCEL = "SELECT pg_catalog.pg_cancel_backend(%s::int4)"
_END = "SELECT pg_catalog.pg_terminate_backend(%s::int4)"
# A prepared transaction has no process: pg_blocking_pids() gives 0 for it.
_WAITING = """
SELECT blocking.pid, coalesce(b.application_name, ''), coalesce(b.usename::text, ''), b.state,
       extract(epoch FROM pg_catalog.clock_timestamp() - b.xact_start)::bigint,
       CASE WHEN c.oid IS NULL THEN l.locktype WHEN n.nspname = 'public' THEN c.relname::text
            ELSE pg_catalog.concat(n.nspname::text, '.', c.relname::text) END,
       CASE WHEN blocking.pid = 0 THEN (
         SELECT pg_catalog.string_agg(DISTINCT pg_catalog.format('%%L (user %%s, prepared at %%s)', p.gid, p.owner,
                pg_catalog.date_trunc('second', p.prepared)), ', ')
         FROM pg_catalog.pg_locks h JOIN pg_catalog.pg_locks own USING (virtualtransaction)
         JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = own.transactionid AND own.pid IS NULL
         WHERE h.pid IS NULL AND h.granted AND h.locktype = l.locktype
           AND (h.database, h.relation, h.transactionid) IS NOT DISTINCT FROM (l.database, l.relation, l.transactionid)) END,
       CASE WHEN %(queries)s::bool THEN b.query END, pg_catalog.clock_timestamp()
FROM pg_catalog.pg_locks l
CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(l.pid)) AS blocking(pid)
LEFT JOIN pg_catalog.pg_stat_activity b ON b.pid = blocking.pid
LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE l.pid = %(pid)s::int4 AND NOT l.granted AND (b.pid IS NOT NULL OR blocking.pid = 0)
"""


@dataclass
class Waits:
    """What was seen. ``waited`` is in seconds; ``blockers`` has a line for people for each pid, with its newest state; pid 0
    are prepared transactions. ``seen`` is when that was, by the server's clock. ``lasts`` is how long it waits just now.
    ``queries`` is what they ran, by pid, and None where nobody may know: only the sensitive log does. ``applications`` is
    what they call themselves.
    """

    waited: float = 0.0
    lasts: float = 0.0
    blockers: dict[int, str] = field(default_factory=dict)
    seen: Any = None
    queries: dict[int, str] | None = None
    applications: dict[int, str] = field(default_factory=dict)

    def named(self) -> list[str]:
        """What those in the way call themselves."""
        return [self.applications.get(pid, "") for pid in self.blockers]

    def shown(self) -> str:
        """Who was in the way, for a message."""
        return "; ".join(self.blockers.values()) or "a session that has gone"


def held(beside: Connection, pid: int, schema: str) -> dict[str, str]:
    """The strong locks that this backend holds just now on what others know, without those in the guard's ``schema``.

    Asked while they are held: it takes a seventh of what a whole look does.
    """
    asked = {"pid": pid, "own": evidence.own(schema), "strong": list(lock_order.STRONG)}
    return {name: lock_order.STRONG[mode] for name, mode in beside.exec_driver_sql(_HELD, asked).scalars()}


@contextmanager
def watching(
    beside: Connection, pid: int, tell: Callable[[str], None] | None = None, *,
    clock: deadline.Clock | None = None, schema: str = "", waits: Waits | None = None,
    progress: Callable[[Underway], None] | None = None,
) -> Iterator[Waits]:  # fmt: skip
    """While inside, a thread looks at the backend ``pid`` through ``beside``, in autocommit and nobody else's meanwhile.

    Reads catalogs only. ``tell`` gets one line about a wait that lasts, naming the blocker, and another every half a minute.
    ``clock`` is told of strong locks on what does not lie in the guard's ``schema``, and where it runs out the statement is
    cancelled, or the session ended where that does not help. That the watcher fails never harms the step: it goes on with a new
    connection where its own was cut, and where there is none to be had nothing is seen. ``waits`` is what is filled,
    ``progress`` is told how far what takes long is.
    """
    waits, done = waits or Waits(), threading.Event()
    look = _Look(beside, pid, waits, done, tell, clock, evidence.own(schema) if schema else "^$", progress)
    thread = threading.Thread(target=look.on, daemon=True)
    thread.start()
    try:
        yield waits
    finally:
        done.set()
        thread.join(timeout=2)


@dataclass(frozen=True)
class _Look:
    beside: Connection
    pid: int
    waits: Waits
    done: threading.Event
    tell: Callable[[str], None] | None
    clock: deadline.Clock | None
    own: str
    progress: Callable[[Underway], None] | None = None

    def on(self) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        # Most steps are over before the first look.
        pause = _INTERVAL / 2
        while not self.done.wait(pause):
            with contextlib.suppress(SQLAlchemyError):
                self.beside.rollback()  # a connection that was lost is made anew
                self._until_done()
            pause = _LOST

    def _until_done(self) -> None:
        if not prepared.is_there(
            self.beside, _LOOK
        ):  # asked each time: the session may be a new one, or have forgotten all
            self.beside.exec_driver_sql(_PREPARE)
        before = since = time.monotonic()
        next_told, next_look = _TOLD_AFTER, since + underway.AFTER
        while not self.done.is_set():
            now = time.monotonic()
            seen = self._once(before)
            if seen:
                self.waits.waited += now - before
            else:
                since, next_told = now, _TOLD_AFTER
            self.waits.lasts = now - since
            self.waits.blockers.update(seen)
            if self.tell and now - since >= next_told:
                self.tell(f"waits for {now - since:.0f} s: {'; '.join(seen.values())}")
                next_told += _TOLD_EVERY
            if self.progress and now >= next_look:
                next_look = now + underway.EVERY
                if (at := underway.look(self.beside, self.pid)) is not None:
                    self.progress(at)
            before = now
            end = time.monotonic() + self._calm(seen)
            while not self.done.wait(_INTERVAL) and time.monotonic() < end and self._calm(seen):
                pass

    def _calm(self, seen: object) -> float:
        """Seconds that may pass until the next look; 0 where each matters."""
        clock = self.clock
        calm = clock is not None and clock.calm and clock.began is None and not seen
        return min(_SELDOM, clock.limit / 2) if clock is not None and calm else 0.0

    def _once(self, before: float) -> dict[int, str]:
        """Who is in the way right now, by pid. ``before`` is the time of the last look."""
        asked = {"pid": self.pid, "own": self.own, "strong": list(lock_order.STRONG)}
        at = time.monotonic()
        blocked, locks, alone, idle = self.beside.exec_driver_sql(_EXECUTE, asked).one()
        if self.clock is not None:
            self.clock.saw({name: lock_order.STRONG[mode] for name, mode in locks}, before, at, alone=alone)
        wanted = {"pid": self.pid, "queries": self.waits.queries is not None}
        rows = list(self.beside.exec_driver_sql(_WAITING, wanted)) if blocked else []
        if self.clock is not None:
            with self.clock.between:
                self._enforce(self.clock, idle=idle)
        if rows:
            self.waits.seen = rows[-1][-1]
        self.waits.applications.update({row[0]: row[1] for row in rows})
        if self.waits.queries is not None:
            self.waits.queries.update({row[0]: row[-2] for row in rows if row[-2]})
        return {row[0]: _shown(*row[:-2]) for row in rows}

    def _enforce(self, clock: deadline.Clock, *, idle: bool) -> None:
        """Once the clock has run out: cancel what runs, and where the locks are kept all the same, end the session."""
        left, now = clock.left(), time.monotonic()
        if left is None or left > 0:
            return
        if not clock.keeping and -left > (_IDLE if idle else _DEAF):
            why = "nothing was asked of the server for a second after" if idle else "no cancelling ended it"
            clock.missed, clock.ended = True, f"{clock.told()}, and {why}"
            try:
                self.beside.exec_driver_sql(_END, (self.pid,))
            except Exception:
                clock.ended = ""
                raise
        elif now - clock.cancelled > _AGAIN:
            clock.missed, clock.cancelled = True, now
            self.beside.exec_driver_sql(_CANCEL, (self.pid,))


def _shown(
    pid: int, application: str, user: str, state: str | None, age: int | None, what: str, prepared: str | None
) -> str:  # fmt: skip
    """One blocker, for people. State and age are null for a role that may not see them, and for background work."""
    if not pid:
        named = prepared or "(not to be seen)"
        return f"a prepared transaction {named} holds {what}, until somebody says COMMIT PREPARED or ROLLBACK PREPARED"
    since = f"in its transaction for {age} s" if age is not None else "since when is unknown"
    return (
        f"pid {pid} ({application or 'no name'}, user {user or 'unknown'}, {state or 'unknown'}, {since}) holds {what}"
    )
