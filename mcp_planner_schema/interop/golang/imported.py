"""``make migrate-import FROM=golang-migrate``: each version of a folder as a revision, with a header, that says the same."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import settings
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.scope import author
from mcp_planner_schema.guard.settings import Settings
from mcp_planner_schema.interop import revision
from mcp_planner_schema.interop.file import File
from mcp_planner_schema.interop.golang import folder as folders
from mcp_planner_schema.interop.golang import versions
from mcp_planner_schema.interop.golang.folder import Migration
from mcp_planner_schema.interop.line import folder_of, next_number
from mcp_planner_schema.interop.revision import Made, Source

if TYPE_CHECKING:
    from alembic.config import Config


def write(config: Config, source: Path, given_author: str = "") -> list[Path]:
    """Write the revisions and give their files. Those that this history has already, from the same folder, are passed over.

    Raises :class:`WrongUse` that names the file, before anything is written.
    """
    from alembic.script import ScriptDirectory

    script, given = ScriptDirectory.from_config(config), settings.load(config)
    line = versions.places(script)
    there = {place.version: place for place in line if place.came}
    found = folders.read(source)
    for one in found:
        if one.version in there:
            _refuse_other(one, there[one.version])
    new = [one for one in found if one.version not in there]
    late = next((one for one in new if line and one.version <= line[-1].version), None)
    if late is not None:
        raise WrongUse(
            f"{_first(late)}: version {late.version} lies before version {line[-1].version}, which this history has already: "
            "where that is applied, golang-migrate would never run it either.",
            "give it a later version, and repeat the command",
        )
    parent = line[-1].revision if line else None
    number = next_number([place.script for place in line])
    made = revisions(new, given, author(given_author), dt.datetime.now(dt.UTC).date(), parent, number)
    return revision.write(folder_of(script), made)


def revisions(
    migrations: Sequence[Migration], given: Settings, by: str, day: dt.date, parent: str | None = None, number: int = 1
) -> list[Made]:
    """The revisions of these versions, one after the other. Raises :class:`WrongUse` that names the file."""
    made = []
    for one in migrations:
        name = f"{number:03}"
        made.append(revision.made(_source(one), given, by, day, name, parent))
        parent, number = name, number + 1
    return made


def _refuse_other(one: Migration, place: versions.Place) -> None:
    came = place.came or {}
    for direction, file in (("up", one.up), ("down", one.down)):
        if (file.name if file else None) != came.get(direction):
            raise WrongUse(
                f"{_first(one)}: version {one.version} is revision {place.revision} here, and came from another file.",
                "give it a version of its own, and repeat the command",
            )


def _first(one: Migration) -> str:
    return (one.up or one.down or File("", "")).name


def _source(one: Migration) -> Source:
    files = {direction: file.name for direction, file in (("up", one.up), ("down", one.down)) if file is not None}
    return Source(
        title=one.title,
        number=str(one.version),
        description=f"{one.title or f'Version {one.version}'}, as golang-migrate's {_first(one)} says it",
        up=one.up,
        down=one.down,
        mark=versions.MARK,
        came={"version": one.version, **files},
        no_way_back="the folder that it came from has no down file",
    )
