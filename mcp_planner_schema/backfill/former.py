"""How fast former backfills went: the only thing that says how long the next one takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Of this table, if any has been; else of all. Only batches count, no pauses: a range's seconds are its batches'.
_RATE = """
SELECT b.target = %(table)s, pg_catalog.count(DISTINCT b.id),
       pg_catalog.sum(r.rows_seen)::float8 / pg_catalog.sum(r.seconds)
FROM {schema}.backfill b JOIN {schema}.backfill_range r ON r.backfill = b.id
GROUP BY 1 HAVING pg_catalog.sum(r.seconds) > 0 AND pg_catalog.sum(r.rows_seen) > 0 ORDER BY 1 DESC LIMIT 1
"""


@dataclass(frozen=True)
class Rate:
    """Rows a second of one worker, and of whom that was."""

    rows: float
    of: str


def rate(connection: Connection, schema: str, table: str) -> Rate | None:
    """The rate that a backfill of this table may expect; None where no backfill has run here."""
    there = "SELECT pg_catalog.to_regclass(%s) IS NOT NULL"
    if not connection.exec_driver_sql(there, (f"{schema}.backfill_range",)).scalar_one():
        return None
    row = connection.exec_driver_sql(_RATE.format(schema=schema), {"table": table}).first()
    if row is None:
        return None
    same, count, rows = row
    several = f"{count} former backfills" if count > 1 else "a former backfill"
    return Rate(rows, f"{several} of {table if same else 'other tables'}")
