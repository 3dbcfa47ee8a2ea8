"""Metrics to a Pushgateway, when a run begins and when it has ended: for what is gone before anybody can scrape it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from mcp_planner_schema.guard.apart import Apart
from mcp_planner_schema.guard.events import Event, Listener
from mcp_planner_schema.telemetry.metrics import Families, Metrics

JOB = "planner_migration"
_TIMEOUT = 3.0
"""Seconds: a run does not wait for its gateway."""

_LAST = 5.0
"""Seconds that the end of a run waits, in all, for the gateway to take how it began and how it has ended."""


@contextmanager
def pushing(url: str, metrics: Metrics, say: Callable[[str], None]) -> Iterator[Listener]:
    """Who pushes as a run begins and ends, each time what is known then. ``say`` is told once of a gateway that does not take it.

    A thread of its own does it: a gateway that hangs, or whose name is long in being found, keeps the file from nothing.
    """
    apart, warned = Apart(), list[str]()

    def warn(text: str) -> None:
        if not warned:
            warned.append(text)
            say(f"warning: {text}")

    def send(now: Families) -> None:
        try:
            _send(url, metrics.database, now)
        except Exception as error:  # whatever its host says: no reason to stop
            warn(f"the metrics are not pushed: {type(error).__name__}: {error}; the run goes on without")

    def hear(event: Event) -> None:
        if event.kind in ("run-started", "run-ended"):
            apart.do(partial(send, Families(metrics.collect())))

    try:
        yield hear
    finally:
        if not apart.close(_LAST):
            warn(f"the metrics' gateway has not answered for {_LAST:g} s, and is left")


def push(url: str, metrics: Metrics) -> None:
    """Replace what the gateway knows of this database by these metrics; what they do not speak of stays."""
    _send(url, metrics.database, Families(metrics.collect()))


def _send(url: str, database: str, families: Families) -> None:
    from prometheus_client import pushadd_to_gateway

    pushadd_to_gateway(url, job=JOB, registry=families, grouping_key={"database": database}, timeout=_TIMEOUT)
