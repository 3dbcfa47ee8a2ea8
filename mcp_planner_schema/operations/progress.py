"""How far the server has come with an index: a line every ten seconds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.operations import online
from mcp_planner_schema.operations.online import Table

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

_EVERY = 10.0
"""Seconds between two lines."""

_PROGRESS = """
SELECT phase, blocks_done, blocks_total, tuples_done, tuples_total, lockers_done, lockers_total
FROM pg_catalog.pg_stat_progress_create_index WHERE pid = %s
"""


@contextmanager
def shown(context: MigrationContext, table: Table, what: str) -> Iterator[None]:
    """While inside, a thread with a connection of its own says how far it is. That it fails harms nothing."""
    assert context.connection is not None
    driver: Any = context.connection.connection.dbapi_connection
    done = threading.Event()
    arguments = (context, driver.info.backend_pid, f"{what} on {table.shown}", done)
    thread = threading.Thread(target=_tell, args=arguments, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=2)


def _tell(context: MigrationContext, pid: int, what: str, done: threading.Event) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    if done.wait(_EVERY):
        return
    try:
        with context.connection.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as beside:  # type: ignore[union-attr]
            while True:
                row = beside.exec_driver_sql(_PROGRESS, (pid,)).first()
                if row is not None:
                    online.say(context, f"{what}: {_shown(*row)}")
                if done.wait(_EVERY):
                    return
    except SQLAlchemyError:
        return


def _shown(phase: str, blocks: int, all_blocks: int, rows: int, all_rows: int, others: int, all_others: int) -> str:
    counts = ((others, all_others, "sessions waited for"), (rows, all_rows, "rows"), (blocks, all_blocks, "blocks"))
    done = [f", {part:,} of {whole:,} {unit}" for part, whole, unit in counts if whole]
    return phase + (done[0] if done else "")
