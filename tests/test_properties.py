"""Random sequences of changes against a small model in Python: rows, links, audit rows and refusals are always the same."""

from __future__ import annotations

import itertools
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, ClassVar

import psycopg2
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule, run_state_machine_as_test
from psycopg2.extensions import TRANSACTION_STATUS_INERROR

from tests.planner_model import MOVES, Dispute, Entry, Planner, Project, RefusedError, Row, Step, Task, entries
from tests.test_progress import ask, new_project, new_task

TITLES = st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "h", " "])
CONTENTS = st.sampled_from([None, "", "x", "x", "y"])
# Beyond what can be, at the edges, where rounding shows, and anything.
PROGRESS = st.sampled_from([0, 1, 0.5, 1 / 3, 0.1, 1 - 2**-53, 5e-16, 1.5, -0.1]) | st.floats(0, 1)
STATUS = st.sampled_from(list(MOVES))

STATE = """
    SELECT 'project://' || id, to_jsonb(one) - %(derived)s FROM projects one WHERE id = %(project)s
    UNION ALL SELECT 'task://' || id, to_jsonb(one) - %(derived)s FROM tasks one WHERE project_id = %(project)s
    UNION ALL SELECT 'step://' || id, to_jsonb(one) - %(derived)s FROM steps one WHERE project_id = %(project)s
    UNION ALL SELECT 'dispute://' || id, to_jsonb(one) - %(derived)s FROM disputes one WHERE project_id = %(project)s
"""
DERIVED = [
    "created_at",
    "updated_at",
    "child_count",
    "child_progress",
    "chain_position",
]  # the validate functions see to them


@pytest.fixture
def cursor(cursor: Any) -> Any:
    """The application's session, in the time zone of the model."""
    ask(cursor, "SET timezone = 'UTC'")
    return cursor


def composed(first: Entry, then: Entry) -> Entry:
    """Two audit rows of one item as one: from the first old values to the last new ones."""
    old = {**(then[3] or {}), **(first[3] or {})}
    if then[4] is None:
        return (*then[:3], old, None)
    new = {**(first[4] or {}), **then[4]}
    kept = [name for name in new if new[name] != old[name]]
    return (*then[:3], {name: old[name] for name in kept}, {name: new[name] for name in kept})


class Changes(RuleBasedStateMachine):
    """A project, its model, and what may happen to them. What is deleted stays in the bundles, to be refused by name."""

    cursor: ClassVar[Any]
    projects: ClassVar[Iterator[int]]
    seen: ClassVar[Counter[str]]
    tasks = Bundle("tasks")
    steps = Bundle("steps")
    disputes = Bundle("disputes")
    items = st.one_of(tasks, steps)
    references = st.one_of(st.none(), tasks, steps)

    def __init__(self) -> None:
        super().__init__()
        self.example = next(self.projects)
        self.ids = itertools.count()
        self.statements = itertools.count()
        self.execute("ROLLBACK")  # what a promotion that failed has left open
        self.project = self.new_id()
        self.model = Planner(Project(self.project))
        self.execute("INSERT INTO projects (id, name, description) VALUES (%s, 'a project', 'x')", self.project)
        # Something to begin with, so that few changes are about nothing: a below it b, c with the chain of steps abcd.
        a, b, c, *steps = [self.new_id() for _ in range(7)]
        for task, title, parent in ((a, "a", None), (b, "b", a), (c, "c", None)):
            self.insert(Task(task, self.project, title, parent))
        for before, step, title in zip([None, *steps], steps, "abcd", strict=False):
            self.insert(Step(step, self.project, title, c, 0.3, before and f"step://{before}"))
        self.begun = {
            "tasks": [f"task://{one}" for one in (a, b, c)],
            "steps": [f"step://{one}" for one in steps],
            "disputes": [self.insert(Dispute(self.new_id(), self.project, steps[0]))],
        }

    def new_id(self) -> str:
        """The n-th id sorts among the others the same way in every run."""
        return str(uuid.UUID(int=random.Random(next(self.ids)).getrandbits(64) << 64 | self.example))

    def execute(self, sql: str, *values: Any) -> None:
        """A statement, whatever comes of it."""
        self.cursor.execute(sql, values or None)

    # --- one statement ------------------------------------------------------------------------------------------------

    def run(self, change: Callable[[], None], sql: str, *values: Any, once: bool = True) -> bool:
        """Do it in both worlds, and compare. `once`: no item is logged twice."""
        before = dict(self.model.rows)
        actor = f"statement {self.example}.{next(self.statements)}"
        expected = refused = None
        self.execute("SELECT set_config('planner.user_id', %s, false)", actor)
        try:
            change()
        except RefusedError as error:
            self.model.rows = before
            expected = str(error)

        try:
            self.execute(sql, *values)
        except psycopg2.Error as error:
            refused = error.pgcode
            if self.cursor.connection.info.transaction_status == TRANSACTION_STATUS_INERROR:
                self.execute("ROLLBACK")

        self.seen[refused or "done"] += 1
        assert refused == expected
        self.compare_state()
        self.compare_audit(actor, entries(before, self.model.rows, self.model.promoted), once=once)
        return refused is None

    def compare_state(self) -> None:
        """Every column of every row, the links, and what the validating functions find."""
        self.cursor.execute(STATE, {"derived": DERIVED, "project": self.project})
        assert dict(self.cursor.fetchall()) == {
            ref: asdict(row) | ({"finished": row.progress >= 1} if isinstance(row, Task | Step) else {})
            for ref, row in self.model.rows.items()
        }
        links = ask(self.cursor, "SELECT from_ref, to_ref FROM navigation_links WHERE project_id = %s", self.project)
        nexts = [(ref, getattr(row, "next_id", None)) for ref, row in self.model.rows.items()]
        assert sorted(links) == sorted(link for link in nexts if link[1])
        assert ask(self.cursor, "SELECT * FROM validate_progress(%s)", self.project) == []
        assert ask(self.cursor, "SELECT * FROM validate_navigation(%s) WHERE problem <> 'circle'", self.project) == []

    def compare_audit(self, actor: str, expected: list[Entry], *, once: bool) -> None:
        """The audit rows of the statement, in any order."""
        columns = "entity_type, entity_id, action, old_values, new_values"
        logged: dict[str, Entry] = {}
        for entry in ask(
            self.cursor,
            f"SELECT {columns} FROM audit_logs WHERE project_id = %s AND user_id = %s ORDER BY occurred_at",
            self.project,
            actor,
        ):
            if entry[2] != "UPDATED":
                for values in entry[3:]:
                    (values or {}).pop("created_at", None)
            if entry[1] in logged:
                twice = logged[entry[1]][3:] and (logged[entry[1]][3] or {}).keys() & (entry[3] or {}).keys()
                assert not (once and twice), f"{entry[0]} {entry[1]} is logged twice: {logged[entry[1]]}, {entry}"
                entry = composed(logged[entry[1]], entry)
            logged[entry[1]] = entry
        found = [entry for entry in logged.values() if entry[3] or entry[4]]
        assert sorted(found, key=str) == sorted(expected, key=str)

    def insert(self, *rows: Row) -> Any:
        """One INSERT; gives the last row's reference for a bundle, nothing where it is refused."""
        names = [name for name, value in asdict(rows[0]).items() if value is not None]
        one = f"({', '.join(['%s'] * len(names))})"
        values = [asdict(row)[name] for row in rows for name in names]
        sql = f"INSERT INTO {rows[0].table} ({', '.join(names)}) VALUES {', '.join([one] * len(rows))}"
        return rows[-1].ref if self.run(lambda: self.model.insert(*rows), sql, *values) else multiple()

    def update(self, *refs: str, once: bool = True, **columns: Any) -> None:
        """One UPDATE."""
        names = ", ".join(f"{name} = %s" for name in columns)
        table = refs[0].split("://")[0] + "s"
        sql = f"UPDATE {table} SET {names} WHERE id = ANY (%s::uuid[]) AND project_id = %s"
        ids = [ref.split("://")[1] for ref in refs]
        self.run(lambda: self.model.update(refs, **columns), sql, *columns.values(), ids, self.project, once=once)

    def delete(self, ref: str, *, once: bool = True) -> None:
        """One DELETE."""
        table, item = ref.replace("://", "s ").split()
        sql = f"DELETE FROM {table} WHERE id = %s AND project_id = %s"
        self.run(lambda: self.model.delete(ref), sql, item, self.project, once=once)

    # --- what may happen ----------------------------------------------------------------------------------------------

    @initialize(target=tasks)
    def begin_tasks(self) -> Any:
        """Three tasks, and one of another project, which is nothing here."""
        return multiple(*self.begun["tasks"], f"task://{new_task(self.cursor, new_project(self.cursor))}")

    @initialize(target=steps)
    def begin_steps(self) -> Any:
        """Four steps."""
        return multiple(*self.begun["steps"])

    @initialize(target=disputes)
    def begin_disputes(self) -> Any:
        """A dispute."""
        return self.begun["disputes"][0]

    @rule(target=tasks, parent=st.none() | tasks, title=TITLES, prev=references, next=references)
    def insert_task(self, parent: str | None, title: str, prev: str | None, next: str | None) -> Any:
        """A task at the root or below another, at its place in a chain."""
        return self.insert(
            Task(self.new_id(), self.project, title, parent and parent[7:], prev_id=prev, next_id=next),
        )

    @rule(target=tasks, parent=tasks, title=TITLES, length=st.sampled_from([2, 3, 50]))
    def insert_line(self, parent: str, title: str, length: int) -> Any:
        """Tasks each below the one before, by one statement."""
        ids = [parent[7:], *[self.new_id() for _ in range(length)]]
        last = self.insert(*[Task(one, self.project, title, above) for above, one in itertools.pairwise(ids)])
        return multiple(f"task://{ids[1]}", last) if isinstance(last, str) else last

    @rule(target=steps, task=tasks, title=TITLES, progress=PROGRESS, status=STATUS, content=CONTENTS, prev=references,
          next=references)  # fmt: skip
    def insert_step(
        self,
        task: str,
        title: str,
        progress: float,
        status: str,
        content: str | None,
        prev: str | None,
        next: str | None,
    ) -> Any:
        """A step of any status and progress, at its place in a chain."""
        return self.insert(
            Step(self.new_id(), self.project, title, task[7:], progress, prev, next, status, final_content=content)
        )

    @rule(
        step=steps,
        status=STATUS,
        more=st.fixed_dictionaries({}, optional={"final_content": CONTENTS, "progress": PROGRESS}),
    )
    def move_status(self, step: str, status: str, more: dict[str, Any]) -> None:
        """A step negotiated on, legally or not, perhaps with what goes with it."""
        self.update(step, status=status, **more)

    @rule(step=steps, content=CONTENTS, data=st.data())
    def move_status_on(self, step: str, content: str | None, data: st.DataObject) -> None:
        """A move that the negotiation knows."""
        row = self.model.rows.get(step)
        if row and MOVES[row.status]:
            self.update(step, status=data.draw(st.sampled_from(sorted(MOVES[row.status]))), final_content=content)

    @rule(step=steps, progress=PROGRESS)
    def work(self, step: str, progress: float) -> None:
        """Progress of a step."""
        self.update(step, progress=progress)

    @rule(item=items, title=TITLES)
    def rename(self, item: str, title: str) -> None:
        """Another title, perhaps one that a sibling has."""
        self.update(item, title=title)

    @rule(task=tasks, progress=PROGRESS, objective=TITLES.filter(str.strip))
    def write_what_is_derived(self, task: str, progress: float, objective: str) -> None:
        """An older release writes a task's progress, which has no effect, with something that has."""
        sql = "UPDATE tasks SET objective = %s, progress = %s, child_count = 7 WHERE id = %s AND project_id = %s"
        self.run(
            lambda: self.model.update([task], objective=objective), sql, objective, progress, task[7:], self.project
        )

    @rule(step=steps, task=tasks)
    def move_step(self, step: str, task: str) -> None:
        """A step into another task."""
        # The task it leaves may be above the one it comes to, or the other way round. The first level of the roll-up changes
        # both, and the next ones the upper once more: it is logged with what it held in between.
        self.update(step, task_id=task[7:], once=False)

    @rule(task=tasks, parent=st.none() | tasks)
    def move_task(self, task: str, parent: str | None) -> None:
        """A task below another one, perhaps one of its own."""
        self.update(task, parent_task_id=parent and parent[7:], once=False)  # see move_step

    @rule(item=items, prev=references, next=references, ends=st.sampled_from(["prev_id", "next_id", "both"]))
    def reorder(self, item: str, prev: str | None, next: str | None, ends: str) -> None:
        """Another neighbour, or none, before or behind an item, or both."""
        columns = {"prev_id": prev, "next_id": next}
        self.update(item, **(columns if ends == "both" else {ends: columns[ends]}))

    @rule(one=steps, other=steps, end=st.sampled_from(["prev_id", "next_id"]), reference=references)
    def reorder_two(self, one: str, other: str, end: str, reference: str | None) -> None:
        """Two steps are given the same neighbour."""
        self.update(one, other, **{end: reference})

    @rule(one=items, other=items)
    def insert_link(self, one: str, other: str) -> None:
        """A release that writes links makes one."""
        columns = ", ".join(f"{end}_{ref[:4]}_id" for end, ref in (("from", one), ("to", other)))
        sql = f"INSERT INTO navigation_links (project_id, {columns}) VALUES (%s, %s, %s)"
        self.run(lambda: self.model.insert_link(one, other), sql, self.project, one[7:], other[7:])

    @rule(item=items)
    def delete_link(self, item: str) -> None:
        """It takes one away."""

        def cut() -> None:
            if item in self.model.rows:
                self.model.link({(item, None)})

        self.run(cut, "DELETE FROM navigation_links WHERE project_id = %s AND from_ref = %s", self.project, item)

    @rule(target=tasks, step=steps, keeps_place=st.booleans())
    def promote(self, step: str, keeps_place: bool) -> Any:
        """A step becomes a task below the one it belonged to, in one transaction; perhaps where it stood in the chain."""
        row = self.model.rows.get(step)
        if row is None:
            return multiple()
        place = {"prev_id": row.prev_id, "next_id": row.next_id} if keeps_place else {}
        task = Task(self.new_id(), self.project, row.title, row.task_id, **place)
        self.execute("BEGIN")
        if self.insert(task) != task.ref:
            return multiple()
        self.run(
            lambda: self.model.promoted.add(step),
            "INSERT INTO step_promotions (step_id, step_title, new_task_id, reason) VALUES (%s, %s, %s, 'x')",
            row.id, row.title, task.id,
        )  # fmt: skip
        self.delete(step)
        self.execute("COMMIT")
        return task.ref

    @rule(target=disputes, step=steps)
    def dispute(self, step: str) -> Any:
        """A dispute over a step, which may have one already."""
        return self.insert(Dispute(self.new_id(), self.project, step[7:]))

    @rule(dispute=disputes, choice=st.sampled_from([None, "SERVER", "CUSTOM", "HYBRID"]), content=CONTENTS)
    def resolve(self, dispute: str, choice: str | None, content: str | None) -> None:
        """A dispute settled, completely or not, perhaps once more."""
        self.update(dispute, status="RESOLVED", user_resolution=choice, resolved_content=content,
                    resolved_at="2026-01-31T00:00:00+00:00")  # fmt: skip

    @rule(step=steps)
    def delete_step(self, step: str) -> None:
        """A step with its disputes."""
        self.delete(step)

    @rule(task=tasks, other=st.none() | tasks)
    def delete_task(self, task: str, other: str | None) -> None:
        """A task with all that is below it, and perhaps another one after it."""
        # Each deleted item takes its links along by a cascade of its own. Who stood between two of them loses one neighbour
        # after the other, and who stood beside one may be deleted itself later.
        for one in filter(None, (task, other)):
            self.delete(one, once=False)


def begun(cursor: Any) -> type[Changes]:
    """The class of all sequences on this cursor."""

    class Sequence(Changes):
        """On this cursor."""

    Sequence.cursor, Sequence.projects, Sequence.seen = cursor, itertools.count(1), Counter()
    return Sequence


def search(cursor: Any, **how: Any) -> Counter[str]:
    """Run sequences until one fails; gives how often statements ended how."""
    sequence = begun(cursor)
    run_state_machine_as_test(sequence, settings=settings(deadline=None, database=None, print_blob=True, **how))
    return sequence.seen


def test_every_refusal_is_known_to_the_model(cursor: Any) -> None:
    """One sequence by hand in which each SQLSTATE occurs, so that no search has to be lucky."""
    state = begun(cursor)()
    a, b, c = state.begun["tasks"]
    one, other, third, _ = state.begun["steps"]

    state.update(one, status="AGREED")
    state.update(one, next_id=f"step://{uuid.uuid4()}")
    state.move_task(a, b)
    state.insert_line(b, "line", 98)
    state.insert_line(b, "too deep", 99)
    state.update(one, third, next_id=state.begun["steps"][3])
    state.update(one, other, next_id=c)
    state.move_step(one, f"task://{uuid.uuid4()}")
    state.rename(one, "b")
    state.rename(one, " ")

    assert set(state.seen) == {"done", "MP001", "MP002", "MP003", "MP004", "MP005", "23503", "23505", "23514"}


def test_a_step_that_moves_down_is_logged_in_the_order_of_its_changes(cursor: Any) -> None:
    """Its old task is changed twice by the roll-up; the audit trail read by time ends with what the task holds."""
    state = begun(cursor)()
    above = state.begun["tasks"][2]
    below = state.insert(Task(state.new_id(), state.project, "below", above[7:]))

    state.move_step(state.begun["steps"][0], below)

    last = "SELECT new_values -> 'progress' FROM entity_audit_trail('TASK', %s, 1)"
    assert ask(cursor, last, above[7:]) == [state.model.rows[above].progress]


def test_short_sequences_are_what_the_model_says(cursor: Any) -> None:
    """Sequences of up to 15 changes: after each the database holds, logs and refuses what the model does."""
    seen = search(cursor, max_examples=40, stateful_step_count=15)

    assert seen["done"] > 100


@pytest.mark.long
def test_long_sequences_are_what_the_model_says(cursor: Any) -> None:
    """More of them, and of up to 60 changes."""
    seen = search(cursor, max_examples=150, stateful_step_count=60)

    assert seen["done"] > 1000
