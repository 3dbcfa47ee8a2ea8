"""Whether a statement of an upgrade is to find kept values in rows that somebody has written to since the downgrade.

The body may have a newer one for such a row, so it is left empty until an UPDATE of its table has computed one, or the body has
ended. What only reads the table is to find the kept value before that.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from mcp_planner_schema.guard import lexer

_OPAQUE = re.compile(r"\s*(DO|CALL|SELECT|WITH)\b", re.IGNORECASE)
_TARGET = re.compile(
    r"\s*(?:UPDATE|MERGE\s+INTO|INSERT\s+INTO)\s+(?:ONLY\s+)?(?:(?:\"[^\"]+\"|[\w$]+)\s*\.\s*)?\"?([^\s\"(;]+)",
    re.IGNORECASE,
)
_VALUE = r"(?:'[^']*'|[-+]?[\d.]+|NULL|DEFAULT|TRUE|FALSE)(?:::\w+)?"
_CONSTANT = re.compile(
    rf'\s*UPDATE\b[^=]*?\bSET\s+[\w"]+\s*=\s*{_VALUE}(?:\s*,\s*[\w"]+\s*=\s*{_VALUE})*\s*(?:WHERE\b|;|$)', re.IGNORECASE
)
_BUILDS = re.compile(r"\s*(ALTER|COMMENT|GRANT|REVOKE|DROP|CREATE\s+(UNIQUE\s+)?INDEX)\b", re.IGNORECASE)
_ASKS = re.compile(r"\b(CHECK|USING)\b", re.IGNORECASE)


def first(text: str, tables: Collection[str]) -> bool:
    """Whether a statement in ``text`` is to find the kept values of these tables: it names one, and has no other value for it.

    Not one that builds only, unless it asks for values (``CHECK``, ``USING``), and not a block, a call or a query: these may be
    about to fill what is empty.
    """
    return any(_first(part, [name.lower() for name in tables]) for part in lexer.texts(text))


def _first(text: str, tables: Collection[str]) -> bool:
    if _OPAQUE.match(text) or not any(lexer.names(text, name) for name in tables):
        return False
    if _BUILDS.match(text):
        return bool(_ASKS.search(text))
    target = _TARGET.match(text)
    return not target or target[1].lower() not in tables or bool(_CONSTANT.match(text))
