"""Progress flows up: by triggers that add to counters, checked against functions that count anew, as a role that owns nothing."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from alembic import command
from alembic.config import Config

from mcp_planner_schema import example_data
from tests.conftest import Database
from tests.until import until


def ask(cursor: Any, sql: str, *values: Any) -> list[Any]:
    """The rows of a statement; of a single column its values."""
    cursor.execute(sql, values or None)
    rows = cursor.fetchall() if cursor.description else []
    return [row[0] if len(row) == 1 else row for row in rows]


def new_project(cursor: Any, name: str = "a project") -> str:
    """A project's id."""
    return str(ask(cursor, "INSERT INTO projects (name, description) VALUES (%s, 'x') RETURNING id", name)[0])


def new_task(cursor: Any, project: str, parent: str | None = None) -> str:
    """A task's id."""
    return str(
        ask(cursor, "INSERT INTO tasks (project_id, parent_task_id, title, objective)"
            " VALUES (%s, %s, gen_random_uuid(), 'x') RETURNING id", project, parent)[0]
    )  # fmt: skip


def new_steps(cursor: Any, task: str, *progress: float) -> list[str]:
    """Ids of new steps, in the order of their progress values."""
    return [
        str(ask(cursor, "INSERT INTO steps (task_id, title, progress) VALUES (%s, gen_random_uuid(), %s) RETURNING id",
                task, one)[0])
        for one in progress
    ]  # fmt: skip


def progress(cursor: Any, item: str) -> float:
    """Progress of a task or project."""
    return float(
        ask(cursor, "SELECT progress FROM tasks WHERE id = %s UNION ALL SELECT progress FROM projects WHERE id = %s",
            item, item)[0]
    )  # fmt: skip


def wrong(cursor: Any) -> list[Any]:
    """What validate_progress finds in all projects."""
    return ask(cursor, "SELECT found.* FROM projects, validate_progress(projects.id) found")


@pytest.fixture
def tree(cursor: Any) -> dict[str, str]:
    """A project with tasks a (1 of 2 steps done), b below it (1 of 4) and c (no steps)."""
    project = new_project(cursor)
    a = new_task(cursor, project)
    b, c = new_task(cursor, project, a), new_task(cursor, project)
    new_steps(cursor, a, 1, 0)
    new_steps(cursor, b, 0, 0, 0.25, 0.75)
    return {"project": project, "a": a, "b": b, "c": c}


def test_progress_is_the_mean_of_what_is_directly_below(cursor: Any, tree: dict[str, str]) -> None:
    """A task's progress is over its steps and sub-tasks alike, a project's over its root tasks, empty ones counting as 0."""
    assert progress(cursor, tree["b"]) == 0.25
    assert progress(cursor, tree["a"]) == 1.25 / 3
    assert progress(cursor, tree["c"]) == 0
    assert progress(cursor, tree["project"]) == pytest.approx(1.25 / 6, abs=1e-15)
    assert wrong(cursor) == []


CHANGES: dict[str, str] = {
    "insert of many steps": """INSERT INTO steps (task_id, title, progress)
        SELECT id, 'new ' || n, n / 7.0 FROM tasks, generate_series(1, 7) n""",
    "update of all steps": "UPDATE steps SET progress = 1.0 / 3",
    "delete of some steps": "DELETE FROM steps WHERE progress = 0",
    "agreement": "INSERT INTO steps (task_id, title, status, final_content) VALUES ({c}, 'agreed', 'AGREED', 'x')",
    "step to another task": "UPDATE steps SET task_id = {c} WHERE task_id = {b} AND progress > 0",
    "step to another task with another progress": "UPDATE steps SET task_id = {c}, progress = 0.9 WHERE progress = 0.75",
    "task to another parent": "UPDATE tasks SET parent_task_id = {c} WHERE id = {b}",
    "task to the root": "UPDATE tasks SET parent_task_id = NULL WHERE id = {b}",
    "root below another": "UPDATE tasks SET parent_task_id = {c} WHERE id = {a}",
    "two tasks change places": "UPDATE tasks SET parent_task_id = CASE id WHEN {b} THEN {c}::uuid END WHERE id IN ({b}, {c})",
    "leaf to another project": "UPDATE tasks SET project_id = {other}, parent_task_id = {d} WHERE id = {c}",
    "another id for a leaf": "UPDATE tasks SET id = gen_random_uuid() WHERE id = {c}",
    "another id for all steps": "UPDATE steps SET id = gen_random_uuid(), progress = progress / 2",
    "delete of a task": "DELETE FROM tasks WHERE id = {b}",
    "delete of a task with sub-tasks": "DELETE FROM tasks WHERE id = {a}",
    "delete of all tasks": "DELETE FROM tasks",
    "delete of a project": "DELETE FROM projects WHERE id = {project}",
    "delete of all projects": "DELETE FROM projects",
    "truncate of steps": "TRUNCATE steps CASCADE",
    "truncate of tasks": "TRUNCATE tasks CASCADE",
    "on conflict": """INSERT INTO steps (project_id, task_id, title, progress)
        SELECT project_id, task_id, title, 0.1 FROM steps UNION ALL SELECT {other}, {d}, 'new', 0.3
        ON CONFLICT (project_id, task_id, title) DO UPDATE SET progress = excluded.progress""",
    "on conflict do nothing": """INSERT INTO steps (project_id, task_id, title, progress)
        SELECT project_id, task_id, title, 0.1 FROM steps ON CONFLICT DO NOTHING""",
    "two tables at once": """WITH gone AS (DELETE FROM steps WHERE progress = 0)
        UPDATE tasks SET title = title || '!', parent_task_id = NULLIF({c}, id::text)::uuid
        WHERE project_id = {project}""",
    "merge of inserts and updates": """WITH more AS (INSERT INTO steps (task_id, title, progress) VALUES ({d}, 'm', 0.7)),
        less AS (DELETE FROM steps WHERE progress = 0.75) UPDATE steps SET progress = 0.6 WHERE progress = 0""",
    "nothing": "UPDATE steps SET progress = 1 WHERE false",
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_keeps_it_right(cursor: Any, tree: dict[str, str], change: str) -> None:
    """After each kind of statement the counters are what counting anew gives, in the project changed and in the others."""
    other = new_project(cursor, "other")
    d = new_task(cursor, other)
    new_steps(cursor, d, 0.5)
    ids = {name: f"'{one}'" for name, one in {**tree, "other": other, "d": d}.items()}
    counters = "SELECT id, child_count, child_progress FROM tasks UNION ALL SELECT id, child_count, child_progress FROM projects"
    before = sorted(ask(cursor, counters))

    ask(cursor, CHANGES[change].format(**ids))

    assert wrong(cursor) == []
    assert (sorted(ask(cursor, counters)) == before) == ("nothing" in change)
    assert ask(cursor, "SELECT recalculate_project_progress(id) FROM projects WHERE id = %s", other) in ([0], [])


def test_copy_counts_too(cursor: Any, tree: dict[str, str]) -> None:
    """Rows that come by COPY are counted as others are."""
    import io

    lines = "".join(f"{tree['c']}\tcopied {n}\t0.5\n" for n in range(1000))

    cursor.copy_expert("COPY steps (task_id, title, progress) FROM STDIN", io.StringIO(lines))

    assert progress(cursor, tree["c"]) == 0.5
    assert wrong(cursor) == []


def test_sums_do_not_drift(cursor: Any, tree: dict[str, str]) -> None:
    """Thirds, tenths and very small values come and go, and exactly what was there before remains."""
    before = ask(cursor, "SELECT id, child_progress, progress FROM tasks ORDER BY id")

    for _ in range(20):
        ask(
            cursor,
            "INSERT INTO steps (task_id, title, progress) SELECT %s, 'drift ' || n, 1 / (n * 3.7) FROM generate_series(1, 50) n",
            tree["b"],
        )
        ask(cursor, "UPDATE steps SET progress = progress / 3 WHERE title LIKE 'drift%'")
        ask(cursor, "UPDATE steps SET progress = 1e-300 WHERE title LIKE 'drift 1%'")
        ask(cursor, "DELETE FROM steps WHERE title LIKE 'drift%'")

    assert ask(cursor, "SELECT id, child_progress, progress FROM tasks ORDER BY id") == before


def test_what_is_written_into_progress_has_no_effect(cursor: Any, tree: dict[str, str]) -> None:
    """An older release's progress and anybody's counters are ignored, on insert as on update; the rest is written."""
    ask(cursor, "UPDATE tasks SET progress = 0.9, title = 'renamed' WHERE id = %s", tree["a"])
    ask(cursor, "UPDATE tasks SET child_count = 17, child_progress = 1, progress = 1")
    ask(cursor, "UPDATE projects SET child_count = NULL, progress = 1")
    ask(
        cursor,
        "INSERT INTO tasks (project_id, title, objective, progress, child_count, child_progress)"
        " VALUES (%s, 'done already', 'x', 1, 5, 5)",
        tree["project"],
    )
    made = ask(cursor, "INSERT INTO projects (name, description, progress) VALUES ('n', 'd', 1) RETURNING progress")

    assert wrong(cursor) == [] and made == [0]
    assert ask(cursor, "SELECT title FROM tasks WHERE id = %s", tree["a"]) == ["renamed"]


def test_updated_at_follows_progress_but_not_counters(cursor: Any, tree: dict[str, str]) -> None:
    """A step that leaves its task's progress as it was leaves updated_at too; a change of progress or anything else moves it."""
    moments = "SELECT updated_at FROM tasks WHERE id = %s"
    (begun,) = ask(cursor, moments, tree["b"])

    new_steps(cursor, tree["b"], 0.25)
    assert ask(cursor, moments, tree["b"]) == [begun]
    assert ask(cursor, "SELECT child_count FROM tasks WHERE id = %s", tree["b"]) == [5]

    new_steps(cursor, tree["b"], 1)
    (later,) = ask(cursor, moments, tree["b"])
    assert later > begun
    ask(cursor, "UPDATE tasks SET objective = 'other' WHERE id = %s", tree["b"])
    assert ask(cursor, moments, tree["b"])[0] > later


def test_nothing_is_written_where_nothing_changes(cursor: Any, tree: dict[str, str]) -> None:
    """Steps renamed write no task; where a task's progress stays, nothing above it is written."""
    versions = "SELECT id::text, xmin::text FROM tasks UNION ALL SELECT id::text, xmin::text FROM projects"
    before = dict(ask(cursor, versions))

    ask(cursor, "UPDATE steps SET title = title || '!'")
    ask(cursor, "UPDATE steps SET progress = progress")
    assert dict(ask(cursor, versions)) == before

    new_steps(cursor, tree["b"], 0.25)
    assert {one for one, version in ask(cursor, versions) if before[one] != version} == {tree["b"]}


def test_a_tree_of_full_depth_carries_progress_up(cursor: Any) -> None:
    """Through 100 tasks below each other one statement's change arrives at the project, with the server's usual stack."""
    project = new_project(cursor)
    tasks: list[str] = []
    for _ in range(100):
        tasks.append(new_task(cursor, project, tasks[-1] if tasks else None))

    new_steps(cursor, tasks[-1], 0.5)
    ask(cursor, "INSERT INTO steps (task_id, title, progress) SELECT id, 'each', 0.5 FROM tasks")

    assert ask(cursor, "SHOW max_stack_depth") == ["2MB"]
    assert progress(cursor, project) == 0.5 and wrong(cursor) == []
    ask(cursor, "DELETE FROM tasks WHERE id = %s", tasks[50])
    assert wrong(cursor) == []
    ask(cursor, "DELETE FROM tasks WHERE id = %s", tasks[0])
    assert progress(cursor, project) == 0


def test_calculation_looks_at_steps_only(database: Database, cursor: Any, tree: dict[str, str]) -> None:
    """What the functions compute does not rest on what is stored, and an unknown id gives null or no row."""
    expected = {name: progress(cursor, one) for name, one in tree.items()}
    with database.connect() as connection, connection.cursor() as owner:
        owner.execute("ALTER TABLE tasks DISABLE TRIGGER USER; ALTER TABLE projects DISABLE TRIGGER USER")
        owner.execute("UPDATE tasks SET progress = 0.123, child_count = 9, child_progress = 3")
        owner.execute("UPDATE projects SET progress = 0.5")
        owner.execute("ALTER TABLE tasks ENABLE TRIGGER USER; ALTER TABLE projects ENABLE TRIGGER USER")

    for name, one in tree.items():
        kind = "project" if name == "project" else "task"
        assert ask(cursor, f"SELECT calculate_{kind}_progress(%s)", one) == [expected[name]]
    unknown = str(uuid.uuid4())
    for function in ("calculate_task_progress", "calculate_project_progress", "recalculate_project_progress"):
        assert ask(cursor, f"SELECT {function}(%s)", unknown) == [None]
    for function in ("validate_progress", "project_statistics"):
        assert ask(cursor, f"SELECT * FROM {function}(%s)", unknown) == []

    found = ask(cursor, "SELECT entity_type, id, stored, computed FROM validate_progress(%s)", tree["project"])
    assert {(kind, one) for kind, one, *_ in found} == {
        ("PROJECT", tree["project"]), ("TASK", tree["a"]), ("TASK", tree["b"]), ("TASK", tree["c"]),
    }  # fmt: skip
    assert {one: value for _, one, _, value in found} == {tree[name]: value for name, value in expected.items()}
    assert ask(cursor, "SELECT recalculate_project_progress(%s)", tree["project"]) == [4]
    assert ask(cursor, "SELECT recalculate_project_progress(%s)", tree["project"]) == [0]
    assert {name: progress(cursor, one) for name, one in tree.items()} == expected


def test_validation_names_wrong_counters_under_a_right_progress(
    database: Database, cursor: Any, tree: dict[str, str]
) -> None:
    """Counters that happen to give the right progress are found nevertheless."""
    database.rows(
        "ALTER TABLE tasks DISABLE TRIGGER USER; UPDATE tasks SET child_count = 8, child_progress = 2 WHERE progress = 0.25;"
        "ALTER TABLE tasks ENABLE TRIGGER USER"
    )

    found = ask(
        cursor,
        "SELECT id, stored = computed, stored_child_count, computed_child_count, stored_child_progress::float8,"
        " computed_child_progress::float8 FROM validate_progress(%s)",
        tree["project"],
    )

    assert found == [(tree["b"], True, 8, 4, 2.0, 1.0)]


def test_statistics(cursor: Any, tree: dict[str, str]) -> None:
    """One row tells what is in a project; an empty one is all zeros."""
    columns = (
        "tasks, root_tasks, max_depth, steps, pending, agreed, completed_steps, pending_disputes, mean_step_progress"
    )
    (one, *_) = new_steps(cursor, tree["c"], 0)
    ask(cursor, "UPDATE steps SET status = 'SERVER_DRAFT' WHERE id = %s", one)
    ask(
        cursor,
        "INSERT INTO disputes (step_id, server_content, client_content, server_reasoning, client_reasoning)"
        " VALUES (%s, 'a', 'b', 'c', 'd')",
        one,
    )

    (row,) = ask(cursor, f"SELECT {columns} FROM project_statistics(%s)", tree["project"])
    assert row[:8] == (3, 2, 2, 7, 6, 0, 1, 1) and row[8] == pytest.approx(2 / 7, abs=1e-15)
    empty = new_project(cursor, "empty")
    assert ask(cursor, f"SELECT {columns} FROM project_statistics(%s)", empty) == [(0,) * 9]


def test_example_data_is_counted_as_the_triggers_would(database: Database, cursor: Any) -> None:
    """Counting loaded example projects anew changes nothing, to the last digit."""
    with database.connect() as connection:
        example_data.load(connection, projects=60)

    assert wrong(cursor) == []
    assert sum(ask(cursor, "SELECT recalculate_project_progress(id) FROM projects")) == 0


def test_rows_from_before_are_counted_once(empty: Database, planner: Config, begin_at: Callable[[str], None]) -> None:
    """Rows older than the counters stay uncounted under the new triggers, and right once they are filled; down and up too."""
    begin_at("011")
    with empty.connect() as connection, connection.cursor() as cursor:
        project = new_project(cursor)
        a = new_task(cursor, project)
        b = new_task(cursor, project, a)
        new_steps(cursor, b, 1, 0.5)

        command.upgrade(planner, "013")
        new_steps(cursor, b, 0)
        late = new_task(cursor, project, a)
        new_steps(cursor, late, 1)
        ask(cursor, "UPDATE tasks SET progress = 0.4 WHERE id = %s", a)  # as releases from before do
        assert progress(cursor, a) == 0.4 and progress(cursor, late) == 1
        assert ask(cursor, "SELECT child_count FROM tasks WHERE id IN (%s, %s)", a, b) == [None, None]

        command.upgrade(planner, "014")
        assert progress(cursor, b) == 0.5 and progress(cursor, a) == 0.75 and wrong(cursor) == []

        command.downgrade(planner, "012")
        new_steps(cursor, b, 0)
        command.upgrade(planner, "014")
        assert progress(cursor, b) == 0.375 and wrong(cursor) == []


# --- several sessions at once ---------------------------------------------------------------------------------------


class Load:
    """Sessions that change one project at once: each runs its turns until time is up, errors are counted by SQLSTATE."""

    def __init__(self, database: Database, role: str, cursor: Any) -> None:
        self.database, self.role = database, role
        self.project = new_project(cursor)
        self.tasks: list[str] = []
        for n in range(16):  # four levels, four below each
            self.tasks.append(new_task(cursor, self.project, self.tasks[(n - 4)] if n >= 4 else None))
        ask(
            cursor,
            "INSERT INTO steps (task_id, title, progress) SELECT id, 'step ' || n, 0.5 FROM tasks, generate_series(1, 6) n",
        )
        self.done: Counter[str] = Counter()
        self.errors: Counter[str | None] = Counter()

    def step_change(self, dice: random.Random) -> tuple[str, tuple[Any, ...]]:
        """A statement that changes steps: one, or some of several tasks."""
        some = "(SELECT id FROM steps WHERE project_id = %s ORDER BY random() LIMIT %s FOR UPDATE SKIP LOCKED)"
        many = dice.choice([1, 1, 5])
        kind = dice.choice(["insert", "insert", "update", "update", "update", "move", "delete"])
        if kind == "insert":
            return (
                "INSERT INTO steps (task_id, title, progress) SELECT id, gen_random_uuid(), %s FROM unnest(%s::uuid[]) id",
                (dice.random(), dice.sample(self.tasks, many)),
            )
        if kind == "update":
            return f"UPDATE steps SET progress = %s WHERE id IN {some}", (dice.random(), self.project, many)
        if kind == "move":
            title = "title = gen_random_uuid()"
            return (
                f"UPDATE steps SET task_id = %s, {title} WHERE id IN {some}",
                (dice.choice(self.tasks), self.project, many),
            )
        return f"DELETE FROM steps WHERE id IN {some}", (self.project, many)

    def task_move(self, dice: random.Random) -> tuple[str, tuple[Any, ...]]:
        """A statement that re-parents a task."""
        task, parent = dice.sample(self.tasks, 2)
        return (
            "UPDATE tasks SET parent_task_id = %s WHERE id = %s",
            (parent if dice.random() < 0.8 else None, task),
        )

    def run(self, turn: Callable[[Any, random.Random], str], *, sessions: int = 8, seconds: float = 2.5) -> None:
        """Let the sessions take turns; a refused turn is rolled back and another one taken."""
        end = time.monotonic() + seconds

        def session(seed: int) -> None:
            dice = random.Random(seed)
            with self.database.connect(user=self.role, autocommit=False) as connection, connection.cursor() as cursor:
                while time.monotonic() < end:
                    try:
                        kind = turn(cursor, dice)
                        connection.commit()
                        self.done[kind] += 1
                    except psycopg2.Error as error:
                        connection.rollback()
                        self.errors[error.pgcode] += 1

        threads = [threading.Thread(target=session, args=(seed,)) for seed in range(sessions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def check(self, cursor: Any) -> None:
        """All is as counting anew gives it, and the tasks are still a tree."""
        assert wrong(cursor) == []
        assert ask(cursor, "SELECT recalculate_project_progress(%s)", self.project) == [0]
        (depth,) = ask(cursor, "SELECT max_depth FROM project_statistics(%s)", self.project)
        assert depth <= 100
        reached = """
            WITH RECURSIVE down AS (
                SELECT id FROM tasks WHERE parent_task_id IS NULL
                UNION ALL SELECT tasks.id FROM tasks JOIN down ON parent_task_id = down.id
            ) SELECT count(*) FROM down"""
        assert ask(cursor, reached) == [len(self.tasks)]
        leaked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1296256073"
        until(lambda: self.database.value(leaked) == 0)


@pytest.fixture
def load(database: Database, application: str, cursor: Any) -> Load:
    """A project under load."""
    return Load(database, application, cursor)


@pytest.mark.parametrize("moves", [0.0, 0.15], ids=["steps only", "tasks are moved too"])
def test_single_statements_meet_no_deadlock(load: Load, cursor: Any, moves: float) -> None:
    """Eight sessions insert, change, move and delete steps of nested tasks, and move tasks: no deadlock, the exact value."""

    def turn(cursor: Any, dice: random.Random) -> str:
        if dice.random() < moves:
            cursor.execute(*load.task_move(dice))
            return "move"
        cursor.execute(*load.step_change(dice))
        return "steps"

    load.run(turn)

    load.check(cursor)
    assert set(load.errors) <= {"MP003"}, load.errors
    assert load.done["steps"] > 30 and (not moves or load.done["move"] > 3), load.done


def several(load: Load, cursor: Any, dice: random.Random, moves: float) -> str:
    """A transaction of three or four statements."""
    for _ in range(dice.randint(3, 4)):
        cursor.execute(*(load.task_move(dice) if dice.random() < moves else load.step_change(dice)))
    return "transaction"


def test_whoever_locks_the_project_first_is_not_refused(load: Load, cursor: Any) -> None:
    """Transactions of several statements that begin with the project's row: no refusal at all, the exact value."""

    def turn(cursor: Any, dice: random.Random) -> str:
        cursor.execute("SELECT 1 FROM projects WHERE id = %s FOR NO KEY UPDATE", (load.project,))
        return several(load, cursor, dice, 0)

    load.run(turn)

    load.check(cursor)
    assert not load.errors and load.done["transaction"] > 10, (load.errors, load.done)


def test_several_statements_may_be_refused_but_are_never_wrong(database: Database, load: Load, cursor: Any) -> None:
    """Without that lock transactions may end in a deadlock or a circle and are tried again; what is stored is exact."""
    database.rows(
        f"ALTER ROLE {load.role} SET deadlock_timeout = '20ms'"
    )  # the default of 1 s would be most of the test

    def turn(cursor: Any, dice: random.Random) -> str:
        return several(load, cursor, dice, 0.1)

    load.run(turn)

    load.check(cursor)
    assert set(load.errors) <= {"40P01", "MP003", "MP004"}, load.errors
    assert load.done["transaction"] > 2


def test_recalculation_under_load_is_exact(load: Load, cursor: Any) -> None:
    """Sessions recalculate while others write: nothing to repair is ever found, and no deadlock."""
    repaired: Counter[int] = Counter()

    def turn(cursor: Any, dice: random.Random) -> str:
        if dice.random() < 0.1:
            cursor.execute("SELECT recalculate_project_progress(%s)", (load.project,))
            repaired[cursor.fetchone()[0]] += 1
            return "recalculation"
        cursor.execute(*(load.task_move(dice) if dice.random() < 0.1 else load.step_change(dice)))
        return "steps"

    load.run(turn)

    load.check(cursor)
    assert set(repaired) == {0} and set(load.errors) <= {"MP003"}, (repaired, load.errors)


def test_a_cancelled_wait_leaves_no_lock_behind(database: Database, load: Load, cursor: Any) -> None:
    """A statement over several tasks that gives up waiting, for a move or for a task, leaves no advisory lock in its session."""
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    write = "INSERT INTO steps (task_id, title) SELECT id, gen_random_uuid() FROM tasks"
    for block, timeout in (
        ("UPDATE tasks SET parent_task_id = NULL WHERE id = %s", "lock_timeout"),
        ("SELECT FROM tasks WHERE id = %s FOR NO KEY UPDATE", "lock_timeout"),
        ("SELECT FROM tasks WHERE id = %s FOR NO KEY UPDATE", "statement_timeout"),
    ):
        with database.connect(autocommit=False) as other, other.cursor() as mover:
            mover.execute(block, (load.tasks[-1],))
            ask(cursor, f"SET {timeout} = '150ms'")
            with pytest.raises(psycopg2.Error) as caught:
                ask(cursor, write)
            ask(cursor, f"RESET {timeout}")
        assert caught.value.pgcode in ("55P03", "57014")
        assert ask(cursor, held) == [0]
    ask(cursor, write)
    assert ask(cursor, held) == [0] and wrong(cursor) == []
