"""Which file golang-migrate has begun and not ended, for a row that is dirty, and what of it is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.findings import Broken
from mcp_planner_schema.guard.fingerprint import Lines, stored, structure
from mcp_planner_schema.interop import half
from mcp_planner_schema.interop.golang import versions
from mcp_planner_schema.interop.golang.row import Row
from mcp_planner_schema.interop.golang.versions import Place

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

    from mcp_planner_schema.guard.settings import Settings

_COMMAND = "make migrate-adopt FROM=golang-migrate"


def done(script: ScriptDirectory, line: list[Place], table: str, row: Row, found: Lines, given: Settings) -> Broken:
    """The error that says it: which file was begun, what of it is there, what is not, and what to type for either way.

    The row names the version that was being gone to: up to it, or down from the next one.
    """
    count, between = versions.at(line, row.version)
    up = between or (line[count - 1] if count else None)
    down = None if between else (line[count] if count < len(line) else None)
    told = [f"{table} says {row}: golang-migrate has begun {_begun(up, down)}, and its end was not seen."]
    if not row.dirty and between:
        told = [
            f"{table} says {row}, which is in the middle of revision {between.revision} ({between.version} is its end)."
        ]
    if not stored.place(script.dir).exists():
        return half.unknown(told, _COMMAND)
    states = half.states(script, line)
    now = structure(found)
    exact = half.exactly(states, now, count)
    if exact is not None:
        return half.whole(told, line, exact, count, _COMMAND)
    place = _nearest([one for one in (up, down) if one], line, states, now)
    return half.partly(told, line.index(place), line, states, now, _COMMAND, given)


def _begun(up: Place | None, down: Place | None) -> str:
    said = [f"revision {up.revision} (up)"] if up else []
    said += [f"the way back from revision {down.revision} (down)"] if down else []
    return ", or ".join(said)


def _nearest(places: Sequence[Place], line: list[Place], states: list[Lines], now: Lines) -> Place:
    """The revision whose two sides explain the catalog best."""

    def unexplained(place: Place) -> int:
        at = line.index(place)
        before, after = states[at], states[at + 1]
        return len(now - before - after) + len((before & after) - now)

    return min(places, key=unexplained)
