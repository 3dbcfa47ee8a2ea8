"""``make migrate-import FROM=prisma``: each migration of a folder as a revision, with a header, that says the same."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import settings
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.scope import author
from mcp_planner_schema.interop import revision
from mcp_planner_schema.interop.line import folder_of, next_number
from mcp_planner_schema.interop.prisma import folder as folders
from mcp_planner_schema.interop.prisma.folder import Migration
from mcp_planner_schema.interop.prisma.places import MARK, Place, places
from mcp_planner_schema.interop.revision import Source

if TYPE_CHECKING:
    from alembic.config import Config

_NUMBERED = re.compile(r"([0-9]*)[_-]?(.*)", re.DOTALL)


def write(config: Config, source: Path, given_author: str = "") -> list[Path]:
    """Write the revisions and give their files. Migrations that this history has already are passed over; what is new stands
    behind them, whatever its name: Prisma too runs a migration that comes late after those that it has run.

    Raises :class:`WrongUse` that names the file, before anything is written.
    """
    from alembic.script import ScriptDirectory

    script, given = ScriptDirectory.from_config(config), settings.load(config)
    line = places(script)
    there = {place.name: place for place in line if place.name is not None}
    found = folders.read(source)
    for one in found:
        if one.name in there:
            _refuse_other(one, there[one.name])
    by, day = author(given_author), dt.datetime.now(dt.UTC).date()
    parent = line[-1].revision if line else None
    number = next_number([place.script for place in line])
    made = []
    for one in found:
        if one.name not in there:
            made.append(revision.made(_source(one), given, by, day, f"{number:03}", parent))
            parent, number = f"{number:03}", number + 1
    return revision.write(folder_of(script), made)


def _refuse_other(one: Migration, place: Place) -> None:
    for direction, file in (("up", one.up), ("down", one.down)):
        if file is not None and file.text != place.text(direction):
            raise WrongUse(
                f"{file.name}: the migration is revision {place.revision} here, which runs something else: one of both was "
                "changed after it had been imported.",
                f"undo the change; or, where no database has revision {place.revision}, remove its files and repeat the command",
            )


def _source(one: Migration) -> Source:
    number, title = _NUMBERED.fullmatch(one.name).groups()  # type: ignore[union-attr]  # it matches everything
    return Source(
        title=title or one.name,
        number=number or "0",
        description=f"{one.name}, as Prisma's {folders.UP} says it",
        up=one.up,
        down=one.down,
        mark=MARK,
        came={"name": one.name},
        no_way_back=f"Prisma's migrations have none, and no {folders.DOWN} lay beside this one",
    )
