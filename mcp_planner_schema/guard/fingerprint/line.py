"""One object of the catalog, or one property of it that can change by itself, as a line of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Line(NamedTuple):
    """``kind`` and ``identity`` say which object it is, ``definition`` what it is like. No OID, no owner, no position."""

    kind: str
    identity: str
    definition: str


Lines = frozenset[Line]

Picture = Mapping[int, Lines]
"""Lines by the OID of the object that they belong to. Where two catalogs share an OID, those of both."""

PARTS = {"order": "order", "comment": "comments", "acl": "grants"}
"""Kinds that have a digest of their own; all others are the structure."""


def together(picture: Picture) -> Lines:
    """All lines of a picture."""
    return frozenset().union(*picture.values())


def structure(lines: Iterable[Line]) -> Lines:
    """Those that decide what the database does: without the order of columns, comments and grants."""
    return frozenset(line for line in lines if line.kind not in PARTS)
