"""The record of a rehearsal: what was run, on which copy, how it went; and whether production may rely on it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import whole_file
from mcp_planner_schema.guard.findings import Finding, Refused, WrongUse

if TYPE_CHECKING:
    from mcp_planner_schema.staging.pending import Pending, Revision

FORMAT = 1
_AHEAD = dt.timedelta(minutes=10)
"""How far the clock of the machine that has rehearsed may be ahead of this one's."""
NEXT = "scripts/staging-deploy.sh   (docs/staging.md: DUMP=… or SOURCE_URL=… of production as it is now)"


@dataclass(frozen=True)
class Record:
    """What production asks of a rehearsal. ``revisions`` are ids with their checksums, in the order they were run."""

    path: Path
    at: dt.datetime
    green: bool
    server: str
    start: tuple[str, ...]
    revisions: tuple[tuple[str, str], ...]
    findings: tuple[str, ...]

    def against(self, pending: Pending, wanted: Sequence[Revision], days: int, now: dt.datetime) -> list[str]:
        """Why this is no rehearsal of running ``wanted`` there, now. ``pending`` is the database that is to be migrated."""
        reasons = []
        if not self.green:
            reasons.append(
                f"it is not green: {', '.join(dict.fromkeys(self.findings)) or 'it did not come to its end'}"
            )
        age = now - self.at
        if age > dt.timedelta(days=days):
            reasons.append(f"it is {_days(age)} old, and {days}d is the most (rehearsal_age)")
        if age < -_AHEAD:
            reasons.append(f"it is of {self.at:%Y-%m-%d %H:%M} UTC, which lies in the future")
        return reasons + self.elsewhere(pending, wanted)

    def elsewhere(self, pending: Pending, wanted: Sequence[Revision]) -> list[str]:
        """Why it says nothing about running ``wanted`` there, neither good nor bad."""
        reasons = []
        if _major(self.server) != _major(pending.server):
            reasons.append(f"it was run on PostgreSQL {self.server}, and this is {pending.server}")
        if self.start != pending.heads:
            reasons.append(f"it began at {_shown(self.start)}, and this database is at {_shown(pending.heads)}")
        return reasons + _differing(dict(self.revisions), {one.id: one.checksum for one in wanted})


def write(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write a record into the folder under a name of its own: all of it, or nothing. It holds nothing that is secret."""
    name = f"{content['at'].replace(':', '')}_{_word(content['from'])}-{_word(content['to'])}.json"
    return whole(folder / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def whole(path: Path, text: str) -> Path:
    """Write a file that is there with all its text, or as it was. Raises :class:`WrongUse` where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole_file.write(path, text)
    except OSError as error:
        raise WrongUse(
            f"{path} cannot be written ({error.strerror}).",
            f"PLANNER_REHEARSAL_DIR=/a/folder/of/yours scripts/staging-deploy.sh   (or mkdir -p {path.parent})",
        ) from None
    return path


def read(path: Path) -> Record:
    """Read a record with suspicion. Raises :class:`WrongUse` for what is none."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise ValueError(f"format {told['format']}, and {FORMAT} is known here")
        at = dt.datetime.fromisoformat(told["at"])
        return Record(
            path,
            at if at.tzinfo else at.replace(tzinfo=dt.UTC),
            told["green"] is True,
            str(told["server"]),
            tuple(map(str, told["from"])),
            tuple((str(one["id"]), str(one["checksum"])) for one in told["revisions"]),
            tuple(str(one["code"]) for one in told["findings"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise WrongUse(f"{path} is no record of a rehearsal ({said}).", NEXT) from None


def found(folder: Path) -> list[Record]:
    """The records of a folder, the newest first; what is no record there is left alone."""
    records = []
    for path in folder.glob("*.json"):
        try:
            records.append(read(path))
        except WrongUse:
            continue
    return sorted(records, key=lambda one: one.at, reverse=True)


def require(
    records: Iterable[Record], pending: Pending, days: int, *, expand: bool = False, now: dt.datetime | None = None
) -> Record | None:
    """The rehearsal that production may rely on; None where nothing is pending. Raises :class:`Refused` with the reasons.

    ``expand``: only what comes before the first contract revision is to be run. A rehearsal that went on to the end counts for
    that too: it has run these first. Of several the newest counts, whether it is green or not.
    """
    now, wanted = now or dt.datetime.now(dt.UTC), pending.until_contract() if expand else pending.revisions
    if not wanted:
        return None
    reasons: list[str] = []
    for one in records:
        against = min((one.against(pending, ones, days, now) for ones in (wanted, pending.revisions)), key=len)
        if not against:
            return one
        reasons = reasons or [f"the newest rehearsal, {one.path.name}, does not count: {'; '.join(against)}"]
        if not all(one.elsewhere(pending, ones) for ones in (wanted, pending.revisions)):
            reasons = [f"the newest rehearsal of it, {one.path.name}, does not count: {'; '.join(against)}"]
            break
    ids = ", ".join(one.id for one in wanted)
    problem = reasons[0] if reasons else f"there is no rehearsal of {ids} from {pending.start}"
    raise Refused([Finding("not-rehearsed", "rehearsals", wanted[0].id, {"problem": problem})], NEXT)


def _differing(rehearsed: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    told = []
    missing, more = [one for one in wanted if one not in rehearsed], [one for one in rehearsed if one not in wanted]
    if missing:
        told.append(f"it did not run {', '.join(missing)}")
    if more:
        told.append(f"it ran {', '.join(more)}, which is not to be run here")
    changed = [one for one in wanted if one in rehearsed and rehearsed[one] != wanted[one]]
    if changed:
        told.append(f"{', '.join(changed)} has been edited since")
    if not told and list(rehearsed) != list(wanted):
        told.append("it ran them in another order")
    return told


def _days(age: dt.timedelta) -> str:
    return f"{age.days}d {age.seconds // 3600}h"


def _major(server: str) -> str:
    return server.split(".")[0]


def _shown(heads: Sequence[str]) -> str:
    return ", ".join(heads) or "base"


def _word(heads: Sequence[str]) -> str:
    return "-".join("".join(sign for sign in one if sign.isalnum() or sign == "_") for one in heads)[:80] or "base"
