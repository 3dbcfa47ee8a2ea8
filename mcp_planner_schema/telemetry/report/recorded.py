"""What a run has written beside its history: rows of ``event``, read as what they mean.

Their content is somebody's text and is believed in nothing: what has another form than it should have is left out.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mcp_planner_schema.telemetry.report.facts import Blocker, Finding, Wait

# As the guard's watcher writes a session that is in the way. What does not read so is shown as it is.
_SESSION = re.compile(
    r"pid (\d+) \((.*), user ([^,]*), ([^,]*), (?:in its transaction for (\d+) s|since when is unknown)\) holds (.*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Event:
    """One row."""

    kind: str
    at: dt.datetime
    revision: str
    data: Mapping[str, Any]

    def number(self, name: str) -> float | None:
        """A number by its name; None where there is none."""
        return _number(self.data.get(name))

    def text(self, name: str) -> str:
        """A text by its name; empty where there is none."""
        return _text(self.data.get(name))

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts by its name."""
        found = self.data.get(name)
        return tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()


def last(events: Iterable[Event], kind: str, revision: str | None = None) -> Event | None:
    """The last of a kind, of one revision where it is named."""
    found = None
    for one in events:
        if one.kind == kind and revision in (None, one.revision):
            found = one
    return found


def locks(event: Event | None) -> tuple[tuple[str, str], ...]:
    """The strongest lock on each table that a step is said to have held."""
    found = event.data.get("locks") if event else None
    if not isinstance(found, Mapping):
        return ()
    return tuple(sorted((str(table), mode) for table, mode in found.items() if isinstance(mode, str)))


def waits(events: Sequence[Event], clean: Callable[[str], str]) -> tuple[Wait, ...]:
    """Waits and tries that ended in one, in their order. A wait that was told again and again is one, told that often."""
    found: list[Wait] = []
    waited: dict[str, float] = {}
    for one in events:
        if one.kind == "try-failed" or (one.kind == "step-failed" and one.texts("blockers")):
            found.append(_try(one, waited, clean))
        elif one.kind == "waiting":
            seconds = one.number("seconds")
            made = Wait(
                one.at, one.revision, None, None if seconds is None else seconds * 1000, None, "", _blockers(one, clean)
            )
            if found and _continues(found[-1], made):
                made = replace(made, at=found[-1].at, seen=found[-1].seen + 1)
                found.pop()
            found.append(made)
    return tuple(found)


def _try(one: Event, waited: dict[str, float], clean: Callable[[str], str]) -> Wait:
    last, before = one.kind == "step-failed", waited.get(one.revision, 0.0)
    names = ("attempts", "lock_wait_ms", "hold_ms") if last else ("attempt", "waited_ms", "held_ms")
    attempt, until, held = map(one.number, names)
    if until is not None:  # it counts over all tries of the step
        waited[one.revision] = until
    return Wait(
        one.at, one.revision, int(attempt or 0), None if until is None else max(until - before, 0.0), held,
        one.text("sqlstate"), _blockers(one, clean), last=last,
    )  # fmt: skip


def findings(events: Sequence[Event]) -> list[Finding]:
    """Those that refused the run or a step of it, or were told."""
    return [
        Finding(
            one.text("weight") or "told",
            one.text("code"),
            _explained(one.text("code")),
            one.text("where") or one.revision,
        )
        for one in events
        if one.kind == "finding" and one.text("weight") != "accepted"
    ]


def _explained(code: str) -> str:
    """Where the catalogue explains it, for who does not know the code; the names of this case are in the error."""
    from mcp_planner_schema.guard.findings import RULES

    return f"see docs/findings.md#{code}" if code in RULES else ""


def _continues(before: Wait, after: Wait) -> bool:
    return (
        before.attempt is None
        and before.revision == after.revision
        and [one.pid for one in before.blockers] == [one.pid for one in after.blockers]
    )


def _blockers(event: Event, clean: Callable[[str], str]) -> tuple[Blocker, ...]:
    return tuple(_blocker(clean(one)) for one in event.texts("blockers"))


def _blocker(text: str) -> Blocker:
    found = _SESSION.fullmatch(text)
    if found is None:
        return Blocker(None, holds=text)
    pid, application, user, state, age, holds = found.groups()
    return Blocker(int(pid), application, user, state, float(age) if age else None, holds)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
