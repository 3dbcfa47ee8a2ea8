"""How far a long statement of a step is, as the server itself says: building an index, CLUSTER, VACUUM, ANALYZE, COPY."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

AFTER, EVERY = 5.0, 10.0
"""Seconds of a step until people are told, and between two lines: what is over before that is nobody's news."""

# One row, or none. A role that may not look at the session sees its row without a phase. Which of the counters counts depends on
# the phase: the first that has a whole.
_SQL = """
WITH at (command, relid, index, phase, done, whole, unit) AS (
  SELECT p.command, p.relid, p.index_relid, p.phase,
         CASE WHEN p.lockers_total > 0 THEN p.lockers_done WHEN p.tuples_total > 0 THEN p.tuples_done ELSE p.blocks_done END,
         CASE WHEN p.lockers_total > 0 THEN p.lockers_total WHEN p.tuples_total > 0 THEN p.tuples_total ELSE p.blocks_total END,
         CASE WHEN p.lockers_total > 0 THEN 'sessions waited for' WHEN p.tuples_total > 0 THEN 'rows' ELSE 'blocks' END
  FROM pg_catalog.pg_stat_progress_create_index p WHERE p.pid = %(pid)s::int4
  UNION ALL
  SELECT p.command, p.relid, 0, p.phase, p.heap_blks_scanned, p.heap_blks_total, 'blocks'
  FROM pg_catalog.pg_stat_progress_cluster p WHERE p.pid = %(pid)s::int4
  UNION ALL
  SELECT 'VACUUM', p.relid, 0, p.phase,
         CASE WHEN p.phase = 'vacuuming heap' THEN p.heap_blks_vacuumed ELSE p.heap_blks_scanned END, p.heap_blks_total, 'blocks'
  FROM pg_catalog.pg_stat_progress_vacuum p WHERE p.pid = %(pid)s::int4
  UNION ALL
  SELECT 'ANALYZE', p.relid, 0, p.phase, p.sample_blks_scanned, p.sample_blks_total, 'blocks'
  FROM pg_catalog.pg_stat_progress_analyze p WHERE p.pid = %(pid)s::int4
  UNION ALL
  SELECT p.command, p.relid, 0, pg_catalog.lower(p.type),
         CASE WHEN p.bytes_total > 0 THEN p.bytes_processed ELSE p.tuples_processed END, p.bytes_total,
         CASE WHEN p.bytes_total > 0 THEN 'bytes' ELSE 'rows' END
  FROM pg_catalog.pg_stat_progress_copy p WHERE p.pid = %(pid)s::int4
)
SELECT at.command, at.phase, coalesce(at.done, 0), coalesce(at.whole, 0), at.unit,
       CASE WHEN n.nspname = 'public' THEN c.relname::text
            WHEN c.oid IS NOT NULL THEN pg_catalog.concat(n.nspname::text, '.', c.relname::text) END,
       i.relname::text
FROM at LEFT JOIN pg_catalog.pg_class c ON c.oid = at.relid LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_class i ON i.oid = at.index
WHERE at.phase IS NOT NULL LIMIT 1
"""


@dataclass(frozen=True)
class Underway:
    """A statement at work: what it is, in which phase, and how many of how many; ``total`` is 0 where nobody knows."""

    command: str
    phase: str
    done: int
    total: int
    unit: str
    table: str | None
    index: str | None

    def line(self) -> str:
        """For people."""
        what = f"index {self.index}" if self.index else "index" if "INDEX" in self.command else self.command
        where = f"{' on' if 'INDEX' in self.command else ' of'} {self.table}" if self.table else ""
        part = f"{self.done:,} of {self.total:,} {self.unit}" if self.total else f"{self.done:,} {self.unit}"
        share = f" ({100 * self.done // self.total} %)" if self.total and self.unit != "sessions waited for" else ""
        return f"{what}{where}: {self.phase}" + (f", {part}{share}" if self.total or self.done else "")


def look(beside: Connection, pid: int) -> Underway | None:
    """What the backend is at, if that is one of these. Reads only."""
    row = beside.exec_driver_sql(_SQL, {"pid": pid}).first()
    return Underway(*row) if row is not None else None
