"""What the catalog must be like at each revision: ``alembic/fingerprints`` and ``alembic/catalog/NNN.json``.

Written by ``make migrate-fingerprint`` and committed with the revision. The first has one line a revision, in the order of the
history: two branches that add one each are in conflict there, in git and not in production. The second holds what the revision
changes in the catalog when it goes up; what all of them change together is what there must be.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.fingerprint.digest import Fingerprint, parsed
from mcp_planner_schema.guard.fingerprint.line import PARTS, Line, Lines, structure

ANEW = "make migrate-fingerprint VERSION=all   (writes them anew, on a scratch database)"
_MARKERS = ("<<<<<<<", "|||||||", "=======", ">>>>>>>")


class Delta(NamedTuple):
    """The lines that came with a revision, and those that went. A changed object is in both."""

    come: Lines
    gone: Lines


def place(folder: str | Path) -> Path:
    """The file of the fingerprints, beside the folder of the revisions."""
    return Path(folder) / "fingerprints"


def catalog_place(folder: str | Path, revision: str) -> Path:
    """The file of what the revision changes."""
    return Path(folder) / "catalog" / f"{revision}.json"


def fingerprints(folder: str | Path) -> dict[str, Fingerprint]:
    """Each revision's fingerprint, in the file's order; empty where there is no file. Raises :class:`WrongUse`."""
    path = place(folder)
    found: dict[str, Fingerprint] = {}
    for number, line in enumerate(_text(path, "").splitlines(), 1):
        where = f"{path}:{number}"
        if line.startswith(_MARKERS):
            raise WrongUse(
                f"{where} is the mark of a merge conflict: two branches have added a revision each. Where both follow the "
                "same revision, one has to follow the other first.",
                ANEW,
            )
        revision, _, rest = line.partition(" ")
        try:
            made = parsed(rest)
        except ValueError as error:
            raise WrongUse(f"{where} cannot be read: {error}: {line[:80]!r}.", ANEW) from None
        if revision in found:
            raise WrongUse(f"{where} is a second line for revision {revision}.", ANEW)
        found[revision] = made
    return found


def delta(folder: str | Path, revision: str) -> Delta | None:
    """What the revision changes in the catalog; None where nothing is stored for it. Raises :class:`WrongUse`."""
    path = catalog_place(folder, revision)
    text = _text(path, None)
    if text is None:
        return None
    again = f"make migrate-fingerprint VERSION={revision}"
    if any(line.startswith(_MARKERS) for line in text.splitlines()):
        raise WrongUse(f"{path} has marks of a merge conflict.", again)
    try:
        stored = json.loads(text)
        return Delta(*(frozenset(Line(*map(_string, one)) for one in stored[side]) for side in ("come", "gone")))
    except (ValueError, KeyError, TypeError) as error:
        raise WrongUse(f"{path} cannot be read: {type(error).__name__}: {error}.", again) from None


def source(folder: str | Path, revision: str) -> str | None:
    """The checksum of the revision's text as it was when its file was written; None where that is not known."""
    text = _text(catalog_place(folder, revision), None)
    try:
        found = json.loads(text or "{}").get("source")
    except (ValueError, AttributeError):  # what is wrong with it is told by delta()
        return None
    return found if isinstance(found, str) else None


def expected(folder: str | Path, revisions: Iterable[str]) -> Lines:
    """All lines that there must be when these revisions, in this order and from the first on, have gone up.

    Raises :class:`WrongUse` where one has no file, or does not fit to those before it.
    """
    lines: Lines = frozenset()
    for revision in revisions:
        change = delta(folder, revision)
        path = catalog_place(folder, revision)
        if change is None:
            raise WrongUse(
                f"{path} is missing: nothing says what revision {revision} makes of the catalog.",
                f"make migrate-fingerprint VERSION={revision}",
            )
        # Two branches that each give a table a column do not agree on the order of its columns: no one's fault.
        wrong = sorted(structure(change.gone - lines)) or sorted(structure((change.come - change.gone) & lines))
        if wrong:
            said = (
                "takes away what no revision before it has made"
                if wrong[0] in change.gone
                else "makes what is there already"
            )
            raise WrongUse(f"{path} {said}: {wrong[0].kind} {wrong[0].identity}.", ANEW)
        lines = applied(lines, change)
    return lines


def applied(lines: Lines, change: Delta) -> Lines:
    """``lines`` after the change. Of order, comment and grants the newest word counts."""
    named = {line[:2] for line in change.come if line.kind in PARTS}
    return frozenset(line for line in lines - change.gone if line[:2] not in named) | change.come


def write(
    folder: str | Path, chain: Sequence[str], made: Mapping[str, tuple[Fingerprint, Delta]],
    sources: Mapping[str, str] | None = None,
) -> list[Path]:  # fmt: skip
    """Write what was found for some revisions of ``chain`` (all there are, in order). Gives the files whose text has changed.

    ``sources`` are the checksums of the revisions' texts, so that it shows when one was edited since. Lines of other revisions
    stay; those of revisions that are no longer there go.
    """
    kept = {} if set(chain) <= made.keys() else fingerprints(folder)
    now = kept | {revision: found for revision, (found, _) in made.items()}
    lines = [f"{revision} {now[revision]}\n" for revision in chain if revision in now]
    texts = {place(folder): "".join(lines)}
    for revision, (_, change) in made.items():
        texts[catalog_place(folder, revision)] = text(change, (sources or {}).get(revision))
    return [path for path, new in texts.items() if _replace(path, new)]


def text(change: Delta, source: str | None = None) -> str:
    """The content of a revision's file: sorted, one line of the catalog in each of its own; and of which text it is."""
    sides = [f'  "source": {json.dumps(source)}'] if source else []
    for side in ("come", "gone"):
        lines = sorted(getattr(change, side))
        entries = ",\n".join(f"    {json.dumps(line, ensure_ascii=False)}" for line in lines)
        sides.append(f'  "{side}": [\n{entries}\n  ]' if lines else f'  "{side}": []')
    return "{\n" + ",\n".join(sides) + "\n}\n"


def _replace(path: Path, new: str) -> bool:
    if _text(path, None) == new:
        return False
    path.parent.mkdir(exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(new, encoding="utf-8", newline="\n")
    beside.replace(path)
    return True


def _text(path: Path, missing: Any) -> Any:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return missing
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUse(f"{path} cannot be read: {error}.", ANEW) from None


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
