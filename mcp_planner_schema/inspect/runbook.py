"""The part of docs/runbook.md that comes from the catalogue: for each finding the one command that follows."""

from __future__ import annotations

from mcp_planner_schema.guard.findings import RULES, Rule
from mcp_planner_schema.guard.findings_preflight import LEVELS

BEGIN, END = "<!-- findings: written by make findings -->", "<!-- findings: end -->"

_EDIT = "make migrate-validate", "edit the revision as it says; a deploy waits meanwhile, nothing is half done"
_ASK = "make migrate-preflight", "remove the cause that it names first"
_PSQL = 'psql "$DATABASE_URL" -c '

# Command, and what it is for. What is not here is a fault of a file (_EDIT), or asked before a run (_ASK).
NEXT: dict[str, tuple[str, str]] = {
    # The database, or what was kept of it.
    "applied-edited": ("make migrate-status", "shows which; the old text back, or `make migrate-accept VERSION=… REASON=…`"),
    "graph-broken": ("make migrate-validate", "names the files; two with one number: `make migrate-rebase VERSION=…`"),
    "numbering-duplicate": ("make migrate-rebase VERSION=…", "the one that no database has applied gets the next number"),
    "forward-only": ("make migrate-history", "there is no way back: a new revision forward, or the backup"),
    "reversible-false": ("make migrate-down DRY_RUN=1", "shows what would go; the header has to say stash"),
    "downgrade-untried": ("make migrate-down DRY_RUN=1", "after the body's commits are taken out"),
    "rows-not-kept": ("make migrate-down DRY_RUN=1", "after the table has got a primary key"),
    "keys-renumbered": ("make migrate-down DRY_RUN=1", "after the downgrade leaves keys alone"),
    "stash-damaged": ("make migrate-stash-verify", "says what differs; `make migrate-restore VERSION=… ARCHIVE=…` has it whole"),
    "stash-not-let-in": (_PSQL + "'GRANT TEMPORARY ON DATABASE … TO …'", "as the database's owner; the message has the names"),
    "stash-retained": ("make migrate-stash-list", "says from when on it may go"),
    "restore-impossible": ("make migrate-stash-show ID=…", "what there is to give back"),
    "stash-impossible": ("make migrate-down DRY_RUN=1", "what cannot be kept is named; the revision has to leave it"),
    "stash-keyless": ("make migrate-down DRY_RUN=1", "after the table has got a primary key"),
    "archive-impossible": ("ls -ld backups", "the folder is to be yours, mode 700, with room; or the role needs CREATEDB"),
    "hold-limit": ("HOLD_LIMIT=5min make migrate-down", "writers wait so long; ask who writes first"),
    "deadline-missed": ("make migrate-trace VERSION=…", "the step itself is too slow: another way to write it, docs/cookbook.md"),
    "transaction-mismatch": ("make migrate-validate", "Transaction: none in the header"),
    "pooled-connection": ("export DATABASE_URL=postgresql://…", "of the server itself, past the pooler"),
    "external-transaction": ("make migrate-up", "instead of from the application's own transaction"),
    "expectation-empty": ("make migrate-up", "a warning: it goes on"),
    "contract-held": (
        "scripts/production-migrate.sh --contract --reason '…'", "when no older release runs any more",
    ),
    "operation-differs": ("make migrate-doctor", "what is there was made by somebody else, or by hand"),
    "operation-missing": ("make migrate-drift", "somebody has dropped it"),
    "operation-rows": ("make migrate-up", "after the rows that it names are put right"),
    "catalog-differs": ("make migrate-drift", "the database was changed by hand, or the stored catalog is old"),
    "fingerprint-missing": ("make migrate-fingerprint", "and commit what it writes"),
    # Backfills.
    "backfill-differs": ("git log -p alembic/versions", "the former text again until it is done"),
    "downgrade-interrupted": ("make migrate-down", "finishes the way back where it was, then `make migrate-up`"),
    "backfill-row": ("make migrate-up", "after the row that it names is put right; goes on from there"),
    "backfill-function": ("make migrate-up", "after the function is put right; goes on from there"),
    "backfill-unverified": ("make migrate-up", "after it is found who still writes rows the old way"),
    "contract-unverified": ("make migrate-status", "somebody writes rows the old way again: find the release that does"),
    "backfill-hidden-rows": (_PSQL + "'ALTER ROLE … BYPASSRLS'", "as a superuser, then `make migrate-up`"),
    "script-differs": ("git log -p alembic/scripts", "the former text again until it is done"),
    # Preflight, where something other than asking again comes first.
    "server-too-old": (_PSQL + "'SHOW server_version'", "the wrong server, or one to be [upgraded](#upgrading-postgresql)"),
    "server-read-only": (_PSQL + "'SELECT pg_is_in_recovery()'", "true: this is the replica, name the primary"),
    "server-end-of-life": ("make migrate-up", "a warning: it goes on; plan an [upgrade](#upgrading-postgresql)"),
    "server-setting": (_PSQL + "'SHOW ALL'", "a warning: it goes on"),
    "connections-short": (
        _PSQL + "'SELECT application_name, count(*) FROM pg_stat_activity GROUP BY 1 ORDER BY 2 DESC'", "who has them all",
    ),
    "owner-missing": (_PSQL + "'ALTER TABLE … OWNER TO …'", "as its owner or a superuser; or `scripts/roles.sql` anew"),
    "create-denied": (_PSQL + "'GRANT CREATE ON SCHEMA … TO …'", "as the schema's owner"),
    "extension-missing": (_PSQL + "'SELECT name FROM pg_available_extensions'", "its package is to be installed on the server"),
    "extension-denied": (_PSQL + "'CREATE EXTENSION …'", "as a superuser"),
    "table-in-use": ("CANCEL_BLOCKERS=app=… make migrate-up", "ends what that application does; or wait and ask again"),
    "backup-running": ("make migrate-preflight", "again, when the backup is done: never end it"),
    "vacuum-running": ("make migrate-preflight", "again, when the vacuum is done: never end one against wraparound"),
    "transaction-prepared": (_PSQL + "\"ROLLBACK PREPARED '…'\"", "when nobody knows it any more; its owner first"),
    "index-invalid": ("make migrate-doctor", "says how it is built anew"),
    "constraint-violated": ("make migrate-preflight JSON=1", "names rows by their keys: put them right first"),
    "key-near-end": ("make migrate-create KIND=change_type TABLE=… FROM=… TO=… TO_TYPE=bigint", "before this deploy"),
    "disk-short": ("df -h", "on the server's data directory"),
    "backup-missing": ("scripts/production-migrate.sh", "makes one by itself; or see to `backup_check`"),
    "backup-old": ("scripts/production-migrate.sh", "makes one by itself; or see to `backup_check`"),
    "replica-behind": (_PSQL + "'SELECT application_name, replay_lag FROM pg_stat_replication'", "until it has caught up"),
    "replica-missing": (_PSQL + "'SHOW synchronous_standby_names'", "start the replica, or take its name out"),
    "slot-full": (_PSQL + "'SELECT slot_name, active, wal_status FROM pg_replication_slots'", "its reader is to be started"),
    "wraparound-near": (_PSQL + "'VACUUM (FREEZE, VERBOSE) …'", "at once, before anything else"),
    "collation-changed": (_PSQL + "'REINDEX DATABASE CONCURRENTLY …'", "then ALTER … REFRESH VERSION as it says"),
    # Versions.
    "database-ahead": ("make migrate-status", "says which commit to deploy; nothing is wrong with the database"),
    "recover-impossible": ("git log --all -- alembic/versions", "the file is in some branch"),
    "rebase-impossible": ("make migrate-status", "a database has applied it: take it back there first"),
    "stamp-differs": ("make migrate-drift", "what differs; a failed step never needs a stamp"),
    "adopted-otherwise": ("make migrate-drift", "what differs; a checksum alone changes nothing in the database"),
    "stamp-unexplained": ('make migrate-force VERSION=… REASON="…"', "if it is meant; a failed step never needs a stamp"),
    # The environment, and its deploys.
    "environment-differs": ("make config", "says which database this is, and who says so; it may be a copy, or the wrong one"),
    "environment-unsaid": ("make config", "`PLANNER_ENV=production`, if it is that; or `make environment-set ENV=…`"),
    "unconfirmed": ("make config", "which database this is; then the same command with `CONFIRM=` and its name"),
    "not-rehearsed": ("scripts/staging-deploy.sh", "rehearses exactly these revisions; or `--without-rehearsal --reason`"),
    "staging-misplaced": ("make config", "DATABASE_URL is to name a database that may be replaced"),
    "copy-impossible": ("scripts/staging-deploy.sh", "after the cause that it names is gone; production is only read"),
    "mask-unusable": ("scripts/staging-deploy.sh", "after `scripts/staging-masks.toml` is put right as it says"),
    "mask-undecided": ("scripts/staging-deploy.sh", "after each column that it names has a rule in `scripts/staging-masks.toml`"),
    "mask-leaves": ("scripts/staging-deploy.sh", "after the column that it names has a rule too"),
    "rehearsal-failed": ("make migrate-status", "on staging: what failed there would fail in production; read the report"),
    "rehearsal-differs": ("make migrate-trace VERSION=…", "the way back does not lead back: correct the downgrade"),
    "performance-impact": ("make migrate-plan", "which step made it slower; another index, or a recorded reason"),
    "performance-unclear": ("scripts/staging-deploy.sh", "the machine of the copy was busy: once more while it is not"),
    "query-broken": ("make migrate-plan", "a query of the application fails on the new schema: expand first, contract later"),
}  # fmt: skip


def filled(page: str) -> str:
    """The page with its part from the catalogue as it is today. Raises ValueError where the marks are not there."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{_table()}\n{END}{after}"


def _table() -> str:
    rows = [f"| [`{rule.code}`](findings.md#{rule.code}) | {_code(command)} | {why} |" for rule in RULES.values()
            for command, why in [following(rule)]]  # fmt: skip
    return "\n".join(["| finding | command | |", "|---|---|---|", *rows]) + "\n"


def following(rule: Rule) -> tuple[str, str]:
    """The command that follows a finding, and what it is for."""
    if rule.code in NEXT:
        return NEXT[rule.code]
    if rule.code in LEVELS:
        told = LEVELS[rule.code].production == "tells"
        return ("make migrate-up", "a warning: it goes on") if told else _ASK
    return _EDIT


def _code(command: str) -> str:
    return f"`{command}`".replace("|", "\\|")
