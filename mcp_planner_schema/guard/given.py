"""Where each setting's value comes from. The order is written here, and nowhere else: :data:`PRECEDENCE`."""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import address, env_file
from mcp_planner_schema.guard.declared import SETTINGS, Setting
from mcp_planner_schema.guard.findings import WrongUse

if TYPE_CHECKING:
    from alembic.config import Config

FLAG, ENVIRONMENT, ENV_FILE, INI, DEFAULT = PRECEDENCE = ("flag", "environment", ".env", "alembic.ini", "default")
"""Where a value is looked for, in this order: the first that has one counts."""
ATTRIBUTE = "settings"
"""Values in ``config.attributes`` that count as flags, by the settings' names."""
_PLACEHOLDER_URL = "driver://user:pass@localhost/dbname"


def dots(text: str) -> bool:
    """Whether somebody has typed the dots that stand for a value in a message."""
    return bool(text.strip()) and not text.strip(" .…")


@dataclass(frozen=True)
class Given:
    """One setting's text, and from where it is."""

    setting: Setting
    text: str
    source: str

    @property
    def place(self) -> str:
        """How it is called there; empty for a default."""
        section, name = self.setting.ini
        return {
            FLAG: f"-x {self.setting.name}",
            ENVIRONMENT: self.setting.variable,
            ENV_FILE: self.setting.variable,
            INI: f"[{section}] {name}",
        }.get(self.source, "")

    def refused(self, problem: str) -> WrongUse:
        """The error that says what is wrong with it, and where it is to be corrected."""
        name, variable = self.setting.name, self.setting.variable
        shown = "…" if self.setting.secret else self.text
        right = self.setting.default or "…"
        if self.source in (INI, DEFAULT):
            return WrongUse(
                f"alembic.ini, [guard]: {name} = {shown or 'nothing'}: {problem}.",
                f"write {name} = {right} below [guard] in alembic.ini, then repeat the command",
            )
        command = {
            FLAG: f"alembic -x {name}={right} … (or make … {variable}={right})",
            ENVIRONMENT: f"export {variable}={right}, then repeat the command",
            ENV_FILE: f"correct {variable} in {env_file.NAME}, then repeat the command",
        }[self.source]
        where = f" ({env_file.NAME})" if self.source == ENV_FILE else ""
        return WrongUse(f"{self.place}{where} is {shown!r}; {problem}.", command)


@dataclass(frozen=True)
class Reading:
    """Every setting as it was given, the file ``.env``, the environment with what that adds, and alembic.ini's folder."""

    values: Mapping[str, Given]
    file: env_file.EnvFile
    variables: Mapping[str, str]
    here: Path


def read(config: Config, environ: Mapping[str, str] = os.environ) -> Reading:
    """Look for every setting. Judges no value; raises :class:`WrongUse` for what is unknown or cannot be read."""
    try:
        ini, here = _ini(config)
    except configparser.Error as error:
        # What ConfigParser says of a percent sign quotes the value, which may be half a password.
        problem = str(error).splitlines()[0]
        if isinstance(error, configparser.InterpolationError):
            problem = f"[{error.section}], {error.option}. A percent sign is written %% there"
        raise WrongUse(
            f"alembic.ini cannot be read: {problem}.", "correct alembic.ini, then repeat the command"
        ) from None
    file = env_file.read(here if config.config_file_name else None, environ)
    env_file.warn(file)
    if environ is os.environ:
        env_file.export(file, os.environ)
    found = {
        FLAG: _flags(config),
        ENVIRONMENT: _variables(environ),
        ENV_FILE: _variables(file.values),
        INI: ini,
        DEFAULT: {name: one.default for name, one in SETTINGS.items()},
    }
    values = {
        name: next(Given(one, found[source][name], source) for source in PRECEDENCE if name in found[source])
        for name, one in SETTINGS.items()
    }
    return Reading(values, file, {**file.values, **environ}, here)


def _flags(config: Config) -> dict[str, str]:
    """``-x lock_timeout=1s``, and what make was given. Raises :class:`WrongUse` for an empty one, or one with a password."""
    typed = (one.partition("=") for one in getattr(config.cmd_opts, "x", None) or ())
    found = {name: text.strip() for name, equals, text in typed if equals and name in SETTINGS}
    found |= config.attributes.get(ATTRIBUTE, {})
    for name, text in found.items():
        if not text:
            raise WrongUse(f"-x {name} is empty. Leave it out, or say which is meant.", f"alembic -x {name}=… …")
        if SETTINGS[name].secret and _has_password(text):
            variable = SETTINGS[name].variable
            raise WrongUse(
                f"-x {name} has a password in it: whoever may list the processes of this machine sees it there.",
                f"put it into ~/.pgpass, or {variable} into the environment or {env_file.NAME}, then repeat the command",
            )
    return found


def _has_password(text: str) -> bool:
    for word in text.split():
        try:
            made = address.parse(word)
        except ValueError:
            continue
        if made.password or "password" in made.query:
            return True
    return False


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    # Set and empty is not set: `PLANNER_ENV=` in a shell means nothing.
    said = ((name, environ.get(one.variable, "").strip()) for name, one in SETTINGS.items())
    return {name: text for name, text in said if text}


def _ini(config: Config) -> tuple[dict[str, str], Path]:
    section = config.get_section("guard") or {}
    here = Path(config.config_file_name).absolute().parent if config.config_file_name else Path()
    known = [name for name, one in SETTINGS.items() if one.ini[0] == "guard"]
    # ConfigParser mixes [DEFAULT] and %(here)s into every section.
    unknown = set(section) - set(known) - set(config.file_config.defaults())
    if unknown:
        raise WrongUse(
            f"alembic.ini, [guard]: unknown setting {sorted(unknown)[0]!r}. A misspelt setting is one that is not in "
            f"force. Known are: {', '.join(known)}.",
            "correct [guard] in alembic.ini, then repeat the command",
        )
    found = {name: section[name].strip() for name in known if name in section}
    _refuse_several(str(config.get_alembic_option("databases", "")))
    url = str(config.get_alembic_option("sqlalchemy.url", "")).strip()  # also where there is a pyproject.toml alone
    if url != _PLACEHOLDER_URL:
        found["database_url"] = url
    # `pg_bin =` is how alembic.ini shows that there is such a setting.
    return {name: text for name, text in found.items() if text or SETTINGS[name].default}, here


def _refuse_several(databases: str) -> None:
    """Raise :class:`WrongUse` where one run would migrate several databases, as Alembic's template ``multidb`` does."""
    names = [name.strip() for name in databases.split(",") if name.strip()]
    if names:
        raise WrongUse(
            f"alembic.ini names several databases (databases = {', '.join(names)}). The guard migrates one in a run, and each "
            f"has revisions of its own: upgrade(), not upgrade_{names[0]}().",
            f"write a section for each ([{names[0]}] with script_location and sqlalchemy.url), then "
            f"alembic --name {names[0]} upgrade head",
        )
