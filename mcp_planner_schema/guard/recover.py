"""Writes the source of a revision that is applied here and has no file, from what the history keeps of it.

It is written, compared with its checksum, and that is all: nothing that comes from a database is imported or run. What a row
says of names is believed as far as it names a file of that revision, below the one folder and through no link.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import banner, body, connect, judge, script, source, sql_body, sql_file, version_table
from mcp_planner_schema.guard import settings as settings_module
from mcp_planner_schema.guard.findings import Broken, Finding, Refused

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}\.py")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_WORDS = re.compile(r"[a-z0-9]+")
_THERE = "SELECT pg_catalog.to_regclass(%(history)s::text) IS NOT NULL, pg_catalog.to_regclass(%(revision)s::text) IS NOT NULL"
_KEPT = """
SELECT h.source, h.checksum, pg_catalog.date_trunc('second', h.finished_at)::text, h.who, h.git_commit, h.description
FROM {schema}.history h JOIN {schema}.run r ON r.id = h.run_id
WHERE h.revision = %s AND r.version_table = %s AND h.source IS NOT NULL AND h.outcome IN ('done', 'skipped')
  AND h.direction IN ('upgrade', 'accept') ORDER BY h.id DESC LIMIT 1
"""


@dataclass(frozen=True)
class Kept:
    """What the history has of a revision: the text with its files as comments, and where it comes from."""

    revision: str
    text: str
    checksum: str | None
    when: str
    who: str
    git_commit: str | None
    title: str
    file: str | None


def recover(config: Config, revision: str, folder: Path | None) -> list[str]:
    """Write the kept files of ``revision`` below ``folder`` (without one: where the history's own lie). Gives lines for people.

    Raises :class:`Refused` where nothing is kept, its checksum differs, a name is none, or another file stands there; then
    nothing was written.
    """
    from alembic.script import ScriptDirectory

    given, repeat = settings_module.load(config), str(config.attributes["repeat"])
    here = ScriptDirectory.from_config(config)
    versions = Path((here.version_locations or [f"{here.dir}/versions"])[0])
    places = _places(Path(here.dir), versions) if folder is None else _places(folder, folder / "versions")
    kept = _ask(config, given, repeat, revision, version_table.of(config).shown)
    wanted = _files(kept, here, own=folder is None)
    written = write(places, wanted, revision)
    commit = f", commit {kept.git_commit[:12]}" if kept.git_commit else ""
    return [
        f"revision {revision}, as {kept.who} applied it on {kept.when}{commit}:",
        *(f"  {'wrote' if path in written else 'is there already:'} {source.shown(path)}"
          for path in (_path(places, name) for name in wanted)),
        "its checksum is the recorded one; it was not run. Read it before you run it",
    ]  # fmt: skip


def write(places: Mapping[str, Path], wanted: Mapping[str, str], revision: str) -> set[Path]:
    """Write all of it or nothing; what is there already to the letter stays. Gives what was written.

    A name begins with ``versions``, ``sql`` or ``scripts``; ``places`` says where these are. Follows no link below them.
    Raises :class:`Refused` where something else is there.
    """
    written: set[Path] = set()
    with ExitStack() as opened, ExitStack() as undo:  # undone while the folders are open
        for name, text in wanted.items():
            path = _path(places, name)
            handle = _folder(opened, undo, places, name, revision)
            if _put(handle, path, text, revision):
                undo.callback(os.unlink, path.name, dir_fd=handle)
                written.add(path)
        undo.pop_all()
    return written


def refused(revision: str, problem: str, instead: str, command: str = "make migrate-status") -> Refused:
    """That a revision is not recovered, why, and what to do instead."""
    values = {"revision": revision, "problem": problem, "instead": instead}
    return Refused([Finding("recover-impossible", f"revision {revision}", revision, values)], command)


def _places(folder: Path, versions: Path) -> dict[str, Path]:
    return {"versions": versions, "sql": folder / "sql", "scripts": folder / "scripts"}


def _path(places: Mapping[str, Path], name: str) -> Path:
    first, *rest = PurePosixPath(name).parts
    return places[first].joinpath(*rest)


def _ask(config: Config, given: settings_module.Settings, repeat: str, revision: str, table: str) -> Kept:
    from sqlalchemy.exc import SQLAlchemyError

    target = connect.url(given)
    engine = connect.engine(target, "mcp-planner-guard recover")
    try:
        with connect.opened(engine) as connection:
            connection.execution_options(postgresql_readonly=True)
            banner.met(config, connection, given, changes=False)
            kept = _kept(connection, given.schema, revision, table)
    except SQLAlchemyError as error:
        raise connect.outside(error, target, repeat) from error
    finally:
        engine.dispose()
    if kept is None:
        raise refused(
            revision, "this database has kept no source of it: it was never applied here, or only stamped",
            "deploy the build that has it, or take its file from git", "make migrate-history",
        )  # fmt: skip
    return kept


def _kept(connection: Connection, schema: str, revision: str, table: str) -> Kept | None:
    names = {"history": f"{schema}.history", "revision": f"{schema}.revision"}
    history, noted = connection.exec_driver_sql(_THERE, names).one()
    row = connection.exec_driver_sql(_KEPT.format(schema=schema), (revision, table)).first() if history else None
    if row is None:
        return None
    asked = f"SELECT file FROM {schema}.revision WHERE revision = %s AND version_table = %s"
    file = connection.exec_driver_sql(asked, (revision, table)).scalar() if noted else None
    return Kept(revision, row[0], row[1], row[2], row[3], row[4], row[5] or "", file)


def _files(kept: Kept, here: object, *, own: bool) -> dict[str, str]:
    """The files to be written, by where they lie: the revision last, for what it names must be there before it is seen."""
    text, below = source.taken_apart(kept.text)
    read = source.parsed(Path(f"{kept.revision}.py"), text)
    named = {name.removeprefix("sql/"): content for name, content in below.items()}
    if isinstance(read, Finding) or source.checksum(read, named) != kept.checksum:
        problem = "what is kept of it has another checksum than was recorded: somebody has changed the row"
        raise refused(kept.revision, problem, "find out who writes to the guard's tables; take the file from git")
    found = body.identity(read)
    if found.revision != kept.revision:
        raise refused(kept.revision, f"what is kept is the source of {found.revision}", "take the file from git")
    for name in below:
        kind, _, rest = name.partition("/")
        if not {"sql": sql_file.NAME, "scripts": script.NAME, "versions": sql_body.NAME}[kind].fullmatch(rest):
            raise refused(kept.revision, f"{name!r} is no name of a file of a revision", "take the file from git")
    name = _name(kept)
    if own:
        _refuse_second(kept.revision, name, here)
    return {**below, f"versions/{name}": text}


def _name(kept: Kept) -> str:
    """The name of its file. A row's word is taken where that is a plain name; where there is none, one is made of the title."""
    if kept.file is not None:
        if not _FILE.fullmatch(kept.file) or kept.file.startswith("__init__"):
            raise refused(kept.revision, f"{kept.file!r} is no name of a revision's file", "take the file from git")
        return kept.file
    if not _ID.fullmatch(kept.revision):
        raise refused(kept.revision, "no file can be named after it", "take the file from git")
    words = _WORDS.findall(kept.title.lower())[:8] or ["add", "recovered"]
    return f"{kept.revision}_{'_'.join(words)}.py"


def _refuse_second(revision: str, name: str, here: object) -> None:
    """Two files of one revision would be a broken history."""
    for path in judge.files(here):  # type: ignore[arg-type]  # Alembic's folder
        read = source.read(path)
        if path.name != name and not isinstance(read, Finding) and body.identity(read).revision == revision:
            problem = f"{source.shown(path)} has that revision already"
            raise refused(
                revision, problem, f"compare the two: make migrate-recover VERSION={revision} DIR=/tmp/recovered"
            )


def _folder(opened: ExitStack, undo: ExitStack, places: Mapping[str, Path], name: str, revision: str) -> int:
    """The folder that a file goes into, opened; made where it is missing. The first part is what the person has named."""
    first, *between, _ = PurePosixPath(name).parts
    at = places[first].parent
    try:
        at.mkdir(parents=True, exist_ok=True)
        handle = os.open(at, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, handle)
        for part in (places[first].name, *between):
            at = at / part
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=handle)
                undo.callback(os.rmdir, part, dir_fd=handle)
            handle = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
            opened.callback(os.close, handle)
        return handle
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise refused(revision, f"{source.shown(at)} is a symbolic link or no folder", "name another DIR") from None
        raise Broken(
            f"{source.shown(at)} cannot be written: {error.strerror}. Nothing was written.",
            f"make migrate-recover VERSION={revision} DIR=/tmp/recovered",
        ) from None


def _put(handle: int, path: Path, text: str, revision: str) -> bool:
    """Write one file that is not there; whether it was not. The same text stays as it is, another one is refused."""
    try:
        opened = os.open(
            path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=handle
        )
    except FileExistsError:
        if _content(handle, path.name) != text.encode():
            raise refused(
                revision, f"{source.shown(path)} is there and says something else",
                f"compare the two: make migrate-recover VERSION={revision} DIR=/tmp/recovered",
            ) from None  # fmt: skip
        return False
    try:
        with os.fdopen(opened, "wb") as file:
            file.write(text.encode())
    except BaseException:
        os.unlink(path.name, dir_fd=handle)
        raise
    return True


def _content(handle: int, name: str) -> bytes | None:
    """What an ordinary file holds; None for a link and whatever else stands there."""
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=handle)
    except OSError:
        return None
    with os.fdopen(opened, "rb") as file:
        return file.read(source.LIMIT + 1) if stat.S_ISREG(os.fstat(opened).st_mode) else None
