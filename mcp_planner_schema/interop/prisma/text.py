"""The texts of a ``schema.prisma``: nothing that stands in the database can end a string, a comment or a block."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_ESCAPED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ORDER = ("id", "unique", "default", "index", "map", "relation", "ignore")


def quoted(value: str) -> str:
    """A string, in the escapes of JSON."""
    return (
        '"' + "".join(_ESCAPED.get(char) or (f"\\u{ord(char):04x}" if ord(char) < 32 else char) for char in value) + '"'
    )


def comment(value: str) -> str:
    """One line of a comment: whatever would end it, or not be seen, is a space; nor does it end a comment of the client's."""
    line = "".join(char if char.isprintable() else " " for char in value)
    return line.replace("*/", "* /").rstrip()


def one_line(value: str) -> str:
    """Without line ends, for where one line is one thing."""
    return re.sub(r"[\r\n]+\s*", " ", value)


def comments(values: Iterable[str], mark: str) -> list[str]:
    """Comment lines, one for each line of each value."""
    lines = (comment(line) for value in values for line in re.split(r"\r\n|[\n\r]", value))
    return [f"{mark} {line}".rstrip() for line in lines]


@dataclass(frozen=True)
class Field:
    """A field of a model, or with no type a value of an enum."""

    name: str
    type: str = ""
    attributes: Sequence[str] = ()
    docs: Sequence[str] = ()


@dataclass(frozen=True)
class Block:
    """A model or an enum. ``notes`` are for whoever reads the file, ``docs`` go into Prisma's client."""

    word: str
    name: str
    fields: Sequence[Field]
    attributes: Sequence[str] = ()
    docs: Sequence[str] = ()
    notes: Sequence[str] = ()

    def written(self) -> str:
        """As Prisma's formatter leaves it: names, types and attributes in columns, and what concerns the whole at the end."""
        columns = [[field.name, field.type, " ".join(_sorted(field.attributes))] for field in self.fields]
        rows = [[cell for cell in row if cell] for row in columns]
        names, types = (max((_width(row[at]) for row in columns), default=0) for at in (0, 1))
        widths = (names, types if any(row[1] for row in columns) else 0)
        lines = []
        for field, row in zip(self.fields, rows, strict=True):
            lines += comments(field.docs, "  ///")
            *before, last = row
            cells = [cell + " " * (width - _width(cell)) for cell, width in zip(before, widths, strict=False)]
            lines.append("  " + " ".join([*cells, last]))
        whole = _sorted(self.attributes)
        head = [*comments(self.notes, "//"), *comments(self.docs, "///"), f"{self.word} {self.name} {{"]
        return "\n".join([*head, *lines, *([""] if whole else []), *(f"  {one}" for one in whole), "}"]) + "\n"


def _width(cell: str) -> int:
    return len(cell.encode())


def _sorted(attributes: Sequence[str]) -> list[str]:
    def place(attribute: str) -> int:
        word = re.findall(r"\w+", attribute)[0]
        return _ORDER.index(word) if word in _ORDER else len(_ORDER)

    return sorted(attributes, key=place)
