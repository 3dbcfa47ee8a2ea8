"""What runs are measured by, in Prometheus' terms: a registry of our own, filled from the events of a run.

Counters and histograms go on from what the database has stored of earlier runs, so they only ever rise, whichever machine
migrates and however short a process lives. Labels have few values: no run, no table, no pid, nobody's text.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.events import Event
from mcp_planner_schema.guard.findings import BUSY, WrongUse

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family
    from sqlalchemy import Connection

PREFIX = "planner_migration_"
"""What every metric's name begins with."""

_LONG = (0.01, 0.05, 0.1, 0.5, 1, 5, 30, 60, 300, 1800, 3600, 14400)
_SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 5, 10, 30)
"""Seconds: what a step may last, and what others may have to wait; a step's deadline is one of the bounds."""


@dataclass(frozen=True)
class Metric:
    """One metric: its name behind the prefix, its kind, what it says, and its labels besides ``database``."""

    name: str
    kind: str
    says: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS = (
    # --- the run ------------------------------------------------------------------------------------------------
    Metric("running", "gauge", "1 while a run goes on, and after one that was killed until the next one notices; else 0."),
    Metric("run_start_timestamp_seconds", "gauge", "When the newest run began."),
    Metric("run_duration_seconds", "gauge", "How long the newest run that has ended took."),
    Metric("last_run_timestamp_seconds", "gauge", "When the newest run ended."),
    Metric("last_run_exit_code", "gauge", "How it ended: 0 done, 1 broken, 2 wrong use, 3 refused, 75 busy or stopped."),
    Metric("last_success_timestamp_seconds", "gauge", "When a run last ended well."),
    Metric("runs_total", "counter", "Runs that have ended.", ("outcome",)),
    # --- its steps ----------------------------------------------------------------------------------------------
    Metric("steps_total", "counter", "Steps that have ended: done, failed or skipped.", ("direction", "outcome")),
    Metric("step_duration_seconds", "histogram", "From a step's first try to its end.", ("direction",), _LONG),
    Metric("step_lock_wait_seconds", "histogram", "How long a step waited for locks, over all its tries.",
           ("direction",), _SHORT),
    Metric("step_lock_hold_seconds", "histogram",
           "How long a step held its locks at most: its last try; of one that commits in the middle the longest part.",
           ("direction",), _SHORT),
    Metric("step_attempts_total", "counter", "Tries of steps.", ("direction",)),
    Metric("rows_written_total", "counter", "Rows that steps inserted, updated and deleted in one transaction.", ("direction",)),
    Metric("wal_bytes_total", "counter", "Bytes of WAL that the whole server wrote while steps ran.", ("direction",)),
    Metric("tries_failed_total", "counter", "Tries that somebody's lock was in the way of, until the deadline or lock_timeout."),
    Metric("errors_total", "counter", "Errors of the server in tries and steps, by its code.", ("sqlstate",)),
    Metric("wait_seconds", "gauge", "How long the running step has waited for a lock; 0 where it does not wait."),
    # --- what takes long ----------------------------------------------------------------------------------------
    Metric("backfill_rows_done", "gauge", "Rows that a backfill has gone through.", ("backfill",)),
    Metric("backfill_rows_expected", "gauge", "Rows that it expects in all.", ("backfill",)),
    Metric("backfill_rows_per_second", "gauge", "Rows a second within the last minute.", ("backfill",)),
    Metric("backfill_replica_lag_seconds", "gauge", "How far the farthest replica's replay lies behind.", ("backfill",)),
    Metric("command_done_ratio", "gauge", "How much of its phase a long statement has done, from 0 to 1.", ("command",)),
    # --- where the database stands ------------------------------------------------------------------------------
    Metric("info", "gauge", "1; the guard's version and the environment.", ("version", "environment")),
    Metric("revision_info", "gauge", "1 for each revision that the database is at.", ("revision",)),
    Metric("pending_revisions", "gauge", "Revisions of the folder that are not applied."),
    Metric("pending_contract_revisions", "gauge", "Those among them that take something away, and wait until asked for."),
    Metric("integrity_violations", "gauge", "Expectations of applied revisions that do not hold, by migrate-verify."),
    Metric("integrity_expectations", "gauge", "Expectations that it has asked about."),
    Metric("integrity_check_timestamp_seconds", "gauge", "When it was asked last."),
    Metric("drift_objects", "gauge", "Objects that are not as the revisions have made them, by migrate-drift."),
    Metric("drift_check_timestamp_seconds", "gauge", "When it was asked last."),
    Metric("backup_timestamp_seconds", "gauge", "Time of the newest backup: by backup_check, or else of ours."),
)  # fmt: skip

_OF_A_RUN = tuple(one.name for one in METRICS if one.name.startswith(("backfill_", "command_")))

_STORED = """
SELECT e.kind, e.at, e.run_id, e.revision, e.data ->> 'direction', e.data
FROM {schema}.event e JOIN {schema}.run r ON r.id = e.run_id
WHERE r.version_table = %(version_table)s AND coalesce(r.id < %(before)s::bigint, true)
  AND e.kind IN ('run-started', 'try-failed', 'step-done', 'step-failed', 'run-ended') ORDER BY e.id
"""


def require() -> None:
    """Raise :class:`WrongUse` where metrics are asked for and the package that writes them is missing."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise WrongUse(
            "Metrics are asked for (metrics_file, metrics_push or metrics_listen in [guard] of alembic.ini), and the package "
            "prometheus-client is not installed.",
            "pip install 'mcp-planner-schema[metrics]', or leave the setting empty",
        ) from None


class Families:
    """Metrics as they are now: what changes later is not in them."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = list(families)

    def collect(self) -> list[Family]:
        """The families, as ``prometheus_client`` asks a registry for them."""
        return self._families


class Metrics:
    """All metrics of one database. What stands in the application's own registry stays alone.

    ``counts``: what earlier runs have stored was heard, so that counters may go on from there. ``over`` are metrics of which
    what an earlier run has said holds no more.
    """

    def __init__(self, database: str) -> None:
        require()
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.database, self.registry, self.counts = database, CollectorRegistry(), False
        self._lock, self._made = threading.RLock(), dict[str, Any]()
        self._since: float | None = None
        self.over: tuple[str, ...] = ()
        for one in METRICS:
            named = (PREFIX + one.name, one.says, ("database", *one.labels))
            if one.kind == "histogram":
                self._made[one.name] = Histogram(*named, registry=self.registry, buckets=one.buckets)
            else:
                self._made[one.name] = (Counter if one.kind == "counter" else Gauge)(*named, registry=self.registry)

    def set(self, name: str, value: float, **labels: str) -> None:
        """A gauge has this value now."""
        self._of(name, labels).set(value)

    def add(self, name: str, value: float, **labels: str) -> None:
        """A counter rises by this."""
        if self.counts:
            self._of(name, labels).inc(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """A histogram has one observation more."""
        if self.counts:
            self._of(name, labels).observe(value)

    def forget(self, name: str) -> None:
        """What the metric said, whatever its labels were, is said no more."""
        self._made[name].clear()

    def collect(self) -> Iterator[Family]:
        """The families that say anything. When a series was made is left out: it was in a process before this one."""
        with self._lock:
            families = list(self.registry.collect())
        for family in families:
            family.samples = [one for one in family.samples if not one.name.endswith("_created")]
            if family.samples:
                yield family

    def replay(self, connection: Connection, schema: str, version_table: str, *, before: int | None = None) -> None:
        """Hear again what earlier runs have stored: all, or those ``before`` the run that is listened to. Reads only."""
        self.counts = True
        self.add("tries_failed_total", 0)  # or the first one would raise nothing: what was not there has not risen
        there = connection.exec_driver_sql("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (f"{schema}.event",))
        if there.scalar_one():
            asked = {"version_table": version_table, "before": before}
            for row in connection.exec_driver_sql(_STORED.format(schema=schema), asked):
                self.hear(Event(*row))

    def hear(self, event: Event) -> None:
        """What has happened changes what is measured."""
        data, at = event.data, event.at.timestamp()
        with self._lock:
            if event.kind == "run-started":
                self._began(at)
            elif event.kind == "waiting":
                self.set("wait_seconds", data["seconds"])
            elif event.kind == "try-failed":
                self._failed(data, busy=True)
            elif event.kind in ("step-done", "step-failed"):
                self._ended(event)
            elif event.kind == "progress":
                self._progress(data)
            elif event.kind == "run-ended":
                self._over(data, at)

    def _began(self, at: float) -> None:
        self.set("running", 1)
        self.set("run_start_timestamp_seconds", at)
        self.set("wait_seconds", 0)
        self.over = tuple(PREFIX + name for name in _OF_A_RUN)
        for name in _OF_A_RUN:
            self.forget(name)
        self._since = at

    def _failed(self, data: Mapping[str, Any], *, busy: bool) -> None:
        self.set("wait_seconds", 0)
        if busy:
            self.add("tries_failed_total", 1)
        if data.get("sqlstate"):
            self.add("errors_total", 1, sqlstate=data["sqlstate"])

    def _ended(self, event: Event) -> None:
        data, way = event.data, {"direction": event.direction or "unknown"}
        self._failed(data, busy=data.get("exit") == BUSY and bool(data.get("sqlstate")))
        outcome = "failed" if event.kind == "step-failed" else "skipped" if data.get("skipped") else "done"
        self.add("steps_total", 1, outcome=outcome, **way)
        self.add("step_attempts_total", data["attempts"], **way)
        self.add("rows_written_total", data.get("rows") or 0, **way)
        self.add("wal_bytes_total", max(0, data.get("wal_bytes") or 0), **way)
        for name, key in (("duration", "duration_ms"), ("lock_wait", "lock_wait_ms"), ("lock_hold", "hold_ms")):
            self.observe(f"step_{name}_seconds", data[key] / 1000, **way)

    def _progress(self, data: Mapping[str, Any]) -> None:
        if data["what"] == "command":
            self.forget("command_done_ratio")
            if data.get("total"):
                self.set("command_done_ratio", data["done"] / data["total"], command=data["name"])
            return
        named = {"backfill": data["name"]}
        for key in ("rows_done", "rows_expected", "rows_per_second"):
            if data.get(key) is not None:
                self.set(f"backfill_{key}", data[key], **named)
        if data.get("lag") is not None:
            self.set("backfill_replica_lag_seconds", data["lag"], **named)

    def _over(self, data: Mapping[str, Any], at: float) -> None:
        self.set("running", 0)
        self.set("wait_seconds", 0)
        self.add("runs_total", 1, outcome=data["outcome"])
        if data.get("exit") is None:  # a run that was killed; the next one has found it
            return
        self.set("last_run_timestamp_seconds", at)
        self.set("last_run_exit_code", data["exit"])
        if data["exit"] == 0:
            self.set("last_success_timestamp_seconds", at)
        if self._since is not None:
            self.set("run_duration_seconds", max(0.0, at - self._since))

    def _of(self, name: str, labels: Mapping[str, str]) -> Any:
        return self._made[name].labels(database=self.database, **labels)
