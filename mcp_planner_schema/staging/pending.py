"""The revisions that a database has before it, each with the checksum of its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import judge, phases, source, version_table
from mcp_planner_schema.inspect import route, status

if TYPE_CHECKING:
    from alembic.config import Config

    from mcp_planner_schema.guard.settings import Settings


@dataclass(frozen=True)
class Revision:
    """One revision as its file is now. ``one_way`` is its header's reason why there is no way back, else empty."""

    id: str
    checksum: str
    phase: str
    one_way: str = ""


@dataclass(frozen=True)
class Pending:
    """Where a database stands, on a server of which version, and what would be run, in that order."""

    heads: tuple[str, ...]
    server: str
    revisions: tuple[Revision, ...]

    @property
    def start(self) -> str:
        """The revision that it stands at; ``base`` before the first."""
        return ", ".join(self.heads) or "base"

    def until_contract(self) -> tuple[Revision, ...]:
        """Those that run while an older release is still there."""
        first = phases.first_waiting((one.phase for one in self.revisions), "production", "")
        return self.revisions[:first]


def read(config: Config) -> Pending:
    """Ask the configured database and the folder. Reads only; imports the revisions, as Alembic does."""
    table = version_table.of(config)
    with status.connected(config) as (connection, given):
        heads = version_table.heads(connection, table)
        server = str(connection.exec_driver_sql("SHOW server_version").scalar_one()).split()[0]
        connection.rollback()
        with route.history(config, given, (), connection, table) as script:
            every = list(reversed(list(script.walk_revisions())))
            applied = {one.revision for one in script.iterate_revisions(heads, "base")} if heads else set()
        waiting = [(one.revision, one.path) for one in every if one.revision not in applied]
        return Pending(heads, server, _revisions(script, waiting, given))


def _revisions(script: object, waiting: list[tuple[str, str]], given: Settings) -> tuple[Revision, ...]:
    judged = judge.judge_pending(script, [path for _, path in waiting], given)  # type: ignore[arg-type]
    return tuple(
        Revision(
            name,
            source.checksum(one.source, one.sql) if one.source else "",
            one.header.phase if one.header else "",
            one.header.reason if one.header and one.header.reversible == "forward-only" else "",
        )
        for (name, _), one in zip(waiting, judged, strict=True)
    )
