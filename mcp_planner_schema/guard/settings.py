"""What the guard was told: one frozen value, read once.

Precedence, highest first: the environment variable, ``[guard]`` in alembic.ini, the default below. The database is named
by ``DATABASE_URL``, else by ``sqlalchemy.url``, else the embedded server of ``embedded`` is used.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.findings import WrongUse

if TYPE_CHECKING:
    from alembic.config import Config

ENVIRONMENTS = ("development", "staging", "production")
_UNITS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000}
_PLACEHOLDER_URL = "driver://user:pass@localhost/dbname"
_DEFAULTS = {
    "headers": "optional",
    "headers_from": "",
    "type_words": "create, add, alter, drop, rename, move, split, merge, fill, seed, backfill, validate, remove, replace",
    "allowed_imports": "",
    "on_version_apply": "",
    "deadline": "200ms",
    "lock_timeout": "200ms",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "60s",
    "online_timeout": "24h",
    "hold_limit": "10s",
    "lock_attempts": "41",
    "deploy_lock_timeout": "10min",
    "schema": "migration",
    "inline_rows": "10000",
    "backfill_target": "200ms",
    "backfill_lag": "10s",
    "backfill_hold": "10min",
    "backfill_lag_except": "",
    "backfill_slot_wal": "5GB",
    "backfill_archive_queue": "64",
    "backfill_dead_tuples": "0.6",
    "stash_retention": "90d",
    "stash_move_above": "100MB",
    "stash_timeout": "10min",
    "embedded": "",
    "archive": "auto",
    "archive_dir": "",
    "archive_check_url": "",
    "pg_bin": "",
    "preflight_transaction": "5min",
    "preflight_timeout": "10s",
    "disk_limit": "",
    "backup_check": "",
    "backup_age": "24h",
    "backup_timeout": "30s",
    "metrics_file": "",
    "metrics_push": "",
    "metrics_listen": "",
    "log_format": "text",
    "sensitive_log": "",
    "rehearsal_dir": "",
    "rehearsal_age": "7d",
}
# Where a machine may differ from the one beside it. What is archived at all is no matter of one shell.
_VARIABLES = {
    "archive_dir": "PLANNER_ARCHIVE_DIR",
    "archive_check_url": "PLANNER_ARCHIVE_CHECK_URL",
    "pg_bin": "PLANNER_PG_BIN",
    "backup_check": "PLANNER_BACKUP_CHECK",
    "metrics_file": "PLANNER_METRICS_FILE",
    "metrics_push": "PLANNER_METRICS_PUSH",
    "metrics_listen": "PLANNER_METRICS_LISTEN",
    "log_format": "PLANNER_LOG_FORMAT",
    "sensitive_log": "PLANNER_SENSITIVE_LOG",
    "rehearsal_dir": "PLANNER_REHEARSAL_DIR",
}


@dataclass(frozen=True)
class Budgets:
    """How long one step may wait, work and sit still, each in milliseconds and never 0 (0 means "for ever" there).

    ``deadline`` goes from the step's first strong lock to its COMMIT, see :mod:`.deadline`; ``online_timeout`` is for one
    statement that nobody waits behind, see :func:`.budget.online`. The others are the server's settings of that name.
    """

    deadline: int
    lock_timeout: int
    statement_timeout: int
    idle_in_transaction_session_timeout: int
    online_timeout: int


@dataclass(frozen=True)
class Backfill:
    """What a backfill may do to others, in milliseconds: how long a batch is to take, how far a replica's replay may lie behind,
    and how long it gives way at once to what may never end (a vacuum of the table).

    ``lag_except`` are replicas that may lie behind, ``slot_wal`` bytes that a slot may keep of the WAL written meanwhile,
    ``archive_queue`` segments that may wait to be archived, ``dead_tuples`` the share of a table's rows that may be dead.
    """

    target: int
    lag: int
    hold: int
    lag_except: tuple[str, ...] = ()
    slot_wal: int | None = 5 * 1024**3
    archive_queue: int = 64
    dead_tuples: float = 0.6


@dataclass(frozen=True)
class Preflight:
    """What is asked before a run, in milliseconds: how long others may be in a transaction, how long rows are counted, how old
    the newest backup may be (None: nobody asks for one), how long ``backup_check`` may take. ``disk_limit`` is in bytes.
    """

    transaction: int
    timeout: int
    disk_limit: int | None
    backup_check: str
    backup_age: int | None
    backup_timeout: int


@dataclass(frozen=True)
class Settings:
    """Everything the guard decides by. ``url`` is None when nothing names a database and ``embedded`` is to be used.

    ``disposable``: the environment is development, and that is no guess: somebody has said so, or it is the embedded server.
    A tunnel or a proxy makes a production server look like one of this machine.
    """

    url: str | None
    environment: str
    disposable: bool
    headers: str
    headers_from: str
    type_words: tuple[str, ...]
    allowed_imports: tuple[str, ...]
    on_version_apply: tuple[str, ...]
    budgets: Budgets
    hold_limit: int
    lock_attempts: int
    deploy_lock_timeout: int
    backfill: Backfill
    schema: str
    inline_rows: int
    stash_retention: int
    stash_move_above: int | None
    stash_timeout: int
    embedded: str
    archive: str
    archive_dir: str
    archive_check_url: str
    pg_bin: str
    preflight: Preflight
    metrics_file: str
    metrics_push: str
    metrics_listen: str
    log_format: str
    sensitive_log: str
    rehearsal_dir: str
    rehearsal_age: int

    @property
    def measured(self) -> bool:
        """Whether anybody asks for metrics of a run."""
        return bool(self.metrics_file or self.metrics_push or self.metrics_listen)


def duration(text: str) -> int:
    """Milliseconds in ``200ms``, ``30s``, ``10min`` or ``1h``. Raises ValueError for anything else, and for zero."""
    match = re.fullmatch(r"([0-9]+)\s*(ms|s|min|h)", text.strip())
    if match is None:
        raise ValueError("a duration is a number with its unit: 200ms, 30s, 10min, 1h")
    value = int(match[1]) * _UNITS[match[2]]
    if value == 0:
        raise ValueError("0 means 'wait for ever' to PostgreSQL, and everyone behind the waiting statement waits too")
    if value > 2**31 - 1:
        raise ValueError("PostgreSQL counts in milliseconds, up to 24 days")
    return value


def load(config: Config, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read ``[guard]`` of ``config`` and ``environ``. Raises :class:`WrongUse` for unknown or dangerous values."""
    try:
        given = config.get_section("guard") or {}
        url = _url(config, environ)
    except configparser.Error as error:
        # What ConfigParser says of a percent sign quotes the value, which may be half a password.
        problem = str(error).splitlines()[0]
        if isinstance(error, configparser.InterpolationError):
            problem = f"[{error.section}], {error.option}. A percent sign is written %% there"
        raise WrongUse(
            f"alembic.ini cannot be read: {problem}.", "correct alembic.ini, then repeat the command"
        ) from None
    # ConfigParser mixes [DEFAULT] and %(here)s into every section.
    unknown = set(given) - set(_DEFAULTS) - set(config.file_config.defaults())
    if unknown:
        raise WrongUse(
            f"alembic.ini, [guard]: unknown setting {sorted(unknown)[0]!r}. A misspelt setting is one that is not in "
            f"force. Known are: {', '.join(_DEFAULTS)}.",
            "correct [guard] in alembic.ini, then repeat the command",
        )
    value = {name: given.get(name, default).strip() for name, default in _DEFAULTS.items()}
    value |= {name: said for name, variable in _VARIABLES.items() if (said := environ.get(variable, "").strip())}
    if value["headers"] not in ("required", "optional"):
        raise _refused("headers", value["headers"], "it is 'required' or 'optional'")
    if not re.fullmatch(r"migration[a-z0-9_]*", value["schema"]):
        raise _refused(
            "schema", value["schema"], "its name begins with 'migration', lower case, so that nobody mistakes it"
        )
    if not re.fullmatch(r"[1-9]\d{0,3}", value["lock_attempts"]):
        raise _refused("lock_attempts", value["lock_attempts"], "it is a number from 1 to 9999")
    if not re.fullmatch(r"\d{1,9}", value["inline_rows"]):
        raise _refused("inline_rows", value["inline_rows"], "it is a number of rows")
    for days in ("stash_retention", "rehearsal_age"):
        if not re.fullmatch(r"[1-9]\d{0,4}d", value[days]):
            raise _refused(days, value[days], "it is a number of days: 90d")
    if value["archive"] not in ("auto", "always"):
        raise _refused(
            "archive", value["archive"], "it is 'auto' or 'always'; staging and production never go back without one"
        )
    if not re.fullmatch(r"never|\d{1,6}\s*(kB|MB|GB)", value["stash_move_above"]):
        raise _refused("stash_move_above", value["stash_move_above"], "it is a size (64kB, 100MB, 1GB), or never")
    if not re.fullmatch(r"never|\d{1,6}\s*(kB|MB|GB)", value["backfill_slot_wal"]):
        raise _refused("backfill_slot_wal", value["backfill_slot_wal"], "it is a size (64MB, 5GB), or never")
    if not re.fullmatch(r"[1-9]\d{0,5}", value["backfill_archive_queue"]):
        raise _refused("backfill_archive_queue", value["backfill_archive_queue"], "it is a number of WAL segments: 64")
    if not re.fullmatch(r"0\.\d?[1-9]", value["backfill_dead_tuples"]):
        raise _refused("backfill_dead_tuples", value["backfill_dead_tuples"], "it is a share of the rows: 0.6")
    type_words = _words(value["type_words"])
    if not type_words or not all(re.fullmatch("[a-z]+", word) for word in type_words):
        raise _refused("type_words", value["type_words"], "it is a list of words in lower case, a to z")
    environment = _environment(environ, url)
    return Settings(
        url=url,
        environment=environment,
        disposable=environment == "development" and (url is None or bool(environ.get("PLANNER_ENV", "").strip())),
        # "Required from then on" is what headers_from says; before it, a header is judged only where there is one.
        headers="optional" if value["headers_from"] else value["headers"],
        headers_from=value["headers_from"],
        type_words=type_words,
        allowed_imports=_words(value["allowed_imports"]),
        on_version_apply=_words(value["on_version_apply"]),
        budgets=Budgets(*(_milliseconds(field.name, value) for field in fields(Budgets))),
        hold_limit=_milliseconds("hold_limit", value),
        lock_attempts=int(value["lock_attempts"]),
        deploy_lock_timeout=_milliseconds("deploy_lock_timeout", value),
        backfill=_backfill(value),
        schema=value["schema"],
        inline_rows=int(value["inline_rows"]),
        stash_retention=int(value["stash_retention"].removesuffix("d")),
        stash_move_above=_bytes(value["stash_move_above"]),
        stash_timeout=_milliseconds("stash_timeout", value),
        embedded=value["embedded"],
        archive=value["archive"],
        archive_dir=value["archive_dir"] or f"{given.get('here', '.')}/backups",
        archive_check_url=value["archive_check_url"],
        pg_bin=value["pg_bin"],
        preflight=_preflight(value),
        rehearsal_dir=value["rehearsal_dir"] or f"{given.get('here', '.')}/rehearsals",
        rehearsal_age=int(value["rehearsal_age"].removesuffix("d")),
        **_watching(value),
    )


def _backfill(value: Mapping[str, str]) -> Backfill:
    return Backfill(
        target=_milliseconds("backfill_target", value),
        lag=_milliseconds("backfill_lag", value),
        hold=_milliseconds("backfill_hold", value),
        lag_except=_words(value["backfill_lag_except"]),
        slot_wal=_bytes(value["backfill_slot_wal"]),
        archive_queue=int(value["backfill_archive_queue"]),
        dead_tuples=float(value["backfill_dead_tuples"]),
    )


def _preflight(value: Mapping[str, str]) -> Preflight:
    if not re.fullmatch(r"|\d{1,6}\s*(kB|MB|GB)", value["disk_limit"]):
        raise _refused("disk_limit", value["disk_limit"], "it is a size (500MB, 50GB), or nothing")
    if value["backup_check"]:
        import shlex

        try:
            shlex.split(value["backup_check"])
        except ValueError as error:
            raise _refused(
                "backup_check", value["backup_check"], f"it is a command and its arguments: {error}"
            ) from None
    return Preflight(
        transaction=_milliseconds("preflight_transaction", value),
        timeout=_milliseconds("preflight_timeout", value),
        disk_limit=_bytes(value["disk_limit"]) if value["disk_limit"] else None,
        backup_check=value["backup_check"],
        backup_age=None if value["backup_age"] == "never" else _milliseconds("backup_age", value),
        backup_timeout=_milliseconds("backup_timeout", value),
    )


def _watching(value: Mapping[str, str]) -> dict[str, str]:
    if value["metrics_file"] and not re.fullmatch(r"/.*\.prom", value["metrics_file"]):
        raise _refused(
            "metrics_file", value["metrics_file"],
            "it is an absolute path that ends in .prom: node_exporter's textfile collector reads no other",
        )  # fmt: skip
    if value["metrics_push"] and not re.fullmatch(r"https?://[^\s/@]+(/[^\s@]*)?", value["metrics_push"]):
        raise _refused("metrics_push", "…", "it is http://host:9091, without user and password")
    if not re.fullmatch(r"|(\[[0-9a-fA-F:.]+\]|[\w.-]*):\d{1,5}", value["metrics_listen"]):
        raise _refused("metrics_listen", value["metrics_listen"], "it is host:port, such as 127.0.0.1:9187")
    if value["log_format"] not in ("text", "json"):
        raise _refused("log_format", value["log_format"], "it is 'text' or 'json'")
    if value["sensitive_log"] and not value["sensitive_log"].startswith("/"):
        raise _refused("sensitive_log", value["sensitive_log"], "it is an absolute path")
    names = ("metrics_file", "metrics_push", "metrics_listen", "log_format", "sensitive_log")
    return {name: value[name] for name in names}


def _url(config: Config, environ: Mapping[str, str]) -> str | None:
    # DATABASE_URL never passes through ConfigParser: a % in a password stays what it is.
    url = environ.get("DATABASE_URL", "").strip() or (config.get_main_option("sqlalchemy.url") or "").strip()
    return None if url in ("", _PLACEHOLDER_URL) else url


def _environment(environ: Mapping[str, str], url: str | None) -> str:
    named = environ.get("PLANNER_ENV", "").strip()
    if named and named not in ENVIRONMENTS:
        raise WrongUse(
            f"PLANNER_ENV is {named!r}; known are {', '.join(ENVIRONMENTS)}.",
            "export PLANNER_ENV=development (or staging, production), then repeat the command",
        )
    if named:
        return named
    # Unset with a host that is not this machine means production: the careful guess.
    return "development" if url is None or all(map(_is_local, _hosts(environ, url))) else "production"


def _hosts(environ: Mapping[str, str], url: str) -> list[str]:
    """Every host libpq would try: those of the URL, else those of its own variables. None means the local socket."""
    from mcp_planner_schema.guard import address

    try:
        made = address.parse(url)
    except ValueError:
        return ["unknown"]
    query = made.normalized_query
    hosts = [*filter(None, [made.host]), *query.get("host", ()), *query.get("hostaddr", ())]
    hosts = hosts or [value for name in ("PGHOST", "PGHOSTADDR") if (value := environ.get(name))]
    if "service" in query or environ.get("PGSERVICE"):
        hosts.append("a service file's")
    return [host.strip() for names in hosts for host in names.split(",")]


def _is_local(host: str) -> bool:
    # A path, or @ and a name, is a socket of this machine.
    return re.fullmatch(r"|localhost|\[?::1\]?|127(\.[0-9]+){3}|[/@].*", host, re.IGNORECASE) is not None


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[,\s]+", text) if word)


def _bytes(text: str) -> int | None:
    if text == "never":
        return None
    return int(text[:-2]) * {"kB": 1024, "MB": 1024**2, "GB": 1024**3}[text[-2:]]


def _milliseconds(name: str, value: Mapping[str, str]) -> int:
    try:
        return duration(value[name])
    except ValueError as error:
        raise _refused(name, value[name], str(error)) from None


def _refused(name: str, value: str, problem: str) -> WrongUse:
    return WrongUse(
        f"alembic.ini, [guard]: {name} = {value or 'nothing'}: {problem}.",
        f"write {name} = {_DEFAULTS[name] or '…'} below [guard] in alembic.ini, then repeat the command",
    )
