"""What a migration has made of the application's queries: times and plans before and afterwards, and when that is a finding."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.staging.queries import Measured

FACTOR = 1.5
"""How many times as long is worse."""
FLOOR = 1.0
"""Milliseconds that it has to be longer by: below, it is the machine's mood."""
BLOCKS = 1_000
"""Blocks that by themselves are worse, on a copy that fits into memory whatever its plans are: 8 MB more for each time."""
MACHINE = 2.0
"""How many times as slow a machine may have become, or have been, for its clock to be believed at all."""


@dataclass(frozen=True)
class Impact:
    """One query, before and afterwards."""

    query: str
    before: Measured
    after: Measured

    @property
    def factor(self) -> float:
        """How many times as long it takes."""
        return self.after.ms / max(self.before.ms, 0.001)

    @property
    def other_plan(self) -> bool:
        """Whether other nodes, or other indexes, give the answer."""
        return self.before.plan != self.after.plan

    @property
    def machine(self) -> float:
        """How many times as slow the machine has become by itself, by the yardstick beside this query; below 1: it was before."""
        if not (self.before.yardstick and self.after.yardstick):
            return 1.0
        return statistics.median(self.after.yardstick) / statistics.median(self.before.yardstick)

    @property
    def believed(self) -> bool:
        """Whether the machine is enough like it was for its clock to say something."""
        return 1 / MACHINE <= self.machine <= MACHINE

    @property
    def relative(self) -> float:
        """How many times as long it takes, next to the yardstick that was timed after each run."""
        return statistics.median(self._after) / max(statistics.median(self._before), 1e-6)

    @property
    def surely(self) -> float:
        """The same by the runs that speak for it: three of four say that it is as slow, or slower."""
        return min(_quartile(self._after) / max(statistics.median(self._before), 1e-6), self.relative)

    @property
    def slower(self) -> bool:
        """Whether the clock says so, as it is or next to the yardstick."""
        by_itself = self.factor > FACTOR and self.after.ms - self.before.ms > FLOOR
        return by_itself or (self.relative > FACTOR and self.after.ms - self.before.ms * self.machine > FLOOR)

    @property
    def heavier(self) -> bool:
        """Whether it touches more blocks, which do not depend on what else the machine does."""
        return self.after.blocks > FACTOR * self.before.blocks

    @property
    def doubtful(self) -> bool:
        """Only the clock speaks against it: it is to be measured once more, whatever its plan has become."""
        return not self.after.error and self.slower and not self.heavier

    def finding(self, file: str) -> Finding | None:
        """What stands against it; None where it is as good as before."""
        if self.after.error:
            return Finding("query-broken", file, "", {"query": self.query, "error": self.after.error, "file": file})
        if self.before.error or self.before.skipped or self.after.skipped:
            return None
        values = {"query": self.query, "factor": self._factor_told(), "before": _shown(self.before)}
        values |= {"after": _shown(self.after), "plan": self.plan_told()}
        if self.heavier and self.after.blocks - self.before.blocks >= BLOCKS:
            return Finding("performance-impact", file, "", values)
        if not self.slower:
            return None
        if not self.believed:
            return Finding("performance-unclear", file, "", values | {"machine": _machine_told(self.machine)})
        # More blocks, or another plan, say the same as the clock; alone it has to be sure.
        sure = self.relative if self.heavier or self.other_plan else self.surely
        return Finding("performance-impact", file, "", values) if sure > FACTOR else None

    def note(self) -> str:
        """What people have to know of a query that took longer, and that nothing stands against; empty where there is nothing."""
        if self.after.error or not self.slower or self.finding("") is not None:
            return ""
        beside = f"the machine had become {self.machine:.1f} times as slow" if self.machine > 1 else "not in each run"
        return f"the query '{self.query}' took {self.factor:.1f} times as long, which does not count: {beside}"

    def plan_told(self) -> str:
        """What has become of the plan, in one line."""
        if not self.other_plan:
            return f"the plan is the same: {_flat(self.after)}"
        return f"{_flat(self.before)} has become {_flat(self.after)}"

    def _factor_told(self) -> str:
        told = f"{self.factor:.1f}"
        return told if self.slower else f"{told} (blocks: {self.after.blocks / max(self.before.blocks, 1):.1f})"

    @property
    def _before(self) -> list[float]:
        return _next_to(self.before, self.after)

    @property
    def _after(self) -> list[float]:
        return _next_to(self.after, self.before)


def compare(before: Mapping[str, Measured], after: Mapping[str, Measured]) -> list[Impact]:
    """Each query that was asked both times, in the order of the file."""
    return [Impact(name, before[name], after[name]) for name in after if name in before]


def _next_to(one: Measured, other: Measured) -> list[float]:
    """Each run next to the yardstick after it; as it is where that was not timed both times."""
    runs = one.runs or (one.ms,)
    if not (one.yardstick and other.yardstick):
        return list(runs)
    return [run / beside for run, beside in zip(runs, one.yardstick, strict=False)]


def _quartile(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=4, method="inclusive")[0] if len(times) > 1 else times[0]


def _machine_told(machine: float) -> str:
    return f"has become {machine:.1f} times as slow" if machine > 1 else f"was {1 / machine:.1f} times as slow before"


def _shown(one: Measured) -> str:
    return f"{one.ms:.2f} ms, {one.blocks:,} blocks"


def _flat(one: Measured) -> str:
    return " > ".join(line.strip() for line in one.plan[:6]) + (" > …" if len(one.plan) > 6 else "")
