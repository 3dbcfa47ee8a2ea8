"""What a command is, and what whoever types it may allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.declared import SETTINGS

if TYPE_CHECKING:
    from alembic.config import Config

_OWN = Path(__file__).resolve().parent.parent.parent
ROOT = Path.cwd() if (Path.cwd() / "alembic.ini").is_file() else _OWN
"""The project: the folder that a command is typed in, or, from elsewhere, the checkout that the package belongs to."""

Values = Mapping[str, str]
ALLOWED = ("PHASE", "HOLD_LIMIT", "CANCEL_BLOCKERS", "WORKERS", "PROGRESS", "PREFLIGHT_ACCEPT")
"""What whoever runs it allows for once; the guard reads them from ``config.attributes``, or from ``-x`` of ``alembic``."""


@dataclass(frozen=True)
class Command:
    """One command: what it does, which ``NAME=value`` it needs and takes, and an example of its right form."""

    does: Callable[[Config, Values], int]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    form: str = ""


def allow(config: Config, values: Values) -> None:
    """Hand over to the guard what this run is allowed."""
    for key in ALLOWED:
        config.attributes[key.lower()] = values.get(key)
    config.attributes["reason"] = values.get("REASON")
    config.attributes["confirm"] = values.get("CONFIRM")


def typed(name: str, values: Values, given: Values) -> str:
    """The command as it was typed, to be printed where it is to be typed again. A reason may be long, and is left out."""
    told = [f"{key}={value}" for key, value in values.items() if key != "REASON"]
    return " ".join([f"make {name}", *told, *(f"{SETTINGS[key].variable}={value}" for key, value in given.items())])


def form(name: str, command: Command, given: Values | None = None) -> str:
    """How a command is typed: an example, with what was ``given`` in the place of its own values."""
    words = command.form.split()
    for key in command.needs:
        if given and given.get(key, "").strip():
            example = next((word.partition("=")[2] for word in words if word.startswith(f"{key}=")), "")
            # What has to be typed once more for this one names it by its number.
            words = [
                f"{key}={given[key]}" if word == f"{key}={example}" else word.replace(f"_{example}", f"_{given[key]}")
                for word in words
            ]
    return " ".join([f"make {name}", *words])
