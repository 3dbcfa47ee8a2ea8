"""The history as a whole: two heads, duplicates, missing parents and cycles, told apart with the files they stand in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import body, edits, header, judge, source
from mcp_planner_schema.guard.findings import Finding, refuse
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection


def explain(script: Any, settings: Settings, heads: tuple[str, ...], repeat: str) -> None:
    """Raise :class:`Refused` if the files themselves are the reason why the history cannot be used. Imports none of them.

    ``heads`` are the database's, for the message about a revision that this folder does not have; ``repeat`` is the command
    to type again.
    """
    refuse(problems(script, settings, heads), f"correct what they name, then {repeat}")


def problems(script: Any, settings: Settings, heads: tuple[str, ...] = ()) -> list[Finding]:
    """Unreadable files, ids used twice, parents that do not exist, cycles, several heads (with ``headers = required``)."""
    unreadable: list[Finding] = []
    by_id: dict[str, list[tuple[Path, body.Identity]]] = {}
    unnamed = False
    for path in judge.files(script):
        read = source.read(path)
        if isinstance(read, Finding):
            unreadable.append(read)
            continue
        identity = body.identity(read)
        unnamed = unnamed or identity.revision is None
        if identity.revision is not None:
            by_id.setdefault(identity.revision, []).append((path, identity))
    if unreadable:
        return unreadable
    found = _twice(by_id)
    # A file whose id is no literal may be the one that seems to be missing; Alembic will say.
    if not unnamed:
        found += _orphans(by_id)
    parents = {revision: places[0][1].parents for revision, places in by_id.items()}
    cycle = _cycle(parents)
    if cycle:
        path = by_id[cycle[0]][0][0]
        members = ", ".join(_by(by_id[revision][0][0]) for revision in cycle)
        problem = f"the revisions {' -> '.join([*cycle, cycle[0]])} each come after the other: {members}"
        if len(cycle) == 1:
            problem = f"revision {cycle[0]} names itself as its parent: {members}"
        found.append(_broken(path, cycle[0], problem, "correct the down_revision that was changed last"))
    tips = sorted(set(parents) - {parent for names in parents.values() for parent in names})
    if settings.headers == "required" and len(tips) > 1 and not found:
        files = ", ".join(_by(by_id[tip][0][0]) for tip in tips)
        cure = (
            f"make {tips[-1]} follow {tips[-2]}: down_revision = {tips[-2]!r}, Dependencies: {tips[-2]}, as "
            f"make migrate-rebase VERSION={tips[-1]} ONTO={tips[-2]} does while no database has applied it; where some have "
            "applied the one and some the other: alembic merge heads"
        )
        found.append(_broken(by_id[tips[-1]][0][0], tips[-1], f"it has {len(tips)} heads: {files}", cure))
    for head in heads:
        if head not in by_id and not unnamed:
            values = {
                "problem": f"the database is at {head}, which no file here has",
                "instead": "deploy the build that has it; or bring its file back from what the database has kept, and read it: "
                f"make migrate-recover VERSION={head}",
            }
            found.append(Finding("graph-broken", source.shown(Path(script.dir)), head, values))
    return found


def tips(script: Any) -> list[str]:
    """The files that no other comes after, with their authors."""
    read = [one for path in judge.files(script) if not isinstance(one := source.read(path), Finding)]
    identities = [(one, body.identity(one)) for one in read]
    parents = {parent for _, identity in identities for parent in identity.parents}
    return [_by(one.path) for one, identity in identities if identity.revision and identity.revision not in parents]


def _twice(by_id: Mapping[str, Sequence[tuple[Path, body.Identity]]]) -> list[Finding]:
    return [
        _broken(places[-1][0], revision,
                f"revision {revision} stands in " + " and ".join(_by(path) for path, _ in places),
                f"give the younger one a number of its own, and Dependencies: {revision}, as "
                f"make migrate-rebase VERSION={places[-1][0].stem} does")
        for revision, places in by_id.items()
        if len(places) > 1
    ]  # fmt: skip


def _orphans(by_id: Mapping[str, Sequence[tuple[Path, body.Identity]]]) -> list[Finding]:
    labels = {label for places in by_id.values() for _, identity in places for label in identity.labels}
    return [
        _broken(path, revision, f"its parent {parent} is in no file; {_by(path)} names it",
                f"bring the file of {parent} back (from git, or where a database has applied it: "
                f"make migrate-recover VERSION={parent}), or correct down_revision")
        for revision, places in by_id.items()
        for path, identity in places
        for parent in identity.parents
        if parent not in by_id and not (parent in labels and parent in identity.depends_on)
    ]  # fmt: skip


def edited(
    script: Any, settings: Settings, connection: Connection, version_table: str, heads: tuple[str, ...]
) -> list[Finding]:
    """Revisions applied at ``heads`` whose file says something else than what was run, but for those that waive it."""
    found: list[Finding] = []
    for one in edits.read(script, settings, connection, version_table, heads):
        judged = judge.judge(
            one.source.path, settings, sql=judge.sql_folder(script), required=False, today=judge.today()
        )
        if not (judged.header and judged.header.waives("applied-edited", judge.today())):
            found.append(one.finding(settings.schema))
    return found


def _by(path: Path) -> str:
    """A file and its author, as far as its header names one."""
    read = source.read(path)
    if isinstance(read, Finding) or not header.has_header(read, required=False):
        return source.shown(path)
    author = header.parse(read, judge.today(), {})[0].author
    return f"{source.shown(path)} ({author})" if author else source.shown(path)


def _broken(path: Path, revision: str, problem: str, instead: str) -> Finding:
    """At the line that places the file in the history."""
    read = source.read(path)
    line = 1 if isinstance(read, Finding) else body.place(read, "down_revision")
    values = {"problem": problem, "instead": instead}
    return Finding("graph-broken", f"{source.shown(path)}:{line}", revision, values)


def _cycle(parents: dict[str, tuple[str, ...]]) -> list[str]:
    """One cycle, if there is any: take away revisions whose parents are gone until none can be; the rest holds it."""
    left = {revision: set(names) & set(parents) for revision, names in parents.items()}
    while True:
        free = [revision for revision, names in left.items() if not names]
        if not free:
            break
        for revision in free:
            del left[revision]
        for names in left.values():
            names.difference_update(free)
    if not left:
        return []
    path, current = [], next(iter(left))
    while current not in path:
        path.append(current)
        current = next(iter(left[current]))
    return path[path.index(current) :]
