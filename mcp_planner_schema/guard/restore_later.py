"""Gives a stash back when its revision has been applied already: by ``migrate-restore``, in one transaction."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import alone, budget, manifest, restore
from mcp_planner_schema.guard.findings import Broken, Finding, Refused, WrongUse
from mcp_planner_schema.guard.manifest import Stash

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script
    from sqlalchemy import Connection

WAITING = ("kept", "partly restored")

_NOT_LET_IN = ("23502", "23514")
"""SQLSTATEs of a row without a value that it must have, and of one that a check refuses."""


def give_back(config: Config, version: str, number: int | None, file: Path | None = None, *, dry: bool) -> list[str]:
    """Put back what the stash holds and has a free place. Gives lines for people.

    Of a revision's stashes the newest that waits, unless ``number`` names one; with ``file`` the rows are taken from that
    archive. Rows written meanwhile stay. ``dry`` does all of it and rolls it back. Raises :class:`Refused` where nothing can
    go back, :class:`WrongUse` for what is no revision.
    """
    from mcp_planner_schema.guard import connect

    with alone.deploying(config) as here:
        script, applied = _revisions(config, here, version)
        revision = script.revision
        budgets = budget.of_revision(here.settings.budgets, _own(script))
        if file is not None:
            from mcp_planner_schema.guard import restore_archive

            if revision not in applied:
                raise _not_applied(revision, "go up to it first; what is then still missing can come from the archive")
            return restore_archive.give_back(here, revision, budgets, number, file, dry=dry)
        with connect.opened(here.engine) as connection:
            stash = _chosen(connection, here, revision, number)
        if revision not in applied:
            raise _not_applied(revision, "go up to it: the upgrade itself gives them back")

        def back(connection: Connection) -> list[str]:
            again = _chosen(connection, here, revision, stash.id)
            return restore.later(connection, here.settings.schema, again, here.origin.who, dry=dry)

        try:
            if dry:
                return alone.attempt(here, budgets, back, final=False)
            with alone.told(here):
                return alone.attempt(here, budgets, back)
        except Broken as error:
            raise _explained(error, revision, here.heads) from error


def _explained(error: Broken, revision: str, heads: Sequence[str]) -> Broken:
    """Where a later revision asks of the rows what they did not have, the way that its upgrade goes for them."""
    code = getattr(getattr(error.__cause__, "orig", None), "pgcode", None)
    if code not in _NOT_LET_IN or revision in heads:
        return error
    return Broken(
        f"{error.message}\nA later revision asks of these rows what they did not have when they were kept, and it is its "
        f"upgrade that gives it to them: go back to {revision}, give them back there (make migrate-restore VERSION={revision}), "
        "and go up again.",
        f"make migrate-down TO={revision}",
    )


def _revisions(config: Config, here: alone.Alone, version: str) -> tuple[Script, set[str]]:
    """The revision that is meant, and all that are applied. Imports the folder's revisions."""
    from alembic.script import ScriptDirectory

    from mcp_planner_schema.guard import graph, plan

    folder = ScriptDirectory.from_config(config)
    graph.explain(folder, here.settings, here.heads, here.repeat)
    with plan.explained(folder, here.settings, here.heads, here.repeat):
        every = {one.revision: one for one in folder.walk_revisions()}
        applied = {one.revision for one in folder.iterate_revisions(here.heads, "base")} if here.heads else set()
    if version not in every:
        names = sorted(every)
        raise WrongUse(
            f"There is no revision {version}. There are {', '.join(names[:3])} … {names[-1]}." if names
            else f"There is no revision {version}.", "make migrate-stash-list   (names the revision of each stash)",
        )  # fmt: skip
    return every[version], applied


def _own(script: Script) -> dict[str, int]:
    """The revision's own budgets: what it may take for its rows going in, it may take for their coming back."""
    from pathlib import Path

    from mcp_planner_schema.guard import body, source

    found = source.read(Path(script.path))
    return body.budgets(found) if isinstance(found, source.Source) else {}


def _chosen(connection: Connection, here: alone.Alone, revision: str, number: int | None) -> Stash:
    schema, listed = here.settings.schema, "make migrate-stash-list"
    if number is not None:
        stash = manifest.find(connection, schema, number)
        if stash.revision != revision:
            raise WrongUse(
                f"Stash {number} is of revision {stash.revision}, not of {revision}.",
                f"make migrate-restore VERSION={stash.revision} ID={number}",
            )
        if stash.direction == "upgrade":
            problem, instead = "it is what a backfill has overwritten", "go back: the downgrade itself gives it back"
            raise refused(revision, problem, instead, listed)
        if stash.state in WAITING:
            return stash
        if stash.state == "purged" and stash.archive:
            raise _archived(stash)
        problem = {"purged": "its rows were deleted for good", "restored": "all of it is back already"}[stash.state]
        instead = "name another stash, if there is one"
        if stash.state == "restored":
            instead += "; where it went again by mistake, docs/6-versioning-and-rollback.md says how it waits once more"
        raise refused(revision, f"stash {number} is {stash.state}: {problem}", instead, listed)
    found: Sequence[Stash] = (
        manifest.read(connection, schema, "s.revision = %s AND s.version_table = %s AND s.direction = 'downgrade'",
                      (revision, here.table.shown)) if manifest.exists(connection, schema) else ()
    )  # fmt: skip
    waits = next((one for one in found if one.state in WAITING), None)
    if waits is None:
        if found and found[0].state == "purged" and found[0].archive:
            raise _archived(found[0])
        raise refused(revision, "no stash of it waits", "see which revisions have one", listed)
    return waits


def _not_applied(revision: str, instead: str) -> Refused:
    problem = "it is not applied, so there is no place for its rows"
    return refused(revision, problem, instead, f"make migrate-up TO={revision}")


def _archived(stash: Stash) -> Refused:
    return refused(
        stash.revision, f"the rows of stash {stash.id} were deleted for good; its manifest names an archive",
        "take them from that file, or from a copy of it that is left",
        f"make migrate-restore VERSION={stash.revision} ARCHIVE={shlex.quote(stash.archive or '')}",
    )  # fmt: skip


def refused(revision: str, problem: str, instead: str, command: str) -> Refused:
    """That nothing of a revision is given back, why, what to do instead, and what to type next."""
    values = {"revision": revision, "problem": problem, "instead": instead}
    return Refused([Finding("restore-impossible", f"revision {revision}", revision, values)], command)
