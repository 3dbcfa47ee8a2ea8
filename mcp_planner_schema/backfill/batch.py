"""One batch as SQL: where it ends, and the statement that writes its rows and, in the same transaction, how far it has come."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.backfill import bypass, keep, rows, together
from mcp_planner_schema.backfill.keys import Range
from mcp_planner_schema.backfill.record import Claim
from mcp_planner_schema.backfill.spec import BATCH, FENCED, TABLE, Backfill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Row

    from mcp_planner_schema.guard.kept_rows import Kept

# Sent with the batch: no further round trip, and no moment in which one is there without the other. The fence lets nobody write
# rows who has lost sight of how far the range has come: whoever comes second waits for the first, and finds it moved.
_WRITE = """
WITH fence AS MATERIALIZED (
    SELECT place FROM {schema}.backfill_range
    WHERE backfill = %s AND place = %s AND NOT done AND reached IS NOT DISTINCT FROM %s::text[] FOR UPDATE
), {written}
UPDATE {schema}.backfill_range AS position
SET reached = %s::text[], done = %s, rows_seen = rows_seen + %s, batches = batches + 1, seconds = seconds + %s,
    rows_written = rows_written + (SELECT pg_catalog.count(*) FROM written),
    pass_written = pass_written + (SELECT pg_catalog.count(*) FROM written), moved_at = pg_catalog.clock_timestamp()
FROM {schema}.backfill AS whole, fence
WHERE position.backfill = %s AND position.place = fence.place AND whole.id = position.backfill
RETURNING (SELECT pg_catalog.count(*) FROM written), whole.wanted
"""


@dataclass(frozen=True)
class Batch:
    """The rows of ``range``, about ``rows`` of them. ``last``: nothing of the range comes after it."""

    range: Range
    rows: int
    last: bool

    @property
    def reached(self) -> tuple[str, ...] | None:
        """The key up to which everything is done then."""
        return self.range.up_to


def following(connection: Connection, rest: Range, size: int) -> Batch:
    """The first ``size`` rows of what is left of a range. Reads their keys."""
    leaf = rest.leaf
    if not leaf.key:
        begin = int(rest.above[0]) if rest.above else 0
        end = int(rest.up_to[0]) if rest.up_to else max(leaf.pages, begin)
        blocks = max(1, int(size * leaf.pages / max(1, leaf.expected)))
        reached = min(end, begin + blocks)
        rows = int((reached - begin) * leaf.expected / max(1, leaf.pages))
        return Batch(replace(rest, up_to=(str(reached),)), rows, last=reached >= end)
    condition, values = rest.sql()
    listed = ", ".join(f"{TABLE}.{one.sql}" for one in leaf.key)
    told = ", ".join(one.text(TABLE) for one in leaf.key)
    found = connection.exec_driver_sql(
        f"SELECT {told} FROM ONLY {leaf.sql} AS {TABLE} WHERE {condition} ORDER BY {listed} OFFSET %s LIMIT 1",
        (*values, size - 1),
    ).first()
    if found is not None:
        return Batch(replace(rest, up_to=tuple(found)), size, last=False)
    rows = connection.exec_driver_sql(
        f"SELECT pg_catalog.count(*) FROM ONLY {leaf.sql} AS {TABLE} WHERE {condition}", values
    ).scalar_one()
    return Batch(rest, rows, last=True)


def write(
    connection: Connection,
    fill: Backfill,
    one: Batch,
    mine: Claim,
    schema: str,
    before: float,
    kept: Kept | None = None,
) -> str | None:
    """Write the batch and its position; gives what somebody wants of the backfill, None where the range is not ours any more.

    ``before`` is how many seconds the batch before has taken, ``kept`` is where old values are kept. One statement, and in
    autocommit (or with ``fill.bypass``) one transaction: after any error neither is there.
    """

    def send(written: str, values: Sequence[Any]) -> Row[Any] | None:
        fence = (mine.backfill, mine.place, _array(mine.reached))
        moved = (_array(one.reached), one.last, one.rows, before, mine.backfill)
        return connection.exec_driver_sql(
            _WRITE.format(schema=schema, written=written), (*fence, *values, *moved)
        ).first()

    whole: Callable[[], AbstractContextManager[None]] = functools.partial(together.transaction, connection)
    if fill.bypass:
        whole = functools.partial(bypass.transaction, connection, one.range.leaf, fill.bypass)
    if fill.rows:
        row = rows.write(connection, fill, one.range, send, kept, whole)
    else:
        with whole() if fill.bypass else nullcontext():
            row = send(*_written(fill, one, kept))
    return None if row is None else str(row.wanted)


def _written(fill: Backfill, one: Batch, kept: Kept | None) -> tuple[str, tuple[Any, ...]]:
    """The statement that writes what is given as SQL, and its values."""
    inside, values = one.range.sql()
    condition = f"{FENCED} AND {inside} AND ({fill.where.replace('%', '%%')})"
    if fill.statement:
        # Locked first: of a row that somebody has just changed the newest values count, and whether it still meets the condition.
        lock = "UPDATE" if fill.statement.lstrip()[:6].upper() == "DELETE" else "NO KEY UPDATE"
        return (
            f"{BATCH} AS MATERIALIZED (SELECT * FROM ONLY {one.range.leaf.sql} AS {TABLE} WHERE {condition} "
            f"FOR {lock} OF {TABLE}), "
            f"written AS ({fill.statement.replace('%', '%%')} RETURNING 1)"
        ), values
    settings = fill.assignments.replace("%", "%%")
    return keep.written(kept, one.range.leaf, settings, "", (condition, values), (inside, values))


def _array(key: tuple[str, ...] | None) -> list[str] | None:
    return None if key is None else list(key)
