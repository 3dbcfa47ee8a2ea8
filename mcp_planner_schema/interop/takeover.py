"""A database that another tool has migrated goes on under the guard: compared with the revisions, then stamped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mcp_planner_schema.guard import catalog_change, connect, fingerprint, version_table
from mcp_planner_schema.guard.findings import Busy, Finding, Refused, WrongUse
from mcp_planner_schema.guard.fingerprint import Lines, stored
from mcp_planner_schema.guard.postcheck import identifier
from mcp_planner_schema.interop.half import Place

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.settings import Settings
    from mcp_planner_schema.guard.version_table import VersionTable

_SHOWN = 12
_Place = TypeVar("_Place", bound=Place)


def catalog(connection: Connection, given: Settings, *without: str) -> Lines:
    """The lines of the live catalog, but for these tables."""
    return fingerprint.together(fingerprint.read(connection, given.schema, without=without))


def named(line: Sequence[_Place], at: str, command: str) -> _Place | None:
    """The revision that was named; None for base. Raises :class:`WrongUse` where there is none."""
    if at == "base":
        return None
    found = next((place for place in line if place.revision == at), None)
    if found is None:
        raise WrongUse(f"There is no revision {at}.", f"{command} AT={line[-1].revision if line else 'base'}")
    return found


def require(script: ScriptDirectory, line: Sequence[Place], revision: str, found: Lines, again: str) -> None:
    """Raise :class:`Refused` where the catalog is not what the revisions up to this one make of it."""
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


def write(
    config: Config, given: Settings, own: VersionTable, heads: Sequence[str], revision: str, said: str, record: Any, *,
    tool: str, command: str,
) -> None:  # fmt: skip
    """Set the version, with what ``record`` writes in the same transaction; where it is right already, only that."""
    if tuple(heads) == (() if revision == "base" else (revision,)):
        _alone(given, own, heads, record, config.attributes.get("confirm"), tool, command)
    else:
        _stamp(config, heads, revision, said, record, command)


def _require_same(before: Sequence[str], now: Sequence[str], command: str) -> None:
    """``before`` was read without the deployers' lock: somebody may have adopted the database since then, and gone on."""
    if set(before) != set(now):
        said = f"at {', '.join(before) or 'base'}, and is at {', '.join(now) or 'base'} now"
        raise Busy(f"Somebody has moved the version meanwhile: it was {said}. Nothing was changed here.", command)


def _stamp(config: Config, before: Sequence[str], revision: str, said: str, record: Any, command: str) -> None:
    from alembic import command as alembic

    recorded = []

    def called(ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
        _require_same(before, step.source_revision_ids, command)
        record(ctx, step, heads, run_args)
        recorded.append(step)

    # The guard stamps whatever version it meets under its lock, where it is given a reason.
    config.attributes.update(reason=said, on_version_apply=called)
    try:
        alembic.stamp(config, revision)
    finally:
        config.attributes.pop("on_version_apply")
    if not recorded:  # somebody else has brought the version there, and what is to be remembered is not written
        _require_same(before, () if revision == "base" else (revision,), command)


def _alone(
    given: Settings, own: VersionTable, heads: Sequence[str], record: Any, confirm: Any, tool: str, command: str
) -> None:
    """The version is right already: only what is remembered changes, under the deployers' lock as well."""
    from types import SimpleNamespace

    from mcp_planner_schema.guard import banner, deploy_lock, history, marker
    from mcp_planner_schema.guard.saying import say

    engine = connect.engine(connect.url(given), "mcp-planner-guard adopt")
    with connect.opened(engine, autocommit=True) as beside:
        table = ".".join(identifier(part) for part in (own.schema, own.name) if part)
        history.refuse_foreign(beside, given.schema, table, command)
        banner.confirmed(beside, given, confirm, f"{tool}'s rows would be taken over", command)
        lock = deploy_lock.of(beside, own.name, own.schema)
        with deploy_lock.held(engine, lock, given.deploy_lock_timeout, say, command):
            _require_same(heads, version_table.heads(beside, own), command)
            marker.require(beside, given, banner.place(beside))
            history.prepare(beside, given.schema)
            with connect.opened(engine) as connection:
                record(SimpleNamespace(connection=connection), None, (), {})
                connection.commit()
