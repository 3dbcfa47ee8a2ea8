"""The commands behind ``make migrate-…``: ``python -m mcp_planner_schema <command> [NAME=value …]``.

Each prepares what Alembic needs and calls Alembic, or asks ``inspect`` and prints. Exit codes: 0 done, 1 broken, 2 wrong
use, 3 refused, 75 busy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.cli import ask, change, config, development, kept, other_tools, rehearsed, report, start, write
from mcp_planner_schema.cli.command import ALLOWED, ROOT, Command, Values, form, typed
from mcp_planner_schema.guard import saying
from mcp_planner_schema.guard.declared import SETTINGS
from mcp_planner_schema.guard.findings import BROKEN, BUSY, WRONG_USE, GuardError, WrongUse
from mcp_planner_schema.guard.given import dots

if TYPE_CHECKING:
    from alembic.config import Config

COMMANDS: dict[str, Command] = {
    **change.COMMANDS,
    **ask.COMMANDS,
    **report.COMMANDS,
    **rehearsed.COMMANDS,
    **kept.COMMANDS,
    **write.COMMANDS,
    **other_tools.COMMANDS,
    **development.COMMANDS,
    **config.COMMANDS,
}
COMMANDS |= start.commands(COMMANDS)
_VARIABLES = {one.variable: name for name, one in SETTINGS.items()}


def console() -> int:
    """``mcp-planner-schema``, as it is installed."""
    return main(sys.argv[1:])


def main(arguments: Sequence[str]) -> int:
    """Run one command and give its exit code. Errors are printed to stderr, each with the command to type next."""
    from alembic.util import CommandError

    command = None
    try:
        name, command, values, given = _parse(arguments)
        return command.does(_config(typed(name, values, given), given), values)
    except GuardError as error:
        saying.last(error)
        return error.code
    except CommandError as error:  # Alembic's own word, outside env.py
        print(f"{error}\n\nnext: make migrate-status", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt as stop:
        again = typed(name, values, given) if command else "make help"
        told = (
            str(stop) if " " in str(stop) else f"Stopped{f' by {stop}' if str(stop) else ''}; what is finished stays."
        )
        print(f"{told}\n\nnext: {again}", file=sys.stderr)
        return BUSY
    except BrokenPipeError:  # … | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN


def _parse(arguments: Sequence[str]) -> tuple[str, Command, Values, Values]:
    """The command, what it was given, and the settings that were given along, by their names."""
    if not arguments or arguments[0] not in COMMANDS:
        known = "\n".join(f"  {form(name, one)}" for name, one in COMMANDS.items())
        said = f"There is no command {arguments[0]!r}." if arguments else "Which command?"
        raise WrongUse(f"{said} Known are:\n{known}", "make help")
    name, command = arguments[0], COMMANDS[arguments[0]]
    values: dict[str, str] = {}
    given: dict[str, str] = {}
    for argument in arguments[1:]:
        if argument.startswith(
            "--make="
        ):  # make hands over the name; the value is in the environment, read by no shell
            key = argument.removeprefix("--make=")
            value = os.environ.get(key, "")
        else:
            key, equals, value = argument.partition("=")
            if not equals:
                raise WrongUse(f"{argument!r} is not of the form NAME=value.", form(name, command))
        if key not in command.needs + command.takes + tuple(_VARIABLES):
            raise WrongUse(f"{name} knows no {key}.", form(name, command))
        if not value.strip() and key not in command.needs:
            raise WrongUse(f"{key} is empty. Leave it out, or say which is meant.", form(name, command))
        if key in command.needs + command.takes:
            values[key] = value
        else:
            given[_VARIABLES[key]] = value.strip()
    for key in (*ALLOWED, "CONFIRM", "DRY_RUN"):  # also before the command: PHASE=expand make migrate-up
        if key in command.needs + command.takes and os.environ.get(key, "").strip():
            values.setdefault(key, os.environ[key].strip())
    if "PREFLIGHT_ACCEPT" in values and "REASON" in command.takes and os.environ.get("REASON", "").strip():
        values.setdefault("REASON", os.environ["REASON"].strip())
    for key in command.needs:
        if not values.get(key):
            raise WrongUse(f"{name} needs {key}.", form(name, command, values))
    for key, value in values.items():
        if dots(value):
            raise WrongUse(f"{key} is {value!r}, which stands for a value and is none.", form(name, command))
    for key in ("DRY_RUN", "FULL", "JSON", "AUTO", "ALONG", "KEEP", "EXIT_CODE"):
        if values.get(key, "1") != "1":
            raise WrongUse(f"{key} is {values[key]!r}; it is 1 or left out.", form(name, command))
    return name, command, values, given


def _config(repeat: str, given: Values) -> Config:
    from alembic.config import Config

    path = ROOT / "alembic.ini"
    if not path.is_file() and not repeat.startswith(f"make {start.NAME}"):
        raise WrongUse(
            "There is no alembic.ini here, so this is no project whose schema is migrated.", "mcp-planner-schema init"
        )
    return Config(str(path), stdout=sys.stdout, attributes={"repeat": repeat, "settings": dict(given)})
