"""The one question after each batch, in parts: what cannot be answered on some server is left out, and said once.

Each part is a query with one value, JSON. Names of tables and rights are not needed: ``pg_locks`` and most statistics are open
to every role. Nothing reads the statistics of tables that the backfill does not write.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import ladder, replication

if TYPE_CHECKING:
    from sqlalchemy import Connection

IN_THE_WAY = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")
"""Modes of a table's lock under which nobody writes its rows."""

OF_A_VACUUM = "ShareUpdateExclusiveLock"

_FEW = 10_000
"""Dead rows that no table suffers from."""

WRITTEN = "how far the WAL reaches"
REPLICAS = "replicas"
SLOTS = "replication slots"
ARCHIVE = "the WAL archive"
LOCKS = "locks and vacuums"
DEAD = "dead tuples"
SESSIONS = "other sessions"

_AGO = "2 s"
"""Who has asked something within this is at work: an application that asks less often than that is not in the way of much."""

# A vacuum holds its table's lock in any phase; who it is, only pg_stat_activity says, and not to all.
_PARTS = {
    WRITTEN: replication.WRITTEN,
    REPLICAS: replication.REPLICAS,
    SLOTS: replication.SLOTS,
    ARCHIVE: """
SELECT pg_catalog.json_build_array(
    a.last_archived_wal, pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')), a.failed_count,
    coalesce(a.last_failed_time > coalesce(a.last_archived_time, '-infinity'), false), a.last_failed_wal)
FROM pg_catalog.pg_stat_archiver a WHERE pg_catalog.current_setting('archive_mode') <> 'off'""",
    LOCKS: f"""
SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
    l.pid, l.mode, l.granted, (SELECT a.query FROM pg_catalog.pg_stat_activity a WHERE a.pid = l.pid)))
FROM pg_catalog.pg_locks l
WHERE l.relation = %(table)s::bigint::oid AND l.locktype = 'relation' AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
  AND (l.mode IN {IN_THE_WAY} OR l.mode = '{OF_A_VACUUM}' AND l.granted
       AND EXISTS (SELECT FROM pg_catalog.pg_stat_progress_vacuum v WHERE v.pid = l.pid))""",
    DEAD: f"""
SELECT pg_catalog.json_build_array(
    pg_catalog.pg_stat_get_dead_tuples(c.oid), greatest(pg_catalog.pg_stat_get_live_tuples(c.oid), c.reltuples::bigint))
FROM pg_catalog.pg_class c
WHERE c.oid = %(table)s::bigint::oid AND pg_catalog.pg_stat_get_dead_tuples(c.oid) > {_FEW}
  AND greatest(pg_catalog.pg_stat_get_live_tuples(c.oid), c.reltuples) > 0
  AND pg_catalog.current_setting('autovacuum')::bool AND pg_catalog.current_setting('track_counts')::bool
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_options_to_table(c.reloptions) o
                  WHERE o.option_name = 'autovacuum_enabled' AND NOT o.option_value::bool)""",
    # Of the whole server: others in other databases use the same processors, disks and WAL. Of another role's session only
    # who may read all statistics sees the state, and what it is: one with a database and a role is no background process. Who
    # has waited for a lock or a timer for longer than that does nothing.
    SESSIONS: f"""
SELECT pg_catalog.json_build_array(
    coalesce(pg_catalog.bool_or(
        a.state_change > pg_catalog.clock_timestamp() - '{_AGO}'::interval OR a.state = 'disabled'
        OR a.state = 'active' AND coalesce(a.wait_event_type, '') NOT IN ('Lock', 'Timeout')), false),
    coalesce(pg_catalog.bool_or(a.backend_type IS NULL), false))
FROM pg_catalog.pg_stat_get_activity(NULL) a
WHERE (a.backend_type = 'client backend' OR a.backend_type IS NULL AND a.datid IS NOT NULL AND a.usesysid IS NOT NULL
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_get_wal_senders() w WHERE w.pid = a.pid))
  AND a.pid <> pg_catalog.pg_backend_pid()
  AND NOT pg_catalog.starts_with(a.application_name, 'mcp-planner-guard')""",
}


@dataclass
class Question:
    """The parts that are still asked. ``say`` is told of each that is not any more."""

    say: Callable[[str], None]
    parts: list[str] = field(default_factory=lambda: list(_PARTS))

    def ask(self, connection: Connection, table: int) -> dict[str, Any]:
        """The answers, by their parts, for who writes the table with this OID; one round trip. None where it failed: that
        harms no backfill."""
        from sqlalchemy.exc import DBAPIError

        if not self.parts:
            return {}
        try:
            return self._answers(connection, table, self.parts)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
        for part in list(self.parts):
            try:
                self._answers(connection, table, [part])
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise
                if getattr(error.orig, "pgcode", None) not in (*ladder.TRANSIENT, ladder.CANCELED):
                    self.parts.remove(part)
                    self.say(f"does not see {part}: {str(error.orig).strip().splitlines()[0]}")
        return {}

    def _answers(self, connection: Connection, table: int, parts: list[str]) -> dict[str, Any]:
        listed = ", ".join(f"({_PARTS[part]})::text" for part in parts)
        row = connection.exec_driver_sql(f"SELECT {listed}", {"table": table}).one()
        return {part: json.loads(told) for part, told in zip(parts, row, strict=True) if told is not None}
