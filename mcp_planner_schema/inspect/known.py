"""What a package knows of its revisions without their files: ``mcp_planner_schema/compatible/known.py``, written from them.

A wheel has no ``alembic/`` (at the top of site-packages it would be Alembic itself), and an application that starts should read
a constant, not two dozen files. A line for each revision also makes git say it when two branches have added one.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import shorten

from mcp_planner_schema.compatible import chain

_NAMED = re.compile(r'^    \("([^"]+)", ', re.MULTILINE)
_HEAD = '''"""The revisions of this package: id, parents, phase, title. Written by ``make known-revisions``."""

REVISIONS: tuple[tuple[str, tuple[str, ...], str | None, str], ...] = (
'''


def place(root: Path) -> Path:
    """The module, in a checkout of this project."""
    return root / "mcp_planner_schema" / "compatible" / "known.py"


def text(script_directory: Path) -> str:
    """The module's text, from the files of the revisions, parents first."""
    found = chain.of_folder(script_directory)
    order, _ = chain.ancestors(found, found)
    rows = [found[one] for one in order if one in found]
    lines = [
        f"    ({json.dumps(one.revision)}, {_tuple(one.parents)}, {json.dumps(one.phase) if one.phase else None}, "
        f"{json.dumps(shorten(one.description, 80), ensure_ascii=False)}),\n"
        for one in rows
    ]
    return _HEAD + "".join(lines) + ")  # fmt: skip\n"


def lost(root: Path) -> list[str]:
    """The revisions that the module names and no file has: they are gone for good, or another branch's."""
    path = place(root)
    named = _NAMED.findall(path.read_text(encoding="utf-8")) if path.exists() else []
    there = chain.of_folder(root / "alembic")
    return [one for one in named if one not in there]


def write(root: Path) -> bool:
    """Write it where it is stale; whether it was. Nothing is done where there is no such module."""
    path = place(root)
    written = text(root / "alembic")
    if not path.exists() or path.read_text(encoding="utf-8") == written:
        return False
    path.write_text(written, encoding="utf-8")
    return True


def _tuple(names: tuple[str, ...]) -> str:
    return "(" + "".join(f"{json.dumps(one)}, " for one in names).rstrip(" " if len(names) == 1 else ", ") + ")"
