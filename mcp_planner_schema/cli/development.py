"""The embedded server, and rows to try things on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.cli.command import ROOT, Command, Values
from mcp_planner_schema.guard.findings import DONE, Broken, WrongUse

if TYPE_CHECKING:
    from alembic.config import Config


def _embedded(action: str) -> Callable[[Config, Values], int]:
    def does(config: Config, values: Values) -> int:
        from mcp_planner_schema import embedded
        from mcp_planner_schema.guard import given

        named = given.read(config).values["database_url"]
        if named.text:
            raise WrongUse(
                f"{named.place} is set ({named.source}), so that server is used and no other; this command is for the "
                "embedded one.",
                f"env -u DATABASE_URL make db-{action}"
                if named.source == given.ENVIRONMENT
                else f"take it out of {named.source}, then make db-{action}",
            )
        try:
            if action == "start":
                server = embedded.start(ROOT)
                print(server.url())
            elif action == "stop":
                print("stopped" if embedded.stop(ROOT) else "it was not running")
            elif action == "shell":
                embedded.shell(ROOT)
            else:
                found = embedded.status(ROOT)
                told = {**vars(found), "size": f"{found.size:,} bytes" if found.size else None}
                print("\n".join(f"{key:<9} {value}" for key, value in told.items() if value is not None))
        except embedded.EmbeddedError as error:
            raise Broken(str(error), "make db-status") from error
        return DONE

    return does


def _example_data(config: Config, values: Values) -> int:
    from mcp_planner_schema import example_data

    numbers: dict[str, Any] = {}
    for key in ("PROJECTS", "SEED"):
        given = values.get(key, "1")
        if not given.isdigit() or (key == "PROJECTS" and int(given) == 0):
            raise WrongUse(f"{key} is {given!r}; it is a number.", "make example-data PROJECTS=100")
        numbers[key.lower()] = int(given)
    print(example_data.fill(config, **numbers))
    return DONE


COMMANDS: dict[str, Command] = {
    "db-start": Command(_embedded("start")),
    "db-stop": Command(_embedded("stop")),
    "db-shell": Command(_embedded("shell")),
    "db-status": Command(_embedded("status")),
    "example-data": Command(_example_data, ("PROJECTS",), ("SEED",), "PROJECTS=100 [SEED=1]"),
}
