"""Metrics to a Pushgateway, when a run begins and when it has ended: for what is gone before anybody can scrape it."""

from __future__ import annotations

from collections.abc import Callable

from mcp_planner_schema.guard.events import Event
from mcp_planner_schema.telemetry.metrics import Metrics

JOB = "planner_migration"
_TIMEOUT = 3.0
"""Seconds: a run does not wait for its gateway."""


def pusher(url: str, metrics: Metrics) -> Callable[[Event], None]:
    """Pushes as a run begins and ends. Raises what the gateway's host says; the events warn of it, once."""

    def hear(event: Event) -> None:
        if event.kind in ("run-started", "run-ended"):
            push(url, metrics)

    return hear


def push(url: str, metrics: Metrics) -> None:
    """Replace what the gateway knows of this database by these metrics; what they do not speak of stays."""
    from prometheus_client import pushadd_to_gateway

    pushadd_to_gateway(
        url, job=JOB, registry=metrics, grouping_key={"database": metrics.database}, timeout=_TIMEOUT,
    )  # fmt: skip
