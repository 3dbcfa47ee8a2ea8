"""A folder of golang-migrate's: which files count, in which order, and what is wrong with one, told by its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.interop import file as files_of
from mcp_planner_schema.interop.file import File

# As golang-migrate reads a name: the title is greedy, and whatever else lies in the folder does not count.
_NAME = re.compile(r"([0-9]+)_(.*)\.(down|up)\.(.*)", re.ASCII | re.DOTALL)
GREATEST = 2**63 - 1
"""What the column ``version`` holds."""


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
            raise files_of.wrong(path.name, "its version does not fit into the column version, a bigint", "rename it")
        before = found.setdefault(name.version, {}).setdefault(name.direction, (name, path))[1]
        if before != path:
            raise files_of.wrong(
                path.name,
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
    texts = {direction: files_of.read(path, path.name, "golang-migrate") for direction, (_, path) in files.items()}
    title = (files.get("up") or files["down"])[0].title
    return Migration(version, title, texts.get("up"), texts.get("down"))
