"""The catalog before and after a run: what its steps made of it, by the files that each step was held to."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alembic.util import CommandError

from mcp_planner_schema.guard import catalog_change
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.fingerprint import Line, Lines, stored
from mcp_planner_schema.guard.fingerprint.stored import Delta
from mcp_planner_schema.guard.fingerprint.subject import Subject, part, subjects
from mcp_planner_schema.telemetry.report.facts import Change, Schema, Step

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

_COUNTED = ("table", "column", "constraint", "index", "view", "function", "trigger", "type", "sequence", "policy")
_ORDER = ("table", "view", "type", "order", "column", "sequence", "constraint", "index", "trigger", "rule", "policy",
          "comment", "acl")  # fmt: skip
_LONGEST = 240


def read(script: ScriptDirectory, before: Sequence[str], steps: Iterable[Step]) -> Schema:
    """What the steps that are final have changed, from the version ``before`` on. Reads the folder, asks no database."""
    try:
        was = stored.expected(script.dir, catalog_change.chain(script, before))
        now = was
        for one in steps:
            if one.outcome == "done" and one.direction in ("upgrade", "downgrade"):
                now = stored.applied(now, _delta(script.dir, one))
    except (WrongUse, CommandError) as error:
        return Schema(unknown=str(error))
    return Schema(_counts(was, now), tuple(_changes(was, now)))


def _delta(folder: str, step: Step) -> Delta:
    change = stored.delta(folder, step.revision)
    if change is None:
        raise WrongUse(f"{stored.catalog_place(Path(folder).name, step.revision)} is missing.", stored.ANEW)
    return change if step.direction == "upgrade" else Delta(come=change.gone, gone=change.come)


def _counts(was: Lines, now: Lines) -> tuple[tuple[str, int, int], ...]:
    before, after = (Counter(line.kind for line in lines) for lines in (was, now))
    return tuple((kind, before[kind], after[kind]) for kind in _COUNTED if before[kind] or after[kind])


def _changes(was: Lines, now: Lines) -> list[Change]:
    about = subjects(was | now)
    sides: dict[Subject, tuple[dict[tuple[str, str], Line], dict[tuple[str, str], Line]]] = defaultdict(
        lambda: ({}, {})
    )
    for place, lines in enumerate((was - now, now - was)):
        for line in lines:
            sides[_named(about[line])][place][line.kind, line.identity] = line
    found = [_change(subject, gone, come) for subject, (gone, come) in sides.items()]
    return sorted(found, key=lambda one: (one.kind, one.name))


def _named(subject: Subject) -> Subject:
    """A function's comment names its types in full, the function itself does not."""
    return subject._replace(name=subject.name.replace("pg_catalog.", "")) if subject.kind == "function" else subject


def _change(subject: Subject, gone: dict[tuple[str, str], Line], come: dict[tuple[str, str], Line]) -> Change:
    itself = (subject.kind, subject.name)
    whole = {(True, False): "went", (False, True): "came"}.get((itself in gone, itself in come))
    keys = sorted(gone.keys() | come.keys(), key=_place)
    parts: list[str] = []
    for key in keys:
        parts += _parts(subject, gone.get(key), come.get(key), whole=whole is not None)
    return Change(whole or "changed", subject.kind, subject.name, tuple(parts))


def _place(key: tuple[str, str]) -> tuple[int, str, str]:
    return (_ORDER.index(key[0]) if key[0] in _ORDER else len(_ORDER), *key)


def _parts(subject: Subject, gone: Line | None, come: Line | None, *, whole: bool) -> list[str]:
    line = come or gone
    assert line is not None
    if line.kind == "order" and (whole or gone is None or come is None or _same_names(gone, come)):
        return []
    named = part(line, subject) or line.kind
    if whole:  # its sign stands before the whole; a function's text stands in the repository
        return [] if line.kind == "function" else [f"{named}  {_short(line.definition)}".rstrip()]
    if gone is None or come is None:
        return [f"{'-+'[gone is None]} {named}  {_short(line.definition)}".rstrip()]
    if "\n" in gone.definition or "\n" in come.definition:
        compared = difflib.unified_diff(
            gone.definition.splitlines(), come.definition.splitlines(), "before", "after", lineterm="", n=2
        )
        return [f"~ {named}", *(f"  {one}" for one in compared)]
    return [
        f"~ {named}",
        f"  before  {_short(gone.definition) or 'nothing'}",
        f"  after   {_short(come.definition) or 'nothing'}",
    ]


def _same_names(gone: Line, come: Line) -> bool:
    """A column that went or came is told by itself: only another order of the same is told as one."""
    return sorted(gone.definition.split(", ")) != sorted(come.definition.split(", "))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
