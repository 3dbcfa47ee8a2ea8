"""Whether an application may start on a database: does the schema there fit the one that this build was written for?

Told by the revisions that this build knows, the version table, and the phases that the guard keeps of applied revisions, also
of those that this build has never seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mcp_planner_schema.compatible import chain
from mcp_planner_schema.compatible.chain import Revision

if TYPE_CHECKING:
    from sqlalchemy import Connection

State = Literal["exact", "contract_pending", "newer_additive", "newer_breaking", "too_old", "diverged", "unknown"]
MAY_START = ("exact", "contract_pending", "newer_additive")


@dataclass(frozen=True)
class Compatibility:
    """The answer. ``missing`` are revisions of this build that the database lacks, ``ahead`` those that only it has, each in
    the order they run. ``database`` and ``build`` are the heads of both, ``text`` says it all for people.

    - ``exact``: the same.
    - ``contract_pending``: what the database lacks only takes away what older releases use; it waits until none runs.
    - ``newer_additive``: ahead, by revisions that take nothing away.
    - ``newer_breaking``: ahead, and one of those is a contract: something that this build may use is gone.
    - ``too_old``: the database lacks what this build needs.
    - ``diverged``: it lacks revisions of this build and has others.
    - ``unknown``: it is ahead, and nobody has said of all of these which phase they are of; or it may not be read.
    """

    state: State
    database: tuple[str, ...]
    build: tuple[str, ...]
    missing: tuple[Revision, ...]
    ahead: tuple[Revision, ...]
    text: str

    @property
    def ok(self) -> bool:
        """Whether an application of this build may start."""
        return self.state in MAY_START

    def require(self) -> Compatibility:
        """This answer where the application may start. Raises :class:`Incompatible` else."""
        if not self.ok:
            raise Incompatible(self)
        return self


class Incompatible(RuntimeError):
    """The database does not fit this build. ``found`` is the answer."""

    def __init__(self, found: Compatibility) -> None:
        super().__init__(found.text)
        self.found = found


def check_compatible(
    connection: Connection,
    *,
    script_directory: str | Path | None = None,
    revisions: Iterable[Revision] | None = None,
    version_table: str = "alembic_version",
    version_table_schema: str | None = None,
    guard_schema: str = "migration",
) -> Compatibility:
    """Compare the database with this build. Two small queries, a third where the database is ahead.

    ``connection`` is SQLAlchemy's own, of any driver for PostgreSQL (``await connection.run_sync(check_compatible)`` where it
    is asynchronous). It is read only; a transaction of the caller's stays as it is, and no setting is changed. What is asked
    that the role may not read makes the answer ``unknown``, not an error.

    This build's revisions are MCP-Planner's, as they were when the package was made. Another Alembic project names its
    ``script_directory`` (read as text, not imported), or gives ``revisions``.
    """
    known = _known(script_directory, revisions)
    found = chain.read(connection, known, version_table, version_table_schema, guard_schema)
    return compare(known, found)


def compare(known: Mapping[str, Revision], found: chain.Database) -> Compatibility:
    """What the database's answer means to a build with these revisions. Asks nobody."""
    build = heads_of(known)
    if found.heads is None:
        why = "this role may not read the version table: GRANT SELECT ON alembic_version TO …"
        return Compatibility("unknown", (), build, (), (), f"Whether the database fits cannot be said: {why}")
    every = {**found.stored, **known}
    applied, unknown = chain.ancestors(found.heads, every)
    # Where the way down from a head ends in the dark, nobody can say what is missing.
    wanted = () if unknown else chain.ancestors(build, known)[0]
    missing = tuple(known[one] for one in wanted if one in known and one not in applied)
    ahead = tuple(every.get(one, Revision(one)) for one in applied if one not in known)
    state = _state(missing, ahead, unknown=bool(unknown))
    text = _text(state, found, build, missing, ahead)
    return Compatibility(state, found.heads, build, missing, ahead, text)


def heads_of(known: Mapping[str, Revision]) -> tuple[str, ...]:
    """The revisions that none of these come after."""
    parents = {parent for one in known.values() for parent in one.parents}
    return tuple(sorted(set(known) - parents))


def listed(revisions: Iterable[Revision]) -> str:
    """Revisions for people, one a line."""
    return "\n".join(
        f"  {one.revision}  {one.description or '(nobody has said what it is)'}  [{one.phase or 'phase unknown'}]"
        for one in revisions
    )


def _known(script_directory: str | Path | None, revisions: Iterable[Revision] | None) -> dict[str, Revision]:
    if revisions is not None:
        return {one.revision: one for one in revisions}
    if script_directory is not None:
        return chain.of_folder(script_directory)
    from mcp_planner_schema.compatible import known

    return {one[0]: Revision(*one) for one in known.REVISIONS}


def _state(missing: tuple[Revision, ...], ahead: tuple[Revision, ...], *, unknown: bool) -> State:
    later = bool(missing) and all(one.phase == "contract" for one in missing)
    if ahead and missing:
        return "diverged"
    if missing:
        return "contract_pending" if later else "too_old"
    if not ahead:
        return "exact"
    if any(one.phase == "contract" for one in ahead):
        return "newer_breaking"
    return "unknown" if unknown or any(one.phase is None for one in ahead) else "newer_additive"


def _text(
    state: State,
    found: chain.Database,
    build: tuple[str, ...],
    missing: tuple[Revision, ...],
    ahead: tuple[Revision, ...],
) -> str:
    here, there = f"The database is at {', '.join(found.heads or ()) or 'base'}", ", ".join(build) or "base"
    more = f"{here}, {_count(ahead)} ahead of this build ({there}):\n{listed(ahead)}\n"
    if state == "exact":
        return f"{here}, as this build expects."
    if state == "contract_pending":
        return (
            f"{here}. What is left of this build only takes away what older releases use, and waits until none of them runs:\n"
            f"{listed(missing)}\nStart."
        )
    if state == "too_old":
        return f"{here}; this build needs {_count(missing)} more:\n{listed(missing)}\nDo not start. next: alembic upgrade head"
    if state == "diverged":
        return (
            f"{more}and it lacks {_count(missing)} of this build:\n{listed(missing)}\nDo not start: these are two histories. "
            "next: make migrate-status"
        )
    if state == "newer_additive":
        return f"{more}They take nothing away that this build uses. Start."
    if state == "newer_breaking":
        gone = ", ".join(one.revision for one in ahead if one.phase == "contract")
        return f"{more}{gone} takes away what releases before it use. Do not start. next: {deploy(ahead)}"
    why = (
        "The guard's record of them may not be read by this role (GRANT USAGE ON SCHEMA …; GRANT SELECT ON ….revision)."
    )
    if not found.hidden:
        why = "Nobody has recorded which phase all of them are of."
    return f"{more}{why} Whether this build fits cannot be said. Do not start. next: {deploy(ahead)}"


def deploy(ahead: tuple[Revision, ...]) -> str:
    """Which build has these revisions, as far as that is recorded."""
    commit = next((one.git_commit for one in reversed(ahead) if one.git_commit), None)
    return f"deploy a build of commit {commit[:12]} or later" if commit else "deploy the build that has them"


def _count(revisions: tuple[Revision, ...]) -> str:
    return f"{len(revisions)} revision{'' if len(revisions) == 1 else 's'}"
