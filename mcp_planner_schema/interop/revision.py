"""What another tool has in a folder, as a revision with its header that says the same, statement for statement.

A file becomes the revision's body in SQL, as it is. What such a body may not say (several transactions, ``SET`` without LOCAL,
nothing at all) stands in the revision as text, and is sent as the tool sends it: as one query.
"""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mcp_planner_schema.guard import sql_body
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.lexer import Unusable, line_of
from mcp_planner_schema.guard.settings import Settings
from mcp_planner_schema.interop import guessed
from mcp_planner_schema.interop import query as queries
from mcp_planner_schema.interop.file import File
from mcp_planner_schema.interop.query import Query
from mcp_planner_schema.interop.revision_text import Text


@dataclass(frozen=True)
class Made:
    """A revision that is to be written: its file's name and text, and the bodies in SQL beside it."""

    name: str
    text: str
    bodies: dict[str, bytes]


@dataclass(frozen=True)
class Source:
    """What is known of one version beside its files. ``mark`` is the constant that keeps ``came``: where it is from.

    ``number`` names it where the title has no word to do so. ``no_way_back`` says why there is none, without a down file.
    """

    title: str
    number: str
    description: str
    up: File | None
    down: File | None
    mark: str
    came: Mapping[str, object]
    no_way_back: str


def made(source: Source, given: Settings, by: str, day: dt.date, name: str, parent: str | None) -> Made:
    """The revision ``name`` behind ``parent``. Raises :class:`WrongUse` that names the file."""
    up, down = (_query(file) for file in (source.up, source.down))
    transaction = "single" if up.transaction and down.transaction else "none"
    files = {direction: file for direction, file in (("up", source.up), ("down", source.down)) if file is not None}
    bodies = [direction for direction, file in files.items() if _is_body(file, transaction)]
    texts = {direction: file.text for direction, file in files.items() if direction not in bodies}
    windows = [direction for direction in texts if files[direction].windows]
    marked = [direction for direction, file in files.items() if file.marked]
    kind = "data" if guessed.only_rows(up) else "schema"
    wanted, gone = guessed.expectations(up, down)
    text = Text(
        name=name,
        parent=parent,
        slug=guessed.slug(source.title, source.number, up, given.type_words),
        description=source.description,
        author=by,
        date=str(day),
        type=kind,
        phase="migrate" if kind == "data" else "contract" if guessed.takes(up) else "expand",
        transaction=transaction,
        reversible="stash" if source.down else f"forward-only: {source.no_way_back}",
        mark=source.mark,
        came={**source.came, **({"windows": windows} if windows else {}), **({"marked": marked} if marked else {})},
        expectations=wanted,
        expectations_down=gone,
        bodies=bodies,
        texts=texts,
        no_way_back=source.no_way_back,
    )
    beside = {f"{text.stem}.{direction}.sql": replace(files[direction], marked=False).raw() for direction in bodies}
    return Made(f"{text.stem}.py", text.whole(), beside)


def write(folder: Path, revisions: Iterable[Made]) -> list[Path]:
    """Write them, and give their files."""
    paths = []
    for revision in revisions:
        for name, content in {revision.name: revision.text.encode(), **revision.bodies}.items():
            (folder / name).write_bytes(content)
            paths.append(folder / name)
    return paths


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
