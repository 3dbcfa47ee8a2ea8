"""``make environment-set``: says to a database which environment it belongs to from now on, as where a copy becomes staging."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_planner_schema.guard import alone, banner, connect, marker, settings
from mcp_planner_schema.guard.environments import ENVIRONMENTS
from mcp_planner_schema.guard.findings import WrongUse

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection


def declare(config: Config, name: str, confirm: str, reason: str | None = None) -> list[str]:
    """Write the marker, whatever the former one says; a row of ``run`` and the marker's own keep who did it and why.

    Raises :class:`WrongUse` unless ``PLANNER_ENV`` says the same, and :class:`Refused` unless ``confirm`` is the database's name.
    """
    given = settings.load(config)
    typed = f"make environment-set ENV={name} CONFIRM=…"
    if name not in ENVIRONMENTS:
        raise WrongUse(
            f"ENV is {name!r}; known are {', '.join(ENVIRONMENTS)}.", "make environment-set ENV=staging CONFIRM=…"
        )
    if not given.said or given.environment != name:
        told = f"PLANNER_ENV says {given.environment}" if given.said else "nobody has said PLANNER_ENV"
        raise WrongUse(
            f"ENV is {name}, and {told}: the next command would be refused again.",
            f"PLANNER_ENV={name} {typed}   (better in .env, or wherever it is set for good)",
        )
    with alone.deploying(config, marked=False) as here:
        schema = here.settings.schema
        with connect.opened(here.engine) as connection:
            banner.named(connection, given, confirm, f"the database would be {name} from now on", here.repeat)
            where, former = banner.place(connection), marker.read(connection, schema)
            connection.rollback()
        if former and former.name == name:
            return [f"nothing to do: {where} is {name} since {former.since}, said by {former.who}"]

        def write(connection: Connection) -> None:
            marker.declare(connection, schema, name, here.origin, reason)

        with alone.told(here, marks=False):
            alone.attempt(here, here.settings.budgets, write)
    before = f"it was {former.name} since {former.since}, said by {former.who}" if former else "nothing was said before"
    return [f"{where} is {name} from now on, said by {here.origin.who}; {before}"]
