"""Where backfills stand, as another shell sees it: running, waiting, paused, interrupted, done. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.backfill.progress import lasting, percent
from mcp_planner_schema.backfill.spec import typed
from mcp_planner_schema.guard import deploy_lock

if TYPE_CHECKING:
    from sqlalchemy import Connection


# A run whose process was killed says running until the next one finds it; the deployers' lock tells them apart.
_READ = """
SELECT b.id, b.name, b.revision, b.direction, b.target, b.state, b.wanted, coalesce(r.state = 'running', false),
       b.waits_for, pg_catalog.date_trunc('second', b.waits_since)::text,
       pg_catalog.date_trunc('second', b.begun_at)::text, extract(epoch FROM b.done_at - b.begun_at)::float8,
       b.rows_expected, b.rows_per_second, b.run,
       coalesce(p.seen, 0), coalesce(p.written, 0)
FROM {schema}.backfill b LEFT JOIN {schema}.run r ON r.id = b.run
LEFT JOIN LATERAL (SELECT pg_catalog.sum(rows_seen)::bigint AS seen, pg_catalog.sum(rows_written)::bigint AS written
                   FROM {schema}.backfill_range WHERE backfill = b.id) AS p ON true WHERE b.version_table = %s ORDER BY b.id
"""


@dataclass(frozen=True)
class Standing:
    """One backfill: how many rows it has come to (``rows_done``), and how many of these it has written. ``state`` is running,
    waiting, paused, interrupted or done; ``alive``: a run works on it now."""

    id: int
    name: str
    revision: str
    direction: str
    table: str
    state: str
    alive: bool
    rows_done: int
    rows_written: int
    rows_expected: int
    rows_per_second: float | None
    waits_for: str | None
    waits_since: str | None
    begun_at: str
    seconds: float | None
    run: int

    @property
    def called(self) -> str:
        """Its name, and whose it is, for people."""
        return f"{self.name} of {self.revision}{' (downgrade)' if self.direction == 'downgrade' else ''}"

    def line(self) -> str:
        """All of it for people."""
        if self.state == "done":
            written = f", {self.rows_written:,} of them written" if self.rows_written != self.rows_done else ""
            return f"{self.called}: done in {lasting(self.seconds or 0)}, {self.rows_done:,} rows{written}"
        share = percent(self.rows_done, self.rows_expected)
        rows = f"{self.rows_done:,}" + (
            f" of {self.rows_expected:,} rows ({share} %)" if share is not None else " rows"
        )
        if self.alive and self.rows_per_second is not None and self.state == "running":
            rows += f", {self.rows_per_second:,.0f} rows/s"
        since = f" since {self.waits_since}" if self.waits_since else ""
        again = f"make migrate-{'up' if self.direction == 'upgrade' else 'down'}"
        return {
            "running": f"{self.called}: running since {self.begun_at}, {rows}",
            "waiting": f"{self.called}: waits{since}: {self.waits_for}; {rows}",
            "paused": f"{self.called}: paused{since}, {rows}; next: {typed('resume', self.name)}"
            + ("" if self.alive else f", then {again}: no run works on it"),
            "interrupted": f"{self.called}: interrupted, {rows}; {again} goes on there",
        }[self.state]


def read(connection: Connection, schema: str, version_table: str, version_table_schema: str | None) -> list[Standing]:
    """All backfills of the history that this version table belongs to, in the order in which they were begun."""
    there = "SELECT pg_catalog.to_regclass(%s) IS NOT NULL"
    if not connection.exec_driver_sql(there, (f"{schema}.backfill",)).scalar_one():
        return []
    deploys = deploy_lock.taken(connection, deploy_lock.of(connection, version_table, version_table_schema))
    named = ".".join(filter(None, (version_table_schema, version_table)))
    found = connection.exec_driver_sql(_READ.format(schema=schema), (named,)).all()
    return [_standing(tuple(row), deploys=deploys) for row in found]


def _standing(row: tuple[Any, ...], *, deploys: bool) -> Standing:
    number, name, revision, direction, table, state, wanted, running, waits, since, begun, seconds = row[:12]
    expected, rate, run, done, written = row[12:]
    alive = deploys and running and state != "done"
    if state != "done":
        state = "paused" if wanted == "pause" else "interrupted" if not alive else "waiting" if waits else "running"
    return Standing(
        number, name, revision, direction, table, state, alive, done, written, expected, rate, waits if alive else None,
        since if alive else None, begun, seconds, run,
    )  # fmt: skip
