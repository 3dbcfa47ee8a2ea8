"""Replicas and slots: who would suffer from what a run writes, asked as a backfill asks between its batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mcp_planner_schema.guard import replication
from mcp_planner_schema.guard.preflight.asked import Found, Here, Question, found, size, span, unanswered


def _replicas(told: Any, here: Here) -> Iterator[Found]:
    limit = here.settings.backfill.lag / 1000
    for _pid, name, address, replayed, behind in told:
        shown = f"{name or ''} {address or ''}".strip() or "without a name"
        if replayed is None:
            yield unanswered("how far replicas lie behind", "the role may not see it", "GRANT pg_read_all_stats to it")
            return
        if name not in here.settings.backfill.lag_except and (behind or 0) > limit:
            yield found("replica-behind", shown, name=shown, lag=span(behind), limit=span(limit))


def _synchronous(told: Any, here: Here) -> Iterator[Found]:
    yield found("replica-missing", "server", names=told)


def _slots(told: Any, here: Here) -> Iterator[Found]:
    (written, _), slots = told
    limit = here.settings.backfill.slot_wal
    for name, active, status, kept_from in slots or ():
        kept = written - kept_from if kept_from is not None else 0
        if status in replication.LEFT_OUT:
            yield found("slot-full", name, name=name, problem=f"is {status}: its WAL is not kept any more")
        elif not active and limit is not None and kept > limit:
            problem = f"is read by nobody and keeps {size(kept)} of WAL (limit {size(limit)})"
            yield found("slot-full", name, name=name, problem=problem)
        elif not active:
            yield found("slot-unread", name, name=name, size=size(kept))


# A walsender that the role may not see has a pid and no state: it may be the one.
_SYNCHRONOUS = """
SELECT pg_catalog.to_json(pg_catalog.current_setting('synchronous_standby_names'))
WHERE pg_catalog.current_setting('synchronous_standby_names') <> ''
  AND pg_catalog.current_setting('synchronous_commit') NOT IN ('off', 'local')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_get_wal_senders() r WHERE r.state IS NULL OR r.sync_priority > 0)
"""
# On a replica nothing is written, and asking how far is an error; that it is one is a finding of its own.
_SLOTS = (
    "SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN "
    f"pg_catalog.json_build_array(({replication.WRITTEN}), ({replication.SLOTS})) END"
)

QUESTIONS = (
    Question("replicas", ("replica-behind",), lambda here: replication.REPLICAS, _replicas),
    Question(
        "synchronous replicas", ("replica-missing",), lambda here: _SYNCHRONOUS, _synchronous,
        "pg_catalog.current_setting('synchronous_standby_names') <> ''",
    ),
    Question(
        "replication slots", ("slot-full", "slot-unread"), lambda here: _SLOTS, _slots,
        "EXISTS (SELECT FROM pg_catalog.pg_get_replication_slots())",
    ),
)  # fmt: skip
