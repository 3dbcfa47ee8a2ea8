"""What there is to set: each setting with its default, and what a value of it has to be. Nothing is read here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mcp_planner_schema.guard.environments import ENVIRONMENTS

_UNITS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000}
_SIZES = {"kB": 1024, "MB": 1024**2, "GB": 1024**3}


@dataclass(frozen=True)
class Setting:
    """One setting. ``read`` makes of its text what the guard works with, or raises ValueError with the reason.

    The value of a ``secret`` one may hold a password: it is masked wherever it is shown, and kept off command lines.
    """

    name: str
    default: str
    read: Callable[[str], Any] = str
    secret: bool = False
    called: str = ""

    @property
    def variable(self) -> str:
        """Its name in the environment, in ``.env``, and given to make."""
        return self.called or f"PLANNER_{self.name.upper()}"

    @property
    def ini(self) -> tuple[str, str]:
        """Its section and its name in alembic.ini."""
        return ("alembic", "sqlalchemy.url") if self.name == "database_url" else ("guard", self.name)


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


def _until(most: str, why: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = duration(text)
        if value > duration(most):
            raise ValueError(f"more than {most} is dangerous: {why}")
        return value

    return read


def _or(word: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """``word`` stands for none at all."""
    return lambda text: None if text == word else read(text)


def _of(pattern: str, what: str, make: Callable[[str], Any] = str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if not re.fullmatch(pattern, text):
            raise ValueError(what)
        return make(text)

    return read


def _size(what: str) -> Callable[[str], int]:
    return _of(r"\d{1,6}\s*(kB|MB|GB)", what, lambda text: int(text[:-2]) * _SIZES[text[-2:]])


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[,\s]+", text) if word)


def _type_words(text: str) -> tuple[str, ...]:
    words = _words(text)
    if not words or not all(re.fullmatch("[a-z]+", word) for word in words):
        raise ValueError("it is a list of words in lower case, a to z")
    return words


def _command(text: str) -> str:
    import shlex

    try:
        shlex.split(text)
    except ValueError as error:
        raise ValueError(f"it is a command and its arguments: {error}") from None
    return text


_KNOWN = f"known are {', '.join(ENVIRONMENTS)}"
_BEHIND = "who waits behind a step waits as long, readers too"
_HELD = "the tables are locked meanwhile"
_DAYS = _of(r"[1-9]\d{0,4}d", "it is a number of days: 90d", lambda text: int(text.removesuffix("d")))
_ALL = (
    Setting("database_url", "", secret=True, called="DATABASE_URL"),
    Setting("environment", "", _of("|".join(("", *ENVIRONMENTS)), _KNOWN), called="PLANNER_ENV"),
    # --- what a revision has to be ---
    Setting("headers", "optional", _of("required|optional", "it is 'required' or 'optional'")),
    Setting("headers_from", ""),
    Setting(
        "type_words",
        "create, add, alter, drop, rename, move, split, merge, fill, seed, backfill, validate, remove, replace",
        _type_words,
    ),
    Setting("allowed_imports", "", _words),
    Setting("on_version_apply", "", _words),
    # --- how long a step may take ---
    Setting("deadline", "200ms", _until("5min", _BEHIND)),
    Setting("lock_timeout", "200ms", _until("1h", _BEHIND)),
    Setting("statement_timeout", "30s", duration),
    Setting("idle_in_transaction_session_timeout", "60s", _until("1h", "a step that sits still holds its locks")),
    Setting("online_timeout", "24h", duration),
    Setting("hold_limit", "10s", _until("1h", _HELD)),
    Setting("lock_attempts", "41", _of(r"[1-9]\d{0,3}", "it is a number from 1 to 9999", int)),
    Setting("deploy_lock_timeout", "10min", duration),
    Setting("inline_rows", "10000", _of(r"\d{1,9}", "it is a number of rows", int)),
    # --- where ---
    Setting(
        "schema", "migration",
        _of("migration[a-z0-9_]*", "its name begins with 'migration', lower case, so that nobody mistakes it"),
    ),
    Setting("embedded", ""),
    # --- what a backfill may do to others ---
    Setting("backfill_target", "200ms", duration),
    Setting(
        "backfill_share", "0.03",
        _of(r"1(\.0)?|0\.(\d?[1-9]|[1-9]0)", "it is a share of the time: 0.03, or 1 for all of it", float),
    ),
    Setting("backfill_lag", "10s", duration),
    Setting("backfill_hold", "10min", duration),
    Setting("backfill_lag_except", "", _words),
    Setting("backfill_slot_wal", "5GB", _or("never", _size("it is a size (64MB, 5GB), or never"))),
    Setting("backfill_archive_queue", "64", _of(r"[1-9]\d{0,5}", "it is a number of WAL segments: 64", int)),
    Setting("backfill_dead_tuples", "0.6", _of(r"0\.\d?[1-9]", "it is a share of the rows: 0.6", float)),
    # --- what going back keeps ---
    Setting("stash_retention", "90d", _DAYS),
    Setting("stash_move_above", "100MB", _or("never", _size("it is a size (64kB, 100MB, 1GB), or never"))),
    Setting("stash_timeout", "10min", duration),
    Setting(
        "archive", "auto",
        _of("auto|always", "it is 'auto' or 'always'; staging and production never go back without one"),
    ),
    Setting("archive_dir", ""),
    Setting("archive_check_url", "", secret=True),
    Setting("pg_bin", ""),
    # --- what is asked before a run ---
    Setting("preflight_transaction", "5min", duration),
    Setting("preflight_timeout", "10s", duration),
    Setting("disk_limit", "", _or("", _size("it is a size (500MB, 50GB), or nothing"))),
    Setting("backup_check", "", _command),
    Setting("backup_age", "24h", _or("never", duration)),
    Setting("backup_timeout", "30s", duration),
    # --- who is told of runs, and what was rehearsed ---
    Setting(
        "metrics_file", "",
        _of(r"|/.*\.prom", "it is an absolute path that ends in .prom: node_exporter's textfile collector reads no other"),
    ),
    Setting(
        "metrics_push", "", _of(r"|https?://[^\s/@]+(/[^\s@]*)?", "it is http://host:9091, without user and password"),
        secret=True,
    ),
    Setting(
        "metrics_listen", "",
        _of(r"|(\[[0-9a-fA-F:.]+\]|[\w.-]*):\d{1,5}", "it is host:port, such as 127.0.0.1:9187"),
    ),
    Setting("log_format", "text", _of("text|json", "it is 'text' or 'json'")),
    Setting("sensitive_log", "", _of("|/.*", "it is an absolute path")),
    Setting("rehearsal_dir", ""),
    Setting("rehearsal_age", "7d", _DAYS),
    # --- other databases that migrate-rebase asks ---
    Setting("known_urls", "", secret=True),
)  # fmt: skip


SETTINGS = {one.name: one for one in _ALL}
"""Every setting by its name."""
