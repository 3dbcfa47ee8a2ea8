"""A revision's body in SQL: a file beside the revision, read as text, with what may not stand in it.

``026_add_x.py`` holds the header and the expectations, ``026_add_x.up.sql`` what its upgrade does, ``026_add_x.down.sql`` what
its downgrade does.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from mcp_planner_schema.guard import sql_alone, sql_file
from mcp_planner_schema.guard.lexer import Piece, PsqlCommand, Token, Unusable, line_of, pieces
from mcp_planner_schema.guard.source import shown

NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,199}\.(up|down)\.sql")
"""``026_add_x.up.sql``: as the revision's file, with another ending."""

_AT = "_mcp_planner_sql_body"
"""What an error carries that came while a statement was sent: its :class:`Place`."""

_BEGINS = (["BEGIN"], ["BEGIN", "WORK"], ["BEGIN", "TRANSACTION"], ["START", "TRANSACTION"])
_COMMITS = tuple([word, *more] for word in ("COMMIT", "END") for more in ([], ["WORK"], ["TRANSACTION"]))
_ENDS = ("BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE")
_PREPARED = (["PREPARE", "TRANSACTION"], ["COMMIT", "PREPARED"], ["ROLLBACK", "PREPARED"])
_LEAKS = {
    "RESET": "nothing: the guard begins each revision with the session's own settings",
    "DISCARD": "nothing: the guard begins each revision with the session's own settings",
    "LISTEN": "nothing: who listens is the application",
    "LOAD": "whoever sets the server up: shared_preload_libraries or session_preload_libraries",
    "PREPARE": "the statement itself, where it is needed",
    "DECLARE": "a DO block with a FOR loop, or op.run_script with a script in Python (docs/5-data-migrations.md)",
}
_ROWS = "INSERT … VALUES for a few rows; op.run_script with a script in Python for many (docs/5-data-migrations.md)"
_VALUE = "the value itself; one that differs between environments is an argument of op.run_script (docs/5-data-migrations.md)"
# What to write instead of psql's commands; \copy, \copyright and \connect begin alike, so the whole word counts.
_INSTEAD_OF = {
    **dict.fromkeys(["i", "ir", "include", "include_relative"], "that file's statements, here"),
    **dict.fromkeys(["copy", "."], _ROWS),
    **dict.fromkeys(["c", "connect"], "nothing: the guard connects, to the database that DATABASE_URL names"),
    **dict.fromkeys(["set", "unset", "gset", "getenv", "prompt", "bind", "setenv"], _VALUE),
    **dict.fromkeys(["if", "elif", "else", "endif"], "Environments: in the header; or a DO block with IF"),
    **dict.fromkeys(["echo", "qecho", "warn"], "a comment; or DO $$ BEGIN RAISE NOTICE '…'; END $$"),
    **dict.fromkeys(["gexec"], "a DO block with EXECUTE pg_catalog.format(…)"),
    **dict.fromkeys([";", "g", "gx", "gdesc", "watch"], "a semicolon"),
    **dict.fromkeys(["!", "o", "out", "w", "write"], "nothing: a revision works in the database only"),
    **dict.fromkeys(["lo_import", "lo_export"], "op.run_script with a script in Python (docs/5-data-migrations.md)"),
    **dict.fromkeys(["restrict", "unrestrict"], "nothing: it is pg_dump's, for psql"),
}


class Objection(Unusable):
    """One thing that may not stand in the file: ``instead`` says what to write. ``code`` is the finding that says so."""

    def __init__(self, problem: str, line: int, instead: str, code: str = "sql-body-unusable") -> None:
        super().__init__(problem, line)
        self.instead = instead
        self.code = code


@dataclass(frozen=True)
class Statement:
    """One statement as it is sent, without semicolon. ``before`` are the comments above it, ``line`` is where it begins."""

    text: str
    line: int
    tokens: tuple[Token, ...]
    before: str = ""


@dataclass(frozen=True)
class Place:
    """Where a statement stands that is being sent."""

    path: Path
    statement: Statement


_sending: ContextVar[Place | None] = ContextVar("sql_body_sending", default=None)


def content(path: Path) -> str:
    """The text of a body, with LF. Raises :class:`Objection`."""
    try:
        return sql_file.text_of(path)
    except Unusable as error:
        raise Objection(str(error), error.line, "a file of its own in UTF-8, without byte order mark") from None


def statements(text: str, transaction: str) -> list[Statement]:
    """The statements that are sent, in their order: without a BEGIN and COMMIT that stand around all of them.

    Raises :class:`Objection`, the first there is. ``transaction`` is the header's.
    """
    for objection in objections(text, transaction):
        raise objection
    return [_statement(text, piece) for piece in _unwrapped(_full(pieces(text)))]


def objections(text: str, transaction: str) -> Iterator[Objection]:
    """Everything that may not stand in a file, in the order of its lines, as far as it can be read."""
    read, last = _read(text)
    kept = read if last else _unwrapped(read)
    if len(kept) < len(read) and transaction == "none":
        yield Objection(
            "BEGIN and COMMIT make one transaction of what Transaction: none sends statement by statement",
            line_of(text, read[0].tokens[0].at), "neither of them; or Transaction: single, in a revision of its own",
        )  # fmt: skip
    for piece in kept:
        yield from _against(piece, line_of(text, piece.tokens[0].at), transaction)
    if last:
        yield last


def _read(text: str) -> tuple[list[Piece], Objection | None]:
    """The statements up to the one behind which nothing can be read, and why."""
    read: list[Piece] = []
    try:
        for piece in _full(pieces(text)):
            if copy := _copy(piece, text):
                return read, copy  # rows follow, which are no SQL
            if unclosed := piece.unclosed:
                what, end = ("(", ")") if unclosed.word == "(" else ("BEGIN ATOMIC", "END behind its last semicolon")
                line = line_of(text, unclosed.at)
                return read, Objection(f"the {what} is never closed, and takes in all that follows", line, end)
            read.append(piece)
    except PsqlCommand as error:
        instead = _INSTEAD_OF.get(
            error.command[1:], "nothing: it tells psql what to do, and changes nothing in the database"
        )
        return read, Objection(f"{error.command} is a command of psql's, which no server knows", error.line, instead)
    except Unusable as error:
        return read, Objection(
            str(error), error.line, "the other end of what is open there; a backslash only in literals"
        )
    return read, None


@contextmanager
def sending(place: Place) -> Iterator[None]:
    """While inside, this statement is sent: what is caught or breaks meanwhile is of its line."""
    token = _sending.set(place)
    try:
        yield
    except Exception as error:
        setattr(error, _AT, place)
        raise
    finally:
        _sending.reset(token)


def sent() -> Place | None:
    """The statement that is being sent; None where it is none of a SQL body."""
    return _sending.get()


def of(error: BaseException | None) -> Place | None:
    """The statement of which an error has come."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # an error that is raised again from its own cause is a circle
        place: Place | None = getattr(error, _AT, None)
        if place is not None:
            return place
        seen.add(id(error))
        error = error.__cause__
    return None


def where(place: Place, position: int | None) -> tuple[str, str]:
    """``file:line`` of an error, and that line as it is written. ``position`` is the server's: a character, counted from 1."""
    lines = place.statement.text.split("\n")
    line = min(place.statement.text.count("\n", 0, max(position - 1, 0)), len(lines) - 1) if position else 0
    written = " ".join(lines[line].split())
    return f"{shown(place.path)}:{place.statement.line + line}", written if len(written) < 121 else written[:120] + "…"


def _full(found: Iterator[Piece]) -> Iterator[Piece]:
    return (piece for piece in found if piece.tokens)


def _unwrapped(found: Iterator[Piece] | Sequence[Piece]) -> list[Piece]:
    """Without a BEGIN and a COMMIT around the whole file: that is what the step does anyway."""
    read = list(found)
    if len(read) > 1 and _words(read[0]) in _BEGINS and _words(read[-1]) in _COMMITS:
        return read[1:-1]
    return read


def _words(piece: Piece) -> list[str]:
    return [token.word for token in piece.tokens]


def _statement(text: str, piece: Piece) -> Statement:
    first, last = piece.tokens[0], piece.tokens[-1]
    return Statement(
        text[first.at : last.end], line_of(text, first.at), piece.tokens, text[piece.at : first.at].strip()
    )


def _copy(piece: Piece, text: str) -> Objection | None:
    words = _words(piece)
    ends = [f"{one} {other}" for one, other in itertools.pairwise(words)] if words[0] == "COPY" else []
    for said in ("FROM STDIN", "TO STDOUT"):
        if said in ends:
            instead = _ROWS if said == "FROM STDIN" else "nothing: a revision has nobody to give rows to"
            line = line_of(text, piece.tokens[0].at)
            return Objection(f"COPY … {said} is answered by psql, and here is none", line, instead)
    return None


def _against(piece: Piece, line: int, transaction: str) -> Iterator[Objection]:
    words = _words(piece)
    if words[0] in _ENDS or words[:2] in _PREPARED:
        around = (
            " (around the whole file BEGIN and COMMIT may stay)"
            if words[0] in ("BEGIN", "START", "COMMIT", "END")
            else ""
        )
        yield Objection(
            f"{words[0]} begins or ends a transaction, and the step's is the guard's", line,
            f"the statements alone{around}; what must be final before the rest is a revision of its own",
        )  # fmt: skip
        return
    if leak := _leak(piece.tokens, words, transaction):
        yield Objection(leak[0], line, leak[1])
    if transaction == "none" and (unrepeatable := sql_alone.problem(piece.tokens)):
        yield Objection(unrepeatable[0], line, unrepeatable[1], "sql-body-unrepeatable")
    elif transaction != "none" and (what := sql_alone.alone(piece.tokens)):
        yield Objection(what, line, "", "transaction-mismatch")


def _leak(tokens: Sequence[Token], words: list[str], transaction: str) -> tuple[str, str] | None:
    """What a statement changes for the session, so that it would still be in force in the next revision."""
    first, second = words[0], words[1] if len(words) > 1 else ""
    local = 'budgets = {"statement_timeout": "5min"} for a time limit; SET … in the function that needs it'
    if first == "SET" and second == "LOCAL":
        nothing = "SET LOCAL is over with its statement, where each commits by itself"
        return (nothing, f"{local}; names with their schema") if transaction == "none" else None
    if first == "SET" and second == "TRANSACTION":
        return "SET TRANSACTION comes too late: the guard has begun the transaction", "nothing"
    if first == "SET" and second != "CONSTRAINTS":
        instead = local if transaction == "none" else f"SET LOCAL …, which ends with the step; {local}"
        return f"SET {second or '…'} stays in force after the step, for whatever comes behind it", instead
    if first == "DECLARE" and "HOLD" not in words:
        return None
    if first in _LEAKS:
        return f"{first} works on the session, and not in the database", _LEAKS[first]
    for at, token in enumerate(tokens):
        if token.word == "SET_CONFIG" and not _local(tokens, at + 1):
            return (
                "set_config(…, false) stays in force after the step, for whatever comes behind it",
                "set_config(…, true), or SET LOCAL …",
            )
    return None


def _local(tokens: Sequence[Token], at: int) -> bool:
    """Whether the third argument of the call whose parenthesis is at ``at`` is, or may be, true."""
    depth, commas, last = 0, 0, ""
    for token in tokens[at:]:
        depth += {"(": 1, ")": -1}.get(token.word, 0)
        if not depth:
            break
        commas += token.word == "," and depth == 1
        last = token.text.lower()
    return commas != 2 or last not in ("false", "'f'", "'false'", "'off'", "'no'", "'0'")
