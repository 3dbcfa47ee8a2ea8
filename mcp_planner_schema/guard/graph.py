"""The history as a whole: two heads, duplicates, missing parents and cycles, told apart with the files they stand in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import body, history, judge, source
from mcp_planner_schema.guard.findings import Finding, refuse
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection


def explain(script: Any, settings: Settings, heads: tuple[str, ...]) -> None:
    """Raise :class:`Refused` if the files themselves are the reason why the history cannot be used. Imports none of them.

    ``heads`` are the database's, for the message about a revision that this folder does not have.
    """
    refuse(problems(script, settings, heads), "make migrate-validate")


def problems(script: Any, settings: Settings, heads: tuple[str, ...] = ()) -> list[Finding]:
    """Unreadable files, ids used twice, parents that do not exist, cycles, several heads (with ``headers = required``)."""
    found: list[Finding] = []
    by_id: dict[str, list[tuple[Path, body.Identity]]] = {}
    for path in judge.files(script):
        read = source.read(path)
        if isinstance(read, Finding):
            found.append(read)
            continue
        identity = body.identity(read)
        if identity.revision is not None:
            by_id.setdefault(identity.revision, []).append((path, identity))
    if found:
        return found
    for revision, places in by_id.items():
        if len(places) > 1:
            names = " and ".join(source.shown(path) for path, _ in places)
            found.append(_broken(places[1][0], revision, f"revision {revision} stands in {names}",
                                 f"give the younger one a number of its own, and Dependencies: {revision}"))  # fmt: skip
    for revision, places in by_id.items():
        for parent in places[0][1].parents:
            if parent not in by_id:
                found.append(_broken(places[0][0], revision, f"its parent {parent} is in no file",
                                     f"bring the file of {parent} back, or correct down_revision"))  # fmt: skip
    parents = {revision: places[0][1].parents for revision, places in by_id.items()}
    cycle = _cycle(parents)
    if cycle:
        path = by_id[cycle[0]][0][0]
        found.append(_broken(path, cycle[0], f"the revisions {' -> '.join([*cycle, cycle[0]])} each come after the other",
                             "correct the down_revision that was changed last"))  # fmt: skip
    tips = sorted(set(parents) - {parent for names in parents.values() for parent in names})
    if settings.headers == "required" and len(tips) > 1 and not found:
        path = by_id[tips[-1]][0][0]
        names = ", ".join(source.shown(by_id[tip][0][0]) for tip in tips)
        found.append(_broken(path, tips[-1], f"it has {len(tips)} heads: {names}",
                             f"make {tips[-1]} follow {tips[-2]}: down_revision = {tips[-2]!r}, Dependencies: {tips[-2]}"))  # fmt: skip
    missing = [head for head in heads if head not in by_id]
    for head in missing:
        found.append(_broken(Path(script.dir), head, f"the database is at {head}, which no file here has",
                             "deploy the build that has it, or look it up: make migrate-history"))  # fmt: skip
    return found


def edited(script: Any, settings: Settings, connection: Connection) -> list[Finding]:
    """Applied revisions whose file says something else than what was run. Reads the history and the files."""
    applied = history.applied(connection, settings.schema)
    found = []
    for path in judge.files(script) if applied else []:
        read = source.read(path)
        if isinstance(read, Finding):
            continue
        revision = body.identity(read).revision
        if revision not in applied:
            continue
        number, day, checksum, text = applied[revision]
        # Tokenising is the slow part; a file that is the same to the letter needs none of it.
        if read.text == text or source.checksum(read) == checksum:
            continue
        values = {"revision": revision, "applied": day, "schema": settings.schema, "history": str(number)}
        finding = Finding("applied-edited", f"{read.shown}:1", revision, values)
        judged = judge.judge(path, settings, required=False, today=_today())
        if not (judged.header and judged.header.waives(finding.code, _today())):
            found.append(finding)
    return found


def _today() -> Any:
    from mcp_planner_schema.guard.scope import today

    return today()


def _broken(path: Path, revision: str, problem: str, instead: str) -> Finding:
    return Finding("graph-broken", f"{source.shown(path)}:1", revision, {"problem": problem, "instead": instead})


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
