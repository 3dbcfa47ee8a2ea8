"""The locks of pending revisions: as they are stored; where nothing is, or of another text, as a scratch database shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import stored_locks
from mcp_planner_schema.guard.findings import GuardError
from mcp_planner_schema.guard.settings import Settings
from mcp_planner_schema.guard.stored_locks import Found

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory


@dataclass(frozen=True)
class Known:
    """``found`` is None where it cannot be known: ``problem`` says why. ``origin`` is where it was found.

    ``fails`` is what the server says of a revision that no database will take.
    """

    found: Found | None
    origin: str
    problem: str = ""
    fails: str = ""


def known(
    config: Config, given: Settings, script: ScriptDirectory, checksums: Mapping[str, str], *, may_run: bool
) -> dict[str, Known]:
    """The locks of each revision's upgrade, by its id; ``checksums`` are those of the revisions as they are now.

    Runs what has to be traced on a scratch database, unless it may not run at all, and stores nothing.
    """
    stored: dict[str, Known] = {}
    missing: dict[str, str] = {}
    for name, checksum in checksums.items():
        found = stored_locks.found(script.dir, name)
        place = f"alembic/locks/{name}.json"
        if found is None:
            missing[name] = f"there is no {place}"
        elif stored_locks.source(script.dir, name) != checksum:
            missing[name] = f"{place} is of another text of the revision"
        else:
            stored[name] = Known(found, place)
    if missing and not may_run:
        return stored | {
            name: Known(None, "", f"{why}, and a finding refuses to run it") for name, why in missing.items()
        }
    return stored | (_traced(config, given, script, missing) if missing else {})


def _traced(config: Config, given: Settings, script: ScriptDirectory, missing: Mapping[str, str]) -> dict[str, Known]:
    from mcp_planner_schema.inspect import trace

    try:
        traced = trace.chosen_ones(config, given, script, set(missing), back=False)
    except GuardError as error:
        fails = {error.revision: error.said} if isinstance(error, trace.Fails) and error.everywhere else {}
        return {
            name: Known(None, "", f"{why}, and {error.message}", fails.get(name, "")) for name, why in missing.items()
        }
    found = {one.revision: one.found() for one in traced}
    return {name: Known(found[name], f"traced now: {why}") for name, why in missing.items()}
