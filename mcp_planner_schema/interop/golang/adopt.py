"""``make migrate-adopt FROM=golang-migrate``: a database that golang-migrate has migrated goes on under the guard.

Its row says the version, the folder says which revision that is, and the catalog has to be what the revisions up to there make.
Then the version is stamped, under the deployers' lock and golang-migrate's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import connect, settings, version_table
from mcp_planner_schema.guard.findings import Busy, WrongUse
from mcp_planner_schema.guard.fingerprint import Lines
from mcp_planner_schema.interop import adopted, takeover
from mcp_planner_schema.interop import table as tables
from mcp_planner_schema.interop.golang import half, keep, versions
from mcp_planner_schema.interop.golang import row as rows
from mcp_planner_schema.interop.golang.row import Row
from mcp_planner_schema.interop.golang.versions import Place

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    from mcp_planner_schema.guard.settings import Settings

COMMAND = "make migrate-adopt FROM=golang-migrate"


def adopt(
    config: Config, *, table: str = rows.TABLE, at: str | None = None, keeping: bool = False, reason: str | None = None
) -> list[str]:
    """Take the database over; gives lines for people.

    ``at`` is the revision that it stands at, where golang-migrate's row cannot say so (dirty). ``keeping``: its row is kept in
    step from now on. Raises :class:`Broken` where a file is half done, :class:`Refused` where the catalog is another one and
    no ``reason`` is given; then nothing is changed.
    """
    from mcp_planner_schema.inspect import route, status

    given = settings.load(config)
    if keeping and keep.NAME not in given.on_version_apply:
        raise WrongUse(
            "KEEP=1 needs the guard to call what keeps the row, with every run of everybody.",
            f"write on_version_apply = {keep.NAME} below [guard] in alembic.ini, then {COMMAND} KEEP=1",
        )
    own = version_table.of(config)
    with status.connected(config) as (connection, _), route.history(config, given, ()) as script:
        tables.refuse_foreign(connection, given.schema, table, COMMAND)
        row, heads, line = rows.read(connection, table), version_table.heads(connection, own), versions.places(script)
        found = takeover.catalog(connection, given, own.shown, table)
        place = takeover.named(line, at, COMMAND) if at else _at(script, line, table, row, found, given)
    revision = place.revision if place else "base"
    version = place.version if place else None
    _require(script, line, revision, found, reason, at)
    said = f"adopted from golang-migrate: {table} said {row}"

    def record(ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
        rows.alone(ctx.connection, rows.locks(ctx.connection, table), COMMAND)
        tables.refuse_foreign(ctx.connection, given.schema, table, COMMAND)
        if rows.read(ctx.connection, table) != row:
            raise Busy(f"{table} has changed meanwhile. Nothing was changed here.", COMMAND)
        with connect.opened(ctx.connection.engine) as fresh:
            now = takeover.catalog(fresh, given, own.shown, table)
            fresh.rollback()
        _require(script, line, revision, now, reason, at)
        full = tables.full_name(ctx.connection, table)
        adopted.remember(
            ctx.connection, given.schema, own.shown, tool="golang-migrate", relation=full, keep=keeping,
            version=None if row.version is None else str(row.version), revision=revision,
        )  # fmt: skip
        if keeping or row.dirty:
            rows.set_to(ctx.connection, table, version)

    full_said = f"{said}; {reason}" if reason else said
    takeover.write(config, given, own, heads, revision, full_said, record, tool="golang-migrate", command=COMMAND)
    lines = [f"{said}; the database is at {revision}"]
    if keeping:
        lines.append(
            f"{table} is kept in step from now on: each upgrade and downgrade writes it in its own transaction"
        )
    elif row.dirty:
        lines.append(f"{table} says version {version}, clean, now")
    return lines


def _at(
    script: ScriptDirectory, line: list[Place], table: str, row: Row, found: Lines, given: Settings
) -> Place | None:
    try:
        count, between = versions.at(line, row.version)
    except KeyError:
        known = ", ".join(str(place.version) for place in line[-3:]) or "none"
        raise WrongUse(
            f"{table} says {row}, and no revision here has that version (the last are {known}).",
            "make migrate-import FROM=golang-migrate DIR=…   (the folder that this database was migrated with)",
        ) from None
    if row.dirty or between:
        raise half.done(script, line, table, row, found, given)
    return line[count - 1] if count else None


def _require(
    script: ScriptDirectory, line: Sequence[Place], revision: str, found: Lines, reason: str | None, at: str | None
) -> None:
    if not reason:
        takeover.require(script, line, revision, found, f"{COMMAND}{f' AT={at}' if at else ''}")
