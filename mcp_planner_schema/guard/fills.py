"""Whether a statement of an upgrade is to find kept values in rows that somebody has written to since the downgrade.

The body may have a newer one for such a row, so it is left empty until an UPDATE of its table has computed one, or the body has
ended. What only reads the column is to find the kept value before that.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from mcp_planner_schema.guard import lexer
from mcp_planner_schema.guard.lexer import Token

_OPAQUE = ("DO", "CALL", "SELECT", "WITH")
_BUILDS = ("ALTER", "COMMENT", "GRANT", "REVOKE", "DROP", "CREATE")
_ASKS = re.compile(r"\b(CHECK|USING)\b", re.IGNORECASE)
_ENDS = ("FROM", "WHERE", "RETURNING", ";")
_LONG = 100_000
"""Characters of a statement that is not read token by token."""


class Waiting(NamedTuple):
    """Columns of a table whose values wait, and all that it has."""

    table: str
    columns: tuple[str, ...]
    all_: frozenset[str]


def first(text: str, waiting: Collection[Waiting]) -> bool:
    """Whether a statement in ``text`` is to find the kept values: it reads one of these columns, and has no other value for it.

    Not one that builds only, unless it asks for values (``CHECK``, ``USING``), and not a block, a call or a query: these may be
    about to fill what is empty. A value that is made of nothing in the table (a default) is none that was moved.
    """
    if len(text) > _LONG or not any(lexer.names(text, one.table) for one in waiting):
        return False
    return any(_first(part, one) for part in lexer.texts(text) for one in waiting if lexer.names(part, one.table))


def _first(text: str, waits: Waiting) -> bool:
    try:
        tokens = list(lexer.tokens(text))
    except lexer.Unusable:
        return False
    verb = tokens[0].word if tokens else ""
    if verb in _OPAQUE:
        return False
    if verb == "CREATE" and not any(token.word == "INDEX" for token in tokens[:3]):  # of a table or view, from a query
        return True
    if verb in _BUILDS:
        return bool(_ASKS.search(text))
    if verb not in ("UPDATE", "INSERT", "MERGE") or waits.table not in _target(tokens):
        return True
    if verb == "UPDATE":
        return _updates(tokens, waits)
    # What it puts into the column itself stands before the query.
    query = next((n for n, token in enumerate(tokens) if token.word in ("SELECT", "TABLE") and n), len(tokens))
    return verb == "INSERT" and any(lexer.catalog_name(token) in waits.columns for token in tokens[query:])


def _target(tokens: Sequence[Token]) -> list[str | None]:
    """The words of the name that a statement writes to."""
    behind = (token for token in tokens[1:] if token.word not in ("INTO", "ONLY"))
    return [lexer.catalog_name(token) for token in takewhile(lambda token: token.word not in ("SET", "("), behind)]


def _updates(tokens: Sequence[Token], waits: Waiting) -> bool:
    """Whether an UPDATE of the table reads the columns and does not fill them, or fills them with what is in no row."""
    at = next((n for n, token in enumerate(tokens) if token.word == "SET"), len(tokens))
    depth, end = 0, len(tokens)
    for n in range(at, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[n].word, 0)
        if not depth and tokens[n].word in _ENDS:
            end = n
            break
    filled, values = set[str | None](), list[Token]()
    for part in lexer.parts(tokens[at + 1 : end]):
        sign = next((n for n, token in enumerate(part) if token.word == "="), len(part))
        filled |= {lexer.catalog_name(token) for token in part[:sign]}
        values += part[sign + 1 :]
    if filled.isdisjoint(waits.columns):
        return any(name in waits.columns for name in _names(tokens))
    joined = end < len(tokens) and tokens[end].word == "FROM"
    computed = any(token.word == "SELECT" or lexer.catalog_name(token) in waits.all_ for token in values)
    return not (joined or computed)


def _names(tokens: Sequence[Token]) -> Iterator[str | None]:
    return map(lexer.catalog_name, tokens)
