"""SQL as PostgreSQL's own scanner reads it (scan.l): its tokens, and where a statement ends and the next begins.

Nothing is parsed: only what the ends of statements depend on is known. Quotes, dollar quotes and comments hide a semicolon,
and so do parentheses (``CREATE RULE … DO (a; b)``) and the body of a routine in standard SQL (``BEGIN ATOMIC … END``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

# What may be in a name: any character that is not ASCII too, be it a space of typography or a digit of another script.
_BEGINS, _GOES_ON = r"[A-Za-z_\x80-\U0010ffff]", r"[A-Za-z_0-9\x80-\U0010ffff]"
# Between the parts of one literal: spaces and comments with at least one end of line. E'a' and below it 'b\'' are one, and a
# backslash escapes in all of it; of the other kinds each part is read like a literal of its own.
_BETWEEN = r"(?:[ \t\f\v]|--[^\n\r]*+)*+[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*+[\n\r])*+"
_TOKEN = re.compile(
    rf"""(?P<space>[ \t\n\r\f\v]+|--[^\n\r]*)
    |(?P<comment>/\*)
    |(?P<string>[eE]'(?:[^'\\]|\\.|'')*+'(?:{_BETWEEN}'(?:[^'\\]|\\.|'')*+')*
      |(?:[uU]&|[bBxXnN])?'(?:[^']|'')*+')
    |(?P<name>(?:[uU]&)?"(?:[^"]|"")++")
    |(?P<dollar>\$(?P<tag>(?:{_BEGINS}{_GOES_ON}*)?)\$.*?\$(?P=tag)\$)
    |(?P<word>{_BEGINS}(?:{_GOES_ON}|\$)*)
    |(?P<other>::|:=|[0-9][\w.]*|.)""",
    re.DOTALL | re.VERBOSE,
)
_OPENED = re.compile(rf"""[eE]?'|"|\$(?:{_BEGINS}{_GOES_ON}*)?\$""")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_PSQL = re.compile(r"\\(?:[a-z]+|[!?.;])", re.IGNORECASE)


class Unusable(ValueError):
    """The file is not there, cannot be read, or holds something else than what it is for. ``line`` is where."""

    def __init__(self, problem: str, line: int = 1) -> None:
        super().__init__(problem)
        self.line = line


class PsqlCommand(Unusable):
    """A command of psql's stands where a statement should: ``command`` with its backslash."""

    def __init__(self, command: str, line: int) -> None:
        named = f"{command}, which is a command of psql's"
        said = named if command[1:].isalpha() else "a \\ that ends nowhere, or outside of a literal"
        super().__init__(f"line {line} has {said}", line)
        self.command = command


@dataclass(frozen=True)
class Token:
    """One word, name, literal or sign; ``word`` is it in capitals where it is an unquoted word or a sign, else empty."""

    text: str
    word: str
    at: int

    @property
    def end(self) -> int:
        """Where the text goes on behind it."""
        return self.at + len(self.text)


@dataclass(frozen=True)
class Piece:
    """A part of a text that holds one statement, with the comments before it and the semicolon: joined, they are the text.

    ``tokens`` are the statement's, without the semicolon; none where there are only comments. ``ended``: by a semicolon.
    ``unclosed`` is the parenthesis, or the BEGIN ATOMIC, that has swallowed the rest of the text.
    """

    text: str
    at: int
    tokens: tuple[Token, ...]
    ended: bool
    unclosed: Token | None = None


def statements(text: str) -> list[list[Token]]:
    """The statements of a text, each as its tokens. Raises :class:`Unusable` for what psql would not read as it stands."""
    found = []
    for piece in pieces(text):
        if piece.tokens and not piece.ended:
            raise Unusable("its last statement does not end in a semicolon", line_of(text, piece.tokens[0].at))
        if piece.tokens:
            found.append(list(piece.tokens))
    return found


def pieces(text: str) -> Iterator[Piece]:
    """The text cut behind each semicolon that ends a statement. Raises :class:`Unusable` where a token ends nowhere.

    The text is read no further than to the piece that was asked for: what follows may be no SQL, such as the rows of a COPY.
    """
    found: list[Token] = []
    opened: list[Token] = []  # parentheses
    body: Token | None = None  # BEGIN ATOMIC
    begin = 0
    for token in tokens(text):
        if token.word == ";" and not opened and not body:
            yield Piece(text[begin : token.end], begin, tuple(found), True)
            found, begin = [], token.end
            continue
        before = found[-1].word if found else ""
        if token.word == "(":
            opened.append(token)
        elif token.word == ")" and opened:
            opened.pop()
        elif opened:
            pass
        elif token.word == "ATOMIC" and before == "BEGIN" and body is None and is_routine(found):
            body = token
        elif token.word == "END" and before in (";", "ATOMIC"):
            # No statement of the body begins so; an END of CASE, or a column of that name, stands behind something else.
            body = None
        found.append(token)
    if begin < len(text):
        yield Piece(text[begin:], begin, tuple(found), False, opened[0] if opened else body)


def is_routine(tokens: Sequence[Token]) -> bool:
    """Whether a statement begins like one that makes a function or procedure: only these have a body of statements."""
    words = [token.word for token in tokens[:4]]
    del words[1 : 3 if words[1:3] == ["OR", "REPLACE"] else 1]
    return words[:2] in (["CREATE", "FUNCTION"], ["CREATE", "PROCEDURE"])


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a text, without spaces and comments. Raises :class:`Unusable`."""
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None, "the last alternative takes any character"
        at, kind = match.end(), match.lastgroup if match.lastgroup != "tag" else "dollar"
        if kind == "comment":
            at = _end_of_comment(text, match.end())
        elif kind in ("word", "other") and (match.group() == "\\" or _OPENED.match(text, match.start())):
            # What is open here has matched as no literal above. psql takes what follows a backslash for a command of its own.
            line = line_of(text, match.start())
            if command := _PSQL.match(text, match.start()):
                raise PsqlCommand(command.group(), line)
            raise Unusable(f"line {line} has a {match.group()} that ends nowhere, or outside of a literal", line)
        elif kind != "space":
            plain = match.group() if kind in ("word", "other") else ""
            # Keywords are ASCII, and folded as such: no other letter stands for one of them.
            yield Token(match.group(), plain.upper() if plain.isascii() else plain, match.start())


def texts(text: str) -> list[str]:
    """The statements of one string as they stand there, cut as PostgreSQL's scanner does; what cannot be read stays whole."""
    try:
        return [text[one.tokens[0].at : one.tokens[-1].end] for one in pieces(text) if one.tokens]
    except Unusable:
        return [text]


def names(text: str, name: str) -> bool:
    """Whether a text has this name in it as a whole word, in whatever case."""
    return re.search(rf"(?<![\w$]){re.escape(name)}(?![\w$])", text, re.IGNORECASE) is not None


def parts(tokens: Iterable[Token]) -> Iterator[list[Token]]:
    """The tokens between commas that stand in no parentheses."""
    depth, part = 0, list[Token]()
    for token in tokens:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.word, 0)
        if token.word == "," and not depth:
            yield part
            part = []
        else:
            part.append(token)
    yield part


def line_of(text: str, at: int) -> int:
    """The number of the line in which this character stands."""
    return text.count("\n", 0, at) + 1


def catalog_name(token: Token) -> str | None:
    """The name as the catalog has it; None where it is written with escapes (``U&"…"``), or is none."""
    if token.word:
        return "".join(one.lower() if one.isascii() else one for one in token.text)
    return token.text[1:-1].replace('""', '"') if token.text[:1] == '"' else None


def _end_of_comment(text: str, at: int) -> int:
    depth, begin = 1, at
    for match in _COMMENT_EDGE.finditer(text, at):
        depth += 1 if match.group() == "/*" else -1
        if not depth:
            return match.end()
    raise Unusable("a comment ends nowhere", line_of(text, begin))
