"""Which of the pending revisions a deploy runs in which stage. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import connect, judge, settings, source
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.inspect import route, status

if TYPE_CHECKING:
    from alembic.config import Config

EXPAND, CONTRACT = "expand", "contract"
SCRIPT = "scripts/production-migrate.sh"


@dataclass(frozen=True)
class Stages:
    """The revision that each stage goes to, empty where it has nothing to do; ``waits`` are those of a later run.

    The order of the history is kept: what comes after the first revision of phase migrate is run with the data, what comes
    after the first contract waits with it.
    """

    expand: str = ""
    data: str = ""
    contract: str = ""
    waits: tuple[str, ...] = ()

    @property
    def last(self) -> str:
        """Where this run ends; empty where nothing is pending for it."""
        return self.contract or self.data or self.expand


@dataclass(frozen=True)
class Asked:
    """Where a database stands, and what is to be done. ``here`` is a revision or ``base``.

    ``revisions`` are those of this run, with their checksums.
    """

    database: str
    place: str
    environment: str
    here: str
    stages: Stages
    revisions: dict[str, str]
    backup: str


def ask(config: Config, kind: str) -> Asked:
    """Read the version and the folder. Raises :class:`WrongUse` where no database is named, or this is no time for ``kind``."""
    given = settings.load(config)
    if given.url is None:
        raise WrongUse(
            "No database is named: a deploy never takes the embedded server for one.",
            f"export DATABASE_URL=postgresql://user@host:5432/database, then {config.attributes.get('repeat', SCRIPT)}",
        )
    way = route.find(config, "head")
    with status.connected(config) as (connection, _):
        url = connection.engine.url
        name = str(connection.exec_driver_sql("SELECT pg_catalog.current_database()").scalar_one())
        with route.history(config, given, (), connection) as script:
            files = [(one, found.path) for one in way.steps if (found := script.get_revision(one)) is not None]
        judged = judge.judge_pending(script, [path for _, path in files], given)
        connection.rollback()
    pending = [(one, found.header.phase if found.header else "") for (one, _), found in zip(files, judged, strict=True)]
    backup = "never" if given.preflight.backup_age is None else "check" if given.preflight.backup_check else "archive"
    ordered = split(pending, kind)
    sums = {
        one: source.checksum(read.source, read.sql) if read.source else ""
        for (one, _), read in zip(files, judged, strict=True)
        if ordered.last and one not in ordered.waits
    }
    return Asked(name, connect.place(url), given.environment, way.here, ordered, sums, backup)


def split(pending: Sequence[tuple[str, str]], kind: str) -> Stages:
    """The stages of these revisions and their phases, in the order in which they would run.

    A contract run takes the contract revisions that are next, and none behind a later expand: between those a release has to
    come. Raises :class:`WrongUse` for a contract run before what comes before it.
    """
    names = [name for name, _ in pending]
    contract = next((place for place, (_, phase) in enumerate(pending) if phase == "contract"), len(pending))
    if kind == CONTRACT:
        if contract and pending:
            raise WrongUse(
                f"{', '.join(names[:contract])} would run before the contract, and no release has run with them yet.",
                f"{SCRIPT}   (then --contract, when no older release runs any more)",
            )
        end = next((place for place, (_, phase) in enumerate(pending) if phase != "contract"), len(pending))
        return Stages(contract=names[end - 1] if end else "", waits=tuple(names[end:]))
    data = next((place for place, (_, phase) in enumerate(pending) if phase in ("migrate", "contract")), len(pending))
    return Stages(
        expand=names[data - 1] if data else "",
        data=names[contract - 1] if contract > data else "",
        waits=tuple(names[contract:]),
    )
