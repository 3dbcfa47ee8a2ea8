"""Where a backfill stands, in the guard's tables: begun once, its ranges claimed one by one, done when none is left."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.backfill.keys import Leaf, Range
from mcp_planner_schema.guard import backfill_tables, journal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

_ALONE = journal.Step("pg_temp", "", "", "upgrade", 0, "", "", print)
"""Where no guard runs: tables of the session, and nobody to go on."""

# A session that has gone has left its range. Who is there is asked once, as an array: a join with it would not be made again
# for a row that somebody claims at the same time. Who may not see when another session began takes it for alive.
_CLAIM = """
UPDATE {schema}.backfill_range AS mine
SET worker = (SELECT pg_catalog.concat(a.pid, '@', extract(epoch FROM a.backend_start))
              FROM pg_catalog.pg_stat_activity a WHERE a.pid = pg_catalog.pg_backend_pid())
WHERE mine.backfill = %(id)s AND mine.place = (
    SELECT r.place FROM {schema}.backfill_range r
    WHERE r.backfill = %(id)s AND NOT r.done AND NOT coalesce(
        ARRAY[r.worker, pg_catalog.split_part(r.worker, '@', 1) || '@'] && ARRAY(
            SELECT pg_catalog.concat(a.pid, '@', extract(epoch FROM a.backend_start))
            FROM pg_catalog.pg_stat_activity a WHERE a.pid <> pg_catalog.pg_backend_pid()), false)
    ORDER BY r.place LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING mine.place, mine.relation, mine.above, mine.up_to, mine.reached
"""


@dataclass(frozen=True)
class Record:
    """The row of one backfill. ``done``: an earlier run has finished it; ``digest`` is that of what was begun."""

    schema: str
    id: int
    digest: str
    done: bool
    resumed: bool


@dataclass(frozen=True)
class Claim:
    """A range of a backfill that this session works on, and the key up to which it is done; None: nothing is."""

    backfill: int
    place: int
    range: Range
    reached: tuple[str, ...] | None

    @property
    def rest(self) -> Range:
        """What is left of it."""
        return self.range if self.reached is None else replace(self.range, above=self.reached)


def step_of(connection: Connection) -> journal.Step:
    """The running step; a stand-in where no guard runs, whose tables are made here."""
    step = connection.info.get(journal.STEP)
    if isinstance(step, journal.Step):
        return step
    connection.exec_driver_sql(backfill_tables.TABLES.format(schema=_ALONE.schema))
    return _ALONE


def begin(connection: Connection, step: journal.Step, name: str, target: str, digest: str) -> Record:
    """The backfill's row, made where there is none. It is running from here on. Commits by autocommit."""
    key = (step.version_table, step.revision, step.direction, name)
    where = "version_table = %s AND revision = %s AND direction = %s AND name = %s"
    found = connection.exec_driver_sql(
        f"UPDATE {step.schema}.backfill SET run = %s, waits_for = NULL, waits_since = NULL, "
        f"wanted = CASE wanted WHEN 'stop' THEN 'run' ELSE wanted END WHERE {where} RETURNING id, digest, state",
        (step.run, *key),
    ).first()
    if found is not None:
        return Record(step.schema, found[0], found[1], found[2] == "done", resumed=True)
    made = connection.exec_driver_sql(
        f"INSERT INTO {step.schema}.backfill (version_table, revision, direction, name, target, digest, run) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING id",
        (*key, target, digest, step.run),
    ).scalar_one()
    return Record(step.schema, made, digest, done=False, resumed=False)


def anew(connection: Connection, record: Record, digest: str) -> bool:
    """Take another text for a backfill that has written no row yet, and begin with the first row; gives whether that is so."""
    changed = connection.exec_driver_sql(
        f"UPDATE {record.schema}.backfill AS b SET digest = %s WHERE b.id = %s AND NOT EXISTS (SELECT FROM "
        f"{record.schema}.backfill_range r WHERE r.backfill = b.id AND r.rows_written > 0)",
        (digest, record.id),
    )
    if not changed.rowcount:
        return False
    connection.exec_driver_sql(
        f"UPDATE {record.schema}.backfill_range SET done = false, reached = NULL WHERE backfill = %s", (record.id,)
    )
    return True


def lay_out(connection: Connection, record: Record, ranges: Sequence[Range], *, first: int = 1) -> None:
    """Write the ranges down, all or none, unless an earlier run has. ``first`` is the first one's place."""
    if not ranges:
        return
    leaves = {one.leaf.oid: one.leaf for one in ranges}
    values = ", ".join(["(%s, %s, %s, %s::text[], %s::text[])"] * len(ranges))
    rows = [
        (
            record.id,
            place,
            one.leaf.told,
            list(one.above) if one.above else None,
            list(one.up_to) if one.up_to else None,
        )
        for place, one in enumerate(ranges, first)
    ]
    connection.exec_driver_sql(
        f"WITH expected AS (UPDATE {record.schema}.backfill SET rows_expected = %s WHERE id = %s AND rows_expected = 0) "
        f"INSERT INTO {record.schema}.backfill_range (backfill, place, relation, above, up_to) VALUES {values} "
        "ON CONFLICT DO NOTHING",
        (sum(one.expected for one in leaves.values()), record.id, *(part for row in rows for part in row)),
    )


def laid_out(connection: Connection, record: Record) -> int:
    """The last place that there is; 0 where no range was written down."""
    sql = f"SELECT coalesce(pg_catalog.max(place), 0) FROM {record.schema}.backfill_range WHERE backfill = %s"
    return int(connection.exec_driver_sql(sql, (record.id,)).scalar_one())


def claim(connection: Connection, record: Record, leaves: dict[str, Leaf]) -> Claim | None:
    """The next range that nobody works on; None where there is none. Commits by autocommit."""
    row = connection.exec_driver_sql(_CLAIM.format(schema=record.schema), {"id": record.id}).first()
    if row is None:
        return None
    above, up_to, reached = (tuple(bound) if bound is not None else None for bound in row[2:])
    return Claim(record.id, row[0], Range(leaves[row[1]], above, up_to), reached)


def left(connection: Connection, record: Record) -> int:
    """How many ranges are not done."""
    sql = f"SELECT pg_catalog.count(*) FROM {record.schema}.backfill_range WHERE backfill = %s AND NOT done"
    return int(connection.exec_driver_sql(sql, (record.id,)).scalar_one())


def missing(connection: Connection, record: Record, leaves: dict[str, Leaf]) -> list[Leaf]:
    """Those of the leaves that have no range yet; ranges of tables that are gone are done. Commits by autocommit."""
    connection.exec_driver_sql(
        f"UPDATE {record.schema}.backfill_range SET done = true WHERE backfill = %s AND relation <> ALL (%s::text[])",
        (record.id, list(leaves)),
    )
    found = connection.exec_driver_sql(
        f"SELECT DISTINCT relation FROM {record.schema}.backfill_range WHERE backfill = %s", (record.id,)
    )
    there = set(found.scalars())
    return [leaf for told, leaf in leaves.items() if told not in there]


def written(connection: Connection, record: Record) -> tuple[int, int]:
    """Rows seen and rows written so far, of all runs together."""
    row = connection.exec_driver_sql(
        "SELECT coalesce(pg_catalog.sum(rows_seen), 0)::bigint, coalesce(pg_catalog.sum(rows_written), 0)::bigint "
        f"FROM {record.schema}.backfill_range WHERE backfill = %s",
        (record.id,),
    ).one()
    return row[0], row[1]


def pass_written(connection: Connection, record: Record, leaf: Leaf) -> tuple[int, int]:
    """Rows that the last pass over a table without a key has written, and the block where its ranges end."""
    row = connection.exec_driver_sql(
        f"SELECT coalesce(pg_catalog.sum(pass_written), 0)::bigint, coalesce(pg_catalog.max(up_to[1]::bigint), 0) "
        f"FROM {record.schema}.backfill_range WHERE backfill = %s AND relation = %s",
        (record.id, leaf.told),
    ).one()
    return row[0], row[1]


def reopen(connection: Connection, record: Record, leaf: Leaf) -> None:
    """The leaf's ranges are to be gone through again, from their beginnings; what was counted stays."""
    connection.exec_driver_sql(
        f"UPDATE {record.schema}.backfill SET state = 'running', done_at = NULL, rows_expected = rows_expected + %s "
        "WHERE id = %s",
        (leaf.expected, record.id),
    )
    connection.exec_driver_sql(
        f"UPDATE {record.schema}.backfill_range SET done = false, reached = NULL, pass_written = 0 "
        "WHERE backfill = %s AND relation = %s",
        (record.id, leaf.told),
    )


def note(connection: Connection, record: Record, **detail: Any) -> None:
    """Keep something about it, for whoever reads it later."""
    sql = f"UPDATE {record.schema}.backfill SET detail = detail || %s::jsonb WHERE id = %s"
    connection.exec_driver_sql(sql, (json.dumps(detail), record.id))


def wanted(connection: Connection, record: Record) -> str:
    """What somebody wants of it: run, pause or stop."""
    sql = f"SELECT wanted FROM {record.schema}.backfill WHERE id = %s"
    return str(connection.exec_driver_sql(sql, (record.id,)).scalar_one())


def waits(connection: Connection, record: Record, why: str | None) -> None:
    """What it waits for now, for whoever asks from another shell; None: it goes on."""
    connection.exec_driver_sql(
        f"UPDATE {record.schema}.backfill SET waits_for = %s, waits_since = CASE WHEN %s THEN "
        "coalesce(waits_since, pg_catalog.clock_timestamp()) END WHERE id = %s AND waits_for IS DISTINCT FROM %s",
        (why, why is not None, record.id, why),
    )


def expected(connection: Connection, record: Record) -> int:
    """About how many rows there are to go through, as far as somebody has said so."""
    sql = f"SELECT rows_expected FROM {record.schema}.backfill WHERE id = %s"
    return int(connection.exec_driver_sql(sql, (record.id,)).scalar_one())


def keep_rate(connection: Connection, record: Record, rate: float) -> None:
    """How many rows a second it does now, for whoever asks from another shell."""
    connection.exec_driver_sql(
        f"UPDATE {record.schema}.backfill SET rows_per_second = %s WHERE id = %s", (rate, record.id)
    )


def finish(connection: Connection, record: Record, digest: str | None) -> None:
    """Every range is done, and where there is a query to verify it by, of which ``digest`` is kept, that has said so."""
    connection.exec_driver_sql(
        f"UPDATE {record.schema}.backfill SET state = 'done', waits_for = NULL, waits_since = NULL, "
        "done_at = pg_catalog.clock_timestamp(), verify = %s, "
        "verified_at = CASE WHEN %s THEN pg_catalog.clock_timestamp() END WHERE id = %s",
        (digest, digest is not None, record.id),
    )
