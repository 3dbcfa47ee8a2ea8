"""What differs after a step and is not its doing: changes of other sessions, and objects that no revision has made.

Asked only where something differs, so it costs nothing where all is as it should be.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mcp_planner_schema.guard.fingerprint import Line, Lines, Picture, stored, structure
from mcp_planner_schema.guard.fingerprint.stored import Delta
from mcp_planner_schema.guard.fingerprint.subject import subjects

Key = tuple[str, str]


def of_others(lines: Lines, pictures: Iterable[Picture], others: Iterable[int]) -> Lines:
    """``lines`` without those of objects that only other sessions have changed."""
    theirs = frozenset[Line]()
    for picture in pictures:
        theirs = theirs.union(*(picture.get(oid, ()) for oid in others))
    return lines - theirs


def made(folder: Path, history: Iterable[str], applied: Iterable[str]) -> frozenset[Key] | None:
    """Kind and name of whatever some revision makes; None where it is not stored of all that are applied."""
    changes = {revision: stored.delta(folder, revision) for revision in (*history, *applied)}
    if any(changes[revision] is None for revision in applied):
        return None
    return _keys(line for change in changes.values() if change for line in change.come)


def unmade(
    missing: Lines, unexpected: Lines, before: Lines, now: Lines, wanted: Delta, made: frozenset[Key]
) -> tuple[Lines, Lines]:
    """Both without what happens by itself to objects that no revision has made, or to tables that are not there any more.

    A view that somebody has made says the new name of a column, an index goes with its table, a child gets its parent's
    column. What stands by itself and is gone (by CASCADE) still counts, and so does what is new.
    """
    about = subjects(before | now | missing | unexpected | wanted.come)
    was, there = _keys(structure(before)), _keys(structure(now))
    standing = was | there | _keys(wanted.come)

    def counts(line: Line) -> bool:
        key, subject = line[:2], tuple(about[line])
        if line in wanted.come:  # of a partition, say, that was dropped long ago
            return subject in standing or subject == key
        if key in made:
            return True
        if line in unexpected:
            return key not in was and (subject in made or subject not in was)
        if key in there:
            return False
        return subject == key or (subject not in made and not (line.kind == "column" and subject in there))

    return frozenset(filter(counts, missing)), frozenset(filter(counts, unexpected))


def _keys(lines: Iterable[Line]) -> frozenset[Key]:
    return frozenset(line[:2] for line in lines)
