"""Who listens to a run where metrics are asked for: the file, the gateway, the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import connect, saying
from mcp_planner_schema.guard.events import Event, Listener
from mcp_planner_schema.telemetry import push, serve, state, textfile
from mcp_planner_schema.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from sqlalchemy import Engine

    from mcp_planner_schema.guard.settings import Settings


@contextmanager
def listening(
    settings: Settings, script: ScriptDirectory, engine: Engine, version_table: str
) -> Iterator[list[Listener]]:
    """Who is to hear what happens in a run, in their order: the metrics change first.

    Raises :class:`WrongUse` where the package that writes metrics is missing.
    """
    metrics = Metrics(engine.url.database or "")
    with _written(settings, metrics) as written:
        ways = [_Heard(settings, script, engine, version_table, metrics).hear, *written]
        if not settings.metrics_listen:
            yield ways
            return
        with serve.serving(settings.metrics_listen, metrics, saying.say) as served:
            yield [*ways, served] if served else ways


def failed(settings: Settings, database: str, event: Event) -> None:
    """A run has failed before anybody listened: there is no connection to be had, for one. What was known stays."""
    metrics = Metrics(database)
    metrics.set("last_run_timestamp_seconds", event.at.timestamp())
    metrics.set("last_run_exit_code", event.data["exit"])
    with _written(settings, metrics) as written:
        for hear in written:
            hear(event)


@contextmanager
def _written(settings: Settings, metrics: Metrics) -> Iterator[list[Listener]]:
    file = [textfile.writer(Path(settings.metrics_file), metrics)] if settings.metrics_file else []
    if not settings.metrics_push:
        yield file
        return
    with push.pushing(settings.metrics_push, metrics, saying.say) as pushed:
        yield [*file, pushed]


@dataclass(frozen=True)
class _Heard:
    settings: Settings
    script: ScriptDirectory
    engine: Engine
    version_table: str
    metrics: Metrics

    def hear(self, event: Event) -> None:
        """Change the metrics: when a run begins, on top of what earlier ones have stored; when it ends, with where it stands."""
        if event.kind == "run-started":
            with connect.opened(self.engine, autocommit=True) as connection:
                self.metrics.replay(connection, self.settings.schema, self.version_table, before=event.run)
        self.metrics.hear(event)
        if event.kind == "run-ended" and "heads" in event.data:
            with connect.opened(self.engine, autocommit=True) as connection:
                state.read(self.metrics, connection, self.settings, self.script, event.data["heads"], ask=False)
