"""A folder of Prisma's: one folder for each migration in it, in Prisma's order, and what is wrong with one, told by its name."""

from __future__ import annotations

import re
import shlex
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.interop import file as files_of
from mcp_planner_schema.interop.file import File

UP, DOWN, LOCK = "migration.sql", "down.sql", "migration_lock.toml"
_AGAIN = "make migrate-import FROM=prisma DIR=prisma/migrations"
# As Node compares text where no language is said: the order of Unicode's root collation, in which _ and - come before digits.
_ORDER = " _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789abcdefghijklmnopqrstuvwxyz"
_RANK = {sign: place for place, sign in enumerate(_ORDER)}


@dataclass(frozen=True)
class Migration:
    """One migration: ``name`` is its folder's. ``down`` is None where nobody has laid a down.sql beside it."""

    name: str
    up: File
    down: File | None


def read(folder: Path) -> list[Migration]:
    """Every migration of the folder, in Prisma's order. Raises :class:`WrongUse` that names the file."""
    if not folder.is_dir():
        raise WrongUse(f"{folder} is no folder.", _AGAIN)
    _require_postgresql(folder / LOCK)
    found = sorted((path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()), key=_place)
    if not found or not any((path / UP).exists() for path in found):
        inside = shlex.quote(str(folder / "migrations")) if (folder / "migrations").is_dir() else "prisma/migrations"
        raise WrongUse(
            f"{folder} has no folder of the form 20240131120000_init with a {UP} in it.",
            f"make migrate-import FROM=prisma DIR={inside}",
        )
    return [_migration(path) for path in found]


def order(name: str) -> tuple[list[int], str]:
    """What Prisma sorts migrations by: letters without regard to case and accents, and these only between equals."""
    letters = [sign for sign in unicodedata.normalize("NFD", name.lower()) if not unicodedata.combining(sign)]
    return [_RANK.get(sign, len(_RANK) + ord(sign)) for sign in letters], name.swapcase()


def _place(path: Path) -> tuple[list[int], str]:
    return order(path.name)


def _require_postgresql(lock: Path) -> None:
    """As Prisma reads the file: its first line that begins with ``provider``; without the file it asks for nothing."""
    if not lock.is_file():
        return
    lines = lock.read_text(encoding="utf-8", errors="replace").splitlines()
    said = next((line.partition("=")[2].strip().strip("\"'") for line in lines if line.startswith("provider")), "")
    if said not in ("postgresql", "postgres"):
        raise files_of.wrong(
            lock.name,
            f"these migrations are for {said or 'no provider that it names'}, and not for postgresql",
            "the folder of the PostgreSQL database (Prisma's `migrate diff --from-empty` writes one anew), then the same command",
        )


def _migration(path: Path) -> Migration:
    if re.search(r"[\ud800-\udfff]", path.name):
        raise WrongUse(f"{path.name!r}: its name is not UTF-8, and no row of Prisma's can hold it.", "rename it")
    if not (path / UP).is_file():
        raise files_of.wrong(
            path.name,
            f"it has no {UP}, and Prisma stops there (P3015)",
            f"bring the file back, or remove what is left of the migration: rm -r {shlex.quote(str(path))}",
        )
    down = path / DOWN
    return Migration(path.name, _file(path / UP), _file(down) if down.is_file() else None)


def _file(path: Path) -> File:
    return files_of.read(path, f"{path.parent.name}/{path.name}", "Prisma", marked=True)
