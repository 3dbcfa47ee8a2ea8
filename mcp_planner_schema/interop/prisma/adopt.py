"""``make migrate-adopt FROM=prisma``: a database that Prisma Migrate has migrated goes on under the guard.

Its rows say which migrations have been run to their end, each revision says which one it came from, and the catalog has to be
what the revisions up to there make. Then the version is stamped, under the deployers' lock and Prisma's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import catalog_change, connect, settings, version_table
from mcp_planner_schema.guard.findings import Busy, Finding, Refused
from mcp_planner_schema.guard.fingerprint import Lines
from mcp_planner_schema.interop import adopted, takeover
from mcp_planner_schema.interop import table as tables
from mcp_planner_schema.interop.prisma import half, rows, standing
from mcp_planner_schema.interop.prisma.places import places
from mcp_planner_schema.interop.prisma.rows import Row
from mcp_planner_schema.interop.prisma.standing import Standing

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

COMMAND = "make migrate-adopt FROM=prisma"
_AT_WORK = "Prisma Migrate is at work in this database. Nothing was changed."


def adopt(config: Config, *, table: str = rows.TABLE, at: str | None = None, reason: str | None = None) -> list[str]:
    """Take the database over; gives lines for people.

    ``at`` is the revision that it stands at, where Prisma's rows cannot say so (a failed one, a gap). Raises :class:`Broken`
    where a migration is half done, :class:`Refused` where a checksum, a row or the catalog is another one and no ``reason`` is
    given; then nothing is changed.
    """
    from mcp_planner_schema.inspect import route, status

    given, own = settings.load(config), version_table.of(config)
    with status.connected(config) as (connection, _), route.history(config, given, ()) as script:
        if tables.is_held(connection, rows.LOCK):
            raise Busy(_AT_WORK, COMMAND)
        heads, line = version_table.heads(connection, own), places(script)
        tables.refuse_foreign(connection, given.schema, table, COMMAND)
        attempts = rows.read(connection, table)
        applied = catalog_change.chain(script, heads)
        found = takeover.catalog(connection, given, own.shown, table)
        here = standing.read(line, attempts, applied)
        if at is None and here.failed:
            raise half.done(script, here, table, found, COMMAND, given)
        if at is None:
            standing.require_no_gap(here, table, applied, COMMAND)
        place = takeover.named(line, at, COMMAND) if at else here.place
    revision = place.revision if place else "base"
    again = f"{COMMAND}{f' AT={at}' if at else ''}"
    _require(script, here, revision, found, reason, again)
    failed, resolved = _resolved(here, revision)
    said = f"adopted from prisma: {table} said {here}"

    def record(ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
        if not tables.takes(ctx.connection, rows.LOCK):
            raise Busy(_AT_WORK, COMMAND)
        tables.refuse_foreign(ctx.connection, given.schema, table, COMMAND)
        if rows.read(ctx.connection, table) != attempts:
            raise Busy(f"{table} has changed meanwhile. Nothing was changed here.", COMMAND)
        with connect.opened(ctx.connection.engine) as fresh:
            now = takeover.catalog(fresh, given, own.shown, table)
            fresh.rollback()
        _require(script, here, revision, now, reason, again)
        adopted.remember(
            ctx.connection, given.schema, own.shown, tool="prisma", relation=tables.full_name(ctx.connection, table),
            keep=False, version=getattr(place, "name", None), revision=revision,
        )  # fmt: skip
        rows.resolve(ctx.connection, table, failed, resolved)

    told = standing.differences(here, revision) if reason else []
    takeover.write(
        config, given, own, heads, revision, "; ".join(filter(None, [said, *told, reason])), record, tool="prisma",
        command=COMMAND,
    )  # fmt: skip
    lines = [f"{said}; the database is at {revision}"]
    for row in failed:
        lines.append(f"{table} says of {row.name} that it was {'applied' if row in resolved else 'rolled back'}, now")
    return lines


def _require(
    script: ScriptDirectory, here: Standing, revision: str, found: Lines, reason: str | None, again: str
) -> None:
    if reason:
        return
    told = standing.differences(here, revision)
    if told:
        values = {"tool": "Prisma", "differences": "\n".join(told)}
        raise Refused([Finding("adopted-otherwise", "alembic", revision, values)], f'{again} REASON="…"')
    takeover.require(script, here.line, revision, found, again)


def _resolved(here: Standing, revision: str) -> tuple[Sequence[Row], Sequence[Row]]:
    """The attempts that had failed, and those of them whose revision the database has."""
    names = [place.revision for place in here.line]
    upto = {place.name for place in here.line[: names.index(revision) + 1]} if revision in names else set()
    return here.failed, [row for row in here.failed if row.name in upto]
