"""An archive of what a downgrade destroys: a file that pg_restore reads, proven by restoring it before anything is dropped."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import connect, dump, scratch
from mcp_planner_schema.guard.client import Impossible
from mcp_planner_schema.guard.findings import Busy, Finding, Refused
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

_PARTIAL = ".partial"
_OTHER = "take another archive or backup; the stash in the database is independent of the file"


@dataclass(frozen=True)
class Archive:
    """A proven archive. ``tables``: schema, name, rows and both sums (:data:`checksum.ALGORITHM`) of each table in it.

    ``differs``: what the schema that was restored from it lacks or has otherwise, of a ``whole`` one.
    """

    path: Path
    sha256: str
    bytes: int
    tables: tuple[tuple[str, str, int, int, int], ...]
    server_version: str
    pg_dump_version: str
    differs: tuple[str, ...] = ()


def wanted(settings: Settings) -> bool:
    """Whether a downgrade here goes on only with an archive."""
    return settings.archive == "always" or settings.rules.archives


def make(
    settings: Settings, engine: Engine, tables: Sequence[tuple[str, str]], revision: str, repeat: str, *,
    whole: bool = False,
) -> Archive:  # fmt: skip
    """Write the schema and the rows of ``tables`` (schema and name) into a new file, restore it, and compare.

    ``whole``: all that the database has is written, and its indexes, constraints and triggers are restored too.

    A file that is there under its own name has passed all of it. Raises :class:`Refused` (nothing is left but what was
    there before), :class:`Busy` where a lock is in the way, or :class:`Broken`.
    """
    from sqlalchemy.exc import DBAPIError

    database = engine.url.database or engine.url.username or "database"
    name = f"{_word(database)}_{_word(revision)}_{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.dump"
    try:
        with _refusing(f"database {database}", revision, repeat):
            scratch.refuse_without(settings, engine)
            with _folder(settings.archive_dir) as (folder, handle), _new(handle, name) as file:
                content = dump.write(settings, engine, tables, file, whole=whole)
                os.fsync(file)
                missing = {oid for table, _ in content.tables for oid in table.holders} - dump.entries(
                    content.programs, file
                )
                if missing:
                    raise Impossible(
                        f"pg_dump left out {len(missing)} of the tables", "use another pg_dump: pg_bin in alembic.ini"
                    )
                digest = _sha256(file)
                differs = scratch.prove(settings, engine, content, file)
                size = os.fstat(file).st_size
    except dump.Locked as error:
        raise Busy(
            f"Another session holds a lock that the archive needs, and did not let go of it: {error}", repeat
        ) from None
    except DBAPIError as error:
        raise connect.outside(error, engine.url, repeat) from error
    listed = tuple((table.schema, table.name, *sums) for table, sums in content.tables)
    return Archive(folder / name, digest, size, listed, content.server_version, content.programs.version, differs)


def verify(path: Path, sha256: str) -> None:
    """Read a file again. Raises :class:`Refused` unless it is, byte for byte, the one that was written."""
    with _refusing(str(path), "", f"ls -l {shlex.quote(str(path))}"), _existing(path, sha256):
        pass


def digest(path: Path) -> str:
    """The SHA-256 of a file as it is now. Raises :class:`Refused` for what is no ordinary file."""
    with _refusing(str(path), "", f"ls -l {shlex.quote(str(path))}"), _open(path) as file:
        return _sha256(file)


@contextmanager
def restored(settings: Settings, engine: Engine, path: Path, sha256: str) -> Iterator[URL]:
    """The URL of a scratch database with what the archive holds, once its file is proven; dropped at the end.

    Raises :class:`Refused` or :class:`Broken`.
    """
    with _refusing(str(path), "", f"ls -l {shlex.quote(str(path))}"):
        scratch.refuse_without(settings, engine)
        with _existing(path, sha256) as file, scratch.restored(settings, engine, file) as url:
            yield url


@contextmanager
def _refusing(where: str, revision: str, repeat: str) -> Iterator[None]:
    try:
        yield
    except Impossible as error:
        values = {"problem": error.problem, "instead": error.instead}
        raise Refused([Finding("archive-impossible", where, revision, values)], error.command or repeat) from None


def _word(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", name)[:60].strip("-") or "x"


@contextmanager
def _folder(named: str) -> Iterator[tuple[Path, int]]:
    """The archives' folder, open: what is made in it is made there, wherever its path leads meanwhile."""
    folder, shown = Path(named).absolute(), shlex.quote(str(Path(named).absolute()))
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        why = "is a symbolic link or no folder" if folder.exists() else f"cannot be used ({error.strerror})"
        raise Impossible(
            f"the folder {folder} {why}",
            "let archive_dir in alembic.ini name a folder of your own",
            f"mkdir -m 700 -p {shown}",
        ) from None
    try:
        found = os.fstat(handle)
        if found.st_uid != os.geteuid():
            raise Impossible(
                f"the folder {folder} belongs to somebody else (uid {found.st_uid})",
                "let archive_dir in alembic.ini name a folder of your own", f"ls -ld {shown}",
            )  # fmt: skip
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise Impossible(
                f"others may enter the folder {folder} (mode {stat.S_IMODE(found.st_mode):o}); an archive holds people's data",
                "a folder that only you can enter", f"chmod 700 {shown}",
            )  # fmt: skip
        yield folder, handle
    finally:
        os.close(handle)


@contextmanager
def _new(folder: int, name: str) -> Iterator[int]:
    """A new file, open under another name until everything in it is proven; gone if it is not."""
    partial = name + _PARTIAL
    try:
        _sweep(folder)
        file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            os.fsync(file)
            os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial, dir_fd=folder)
            raise
        finally:
            os.close(file)
    except OSError as error:
        raise Impossible(
            f"{name} cannot be written ({error.strerror})", "free space, or let archive_dir name another folder"
        ) from None


def _sweep(folder: int) -> None:
    """Remove what killed runs have left. Whoever still writes holds a lock on the file, a pg_dump without its parent too."""
    for name in os.listdir(folder):
        if name.endswith(f".dump{_PARTIAL}"):
            with contextlib.suppress(OSError):
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=folder)
                finally:
                    os.close(file)


@contextmanager
def _existing(path: Path, sha256: str) -> Iterator[int]:
    """The file, open, once it is proven to be the one that was written: what is read after that is the very same."""
    with _open(path) as file:
        if _sha256(file) != sha256:
            raise Impossible(f"{path} is not the file that was written: its SHA-256 differs", _OTHER)
        yield file


@contextmanager
def _open(path: Path) -> Iterator[int]:
    try:
        file = os.open(
            path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        )  # a pipe would wait for a writer
    except OSError as error:
        raise Impossible(f"{path} cannot be opened ({error.strerror})", _OTHER) from None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise Impossible(f"{path} is no ordinary file", _OTHER)
        yield file
    finally:
        os.close(file)


def _sha256(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    with os.fdopen(os.dup(file), "rb") as read:
        return hashlib.file_digest(read, "sha256").hexdigest()
