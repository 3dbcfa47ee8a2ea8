"""``make config``: the value of each setting, and from where it is. Asks no database; secrets are masked."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import address, connect, env_file, given, settings
from mcp_planner_schema.guard.declared import SETTINGS

if TYPE_CHECKING:
    from alembic.config import Config

    from mcp_planner_schema.guard.given import Given, Reading

_SECRET = ("PGPASSWORD", "PGSSLPASSWORD")
_OTHERS = (env_file.ELSEWHERE, "PLANNER_TEST_PG_BINS")
"""Variables with the prefix of the settings that are none."""


@dataclass(frozen=True)
class Shown:
    """One setting, or one of libpq's variables: ``source`` is one of :data:`given.PRECEDENCE`, ``place`` its name there."""

    name: str
    value: str
    source: str
    place: str


@dataclass(frozen=True)
class Configuration:
    """What is in force. ``notes`` are what somebody should know: a misspelt variable, a file that others may read."""

    file: str | None
    settings: tuple[Shown, ...]
    libpq: tuple[Shown, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The same as plain lists and strings."""
        return {"precedence": list(given.PRECEDENCE), **asdict(self)}

    def text(self) -> str:
        """The same for people, one setting a line."""
        rows = [*self.settings, *self.libpq]
        names, values = max(len(one.name) for one in rows), max(min(len(one.value), 40) for one in rows)
        lines = [
            f"{one.name:<{names}}  {one.value or '-':<{values}}  {one.source}{f' ({one.place})' if one.place else ''}"
            for one in rows
        ]
        lines.append(f"\nlooked for in this order: {', '.join(given.PRECEDENCE)}; {self.file or 'no .env'}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def read(config: Config, environ: Mapping[str, str] = os.environ) -> Configuration:
    """Every setting with its source. Raises :class:`WrongUse` for what a run would be refused for."""
    settings.load(config, environ)
    found = given.read(config, environ)
    return Configuration(
        str(found.file.path) if found.file.path else None,
        tuple(_shown(one, found) for one in found.values.values()),
        tuple(_libpq(found, environ)),
        tuple(_notes(found)),
    )


def _shown(one: Given, found: Reading) -> Shown:
    name = one.setting.name
    if name == "environment":
        value, why = settings.environment(found)
        return Shown(name, value, one.source, one.place or why)
    if one.setting.secret:
        return Shown(name, " ".join(map(_masked, one.text.split())), one.source, one.place)
    return Shown(name, connect.masked(one.text, None), one.source, one.place)


def _masked(url: str) -> str:
    try:
        made = address.parse(url)
    except ValueError:
        return "*** (no database URL)"
    return connect.masked(made.render_as_string(hide_password=True), made)


def _libpq(found: Reading, environ: Mapping[str, str]) -> list[Shown]:
    """What libpq itself reads where the URL leaves something out."""
    shown = []
    for name, value in sorted(found.variables.items()):
        if re.fullmatch("PG[A-Z_]+", name):
            from_file = env_file.exported(name, value) or name not in environ
            source = given.ENV_FILE if from_file else given.ENVIRONMENT
            shown.append(Shown(name, "***" if name in _SECRET else connect.masked(value, None), source, ""))
    return shown


def _notes(found: Reading) -> list[str]:
    known = {one.variable for one in SETTINGS.values()}
    notes = [found.file.warning] if found.file.warning else []
    for name in sorted(found.variables):
        if name.startswith("PLANNER_") and name not in known and name not in _OTHERS:
            near = difflib.get_close_matches(name, known, 1, 0.8)
            notes.append(f"{name} is no setting" + (f"; is {near[0]} meant?" if near else ""))
    return notes
