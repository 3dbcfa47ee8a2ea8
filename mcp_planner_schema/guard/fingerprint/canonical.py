"""The definition of an object as it is compared: the same for the same object, whichever PostgreSQL tells of it."""

from __future__ import annotations

from mcp_planner_schema.guard.fingerprint.expressions import expressions
from mcp_planner_schema.guard.fingerprint.views import view

_WITH_EXPRESSIONS = {
    "table",
    "column",
    "constraint",
    "index",
    "rule",
    "trigger",
    "policy",
    "type",
    "statistics",
    "publication",
}
_BODY = "\nAS $"


def canonical(kind: str, definition: str) -> str:
    """``definition`` as the query gives it for this kind, in canonical form. The body of a routine is text, and stays."""
    if kind == "view":
        before, word, text = definition.partition("as ")
        return f"{before}{word}{expressions(view(text.strip()))}"
    if kind == "function":
        head, body, rest = definition.partition(_BODY)
        return f"{expressions(head)}{body}{rest}"
    return expressions(definition) if kind in _WITH_EXPRESSIONS else definition
