"""``make migrate-adopt FROM=golang-migrate``: a database that golang-migrate has migrated goes on under the guard.

Its row says the version, the folder says which revision that is, and the catalog has to be what the revisions up to there make.
Then the version is stamped, under the deployers' lock and golang-migrate's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import catalog_change, connect, fingerprint, settings, version_table
from mcp_planner_schema.guard.findings import Busy, Finding, Refused, WrongUse
from mcp_planner_schema.guard.fingerprint import Lines, stored
from mcp_planner_schema.interop.golang import half, keep, versions
from mcp_planner_schema.interop.golang import row as rows
from mcp_planner_schema.interop.golang.row import Row
from mcp_planner_schema.interop.golang.versions import Place

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.settings import Settings
    from mcp_planner_schema.guard.version_table import VersionTable

COMMAND = "make migrate-adopt FROM=golang-migrate"
_SHOWN = 12


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
        row, heads, line = rows.read(connection, table), version_table.heads(connection, own), versions.places(script)
        found = _catalog(connection, given, own.shown, table)
        place = _named(line, at) if at else _at(script, line, table, row, found, given)
    revision = place.revision if place else "base"
    version = place.version if place else None
    _require(script, line, revision, found, reason, at)
    said = f"adopted from golang-migrate: {table} said {row}"

    def record(ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
        rows.alone(ctx.connection, rows.locks(ctx.connection, table), COMMAND)
        if rows.read(ctx.connection, table) != row:
            raise Busy(f"{table} has changed meanwhile. Nothing was changed here.", COMMAND)
        with connect.opened(ctx.connection.engine) as fresh:
            now = _catalog(fresh, given, own.shown, table)
            fresh.rollback()
        _require(script, line, revision, now, reason, at)
        full = rows.full_name(ctx.connection, table)
        keep.remember(
            ctx.connection, given.schema, own.shown, full, keep=keeping, version=row.version, revision=revision
        )
        if keeping or row.dirty:
            rows.set_to(ctx.connection, table, version)

    if tuple(heads) == ((revision,) if place else ()):
        _alone(given, own, record, config.attributes.get("confirm"))
    else:
        _stamp(config, revision, f"{said}; {reason}" if reason else said, record)
    lines = [f"{said}; the database is at {revision}"]
    if keeping:
        lines.append(
            f"{table} is kept in step from now on: each upgrade and downgrade writes it in its own transaction"
        )
    elif row.dirty:
        lines.append(f"{table} says version {version}, clean, now")
    return lines


def _catalog(connection: Connection, given: Settings, *without: str) -> Lines:
    return fingerprint.together(fingerprint.read(connection, given.schema, without=without))


def _named(line: Sequence[Place], at: str) -> Place | None:
    if at == "base":
        return None
    found = next((place for place in line if place.revision == at), None)
    if found is None:
        raise WrongUse(f"There is no revision {at}.", f"{COMMAND} AT={line[-1].revision if line else 'base'}")
    return found


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
    if reason:
        return
    again = f"{COMMAND}{f' AT={at}' if at else ''}"
    if not catalog_change.kept(script):
        raise WrongUse(
            "Nothing is stored of what the revisions make of the catalog, so nobody can say whether this database is what they "
            "make.",
            f"make migrate-fingerprint VERSION=all   (and commit what it writes), then {again}",
        )
    names = [place.revision for place in line]
    applied = names[: names.index(revision) + 1] if revision != "base" else []
    wanted = stored.expected(script.dir, applied)
    told = fingerprint.difference(fingerprint.structure(wanted), fingerprint.structure(found))
    if not told:
        return
    more = [f"… and {len(told) - _SHOWN} lines more"] if len(told) > _SHOWN else []
    match = " and ".join(catalog_change.matching(script, found)) or "no revision here"
    values = {"revision": revision, "differences": "\n".join([*told[:_SHOWN], *more]), "match": match}
    raise Refused([Finding("stamp-differs", "alembic", revision, values)], f'{again} REASON="…"')


def _stamp(config: Config, revision: str, reason: str, record: Any) -> None:
    from alembic import command

    config.attributes.update(reason=reason, on_version_apply=record)
    try:
        command.stamp(config, revision)
    finally:
        config.attributes.pop("on_version_apply")


def _alone(given: Settings, own: VersionTable, record: Any, confirm: Any) -> None:
    """The version is right already: only what is remembered changes, under the deployers' lock as well."""
    from types import SimpleNamespace

    from mcp_planner_schema.guard import banner, deploy_lock, history, marker
    from mcp_planner_schema.guard.saying import say

    engine = connect.engine(connect.url(given), "mcp-planner-guard adopt")
    with connect.opened(engine, autocommit=True) as beside:
        banner.confirmed(beside, given, confirm, "golang-migrate's row would be taken over", COMMAND)
        lock = deploy_lock.of(beside, own.name, own.schema)
        with deploy_lock.held(engine, lock, given.deploy_lock_timeout, say, COMMAND):
            marker.require(beside, given, banner.place(beside))
            history.prepare(beside, given.schema)
            with connect.opened(engine) as connection:
                record(SimpleNamespace(connection=connection), None, (), {})
                connection.commit()
