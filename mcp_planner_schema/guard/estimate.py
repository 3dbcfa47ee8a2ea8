"""How long it will take to keep what goes: measured on a sample, copied and summed as the real run does it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, silence, stash, write_back
from mcp_planner_schema.guard.evidence import Loss, Table, name_of, rows_of
from mcp_planner_schema.guard.postcheck import execute, identifier

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.trial import Trial

_SAMPLE = 16 * 1024 * 1024
"""Bytes; a table no larger than this is copied whole to see how long it takes. Of a larger one, the 50th part, but no more."""
_PART, _LEAST = 50, 2 * 1024 * 1024
# A partitioned table has no file of its own.
_PAGES = """
SELECT coalesce((SELECT pg_catalog.sum(pg_catalog.pg_table_size(relid))
                 FROM pg_catalog.pg_partition_tree(%(table)s::oid::regclass)),
                pg_catalog.pg_table_size(%(table)s::oid))::bigint
"""


@dataclass(frozen=True)
class Keeping:
    """The tables that are copied, how long that takes in milliseconds, and those that are moved instead."""

    copied: tuple[str, ...] = ()
    ms: float = 0.0
    moved: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people."""
        about = f"{self.ms:.0f} ms" if self.ms < 10_000 else f"{self.ms / 1000:.0f} s"
        lines = [f"kept by copying {', '.join(self.copied)}: about {about} while writers wait"] if self.copied else []
        return lines + ([f"kept by moving {', '.join(self.moved)}: nothing is copied"] if self.moved else [])


def keeping(connection: Connection, schema: str, tried: Trial, moving: Iterable[Table]) -> Keeping:
    """What keeping the losses of a trial will take, by a sample of each table, read under the lock of a reader."""
    moved = {table.oid: table for table in moving}
    copied, ms = [], 0.0
    for table, loss, changed in stash.plan(tried):
        if table.oid not in moved:
            copied.append(table.shown)
            ms += _copying(connection, schema, table, loss, changed=bool(changed))
    return Keeping(tuple(copied), ms, tuple(table.shown for table in moved.values()))


def worth_knowing(connection: Connection, table: Table) -> bool:
    """Whether a table is larger than the sample: a smaller one is copied before anybody has asked how long it takes."""
    return bool(connection.exec_driver_sql(_PAGES, {"table": table.oid}).scalar_one() > _SAMPLE)


def _copying(connection: Connection, schema: str, table: Table, loss: Loss | None, *, changed: bool) -> float:
    size: int = connection.exec_driver_sql(_PAGES, {"table": table.oid}).scalar_one()
    share = 100 * min(_SAMPLE, max(_LEAST, size / _PART)) / size if size > _SAMPLE else 100.0
    lost = {column.name for column in loss.columns} | set(table.key) if loss and loss.columns else set()
    columns = [one for one in table.columns.values() if not lost or one.name in lost]
    values = ", ".join(map(stash.value, columns))
    sample = f"SELECT {values} FROM {rows_of(table)} TABLESAMPLE SYSTEM ({share:.6f})"
    place = f'{identifier(schema)}."guard:sample"'  # no temporary one: not every role may make those
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        began = time.monotonic()
        execute(connection, f"CREATE UNLOGGED TABLE {place} AS {sample}")
        checksum.of(connection, place, [one.name for one in columns])
        if changed and table.key and not lost:  # afterwards the rows that are what they were go out again: see seal
            was, now = (checksum.row_text(sorted(one.name for one in columns), alias) for alias in "cl")
            same = f"{write_back.same_key(table.key, table)} AND {was} = {now}"
            execute(connection, f"DELETE FROM {place} AS c USING {rows_of(table)} AS l WHERE {same}")
        took = time.monotonic() - began
        execute(connection, f"DROP TABLE {place}")
    return took * 1000 * 100 / share
