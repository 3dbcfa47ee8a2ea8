"""``make migrate-import FROM=golang-migrate``: each version of a folder as a revision, with a header, that says the same.

Every statement and comment is kept. A file becomes the revision's body in SQL, as it is. What such a body may not say (several
transactions, ``SET`` without LOCAL, nothing at all) stands in the revision as text, and is sent as golang-migrate sends it.
"""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import settings, sql_body
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.lexer import Unusable, line_of
from mcp_planner_schema.guard.scope import author
from mcp_planner_schema.guard.settings import Settings
from mcp_planner_schema.interop.golang import folder as folders
from mcp_planner_schema.interop.golang import guessed, versions
from mcp_planner_schema.interop.golang import query as queries
from mcp_planner_schema.interop.golang.folder import File, Migration
from mcp_planner_schema.interop.golang.query import Query
from mcp_planner_schema.interop.golang.revision_text import Text

if TYPE_CHECKING:
    from alembic.config import Config


@dataclass(frozen=True)
class Made:
    """A revision that is to be written: its file's name and text, and the bodies in SQL beside it."""

    name: str
    text: str
    bodies: dict[str, bytes]


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
    folder = Path(script.version_locations[0] if script.version_locations else f"{script.dir}/versions")
    parent = line[-1].revision if line else None
    made = revisions(new, given, author(given_author), dt.datetime.now(dt.UTC).date(), parent, _next(line))
    paths = []
    for revision in made:
        for name, content in {revision.name: revision.text.encode(), **revision.bodies}.items():
            (folder / name).write_bytes(content)
            paths.append(folder / name)
    return paths


def revisions(
    migrations: Sequence[Migration], given: Settings, by: str, day: dt.date, parent: str | None = None, number: int = 1
) -> list[Made]:
    """The revisions of these versions, one after the other. Raises :class:`WrongUse` that names the file."""
    made = []
    for one in migrations:
        name = f"{number:03}"
        made.append(_revision(one, given, by, day, name, parent))
        parent, number = name, number + 1
    return made


def _next(line: Sequence[versions.Place]) -> int:
    numbers = [int(place.revision) for place in line if place.revision.isdigit()]
    return max(numbers, default=0) + 1


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


def _revision(one: Migration, given: Settings, by: str, day: dt.date, name: str, parent: str | None) -> Made:
    up, down = (_query(file) for file in (one.up, one.down))
    transaction = "single" if up.transaction and down.transaction else "none"
    files = {direction: file for direction, file in (("up", one.up), ("down", one.down)) if file is not None}
    bodies = [direction for direction, file in files.items() if _is_body(file, transaction)]
    texts = {direction: file.text for direction, file in files.items() if direction not in bodies}
    kind = "data" if guessed.only_rows(up) else "schema"
    wanted, gone = guessed.expectations(up, down)
    made = Text(
        name=name,
        parent=parent,
        slug=guessed.slug(one.title, one.version, up, given.type_words),
        description=f"{one.title or 'Version ' + str(one.version)}, as golang-migrate's {_first(one)} says it",
        author=by,
        date=str(day),
        type=kind,
        phase="migrate" if kind == "data" else "contract" if guessed.takes(up) else "expand",
        transaction=transaction,
        reversible="stash" if one.down else "forward-only: the folder that it came from has no down file",
        came=_came(one.version, files, texts),
        expectations=wanted,
        expectations_down=gone,
        bodies=bodies,
        texts=texts,
    )
    beside = {f"{made.stem}.{direction}.sql": files[direction].raw() for direction in bodies}
    return Made(f"{made.stem}.py", made.whole(), beside)


def _came(version: int, files: Mapping[str, File], texts: Mapping[str, str]) -> dict[str, object]:
    """What the revision says of the files that it came from; of a body in SQL the line ends are in it."""
    windows = [direction for direction in texts if files[direction].windows]
    named = {direction: file.name for direction, file in files.items()}
    return {"version": version, **named, **({"windows": windows} if windows else {})}


def _query(file: File | None) -> Query:
    if file is None:
        return queries.read("")
    try:
        query = queries.read(file.text)
    except Unusable as error:
        raise WrongUse(f"{file.name}: {error}.", f"correct {file.name}, and repeat the command") from None
    over = (
        next((token for one in query.statements for token in one if "\n" in token.text), None) if file.windows else None
    )
    if over is not None:
        raise WrongUse(
            f"{file.name}: line {line_of(file.text, over.at)} begins a literal that goes over several lines, each with CR LF. "
            "There it is data, and what the guard runs has LF: it would be another function, or another value.",
            f"sed -i 's/\\r$//' {shlex.quote(file.name)}, and let the databases have it so too (a function: CREATE OR REPLACE)",
        )
    return query


def _is_body(file: File, transaction: str) -> bool:
    """Whether the guard takes the file for a revision's body in SQL: then it is one, untouched."""
    if next(sql_body.objections(file.text, transaction), None) is not None:
        return False
    return bool(sql_body.statements(file.text, transaction))
