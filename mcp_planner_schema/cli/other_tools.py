"""What other migration tools have made, and what they are given: folders out and in, databases taken over."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.cli.command import Command, Values, form
from mcp_planner_schema.guard.findings import DONE, WrongUse

if TYPE_CHECKING:
    from alembic.config import Config

_TOOLS = ("golang-migrate", "prisma")


def _known(command: str, said: str) -> None:
    if said not in _TOOLS:
        raise WrongUse(
            f"{said!r} is no tool that is known here. Known are: {', '.join(_TOOLS)}.", form(command, COMMANDS[command])
        )


def _folder(values: Values) -> Path:
    return Path(values["DIR"]).expanduser().absolute()


def _export(config: Config, values: Values) -> int:
    _known("migrate-export", values["FORMAT"])
    if values["FORMAT"] == "prisma":
        return _export_prisma(config, values)
    if not values.get("DIR"):
        raise WrongUse("migrate-export needs DIR.", form("migrate-export", COMMANDS["migrate-export"]))
    from mcp_planner_schema.guard.source import shown
    from mcp_planner_schema.interop.golang import export

    folder = _folder(values)
    made = export.write(config, folder, values.get("TO"))
    for path in made:
        print(shown(path))
    print(f"{len(made)} files written into {shown(folder)}" if made else "nothing has changed", file=sys.stderr)
    return DONE


def _export_prisma(config: Config, values: Values) -> int:
    from mcp_planner_schema.guard.source import shown
    from mcp_planner_schema.interop.prisma import export

    if "TO" in values:
        raise WrongUse(
            "A schema.prisma is of a database as it is, and TO= names a revision: bring a database there first.",
            "make migrate-export FORMAT=prisma DIR=prisma",
        )
    made = export.write(config, _folder({"DIR": "prisma", **values}))
    if made:
        print(shown(made))
    print("one file written" if made else "nothing has changed", file=sys.stderr)
    return DONE


def _import(config: Config, values: Values) -> int:
    from mcp_planner_schema.guard.source import shown

    _known("migrate-import", values["FROM"])
    if values["FROM"] == "prisma":
        from mcp_planner_schema.interop.prisma.imported import write
    else:
        from mcp_planner_schema.interop.golang.imported import write
    made = write(config, _folder(values), values.get("AUTHOR", ""))
    for path in made:
        print(shown(path))
    then = "make migrate-validate, then make migrate-fingerprint VERSION=all" if made else "make migrate-status"
    print(f"{sum(path.suffix == '.py' for path in made)} revisions written; next: {then}", file=sys.stderr)
    return DONE


def _of_golang(config: Config, values: Values) -> list[str]:
    from mcp_planner_schema.interop.golang import adopt
    from mcp_planner_schema.interop.golang import row as rows

    table, keeping = values.get("TABLE", rows.TABLE), values.get("KEEP") == "1"
    return adopt.adopt(config, table=table, at=values.get("AT"), keeping=keeping, reason=values.get("REASON"))


def _of_prisma(config: Config, values: Values) -> list[str]:
    from mcp_planner_schema.interop.prisma import adopt, rows

    if "KEEP" in values:
        raise WrongUse(
            "Prisma's rows are not kept in step: each is of a migration's folder, and a revision that is written here has none.",
            adopt.COMMAND,
        )
    table = values.get("TABLE", rows.TABLE)
    return adopt.adopt(config, table=table, at=values.get("AT"), reason=values.get("REASON"))


def _adopt(config: Config, values: Values) -> int:
    _known("migrate-adopt", values["FROM"])
    config.attributes["confirm"] = values.get("CONFIRM")
    told = _of_prisma(config, values) if values["FROM"] == "prisma" else _of_golang(config, values)
    print("\n".join(told))
    return DONE


COMMANDS: dict[str, Command] = {
    "migrate-export": Command(
        _export,
        ("FORMAT",),
        ("DIR", "TO"),
        "FORMAT=golang-migrate DIR=migrations [TO=003], or FORMAT=prisma [DIR=prisma]",
    ),
    "migrate-import": Command(_import, ("FROM", "DIR"), ("AUTHOR",), "FROM=golang-migrate|prisma DIR=migrations"),
    "migrate-adopt": Command(
        _adopt,
        ("FROM",),
        ("TABLE", "AT", "KEEP", "REASON", "CONFIRM"),
        'FROM=golang-migrate|prisma [TABLE=schema_migrations] [AT=003] [KEEP=1] [REASON="why"] [CONFIRM=mcp_task_prod]',
    ),
}
