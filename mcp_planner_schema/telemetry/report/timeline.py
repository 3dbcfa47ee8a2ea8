"""Where the bars of a timeline begin and end: percent of the whole run, to be drawn in whatever width there is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mcp_planner_schema.telemetry.report.facts import Report, Step, Wait

_LEAST = 0.5
"""Percent that a bar has at least: a step of 7 ms in a run of an hour is seen too."""


@dataclass(frozen=True)
class Bar:
    """``kind``: work (the step is at it), hold (its last or a failed try held locks), wait (it waited for some)."""

    kind: str
    start: float
    width: float


@dataclass(frozen=True)
class Row:
    """One step: its bars, and what they say in words."""

    step: Step
    bars: tuple[Bar, ...]


def rows(report: Report) -> tuple[dt.datetime, float, tuple[Row, ...]]:
    """When it begins, how many milliseconds it lasts, and a row for each step."""
    run, steps = report.run, report.steps
    begin = min([run.started, *(one.started for one in steps)])
    # Of one that was killed nobody knows when: what is written is when it was found.
    last = run.read_at if run.state == "running" else run.ended if run.state in ("done", "failed") else None
    end = max([last or begin, *(one.ended for one in steps)])
    total = max((end - begin).total_seconds() * 1000, 1.0)
    return begin, total, tuple(Row(one, _bars(one, report.waits, begin, total)) for one in steps)


def _bars(step: Step, waits: Sequence[Wait], begin: dt.datetime, total: float) -> tuple[Bar, ...]:
    ended = _since(begin, step.ended)
    spans = [("work", ended - step.duration, ended)]
    waited = step.waited
    for one in (one for one in waits if one.revision == step.revision and one.attempt is not None):
        if not step.started <= one.at <= step.ended:
            continue
        at, held = _since(begin, one.at), max(one.held or 0.0, one.waited or 0.0)
        spans += [("hold", at - held, at), ("wait", at - (one.waited or 0.0), at)]
        waited -= one.waited or 0.0
    if not step.parts:
        spans.append(("hold", ended - step.held, ended))
    if waited > 0:  # of the last try: when in it nobody has noted, mostly at its beginning
        first = ended - max(step.held, waited)
        spans.append(("wait", first, first + waited))
    return tuple(_drawn(spans, total))


def _drawn(spans: Iterable[tuple[str, float, float]], total: float) -> Iterable[Bar]:
    for kind, start, end in spans:
        if end <= start and kind != "work":
            continue
        left = min(max(100 * start / total, 0.0), 100 - _LEAST)
        yield Bar(kind, round(left, 2), round(min(max(100 * end / total - left, _LEAST), 100 - left), 2))


def _since(begin: dt.datetime, at: dt.datetime) -> float:
    return (at - begin).total_seconds() * 1000
