"""What is told while the guard works: a line each for people, or an object of JSON each for a machine (``log_format = json``).

It goes through logging where the application has set that up, else to stderr. Nothing here sets logging up: what an application
has told it stays.
"""

from __future__ import annotations

import datetime as dt
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_planner_schema.guard.findings import GuardError

_log = logging.getLogger("mcp_planner_schema.guard")
_about: dict[str, Any] | None = None
"""None: lines for people. Else what every object says. Alembic's own context is one a process too, so no two runs meet here."""


@contextmanager
def as_asked(form: str) -> Iterator[None]:
    """While inside, it is told in this form: ``text`` or ``json``."""
    global _about
    before, _about = _about, {} if form == "json" else None
    try:
        yield
    finally:
        _about = before


def about(**known: Any) -> None:
    """What every further object says: the run's number, the database."""
    if _about is not None:
        _about.update(known)


def say(text: str) -> None:
    """One line for people; for a machine an object of kind ``note``."""
    tell("note", text, {})


def tell(kind: str, text: str, values: Mapping[str, Any], at: dt.datetime | None = None) -> None:
    """One thing that has happened: ``text`` for people, who are told nothing where it is empty, or all of it for a machine."""
    if _about is None:
        if text:
            _out(text)
        return
    import json

    when = (at or dt.datetime.now(dt.UTC)).isoformat(timespec="milliseconds")
    said = {"text": text} if text else {}
    _out(json.dumps({"at": when, "kind": kind, **_about, **values, **said}, default=str, ensure_ascii=False))


def last(error: GuardError) -> None:
    """The last word of a command that failed. For people always on stderr, whatever the application does with its log."""
    _last(error.message, error.next_command, error.code, error.form)


def stopped(text: str, next_command: str, form: str) -> None:
    """The last word of one that was stopped."""
    _last(text, next_command, 75, form)


def _last(text: str, next_command: str, code: int, form: str) -> None:
    if form == "json":
        with as_asked("json"):
            tell("error", text, {"exit": code, "next": next_command})
    else:
        print(f"{text}\n\nnext: {next_command}", file=sys.stderr)


def _out(line: str) -> None:
    if _log.hasHandlers() and _log.isEnabledFor(logging.INFO):
        _log.info(line)
    else:
        print(line, file=sys.stderr, flush=True)
