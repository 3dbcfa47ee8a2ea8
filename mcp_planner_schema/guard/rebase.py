"""Puts a revision that no known database has applied after another one, under a number of its own where it needs one.

Only what must change is changed: the file's name, ``revision`` and ``down_revision``, the header's Version and Dependencies, the
folders of its SQL files and scripts. What was made from it (locks, catalog, fingerprint) is dropped, to be made anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import (
    applied_where,
    body,
    graph,
    judge,
    moves,
    rewrite,
    script_calls,
    source,
    sql_body_calls,
)
from mcp_planner_schema.guard import settings as settings_module
from mcp_planner_schema.guard.findings import Finding, Refused, WrongUse, refuse
from mcp_planner_schema.guard.source import Source

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory


@dataclass(frozen=True)
class Member:
    """One revision file. ``files`` are the SQL files (``025/x.sql``) and scripts (``scripts/025/x.py``) that it names."""

    source: Source
    revision: str
    down_revision: tuple[str, ...]
    depends_on: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.source.path

    @property
    def parents(self) -> tuple[str, ...]:
        """Every revision that must come before it."""
        return self.down_revision + self.depends_on


@dataclass
class Plan:
    """What is to be done: ids, texts to be written, files to be moved or dropped, and what to say."""

    ids: dict[str, str] = field(default_factory=dict)
    written: dict[Path, tuple[Path, str]] = field(default_factory=dict)
    moved: dict[Path, Path] = field(default_factory=dict)
    dropped: list[Path] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def rebase(config: Config, version: str, onto: str | None, urls: str, *, along: bool = False) -> list[str]:
    """Make ``version`` (an id, or a file's name) follow ``onto``, by default the head of all others. Gives lines for people.

    ``urls`` names databases that are asked besides the configured one, separated by spaces. ``along`` takes those that come
    after it along. Raises :class:`Refused` where one of them was applied somewhere, or a file cannot be changed; then nothing
    was. All of it is done, or nothing.
    """
    from alembic.script import ScriptDirectory

    given, here = settings_module.load(config), ScriptDirectory.from_config(config)
    members = _members(here, given)
    moved, rest = _chosen(members, version, along=along)
    target = _onto(rest, moved[0], onto)
    twice = moved[0].revision in {one.revision for one in rest}
    if not twice and moved[0].down_revision == (target,):
        return [f"nothing to do: {source.shown(moved[0].path)} follows {target}"]
    asked = applied_where.refuse(config, given, here, members, moved, urls)
    plan = _planned(Path(here.dir), moved, rest, target, twice=twice)
    moves.carry_out(plan.written, plan.moved, plan.dropped)
    left = [one for one in graph.problems(here, given) if one.code == "graph-broken"]
    still = [f"still to be put in order: {one.values['problem']}" for one in left]
    return [*plan.lines, f"asked, and not applied in: {', '.join(asked)}", *still]


def refused(revision: str, problem: str, instead: str, command: str = "make migrate-status") -> Refused:
    """That a revision is not moved, why, and what to do instead."""
    values = {"revision": revision, "problem": problem, "instead": instead}
    return Refused([Finding("rebase-impossible", f"revision {revision}", revision, values)], command)


def _members(here: ScriptDirectory, given: settings_module.Settings) -> list[Member]:
    found: list[Member] = []
    for path in judge.files(here):
        read = source.read(path)
        if isinstance(read, Finding):
            refuse(graph.problems(here, given), "make migrate-validate")
            raise Refused([read], "make migrate-validate")
        identity = body.identity(read)
        if identity.revision is not None:
            named = (
                *body.sql_files(read, judge.sql_folder(here)),
                *(f"scripts/{one}" for one in script_calls.names(read)),
            )
            found.append(Member(read, identity.revision, identity.down_revision, identity.depends_on, named))
    return found


def _chosen(members: Sequence[Member], version: str, *, along: bool) -> tuple[list[Member], list[Member]]:
    """Those that are moved, parents first, and all others."""
    meant = [one for one in members if version in (one.path.stem, one.path.name)]
    meant = meant or [one for one in members if one.revision == version]
    if not meant:
        raise WrongUse(f"There is no revision {version}.", "make migrate-validate")
    if len(meant) > 1:
        raise WrongUse(
            f"Revision {version} stands in {' and '.join(source.shown(one.path) for one in meant)}: which of them is to move?",
            f"make migrate-rebase VERSION={meant[-1].path.stem}",
        )
    first = meant[0]
    if len(first.down_revision) > 1:
        raise refused(first.revision, "it joins several revisions", "write it anew: alembic merge heads")
    others = [one for one in members if one is not first]
    twice = first.revision in {one.revision for one in others}
    if twice and along:
        raise WrongUse(
            f"Two files are revision {first.revision}, so nobody can tell which of them the others follow: move them one by one.",
            f"make migrate-rebase VERSION={first.path.stem}",
        )
    # With two files of one id, what follows it stays with the other one until it is moved itself.
    after = [] if twice else _after(first, others)
    if after and not along:
        names = ", ".join(source.shown(one.path) for one in after)
        raise refused(
            first.revision, f"{names} depend{'' if len(after) > 1 else 's'} on it", "take them along, by ALONG=1",
            f"make migrate-rebase VERSION={version} ALONG=1",
        )  # fmt: skip
    taken = [first, *after]
    return taken, [one for one in members if one not in taken]


def _after(first: Member, others: Sequence[Member]) -> list[Member]:
    """What comes after a revision, in an order in which they can run."""
    found: list[Member] = []
    ids = {first.revision}
    while more := [
        one for one in others if one not in found and set(one.parents) & ids and one.revision != first.revision
    ]:
        found += more
        ids |= {one.revision for one in more}
    return found


def _onto(rest: Sequence[Member], first: Member, wanted: str | None) -> str:
    ids = {one.revision for one in rest}
    if wanted is not None:
        if wanted not in ids:
            raise WrongUse(
                f"There is no revision {wanted} to follow.", f"make migrate-rebase VERSION={first.path.stem}"
            )
        return wanted
    heads = sorted(ids - {parent for one in rest for parent in one.parents})
    if len(heads) != 1:
        raise WrongUse(
            f"Which is it to follow: {', '.join(heads) or 'none is left'}?",
            f"make migrate-rebase VERSION={first.path.stem} ONTO={heads[0] if heads else '001'}",
        )
    return heads[0]


def _planned(folder: Path, moved: Sequence[Member], rest: Sequence[Member], target: str, *, twice: bool) -> Plan:
    plan = Plan()
    numbers = {int(match["number"]) for one in rest if (match := judge.FILE_NAME.fullmatch(one.path.name))}
    for one in moved:
        plan.ids[one.revision] = _number(one, numbers)
    for place, one in enumerate(moved):
        down = (target,) if not place else tuple(plan.ids.get(name, name) for name in one.down_revision)
        _one(plan, folder, one, rest, down, twice=twice and not place)
    _generated(plan, folder, moved, twice=twice)
    return plan


def _number(one: Member, taken: set[int]) -> str:
    """Its own number where nobody else has it, else the next free one; an id that is no number stays."""
    match = judge.FILE_NAME.fullmatch(one.path.name)
    if match is None or match["number"] != one.revision:
        return one.revision
    number = int(one.revision)
    if number in taken:
        number = max(taken) + 1
    taken.add(number)
    return f"{number:0{len(one.revision)}}"


def _one(plan: Plan, folder: Path, one: Member, rest: Sequence[Member], down: tuple[str, ...], *, twice: bool) -> None:
    new = plan.ids[one.revision]
    if one.source.flaws:
        raise Refused(list(one.source.flaws), "make migrate-validate")
    names = dict(_renamed(folder, one, rest, new, twice=twice)) if new != one.revision else {}
    depends_on = tuple(plan.ids.get(name, name) for name in one.depends_on)
    named = {old.removeprefix("scripts/"): name.removeprefix("scripts/") for old, name in names.items()}
    bodies = {name: new + name.removeprefix(one.revision) for name in sql_body_calls.names(one.source)}
    bodies = {old: name for old, name in bodies.items() if name != old}
    try:
        text = rewrite.rewritten(one.source, rewrite.Change(new, down, depends_on, named | bodies))
    except rewrite.Unclear as unclear:
        raise refused(one.revision, f"in {one.source.shown}, {unclear}", "move it by hand") from None
    path = one.path
    if new != one.revision:
        path = path.with_name(new + path.name.removeprefix(one.revision))
    plan.written[one.path] = (path, text)
    plan.moved.update({_place(folder, old): _place(folder, name) for old, name in names.items()})
    plan.moved.update({path.with_name(old): path.with_name(name) for old, name in bodies.items()})
    said = f"{source.shown(one.path)} -> {path.name}" if path != one.path else source.shown(path)
    plan.lines.append(f"{said}: follows {', '.join(down)}")
    plan.lines += [f"  {source.placed(old)} -> {source.placed(name)}" for old, name in sorted(names.items())]
    plan.lines += [f"  {old} -> {name}" for old, name in bodies.items()]


def _renamed(folder: Path, one: Member, rest: Sequence[Member], new: str, *, twice: bool) -> Iterator[tuple[str, str]]:
    """Files in folders of the revision's number, and their names under the new one."""
    for kind, prefix in (("sql", ""), ("scripts", "scripts/")):
        beside = folder / kind / one.revision
        for path in sorted(beside.iterdir()) if beside.is_dir() else ():
            name = f"{prefix}{one.revision}/{path.name}"
            users = [other for other in rest if name in other.files]
            if path.name == "__pycache__" or (twice and name not in one.files):
                continue  # with two files of one number, what this one does not name belongs to the other
            if users:
                raise refused(
                    one.revision, f"{source.shown(users[0].path)} uses {source.placed(name)} too", "move it by hand"
                )
            yield name, f"{prefix}{new}/{path.name}"


def _place(folder: Path, name: str) -> Path:
    return folder / source.placed(name)


def _generated(plan: Plan, folder: Path, moved: Sequence[Member], *, twice: bool) -> None:
    """What was made from these revisions as they were: dropped, and how it is made again."""
    fingerprints = folder / "fingerprints"
    kept = fingerprints.read_text(encoding="utf-8").splitlines(keepends=True) if fingerprints.is_file() else []
    old = [one.revision for number, one in enumerate(moved) if number or not twice]
    for revision in old:
        for kind in ("locks", "catalog"):
            path = folder / kind / f"{revision}.json"
            if path.is_file():
                plan.dropped.append(path)
    left = [line for line in kept if line.split(" ")[0] not in old]
    if left != kept:
        plan.written[fingerprints] = (fingerprints, "".join(left))
    for revision in plan.ids.values():
        plan.lines.append(
            f"  to be made anew: make migrate-trace VERSION={revision}, and make migrate-up in development"
        )
    if twice:
        plan.lines.append(
            f"  alembic/locks/{moved[0].revision}.json and the like stay with the other file: make migrate-trace "
            f"VERSION={moved[0].revision} if they are not its own"
        )
