"""A SQL file that a revision names: one function, procedure or trigger, read as text and never changed once released."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcp_planner_schema.guard.lexer import Token as Token
from mcp_planner_schema.guard.lexer import Unusable as Unusable
from mcp_planner_schema.guard.lexer import statements as statements

NAME = re.compile(r"[0-9A-Za-z_]+/[0-9a-z_]+\.sql")
"""``011/touch_updated_at.sql``: the revision's folder below ``sql/``, and the file in it."""

LIMIT = 1_000_000
"""Bytes a file may have; a function body of this size would not be read by anybody either."""

ROUTINES = ("FUNCTION", "PROCEDURE")
_AFTER = ("COMMENT", "ALTER", "GRANT", "REVOKE")
"""What may follow the CREATE: it goes when the object is dropped, or does no harm when it stays."""

# Signs that need no space before or after them, for drops that read as a person would write them.
_CLOSE, _OPEN = frozenset("[]().,%"), frozenset("[(.%")
# What ends a routine's result type; none of these can be a word of one.
_OPTIONS = {
    "LANGUAGE", "AS", "STABLE", "VOLATILE", "IMMUTABLE", "SET", "COST", "ROWS", "STRICT", "CALLED", "SECURITY", "EXTERNAL",
    "WINDOW", "PARALLEL", "SUPPORT", "TRANSFORM", "LEAKPROOF", "NOT", "BEGIN", "RETURN", "RETURNS",
}  # fmt: skip


@dataclass(frozen=True)
class SqlFile:
    """What one file creates. ``drop`` removes it; two files of equal ``shape`` replace each other in place.

    ``routine`` is the name that the catalog knows a function or procedure by, empty for a trigger.
    """

    name: str
    text: str
    drop: str
    shape: str
    replaces: bool
    routine: str = ""

    def drop_if_exists(self) -> str:
        """``drop``, and no error where the object is gone already."""
        return re.sub(r"(?<=^DROP )(\w+)", r"\1 IF EXISTS", self.drop, count=1)


def content(folder: Path, name: str) -> str:
    """The text of ``name`` below ``folder`` (the history's ``sql/``), with LF. Raises :class:`Unusable`."""
    if not NAME.fullmatch(name):
        raise Unusable(f"{name!r} is no name of the form 011/touch_updated_at.sql (lower case, no other folders)")
    return text_of(folder / name)


def text_of(path: Path) -> str:
    """The text of a file that is part of a revision, with LF. Raises :class:`Unusable` for links and for what is no text."""
    try:
        if path.is_symlink() or path.parent.is_symlink():
            raise Unusable("it is a symbolic link")
        if not path.is_file():
            raise Unusable("there is no such file")
        with path.open("rb") as opened:
            raw = opened.read(LIMIT + 1)
    except OSError as error:
        raise Unusable(f"it cannot be read: {error.strerror}") from None
    if len(raw) > LIMIT:
        raise Unusable(f"it has more than {LIMIT:,} bytes")
    try:
        text = raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Unusable(f"it is not UTF-8 at byte {error.start}", line) from None
    if text.startswith("\ufeff"):
        raise Unusable("it begins with a byte order mark")
    for sign, name in (("\0", "a NUL byte"), ("\r", "a CR without LF")):
        if sign in text:
            raise Unusable(f"it holds {name}", text.count("\n", 0, text.index(sign)) + 1)
    return text


def read(folder: Path, name: str) -> SqlFile:
    """What ``name`` below ``folder`` creates. Runs nothing. Raises :class:`Unusable`."""
    return parse(name, content(folder, name))


def parse(name: str, text: str) -> SqlFile:
    """What the file creates. Raises :class:`Unusable` when it is not one object that can be taken back, with its comment."""
    first, *others = statements(text) or [[]]
    words = [token.word for token in first]
    if words[:1] != ["CREATE"]:
        raise Unusable("it does not begin with CREATE OR REPLACE FUNCTION, PROCEDURE or TRIGGER")
    replaces = words[1:3] == ["OR", "REPLACE"]
    at = 3 if replaces else 1
    constraint = words[at : at + 1] == ["CONSTRAINT"]
    at += constraint
    kind = words[at] if at < len(words) else ""
    if kind not in (*ROUTINES, "TRIGGER"):
        raise Unusable("it does not begin with CREATE OR REPLACE FUNCTION, PROCEDURE or TRIGGER")
    called, at = _qualified(first, at + 1)
    for statement in others:
        if statement[0].word not in _AFTER:
            said = statement[0].text if len(statement[0].text) < 40 else "a literal"
            raise Unusable(
                f"line {text.count(chr(10), 0, statement[0].at) + 1} begins a statement with {said}; after the one CREATE "
                f"only {', '.join(_AFTER)} may follow"
            )
    if not any(
        [one.word for one in statement[:3]] in (["COMMENT", "ON", kind], ["COMMENT", "ON", "ROUTINE"])
        for statement in others
    ):
        raise Unusable(f"it has no COMMENT ON {kind} {_sql(called)}")
    if kind == "TRIGGER":
        table = _table(first, at)
        drop = f"DROP TRIGGER {_sql(called)} ON {_sql(table)}"
        return SqlFile(name, text, drop, f"{'CONSTRAINT ' * constraint}{drop}", replaces)
    end = _closing(first, at)
    arguments = [part for part in _split(first[at + 1 : end]) if part]
    types = [_without_default(part) for part in arguments]
    drop = f"DROP {kind} {_sql(called)}({', '.join(map(_sql, types))})"
    defaults = sum(len(part) != len(whole) for part, whole in zip(types, arguments, strict=True))
    shape = f"{drop} {_sql(_result(first, end + 1))} with {defaults} defaults"
    return SqlFile(name, text, drop, shape, replaces, _catalog_name(called[-1]))


def _qualified(tokens: Sequence[Token], at: int) -> tuple[list[Token], int]:
    """A name that may have a schema, from its first token to the one after it."""
    end = at + 1
    while end < len(tokens) and tokens[end].word == ".":
        end += 2
    if end >= len(tokens):
        raise Unusable("its CREATE ends after the name")
    return list(tokens[at:end]), end


def _table(tokens: Sequence[Token], at: int) -> list[Token]:
    """The table of a trigger: UPDATE OF may list any columns before, but none can be called ON without quotes."""
    on = next((n for n in range(at, len(tokens)) if tokens[n].word == "ON"), None)
    if on is None or tokens[at].word not in ("BEFORE", "AFTER", "INSTEAD"):
        raise Unusable("after the trigger's name come BEFORE, AFTER or INSTEAD OF, and ON with its table")
    return _qualified(tokens, on + 1)[0]


def _closing(tokens: Sequence[Token], at: int) -> int:
    depth = 0
    for number in range(at, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[number].word, 0)
        if not depth:
            if number == at:
                break
            return number
    raise Unusable("after the name come the arguments in parentheses")


def _split(tokens: Sequence[Token]) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.word, 0)
        if token.word == "," and not depth:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _without_default(argument: list[Token]) -> list[Token]:
    end = next((n for n, token in enumerate(argument) if token.word in ("DEFAULT", "=", ":=")), len(argument))
    return argument[:end]


def _result(tokens: Sequence[Token], at: int) -> list[Token]:
    if at >= len(tokens) or tokens[at].word != "RETURNS":
        return []
    depth, end = 0, at + 1
    while end < len(tokens) and (depth or tokens[end].word not in _OPTIONS):
        depth += {"(": 1, ")": -1}.get(tokens[end].word, 0)
        end += 1
    return list(tokens[at:end])


def _sql(tokens: Sequence[Token]) -> str:
    text = before = ""
    for token in tokens:
        apart = text and token.word not in _CLOSE and before not in _OPEN
        text += (" " if apart else "") + (token.text.lower() if token.word and token.text.isascii() else token.text)
        before = token.word
    return text


def _catalog_name(token: Token) -> str:
    if token.word:
        return token.text.lower() if token.text.isascii() else token.text
    return token.text.strip('"').replace('""', '"')
