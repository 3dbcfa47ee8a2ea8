"""What the guard was told: one frozen value, read once. From where each setting comes: :mod:`.given`; what it may be:
:mod:`.declared`; what differs between environments: :mod:`.environments`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import environments, given
from mcp_planner_schema.guard.declared import duration as duration
from mcp_planner_schema.guard.environments import ENVIRONMENTS as ENVIRONMENTS
from mcp_planner_schema.guard.environments import Environment

if TYPE_CHECKING:
    from alembic.config import Config

    from mcp_planner_schema.guard.given import Reading

_GROUPED = ("budgets", "backfill", "preflight")
"""Fields of :class:`Settings` that are values of their own; the others are named as their settings are."""


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

    ``share`` is how much of the time it takes, all its workers together, while others are at work; 1 is all of it.
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
    share: float = 1.0


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
    A tunnel or a proxy makes a production server look like one of this machine. ``said``: the environment is no guess;
    ``why``: it is one, for this reason.
    """

    url: str | None
    environment: str
    disposable: bool
    said: bool
    why: str
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
    known_urls: str
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

    @property
    def rules(self) -> Environment:
        """What holds in this environment."""
        return environments.of(self.environment)


def load(config: Config, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of ``config`` and ``environ``. Raises :class:`WrongUse` for unknown or dangerous values."""
    read = given.read(config, environ)
    value = {name: _made(one) for name, one in read.values.items()}
    value["url"] = value.pop("database_url") or None
    value["said"] = bool(value["environment"])
    value["environment"], value["why"] = environment(read)
    # The embedded server is nobody else's; of any other somebody has to have said it.
    value["disposable"] = value["environment"] == "development" and (value["said"] or value["url"] is None)
    if value["headers_from"]:
        # "Required from then on" is what headers_from says; before it, a header is judged only where there is one.
        value["headers"] = "optional"
    value["archive_dir"] = value["archive_dir"] or f"{read.here}/backups"
    value["rehearsal_dir"] = value["rehearsal_dir"] or f"{read.here}/rehearsals"
    return Settings(
        budgets=_group(Budgets, "", value),
        backfill=_group(Backfill, "backfill_", value),
        preflight=_group(Preflight, "preflight_", value),
        **{one.name: value[one.name] for one in fields(Settings) if one.name not in _GROUPED},
    )


def environment(read: Reading) -> tuple[str, str]:
    """The environment, and why where it is a guess; raises :class:`WrongUse` where alembic.ini calls itself harmless."""
    named = read.values["environment"]
    if not named.text:
        return environments.guess(read.values["database_url"].text or None, read.variables)
    if named.source == given.INI and not environments.of(named.text).confirms:
        raise named.refused(
            "alembic.ini goes to every machine, and where the production server is reached it would call that so too; say it "
            f"in the environment or in .env ({named.setting.variable})"
        )
    return named.text, ""


def _made(one: given.Given) -> Any:
    try:
        return one.setting.read(one.text)
    except ValueError as error:
        raise one.refused(str(error)) from None


def _group(kind: type[Any], prefix: str, value: Mapping[str, Any]) -> Any:
    """A value of its own; some of its settings are named after it, and some not."""
    named = {one.name: f"{prefix}{one.name}" for one in fields(kind)}
    return kind(**{name: value[setting if setting in value else name] for name, setting in named.items()})
