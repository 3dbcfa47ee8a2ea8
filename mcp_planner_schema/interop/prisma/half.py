"""Which migration Prisma has begun and not ended, and what of it is there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.findings import Broken, GuardError, WrongUse
from mcp_planner_schema.guard.fingerprint import Lines, stored, structure
from mcp_planner_schema.interop import half
from mcp_planner_schema.interop.prisma.rows import Row
from mcp_planner_schema.interop.prisma.standing import Standing

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

    from mcp_planner_schema.guard.settings import Settings

_SAID = re.compile(r"ERROR: *(.*)")


def done(
    script: ScriptDirectory, standing: Standing, table: str, found: Lines, command: str, given: Settings
) -> GuardError:
    """The error that says it: which migration failed and why, what of it is there, and what to type for either way."""
    places = {place.name: number for number, place in enumerate(standing.line)}
    strange = next((row for row in standing.failed if row.name not in places), None)
    if strange is not None:
        return WrongUse(
            f"{_begun(strange, table)} No revision came from it.",
            "make migrate-import FROM=prisma DIR=…   (the folder that this database was migrated with)",
        )
    row = min(standing.failed, key=lambda one: places[one.name])
    at = places[row.name]
    told = [f"{_begun(row, table)} It is revision {standing.line[at].revision}."]
    if not stored.place(script.dir).exists():
        return half.unknown(told, command)
    states, now = half.states(script, standing.line), structure(found)
    exact = half.exactly(states, now, at)
    if exact is not None:
        return half.whole(told, standing.line, exact, at, command)
    error: Broken = half.partly(told, at, standing.line, states, now, command, given)
    return error


def _begun(row: Row, table: str) -> str:
    said = _SAID.search(row.logs)
    first = said[1] if said else row.logs.strip().partition("\n")[0]
    why = "".join(sign for sign in first if sign.isprintable()).strip()
    return (
        f"{table} says that {row.name}, begun at {row.started}, has failed{f' ({why})' if why else ''}, or was killed."
    )
