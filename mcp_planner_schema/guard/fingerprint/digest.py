"""Four digests of a set of lines: what the database does, and beside it order of columns, comments, grants."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from mcp_planner_schema.guard.fingerprint.line import PARTS, Line

VERSION = "fp1"
"""The algorithm: the query's kinds and texts, the canonical form and the digest. Another one has another name."""

_LONG, _SHORT = 32, 16
_TEXT = re.compile(
    rf"{VERSION}:([0-9a-f]{{{_LONG}}}) order:([0-9a-f]{{{_SHORT}}}) "
    rf"comments:([0-9a-f]{{{_SHORT}}}) grants:([0-9a-f]{{{_SHORT}}})"
)


@dataclass(frozen=True)
class Fingerprint:
    """The begin of SHA-256 over the sorted lines: 32 hex digits (128 bits) of the structure, 16 of each other part."""

    structure: str
    order: str
    comments: str
    grants: str

    def __str__(self) -> str:
        return f"{VERSION}:{self.structure} order:{self.order} comments:{self.comments} grants:{self.grants}"


def of(lines: Iterable[Line]) -> Fingerprint:
    """The fingerprint of these lines, in whatever order they come."""
    parts: dict[str, list[Line]] = {"structure": [], "order": [], "comments": [], "grants": []}
    for line in lines:
        parts[PARTS.get(line.kind, "structure")].append(line)
    return Fingerprint(
        **{part: _digest(found)[: _LONG if part == "structure" else _SHORT] for part, found in parts.items()}
    )


def parsed(text: str) -> Fingerprint:
    """The fingerprint that ``str()`` has written. Raises ValueError for anything else."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError(f"it is no fingerprint of the form {VERSION}:…")
    return Fingerprint(*found.groups())


def _digest(lines: list[Line]) -> str:
    # PostgreSQL has no text with a NUL: nothing can stand for two lines but two lines.
    text = "\0".join(map("\0".join, sorted(lines)))
    return hashlib.sha256(f"{text}\0".encode() if lines else b"").hexdigest()
