"""SQL as PostgreSQL itself writes it out, cut into tokens and put into its brackets.

Never what a person wrote: no comments, no dollar quotes (a routine's body is not cut). Whatever the text, joining the tokens
gives it back, and the time taken grows with its length only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeGuard

# Possessive: what does not end is given up at once.
_TOKEN = re.compile(
    r"""\s++
    |E'(?:[^'\\]|\\.|'')*+'
    |'(?:[^']|'')*+'
    |"(?:[^"]|"")*+"
    |[^\W\d][\w$]*+
    |\d[\w.]*+
    |::
    |.""",
    re.DOTALL | re.VERBOSE,
)
_CLOSING = {"(": ")", "[": "]"}


@dataclass(eq=False)
class Group:
    """What stands in a pair of brackets. ``bare``: the brackets are left out; ``ended``: the closing one is there."""

    opening: str
    parts: list[str | Group] = field(default_factory=list)
    bare: bool = False
    ended: bool = False


def tokens(text: str) -> list[str]:
    """All of them, spaces too."""
    return _TOKEN.findall(text)


def parse(text: str) -> Group:
    """The text as a group without brackets."""
    root = Group("", bare=True)
    opened = [root]
    for token in tokens(text):
        if token in _CLOSING:
            group = Group(token)
            opened[-1].parts.append(group)
            opened.append(group)
        elif len(opened) > 1 and token == _CLOSING[opened[-1].opening]:
            opened.pop().ended = True
        else:
            opened[-1].parts.append(token)
    return root


def groups(root: Group) -> list[Group]:
    """The group and all that are in it."""
    found = [root]
    for group in found:  # it grows meanwhile
        found.extend(part for part in group.parts if isinstance(part, Group))
    return found


def written(root: Group) -> str:
    """The text of a group."""
    made: list[str] = []
    waiting: list[str | Group] = [root]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            made.append(part)
            continue
        if not part.bare:
            made.append(part.opening)
            if part.ended:
                waiting.append(_CLOSING[part.opening])
        waiting.extend(reversed(part.parts))
    return "".join(made)


def words(group: Group) -> list[str | Group]:
    """The parts of a group but for spaces."""
    return [part for part in group.parts if not (isinstance(part, str) and part.isspace())]


def is_group(part: object, opening: str) -> TypeGuard[Group]:
    """Whether a part is a group in such brackets."""
    return isinstance(part, Group) and part.opening == opening
