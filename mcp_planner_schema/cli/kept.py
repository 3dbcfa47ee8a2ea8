"""What downgrades have kept: shown, read again, given back, deleted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.cli.command import Command, Values
from mcp_planner_schema.guard.findings import DONE, Broken, WrongUse

if TYPE_CHECKING:
    from alembic.config import Config


def _restore(config: Config, values: Values) -> int:
    from mcp_planner_schema.guard import restore_later

    dry = bool(values.get("DRY_RUN"))
    number = _number(values, "make migrate-restore VERSION=003 ID=3")
    file = Path(values["ARCHIVE"]).expanduser().absolute() if "ARCHIVE" in values else None
    lines = restore_later.give_back(config, values["VERSION"], number, file, dry=dry)
    if dry:
        print("dry run: it was done and rolled back, nothing was changed. For real it says:")
    print("\n".join(lines))
    return DONE


def _stash_list(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import stashes

    rows = stashes.listed(config)
    print(json.dumps(rows, indent=2) if values.get("JSON") else stashes.listed_text(rows))
    return DONE


def _stash_show(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import stashes

    number = _number(values, "make migrate-stash-show ID=3")
    assert number is not None
    found = stashes.shown(config, number)
    print(json.dumps(found, indent=2) if values.get("JSON") else stashes.shown_text(found))
    return DONE


def _stash_verify(config: Config, values: Values) -> int:
    from mcp_planner_schema.guard import recheck

    report = recheck.recheck(config, _number(values, "make migrate-stash-verify ID=3"))
    print("\n".join([*report.lines, *report.wrong]) or "no stash: nothing to read")
    if report.wrong:
        raise Broken(
            "What was kept is not as it was: an upgrade or migrate-restore refuses to give it back.",
            f"make migrate-stash-show ID={report.wrong[0].split(':')[0].removeprefix('stash ')}",
        )
    return DONE


def _stash_purge(config: Config, values: Values) -> int:
    from mcp_planner_schema.guard import purge

    number = _number(values, "make migrate-stash-purge ID=3 CONFIRM=migration_stash_3")
    assert number is not None
    print("\n".join(purge.purge(config, number, values["CONFIRM"])))
    return DONE


def _number(values: Values, form: str) -> int | None:
    """The stash that ID names; None where it was left out."""
    given = values.get("ID")
    if given is None:
        return None
    if not re.fullmatch("[1-9][0-9]{0,17}", given):
        raise WrongUse(
            f"ID is {given!r}; it is the number of a stash.", f"{form}   (make migrate-stash-list shows them)"
        )
    return int(given)


COMMANDS: dict[str, Command] = {
    "migrate-restore": Command(
        _restore, ("VERSION",), ("ID", "ARCHIVE", "DRY_RUN"), "VERSION=003 [ID=3] [ARCHIVE=file.dump] [DRY_RUN=1]"
    ),
    "migrate-stash-list": Command(_stash_list, (), ("JSON",), "[JSON=1]"),
    "migrate-stash-show": Command(_stash_show, ("ID",), ("JSON",), "ID=3 [JSON=1]"),
    "migrate-stash-verify": Command(_stash_verify, (), ("ID",), "[ID=3]"),
    "migrate-stash-purge": Command(_stash_purge, ("ID", "CONFIRM"), (), "ID=3 CONFIRM=migration_stash_3"),
}
