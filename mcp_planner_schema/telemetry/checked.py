"""What a command that asks has found goes to where the metrics of runs go, so that alerts know of it between two runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import connect, settings, version_table

if TYPE_CHECKING:
    from alembic.config import Config

    from mcp_planner_schema.guard.settings import Settings
    from mcp_planner_schema.telemetry.metrics import Metrics


def tell(config: Config, what: str = "", **found: int) -> None:
    """Write what was found by one question (``integrity``, ``drift``); without one, where the database stands.

    Nothing where no file and no gateway is set. That it fails is a warning: the command itself has done what it does.
    """
    given = settings.load(config)
    if not (given.metrics_file or given.metrics_push):
        return
    from mcp_planner_schema.telemetry import metrics, push, textfile

    made = metrics.Metrics(connect.url(given).database or "")
    try:
        if what:
            made.set(f"{what}_check_timestamp_seconds", time.time())
            for name, count in found.items():
                made.set(f"{what}_{name}", count)
        else:
            _stand(config, given, made)
        if given.metrics_file:
            textfile.write(Path(given.metrics_file), made)
        if given.metrics_push:
            push.push(given.metrics_push, made)
    except OSError as error:
        print(f"warning: the metrics could not be written: {error}", file=sys.stderr)


def _stand(config: Config, given: Settings, made: Metrics) -> None:
    from mcp_planner_schema.inspect import route, status
    from mcp_planner_schema.telemetry import state

    table = version_table.of(config)
    with status.connected(config) as (connection, _):
        heads = version_table.heads(connection, table)
        made.replay(connection, given.schema, table.shown)
        with route.history(config, given, ()) as script:
            state.read(made, connection, given, script, heads, ask=True)
