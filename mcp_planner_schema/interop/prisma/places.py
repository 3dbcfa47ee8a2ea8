"""Which migration of Prisma's a revision came from, and whether its text is still the one that a row's checksum was made of."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.interop.line import linear

if TYPE_CHECKING:
    from alembic.script import Script, ScriptDirectory

MARK = "prisma_migration"
"""The constant of a revision that came from a folder of Prisma's: which migration it was."""


@dataclass(frozen=True)
class Place:
    """A revision of the history. ``name`` is the migration that it came from; None where it came from none."""

    script: Script
    name: str | None

    @property
    def revision(self) -> str:
        """Its id."""
        return self.script.revision

    @property
    def came(self) -> dict[str, Any] | None:
        """What it says of where it came from; None where it came from nowhere."""
        return getattr(self.script.module, MARK, None)

    def text(self, direction: str = "up") -> str | None:
        """What it runs in a direction as it stands now, with LF; None where it has none of a file's."""
        beside = Path(self.script.path).with_suffix(f".{direction}.sql")
        if beside.exists():
            return beside.read_text(encoding="utf-8").replace("\r\n", "\n")
        return getattr(self.script.module, direction.upper(), None)


def places(script: ScriptDirectory) -> list[Place]:
    """Every revision, the oldest first. Raises :class:`WrongUse` for a history that is no single line."""
    line = linear(script, "Prisma", "alembic merge heads, then the same command")
    return [Place(one, (getattr(one.module, MARK, None) or {}).get("name")) for one in line]


def matches(text: str, checksum: str) -> bool:
    """Whether a row's checksum was made of this text, whatever its line ends and its byte order mark were.

    As Prisma compares them; it wrote checksums without their leading zeros once.
    """
    return any(
        checksum in (digest.hex(), "".join(f"{byte:x}" for byte in digest))
        for digest in (hashlib.sha256(raw).digest() for raw in _forms(text))
    )


def _forms(text: str) -> Iterator[bytes]:
    for lines in (text, text.replace("\n", "\r\n")):
        yield lines.encode()
        yield codecs.BOM_UTF8 + lines.encode()
