"""One SQL file of another tool's folder, as it is: its bytes can be had again, and what cannot be kept is refused by its name."""

from __future__ import annotations

import codecs
import shlex
from dataclasses import dataclass
from pathlib import Path

from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.sql_file import LIMIT

_MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


@dataclass(frozen=True)
class File:
    """One file. ``text`` has LF; ``windows`` says that each line ends in CR LF there, ``marked`` that it begins with U+FEFF."""

    name: str
    text: str
    windows: bool = False
    marked: bool = False

    def raw(self) -> bytes:
        """The file as it lies in the folder."""
        text = self.text.replace("\n", "\r\n") if self.windows else self.text
        return (codecs.BOM_UTF8 if self.marked else b"") + text.encode("utf-8")


def read(path: Path, name: str, tool: str, *, marked: bool = False) -> File:
    """The file, called ``name`` in what is said of it. ``marked``: the tool runs one with a byte order mark of UTF-8.

    Raises :class:`WrongUse` for what is no text, or two kinds of text.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise wrong(name, f"it cannot be read: {error.strerror}", f"ls -l {shlex.quote(str(path))}") from None
    if len(raw) > LIMIT:
        raise wrong(
            name, f"it has more than {LIMIT:,} bytes", "load such rows by a script of its own (make migrate-create)"
        )
    marked = marked and raw.startswith(codecs.BOM_UTF8)
    raw = raw[len(codecs.BOM_UTF8) :] if marked else raw
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            raise wrong(
                name,
                f"it begins with a byte order mark ({encoding}): {tool} sends it along, and PostgreSQL refuses it",
                _converted(path, encoding if encoding != "UTF-8" else "UTF-8-BOM"),
            )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise wrong(
            name, f"line {line} is not UTF-8 (byte 0x{raw[error.start]:02x})", _converted(path, "LATIN1")
        ) from None
    if "\0" in text:
        raise wrong(name, "it holds a NUL byte", f"tr -d '\\0' < {shlex.quote(str(path))} > fixed")
    windows = "\r\n" in text
    text = text.replace("\r\n", "\n") if windows and text.count("\n") == text.count("\r\n") else text
    if "\r" in text:
        line = text.count("\n", 0, text.index("\r")) + 1
        raise wrong(
            name, f"line {line} ends otherwise than its neighbours (CR)", f"sed -i 's/\\r$//' {shlex.quote(str(path))}"
        )
    return File(name, text, windows, marked)


def wrong(name: str, problem: str, then: str) -> WrongUse:
    """What is wrong with a file, and what to do about it."""
    return WrongUse(f"{name}: {problem}.", then)


def _converted(path: Path, encoding: str) -> str:
    name = shlex.quote(str(path))
    if encoding == "UTF-8-BOM":
        return f"sed -i '1s/^\\xEF\\xBB\\xBF//' {name}"
    return f"iconv -f {encoding} -t UTF-8 {name} > fixed && mv fixed {name}"
