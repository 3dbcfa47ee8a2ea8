"""What one file of golang-migrate's sends, read without running it: its statements, and whether one transaction can hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcp_planner_schema.guard import sql_alone
from mcp_planner_schema.guard.lexer import Token, Unusable, line_of, pieces

_BEGINS = (["BEGIN"], ["BEGIN", "WORK"], ["BEGIN", "TRANSACTION"], ["START", "TRANSACTION"])
_COMMITS = tuple([word, *more] for word in ("COMMIT", "END") for more in ([], ["WORK"], ["TRANSACTION"]))
_CONTROL = ("BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE")


@dataclass(frozen=True)
class Query:
    """What one file sends. ``transaction``: all of it belongs into one transaction, and the guard's own will do. Else it begins
    or ends some itself, or holds what cannot run inside of one.

    ``wrapped``: BEGIN and COMMIT do nothing but wrap it; ``statements`` are without them.
    """

    wrapped: bool
    transaction: bool
    statements: tuple[tuple[Token, ...], ...]


def read(text: str) -> Query:
    """What a file does. Raises :class:`Unusable` for what cannot run under golang-migrate either."""
    statements = []
    for piece in pieces(text):
        words = _words(piece.tokens)
        if words[:1] == ["COPY"] and {"STDIN", "STDOUT"} & set(words):
            raise Unusable(
                "it says COPY … STDIN, whose rows only psql sends; INSERT says the same", line_of(text, piece.at)
            )
        if piece.tokens:
            statements.append(piece.tokens)
    every = [_words(one) for one in statements]
    control = [place for place, one in enumerate(every) if one[0] in _CONTROL or one[:2] == ["PREPARE", "TRANSACTION"]]
    outside = any(sql_alone.alone(one) for one in statements)
    wraps = len(every) > 1 and control == [0, len(every) - 1] and every[0] in _BEGINS and every[-1] in _COMMITS
    if wraps and not outside:
        return Query(True, True, tuple(statements[1:-1]))
    return Query(False, not control and not outside, tuple(statements))


def split(text: str) -> list[str]:
    """The statements of a text one by one, each without its semicolon and with the comments before it."""
    return [
        (piece.text.rstrip().removesuffix(";") if piece.ended else piece.text).strip()
        for piece in pieces(text)
        if piece.tokens
    ]


def _words(tokens: Sequence[Token]) -> list[str]:
    return [token.word for token in tokens]
