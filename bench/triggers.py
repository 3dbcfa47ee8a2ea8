"""What the triggers cost, against the same statements with DISABLE TRIGGER USER, in turns in one process.

Three contestants: no trigger of ours, all but those of the audit log, all. LIMITS are ratios to the first; no statement may
grow faster than linearly. For transactions of one row two more, without triggers: an application that writes the same rows
itself, by a statement that is planned each time, and by one that is prepared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import psycopg2

from bench.side_by_side import ROOT, alembic, create_database, server

TABLES = ("projects", "tasks", "steps", "disputes")
AUDIT = "_45_audit_"  # in the names of the triggers that write the audit log
PROJECT, TASK = "00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000001"
SIZES = (1_000, 10_000, 100_000)
SINGLE = 300  # transactions of one row in each turn
INSERT = f"""
    INSERT INTO steps (project_id, task_id, title, progress, server_content)
    SELECT '{PROJECT}', '{TASK}', 'step ' || n, n %% 5 / 4.0, repeat('some words of content ', 10) FROM generate_series(1, %s) n
"""
UPDATE = "UPDATE steps SET progress = 1 - progress * 0.75"
RENAME = "UPDATE steps SET title = title || '!'"
ONE_INSERT = f"INSERT INTO steps (project_id, task_id, title) VALUES ('{PROJECT}', '{TASK}', %s)"
ONE_UPDATE = "UPDATE steps SET progress = 1 - progress * 0.75 WHERE id = %s"

# What the log says, but for ids and times; in the order in which it was written.
LOGGED = """
    SELECT entity_type::text, action::text, old_values, new_values - '{id,created_at}'::text[], project_id, user_id
    FROM audit_logs ORDER BY occurred_at, entity_type
"""
# The same rows as all triggers write, by one statement of the application's own; it knows its step's project and task.
BY_HAND = f"""
    , task AS (
        UPDATE tasks SET child_count = child_count + step.n, child_progress = child_progress + step.gain,
            progress = (child_progress + step.gain) / (child_count + step.n),
            finished = child_progress + step.gain >= child_count + step.n, updated_at = now()
        FROM step, (SELECT progress FROM tasks WHERE id = '{TASK}' FOR NO KEY UPDATE) was WHERE tasks.id = '{TASK}'
        RETURNING was.progress AS old, tasks.progress AS new
    ), project AS (
        UPDATE projects SET child_progress = child_progress + change.gain,
            progress = (child_progress + change.gain) / child_count, updated_at = now()
        FROM (SELECT round(new::numeric, 15) - round(old::numeric, 15) AS gain FROM task) change,
            (SELECT progress FROM projects WHERE id = '{PROJECT}' FOR NO KEY UPDATE) was WHERE projects.id = '{PROJECT}'
        RETURNING was.progress AS old, projects.progress AS new
    )
    INSERT INTO audit_logs (entity_type, entity_id, project_id, action, old_values, new_values, user_id, occurred_at)
    SELECT kind::entity_type, id, '{PROJECT}', action::audit_action, old, new, 'system', clock_timestamp() FROM (
        SELECT 'STEP' AS kind, id, action, old, new FROM step
        UNION ALL SELECT 'TASK', '{TASK}', 'UPDATED', jsonb_build_object('progress', old), jsonb_build_object('progress', new)
        FROM task
        UNION ALL SELECT 'PROJECT', '{PROJECT}', 'UPDATED', jsonb_build_object('progress', old),
            jsonb_build_object('progress', new) FROM project
    ) changed
"""
ONE_INSERT_BY_HAND = f"""
    WITH step AS (
        {ONE_INSERT} RETURNING id, 1 AS n, round(progress::numeric, 15) AS gain, 'CREATED' AS action, NULL::jsonb AS old,
            to_jsonb(steps) - '{{updated_at,chain_position,finished}}'::text[] AS new
    ){BY_HAND}
"""
ONE_UPDATE_BY_HAND = f"""
    WITH step AS (
        UPDATE steps SET progress = 1 - was.progress * 0.75, finished = 1 - was.progress * 0.75 >= 1, updated_at = now()
        FROM (SELECT id, progress FROM steps WHERE id = %s FOR NO KEY UPDATE) was WHERE steps.id = was.id
        RETURNING steps.id, 0 AS n, round(steps.progress::numeric, 15) - round(was.progress::numeric, 15) AS gain,
            'UPDATED' AS action, jsonb_build_object('progress', was.progress) AS old,
            jsonb_build_object('progress', steps.progress) AS new
    ){BY_HAND}
"""

# What, and the most that it may take without and with audit, as a multiple of no triggers.
LIMITS = (
    ("10,000 | insert", "10,000 steps into one task by one statement", {"no audit": 2, "all": 4}),
    ("10,000 | update of progress", "an update of their progress", {"no audit": 3, "all": 6}),
    ("durable, BEGIN to COMMIT | insert", "a transaction that inserts one row", {"no audit": 3, "all": 3}),
    ("durable, BEGIN to COMMIT | update", "a transaction that updates one row", {"no audit": 3, "all": 3}),
    ("durable, autocommit | insert", "the same by a statement without BEGIN and COMMIT", {"no audit": 3, "all": 3}),
    ("durable, autocommit | update", "the same", {"no audit": 3, "all": 3}),
)
# Time a row at the largest size to that at the smallest, over the same without triggers. Linear is 1, quadratic 100; what
# is allowed beyond 1 is the noise.
GROWTH = 1.25

Found = dict[str, dict[str, float]]
Contestants = Mapping[str, Callable[[str], bool]]


def main() -> None:
    """Print seconds and ratios of statements of 1,000 to 100,000 rows, of transactions of one row, and of 10,000 in one."""
    with server() as where:
        url = create_database(where, "bench")
        alembic(ROOT, url, "upgrade", "head")
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                _run(cursor)


def _run(cursor: Any) -> None:
    names = _triggers(cursor)
    contestants: dict[str, Callable[[str], bool]] = {"none": lambda name: False}
    if any(AUDIT in name for name in names.values()):
        contestants["no audit"] = lambda name: AUDIT not in name
    contestants["all"] = lambda name: True

    found: Found = {}
    print("\none statement (medians of interleaved runs; ratios to DISABLE TRIGGER USER)")
    _head(contestants, "rows | statement")
    for size in SIZES:
        turns = 5 if size < 100_000 else 3
        found |= _table(contestants, f"{size:,} |", _statements(cursor, contestants, size, turns))
    print(f"\ntransactions of one row (medians of {SINGLE} in each of 7 turns), ms instead of s")
    singles = {**contestants, "by hand": contestants["none"], "prepared": contestants["none"]}
    _head(singles, "commit | statement")
    for synchronous in ("on", "off"):
        cursor.execute(f"SET synchronous_commit = {synchronous}")
        durable = "durable" if synchronous == "on" else "not durable"
        for how, timed in (("BEGIN to COMMIT", _transaction), ("autocommit", _timed)):
            found |= _table(singles, f"{durable}, {how} |", _singles(cursor, singles, 7, timed), 1000)
    cursor.execute("RESET synchronous_commit")
    _limits(contestants, found)
    _growth(contestants, found)
    print(
        "\nstatements of one row in ONE transaction, and the same rows by one statement (one run each): each leaves a dead"
        "\nversion of the same task and project, which PostgreSQL cannot remove before COMMIT; write sets instead"
    )
    _head(contestants, "rows | how")
    for size in (1_000, 10_000):
        _table(contestants, f"{size:,} |", _in_one_transaction(cursor, contestants, size))


def _limits(contestants: Contestants, found: Found) -> None:
    print("\n| limit | triggers | at most | measured | holds |\n|---|---|---|---|---|")
    for key, what, most in LIMITS:
        for name in list(contestants)[1:]:
            ratio = found[key][name] / found[key]["none"]
            print(f"| {what} | {name} | {most[name]} | {ratio:.2f} | {'yes' if ratio <= most[name] else 'NO'} |")


def _growth(contestants: Contestants, found: Found) -> None:
    """Microseconds a row at each size; linear is the same at all, as far as it is without triggers."""
    sizes = " | ".join(f"{size:,} rows, µs a row" for size in SIZES)
    print(f"\n| statement | triggers | {sizes} | growth | over none | linear |\n|---|---|---|---|---|---|---|---|")
    for what in ("insert", "update of progress", "update of title", "delete"):
        for name in contestants:
            each = {of: [found[f"{size:,} | {what}"][of] / size * 1e6 for size in SIZES] for of in ("none", name)}
            growth, usual = (each[of][-1] / each[of][0] for of in (name, "none"))
            cells = " | ".join(f"{one:.1f}" for one in each[name])
            holds = "yes" if growth / usual <= GROWTH else "NO"
            print(f"| {what} | {name} | {cells} | {growth:.2f} | {growth / usual:.2f} | {holds} |", flush=True)


def _statements(cursor: Any, contestants: Contestants, size: int, turns: int) -> Found:
    seconds: dict[str, dict[str, list[float]]] = {}
    for turn in range(turns + 1):
        for name, wanted in contestants.items():
            _fresh(cursor, wanted)
            for what, sql in (("insert", INSERT), ("update of progress", UPDATE), ("update of title", RENAME)):
                took = _timed(cursor, sql, (size,) if what == "insert" else None)
                if turn:  # the first round warms up
                    seconds.setdefault(what, {}).setdefault(name, []).append(took)
            took = _timed(cursor, "DELETE FROM steps")
            if turn:
                seconds.setdefault("delete", {}).setdefault(name, []).append(took)
            if name != "none":
                _check(cursor)
    return _medians(seconds)


def _singles(cursor: Any, contestants: Contestants, turns: int, timed: Callable[..., float]) -> Found:
    seconds: dict[str, dict[str, list[float]]] = {}
    for turn in range(turns + 1):
        logged: dict[str, list[Any]] = {}
        for name, wanted in contestants.items():
            by_hand = name in ("by hand", "prepared")  # the second plans its statements once a session, as triggers do
            _fresh(cursor, contestants["all"] if by_hand else wanted)
            cursor.execute(INSERT, (1_000,))  # a task as tasks are, not an empty one
            if by_hand:  # only the rows to begin with are the triggers'
                _disable(cursor)
            insert, update = (ONE_INSERT_BY_HAND, ONE_UPDATE_BY_HAND) if by_hand else (ONE_INSERT, ONE_UPDATE)
            if name == "prepared":
                cursor.execute(f"DEALLOCATE ALL; PREPARE one_insert (text) AS {insert.replace('%s', '$1')}")
                cursor.execute(f"PREPARE one_update (uuid) AS {update.replace('%s', '$1')}")
                insert, update = "EXECUTE one_insert (%s)", "EXECUTE one_update (%s)"
            inserts = [timed(cursor, insert, (f"single {n}",)) for n in range(SINGLE)]
            cursor.execute("SELECT id FROM steps ORDER BY title LIMIT %s", (SINGLE,))
            updates = [timed(cursor, update, row) for row in cursor.fetchall()]
            if turn:
                seconds.setdefault("insert", {}).setdefault(name, []).append(statistics.median(inserts))
                seconds.setdefault("update", {}).setdefault(name, []).append(statistics.median(updates))
            if name != "none":
                _check(cursor)
            cursor.execute(LOGGED)
            logged[name] = cursor.fetchall()
        assert logged["by hand"] == logged["prepared"] == logged["all"], "by hand is not what the triggers write"
    return _medians(seconds)


def _in_one_transaction(cursor: Any, contestants: Contestants, size: int) -> Found:
    found: Found = {}
    for name, wanted in contestants.items():
        _fresh(cursor, wanted)
        began = time.perf_counter()
        cursor.execute("BEGIN")
        for n in range(size):
            cursor.execute(ONE_INSERT, (f"single {n}",))
        cursor.execute("COMMIT")
        found.setdefault("insert, single rows", {})[name] = time.perf_counter() - began
        cursor.execute("SELECT id FROM steps")
        steps = cursor.fetchall()
        began = time.perf_counter()
        cursor.execute("BEGIN")
        for step in steps:
            cursor.execute(ONE_UPDATE, step)
        cursor.execute("COMMIT")
        found.setdefault("update, single rows", {})[name] = time.perf_counter() - began
        found.setdefault("update, one statement", {})[name] = _timed(
            cursor, f"{UPDATE} WHERE id = ANY (%s::uuid[])", ([step for (step,) in steps],)
        )
        _fresh(cursor, wanted)
        titles = [f"single {n}" for n in range(size)]
        found.setdefault("insert, one statement", {})[name] = _timed(
            cursor,
            f"INSERT INTO steps (project_id, task_id, title) SELECT '{PROJECT}', '{TASK}', unnest(%s::text[])",
            (titles,),
        )
    return found


def _triggers(cursor: Any) -> dict[tuple[str, int], str]:
    """Our triggers on the tables measured."""
    cursor.execute(
        "SELECT tgrelid::regclass::text, oid::bigint, tgname FROM pg_trigger"
        " WHERE NOT tgisinternal AND tgrelid = ANY (%s::text[]::regclass[])",
        (list(TABLES),),
    )
    return {(table, oid): name for table, oid, name in cursor.fetchall()}


def _fresh(cursor: Any, wanted: Callable[[str], bool]) -> None:
    """Empty tables but for one project and one task, and the triggers that are wanted."""
    _disable(cursor)
    cursor.execute("TRUNCATE projects, audit_logs CASCADE")
    cursor.execute(
        f"INSERT INTO projects (id, name, description) VALUES ('{PROJECT}', 'a project', 'x');"
        f"INSERT INTO tasks (id, project_id, title, objective) VALUES ('{TASK}', '{PROJECT}', 'a task', 'x');"
        "UPDATE projects SET child_count = 1"
    )
    for (table, _), name in _triggers(cursor).items():
        if wanted(name):
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER {name}")
    cursor.execute("VACUUM ANALYZE projects, tasks, steps")
    cursor.execute("CHECKPOINT")


def _disable(cursor: Any) -> None:
    for table in TABLES:
        cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")


def _check(cursor: Any) -> None:
    cursor.execute("SELECT count(*) FROM validate_progress(%s)", (PROJECT,))
    assert cursor.fetchone()[0] == 0, "the triggers' result is not what counting anew gives"


def _timed(cursor: Any, sql: str, values: Any = None) -> float:
    began = time.perf_counter()
    cursor.execute(sql, values)
    return time.perf_counter() - began


def _transaction(cursor: Any, sql: str, values: Any = None) -> float:
    """As an application's driver sends it: BEGIN, the statement, COMMIT."""
    began = time.perf_counter()
    cursor.execute("BEGIN")
    cursor.execute(sql, values)
    cursor.execute("COMMIT")
    return time.perf_counter() - began


def _medians(seconds: dict[str, dict[str, list[float]]]) -> Found:
    return {
        what: {name: statistics.median(all_) for name, all_ in of_each.items()} for what, of_each in seconds.items()
    }


def _head(contestants: Contestants, first: str) -> None:
    names = list(contestants)
    columns = [f"{name}, s" for name in names] + [f"{name} / none" for name in names[1:]]
    print(f"| {first} | {' | '.join(columns)} |")
    print("|---" * (len(columns) + first.count("|") + 1) + "|")


def _table(contestants: Contestants, first: str, found: Found, factor: float = 1) -> Found:
    """Print one line each; gives them back under the names that the lines begin with."""
    for what, seconds in found.items():
        cells = [f"{seconds[name] * factor:.3f}" for name in contestants]
        cells += [f"{seconds[name] / seconds['none']:.2f}" for name in list(contestants)[1:]]
        print(f"| {first} {what} | {' | '.join(cells)} |", flush=True)
    return {f"{first} {what}": seconds for what, seconds in found.items()}
