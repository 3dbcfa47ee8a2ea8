"""Judges revision files, one or a whole folder, without importing any of them and without a database."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import body, header, script_calls, source, sql_body_calls
from mcp_planner_schema.guard.findings import Finding, WrongUse
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

FILE_NAME = re.compile(r"(?P<number>[0-9]{3,})_(?P<word>[a-z]+)(_[a-z0-9]+)+\.py")
_ALEMBICS = re.compile(r"(?!\.#|__init__).*\.py")


@dataclass(frozen=True)
class Judged:
    """One revision file after judgement. ``source`` is None when it cannot be read, ``header`` when there is none to go by:
    none at all, or one with findings against it. ``sql`` are the texts of the SQL files and scripts it names.
    """

    path: Path
    source: source.Source | None
    header: header.Header | None
    findings: tuple[Finding, ...]
    sql: Mapping[str, str | None] = field(default_factory=dict)


def left_out(one: Judged | None, settings: Settings, recorded: str | None = None) -> bool:
    """Whether a revision is not run here: as it was ``recorded`` when it came, else as its header says (``Environments:``)."""
    if recorded:
        return recorded == "skipped"
    header = one.header if one else None
    return header is not None and settings.environment not in header.environments


def files(script: ScriptDirectory) -> list[Path]:
    """Every file Alembic would take for a revision, by name. Reads the folders, imports nothing."""
    folders = [Path(folder) for folder in script.version_locations or [f"{script.dir}/versions"]]
    pattern = "**/*" if script.recursive_version_locations else "*"
    found = (path for folder in folders for path in folder.glob(pattern))
    return sorted(
        (path for path in found if _ALEMBICS.fullmatch(path.name) and "__pycache__" not in path.parts),
        key=lambda path: path.name,
    )


def sql_folder(script: ScriptDirectory) -> Path:
    """Where the SQL files of a history lie, in a folder for each revision: beside ``env.py``, wherever the revisions are."""
    return Path(script.dir) / "sql"


def _scripts(sql: Path) -> Path:
    return sql.parent / "scripts"


def texts(read: source.Source, sql: Path) -> dict[str, str | None]:
    """The texts of all files that belong to a revision, by where they lie; None for one that cannot be read."""
    return {**sql_body_calls.texts(read), **body.sql_files(read, sql), **script_calls.texts(read, _scripts(sql))}


def judge(path: Path, settings: Settings, *, sql: Path, required: bool, today: dt.date) -> Judged:
    """Judge one file. ``required``: a missing header is a finding, else such a file is left alone.

    ``sql`` is the folder of the SQL files.
    """
    read = source.read(path)
    if isinstance(read, Finding):
        return Judged(path, None, None, (read,))
    found, files = body.identity(read), texts(read, sql)
    number = found.revision or path.name.removesuffix(".py").split("_")[0]
    examples = {"Version": number, "Dependencies": ", ".join(found.parents) or "None", "Date": str(today)}
    if not header.has_header(read, required=required):
        if not required:
            return Judged(path, read, None, (), files)
        missing = source.finding(path, 1, "header-missing", template=header.template(examples))
        return Judged(path, read, None, (*read.flaws, *_name(path, settings), missing), files)
    parsed, against_header = header.parse(read, today, examples)
    against_body = [
        *body.judge(read, parsed, settings, sql),
        *script_calls.judge(read, parsed, settings, _scripts(sql)),
        *sql_body_calls.judge(read, parsed),
    ]
    findings = [*read.flaws, *_name(path, settings), *against_header, *against_body]
    standing = [one for one in findings if not (one.rule.waivable and parsed.waives(one.code, today))]
    standing.sort(key=lambda one: int(one.where.rpartition(":")[2]))
    return Judged(path, read, None if against_header else parsed, tuple(standing), files)


def today() -> dt.date:
    """The day in UTC, the same on every machine."""
    return dt.datetime.now(dt.UTC).date()


def later() -> str:
    """The last day that a new waiver is proposed to hold."""
    return str(today() + dt.timedelta(days=90))


def judge_all(script: ScriptDirectory, settings: Settings, day: dt.date | None = None) -> list[Judged]:
    """Judge every file of the history and its numbering. What ``make migrate-validate`` and a broken history show."""
    day = day or today()
    paths = files(script)
    required = _requiring(paths, settings)
    sql = sql_folder(script)
    judged = [judge(path, settings, sql=sql, required=path in required, today=day) for path in paths]
    judged += [Judged(path, None, None, (sql_body_calls.orphan(path),)) for path in sql_body_calls.orphans(paths)]
    return _with(judged, numbering(paths) if settings.headers == "required" else [])


def judge_pending(
    script: ScriptDirectory, pending: Iterable[str], settings: Settings, day: dt.date | None = None
) -> list[Judged]:
    """Judge the files of the pending revisions (paths as Alembic knows them), in the order given."""
    day = day or today()
    wanted = [Path(path) for path in pending]
    paths = files(script)
    resolved = {path.resolve(): path for path in paths}  # a link is judged as the link it is
    required = _requiring(paths, settings)
    judged = []
    for wish in wanted:
        path = resolved.get(wish.resolve(), wish)
        judged.append(judge(path, settings, sql=sql_folder(script), required=path in required, today=day))
    names = {one.path for one in judged}
    found = numbering(paths) if settings.headers == "required" else []
    return _with(judged, [pair for pair in found if pair[0] in names])


def numbering(paths: Sequence[Path]) -> list[tuple[Path, Finding]]:
    """Numbers used twice and numbers left out, told by the file names."""
    by_number: dict[int, list[Path]] = {}
    width = 3
    for path in paths:
        match = FILE_NAME.fullmatch(path.name)
        if match:
            width = max(width, len(match["number"]))
            by_number.setdefault(int(match["number"]), []).append(path)
    found = []
    free = f"{max(by_number, default=0) + 1:0{width}}"
    expected = 1
    for number in sorted(by_number):
        for path in by_number[number]:
            others = ", ".join(other.name for other in by_number[number] if other != path)
            if others:
                values = {"version": f"{number:0{width}}", "others": others, "free": free}
                found.append((path, source.finding(path, 1, "numbering-duplicate", **values)))
            if number > expected:
                values = {"version": f"{number:0{width}}", "missing": f"{expected:0{width}}"}
                found.append((path, source.finding(path, 1, "numbering-gap", **values)))
        expected = number + 1
    return found


def _with(judged: list[Judged], extra: list[tuple[Path, Finding]]) -> list[Judged]:
    return [replace(one, findings=one.findings + tuple(f for path, f in extra if path == one.path)) for one in judged]


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
    if settings.headers_from not in by_revision:
        raise WrongUse(
            f"alembic.ini, [guard]: headers_from = {settings.headers_from}: no file here has this revision, so no header "
            "would be required at all.",
            "correct headers_from in alembic.ini, then repeat the command",
        )
    return {by_revision[revision] for revision in required if revision in by_revision}


def _name(path: Path, settings: Settings) -> list[Finding]:
    if settings.headers == "optional":
        return []  # a history that began without headers has names of its own
    match = FILE_NAME.fullmatch(path.name)
    if match is None:
        return [source.finding(path, 1, "file-name", name=path.name)]
    if match["word"] not in settings.type_words:
        return [source.finding(path, 1, "type-word", word=match["word"], words=", ".join(settings.type_words))]
    return []
