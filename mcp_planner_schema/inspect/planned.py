"""What a plan says, as values; how it is told is in :mod:`.plan_text`, :mod:`.plan_json` and :mod:`.plan_markdown`."""

from __future__ import annotations

from dataclasses import dataclass

from mcp_planner_schema.guard.findings import DONE, REFUSED, Finding

RISKY = 4
"""Exit code: nothing refuses it, and somebody should look before it runs. 1 to 3 and 75 are taken."""

HARMLESS, LOOK, REFUSES = "harmless", "risky", "refused"
CODES = {HARMLESS: DONE, LOOK: RISKY, REFUSES: REFUSED}

STOPS = {
    "SHARE": "writers",
    "SHARE ROW EXCLUSIVE": "writers",
    "EXCLUSIVE": "writers",
    "ACCESS EXCLUSIVE": "readers and writers",
}
"""Whom a lock stops, by its mode; a weaker one lets readers and writers pass."""


@dataclass(frozen=True)
class Table:
    """One table that a revision locks, strongest ``mode``, or writes anew.

    ``there``: ``yes``, ``new`` (a revision before it makes it), or ``unknown`` (this database has none of the name).
    Bytes (with indexes), live rows, rows written and scans begun a second are None where they are not known. ``users`` are
    sessions that it would have to wait for: they have it in use for long just now, in a way that does not go with the mode.
    """

    name: str
    mode: str
    rewritten: bool = False
    there: str = "yes"
    bytes: int | None = None
    rows: int | None = None
    writes: float | None = None
    reads: float | None = None
    users: tuple[str, ...] = ()

    @property
    def stops(self) -> str:
        """Whom it stops; empty where nobody can be in it yet, or it lets all pass."""
        return "" if self.there == "new" else STOPS.get(self.mode, "")

    @property
    def in_the_way(self) -> bool:
        """Whether somebody may have to wait: it stops them, and there are rows, or nobody knows that there are none."""
        return bool(self.stops) and self.rows != 0


@dataclass(frozen=True)
class Locks:
    """Where the locks were found, or why they are not known: then ``problem`` is not empty and there are no tables.

    ``fails`` is what the server says of a revision that no database will take.
    """

    origin: str
    tables: tuple[Table, ...] = ()
    problem: str = ""
    fails: str = ""


@dataclass(frozen=True)
class Before:
    """What the same revision, with the same text, took on this database before. Milliseconds."""

    day: str
    duration_ms: float
    hold_ms: float


@dataclass(frozen=True)
class Estimate:
    """Seconds. ``most`` is None where part of the work is ``unknown``; ``held``, the most that locks are held, likewise.

    ``parts`` are what was reckoned, for people.
    """

    least: float
    most: float | None
    held: float | None
    parts: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    before: Before | None = None


@dataclass(frozen=True)
class Said:
    """A finding of the lint or of the header. ``stands``: it refuses; else it is a warning."""

    finding: Finding
    stands: bool


@dataclass(frozen=True)
class Revision:
    """One pending revision. ``waits`` says why it does not run now; ``skipped`` that it is not for this environment.

    ``sql`` is what ``alembic upgrade <before>:<it> --sql`` writes; None where ``no_sql`` says why. ``reasons`` are why it is
    risky.
    """

    revision: str
    title: str
    file: str
    phase: str
    type: str
    transaction: str
    reversible: str
    locks: Locks
    estimate: Estimate
    deadline_ms: int
    waits: str = ""
    skipped: bool = False
    sql: str | None = None
    no_sql: str = ""
    said: tuple[Said, ...] = ()
    backfills: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def risk(self) -> str:
        """``refused``, ``risky`` or ``harmless``."""
        if any(one.stands for one in self.said):
            return REFUSES
        return LOOK if self.reasons else HARMLESS


@dataclass(frozen=True)
class Plan:
    """All of it. ``database`` is None where none was asked. ``sizes`` says where sizes are from, ``rates`` the same of
    writes and scans; both are empty where they are not known. ``said`` are findings against what is applied already.
    """

    database: str | None
    environment: str
    here: str
    there: str
    revisions: tuple[Revision, ...] = ()
    sizes: str = ""
    rates: str = ""
    said: tuple[Said, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def risk(self) -> str:
        """The worst of what would run now."""
        found = {one.risk for one in self.revisions if not one.waits}
        if any(one.stands for one in self.said) or REFUSES in found:
            return REFUSES
        return LOOK if LOOK in found else HARMLESS

    @property
    def code(self) -> int:
        """The exit code."""
        return CODES[self.risk]
