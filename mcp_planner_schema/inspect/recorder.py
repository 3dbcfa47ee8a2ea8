"""Reads, after each statement of one connection, what it has locked, rewritten and scanned of the tables there before.

A statement that commits by itself has let go of its locks when it ends. It is run in a transaction that is rolled back,
first, and read there; where PostgreSQL does not allow that (CONCURRENTLY), :class:`.probe.Probe` holds it up and reads what it
waits for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.stored_locks import strongest
from mcp_planner_schema.inspect import probe

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

_BEFORE = """
SELECT c.oid::bigint, n.nspname || '.' || c.relname, c.relfilenode::bigint
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm', 'v', 'f') AND n.nspname !~ '^(pg_|information_schema$|migration)'
  AND c.relname <> 'alembic_version'
"""
_FILES = "SELECT oid::bigint, relfilenode::bigint FROM pg_catalog.pg_class WHERE oid = ANY (%s::oid[])"
# What is counted in this session, and what was handed over to everybody's counters meanwhile.
_SCANS = """
SELECT o::bigint, pg_catalog.pg_stat_get_numscans(o) + coalesce(pg_catalog.pg_stat_get_xact_numscans(o), 0)
FROM pg_catalog.unnest(%s::oid[]) AS u (o)
"""


@dataclass(frozen=True)
class Taken:
    """One statement: the strongest lock it added on each table, and the tables it rewrote and read whole."""

    statement: str
    locks: Mapping[str, str]
    rewritten: frozenset[str]
    scanned: frozenset[str]

    def shown(self) -> str:
        """Its beginning, in one line."""
        text = re.sub(r"\s+", " ", self.statement).strip()
        return text if len(text) <= 100 else text[:99] + "…"


class Recorder:
    """For one body on one connection. ``taken`` are its statements so far."""

    def __init__(self, connection: Connection, target: URL) -> None:
        self.taken: list[Taken] = []
        self._connection = connection
        self._target = target
        self._active = False
        self._probe: probe.Probe | None = None
        self._tried: probe.Held = frozenset()
        with connection.begin():
            rows = connection.exec_driver_sql(_BEFORE).all()
        self._names: dict[int, str] = {oid: name for oid, name, _ in rows}
        self._files: dict[int, int] = {oid: file for oid, _, file in rows}
        self._held: probe.Held = frozenset()
        self._scans: dict[int, int] = {}

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """While inside, statements between :meth:`on` and its end are read."""
        from sqlalchemy import event

        events = (("before_cursor_execute", self._before), ("after_cursor_execute", self._after))
        for name, handler in events:
            event.listen(self._connection.engine, name, handler)
        try:
            yield self
        finally:
            for name, handler in events:
                event.remove(self._connection.engine, name, handler)
            if self._probe:
                self._probe.end()

    @contextmanager
    def on(self) -> Iterator[None]:
        """While inside, the body runs: what Alembic does around it is not the revision's."""
        self._active = True
        try:
            yield
        finally:
            self._active = False

    def _mine(self, cursor: Any) -> bool:
        return self._active and cursor.connection is self._connection.connection.dbapi_connection

    def _before(self, conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if not self._mine(cursor):
            return
        driver = cursor.connection
        self._tried, self._probe = frozenset(), None
        if driver.autocommit:
            self._held = frozenset()
            tried = probe.in_transaction(self._target, driver, statement, parameters)
            if tried is None:
                self._probe = probe.Probe(self._target, driver.info.backend_pid, self._names.values())
                self._probe.begin()
            else:
                self._tried = tried
        self._scans = self._read(driver, _SCANS)

    def _after(self, conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if not self._mine(cursor):
            return
        driver = cursor.connection
        if self._probe:
            held: probe.Held = self._probe.end()
            self._probe = None
        else:
            held = self._tried if driver.autocommit else probe.locks(driver, driver.info.backend_pid)
        added: dict[str, list[str]] = {}
        for oid, mode in held - self._held:
            if oid in self._names:
                added.setdefault(self._names[oid], []).append(mode)
        self._held = frozenset() if driver.autocommit else held
        files, scans = self._read(driver, _FILES), self._read(driver, _SCANS)
        rewritten = {self._names[oid] for oid, file in files.items() if file != self._files[oid]}
        self._files |= files
        scanned = {self._names[oid] for oid, count in scans.items() if count > self._scans.get(oid, 0)}
        locks = {table: strongest(modes) for table, modes in added.items()}
        self.taken.append(Taken(statement, locks, frozenset(rewritten), frozenset(scanned)))

    def _read(self, driver: Any, sql: str) -> dict[int, int]:
        # A cursor of the driver's own: no event of SQLAlchemy, and no result that the revision waits for.
        with driver.cursor() as cursor:
            cursor.execute(sql, (list(self._names),))
            return {oid: value for oid, value in cursor.fetchall() if value is not None}
