"""The part of the catalogue that is asked of the server before a run, and how much each answer weighs where."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from mcp_planner_schema.guard.rule import Rule

REFUSES, TELLS, LEAVES = "refuses", "tells", "leaves"
"""The run is refused; it goes on and says so; nobody asks."""


class Levels(NamedTuple):
    """What a finding does to a run in each environment."""

    production: str
    staging: str
    development: str


_STRICT = Levels(REFUSES, REFUSES, TELLS)
_TOLD = Levels(TELLS, TELLS, TELLS)
_TOLD_OUTSIDE = Levels(TELLS, TELLS, LEAVES)

LEVELS: dict[str, Levels] = {
    # What no environment can run with.
    "server-too-old": Levels(REFUSES, REFUSES, REFUSES),
    "server-read-only": Levels(REFUSES, REFUSES, REFUSES),
    # What would fail, or hurt, while the run works.
    "connections-short": _STRICT,
    "owner-missing": _STRICT,
    "create-denied": _STRICT,
    "extension-missing": _STRICT,
    "extension-denied": _STRICT,
    "table-in-use": _STRICT,
    "backup-running": _STRICT,
    "vacuum-running": _STRICT,
    "transaction-prepared": _STRICT,
    "constraint-violated": _STRICT,
    "disk-short": _STRICT,
    "replica-behind": _STRICT,
    "replica-missing": _STRICT,
    "slot-full": _STRICT,
    # What was wrong before, and a run would build upon.
    "index-invalid": _STRICT,
    "key-near-end": _STRICT,
    "wraparound-near": _STRICT,
    "collation-changed": _STRICT,
    # A database of which nobody has a copy; staging is rebuilt, development too.
    "backup-missing": Levels(REFUSES, TELLS, LEAVES),
    "backup-old": Levels(REFUSES, TELLS, LEAVES),
    "backup-unproven": _TOLD_OUTSIDE,
    "lock-timeout-long": Levels(REFUSES, TELLS, TELLS),
    # What somebody should know.
    "server-end-of-life": _TOLD,
    "server-setting": _TOLD_OUTSIDE,
    "transaction-long": _TOLD,
    "constraint-not-valid": _TOLD,
    "constraint-unchecked": _TOLD_OUTSIDE,
    "foreign-key-narrow": _TOLD,
    "wraparound-vacuum": _TOLD,
    "slot-unread": _TOLD,
    "extension-outdated": _TOLD,
    "clock-skew": _TOLD,
    "disk-unknown": _TOLD_OUTSIDE,
    "preflight-unanswered": _TOLD_OUTSIDE,
}

_RULES = (
    Rule(
        "server-too-old",
        "the server is PostgreSQL {version}",
        "what the guard asks and sets is not there before version {oldest}",
        "a server of version {oldest} or newer (pg_upgrade, or a dump and a restore)",
    ),
    Rule(
        "server-read-only",
        "nothing can be written: {problem}",
        "the first statement of the run would fail",
        "{instead}",
    ),
    Rule(
        "server-end-of-life",
        "PostgreSQL {major} gets no corrections since {since}",
        "errors that lose rows, and holes that let others in, stay as they are",
        "plan the way to a newer major version (pg_upgrade)",
    ),
    Rule(
        "server-setting",
        "{name} is {value}: {problem}",
        "a run writes much at once, and rests on what was written",
        "{instead}",
    ),
    Rule(
        "connections-short",
        "{free} more connections are free for {role}, and the run needs {need} ({counted})",
        "it would stop in the middle, and applications would be turned away",
        "close some, let the application's pools be smaller meanwhile, or raise {limit}",
    ),
    Rule(
        "lock-timeout-long",
        "{name} is {value}",
        "who waits for a lock lets everybody wait behind it, for so long",
        "{name} = {default} in alembic.ini; one revision may have budgets of its own",
    ),
    Rule(
        "owner-missing",
        "{what} belongs to {owner}, and {role} is no member of it",
        "only an owner may change it: the run would stop there, with the steps before it done",
        "{instead}",
    ),
    Rule(
        "create-denied",
        "{role} may create nothing in {place}",
        "{needed}: the run would stop there, with the steps before it done",
        "GRANT CREATE ON {object} TO {role}",
    ),
    Rule(
        "extension-missing",
        "the server does not have the extension {name}",
        "CREATE EXTENSION would fail, with the steps before it done",
        "install its package on the server (SELECT * FROM pg_available_extensions shows what there is), or leave it out",
    ),
    Rule(
        "extension-denied",
        "{role} may not create the extension {name}: {problem}",
        "CREATE EXTENSION would fail, with the steps before it done",
        "psql -c 'CREATE EXTENSION {name}'   (as a superuser), before the run",
    ),
    Rule(
        "table-in-use",
        "{line}",
        "the run needs that table for itself, and would try for half an hour and give up",
        "let it end first, or end it; alembic -x cancel_blockers=app=NAME upgrade head ends it where it is in the way",
    ),
    Rule(
        "backup-running",
        "{line}",
        "it holds every table until it is done, and a backup in the middle of a change is of neither schema",
        "wait for it, then the same command",
    ),
    Rule(
        "vacuum-running",
        "{line}",
        "unlike an ordinary vacuum it lets nobody pass, and must not be cancelled",
        "wait for it (SELECT * FROM pg_stat_progress_vacuum), then the same command",
    ),
    Rule(
        "transaction-long",
        "{who} has been in its transaction for {age}",
        "CREATE INDEX CONCURRENTLY and whatever waits for old snapshots waits for its end, and dead rows stay",
        "let it end, or: SELECT pg_terminate_backend({pid})",
    ),
    Rule(
        "transaction-prepared",
        "the prepared transaction {name} (user {owner}) is {age} old{tables}",
        "it never ends by itself, holds its locks over a restart, and what needs them waits in vain",
        "COMMIT PREPARED {name}, or ROLLBACK PREPARED {name}; whoever coordinates it knows which",
    ),
    Rule(
        "index-invalid",
        "the index {name} on {table} is INVALID, and no pending revision builds it anew",
        "no query uses it, every write pays for it, and its name is taken",
        "REINDEX INDEX CONCURRENTLY {name}, or DROP INDEX CONCURRENTLY {name} and the revision that made it again",
    ),
    Rule(
        "constraint-not-valid",
        "the constraint {name} of {table} is NOT VALID",
        "rows that were there before it may break it, and nobody may rely on it",
        "a revision with op.validate_constraint, or: ALTER TABLE {table} VALIDATE CONSTRAINT {name}",
    ),
    Rule(
        "constraint-violated",
        "{count} of {table} stand against {rule}; {sample}{note}",
        "the revision that adds it would fail, after having read the whole table",
        "repair the rows, in a data revision before it",
    ),
    Rule(
        "constraint-unchecked",
        "whether rows of {table} stand against {rule} is not known: {problem}",
        "the revision that adds it may fail, after having read the whole table",
        "ask a copy, or with more time: preflight_timeout in alembic.ini",
    ),
    Rule(
        "key-near-end",
        "{name} has used {share} of its {limit} values",
        "at its end every INSERT fails",
        "a wider key: make migrate-create KIND=change_type (docs/cookbook.md); a sequence: ALTER SEQUENCE … AS bigint",
    ),
    Rule(
        "foreign-key-narrow",
        "{column} is {type} and refers to {target}, which is {wider}",
        "rows with keys that do not fit cannot be referred to: every such INSERT fails",
        "widen it too: make migrate-create KIND=change_type (docs/cookbook.md)",
    ),
    Rule(
        "disk-short",
        "the run needs up to {need} ({parts}), and {free} are free ({place})",
        "a full disk stops the whole server, and it may not start again by itself",
        "free space, or run the revisions one by one: make migrate-up TO=…",
    ),
    Rule(
        "disk-unknown",
        "the run needs up to {need} ({parts}); how much is free is unknown",
        "a full disk stops the whole server, and it may not start again by itself",
        "look there first (df), then disk_limit in alembic.ini for what a run may need",
    ),
    Rule(
        "backup-missing",
        "there is no backup to rely on: {problem}",
        "what a run does wrong, and nobody notices at once, comes back from nowhere else",
        "let backup_check in alembic.ini name a command that knows your backups (docs/preflight.md)",
    ),
    Rule(
        "backup-old",
        "the newest backup ({name}) is {age} old, and {limit} are allowed",
        "what was written since would be lost with it",
        "make a backup, then the same command; or backup_age in alembic.ini",
    ),
    Rule(
        "backup-unproven",
        "nobody says that the newest backup ({name}) was ever restored",
        "a file that was never restored is no backup",
        "restore one and compare; backup_check then prints restored=3d",
    ),
    Rule(
        "replica-behind",
        "the replica {name} replays {lag} behind (limit {limit})",
        "what the run writes comes on top of it, and who reads there sees the past",
        "wait until it has caught up; one that is to lie behind: backfill_lag_except in alembic.ini",
    ),
    Rule(
        "replica-missing",
        "a COMMIT waits for a synchronous replica ({names}), and none is connected",
        "every step would wait at its end, with its locks held, until one comes",
        "let one connect, or: ALTER SYSTEM SET synchronous_standby_names = '', and SELECT pg_reload_conf()",
    ),
    Rule(
        "slot-full",
        "the replication slot {name} {problem}",
        "WAL that is kept fills the disk, and a slot that has lost its WAL needs a new copy",
        "start its reader, or: SELECT pg_drop_replication_slot('{name}')",
    ),
    Rule(
        "slot-unread",
        "nobody reads the replication slot {name}, which keeps {size} of WAL",
        "it keeps all that the run writes too, until somebody reads it or the disk is full",
        "start its reader, or: SELECT pg_drop_replication_slot('{name}')",
    ),
    Rule(
        "wraparound-near",
        "{what} of the database {database} is {age} transactions old; a vacuum should have come at {limit}",
        "vacuum does not keep up, and at two thousand million the server takes no more writes",
        "find what holds it back (old transactions, slots, prepared transactions), then VACUUM FREEZE the oldest tables",
    ),
    Rule(
        "wraparound-vacuum",
        "the table {table} is {age} transactions old; from {limit} on a vacuum comes that gives way to nobody",
        "a step that needs the table waits for the vacuum's end",
        "VACUUM FREEZE {table}, before the run",
    ),
    Rule(
        "collation-changed",
        "{what} was built with version {recorded}, and the system has {actual} now; {indexes}",
        "rows are looked for where they would stand now: queries miss some, and unique indexes take duplicates",
        "REINDEX them, then: ALTER {object} REFRESH COLLATION VERSION",
    ),
    Rule(
        "extension-outdated",
        "the extension {name} is at {installed}, and the server has {default}",
        "its functions run in a library that is made for the newer one",
        "ALTER EXTENSION {name} UPDATE",
    ),
    Rule(
        "clock-skew",
        "the server's clock and the one here are {skew} apart",
        "times in the history and in logs do not fit together, and waivers and backups end on the wrong day",
        "let both follow a time server (NTP)",
    ),
    Rule(
        "preflight-unanswered",
        "{question}: {problem}",
        "what nobody can see may be the reason why the run fails",
        "{instead}",
    ),
)  # fmt: skip


def _acceptable(levels: Levels) -> bool:
    """What refuses in development too cannot be run with, whoever says so."""
    return REFUSES in levels and levels.development != REFUSES


PREFLIGHT_RULES = tuple(replace(rule, acceptable=_acceptable(LEVELS[rule.code])) for rule in _RULES)


def level(code: str, environment: str) -> str:
    """What a finding does to a run in this environment."""
    found: str = getattr(LEVELS[code], environment)
    return found
