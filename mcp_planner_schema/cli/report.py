"""The command that tells of one run: the report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.cli.command import Command, Values
from mcp_planner_schema.guard import whole_file
from mcp_planner_schema.guard.findings import DONE, WrongUse

if TYPE_CHECKING:
    from alembic.config import Config

_FORM = "make migrate-report RUN=42 FORMAT=html OUT=report.html"
_OF_FILE = {".html": "html", ".htm": "html", ".md": "markdown", ".json": "json"}


def _report(config: Config, values: Values) -> int:
    from mcp_planner_schema.telemetry import report

    out = Path(values["OUT"]).expanduser() if "OUT" in values else None
    text = report.write(config, _number(values), _form(values, out))
    if out is None:
        print(text, end="" if text.endswith("\n") else "\n")
        return DONE
    try:
        if out.exists() and not out.is_file():  # /dev/stdout
            out.write_text(text, encoding="utf-8")
        else:  # errors in it may quote rows
            whole_file.write(out, text)
    except OSError as error:
        raise WrongUse(f"{out} cannot be written: {error.strerror}.", _FORM) from None
    print(f"wrote {out}", file=sys.stderr)
    return DONE


def _number(values: Values) -> int | None:
    given = values.get("RUN")
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and 0 < int(given) < 2**63):
        raise WrongUse(
            f"RUN is {given!r}; it is the number of a run.", "make migrate-status   (its lines run name the last ones)"
        )
    return int(given)


def _form(values: Values, out: Path | None) -> str:
    """What JSON or FORMAT say, else the name of the file, else Markdown."""
    named = values.get("FORMAT")
    if named and values.get("JSON"):
        raise WrongUse("JSON and FORMAT both say how it is told.", _FORM)
    if named not in (None, "markdown", "html"):
        raise WrongUse(f"FORMAT is {named!r}; it is markdown, html or left out.", _FORM)
    return "json" if values.get("JSON") else named or (_OF_FILE.get(out.suffix.lower()) if out else None) or "markdown"


COMMANDS = {
    "migrate-report": Command(
        _report, (), ("RUN", "FORMAT", "OUT", "JSON"), "[RUN=42] [FORMAT=markdown|html] [OUT=report.html] [JSON=1]"
    ),
}
