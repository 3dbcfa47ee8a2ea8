"""The locks of a statement that commits by itself, read while it cannot go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.stored_locks import MODES

if TYPE_CHECKING:
    from sqlalchemy import URL

Held = frozenset[tuple[int, str]]
"""Tables by OID, each with a mode that is held or waited for."""

_NAMES = {mode.title().replace(" ", "") + "Lock": mode for mode in MODES}
_LOCKS = """
SELECT relation::bigint, mode FROM pg_catalog.pg_locks
WHERE pid = %s AND locktype = 'relation' AND database = (
  SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""
_NO_TRANSACTION = "25001"
_PATIENCE = 60.0


def locks(driver: Any, pid: int) -> Held:
    """What a session holds or waits for now; ``driver`` may be its own connection."""
    with driver.cursor() as cursor:
        cursor.execute(_LOCKS, (pid,))
        return frozenset((oid, _NAMES[mode]) for oid, mode in cursor.fetchall() if mode in _NAMES)


def in_transaction(target: URL, driver: Any, statement: str, parameters: Any) -> Held | None:
    """What the statement takes, run in a transaction of another session that is rolled back; None where it cannot run in one.

    An error is left to the statement itself: it will meet the same one.
    """
    import psycopg2

    with driver.cursor() as cursor:
        cursor.execute("SHOW search_path")
        (path,) = cursor.fetchone()
    other = _connect(target)
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.set_config('search_path', %s, false)", (path,))
            cursor.execute(statement, parameters or None)
        return locks(other, other.info.backend_pid)
    except psycopg2.Error as error:
        return None if error.pgcode == _NO_TRANSACTION else frozenset()
    finally:
        _count(other)
        other.close()


def _count(other: Any) -> None:
    """Have what this session has read counted now, and not at some time after its end, when it would be the next statement's."""
    if other.closed:
        return
    other.rollback()
    if other.info.server_version >= 150000:
        other.autocommit = True
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.pg_stat_force_next_flush()")


class Probe(threading.Thread):
    """Stands in the way of another session, and gives way bit by bit.

    At first it holds SHARE UPDATE EXCLUSIVE on every table: whatever stops a writer, and every online statement too, waits
    for it, and says in pg_locks what for. Then ACCESS SHARE, as a reader would, from another session each time: a statement
    that waits for older transactions goes on, and one that needs a table for itself is seen again.
    """

    def __init__(self, target: URL, pid: int, tables: Iterable[str]) -> None:
        super().__init__(daemon=True)
        self._target, self._pid, self._tables = target, pid, list(tables)
        self._ready, self._over = threading.Event(), threading.Event()
        self._found: set[tuple[int, str]] = set()

    def begin(self) -> None:
        """Return once it stands in the way."""
        self.start()
        self._ready.wait(_PATIENCE)

    def end(self) -> Held:
        """The statement has ended: what was seen of it."""
        self._over.set()
        self.join(_PATIENCE)
        return frozenset(self._found)

    def run(self) -> None:
        """Hold, read, give way, until the statement ends."""
        asking = _connect(self._target)
        asking.autocommit = True
        holder = self._holder("SHARE UPDATE EXCLUSIVE")
        self._ready.set()
        until = time.monotonic() + _PATIENCE
        try:
            while not self._over.wait(0.002) and time.monotonic() < until:
                if self._waits(asking):
                    self._found |= locks(asking, self._pid)
                    after = self._holder("ACCESS SHARE")
                    holder.rollback()
                    holder.close()
                    holder = after
        finally:
            holder.close()
            asking.close()

    def _waits(self, asking: Any) -> bool:
        with asking.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.pg_blocking_pids(%s) <> '{}'", (self._pid,))
            return bool(cursor.fetchone()[0])

    def _holder(self, mode: str) -> Any:
        import psycopg2

        holder = _connect(self._target)
        with holder.cursor() as cursor:
            for table in self._tables:
                name = ".".join('"' + part.replace('"', '""') + '"' for part in table.split(".", 1))
                cursor.execute("SAVEPOINT one")
                try:
                    cursor.execute(f"LOCK TABLE ONLY {name} IN {mode} MODE NOWAIT")
                except psycopg2.Error:  # a view, or the statement has it for itself already
                    cursor.execute("ROLLBACK TO one")
        return holder


def _connect(target: URL) -> Any:
    import psycopg2

    arguments = dict(target.translate_connect_args(username="user"))
    asked = {key: value for key, value in target.query.items() if isinstance(value, str)}
    arguments["dbname"] = arguments.pop("database")
    made = psycopg2.connect(**{**arguments, **asked}, application_name="mcp-planner-guard trace")
    with made.cursor() as cursor:
        cursor.execute("SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '120s'")
    made.commit()
    return made
