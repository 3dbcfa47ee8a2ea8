"""Example data against its limit: plain COPY of the very same rows, made beforehand, into the very same tables.

Wanted: at least half the limit's rate. Both work on fresh copies of one migrated database, in turns.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
import tracemalloc
from pathlib import Path

import psycopg2
from alembic.config import Config

from bench.side_by_side import ROOT, alembic, create_database, server
from mcp_planner_schema import embedded, example_data
from mcp_planner_schema.example_data import COLUMNS
from mcp_planner_schema.example_data.loading import CHUNK, batches

RUNS = 5


def main() -> None:
    """Print rows per second of both and their ratio for 10, 100 and 500 projects, and the peak memory of making rows."""
    print(f"\nexample data: fill() and plain COPY of the same rows (median of {RUNS} interleaved runs)")
    print("| projects | rows | MB | made only, rows/s | plain COPY, rows/s | fill(), rows/s | fill / COPY |")
    print("|---|---|---|---|---|---|---|")
    with server() as where, tempfile.TemporaryDirectory() as folder:
        alembic(ROOT, create_database(where, "planner"), "upgrade", "head")
        for projects in (10, 100, 500):
            began = time.perf_counter()
            rows, size = _write(Path(folder), projects)
            made = time.perf_counter() - began
            seconds: dict[str, list[float]] = {"copy": [], "fill": []}
            for turn in range(RUNS + 1):
                for name in seconds if turn % 2 else reversed(seconds):
                    _clone(where)
                    took = _copy(where, Path(folder)) if name == "copy" else _fill(where, projects)
                    if turn:  # the first round warms up
                        seconds[name].append(took)
            copy, fill = (statistics.median(seconds[name]) for name in ("copy", "fill"))
            rates = " | ".join(f"{rows / took:,.0f}" for took in (made, copy, fill))
            print(f"| {projects} | {rows:,} | {size / 1e6:.0f} | {rates} | {copy / fill:.2f} |", flush=True)
    print(f"peak memory of making 20 projects {_peak(20):.1f} MB, 200 projects {_peak(200):.1f} MB")


def _write(folder: Path, projects: int) -> tuple[int, int]:
    """Write the rows into one file a table; gives their number and their bytes."""
    count = 0
    files = {table: (folder / table).open("wb") for table in COLUMNS}
    for project in example_data.rows(1, 0, projects):
        for table, text in project.items():
            files[table].write(text)
            count += text.count(b"\n")
    for file in files.values():
        file.close()
    return count, sum((folder / table).stat().st_size for table in COLUMNS)


def _clone(where: embedded.Server) -> None:
    drop_and_create = ["-c", "DROP DATABASE IF EXISTS bench", "-c", "CREATE DATABASE bench TEMPLATE planner"]
    subprocess.run(
        [where.binaries / "psql", "-X", "-q", "-h", where.socket, "-p", str(where.port), "-U", "postgres",
         *drop_and_create, "-c", "CHECKPOINT"],
        check=True, capture_output=True,
    )  # fmt: skip


def _copy(where: embedded.Server, folder: Path) -> float:
    """Seconds for one connection, one transaction and one COPY a table; triggers rest, as they do in fill()."""
    began = time.perf_counter()
    connection = psycopg2.connect(host=str(where.socket), port=where.port, user="postgres", dbname="bench")
    with connection, connection.cursor() as cursor:
        for table in COLUMNS:
            cursor.execute(f"ALTER TABLE public.{table} DISABLE TRIGGER USER")
        for table, columns in COLUMNS.items():
            with (folder / table).open("rb") as file:
                cursor.copy_expert(f"COPY public.{table} ({columns}) FROM STDIN", file, CHUNK)
        for table in COLUMNS:
            cursor.execute(f"ALTER TABLE public.{table} ENABLE TRIGGER USER")
    connection.close()
    return time.perf_counter() - began


def _fill(where: embedded.Server, projects: int) -> float:
    """Seconds for fill() as `make example-data` calls it, without the start of Python."""
    before = os.environ.get("DATABASE_URL")
    os.environ["DATABASE_URL"] = where.url("bench")
    os.environ["PLANNER_ENV"] = "development"  # the server is this measurement's own
    try:
        config = Config(str(ROOT / "alembic.ini"))
        began = time.perf_counter()
        example_data.fill(config, projects=projects)
        return time.perf_counter() - began
    finally:
        os.environ.pop("DATABASE_URL")
        if before is not None:
            os.environ["DATABASE_URL"] = before


def _peak(projects: int) -> float:
    """MB that making so many projects allocates at most, batches as loaded."""
    tracemalloc.start()
    for _ in batches(example_data.rows(1, 0, projects)):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6
