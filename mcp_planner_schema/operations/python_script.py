"""A Python script: its text is loaded as a module for as long as it runs, and what it prints goes to the guard by lines."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.script import FUNCTION, Script

if TYPE_CHECKING:
    from sqlalchemy import Connection


def run(connection: Connection, script: Script, arguments: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Call its ``run(connection, **arguments)``. The text is the one that was read, and leaves no compiled file behind."""
    name = "planner_script_" + script.name.replace("/", "_").removesuffix(".py")
    module = ModuleType(name)
    module.__file__ = str(script.path)
    lines = _Lines(say)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        with redirect_stdout(lines):
            exec(compile(script.text, str(script.path), "exec", dont_inherit=True), module.__dict__)
            getattr(module, FUNCTION)(connection, **arguments)
    finally:
        sys.modules.pop(name, None)
        lines.end()


def line_of(error: BaseException, script: Script) -> int | None:
    """The line of the script that an error came out of."""
    places = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == str(script.path)]
    return places[-1] if places else None


class _Lines(io.TextIOBase):
    """What stands for stdout meanwhile."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._begun = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            self._say(line)
        return len(text)

    def end(self) -> None:
        """What was printed without a line's end is a line too."""
        if self._begun:
            self._say(self._begun)
        self._begun = ""
