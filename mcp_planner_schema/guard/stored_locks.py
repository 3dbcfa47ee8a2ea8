"""What each revision was found to lock: ``alembic/locks/NNN.json``, written by ``make migrate-trace`` and committed with it.

Read before a step, to know which tables it will need before it holds the first one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODES = (
    "ACCESS SHARE",
    "ROW SHARE",
    "ROW EXCLUSIVE",
    "SHARE UPDATE EXCLUSIVE",
    "SHARE",
    "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
)
"""As LOCK TABLE names them, the weakest first."""


@dataclass(frozen=True)
class Found:
    """One direction of a revision: the strongest lock it took on each table that was there before, and which it rewrote.

    Tables are named with their schema, unquoted: ``public.steps``.
    """

    locks: Mapping[str, str] = field(default_factory=dict)
    rewritten: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Sorted, so that the same finding is the same text."""
        return {"locks": dict(sorted(self.locks.items())), "rewritten": sorted(self.rewritten)}


def found(script_dir: str | Path, revision: str, direction: str = "upgrade") -> Found | None:
    """What is stored for this direction of the revision; None where nothing is."""
    stored = _read(script_dir, revision).get(direction)
    return Found(dict(stored["locks"]), tuple(stored.get("rewritten", ()))) if stored else None


def source(script_dir: str | Path, revision: str) -> str | None:
    """The checksum of the revision as it was when it was traced: with another one, what is stored is stale."""
    stored = _read(script_dir, revision).get("source")
    return str(stored) if stored else None


def locks(script_dir: str | Path, revision: str, direction: str = "upgrade") -> dict[str, str] | None:
    """The strongest lock on each table, by its name; None where nothing is stored for this direction of the revision."""
    stored = found(script_dir, revision, direction)
    return dict(stored.locks) if stored else None


def _read(script_dir: str | Path, revision: str) -> dict[str, Any]:
    try:
        return dict(json.loads(place(script_dir, revision).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def place(script_dir: str | Path, revision: str) -> Path:
    """The revision's file, beside the folder of the revisions."""
    return Path(script_dir) / "locks" / f"{revision}.json"


def text(found: Mapping[str, Found], source: str | None = None) -> str:
    """The file's content: one entry for each direction that was traced, and the checksum of what was."""
    stored: dict[str, Any] = {direction: found[direction].as_json() for direction in sorted(found, reverse=True)}
    return json.dumps(stored | ({"source": source} if source else {}), indent=2) + "\n"


def strongest(modes: Iterable[str]) -> str:
    """The strongest of these modes."""
    return max(modes, key=MODES.index)
