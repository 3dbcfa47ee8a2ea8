"""What preflight costs before a run: on the planner's schema and on 2,000 tables, of which every question is asked.

Milliseconds of :func:`check.ask` in production, connecting included. Nothing is compared: the limits are a few tens of
milliseconds on the planner's schema, and a time that grows with the tables and not faster.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time

import psycopg2
from alembic import command
from alembic.config import Config

from bench.side_by_side import ROOT, create_database, server
from mcp_planner_schema import embedded
from mcp_planner_schema.guard import connect, settings
from mcp_planner_schema.guard.preflight import check, pending
from mcp_planner_schema.guard.preflight.pending import Pending

TURNS = 21
TABLES = (500, 1000, 2000)
# As large as the planner's: keys by identity, references, three indexes, checks.
_TABLE = (
    "CREATE TABLE t{n} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, parent bigint REFERENCES t{before}, "
    "name text NOT NULL, state text CHECK (state <> ''), n int DEFAULT 0, a int, b int, c text, d text, e timestamptz); "
    "CREATE UNIQUE INDEX ON t{n} (name); CREATE INDEX ON t{n} (parent); INSERT INTO t{n} (name, state) VALUES ('x', 'y'); "
)


def main() -> None:
    """Print the medians."""
    print(f"\npreflight (medians of {TURNS} runs)\n| database | tables | whole, ms | slowest, ms |\n|---|---|---|---|")
    with server() as where:
        url = create_database(where, "planner")
        config = Config(str(ROOT / "alembic.ini"))
        os.environ["DATABASE_URL"] = url
        command.upgrade(config, "head")
        steps = _all_pending()
        _show("the planner's schema, all 24 revisions pending", url, steps)
        _show("the same, nothing known to be pending", url, [])
        for tables in TABLES:
            url = create_database(where, f"with_{tables}")
            _fill(where, f"with_{tables}", tables)
            _show(f"{tables:,} tables", url, [])


def _show(named: str, url: str, steps: list[Pending]) -> None:
    given = settings.load(Config(str(ROOT / "alembic.ini")), {"DATABASE_URL": url, "PLANNER_ENV": "production"})
    took = []
    for _ in range(TURNS + 1):
        engine = connect.own(connect.engine(connect.url(given), "bench"))
        began = time.perf_counter()
        check.ask(engine, given, steps)
        took.append((time.perf_counter() - began) * 1000)
        engine.dispose()
    tables = _tables(url)
    print(f"| {named} | {tables:,} | {statistics.median(took[1:]):.1f} | {max(took[1:]):.1f} |", flush=True)


def _tables(url: str) -> int:
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p') AND oid >= 16384")
        return int(cursor.fetchone()[0])


def _all_pending() -> list[Pending]:
    """Every revision of the planner, as if it were to run: the rows of all tables are asked for."""
    folder = ROOT / "alembic"
    known = sorted(path.stem for path in (folder / "locks").glob("*.json"))
    return [pending.of(folder, revision, "upgrade", None) for revision in known]


def _fill(where: embedded.Server, database: str, tables: int) -> None:
    for begin in range(0, tables, 100):
        sql = "".join(_TABLE.format(n=n, before=max(n - 1, 0)) for n in range(begin, begin + 100))
        subprocess.run(
            [where.binaries / "psql", "-X", "-q", "-h", where.socket, "-p", str(where.port), "-U", "postgres", "-d", database],
            input=sql, text=True, check=True, capture_output=True,
        )  # fmt: skip
