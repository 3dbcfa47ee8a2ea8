"""What is next in a project, from 1,000 steps to a million, and how old rows are filled while others write."""

from __future__ import annotations

import os
import statistics
import threading
import time
from contextlib import closing
from typing import Any

import psycopg2

from bench.side_by_side import ROOT, alembic, create_database, server

PROJECT, TASK = "00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000001"
SIZES = (1_000, 10_000, 100_000, 1_000_000)
CALLS = 400
FILLS = ((10_000, 1, "1"), (10_000, 1, "0.03"), (10_000, 100, "1"), (100_000, 1, "1"), (100_000, 100, "1"), (1_000_000, 1, "1"),
         (1_000_000, 100, "1"))  # fmt: skip
"""Steps, into how many chains they are linked, and how much of the time the backfill takes beside others."""

RUNS = 1_000_000

# One task with all steps: a chain of them all, or half of them in none.
STEPS = f"""
    WITH one AS MATERIALIZED (
        SELECT n, gen_random_uuid() AS id, ceil(n * %(chains)s / %(size)s.0) AS chain FROM generate_series(1, %(size)s) n
    )
    INSERT INTO steps (id, project_id, task_id, title, progress, prev_id, next_id, created_at)
    SELECT id, '{PROJECT}', '{TASK}', 'step ' || n, (n <= %(done)s)::int,
        CASE WHEN %(chains)s > 0 THEN 'step://' || lag(id) OVER w END,
        CASE WHEN %(chains)s > 0 THEN 'step://' || lead(id) OVER w END, now() - make_interval(secs => %(size)s - n)
    FROM one WINDOW w AS (PARTITION BY chain ORDER BY n)
"""
PLACES = """
    INSERT INTO navigation_links (project_id, from_step_id, to_step_id, position)
    SELECT project_id, id, substr(next_id, 8)::uuid, (substr(title, 6)::bigint + 1) << 32 FROM steps WHERE next_id IS NOT NULL;
    UPDATE steps SET finished = progress >= 1, chain_position = CASE WHEN num_nonnulls(prev_id, next_id) > 0
        THEN substr(title, 6)::bigint << 32 END;
    UPDATE tasks SET progress = {done}::float8 / {size}, finished = false
"""

# What the function does not ask only makes the loading slow.
OTHER_INDEXES = """
DO $$ BEGIN
    EXECUTE (SELECT string_agg(format('DROP INDEX %s;', indexrelid::regclass), ' ') FROM pg_index
        WHERE indrelid IN ('steps'::regclass, 'navigation_links'::regclass) AND NOT indisunique
            AND indexrelid::regclass::text NOT LIKE '%_unfinished');
END $$
"""


def main() -> None:
    """Print milliseconds of a call at each size, with nothing, half and all but one finished; then seconds of each fill."""
    with server() as where:
        url = create_database(where, "bench")
        alembic(ROOT, url, "upgrade", "head")
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            connection.cursor().execute(OTHER_INDEXES)
            _next_item(connection.cursor())
        print(
            "\nfilling the links of old references, beside one session that changes one of the chained steps all the time"
        )
        print("| steps | chains | share | s | steps/s | longest statement of the other session, ms | its statements |")
        print("|---|---|---|---|---|---|---|")
        for size, chains, share in FILLS:
            _fill(create_database(where, "fill"), size, chains, share)
        print("\nfilling iterations_allowed of the complexity runs, beside one session that changes any of them")
        print("| runs | s | runs/s | longest statement of the other session, ms | its statements |")
        print("|---|---|---|---|---|")
        _fill_runs(create_database(where, "fill"))


def _next_item(cursor: Any) -> None:
    print(f"\nnext_actionable_item (medians of {CALLS} calls), ms, and the ratio to {SIZES[0]:,} steps")
    print("| steps | of them chained | nothing finished | half | all but one | ratios |")
    print("|---|---|---|---|---|---|")
    first: dict[tuple[int, int], float] = {}
    for size in SIZES:
        for chains in (1, 0):
            found = []
            for part, done in enumerate((0, size // 2, size - 1)):
                _fresh(cursor)
                cursor.execute("ALTER TABLE steps DISABLE TRIGGER ALL; ALTER TABLE navigation_links DISABLE TRIGGER ALL;"
                               "ALTER TABLE tasks DISABLE TRIGGER ALL")  # fmt: skip
                cursor.execute(STEPS, {"size": size, "chains": chains, "done": done})
                cursor.execute(PLACES.format(done=done, size=size))
                cursor.execute("ALTER TABLE steps ENABLE TRIGGER ALL; ALTER TABLE navigation_links ENABLE TRIGGER ALL;"
                               "ALTER TABLE tasks ENABLE TRIGGER ALL")  # fmt: skip
                cursor.execute("VACUUM ANALYZE steps")
                cursor.execute("VACUUM ANALYZE tasks")
                found.append(_median(cursor, f"step {done + 1}") * 1000)
                first.setdefault((chains, part), found[-1])
            cells = " | ".join(f"{value:.3f}" for value in found)
            ratios = ", ".join(f"{value / first[chains, part]:.2f}" for part, value in enumerate(found))
            print(f"| {size:,} | {'all' if chains else 'none'} | {cells} | {ratios} |", flush=True)


def _median(cursor: Any, expected: str) -> float:
    seconds = []
    for _ in range(CALLS):
        began = time.perf_counter()
        cursor.execute("SELECT title FROM next_actionable_item(%s)", (PROJECT,))
        seconds.append(time.perf_counter() - began)
        assert cursor.fetchone() == (expected,), "not the first unfinished step"
    return statistics.median(seconds)


def _fresh(cursor: Any) -> None:
    cursor.execute(
        "TRUNCATE projects, audit_logs CASCADE;"
        f"INSERT INTO projects (id, name, description) VALUES ('{PROJECT}', 'a project', 'x');"
        f"INSERT INTO tasks (id, project_id, title, objective) VALUES ('{TASK}', '{PROJECT}', 'a task', 'x')"
    )


def _fill(url: str, size: int, chains: int, share: str) -> None:
    alembic(ROOT, url, "upgrade", "018")
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        _fresh(cursor)
        cursor.execute("ALTER TABLE steps DISABLE TRIGGER USER")
        cursor.execute(STEPS, {"size": size, "chains": chains, "done": 0})
        cursor.execute("ALTER TABLE steps ENABLE TRIGGER USER")
        cursor.execute("VACUUM ANALYZE steps")
    change = (
        f"UPDATE steps SET server_ready = NOT server_ready WHERE title = 'step {size // 2}'"
        f" AND project_id = '{PROJECT}' AND task_id = '{TASK}'"
    )
    took, waits = _beside(url, "019", change, share)
    with closing(psycopg2.connect(url)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM navigation_links")
        assert cursor.fetchone() == (size - chains,), "not every reference has its link"
    print(
        f"| {size:,} | {chains:,} | {share} | {took:.1f} | {size / took:,.0f} | {max(waits) * 1000:.0f} | {len(waits):,} |",
        flush=True,
    )


def _fill_runs(url: str) -> None:
    alembic(ROOT, url, "upgrade", "021")
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        _fresh(cursor)
        cursor.execute("INSERT INTO complexity_runs (project_id, threshold, max_iterations)"
                       " SELECT %s, 0.5, 2 + n %% 50 FROM generate_series(1, %s) n", (PROJECT, RUNS))  # fmt: skip
        cursor.execute("VACUUM ANALYZE complexity_runs")
    alembic(ROOT, url, "upgrade", "022")
    change = (
        "UPDATE complexity_runs SET iterations_used = 1 WHERE id ="
        " (SELECT id FROM complexity_runs WHERE id >= gen_random_uuid() ORDER BY id LIMIT 1)"
    )
    took, waits = _beside(url, "023", change, "1")
    print(f"| {RUNS:,} | {took:.1f} | {RUNS / took:,.0f} | {max(waits) * 1000:.0f} | {len(waits):,} |", flush=True)


def _beside(url: str, revision: str, change: str, share: str) -> tuple[float, list[float]]:
    """Seconds of the upgrade, and of each statement that another session sends meanwhile, a hundred in a second.

    ``share`` is how much of the time a backfill takes beside it.
    """
    waits: list[float] = []
    done = threading.Event()

    def work() -> None:
        with closing(psycopg2.connect(url)) as mine:
            mine.autocommit = True
            writer = mine.cursor()
            while not done.wait(0.01):
                began = time.perf_counter()
                writer.execute(change)
                waits.append(time.perf_counter() - began)

    worker = threading.Thread(target=work)
    worker.start()
    os.environ["PLANNER_BACKFILL_SHARE"] = share
    began = time.perf_counter()
    try:
        alembic(ROOT, url, "upgrade", revision)
    finally:
        took = time.perf_counter() - began
        del os.environ["PLANNER_BACKFILL_SHARE"]
        done.set()
        worker.join()
    return took, waits
