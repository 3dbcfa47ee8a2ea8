"""What a migration has made of the application's queries: times and plans before and afterwards, and when that is a finding."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.staging.queries import Measured

FACTOR = 1.5
"""How many times as long is worse."""
FLOOR = 1.0
"""Milliseconds that it has to be longer by: below, it is the machine's mood."""
BLOCKS = 1_000
"""Blocks that by themselves are worse, on a copy that fits into memory whatever its plans are: 8 MB more for each time."""


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
    def slower(self) -> bool:
        """Whether the clock says so."""
        return self.factor > FACTOR and self.after.ms - self.before.ms > FLOOR

    @property
    def heavier(self) -> bool:
        """Whether it touches more blocks, which do not depend on what else the machine does."""
        return self.after.blocks > FACTOR * self.before.blocks

    @property
    def doubtful(self) -> bool:
        """Only the clock speaks against it: it is to be measured once more."""
        return not self.after.error and self.slower and not self.heavier and not self.other_plan

    @property
    def machine(self) -> float:
        """How many times as slow the machine has become by itself, 1 at least: something else runs on it."""
        if not (self.before.yardstick and self.after.yardstick):
            return 1.0
        return max(1.0, statistics.median(self.after.yardstick) / statistics.median(self.before.yardstick))

    @property
    def clear(self) -> bool:
        """Whether even the best of all later runs is worse than what was usual before, on a machine as it is now."""
        return min(self.after.runs, default=self.after.ms) > FACTOR * self.machine * self.before.ms

    def finding(self, file: str) -> Finding | None:
        """What stands against it; None where it is as good as before."""
        if self.after.error:
            return Finding("query-broken", file, "", {"query": self.query, "error": self.after.error, "file": file})
        if self.before.error or self.before.skipped or self.after.skipped:
            return None
        more = self.after.blocks - self.before.blocks
        slower = self.slower and (not self.doubtful or self.clear)
        if not slower and not (self.heavier and more >= BLOCKS):
            return None
        values = {
            "query": self.query,
            "factor": f"{self.factor:.1f}"
            if self.slower
            else f"{self.factor:.1f} (blocks: {self._blocks_factor():.1f})",
            "before": _shown(self.before),
            "after": _shown(self.after),
            "plan": self.plan_told(),
        }
        return Finding("performance-impact", file, "", values)

    def plan_told(self) -> str:
        """What has become of the plan, in one line."""
        if not self.other_plan:
            return f"the plan is the same: {_flat(self.after)}"
        return f"{_flat(self.before)} has become {_flat(self.after)}"

    def _blocks_factor(self) -> float:
        return self.after.blocks / max(self.before.blocks, 1)


def compare(before: Mapping[str, Measured], after: Mapping[str, Measured]) -> list[Impact]:
    """Each query that was asked both times, in the order of the file."""
    return [Impact(name, before[name], after[name]) for name in after if name in before]


def _shown(one: Measured) -> str:
    return f"{one.ms:.2f} ms, {one.blocks:,} blocks"


def _flat(one: Measured) -> str:
    return " > ".join(line.strip() for line in one.plan[:6]) + (" > …" if len(one.plan) > 6 else "")
