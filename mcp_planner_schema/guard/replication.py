"""Replicas and slots, as every role may see them: what a backfill asks after each batch, and preflight before a run.

Each is a query with one value, JSON.
"""

from __future__ import annotations

LEFT_OUT = "unreserved", "lost"
"""What wal_status says of a slot whose WAL is no longer kept for it, or gone."""

# No replica gets WAL before it is flushed, and a backfill's commits do not wait for that: so both positions are asked.
WRITTEN = """
SELECT pg_catalog.json_build_array(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), '0/0')::bigint,
                                   pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0')::bigint)"""
"""How far the WAL reaches: flushed, and put in."""

# The functions below pg_stat_replication and no view: that one joins all sessions, which takes as long as the rest together. A
# walsender has a pid and nothing else for a role that may not see it, and no replay_lsn where nothing is replayed (a base
# backup, pg_receivewal).
REPLICAS = """
SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
    r.pid, a.application_name, a.client_addr, pg_catalog.pg_wal_lsn_diff(r.replay_lsn, '0/0')::bigint,
    extract(epoch FROM r.replay_lag)::float8))
FROM pg_catalog.pg_stat_get_wal_senders() r CROSS JOIN LATERAL pg_catalog.pg_stat_get_activity(r.pid) a
WHERE r.state IS NULL OR r.replay_lsn IS NOT NULL"""
"""Process, name, address, how far it has replayed (None: not to be seen), and seconds behind as it has told them itself."""

SLOTS = """
SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
    s.slot_name, s.active, s.wal_status, pg_catalog.pg_wal_lsn_diff(s.restart_lsn, '0/0')::bigint))
FROM pg_catalog.pg_replication_slots s"""
"""Name, whether somebody reads it, what is left of its WAL, and from where on that is kept."""
