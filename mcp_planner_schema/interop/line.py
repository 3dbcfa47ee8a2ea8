"""The history as the single line of revisions that other tools know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.findings import WrongUse

if TYPE_CHECKING:
    from alembic.script import Script, ScriptDirectory


def linear(script: ScriptDirectory, tool: str, then: str) -> list[Script]:
    """Every revision, the oldest first. Imports them. Raises :class:`WrongUse` for a history that has branches."""
    line = list(script.walk_revisions())[::-1]
    several = [one.revision for one in line if one.is_merge_point or one.is_branch_point or one.dependencies]
    if several or len(script.get_heads()) > 1 or len(script.get_bases()) > 1:
        where = several[0] if several else ", ".join(script.get_heads())
        raise WrongUse(f"{tool} knows one line of versions, and this history has branches (at {where}).", then)
    return line


def folder_of(script: ScriptDirectory) -> Path:
    """Where new revisions are written."""
    return Path(script.version_locations[0] if script.version_locations else f"{script.dir}/versions")


def next_number(line: list[Script]) -> int:
    """The number of the revision that comes behind these."""
    return max((int(one.revision) for one in line if one.revision.isdigit()), default=0) + 1
