"""Metrics in a file for node_exporter's textfile collector, which may be read at any moment: it is whole, or the old one."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.events import Event
from mcp_planner_schema.telemetry.metrics import PREFIX, Families, Metrics

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

_EVERY = 10.0
"""Seconds between two writings while nothing begins or ends."""

_AT_ONCE = ("run-started", "step-done", "step-failed", "run-ended")


def writer(path: Path, metrics: Metrics) -> Callable[[Event], None]:
    """Writes the file as a run goes on."""
    last, one_at_a_time = 0.0, threading.Lock()

    def hear(event: Event) -> None:
        nonlocal last
        with one_at_a_time:  # the watcher and a backfill's workers tell of things too
            if event.kind in _AT_ONCE or time.monotonic() - last >= _EVERY:
                last = time.monotonic()
                write(path, metrics)

    return hear


def write(path: Path, metrics: Metrics) -> None:
    """Put these metrics into the file, in one move. What it says of other databases, and what these do not speak of, stays."""
    from prometheus_client import generate_latest

    text = generate_latest(Families(_merged(_old(path), metrics)))
    beside = path.with_name(f"{path.name}.{os.getpid()}")  # node_exporter reads *.prom
    try:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()  # of a process that was killed; or a link that somebody has laid there
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o644)  # whatever the umask: another account reads it
            file.write(text)
            file.flush()
            os.fsync(handle)
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _old(path: Path) -> list[Family]:
    """What stands in the file; nothing where it cannot be read as metrics."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        return list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []


def _merged(old: Iterable[Family], metrics: Metrics) -> Iterator[Family]:
    kept = {family.name: family for family in old if family.name.startswith(PREFIX)}
    for family in metrics.collect():
        before = kept.pop(family.name, None)
        family.samples += _of_others(before, metrics) if before else []
        yield family
    for name, family in kept.items():
        if name in metrics.over:
            family.samples = _of_others(family, metrics)
        if family.samples:
            yield family


def _of_others(family: Family, metrics: Metrics) -> list[Any]:
    return [one for one in family.samples if one.labels.get("database") != metrics.database]
