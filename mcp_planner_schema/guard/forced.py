"""What has to be so before only the version is moved (``migrate-force``, ``alembic stamp``), and nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import catalog_change, connect, fingerprint
from mcp_planner_schema.guard.findings import Broken, Finding, GuardError, WrongUse, refuse
from mcp_planner_schema.guard.fingerprint import Lines, stored
from mcp_planner_schema.guard.given import dots
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.progress import Progress

_MOVED = """
SELECT h.direction, h.revision, h.who, h.finished_at::date::text AS day FROM {schema}.history h
JOIN {schema}.run r ON r.id = h.run_id
WHERE r.version_table = %s AND h.outcome IN ('done', 'skipped') AND h.direction IN ('upgrade', 'downgrade', 'stamp')
ORDER BY h.id DESC LIMIT 1
"""
_SHOWN = 12
"""Lines of what differs that are shown: of a version far away it is everything."""


def require(
    connection: Connection, settings: Settings, script: Any, destination: Sequence[str], reason: str | None,
    version_table: str,
) -> None:  # fmt: skip
    """Raise :class:`Refused` where the version may not be moved to ``destination`` (revisions, or ``base``).

    That takes a reason, or a database that is what the revisions up to there make of it; where the history has no fingerprints
    to tell that by, a reason in staging and production. ``connection`` is under the deployers' lock; ``script`` is Alembic's
    folder, ``version_table`` as the guard's rows name it.
    """
    if reason:
        return
    revision = ", ".join(destination)
    if catalog_change.kept(script):
        found = _lines(connection, settings, version_table)
        told = _differing(script, destination, found)
        if told:
            more = [f"… and {len(told) - _SHOWN} lines more"] if len(told) > _SHOWN else []
            matched = catalog_change.matching(script, found)
            values = {
                "revision": revision, "differences": "\n".join([*told[:_SHOWN], *more]),
                "match": " and ".join(matched) or "no revision here",
            }  # fmt: skip
            refuse([Finding("stamp-differs", "alembic", revision, values)], next_of(matched))
        return
    if not settings.rules.explains:
        return
    values = {"environment": settings.environment, "revision": revision}
    refuse(
        [Finding("stamp-unexplained", "alembic", revision, values)], f'make migrate-force VERSION={revision} REASON="…"'
    )


def _lines(connection: Connection, settings: Settings, version_table: str) -> Lines:
    with connect.opened(connection.engine, autocommit=True) as asking:
        without = fingerprint.without(asking, settings.schema, version_table)
        return fingerprint.together(fingerprint.at_once(asking, settings.schema, without=without))


def _differing(script: Any, destination: Sequence[str], found: Lines) -> list[str]:
    heads = [one for one in destination if one != "base"]
    applied = catalog_change.chain(script, heads)
    there = stored.fingerprints(script.dir)
    unknown = [one for one in applied if one not in there]
    if unknown:
        return [f"nothing is stored of what revision {unknown[0]} makes of the catalog"]
    return catalog_change.differing(script, heads, found)


def next_of(matched: Sequence[str]) -> str:
    """What to type where the catalog matches these versions. One that changes only rows looks like the one before it."""
    if len(matched) == 1:
        return f"make migrate-force VERSION={matched[0]}"
    if matched:
        return f"make migrate-history   (which of {' and '.join(matched)} has run), then make migrate-force VERSION=…"
    return "make migrate-drift   (whether the database is what its own version says)"


def another(
    connection: Connection, settings: Settings, script: Any, heads: Sequence[str], version_table: str
) -> list[str]:
    """The versions that the catalog does match, where none is that of ``heads``; none where one is, or it matches nothing.

    Nor where one follows ``heads`` at once: a step that has committed its part of the catalog and not yet its rows looks so.
    """
    if not catalog_change.kept(script):
        return []
    matched = catalog_change.matching(script, _lines(connection, settings, version_table))
    here = set(heads or ["base"])
    near = {one.revision for one in script.walk_revisions() if here & set(one._versioned_down_revisions or ["base"])}
    return [] if (here | near) & set(matched) else matched


def reminded(
    connection: Connection, settings: Settings, script: Any, at: Progress, heads: Sequence[str], version_table: str,
    error: GuardError,
) -> GuardError:  # fmt: skip
    """The error of a step behind ``heads``; where the database is at another version, it is not the file that is wrong."""
    if not isinstance(error, Broken) or "correct " not in error.next_command:
        return error
    if not at.committed and (matched := another(connection, settings, script, heads, version_table)):
        return Broken(
            f"{error.message}\nThe database is what the revisions up to {' or '.join(matched)} make of it, and the version says "
            f"{', '.join(heads) or 'base'}: it is the version that is wrong, and not the file.",
            next_of(matched),
        )
    moved = connection.exec_driver_sql(_MOVED.format(schema=settings.schema), (version_table,)).first()
    if moved is None or moved.direction != "stamp":
        return error
    return Broken(
        f"{error.message}\nThe version was moved by hand before this, to {moved.revision} on {moved.day} by {moved.who}, and "
        "nothing was run for it: where the database is not at that version, it is not the file that is wrong.",
        f"make migrate-drift   (whether the database is what {moved.revision} makes of it); if it is: {error.next_command}",
    )


def reason(context: Any) -> str | None:
    """Why a version is moved: ``config.attributes["reason"]``, or ``-x reason="…"``; None where nobody says."""
    given = str(
        context.config.attributes.get("reason") or context.get_x_argument(as_dictionary=True).get("reason") or ""
    )
    if dots(given):
        raise WrongUse(
            f"The reason is {given!r}, which stands for one and is none.", 'alembic -x reason="why it is so" …'
        )
    return given.strip() or None
