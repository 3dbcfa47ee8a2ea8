"""The two files of a new revision in SQL: empty but for a comment, so that the guard asks for what is missing."""

from __future__ import annotations

from pathlib import Path

from mcp_planner_schema.guard.findings import Broken
from mcp_planner_schema.guard.source import shown
from mcp_planner_schema.guard.sql_body_calls import BODIES

_SAYS = {
    "upgrade": "What the upgrade does, each statement with its semicolon.",
    "downgrade": "What undoes it. If nothing can: Reversible: forward-only: why, in the header, and this file may stay empty.",
}


def write(revision: Path) -> list[Path]:
    """Write them beside the revision. Where one is there already nothing stays of the revision either."""
    made: list[Path] = []
    try:
        for function, ending in BODIES.items():
            path = revision.with_name(f"{revision.stem}.{ending}.sql")
            with path.open("x", encoding="utf-8") as opened:
                made.append(path)
                opened.write(
                    f"-- {_SAYS[function]}\n-- The header and the expectations are in {revision.name}; docs/plain-sql.md.\n\n"
                )
    except OSError as error:
        for one in (*made, revision):
            one.unlink(missing_ok=True)
        raise Broken(
            f"{shown(Path(error.filename))}: {error.strerror}. Nothing was changed.", "make migrate-validate"
        ) from None
    return made
