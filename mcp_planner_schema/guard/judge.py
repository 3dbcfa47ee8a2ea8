"""Judges revision files, one or a whole folder, without importing any of them and without a database."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import body, header, source
from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

_FILE_NAME = re.compile(r"(?P<number>\d{3,})_(?P<word>[a-z]+)(_[a-z0-9]+)+\.py")
_IGNORED = re.compile(r"__init__\.py|\.#.*|.*(?<!\.py)$")


@dataclass(frozen=True)
class Judged:
    """One revision file after judgement. ``source`` is None when it cannot be read, ``header`` when it has none in order."""

    path: Path
    source: source.Source | None
    header: header.Header | None
    findings: tuple[Finding, ...]


def files(script: ScriptDirectory) -> list[Path]:
    """Every file Alembic would take for a revision, by name. Reads the folders, imports nothing."""
    folders = [Path(folder) for folder in script.version_locations or [f"{script.dir}/versions"]]
    pattern = "**/*" if script.recursive_version_locations else "*"
    found = (path for folder in folders for path in folder.glob(pattern))
    return sorted(
        (path for path in found if not _IGNORED.fullmatch(path.name) and "__pycache__" not in path.parts),
        key=lambda path: path.name,
    )


def judge(path: Path, settings: Settings, *, required: bool, today: dt.date) -> Judged:
    """Judge one file. ``required``: a missing header is a finding, else such a file is left alone."""
    read = source.read(path)
    if isinstance(read, Finding):
        return Judged(path, None, None, (read,))
    if not header.has_header(read):
        return Judged(path, read, None, tuple(_missing(read, today)) if required else ())
    parsed, findings = header.parse(read, today)
    findings += _name(read, settings)
    if parsed is not None:
        findings += body.judge(read, parsed, settings)
        findings = [
            finding for finding in findings if not (finding.rule.waivable and parsed.waives(finding.code, today))
        ]
    return Judged(path, read, parsed, tuple(findings))


def judge_all(script: ScriptDirectory, settings: Settings, today: dt.date | None = None) -> list[Judged]:
    """Judge every file of the history and its numbering. What ``make migrate-validate`` and a broken history show."""
    today = today or dt.datetime.now(dt.UTC).date()
    paths = files(script)
    required = _requiring(paths, settings)
    judged = [judge(path, settings, required=path in required, today=today) for path in paths]
    return _with(judged, numbering(paths) if settings.headers == "required" else [])


def judge_pending(
    script: ScriptDirectory, pending: Iterable[str], settings: Settings, today: dt.date | None = None
) -> list[Judged]:
    """Judge the files of the pending revisions (paths as Alembic knows them), in the order given."""
    today = today or dt.datetime.now(dt.UTC).date()
    wanted = [Path(path) for path in pending]
    paths = files(script)
    resolved = {path.resolve(): path for path in paths}  # a link is judged as the link it is
    required = _requiring(paths, settings)
    judged = []
    for wish in wanted:
        path = resolved.get(wish.resolve(), wish)
        judged.append(judge(path, settings, required=path in required, today=today))
    names = {one.path for one in judged}
    found = numbering(paths) if settings.headers == "required" else []
    return _with(judged, [pair for pair in found if pair[0] in names])


def numbering(paths: Sequence[Path]) -> list[tuple[Path, Finding]]:
    """Numbers used twice and numbers left out, told by the file names."""
    by_number: dict[int, list[Path]] = {}
    width = 3
    for path in paths:
        match = _FILE_NAME.fullmatch(path.name)
        if match:
            width = max(width, len(match["number"]))
            by_number.setdefault(int(match["number"]), []).append(path)
    found = []
    free = f"{max(by_number, default=0) + 1:0{width}}"
    expected = 1
    for number in sorted(by_number):
        for path in by_number[number]:
            name = source.shown(path)
            others = ", ".join(other.name for other in by_number[number] if other != path)
            if others:
                values = {"version": f"{number:0{width}}", "others": others, "free": free}
                found.append((path, Finding("numbering-duplicate", f"{name}:1", values["version"], values)))
            if number > expected:
                values = {"version": f"{number:0{width}}", "missing": f"{expected:0{width}}"}
                found.append((path, Finding("numbering-gap", f"{name}:1", values["version"], values)))
        expected = number + 1
    return found


def _with(judged: list[Judged], extra: list[tuple[Path, Finding]]) -> list[Judged]:
    return [
        Judged(one.path, one.source, one.header, one.findings + tuple(f for path, f in extra if path == one.path))
        for one in judged
    ]


def _requiring(paths: Sequence[Path], settings: Settings) -> set[Path]:
    """The files that must have a header: all, none, or those from ``headers_from`` on, following their parents."""
    if settings.headers == "required":
        return set(paths)
    if not settings.headers_from:
        return set()
    children: dict[str, set[str]] = {}
    by_revision: dict[str, Path] = {}
    for path in paths:
        read = source.read(path)
        if isinstance(read, Finding):
            continue
        found = body.identity(read)
        if found.revision:
            by_revision[found.revision] = path
            for parent in found.parents:
                children.setdefault(parent, set()).add(found.revision)
    required: set[str] = set()
    todo = [settings.headers_from]
    while todo:
        revision = todo.pop()
        if revision not in required:
            required.add(revision)
            todo += children.get(revision, ())
    return {by_revision[revision] for revision in required if revision in by_revision}


def _missing(read: source.Source, today: dt.date) -> list[Finding]:
    number = read.path.name.split("_")[0]
    found = body.identity(read)
    shape = header.template(found.revision or number, ", ".join(found.parents) or "None", today)
    return [Finding("header-missing", f"{read.shown}:1", number, {"template": shape})]


def _name(read: source.Source, settings: Settings) -> list[Finding]:
    number = read.path.name.split("_")[0]
    match = _FILE_NAME.fullmatch(read.path.name)
    if match is None:
        if settings.headers == "optional":
            return []  # a foreign history has names of its own
        return [Finding("file-name", f"{read.shown}:1", number, {"name": read.path.name})]
    if match["word"] not in settings.type_words and settings.headers == "required":
        values = {"word": match["word"], "words": ", ".join(settings.type_words)}
        return [Finding("type-word", f"{read.shown}:1", number, values)]
    return []
