"""What the rows of one example project share: tables and columns, its tree, and how PostgreSQL writes times and numbers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal

# In this order every foreign key finds its row. Generated columns are left out, all others are written.
COLUMNS: Mapping[str, str] = {
    "projects": "id, name, description, progress, created_at, updated_at, complexity_threshold, max_iterations, "
    "child_count, child_progress",
    "tasks": "id, project_id, parent_task_id, title, objective, progress, prev_id, next_id, created_at, updated_at, "
    "child_count, child_progress, chain_position, finished",
    "steps": "id, project_id, task_id, title, prev_id, next_id, progress, server_content, client_content, "
    "final_content, iteration_count, max_iterations_reached, status, server_ready, client_approved, "
    "server_complexity, client_complexity, agreed_complexity, complexity_score, should_promote, created_at, updated_at, "
    "chain_position, finished",
    "disputes": "id, project_id, step_id, server_content, client_content, server_reasoning, client_reasoning, status, "
    "user_resolution, resolved_content, resolved_at, created_at, updated_at",
    "complexity_assessments": "id, project_id, step_id, agent, iteration, level, score, reasoning, should_promote, "
    "confidence, suggested_breakdown, metrics, assessed_at",
    "complexity_agreements": "id, project_id, step_id, iteration, agreed, final_level, final_score, should_promote, "
    "resolution, created_at",
    "step_promotions": "id, project_id, step_id, step_title, new_task_id, reason, complexity_score, "
    "preserved_content, promoted_at",
    "complexity_runs": "id, project_id, threshold, iterations_used, iterations_allowed, steps_analysed, steps_promoted, "
    "convergence_reason, started_at, finished_at",
    "threshold_changes": "id, project_id, old_threshold, new_threshold, changed_by, changed_at",
    "navigation_links": "id, project_id, from_task_id, from_step_id, to_task_id, to_step_id, position, closes_circle",
    "navigation_cursors": "id, project_id, actor, current_task_id, current_step_id, updated_at",
    "audit_logs": "id, entity_type, entity_id, action, old_values, new_values, metadata, user_id, ai_agent, "
    "occurred_at, project_id",
}

NULL = r"\N"
_EPOCH = date(2025, 1, 1)
DAY = 86_400
_DAYS = tuple(str(_EPOCH + timedelta(days=day)) for day in range(800))
_MINUTES = tuple(f" {minute // 60:02}:{minute % 60:02}:" for minute in range(1440))
# Microseconds that end in no zero: PostgreSQL would print them shorter, and what comes out should equal what went in.
_FRACTIONS = tuple(f".{(number * 7919 % 99_991) * 10 + 1 + number % 9:06}+00" for number in range(251))
SCORES = tuple(repr(score / 100).removesuffix(".0") for score in range(101))
LEVELS = tuple("LOW" if score < 40 else "MEDIUM" if score < 70 else "HIGH" for score in range(101))


@dataclass
class Project:
    """One project's rows as they grow, and what they have in common. Times are seconds since the epoch above."""

    id: str
    threshold: int  # hundredths
    most_rounds: int
    begun: int
    advance: float  # the share of its steps that has been worked on
    dice: random.Random
    ids: Iterator[str]
    lines: dict[str, list[str]] = field(default_factory=lambda: {table: [] for table in COLUMNS})
    user: int = 0

    def audit(self, entity: str, entity_id: str, fields: str, at: int) -> None:
        """Add one audit row; `fields` are those from `action` to `ai_agent`."""
        self.lines["audit_logs"].append(f"{next(self.ids)}\t{entity}\t{entity_id}\t{fields}\t{stamp(at)}\t{self.id}")


@dataclass(frozen=True)
class Outline:
    """A project's tree before it has texts: for each task its id, parent (-1 for a root) and the ids of its steps.

    Parents come before their children. `previous`, `following` and `places` go by item: its references, and where it stands.
    """

    tasks: list[str]
    parents: list[int]
    steps: list[list[str]]
    items: list[tuple[str, str]] = field(default_factory=list)
    previous: dict[str, str] = field(default_factory=dict)
    following: dict[str, str] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)


def stamp(seconds: int) -> str:
    """A time as PostgreSQL prints it in UTC."""
    return f"{_DAYS[seconds // DAY]}{_MINUTES[seconds // 60 % 1440]}{seconds % 60:02}{_FRACTIONS[seconds % 251]}"


def project_id(seed: int, number: int) -> str:
    """The id of example project `number`: a version 8 UUID that begins with the seed's mark and ends with the number."""
    mark = hashlib.sha256(f"mcp-planner example data, seed {seed}".encode()).hexdigest()
    return f"{mark[:8]}-{mark[8:12]}-8{mark[12:15]}-a{mark[15:18]}-{number:012x}"


def stored_sum(value: int) -> str:
    """A sum of progress as PostgreSQL prints it at 15 decimals; `value` counts the last of them."""
    return f"{value // 10**15}.{value % 10**15:015}"


def units(value: float) -> int:
    """Progress as it is added up: PostgreSQL takes 15 significant digits of it, then 15 decimals."""
    return int((Decimal(f"{value:.15g}") * 10**15).to_integral_value(ROUND_HALF_UP))


def mean(total: int, count: int) -> float:
    """Progress of what has `count` children with `total` units in all: the quotient at 20 decimals, then a float."""
    return (2 * total * 10**5 + count) // (2 * count) / 10**20 if count else 0.0


def number_text(value: float) -> str:
    """A float as PostgreSQL prints it."""
    return repr(value).removesuffix(".0")
