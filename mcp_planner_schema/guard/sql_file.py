"""A SQL file that a revision names: one function, procedure or trigger, read as text and never changed once released."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

NAME = re.compile(r"[0-9A-Za-z_]+/[0-9a-z_]+\.sql")
"""``011/touch_updated_at.sql``: the revision's folder below ``sql/``, and the file in it."""

LIMIT = 1_000_000
"""Bytes a file may have; a function body of this size would not be read by anybody either."""

_COMMENT = r"(?:\s+|--[^\n]*\n|/\*.*?\*/)*"
_IDENTIFIER = r'(?:"(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_$]*)'
_QUALIFIED = rf"{_IDENTIFIER}(?:\s*\.\s*{_IDENTIFIER})?"
_ROUTINE = re.compile(
    rf"{_COMMENT}CREATE\s+(?:OR\s+REPLACE\s+)?(?P<kind>FUNCTION|PROCEDURE)\s+(?P<name>{_QUALIFIED})\s*\(",
    re.IGNORECASE | re.DOTALL,
)
_TRIGGER = re.compile(
    rf"{_COMMENT}CREATE\s+(?:OR\s+REPLACE\s+)?(?:CONSTRAINT\s+)?TRIGGER\s+(?P<name>{_IDENTIFIER})\s+"
    rf"(?:BEFORE|AFTER|INSTEAD\s+OF)\s.*?\sON\s+(?P<table>{_QUALIFIED})\s",
    re.IGNORECASE | re.DOTALL,
)
_RESULT = re.compile(r"\s*(?:RETURNS\s+(?P<type>.*?)\s+)?(?:LANGUAGE|AS|STABLE|VOLATILE|IMMUTABLE)\b", re.I | re.DOTALL)
_DEFAULT = re.compile(r"\s(?:DEFAULT\s|=).*", re.IGNORECASE | re.DOTALL)


class Unusable(ValueError):
    """The file is not there, cannot be read, or does not begin with the one CREATE statement it is for."""


@dataclass(frozen=True)
class SqlFile:
    """What one file creates. ``drop`` removes it; two files of equal ``shape`` replace each other in place."""

    name: str
    text: str
    drop: str
    shape: str


def read(folder: Path, name: str) -> SqlFile:
    """Read ``name`` below ``folder`` (the history's ``sql/``). Runs nothing. Raises :class:`Unusable`."""
    if not NAME.fullmatch(name):
        raise Unusable(f"{name!r} is no name of the form 011/touch_updated_at.sql (lower case, no other folders)")
    path = folder / name
    try:
        if path.is_symlink() or not path.is_file():
            raise Unusable(f"there is no such file: {name}")
        raw = path.read_bytes()
    except OSError as error:
        raise Unusable(f"{name} cannot be read: {error.strerror}") from None
    if len(raw) > LIMIT:
        raise Unusable(f"{name} has {len(raw):,} bytes, more than {LIMIT:,}")
    try:
        text = raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise Unusable(f"{name} is not UTF-8 at byte {error.start}") from None
    if "\0" in text or text.startswith("\ufeff"):
        raise Unusable(f"{name} holds a NUL byte or begins with a byte order mark")
    return parse(name, text)


def parse(name: str, text: str) -> SqlFile:
    """What the file's first statement creates. Raises :class:`Unusable` when it is none that can be taken back."""
    routine = _ROUTINE.match(text)
    if routine:
        end = _closing(text, routine.end())
        if end is None:
            raise Unusable(f"{name}: the arguments' closing parenthesis is missing")
        arguments = [part.strip() for part in _split(text[routine.end() : end]) if part.strip()]
        result = _RESULT.match(text, end + 1)
        if not result:
            raise Unusable(f"{name}: after the arguments come RETURNS … and LANGUAGE")
        without = ", ".join(_DEFAULT.sub("", part) for part in arguments)
        kind, called = routine["kind"].upper(), _plain(routine["name"])
        shape = f"{kind} {called}({', '.join(map(_plain, arguments))}) {_plain(result['type'] or '')}"
        return SqlFile(name, text, f"DROP {kind} {called}({without})", shape)
    trigger = _TRIGGER.match(text)
    if trigger:
        drop = f"DROP TRIGGER {trigger['name']} ON {_plain(trigger['table'])}"
        # A constraint trigger cannot be replaced in place: its shape is its whole text.
        whole = re.match(rf"{_COMMENT}CREATE\s+CONSTRAINT", text, re.IGNORECASE | re.DOTALL)
        return SqlFile(name, text, drop, text if whole else drop)
    raise Unusable(f"{name} does not begin with CREATE OR REPLACE FUNCTION, PROCEDURE or TRIGGER")


def _closing(text: str, at: int) -> int | None:
    """Where the parenthesis closes that was opened just before ``at``; string literals do not count."""
    depth = 1
    for match in re.compile(r"'(?:[^']|'')*'|[()]").finditer(text, at):
        depth += {"(": 1, ")": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return None


def _split(arguments: str) -> list[str]:
    parts, depth, begun = [], 0, 0
    for match in re.finditer(r"'(?:[^']|'')*'|[(),]", arguments):
        depth += {"(": 1, ")": -1}.get(match.group(), 0)
        if match.group() == "," and depth == 0:
            parts.append(arguments[begun : match.start()])
            begun = match.end()
    return [*parts, arguments[begun:]]


def _plain(text: str) -> str:
    return " ".join(text.split())
