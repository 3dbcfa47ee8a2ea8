"""What happens in a run, one event each: told to people and listeners, and stored in the table ``event`` of the guard's schema.

Events hold numbers, names, pids, application names and SQLSTATEs: no statement of anybody's, and no row. A listener that fails
is warned about once; neither that, nor an event that cannot be stored, ends a run. Listeners have a thread of their own: one
that is slow holds up neither the thread that migrates, and with it a lock, nor the one that keeps the deadline.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import saying
from mcp_planner_schema.guard.apart import Apart

if TYPE_CHECKING:
    from sqlalchemy import Connection

KINDS = (
    "run-started", "finding", "step-started", "waiting", "try-failed", "step-done", "step-failed", "progress", "run-ended",
)  # fmt: skip
_PASSING = ("progress",)
"""Told and not stored: what counts is how it ended."""

_LAST = 5.0
"""Seconds that the end of a run waits for who listens: longer than a gateway that does not answer takes to be given up."""

TABLES = """
CREATE TABLE IF NOT EXISTS {schema}.event (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id       bigint NOT NULL REFERENCES {schema}.run,
    at           timestamptz NOT NULL,
    kind         text NOT NULL,
    revision     text,
    data         jsonb NOT NULL
);
CREATE INDEX IF NOT EXISTS event_run ON {schema}.event (run_id, id);
COMMENT ON TABLE {schema}.event IS
'What happened in each run, in its order: tries, waits, findings, ends of steps. No statement and no row is in it';
COMMENT ON COLUMN {schema}.event.at IS 'By the clock of the machine that migrated';
"""
_STORE = "INSERT INTO {schema}.event (run_id, at, kind, revision, data) VALUES (%s, %s, %s, %s, %s)"


@dataclass(frozen=True)
class Event:
    """One thing that has happened. ``run`` is 0 before the run has its row; ``data`` is the kind's: docs/watching.md."""

    kind: str
    at: dt.datetime
    run: int
    revision: str | None
    direction: str | None
    data: Mapping[str, Any]


Listener = Callable[[Event], None]


def interrupted(connection: Connection, schema: str, run: int) -> None:
    """Write that a run was killed: it could not say so itself. Nothing where an earlier version has made no table for that."""
    there = connection.exec_driver_sql("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (f"{schema}.event",))
    if there.scalar_one():
        values = (run, dt.datetime.now(dt.UTC), "run-ended", None, json.dumps({"outcome": "interrupted"}))
        connection.exec_driver_sql(_STORE.format(schema=schema), values)


@dataclass
class Events:
    """Where the events of one run go. ``early`` are those from before it had its row: they are stored as soon as it has.

    People are told, and files written, by another thread than listeners, which may all wait for a gateway.
    """

    schema: str
    listeners: Sequence[Listener] = ()
    run: int = 0
    ended: bool = False
    early: list[Event] = field(default_factory=list)
    _warned: set[object] = field(default_factory=set)
    _hearing: Apart = field(default_factory=Apart)
    _telling: Apart = field(default_factory=Apart)

    def begin(self, number: int, on: Connection) -> None:
        """From now on the run has a row of this number."""
        self.run = number
        saying.about(run=number)
        for event in self.early:
            self._store(event, on)
        self.early.clear()

    def emit(
        self, kind: str, revision: str | None = None, direction: str | None = None, *, on: Connection | None = None,
        line: str = "", aside: bool = False, **data: Any,
    ) -> None:  # fmt: skip
        """Something has happened. ``line`` says it to people; it is stored with ``on``, which nobody else uses just now.

        ``aside``: whoever calls has a deadline to keep, and does not wait until people are told.
        """
        event = Event(kind, dt.datetime.now(dt.UTC), self.run, revision, direction, data)
        self.ended = self.ended or kind == "run-ended"
        if kind not in _PASSING:
            if self.run and on is not None:
                self._store(event, on)
            elif not self.run:
                self.early.append(event)
        named = {"revision": revision, "direction": direction} if revision else {}
        if line or kind not in _PASSING:
            tell = functools.partial(saying.tell, kind, line, {**named, **data}, event.at)
            if aside:
                self.aside(tell)
            else:
                tell()
        for listener in self.listeners:
            if not self._hearing.do(functools.partial(self._hear, listener, event)):
                self.warn("slow", "warning: who listens to the run is too slow for it, and does not hear everything")

    def aside(self, task: Callable[[], None]) -> None:
        """Have something told or written by a thread of its own. What is too much is left out."""
        self._telling.do(task)

    def close(self) -> None:
        """Wait until everybody has heard everything, for some seconds."""
        told, heard = self._telling.close(_LAST), self._hearing.close(_LAST)
        if not (told and heard):
            self.warn("late", f"warning: who listens to the run has not heard all of it after {_LAST:g} s, and is left")

    def _hear(self, listener: Listener, event: Event) -> None:
        try:
            listener(event)
        except Exception as error:  # whoever listens is no reason to stop
            self.warn(listener, f"warning: who listens to the run has failed: {type(error).__name__}: {error}")

    def _store(self, event: Event, on: Connection) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        data = dict(event.data) | ({"direction": event.direction} if event.direction else {})
        values = (self.run, event.at, event.kind, event.revision, json.dumps(data, default=str))
        try:
            on.exec_driver_sql(_STORE.format(schema=self.schema), values)
        except SQLAlchemyError as error:
            said = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
            self.warn("stored", f"warning: what happens in the run is not stored: {said}")
        except KeyboardInterrupt:  # which SQLAlchemy has given the connection up for: whoever stops the run needs one
            with contextlib.suppress(SQLAlchemyError):
                on.rollback()
            raise

    def warn(self, about: object, text: str) -> None:
        """Say it once, whatever is wrong with ``about``."""
        if about not in self._warned:
            self._warned.add(about)
            saying.say(text)
