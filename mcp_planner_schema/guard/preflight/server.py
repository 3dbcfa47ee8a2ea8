"""The server itself: its version, whether it can be written, settings that endanger what is written, connections, the clock."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

from mcp_planner_schema.guard import connect
from mcp_planner_schema.guard.preflight.asked import Found, Here, Question, found, span

OLDEST = connect.OLDEST
"""The oldest major version that the guard works on."""

END_OF_LIFE = {
    14: dt.date(2026, 11, 12),
    15: dt.date(2027, 11, 11),
    16: dt.date(2028, 11, 9),
    17: dt.date(2029, 11, 8),
    18: dt.date(2030, 11, 14),
}
"""The day of each major version's last minor release, as the project has announced it (postgresql.org/support/versioning)."""

LONG = 10_000
"""Milliseconds: who lets others wait behind a lock for longer has switched the limit off."""

SKEW = 5.0
"""Seconds between two clocks from which on it is told."""

# Each with the value that endangers, why, and what to write.
_DANGEROUS = {
    "fsync": ("off", "a crash of the system leaves the database broken"),
    "full_page_writes": ("off", "a crash of the system may leave torn pages"),
    "zero_damaged_pages": ("on", "damaged pages are emptied without a word"),
    "ignore_checksum_failure": ("on", "damaged pages are read as if nothing were wrong"),
    "track_counts": ("off", "autovacuum is never told what changed"),
    "autovacuum": ("off", "dead rows and transaction ids are never cleaned up, nor are statistics made"),
}

_SERVER = """
SELECT pg_catalog.json_build_object(
    'version', pg_catalog.current_setting('server_version'), 'recovery', pg_catalog.pg_is_in_recovery(),
    'lock_timeout', pg_catalog.current_setting('lock_timeout'),
    'settings', pg_catalog.json_build_object({settings}))
"""
# Every role may count sessions and see whose they are, if not what they do; background workers are in no database, or have a
# type that only members of pg_read_all_stats see.
_CONNECTIONS = """
SELECT pg_catalog.json_build_object(
    'max', pg_catalog.current_setting('max_connections')::int, 'role', r.rolname, 'super', r.rolsuper,
    'reserved', pg_catalog.current_setting('superuser_reserved_connections')::int + {reserved},
    'used', (SELECT pg_catalog.count(*) FROM sessions),
    'role_limit', r.rolconnlimit, 'role_used', (SELECT pg_catalog.count(*) FROM sessions s WHERE s.usesysid = r.oid),
    'database_limit', d.datconnlimit, 'database_used', (SELECT pg_catalog.count(*) FROM sessions s WHERE s.datid = d.oid))
FROM pg_catalog.pg_roles r, pg_catalog.pg_database d
WHERE r.rolname = session_user AND d.datname = pg_catalog.current_database()
"""
_SESSIONS = """
WITH sessions AS MATERIALIZED (
  SELECT a.usesysid, a.datid FROM pg_catalog.pg_stat_get_activity(NULL) a
  WHERE a.datid <> 0 AND coalesce(a.backend_type, 'client backend') = 'client backend')
"""
_RESERVED_16 = """
CASE WHEN pg_catalog.pg_has_role('pg_use_reserved_connections', 'USAGE') THEN 0
     ELSE pg_catalog.current_setting('reserved_connections')::int END
"""


def _asked_server(here: Here) -> str:
    listed = ", ".join(f"'{name}', pg_catalog.current_setting('{name}', true)" for name in _DANGEROUS)
    return _SERVER.format(settings=listed)


def _server(told: Any, here: Here) -> Iterator[Found]:
    if here.major < OLDEST:
        yield found("server-too-old", "server", version=told["version"], oldest=OLDEST)
    end = END_OF_LIFE.get(here.major)
    if end is not None and here.day > end:
        yield found("server-end-of-life", "server", major=here.major, since=end)
    if told["recovery"]:
        yield found(
            "server-read-only", "server", problem="it is a replica",
            instead="let DATABASE_URL name the primary (several hosts: target_session_attrs=read-write)",
        )  # fmt: skip
    elif here.read_only == "on":
        yield found(
            "server-read-only", "server", problem="default_transaction_read_only is on for this role or database",
            instead="ALTER ROLE … (or ALTER DATABASE …) RESET default_transaction_read_only",
        )  # fmt: skip
    for name, (bad, problem) in _DANGEROUS.items():
        if told["settings"][name] == bad:
            instead = f"ALTER SYSTEM RESET {name}, and SELECT pg_reload_conf()"
            yield found("server-setting", "server", name=name, value=bad, problem=problem, instead=instead)
    yield from _timeouts(told["lock_timeout"], here)
    if abs(here.skew) > SKEW:
        way = "ahead" if here.skew > 0 else "behind"
        yield found("clock-skew", "server", skew=f"{span(abs(here.skew))} (it is {way})")


def _timeouts(in_force: str, here: Here) -> Iterator[Found]:
    """What alembic.ini says, and what a connection of ours really has: a proxy may drop it on the way."""
    budgets = here.settings.budgets
    for name, limit in (("deadline", budgets.deadline), ("lock_timeout", budgets.lock_timeout)):
        if limit > LONG:
            yield found("lock-timeout-long", "alembic.ini", name=name, value=span(limit / 1000), default="200ms")
    if in_force == "0":
        value = "0 (for ever) on a connection of the guard's"
        yield found("lock-timeout-long", "server", name="lock_timeout", value=value, default="200ms")


def _asked_connections(here: Here) -> str:
    return _SESSIONS + _CONNECTIONS.format(reserved=_RESERVED_16 if here.major >= 16 else "0")


def _connections(told: Any, here: Here) -> Iterator[Found]:
    usable = told["max"] - (0 if told["super"] else told["reserved"])
    limits = {"max_connections": (usable, told["used"])}
    if told["database_limit"] >= 0 and not told["super"]:
        limits["the database's CONNECTION LIMIT"] = told["database_limit"], told["database_used"]
    if told["role_limit"] >= 0 and not told["super"]:
        limits["the role's CONNECTION LIMIT"] = told["role_limit"], told["role_used"]
    name, (limit, used) = min(limits.items(), key=lambda one: one[1][0] - one[1][1])
    if limit - used < here.more:
        yield found(
            "connections-short", "server", free=max(limit - used, 0), role=told["role"], need=here.more,
            counted=f"{used} of {limit} are in use", limit=name,
        )  # fmt: skip


QUESTIONS = (
    Question(
        "the server's version and settings",
        ("server-too-old", "server-end-of-life", "server-read-only", "server-setting", "lock-timeout-long", "clock-skew"),
        _asked_server, _server,
    ),
    Question("connections", ("connections-short",), _asked_connections, _connections),
)  # fmt: skip
