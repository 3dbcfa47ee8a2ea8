"""Reads the tokens of a SQL statement from left to right, and what it finds as an :class:`Action`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mcp_planner_schema.guard.sql_file import Token

_ENDS_NAME = {"(", ")", ",", ";"}
CONSTRAINTS = ("CONSTRAINT", "CHECK", "UNIQUE", "PRIMARY", "FOREIGN", "EXCLUDE", "NOT")


@dataclass(frozen=True)
class Action:
    """One thing a statement does. ``table`` is its name without ``public.``; ``rest`` are the tokens that tell more."""

    kind: str
    table: str = ""
    name: str = ""
    columns: tuple[str, ...] = ()
    rest: tuple[Token, ...] = ()
    words: frozenset[str] = field(default=frozenset())

    def says(self, *words: str) -> bool:
        """Whether these words stand in it, in this order and side by side."""
        found = [token.word for token in self.rest]
        return any(tuple(found[at : at + len(words)]) == words for at in range(len(found)))


class Reader:
    """The tokens of one statement, read from left to right."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = list(tokens)
        self.at = 0

    def word(self) -> str:
        """The next word in capitals; empty at the end, and for a quoted name."""
        return self.tokens[self.at].word if self.at < len(self.tokens) else ""

    def take(self, *words: str) -> bool:
        """Go past these words where they come next."""
        found = [token.word for token in self.tokens[self.at : self.at + len(words)]]
        if found != list(words):
            return False
        self.at += len(words)
        return True

    def any(self, *words: str) -> str:
        """Go past one of these words, and give it."""
        word = self.word()
        if word and word in words:
            self.at += 1
            return word
        return ""

    def name(self) -> str:
        """A name with or without schema, as the catalog has it; ``public`` is left out."""
        parts: list[str] = []
        while self.at < len(self.tokens) and self.word() not in _ENDS_NAME:
            token = self.tokens[self.at]
            parts.append(token.text.lower() if token.word else token.text.strip('"').replace('""', '"'))
            self.at += 1
            if not self.take("."):
                break
        return ".".join(parts[1:] if parts[:1] == ["public"] and len(parts) > 1 else parts)

    def left(self) -> tuple[Token, ...]:
        """What has not been read."""
        return tuple(self.tokens[self.at :])

    def columns(self) -> tuple[str, ...]:
        """The names at the beginning of each part of the parentheses that come next; an expression counts as one."""
        if self.word() != "(":
            return ()
        depth, found, begins = 0, [], False
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            depth += {"(": 1, ")": -1}.get(token.word, 0)
            if begins:
                found.append(token.text.lower() if token.word else token.text.strip('"'))
            begins = depth == 1 and token.word in ("(", ",")
            self.at += 1
            if not depth:
                break
        return tuple(found)


def a_word(text: str) -> Token:
    """A word that stands for itself."""
    return Token(text.lower(), text, 0)
