"""What the triggers promise, once more and simply: rows in a dictionary, every number counted anew after each statement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any, ClassVar

MOVES = {
    "PENDING": {"SERVER_DRAFT"},
    "SERVER_DRAFT": {"CLIENT_REVIEW", "DISPUTED"},
    "CLIENT_REVIEW": {"AGREED", "SERVER_DRAFT", "DISPUTED"},
    "DISPUTED": {"USER_RESOLUTION"},
    "USER_RESOLUTION": {"AGREED"},
    "AGREED": set(),
}


class RefusedError(Exception):
    """The statement is refused, with this SQLSTATE; what the model holds is to be thrown away."""


@dataclass(frozen=True)
class Row:
    """A row: the columns that are logged, except created_at."""

    id: str
    table: ClassVar[str]

    @property
    def ref(self) -> str:
        """Its key in the model; for tasks and steps what prev_id and next_id of others say."""
        return f"{self.table[:-1]}://{self.id}"


@dataclass(frozen=True)
class Project(Row):
    """A row of projects."""

    table = "projects"
    name: str = "a project"
    description: str = "x"
    progress: float = 0
    complexity_threshold: float = 0.7
    max_iterations: int = 3


@dataclass(frozen=True)
class Task(Row):
    """A row of tasks."""

    table = "tasks"
    project_id: str
    title: str
    parent_task_id: str | None = None
    objective: str = "x"
    progress: float = 0
    prev_id: str | None = None
    next_id: str | None = None


@dataclass(frozen=True)
class Step(Row):
    """A row of steps."""

    table = "steps"
    project_id: str
    title: str
    task_id: str
    progress: float = 0
    prev_id: str | None = None
    next_id: str | None = None
    status: str = "PENDING"
    server_content: str | None = None
    client_content: str | None = None
    final_content: str | None = None
    iteration_count: int = 0
    max_iterations_reached: bool = False
    server_ready: bool = False
    client_approved: bool = False
    server_complexity: str | None = None
    client_complexity: str | None = None
    agreed_complexity: str | None = None
    complexity_score: float | None = None
    should_promote: bool | None = None


@dataclass(frozen=True)
class Dispute(Row):
    """A row of disputes."""

    table = "disputes"
    project_id: str
    step_id: str
    server_content: str = "x"
    client_content: str = "x"
    server_reasoning: str = "x"
    client_reasoning: str = "x"
    status: str = "PENDING"
    user_resolution: str | None = None
    resolved_content: str | None = None
    resolved_at: str | None = None


def parent_of(row: Any) -> str | None:
    """The row whose deletion takes this one along."""
    if isinstance(row, Dispute):
        return f"step://{row.step_id}"
    if isinstance(row, Step):
        return f"task://{row.task_id}"
    if isinstance(row, Task):
        return f"task://{row.parent_task_id}" if row.parent_task_id else f"project://{row.project_id}"
    return None


def mean(shares: list[float]) -> float:
    """The mean as SQL counts it: a child at 15 digits and 15 decimals, the result at 20 decimals, halves away from zero."""
    if not shares:
        return 0
    with localcontext(prec=60, rounding=ROUND_HALF_UP):
        total = sum(Decimal(f"{share:.15g}").quantize(Decimal("1e-15")) for share in shares)
        return float((total / len(shares)).quantize(Decimal("1e-20")))


class Planner:
    """One project and all that is in it."""

    def __init__(self, project: Project) -> None:
        self.rows: dict[str, Any] = {project.ref: project}
        self.promoted: set[str] = set()

    def insert(self, *rows: Any) -> None:
        """One INSERT."""
        self._write({}, rows)

    def update(self, refs: Iterable[str], **columns: Any) -> None:
        """One UPDATE of those that exist."""
        was = {ref: self.rows[ref] for ref in dict.fromkeys(refs) if ref in self.rows}
        self._write(was, [replace(row, **columns) for row in was.values()])

    def delete(self, ref: str) -> None:
        """One DELETE, with all that goes along; what stands before and behind each is not joined."""
        row = self.rows.get(ref)
        if row is None:
            return
        if isinstance(row, Task | Step):
            self.link({(ref, None), (None, ref)})
        del self.rows[ref]
        for child in [other for other in self.rows if parent_of(self.rows[other]) == ref]:
            if child in self.rows:
                self.delete(child)
        self._roll_up()

    def link(self, claims: set[tuple[str | None, str | None]]) -> None:
        """Each claim is a link that is to be, or with a None an end that is to have none; what is in the way goes."""
        for ends in zip(*claims, strict=True):
            named = [end for end in ends if end is not None]
            if len(named) > len(set(named)):
                raise RefusedError("MP005")
        for before, behind in claims:
            if before:
                self._set(self.rows[before].next_id, prev_id=None)
                self._set(before, next_id=None)
            if behind:
                self._set(self.rows[behind].prev_id, next_id=None)
                self._set(behind, prev_id=None)
        for before, behind in claims:
            if before and behind:
                self._set(before, next_id=behind)
                self._set(behind, prev_id=before)

    def insert_link(self, before: str, behind: str) -> None:
        """One INSERT into navigation_links, which puts no other link away."""
        if before == behind:
            raise RefusedError("23514")
        for ref, end in ((before, "next_id"), (behind, "prev_id")):
            if ref in self.rows and getattr(self.rows[ref], end) is not None:
                raise RefusedError("23505")
        if before not in self.rows or behind not in self.rows:
            raise RefusedError("23503")
        self.link({(before, behind)})

    def _set(self, ref: str | None, **columns: Any) -> None:
        if ref is not None:
            self.rows[ref] = replace(self.rows[ref], **columns)

    def _write(self, was: dict[str, Any], now: Iterable[Any]) -> None:
        # PostgreSQL's order of refusals: for each row BEFORE triggers, checks and unique keys; then foreign keys, then what
        # the AFTER triggers look at.
        claims: set[tuple[str | None, str | None]] = set()
        for row in now:
            old = was.get(row.ref)
            if isinstance(row, Step):
                if old and row.status != old.status and row.status not in MOVES[old.status]:
                    raise RefusedError("MP001")
                if row.status == "AGREED":
                    row = replace(row, progress=1)
            self._check(row)
            if isinstance(row, Task | Step):
                if row.next_id != (old and old.next_id):
                    claims.add((row.ref, row.next_id))
                if row.prev_id != (old and old.prev_id):
                    claims.add((row.prev_id, row.ref))
                row = replace(row, prev_id=old and old.prev_id, next_id=old and old.next_id)
            self.rows[row.ref] = row
        for row in now:
            if parent_of(row) not in {None, *self.rows}:
                raise RefusedError("23503")
        if any(end is not None and end not in self.rows for claim in claims for end in claim):
            raise RefusedError("MP002")
        for row in now:
            if isinstance(row, Task) and parent_of(row) != (parent_of(was[row.ref]) if row.ref in was else None):
                self._check_place(row)
        if claims:
            self.link(claims)
        self._roll_up()

    def _check(self, row: Any) -> None:
        if isinstance(row, Dispute):
            resolution = {row.user_resolution, row.resolved_content, row.resolved_at}
            right = None not in resolution if row.status == "RESOLVED" else resolution == {None}
            right = right and (row.resolved_content is None or row.resolved_content.strip() != "")
        elif isinstance(row, Step):
            agreed = row.status != "AGREED" or (row.final_content or "").strip() != ""
            right = agreed and 0 <= row.progress <= 1 and row.title.strip() != "" and row.iteration_count >= 0
        else:
            right = row.title.strip() != "" and row.parent_task_id != row.id
        if not right or row.ref in (getattr(row, "prev_id", None), getattr(row, "next_id", None)):
            raise RefusedError("23514")
        for other in self.rows.values():
            if type(other) is type(row) and other.id != row.id and parent_of(other) == parent_of(row):
                if isinstance(row, Dispute) and row.status == other.status == "PENDING":
                    raise RefusedError("23505")
                if not isinstance(row, Dispute) and row.title == other.title:
                    raise RefusedError("23505")

    def _check_place(self, task: Task) -> None:
        above: list[str] = []
        at = parent_of(task)
        while at in self.rows and isinstance(self.rows[at], Task):
            if at == task.ref:
                raise RefusedError("MP003")
            above.append(at)
            at = parent_of(self.rows[at])
        if len(above) + self._height(task.ref) > 100:
            raise RefusedError("MP004")

    def _height(self, ref: str) -> int:
        below = [row.ref for row in self.rows.values() if isinstance(row, Task) and parent_of(row) == ref]
        return 1 + max(map(self._height, below), default=0)

    def _roll_up(self) -> None:
        children: dict[str | None, list[str]] = {}
        for row in self.rows.values():
            if isinstance(row, Task | Step):
                children.setdefault(parent_of(row), []).append(row.ref)

        def count(ref: str) -> float:
            if not isinstance(self.rows[ref], Step):
                self._set(ref, progress=mean([count(child) for child in children.get(ref, [])]))
            return float(self.rows[ref].progress)

        for row in list(self.rows.values()):
            if isinstance(row, Project):
                count(row.ref)


Entry = tuple[str, str, str, dict[str, Any] | None, dict[str, Any] | None]
"""Of an audit row: entity_type, entity_id, action, old_values, new_values."""


def entries(before: dict[str, Any], after: dict[str, Any], promoted: set[str]) -> list[Entry]:
    """The audit rows of a statement: one for each row that is not what it was."""
    found: list[Entry] = []
    for ref in before | after:
        kind = ref.split("://")[0].upper()
        old, new = (rows.get(ref) and asdict(rows[ref]) for rows in (before, after))
        if old is None:
            action = "DISPUTED" if kind == "DISPUTE" else "CREATED"
        elif new is None:
            action = "PROMOTED" if ref in promoted else "DELETED"
        else:
            old, new = ({name: row[name] for name in row if old[name] != new[name]} for row in (old, new))
            arrived = {"AGREED": "COMPLETED", "RESOLVED": "RESOLVED"}
            action = arrived.get(new.get("status", ""), "UPDATED")
        if old or new:
            found.append((kind, ref.split("://")[1], action, old, new))
    return found
