"""Asks the databases that somebody knows whether a revision was applied there: the configured one, and those that are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from mcp_planner_schema.guard import connect, edits, history, judge, source, version_table
from mcp_planner_schema.guard.findings import Finding, Refused, WrongUse
from mcp_planner_schema.guard.settings import Settings
from mcp_planner_schema.guard.version_table import VersionTable

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from sqlalchemy import URL


class File(Protocol):
    """A revision's file, as far as it is needed here."""

    @property
    def source(self) -> source.Source:
        """Its text."""

    @property
    def revision(self) -> str:
        """Its id."""

    @property
    def parents(self) -> tuple[str, ...]:
        """What must come before it."""


def refuse(
    config: Config, given: Settings, here: ScriptDirectory, members: Sequence[File], moved: Sequence[File], urls: str
) -> list[str]:
    """Raise :class:`Refused` where one of ``moved`` is applied in a database; else the places that were asked. Reads only.

    A database that does not answer counts as one that may have applied it: its error comes out.
    """
    table = version_table.of(config)
    targets = [connect.url(given), *(_url(one) for one in urls.split())]
    asked: dict[str, None] = {}
    for target in targets:
        shown = f"{target.database} at {connect.place(target)}"
        for one in _applied(target, given, table, here, members, moved, str(config.attributes["repeat"])):
            values = {
                "revision": one.revision, "problem": f"{shown} has applied it",
                "instead": "take it back there, with the files of its own branch (make migrate-down), and repeat; or move the "
                "other one; or keep both: alembic merge heads",
            }  # fmt: skip
            raise Refused([Finding("rebase-impossible", source.shown(one.source.path), one.revision, values)],
                          str(config.attributes["repeat"]))  # fmt: skip
        asked[shown] = None
    return list(asked)


def _url(text: str) -> URL:
    from mcp_planner_schema.guard import address

    try:
        return address.parse(text).set(drivername="postgresql+psycopg2")
    except ValueError:
        raise WrongUse(
            "PLANNER_KNOWN_URLS holds something that is no database URL (it is not shown: it may hold a password).",
            "export PLANNER_KNOWN_URLS='postgresql://user@host:5432/database postgresql://…'",
        ) from None


def _applied(
    target: URL, given: Settings, table: VersionTable, here: ScriptDirectory, members: Sequence[File],
    moved: Sequence[File], repeat: str,
) -> list[File]:  # fmt: skip
    from sqlalchemy.exc import SQLAlchemyError

    engine = connect.engine(target, "mcp-planner-guard rebase")
    try:
        with connect.opened(engine) as connection:
            connection.execution_options(postgresql_readonly=True)
            heads = version_table.heads(connection, table)
            kept = history.applied(connection, given.schema, table.shown)
    except SQLAlchemyError as error:
        raise connect.outside(error, target, repeat) from error
    finally:
        engine.dispose()
    # With two files of one id, what comes before it is what comes before either.
    parents: dict[str | None, tuple[str, ...]] = {}
    for one in members:
        parents[one.revision] = parents.get(one.revision, ()) + one.parents
    reached = edits.ancestors(parents, heads)
    unknown = set(heads) - {one.revision for one in members}
    return [
        one
        for one in moved
        if (one.revision in reached or (unknown and one.revision in kept)) and not _other(one, members, kept, here)
    ]


def _other(
    one: File, members: Sequence[File], kept: Mapping[str, tuple[int, str, str, str]], here: ScriptDirectory
) -> bool:
    """Whether what was applied under this id is surely the other file that has it."""
    checksum = kept[one.revision][2] if one.revision in kept else None
    folder = judge.sql_folder(here)
    sums = {
        file.source.path: source.checksum(file.source, judge.texts(file.source, folder))
        for file in members
        if file.revision == one.revision
    }
    mine = sums.pop(one.source.path)
    return checksum is not None and checksum != mine and checksum in sums.values()
