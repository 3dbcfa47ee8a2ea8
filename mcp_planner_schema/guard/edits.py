"""Applied revisions whose files say something else now than what was run: which, and what exactly."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import body, history, judge, source
from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

SHOWN = 40
"""Lines of a difference that a finding shows; the whole is in the history."""

_TOO_LONG = 5_000


@dataclass(frozen=True)
class Edit:
    """One revision. ``checksum`` is the recorded one, in row ``number`` of the history, applied on the day ``applied``.

    ``what`` names the files, ``difference`` is that between the texts, line by line as diff writes it.
    """

    revision: str
    source: source.Source
    number: int
    applied: str
    checksum: str
    what: str
    difference: tuple[str, ...]

    def finding(self, schema: str) -> Finding:
        """What stands against the next run."""
        lines = list(self.difference[:SHOWN])
        if len(self.difference) > SHOWN:
            lines.append(f"… and {len(self.difference) - SHOWN} lines more")
        values = {
            "revision": self.revision, "applied": self.applied, "schema": schema, "history": str(self.number),
            "what": self.what, "changed": "".join(f"\n{line}" for line in lines),
        }  # fmt: skip
        return Finding("applied-edited", f"{self.source.shown}:1", self.revision, values)


def read(
    script: Any, settings: Settings, connection: Connection, version_table: str, heads: tuple[str, ...]
) -> list[Edit]:
    """Those applied at ``heads``. Reads the history and the files.

    What a stamp has put out of reach is not applied, whatever the history says.
    """
    applied = history.applied(connection, settings.schema, version_table)
    sources = [one for path in judge.files(script) if applied and not isinstance(one := source.read(path), Finding)]
    identities = [body.identity(one) for one in sources]
    reached = ancestors({one.revision: one.parents for one in identities if one.revision}, heads)
    found: list[Edit] = []
    for one, identity in zip(sources, identities, strict=True):
        revision = identity.revision
        if revision is None or revision not in applied or revision not in reached:
            continue
        number, day, checksum, text = applied[revision]
        files = judge.texts(one, judge.sql_folder(script))
        # Tokenising is the slow part; files that are the same to the letter need none of it.
        if source.kept(one, files) == text or source.checksum(one, files) == checksum:
            continue
        lines = tuple(_difference(one, files, text, day))
        found.append(Edit(revision, one, number, day, checksum, _what(revision, files, text), lines))
    return found


def ancestors(parents: Mapping[str | None, tuple[str, ...]], heads: tuple[str, ...]) -> set[str]:
    """The heads and everything before them."""
    reached: set[str] = set()
    todo = list(heads)
    while todo:
        revision = todo.pop()
        if revision not in reached:
            reached.add(revision)
            todo += parents.get(revision, ())
    return reached


def _what(revision: str, files: Mapping[str, str | None], kept: str) -> str:
    """The files that the history knows otherwise, or the revision itself where it is none of them."""
    names = [name for name, text in files.items() if text is None or source.commented(name, text) not in kept]
    return f"{', '.join(map(source.placed, names))} of revision {revision}" if names else f"revision {revision}"


def _difference(one: source.Source, files: Mapping[str, str | None], kept: str, day: str) -> Iterator[str]:
    """Each file that differs, as a unified diff from what was applied to what is there."""
    text, below = source.taken_apart(kept)
    now = {source.placed(name): content for name, content in files.items()}
    yield from _diff(one.shown, text, one.text, day)
    for name in dict.fromkeys([*below, *now]):
        yield from _diff(name, below.get(name, ""), now.get(name) or "", day)


def _diff(name: str, before: str, after: str, day: str) -> Iterator[str]:
    old, new = before.splitlines(), after.splitlines()
    if old != new and max(len(old), len(new)) > _TOO_LONG:
        yield f"{name}: {len(old)} lines then, {len(new)} now"
        return
    yield from difflib.unified_diff(old, new, f"{name} (applied {day})", f"{name} (now)", n=2, lineterm="")
