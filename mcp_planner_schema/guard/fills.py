"""Whether a statement of an upgrade may have a newer value for a kept column than the stash has.

A row that somebody has written to since the downgrade gets its kept value only when no statement of the body has another for it:
not before an UPDATE of its table that computes something. Every other statement is to find the value there.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from mcp_planner_schema.guard import lexer

_OPAQUE = re.compile(r"\s*(DO|CALL|SELECT|WITH)\b", re.IGNORECASE)
_WRITES = re.compile(r"\s*(UPDATE|MERGE|INSERT)\b", re.IGNORECASE)
_VALUE = r"(?:'[^']*'|[-+]?[\d.]+|NULL|DEFAULT|TRUE|FALSE)(?:::\w+)?"
_CONSTANT = re.compile(
    rf'\s*UPDATE\b[^=]*?\bSET\s+[\w"]+\s*=\s*{_VALUE}(?:\s*,\s*[\w"]+\s*=\s*{_VALUE})*\s*(?:WHERE\b|;|$)', re.IGNORECASE
)


def may(text: str, tables: Collection[str]) -> bool:
    """Whether one of the statements in ``text`` may compute values for one of these tables; what hides others may."""
    return any(_may(part, tables) for part in lexer.texts(text))


def _may(text: str, tables: Collection[str]) -> bool:
    if _OPAQUE.match(text):
        return True
    named = any(name.lower() in text.lower() for name in tables)
    return bool(_WRITES.match(text)) and named and not _CONSTANT.match(text)
