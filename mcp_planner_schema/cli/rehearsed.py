"""Whether what is pending was rehearsed on staging."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.cli.command import Command, Values
from mcp_planner_schema.guard.findings import DONE

if TYPE_CHECKING:
    from alembic.config import Config


def _rehearsed(config: Config, values: Values) -> int:
    from mcp_planner_schema.guard import phases, settings
    from mcp_planner_schema.staging import pending, record

    given = settings.load(config)
    named = values.get("REHEARSAL")
    records = [record.read(Path(named).expanduser())] if named else record.found(Path(given.rehearsal_dir))
    expand = phases.chosen(values.get("PHASE")) == "expand"
    found = record.require(records, pending.read(config), given.rehearsal_age, expand=expand)
    if found is None:
        print("nothing is pending: nothing to rehearse")
        return DONE
    ids = ", ".join(one for one, _ in found.revisions)
    print(f"rehearsed: {ids}, {found.at:%Y-%m-%d %H:%M} UTC on PostgreSQL {found.server}, green ({found.path})")
    return DONE


COMMANDS = {
    "migrate-rehearsed": Command(_rehearsed, (), ("REHEARSAL", "PHASE"), "[REHEARSAL=file] [PHASE=expand]"),
}
