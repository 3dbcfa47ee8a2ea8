"""What is set, and which environment a database is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mcp_planner_schema.cli.command import Command, Values
from mcp_planner_schema.guard.findings import DONE

if TYPE_CHECKING:
    from alembic.config import Config


def _config(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import configuration

    found = configuration.read(config)
    print(json.dumps(found.as_json(), indent=2) if values.get("JSON") else found.text())
    return DONE


def _environment_set(config: Config, values: Values) -> int:
    from mcp_planner_schema.guard import declare

    print("\n".join(declare.declare(config, values["ENV"], values["CONFIRM"], values.get("REASON"))))
    return DONE


COMMANDS: dict[str, Command] = {
    "config": Command(_config, (), ("JSON",), "[JSON=1]"),
    "environment-set": Command(
        _environment_set, ("ENV", "CONFIRM"), ("REASON",), 'ENV=staging CONFIRM=mcp_task_staging [REASON="why"]'
    ),
}
