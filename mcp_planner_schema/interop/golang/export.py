"""``make migrate-export FORMAT=golang-migrate``: the history as a folder that golang-migrate applies and reverts.

A revision that came from such a folder is written as the file it was. Of every other one the SQL is that of ``--sql``: a
revision of one transaction is one file, one that commits in between is several, and the last of them has its version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import body, budget, header, judge, postcheck, settings, source
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.header import Header
from mcp_planner_schema.guard.settings import Settings
from mcp_planner_schema.interop.file import File
from mcp_planner_schema.interop.golang import folder as folders
from mcp_planner_schema.interop.golang import versions, written
from mcp_planner_schema.interop.golang.versions import Place
from mcp_planner_schema.interop.golang.written import Part

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

WIDTH = 6
_MADE = re.compile(r"^(CREATE (?:UNIQUE )?|DROP )INDEX (?:CONCURRENTLY )?(?:IF (?:NOT )?EXISTS )?(\S+)", re.IGNORECASE)


def write(config: Config, into: Path, to: str | None = None) -> list[Path]:
    """Write the folder and give its files. What lies there already and would be another file is refused, as is an unknown one.

    Asks no database. Raises :class:`Refused` where a revision cannot be said in SQL: then nothing is written.
    """
    texts = files(config, to)
    there = {path.name: path for path in into.iterdir() if folders.name_of(path.name)} if into.is_dir() else {}
    strange = sorted(there.keys() - texts.keys()) or sorted(
        name for name, path in there.items() if path.read_bytes() != texts[name]
    )
    if strange:
        raise WrongUse(
            f"{into} holds {strange[0]}, which is not what this history makes of it: databases may have been migrated by it.",
            "an empty folder (DIR=…), or remove that file if no database has applied it",
        )
    into.mkdir(parents=True, exist_ok=True)
    made = []
    for name, content in texts.items():
        path = into / name
        if name not in there:
            path.write_bytes(content)
            made.append(path)
    return made


def files(config: Config, to: str | None = None) -> dict[str, bytes]:
    """The content of each file by its name, in golang-migrate's order."""
    from alembic.script import ScriptDirectory

    script, given = ScriptDirectory.from_config(config), settings.load(config)
    line = versions.places(script)
    if to is not None and to not in [place.revision for place in line]:
        raise WrongUse(f"There is no revision {to}.", "make migrate-export FORMAT=golang-migrate DIR=… TO=003")
    found: dict[str, bytes] = {}
    for place in line:
        came = place.came
        found |= _as_they_came(place) if came else _of(config, script, given, place)
        if place.revision == to:
            break
    return found


def _as_they_came(place: Place) -> dict[str, bytes]:
    came, found = place.came or {}, {}
    for direction in ("up", "down"):
        name = came.get(direction)
        beside = Path(place.script.path).with_suffix(f".{direction}.sql")
        if name is not None and beside.exists():
            found[name] = beside.read_bytes()
        elif name is not None:
            text = getattr(place.script.module, direction.upper())
            found[name] = File(name, text, direction in came.get("windows", ())).raw()
    return found


@dataclass(frozen=True)
class _Revision:
    """What the files of one revision say of it."""

    name: str
    header: Header | None
    lines: tuple[str, ...]
    title: str
    limits: str
    stem: str
    why: str = ""


def _of(config: Config, script: ScriptDirectory, given: Settings, place: Place) -> dict[str, bytes]:
    told = _told(given, place)
    here = told.header is None or given.environment in told.header.environments
    up = written.parts(config, script, place.script, back=False) if here else []
    forward = told.header is not None and told.header.reversible == "forward-only"
    down = [] if forward or not here else written.parts(config, script, place.script, back=True)
    up, down = _checked(place, up, upgrade=True), _checked(place, down, upgrade=False)
    pairs = _paired(up, down) if here else [(Part(False), Part(False))]
    count = len(pairs)
    found: dict[str, bytes] = {}
    for number, (forth, back) in enumerate(pairs, 1):
        version = place.version if number == count else place.after + number
        if version >= place.version and number < count:
            raise WrongUse(f"revision {place.revision} takes {count} files, more than {versions.STEP}.", "split it")
        stem = f"{version:0{WIDTH}}_{told.stem}" + (f"_{number}_of_{count}" if count > 1 else "")
        if forth is not None:
            found[f"{stem}.up.sql"] = _text(told, given, forth, number, count, back=False, here=here)
        if back is not None or (forward and number == count):
            found[f"{stem}.down.sql"] = _text(told, given, back, number, count, back=True, here=here)
    return found


def _told(given: Settings, place: Place) -> _Revision:
    read = source.read(Path(place.script.path))
    found = None
    if isinstance(read, source.Source) and header.has_header(read, required=False):
        found, _ = header.parse(read, judge.today(), {})
    own = body.budgets(read) if isinstance(read, source.Source) else {}
    limits = ";\n".join(budget.statements(budget.of_revision(given.budgets, own))[:2]) + ";"
    lines = found.lines if found else (f"Revision: {place.revision} {place.script.doc or ''}".rstrip(),)
    slug = "_".join(re.findall(r"[a-z0-9]+", Path(place.script.path).stem.lower()))
    slug = slug.removeprefix(f"{place.revision.lower()}_")
    title = found.title if found else (place.script.doc or slug)
    return _Revision(place.revision, found, lines, title, limits, f"{found.type if found else 'schema'}_{slug}")


def _checked(place: Place, parts: list[Part], *, upgrade: bool) -> list[Part]:
    """With the post-check at the end: in the last transaction, or behind the last statement that commits."""
    wanted = postcheck.expectations(place.script.module, upgrade=upgrade)
    if not parts or not wanted:
        return parts
    block = postcheck.compile_block(place.revision, wanted, upgrade=upgrade) + ";"
    if parts[-1].commits:
        return [*parts, Part(False, [block])]
    return [*parts[:-1], Part(False, [*parts[-1].statements, block])]


def _paired(up: list[Part], down: list[Part]) -> list[tuple[Part | None, Part | None]]:
    """The parts as versions, the lowest first: up in their order, down against it.

    Where going back only drops, in one transaction, the indexes that were built one by one, each version drops its own, and a
    revision that was stopped half-way can be reverted from there. Else going back belongs to the lowest version: what is only
    half there fails then, instead of being taken for reverted.
    """
    own = _each_its_own(up, down)
    if own is not None:
        return own
    count = max(len(up), len(down))
    ups = [*up, *[None] * (count - len(up))]
    downs = [*down[::-1], *[None] * (count - len(down))]
    return list(zip(ups, downs, strict=True))


def _each_its_own(up: list[Part], down: list[Part]) -> list[tuple[Part | None, Part | None]] | None:
    if len(down) != 1 or len(up) < 3 or not all(part.commits for part in up[:-1]) or up[-1].commits:
        return None
    built = [_index(part.statements[0]) for part in up[:-1]]
    *drops, check = down[0].statements
    dropped = {_index(one): one for one in drops}
    if None in built or len(up[-1].statements) != 1 or set(built) != set(dropped) or len(drops) != len(built):
        return None
    downs = [Part(False, [dropped[name]]) for name in built]
    downs[0].statements.append(check)
    return [*zip(up[:-1], downs, strict=True), (up[-1], None)]


def _index(statement: str) -> str | None:
    """The index that a statement makes or drops, and nothing else."""
    match = _MADE.match(statement) if ";" not in statement.rstrip("; \n") else None
    return match[2].rstrip(";").strip('"') if match else None


def _text(
    told: _Revision, given: Settings, part: Part | None, number: int, count: int, *, back: bool, here: bool
) -> bytes:
    lines = [f"Rollback for: {told.name} {told.title}" if back else told.title, "", *told.lines, ""]
    lines += _without(told, given, part, number, count, back=back)
    comment = "".join(f"-- {_printable(line)}".rstrip() + "\n" for line in lines)
    if not here:
        environments = ", ".join(told.header.environments) if told.header else ""
        return f"{comment}\n-- Nothing to do: not for {given.environment}, only for {environments}\n".encode()
    if part is None:
        says = postcheck.literal(
            f"Rollback failed: revision {told.name} goes forward only: {told.header.reason if told.header else ''}"
        )
        stop = postcheck.do_block(f"\nBEGIN\n  RAISE EXCEPTION USING MESSAGE = {says};\nEND\n")
        return f"{comment}\n{stop};\n".encode()
    body_text = "\n\n".join(part.statements)
    if part.commits:
        return f"{comment}\n{body_text}\n".encode()
    return f"{comment}\nBEGIN;\n\n{told.limits}\n\n{body_text}\n\nCOMMIT;\n".encode()


def _without(
    told: _Revision, given: Settings, part: Part | None, number: int, count: int, *, back: bool
) -> Iterator[str]:
    """What the guard would do that golang-migrate cannot, as far as it concerns this file."""
    yield f"Revision {told.name}, written by make migrate-export FORMAT=golang-migrate" + (
        f"; part {number} of {count}: all of it is done with the last." if count > 1 else "."
    )
    yield "Run by the guard (make migrate-up), and not by golang-migrate:"
    if part is not None and part.commits and "CONCURRENTLY" in part.statements[0][:60]:
        yield "- what an interrupted one has left is known: here, drop the invalid index before the file is repeated;"
    elif part is not None and part.commits:
        yield "- rows are filled in batches whose size gives way to others, and an interrupted one goes on where it was: here"
        yield "  each has the same size, and a file that is repeated begins anew;"
    elif part is not None:
        yield f"- a lock that is in the way is tried again, up to {given.lock_attempts} times: here the file fails, all of it is"
        yield "  undone, and the version stays dirty until migrate force;"
        yield f"- nobody waits longer than {given.budgets.deadline} ms for all its locks together: here for each statement's;"
    if back and told.header is not None and told.header.reversible == "stash":
        yield "- the rows and values that go are kept, and come back with the next upgrade: here they are lost;"
    yield "- what the catalog is after it is compared, object by object, and what was run stands in a history."


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)
