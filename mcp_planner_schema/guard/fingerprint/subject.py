"""Which object a line is about, as people call it: the table that a column, an index, a comment belongs to, or itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mcp_planner_schema.guard.fingerprint.line import Line, Lines

_NAME = r'(?:"(?:[^"]|"")*+"|[^\s".(),]++)'
_LAST = re.compile(rf"\.({_NAME})$")
_INDEXED = re.compile(rf" ON (?:ONLY )?({_NAME}(?:\.{_NAME})?) USING ")
_PART_OF = re.compile(rf" on ({_NAME}(?:\.{_NAME})?)$")
_PARTITION = re.compile(rf"\bpartition of ({_NAME}(?:\.{_NAME})?)")
_WHOLE = ("table", "view", "type", "function", "schema")
_OF_TABLE = ("column", "constraint", "trigger", "policy", "rule")


class Subject(NamedTuple):
    """``kind`` and ``name`` of an object that stands by itself."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def subjects(lines: Iterable[Line]) -> dict[Line, Subject]:
    """For each of these lines the object that it is about."""
    every = list(lines)
    known = {line.identity: line.kind for line in every if line.kind in ("table", "view", "type")}
    indexes = {line.identity: _indexed(line) for line in every if line.kind == "index"}
    return {line: _subject(line, known, indexes) for line in every}


def part(line: Line, subject: Subject) -> str:
    """How the line is called beside its subject: ``column due``; empty for the subject itself."""
    if line.kind in _OF_TABLE:
        return f"{line.kind} {last(line.identity)}"
    if line.kind == "order":
        return "order of columns"
    if line.kind == "comment":
        return _shorter(f"comment on {line.identity}", f"comment on {subject}", "comment")
    if line.kind == "acl":
        return _shorter(f"grants on {line.identity}", f"grants on {subject}", "grants")
    if line.kind == "sequence" and line.identity.startswith("owned "):
        return f"sequence of column {last(line.identity)}"
    if (line.kind, line.identity) == subject:
        return ""
    if line.kind == "publication":
        what = line.identity.partition(" ")[2]
        return what if what.startswith("schema ") else f"table {what}"
    return f"{line.kind} {line.identity}"


def last(name: str) -> str:
    """The last part of a qualified name."""
    found = _LAST.search(name)
    return found[1] if found else name


def without_partitions(lines: Lines, expected: Lines) -> Lines:
    """``lines`` but for those of partitions that only they have, of a table that ``expected`` has too.

    Partitions are made and dropped by the calendar, not by a revision. One that ``expected`` has is compared like any table.
    """
    tables = {line.identity for line in expected if line.kind == "table"}
    parents = {
        line.identity: found[1]
        for line in lines
        if line.kind == "table" and line.identity not in tables and (found := _PARTITION.search(line.definition))
    }
    made = {name for name in parents if _root(name, parents) in tables}
    if not made:
        return lines
    return frozenset(line for line, subject in subjects(lines).items() if subject.name not in made)


def _root(name: str, parents: Mapping[str, str]) -> str:
    seen = set()
    while name in parents and name not in seen:
        seen.add(name)
        name = parents[name]
    return name


def _subject(line: Line, known: Mapping[str, str], indexes: Mapping[str, str]) -> Subject:
    kind, identity = line.kind, line.identity
    if kind in _OF_TABLE:
        return _named(_LAST.sub("", identity), known)
    if kind == "order":
        return _named(identity, known)
    if kind == "index":
        return _named(indexes[identity], known)
    if kind == "sequence" and identity.startswith("owned "):
        return _named(_LAST.sub("", identity.removeprefix("owned ")), known)
    if kind in ("comment", "acl"):
        return _commented(identity, known, indexes)
    if kind == "publication" and " " in identity:
        return Subject("publication", identity.partition(" ")[0])
    return Subject(kind, identity)


def _commented(identity: str, known: Mapping[str, str], indexes: Mapping[str, str]) -> Subject:
    """``table column public.steps.due``, ``trigger t on public.steps``, ``index public.i``, ``function public.f()``."""
    word, _, name = identity.partition(" ")
    if word in ("aggregate", "procedure"):
        return Subject("function", name)
    if word == "function":
        return Subject("function", name)
    if word == "index" and name in indexes:
        return _named(indexes[name], known)
    on = _PART_OF.search(identity)
    if on:
        return _named(on[1], known)
    if " column " in f" {identity}":
        return _named(_LAST.sub("", identity.rpartition("column ")[2]), known)
    name = name.removeprefix("view ") if word == "materialized" else name
    return _named(name, known) if name in known else Subject(word, name)


def _named(name: str, known: Mapping[str, str]) -> Subject:
    return Subject(known.get(name, "table"), name)


def _indexed(line: Line) -> str:
    found = _INDEXED.search(line.definition)
    return found[1] if found else line.identity


def _shorter(text: str, whole: str, word: str) -> str:
    return word if text == whole else text
