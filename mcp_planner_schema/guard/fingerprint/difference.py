"""What two sets of lines differ in, object by object, for people. The same sets give the same text."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mcp_planner_schema.guard.fingerprint.line import Line, Lines
from mcp_planner_schema.guard.fingerprint.subject import Subject, part, subjects, without_partitions

_LONGEST = 300
# In the order in which somebody would look at a table.
_KINDS = ("table", "view", "type", "order", "column", "sequence", "constraint", "index", "trigger", "rule", "policy",
          "statistics", "comment", "acl")  # fmt: skip
_SAID = {
    "invalid": "is not valid: no query uses it",
    "NOT VALID": "is not valid: rows from before it may break it",
    "disabled": "is disabled",
    "not valid": "is not null only for rows that are written from now on",
}


class Entry(NamedTuple):
    """One object or part of one that differs: the line that was expected, the line that is there, and what is told of it."""

    subject: Subject
    wanted: Line | None
    there: Line | None
    told: tuple[str, ...]


def difference(expected: Iterable[Line], found: Iterable[Line]) -> list[str]:
    """A line for each object or part of one that is missing, unexpected or different; below it, indented, how texts differ.

    Of a table that is missing or unexpected as a whole, its parts are not listed. Partitions that only ``found`` has are none
    (:func:`.without_partitions`).
    """
    return [line for entry in entries(expected, found) for line in entry.told]


def entries(expected: Iterable[Line], found: Iterable[Line]) -> Iterator[Entry]:
    """The same, each with the two lines that it is about."""
    wanted = frozenset(expected)
    there = without_partitions(frozenset(found), wanted)
    gone, come = wanted - there, there - wanted
    if not gone and not come:
        return
    about = subjects(wanted | there)
    whole = {
        side: {Subject(line.kind, line.identity) for line in lines} for side, lines in (("gone", gone), ("come", come))
    }
    missing, unexpected = whole["gone"] - whole["come"], whole["come"] - whole["gone"]
    by_subject: dict[Subject, dict[tuple[str, str], list[Line | None]]] = defaultdict(
        lambda: defaultdict(lambda: [None, None])
    )
    for place, lines in enumerate((gone, come)):
        for line in lines:
            by_subject[about[line]][line.kind, line.identity][place] = line
    for subject in sorted(by_subject, key=lambda one: (one.name, one.kind)):
        parts = by_subject[subject]
        if subject in missing or subject in unexpected:
            word = "missing" if subject in missing else "unexpected"
            wanted_line, there_line = parts[subject.kind, subject.name]
            yield Entry(subject, wanted_line, there_line, (f"{subject} is {word}",))
            continue
        for key in sorted(parts, key=_place):
            wanted_line, there_line = parts[key]
            yield Entry(subject, wanted_line, there_line, tuple(_entry(subject, wanted_line, there_line)))


def _place(key: tuple[str, str]) -> tuple[int, str, str]:
    kind, identity = key
    return (_KINDS.index(kind) if kind in _KINDS else len(_KINDS), kind, identity)


def _entry(subject: Subject, wanted: Line | None, there: Line | None) -> list[str]:
    line = wanted or there
    assert line is not None
    name = part(line, subject)
    shown = f"{subject}: {name}" if name else str(subject)
    if line.kind == "acl":
        return _grants(shown, subject, wanted, there)
    if there is None:
        return [f"{shown} is missing{_in_brackets(line)}"]
    if wanted is None:
        return [f"{shown} is unexpected{_in_brackets(line)}"]
    before, after = wanted.definition, there.definition
    for word, said in _SAID.items():
        if after == f"{before} {word}":
            return [f"{shown} {said}"]
        if before == f"{after} {word}":
            return [f"{shown} differs: expected {word}"]
    if line.kind == "order":
        return _order(shown, before, after)
    if "\n" in before or "\n" in after:
        compared = difflib.unified_diff(before.splitlines(), after.splitlines(), "expected", "found", lineterm="", n=2)
        return [f"{shown} differs:", *(f"    {one}" for one in compared)]
    return [f"{shown} differs: expected {_short(before) or 'nothing'}; found {_short(after) or 'nothing'}"]


def _order(shown: str, before: str, after: str) -> list[str]:
    # A column that went or came is told by itself.
    same = sorted(before.split(", ")) == sorted(after.split(", "))
    return [f"{shown} differs: expected {before}; found {after}"] if same else []


def _grants(shown: str, subject: Subject, wanted: Line | None, there: Line | None) -> list[str]:
    # No line: what PostgreSQL grants by itself.
    usual = {"function": "public:EXECUTE", "type": "public:USAGE"}.get(subject.kind, "nobody")
    sides = [usual if line is None else line.definition for line in (wanted, there)]
    expected, found = (set(text.split(", ")) - {"nobody"} for text in sides)
    said = [
        f"{word} {', '.join(sorted(those))}"
        for word, those in (("missing", expected - found), ("unexpected", found - expected))
        if those
    ]
    return [f"{shown}: {'; '.join(said)}"]


def _in_brackets(line: Line) -> str:
    text = " ".join(line.definition.split())
    return f" ({_short(text)})" if text and line.kind not in ("function", "order") else ""


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def same(expected: Lines, found: Lines) -> bool:
    """Whether :func:`difference` has nothing to tell."""
    return without_partitions(found, expected) == expected
