"""Which version of golang-migrate's a revision is, and which revision a version.

A revision that came from a golang-migrate folder keeps its version. Every other one is a thousand above the one before it: it
may be several files there, and the numbers below its own are those of its first parts. So the version of a revision never
changes when others come after it, and the row that says it says that all of the revision is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.interop.line import linear

if TYPE_CHECKING:
    from alembic.script import Script, ScriptDirectory

STEP = 1000
MARK = "golang_migrate"
"""The constant of a revision that came from a folder: which files it was."""


@dataclass(frozen=True)
class Place:
    """A revision in golang-migrate's order: ``after`` is the version before it, ``version`` the one when all of it is done."""

    script: Script
    after: int
    version: int

    @property
    def revision(self) -> str:
        """Its id."""
        return self.script.revision

    @property
    def came(self) -> dict[str, Any] | None:
        """What it says of the files that it came from; None where it came from none."""
        return getattr(self.script.module, MARK, None)


def places(script: ScriptDirectory) -> list[Place]:
    """Every revision, the oldest first. Imports them. Raises :class:`WrongUse` for a history that is no single line."""
    line = linear(script, "golang-migrate", "alembic merge heads, and export the linear part of it (TO=…)")
    found: list[Place] = []
    before = 0
    for one in line:
        came = getattr(one.module, MARK, None)
        version = int(came["version"]) if came else before + STEP
        if version <= before and found:
            raise WrongUse(
                f"revision {one.revision} came from version {version}, and stands behind version {before}.",
                "correct the order of the revisions (make migrate-rebase)",
            )
        found.append(Place(one, before, version))
        before = version
    return found


def at(line: list[Place], version: int | None) -> tuple[int, Place | None]:
    """How many revisions are done at a version, and the one that is half done there. Raises KeyError where none has it."""
    if version is None or version < 0:
        return 0, None
    for number, place in enumerate(line, 1):
        if place.version == version:
            return number, None
        if place.after < version < place.version and place.came is None:
            return number - 1, place
    raise KeyError(version)
