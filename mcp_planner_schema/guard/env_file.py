"""``.env`` beside alembic.ini: what this machine sets, and no repository. Read where it is there, as text and nothing more."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from mcp_planner_schema.guard.findings import WrongUse

NAME = ".env"
ELSEWHERE = "PLANNER_DOTENV"
"""The variable that names another file, or ``none``."""
_LIBPQ = re.compile("PG[A-Z_]+")
_exported: dict[str, str] = {}
_told: set[str] = set()


@dataclass(frozen=True)
class EnvFile:
    """What stands in it. ``path`` is None where there is none; ``warning`` says who else may read it."""

    path: Path | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    warning: str = ""


def read(folder: Path | None, environ: Mapping[str, str]) -> EnvFile:
    """The file of ``folder``, or the one that ``PLANNER_DOTENV`` names. Raises :class:`WrongUse` where it cannot be read.

    Nothing in it is replaced or run: ``$(…)`` and ``${NAME}`` in a password stay what they are.
    """
    named = environ.get(ELSEWHERE, "").strip()
    if named == "none" or (not named and folder is None):
        return EnvFile()
    path = Path(named) if named else Path(folder or ".") / NAME
    if not named and not path.exists():
        return EnvFile()
    try:
        with path.open(encoding="utf-8") as file:
            values = _values(path, file.read())
            others = os.fstat(file.fileno()).st_mode & 0o077
    except (OSError, UnicodeError) as error:
        problem = getattr(error, "strerror", None) or "it is no UTF-8"
        raise WrongUse(f"{path} cannot be read: {problem}.", f"correct {path}, or {ELSEWHERE}=none") from None
    warning = f"{path} may be read by others, and may hold a password; next: chmod 600 {path}" if others else ""
    return EnvFile(path, values, warning)


def warn(file: EnvFile) -> None:
    """Say once that others may read it."""
    if file.warning and file.warning not in _told:
        _told.add(file.warning)
        print(f"warning: {file.warning}", file=sys.stderr)


def export(file: EnvFile, environ: MutableMapping[str, str]) -> None:
    """Hand libpq, which reads the process's environment, its own variables (``PGPASSFILE``, ``PGSERVICE`` …).

    What the environment has itself stays. What an earlier file has left there goes first.
    """
    for name, value in _exported.items():
        if environ.get(name) == value:
            del environ[name]
    _exported.clear()
    for name, value in file.values.items():
        if _LIBPQ.fullmatch(name) and name not in environ:
            environ[name] = _exported[name] = value


def exported(name: str, value: str) -> bool:
    """Whether a variable of the environment has come from the file."""
    return _exported.get(name) == value


def _values(path: Path, text: str) -> dict[str, str]:
    import io

    from dotenv.parser import parse_stream

    found: dict[str, str] = {}
    for one in parse_stream(io.StringIO(text)):
        line = one.original.line + len(one.original.string) - len(one.original.string.lstrip("\r\n"))
        if one.error or (one.key is not None and one.value is None):
            raise _wrong(path, line, "is no NAME=value")  # the line is not shown: it may hold a password
        if one.key is None or one.value is None:
            continue
        if one.key in found:
            raise _wrong(path, line, f"gives {one.key} a second time")
        found[one.key] = one.value
    return found


def _wrong(path: Path, line: int, problem: str) -> WrongUse:
    return WrongUse(f"{path}, line {line} {problem}.", f"correct {path}, then repeat the command")
