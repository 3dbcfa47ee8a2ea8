"""What a project of somebody's own begins with: Alembic under guard, with revisions and models that are theirs.

The files lie in ``files/``; ``alembic.ini`` and the template of revisions are this project's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

_PLACES = {
    "alembic.ini": "alembic.ini",
    "alembic/env.py": "env.py.txt",
    "alembic/script.py.mako": "script.py.mako",
    "models.py": "models.py.txt",
    "Makefile": "Makefile.txt",
    "README.md": "README.md.txt",
    ".gitignore": "gitignore.txt",
}
VERSIONS = "alembic/versions"


def taken(folder: Path) -> list[str]:
    """What is there already of what would be laid down."""
    return [place for place in (*_PLACES, VERSIONS) if (folder / place).exists() or (folder / place).is_symlink()]


def lay(folder: Path, commands: Mapping[str, str]) -> list[Path]:
    """Write the scaffold into a folder that has none of it; gives the files. ``commands`` are the targets with their forms."""
    source = files(__name__) / "files"
    made = []
    for place, name in _PLACES.items():
        text = (source / name).read_text(encoding="utf-8")
        if place == "Makefile":
            text = text.replace("{targets}", " ".join(commands)).replace("{listed}", _listed(commands))
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as opened:
            opened.write(text)
        made.append(path)
    (folder / VERSIONS).mkdir()
    return made


def _listed(commands: Mapping[str, str]) -> str:
    """The targets as one literal of a shell's, which make reads first."""
    lines = [f"  {name:<20} {form}".rstrip() for name, form in commands.items()]
    return "'; echo '".join(line.replace("'", "").replace("$", "$$") for line in lines)
