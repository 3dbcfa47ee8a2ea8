"""A project of somebody's own: ``mcp-planner-schema init`` in its folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.cli.command import Command, Values
from mcp_planner_schema.guard.findings import DONE, Broken, WrongUse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from alembic.config import Config

NAME = "init"
# Of a project's commands those that are about its own revisions; the others write files of MCP-Planner's.
_THEIRS = ("migrate-", "backfill-", "db-", "models-", "table-stats")


def commands(known: Mapping[str, Command]) -> dict[str, Command]:
    """``init``, which knows what else there is to type."""
    forms = {name: one.form for name, one in known.items() if name.startswith(_THEIRS)}

    def does(config: Config, values: Values) -> int:
        return _init(Path(values.get("DIR") or ".").expanduser(), forms)

    return {NAME: Command(does, (), ("DIR",), "[DIR=.]")}


def _init(folder: Path, forms: Mapping[str, str]) -> int:
    from mcp_planner_schema import scaffold

    there = scaffold.taken(folder)
    if there:
        raise WrongUse(
            f"{folder.absolute()} has {', '.join(there)} already, and nothing is written over. In a project that has Alembic "
            "three lines of its env.py are enough:\n\n  from alembic import context\n  from mcp_planner_schema.guard import run\n"
            "  run(context, target_metadata=metadata)",
            "mcp-planner-schema init DIR=another_folder",
        )
    try:
        made = scaffold.lay(folder, forms)
    except OSError as error:
        raise Broken(f"{error.filename}: {error.strerror}.", "mcp-planner-schema init DIR=another_folder") from None
    for path in made:
        print(path)
    print("next: make migrate-create NAME=create_notes (FORMAT=sql for plain SQL), or make help", file=sys.stderr)
    return DONE
