"""Writes, renames and removes several files: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mcp_planner_schema.guard.findings import Broken
from mcp_planner_schema.guard.source import shown


def carry_out(written: Mapping[Path, tuple[Path, str]], moved: Mapping[Path, Path], dropped: Sequence[Path]) -> None:
    """Give each file of ``written`` its new place and text, each of ``moved`` its new place, and remove ``dropped``.

    Folders that become empty go. Raises :class:`Broken` where a place is taken or a file cannot be written; everything is then
    as before.
    """
    places = {**{old: new for old, (new, _) in written.items()}, **moved}
    taken = [new for old, new in places.items() if new != old and new not in places and new.exists()]
    if taken:
        raise Broken(f"{shown(taken[0])} is there already. Nothing was changed.", "make migrate-validate")
    before = {path: (path.read_bytes(), path.stat().st_mode) for path in (*places, *dropped)}
    after = {new: text.encode() for new, text in written.values()}
    after |= {new: before[old][0] for old, new in moved.items()}
    modes = {new: before[old][1] for old, new in places.items()}
    made: list[Path] = []
    try:
        for path, content in after.items():
            for folder in reversed(path.parents):
                if not folder.exists():
                    folder.mkdir()
                    made.append(folder)
            path.write_bytes(content)
            path.chmod(modes[path] & 0o7777)
        for path in before.keys() - after.keys():
            path.unlink()
    except OSError as error:
        _restore(before, after, made)
        raise Broken(
            f"{shown(Path(error.filename or '.'))}: {error.strerror}. Nothing was changed.", "make migrate-validate"
        ) from None
    except BaseException:
        _restore(before, after, made)
        raise
    for folder in {old.parent for old in moved}:
        with suppress(OSError):  # something else is in it
            folder.rmdir()


def _restore(before: Mapping[Path, tuple[bytes, int]], after: Mapping[Path, bytes], made: Sequence[Path]) -> None:
    for path in after.keys() - before.keys():
        path.unlink(missing_ok=True)
    for path, (content, mode) in before.items():
        path.write_bytes(content)
        path.chmod(mode & 0o7777)
    for folder in reversed(made):
        with suppress(OSError):
            folder.rmdir()
