"""Applying a history of one table a revision: plain Alembic, the guard, and psql with the guard's own SQL as the floor."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.side_by_side import alembic, create_database, history, medians, server
from mcp_planner_schema import embedded


def main() -> None:
    """Print seconds and ratios for 10 and 200 revisions."""
    print("\napplying a history, one table a revision, a transaction each (median of 3 interleaved runs)")
    print(
        "| revisions | psql, one session, s | plain Alembic, s | with the guard, s | guard / plain |\n|---|---|---|---|---|"
    )
    with server() as where:
        for revisions in (10, 200):
            with history(revisions, guarded=False) as plain, history(revisions, guarded=True) as guarded:
                found = medians(
                    3,
                    {
                        "psql": _floor(where, revisions),
                        "plain": partial(_apply, where, plain),
                        "guarded": partial(_apply, where, guarded),
                    },
                )
                ratio = found["guarded"] / found["plain"]
                shown = " | ".join(f"{found[name]:.2f}" for name in ("psql", "plain", "guarded"))
                print(f"| {revisions} | {shown} | {ratio:.2f} |")


def _apply(where: embedded.Server, folder: Path) -> None:
    alembic(folder, create_database(where, "bench"), "upgrade", "head")


def _floor(where: embedded.Server, revisions: int) -> Callable[[], None]:
    statements = "".join(
        f"BEGIN; CREATE TABLE t{number} (id integer PRIMARY KEY, name text); COMMIT;\n" for number in range(revisions)
    )

    def run() -> None:
        create_database(where, "bench")
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
            file.write(statements)
            file.flush()
            subprocess.run(
                [where.binaries / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", where.socket, "-p", str(where.port),
                 "-U", "postgres", "-d", "bench", "-f", file.name],
                check=True, capture_output=True,
            )  # fmt: skip

    return run
