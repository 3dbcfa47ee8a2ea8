"""A folder of golang-migrate's: which files count, in which order, and what is wrong with one, told by its name."""

from __future__ import annotations

import codecs
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.sql_file import LIMIT

# As golang-migrate reads a name: the title is greedy, and whatever else lies in the folder does not count.
_NAME = re.compile(r"([0-9]+)_(.*)\.(down|up)\.(.*)", re.ASCII | re.DOTALL)
_MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
GREATEST = 2**63 - 1
"""What the column ``version`` holds."""


@dataclass(frozen=True)
class File:
    """One file. ``text`` has LF; ``windows`` says that each line ends in CR LF there."""

    name: str
    text: str
    windows: bool = False

    def raw(self) -> bytes:
        """The file as it lies in the folder."""
        return (self.text.replace("\n", "\r\n") if self.windows else self.text).encode("utf-8")


@dataclass(frozen=True)
class Migration:
    """One version: what goes up and what goes down, each None where there is no such file."""

    version: int
    title: str
    up: File | None
    down: File | None


@dataclass(frozen=True)
class Name:
    """What a file's name says."""

    version: int
    title: str
    direction: str


def name_of(file: str) -> Name | None:
    """What golang-migrate reads from a name; None where it passes the file over."""
    match = _NAME.fullmatch(file)
    if match is None or int(match[1]) >= 2**64:
        return None
    return Name(int(match[1]), match[2], match[3])


def read(folder: Path) -> list[Migration]:
    """Every version of the folder, in golang-migrate's order. Raises :class:`WrongUse` that names the file."""
    if not folder.is_dir():
        raise WrongUse(f"{folder} is no folder.", "make migrate-import FROM=golang-migrate DIR=path/to/migrations")
    found: dict[int, dict[str, tuple[Name, Path]]] = {}
    for path in sorted(folder.iterdir()):
        name = name_of(path.name)
        if name is None or path.is_dir():
            continue
        if name.version > GREATEST:
            raise _wrong(path, "its version does not fit into the column version, a bigint", "rename it")
        before = found.setdefault(name.version, {}).setdefault(name.direction, (name, path))[1]
        if before != path:
            raise _wrong(
                path,
                f"it is a second {name.direction} file of version {name.version}, beside {before.name}; "
                "golang-migrate refuses such a folder",
                "give one of them a version of its own",
            )
    if not found:
        raise WrongUse(
            f"{folder} has no file of the form 000001_create_users.up.sql.",
            "make migrate-import FROM=golang-migrate DIR=path/to/migrations",
        )
    return [_migration(version, found[version]) for version in sorted(found)]


def _migration(version: int, files: dict[str, tuple[Name, Path]]) -> Migration:
    texts = {direction: _file(path) for direction, (_, path) in files.items()}
    title = (files.get("up") or files["down"])[0].title
    return Migration(version, title, texts.get("up"), texts.get("down"))


def _file(path: Path) -> File:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _wrong(path, f"it cannot be read: {error.strerror}", f"ls -l {shlex.quote(str(path))}") from None
    if len(raw) > LIMIT:
        raise _wrong(
            path, f"it has more than {LIMIT:,} bytes", "load such rows by a script of its own (make migrate-create)"
        )
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            raise _wrong(
                path,
                f"it begins with a byte order mark ({encoding}): golang-migrate sends it along, and PostgreSQL refuses it",
                _converted(path, encoding if encoding != "UTF-8" else "UTF-8-BOM"),
            )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _wrong(
            path, f"line {line} is not UTF-8 (byte 0x{raw[error.start]:02x})", _converted(path, "LATIN1")
        ) from None
    if "\0" in text:
        raise _wrong(path, "it holds a NUL byte", f"tr -d '\\0' < {shlex.quote(str(path))} > fixed")
    windows = "\r\n" in text
    text = text.replace("\r\n", "\n") if windows and text.count("\n") == text.count("\r\n") else text
    if "\r" in text:
        line = text.count("\n", 0, text.index("\r")) + 1
        raise _wrong(
            path, f"line {line} ends otherwise than its neighbours (CR)", f"sed -i 's/\\r$//' {shlex.quote(str(path))}"
        )
    return File(path.name, text, windows)


def _converted(path: Path, encoding: str) -> str:
    name = shlex.quote(str(path))
    if encoding == "UTF-8-BOM":
        return f"sed -i '1s/^\\xEF\\xBB\\xBF//' {name}"
    return f"iconv -f {encoding} -t UTF-8 {name} > fixed && mv fixed {name}"


def _wrong(path: Path, problem: str, then: str) -> WrongUse:
    return WrongUse(f"{path.name}: {problem}.", then)
