"""Changes single literals and header lines of a revision file and leaves every other byte of it as it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mcp_planner_schema.guard.source import Source

_FIELD = re.compile(
    r"(?P<name>Version|Revision ID|Dependencies|Revises)(?P<colon>\s*:[ \t]*)(?P<value>.*?)(?P<end>\s*)"
)


class Unclear(ValueError):
    """What is to be changed is not written as a plain literal."""


@dataclass(frozen=True)
class Change:
    """What a file is to say: its own id, its parents by ``down_revision`` and ``depends_on``, and names of its files."""

    revision: str
    down_revision: tuple[str, ...]
    depends_on: tuple[str, ...]
    files: Mapping[str, str]


def rewritten(source: Source, change: Change) -> str:
    """The file's text with these. Raises :class:`Unclear`."""
    raw = source.text.encode()
    starts = [0]
    for line in raw.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    spots = sorted(
        (
            starts[node.lineno - 1] + node.col_offset,
            starts[(node.end_lineno or 1) - 1] + (node.end_col_offset or 0),
            old,
            new,
        )
        for node, old, new in _literals(source, change)
    )
    parts, at = [], 0
    for begin, end, old, new in spots:
        parts += [raw[at:begin], _quoted(raw[begin:end], old, new)]
        at = end
    text = b"".join([*parts, raw[at:]]).decode()
    return _header(text, source.below_docstring, change)


def _literals(source: Source, change: Change) -> Iterator[tuple[ast.expr, str | None, str]]:
    """The constants to be changed, what they say, and what they are to say."""
    wanted = {"revision": (change.revision,), "down_revision": change.down_revision, "depends_on": change.depends_on}
    for name, values in wanted.items():
        node = _value(source.tree, name)
        if node is None and not values:
            continue
        nodes = list(node.elts) if isinstance(node, (ast.Tuple, ast.List)) else [node]
        said = [one.value if isinstance(one, ast.Constant) else Ellipsis for one in nodes]
        if said == [None] and not values:
            continue
        if len(said) != len(values) or not all(one is None or isinstance(one, str) for one in said):
            raise Unclear(f"{name} is not written out as {len(values)} literal{'' if len(values) == 1 else 's'}")
        for one, old, new in zip(nodes, said, values, strict=True):
            assert isinstance(one, ast.Constant)
            if old != new:
                yield one, old, new  # type: ignore[misc]  # a string, or None
    for inner in ast.walk(source.tree):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and inner.value in change.files:
            yield inner, inner.value, change.files[inner.value]


def _value(tree: ast.Module, name: str) -> ast.expr | None:
    """What the module gives the name, by its one assignment."""
    found = [
        statement.value
        for statement in tree.body
        if isinstance(statement, (ast.Assign, ast.AnnAssign))
        for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
        if isinstance(target, ast.Name) and target.id == name
    ]
    if len(found) > 1:
        raise Unclear(f"{name} is assigned {len(found)} times")
    return found[0] if found else None


def _quoted(written: bytes, old: str | None, new: str) -> bytes:
    if old is None and written == b"None":
        return f'"{new}"'.encode()
    quote = written[:1]
    if old is None or quote not in (b'"', b"'") or written != quote + old.encode() + quote:
        raise Unclear(f"{written.decode()} is no plain literal")
    return quote + new.encode() + quote


def _header(text: str, last: int, change: Change) -> str:
    """The header's lines that name this revision and its parents; ``last`` is the line where the docstring ends."""
    parents = change.down_revision + change.depends_on
    values = {
        "Version": change.revision, "Revision ID": change.revision, "Dependencies": ", ".join(parents) or "None",
        "Revises": ", ".join(change.down_revision),
    }  # fmt: skip
    lines = text.split("\n")
    for number, line in enumerate(lines[:last]):
        field = _FIELD.fullmatch(line)
        if field and field["name"] in values:
            new = values.pop(field["name"])
            if re.split(r"\s*,\s*", field["value"]) != new.split(", "):
                lines[number] = f"{field['name']}{field['colon']}{new}{field['end']}"
    return "\n".join(lines)
