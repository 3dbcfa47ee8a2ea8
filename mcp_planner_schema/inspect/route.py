"""From where a database is to where somebody wants it: which revision is meant, and whether it lies ahead or behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import ahead, graph, plan, version_table
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.settings import Settings
from mcp_planner_schema.guard.version_table import VersionTable
from mcp_planner_schema.inspect import status

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection


@dataclass(frozen=True)
class Route:
    """``here`` and ``there`` are revision ids or ``base``; ``steps`` are the revisions between, in the order they would run."""

    here: str
    there: str
    back: bool
    steps: tuple[str, ...]


def find(config: Config, target: str) -> Route:
    """The way to ``target``: an id, ``head``, ``base``, or ``-2``. Reads the version and the folder; imports revisions.

    Raises :class:`WrongUse` for what is no target from here, :class:`Refused` where the folder does not know the version.
    """
    table = version_table.of(config)
    with status.connected(config) as (connection, given), history(config, given, (), connection, table) as script:
        heads = version_table.heads(connection, table)
        return _between(script, heads, target)


def between(config: Config, given: Settings, heads: tuple[str, ...], target: str) -> Route:
    """The way from these heads to ``target``, as :func:`find` tells it. Asks no database."""
    with history(config, given, heads) as script:
        return _between(script, heads, target)


def _between(script: ScriptDirectory, heads: tuple[str, ...], target: str) -> Route:
    if len(heads) > 1:
        raise WrongUse(f"The database has several heads: {', '.join(heads)}.", "alembic upgrade heads")
    here = heads[0] if heads else "base"
    line = ["base", *reversed([one.revision for one in script.walk_revisions()])]
    there = _named(line, here, target)
    start, end = line.index(here), line.index(there)
    between = line[start + 1 : end + 1] if end >= start else line[end + 1 : start + 1][::-1]
    return Route(here, there, end < start, tuple(between))


@contextmanager
def history(
    config: Config, given: Settings, heads: tuple[str, ...], connection: Connection | None = None,
    table: VersionTable | None = None,
) -> Iterator[ScriptDirectory]:  # fmt: skip
    """The folder's history, judged as a whole; what its import raises while inside comes out naming the file.

    With a ``connection``, raises :class:`DatabaseAhead` where the database has what no file here has; ``table`` holds its
    version.
    """
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(config)
    repeat = str(config.attributes.get("repeat") or "the same call again")
    graph.explain(script, given, heads, repeat)
    if connection is not None:
        ahead.require(connection, script, given, *(table or VersionTable()))
    with plan.explained(script, given, heads, repeat):
        yield script


def _named(line: list[str], here: str, target: str) -> str:
    if target == "head":
        return line[-1]
    if target in line:
        return target
    if target.startswith("-") and target[1:].isdigit():
        place = line.index(here) - int(target[1:])
        if place < 0:
            if here == "base":
                raise WrongUse("The database is at base: there is nothing to go back to.", "make migrate-status")
            raise WrongUse(
                f"The database is {line.index(here)} steps above base.", "make migrate-down TO=base DRY_RUN=1"
            )
        return line[place]
    number = target.split("_")[0]
    meant = next((one for one in line if one.lstrip("0") == number.lstrip("0") and number), None)
    hint = f" {meant} is meant?" if meant else f" There are {', '.join(line[:3])} … {line[-1]}."
    raise WrongUse(f"There is no revision {target}.{hint}", "make migrate-status   (lists what is pending)")
