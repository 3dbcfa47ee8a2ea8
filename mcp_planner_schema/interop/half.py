"""What another tool has left half done, told by comparing the catalog, and how to finish or undo it. Nothing is run here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from mcp_planner_schema.guard import connect
from mcp_planner_schema.guard.findings import Broken
from mcp_planner_schema.guard.fingerprint import Line, Lines, stored, structure
from mcp_planner_schema.guard.fingerprint.subject import last

if TYPE_CHECKING:
    from alembic.script import Script, ScriptDirectory

    from mcp_planner_schema.guard.settings import Settings

_OBJECTS = ("table", "view", "type", "function", "sequence", "extension", "schema", "collation", "statistics")
_OF_TABLE = ("column", "constraint")


class Place(Protocol):
    """A revision in the other tool's order; ``came`` is what it says of where it came from, None where it came from nowhere."""

    @property
    def script(self) -> Script: ...  # noqa: D102
    @property
    def revision(self) -> str: ...  # noqa: D102
    @property
    def came(self) -> dict[str, Any] | None: ...  # noqa: D102


def unknown(told: list[str], command: str) -> Broken:
    """The error where nothing is stored to compare the catalog with."""
    told = [*told, "What of it is there cannot be told: nothing is stored of what the revisions make of the catalog."]
    return Broken("\n".join(told), f"make migrate-fingerprint VERSION=all, then {command}")


def states(script: ScriptDirectory, line: Sequence[Place]) -> list[Lines]:
    """The catalog with none of the revisions, with the first, with two …"""
    names = [place.revision for place in line]
    return [structure(stored.expected(script.dir, names[:count])) for count in range(len(names) + 1)]


def exactly(of: Sequence[Lines], now: Lines, count: int) -> int | None:
    """The state that the catalog is in, the nearest to ``count`` where several are alike; None where it is between two."""
    return next((one for one in sorted(range(len(of)), key=lambda one: abs(one - count)) if of[one] == now), None)


def _name(line: Sequence[Place], count: int) -> str:
    return line[count - 1].revision if count else "base"


def whole(told: list[str], line: Sequence[Place], exact: int, count: int, command: str) -> Broken:
    """The error where nothing is half done: the catalog is the state ``exact``; the tool was at ``count``, or on its way."""
    here = _name(line, exact)
    told = [
        *told,
        f"The catalog is exactly what the revisions up to {here} make: nothing is half done, only the mark is left.",
        "Rows are not compared: look what the file does to them.",
        f"to go on from here:  {command} AT={here}",
    ]
    if exact < len(line):
        told.append(f"to finish:           … and then make migrate-up TO={_name(line, max(count, exact + 1))}")
    if exact:
        told.append(f"to undo:             … and then make migrate-down TO={_name(line, exact - 1)}")
    return Broken("\n".join(told), f"{command} AT={here}")


def partly(
    told: list[str], at: int, line: Sequence[Place], of: Sequence[Lines], now: Lines, command: str, given: Settings
) -> Broken:
    """The error where the revision ``line[at]`` is half done: what is there and what is not, and both ways out."""
    before, after = of[at], of[at + 1]
    place, start = line[at], _name(line, at)
    there = sorted((after - before) & now) + sorted((before - after) - now)
    missing = sorted((after - before) - now) + sorted((before - after) & now)
    strange = sorted(now - before - after) + sorted((before & after) - now)
    told = [*told, f"Of revision {place.revision} ({place.script.doc}), as the catalog has it:"]
    told += [f"  done      {_said(one, after)}" for one in there]
    told += [f"  not done  {_said(one, after)}" for one in missing]
    told += [f"  neither   {one.kind} {_one_line(f'{one.identity}: {one.definition}')}" for one in strange]
    told.append("To finish it:")
    if place.came is None and _commits(place):
        told.append(f'  {command} AT={start} REASON="half of {place.revision} is there"')
        told.append(f"  make migrate-up TO={place.revision}   (its operations take up what is there)")
        finish = f'{command} AT={start} REASON="…", then make migrate-up TO={place.revision}'
    else:
        commands = list(_commands(now, after, given))
        told += [f"  {one}" for one in [*commands, f"{command} AT={place.revision}"]]
        finish = commands[0] if commands else f"{command} AT={place.revision}"
    told.append("To undo it:")
    told += [f"  {one}" for one in [*_commands(now, before, given), f"{command} AT={start}"]]
    return Broken("\n".join(told), f"{finish}   (or what undoes it; look at the rows first)")


def _commits(place: Place) -> bool:
    doc = place.script.module.__doc__ or ""
    return "\nTransaction: none" in doc


def _said(line: Line, after: Lines) -> str:
    what = "made" if line in after else "taken away"
    return f"{line.kind} {_one_line(line.identity)} {what}"


def _one_line(text: str) -> str:
    """A quoted name may hold the end of a line: what follows it would stand there as a command to paste."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _commands(now: Lines, wanted: Lines, given: Settings) -> Iterator[str]:
    """What makes the one of the other: dropped first what is too much, then made what is missing; parts go with their table."""
    gone, come = now - wanted, wanted - now
    tables = {one.identity for one in gone | come if one.kind == "table"}
    for one in sorted(gone, key=_late, reverse=True):
        if not _part_of(one, tables, come):
            yield _psql(given, _drop(one))
    for one in sorted(come, key=_late):
        yield _psql(given, _make(one))


def _late(line: Line) -> tuple[int, Line]:
    kinds = (
        "schema",
        "extension",
        "type",
        "sequence",
        "table",
        "column",
        "function",
        "view",
        "constraint",
        "index",
        "trigger",
    )
    return (kinds.index(line.kind) if line.kind in kinds else len(kinds), line)


def _part_of(line: Line, tables: set[str], come: Lines) -> bool:
    """Whether it goes with its table, which goes too, or with its constraint."""
    if line.kind == "table":
        return False
    return any(
        line.identity.startswith(f"{table}.") or f" ON {table} " in line.definition for table in tables
    ) and not any(one[:2] == line[:2] for one in come)


def _drop(line: Line) -> str:
    kind, identity, _ = line
    if not identity.isprintable():
        return f"-- {kind} {_one_line(identity)} is to go; its name holds characters that cannot be printed"
    if kind == "index":
        return f"DROP INDEX CONCURRENTLY {identity}"
    if kind in _OF_TABLE:
        return f"ALTER TABLE {identity.removesuffix('.' + last(identity))} DROP {kind.upper()} {last(identity)}"
    if kind in ("trigger", "policy", "rule"):
        return f"DROP {kind.upper()} {last(identity)} ON {identity.removesuffix('.' + last(identity))}"
    if kind in _OBJECTS:
        return f"DROP {kind.upper()} {identity}"
    return f"-- {kind} {_one_line(identity)} is to go"


def _make(line: Line) -> str:
    kind, identity, definition = line
    if kind == "index":
        return definition.replace("INDEX ", "INDEX CONCURRENTLY ", 1)
    if kind in _OF_TABLE:
        table = identity.removesuffix("." + last(identity))
        return f"ALTER TABLE {table} ADD {kind.upper()} {last(identity)} {definition}"
    if definition.startswith("CREATE"):
        return definition
    return f"-- {kind} {_one_line(f'{identity} is to be made: {definition}')}; the statement stands in the file"


def _psql(given: Settings, sql: str) -> str:
    return sql if sql.startswith("--") else connect.psql(given, sql)
