"""A database that has revisions of which no file is here: how many, which, what that means, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema import compatible
from mcp_planner_schema.compatible import Compatibility, chain
from mcp_planner_schema.guard import judge, source
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection


class DatabaseAhead(Refused):
    """The database has revisions that no file here has. ``ahead`` says which, and what they mean to this build."""

    def __init__(self, finding: Finding, ahead: Compatibility) -> None:
        super().__init__([finding], command(ahead))
        self.ahead = ahead


def look(
    connection: Connection,
    script: Any,
    settings: Settings,
    version_table: str = "alembic_version",
    version_table_schema: str | None = None,
) -> Compatibility | None:
    """How the database stands to this folder where it is ahead of it; else None. Reads the files, imports none of them.

    Ends the transaction that it has read in.
    """
    read = [source.read(path) for path in judge.files(script)]
    known = [chain.of_text(one.text) if isinstance(one, source.Source) else None for one in read]
    if None in known:
        return None  # a file that cannot be placed may be the one that seems to be missing
    revisions = {one.revision: one for one in known if one is not None}
    found = chain.read(connection, revisions, version_table, version_table_schema, settings.schema)
    connection.rollback()
    told = compatible.compare(revisions, found)
    return told if told.ahead else None


def require(
    connection: Connection,
    script: Any,
    settings: Settings,
    version_table: str = "alembic_version",
    version_table_schema: str | None = None,
) -> None:
    """Raise :class:`DatabaseAhead` where it is."""
    found = look(connection, script, settings, version_table, version_table_schema)
    if found is not None:
        raise DatabaseAhead(finding(found, script), found)


def explain(migration: MigrationContext, script: Any, settings: Settings) -> None:
    """The same, of the version table of a run, where its connection can still be asked."""
    connection = migration.connection
    if migration.as_sql or connection is None or connection.closed or connection.invalidated:
        return
    if connection.in_transaction():
        connection.rollback()
    found = look(connection, script, settings, migration.version_table, migration.version_table_schema)
    if found is not None:
        raise DatabaseAhead(finding(found, script), found)


def finding(found: Compatibility, script: Any) -> Finding:
    """What stands against whatever needs the missing files."""
    heads = ", ".join(found.database)
    values = {
        "heads": heads, "count": count(found), "listed": f"\n{compatible.listed(found.ahead)}", "meaning": meaning(found),
        "deploy": compatible.deploy(found.ahead), "revision": found.ahead[0].revision,
    }  # fmt: skip
    return Finding("database-ahead", source.shown(Path(script.dir)), heads, values)


def count(found: Compatibility) -> str:
    """By how many revisions."""
    if found.state == "unknown" and any(not one.parents and one.phase is None for one in found.ahead):
        return "by how many revisions is not recorded"
    number = len(found.ahead)
    return (
        f"it is {number} revision{'' if number == 1 else 's'} ahead of this build ({', '.join(found.build) or 'base'})"
    )


def meaning(found: Compatibility) -> str:
    """What that is to an application of this build."""
    if found.state == "newer_additive":
        return "they take nothing away, so it runs on"
    if found.state == "newer_breaking":
        gone = ", ".join(one.revision for one in found.ahead if one.phase == "contract")
        return f"{gone} takes away what releases before it use, so it is not to run on this database"
    if found.state == "diverged":
        lacks = ", ".join(one.revision for one in found.missing)
        return f"the database lacks {lacks} of this build, so these are two histories, and it is not to run on this one"
    return "nobody has recorded what they all do, so nobody can say whether it runs on"


def command(found: Compatibility) -> str:
    """What to type next."""
    return f"{compatible.deploy(found.ahead)}; or make migrate-recover VERSION={found.ahead[0].revision}"
