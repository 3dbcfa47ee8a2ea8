"""What is known of one run: frozen values, as they were read. Times are UTC, durations milliseconds unless named otherwise."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FORMAT = 1
"""Of the JSON: names and meanings stay as they are within one; a new name may come."""


@dataclass(frozen=True)
class Blocker:
    """A session that was in the way; ``pid`` 0 is a prepared transaction. ``age`` is seconds in its transaction."""

    pid: int | None
    application: str = ""
    user: str = ""
    state: str = ""
    age: float | None = None
    holds: str = ""


@dataclass(frozen=True)
class Wait:
    """A wait that was seen, or (``attempt``) a try that ended in one and was rolled back; ``last``: with it the step failed."""

    at: dt.datetime
    revision: str
    attempt: int | None
    waited: float | None
    held: float | None
    sqlstate: str
    blockers: tuple[Blocker, ...]
    seen: int = 1
    last: bool = False


@dataclass(frozen=True)
class Script:
    """A script that a step has run; ``arguments`` are JSON, secrets masked before they were kept."""

    name: str
    arguments: str
    seconds: float | None


@dataclass(frozen=True)
class Step:
    """One step. ``outcome`` is done, failed, skipped, running or cut off; ``locks`` are the strongest on each table.

    ``locks_from`` says how they are known: seen in this run, or traced when the revision was written. ``held`` is how long its
    last try took, so no lock of it was held longer; ``parts``: it commits in the middle, and ``held`` is the longest part.
    """

    revision: str
    direction: str
    outcome: str
    description: str
    author: str
    started: dt.datetime
    ended: dt.datetime
    duration: float
    waited: float
    held: float
    attempts: int
    rows: int | None
    error: str = ""
    sqlstate: str = ""
    waivers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    scripts: tuple[Script, ...] = ()
    locks: tuple[tuple[str, str], ...] = ()
    locks_from: str = ""
    parts: bool = False


@dataclass(frozen=True)
class Finding:
    """What a finding said, and what became of it: accepted, waived, silenced or told."""

    how: str
    said: str
    reason: str = ""
    where: str = ""
    until: str = ""


@dataclass(frozen=True)
class Operation:
    """An operation that commits by itself, as the journal has it."""

    revision: str
    direction: str
    place: int
    operation: str
    target: str
    state: str
    begun: dt.datetime
    done: dt.datetime | None


@dataclass(frozen=True)
class Backfill:
    """A backfill that this run was the last to work on, as it stands now: rows that were looked at, and that were written."""

    name: str
    revision: str
    direction: str
    table: str
    state: str
    rows: int
    written: int
    expected: int
    seconds: float | None
    waits_for: str


@dataclass(frozen=True)
class Kept:
    """A stash that this run has made: what would have been lost."""

    id: int
    revision: str
    direction: str
    state: str
    kept_in: str
    until: dt.datetime
    why: str
    archive: str
    objects: tuple[tuple[str, int | None, int | None, bool], ...]


@dataclass(frozen=True)
class Change:
    """One object of the catalog that came, went or changed; ``parts`` say in what."""

    how: str
    kind: str
    name: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Schema:
    """The catalog before and after: how many of each kind there were, and what differs. ``unknown`` is why it cannot be told."""

    counts: tuple[tuple[str, int, int], ...] = ()
    changes: tuple[Change, ...] = ()
    unknown: str = ""


@dataclass(frozen=True)
class Run:
    """The run itself. ``state`` is done, failed, interrupted, running or killed. ``read_at`` is the server's clock."""

    id: int
    state: str
    command: str
    database: str
    environment: str
    who: str
    db_user: str
    host: str
    pid: int
    commit: str
    tool_version: str
    version_table: str
    heads_before: tuple[str, ...]
    heads_after: tuple[str, ...]
    planned: int
    started: dt.datetime
    ended: dt.datetime | None
    read_at: dt.datetime
    error: str
    exit_code: int | None
    newest: int


@dataclass(frozen=True)
class Next:
    """The one command that follows, and why."""

    command: str
    why: str


@dataclass(frozen=True)
class Report:
    """All of it. ``events``: whether the run has written any, without which nobody knows who was in the way."""

    run: Run
    next: Next
    steps: tuple[Step, ...]
    waits: tuple[Wait, ...]
    findings: tuple[Finding, ...]
    operations: tuple[Operation, ...]
    backfills: tuple[Backfill, ...]
    kept: tuple[Kept, ...]
    schema: Schema
    events: bool


def as_json(report: Report) -> dict[str, Any]:
    """Plain values; times as ISO 8601, null is what is not known."""
    return {"format": FORMAT, **_plain(asdict(report))}


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
