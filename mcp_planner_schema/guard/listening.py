"""Who hears what happens in a run: nobody, or what the settings ask for. The only place where the guard knows of telemetry."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.events import Event, Events

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from mcp_planner_schema.guard.findings import GuardError
    from mcp_planner_schema.guard.settings import Settings


@contextmanager
def to(context: Any, settings: Settings, engine: Engine, version_table: str) -> Iterator[Events]:
    """Where a run's events go. Raises :class:`WrongUse` where metrics are asked for and cannot be had."""
    happens = Events(settings.schema)
    if not settings.measured:
        with _heard_out(happens):
            yield happens
        return
    from mcp_planner_schema.telemetry import running

    with running.listening(settings, context.script, engine, version_table) as listeners, _heard_out(happens):
        happens.listeners = listeners
        yield happens


@contextmanager
def _heard_out(happens: Events) -> Iterator[None]:
    try:
        yield
    finally:
        happens.close()


def unheard(settings: Settings, database: str, error: GuardError) -> None:
    """A run that was to move the version has failed before it could be listened to."""
    from mcp_planner_schema.guard.saying import say
    from mcp_planner_schema.telemetry import running

    data = {"outcome": "broken", "exit": error.code}
    try:
        running.failed(settings, database, Event("run-ended", dt.datetime.now(dt.UTC), 0, None, None, data))
    except Exception as failure:  # the error itself is what counts
        say(f"warning: the metrics could not be written: {type(failure).__name__}: {failure}")
