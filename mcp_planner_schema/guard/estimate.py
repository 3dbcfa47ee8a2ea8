"""How long it will take to keep what goes: measured on a sample, copied and summed as the real run does it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, seal, silence, stash, write_back
from mcp_planner_schema.guard.evidence import Loss, Table, name_of, rows_of
from mcp_planner_schema.guard.manifest import AFTER
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
            ms += _copying(connection, schema, table, loss, _changed(tried, table) if changed else 0)
    return Keeping(tuple(copied), ms, tuple(table.shown for table in moved.values()))


def _changed(tried: Trial, table: Table) -> float:
    """How many rows of a table a trial has changed or deleted; infinity where it has written all of them anew."""
    harms = [harm for harm in tried.harms if tried.root(harm.table).oid == table.oid]
    return sum(math.inf if harm.rows is None else harm.rows for harm in harms)


def worth_knowing(connection: Connection, table: Table) -> bool:
    """Whether a table is larger than the sample: a smaller one is copied before anybody has asked how long it takes."""
    return bool(connection.exec_driver_sql(_PAGES, {"table": table.oid}).scalar_one() > _SAMPLE)


def _copying(connection: Connection, schema: str, table: Table, loss: Loss | None, changed: float) -> float:
    """Milliseconds, from a sample that is copied, and of which such a part is kept as was ``changed``, in rows of the table."""
    size: int = connection.exec_driver_sql(_PAGES, {"table": table.oid}).scalar_one()
    share = 100 * min(_SAMPLE, max(_LEAST, size / _PART)) / size if size > _SAMPLE else 100.0
    lost = {column.name for column in loss.columns} if loss else set()
    columns = list(table.columns.values())
    if lost and not changed:
        columns = [one for one in columns if one.name in lost or one.name in table.key]
    names, values = [one.name for one in columns], ", ".join(map(stash.value, columns))
    sample = f"{rows_of(table)} AS s TABLESAMPLE SYSTEM ({share:.6f}) REPEATABLE (0)"
    place = f'{identifier(schema)}."guard:sample"'  # no temporary one: not every role may make those
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        began = time.monotonic()
        rows = execute(connection, f"CREATE TABLE {place} AS SELECT {values} FROM {sample}").rowcount
        checksum.of(connection, place, names)
        if changed:
            part = 1.0 if lost else min(1.0, changed / max(1.0, rows * 100 / share))
            _seal(connection, schema, table, names, f"(SELECT * FROM {sample})", part)
        took = time.monotonic() - began
        execute(connection, f"DROP TABLE {place}")
    return took * 1000 * 100 / share


def _seal(connection: Connection, schema: str, table: Table, names: list[str], live: str, part: float) -> None:
    """What is done after the run (:mod:`.seal`, :mod:`.proof`): each row compared, those that are others kept, the table read."""
    place, sealed = (f"{identifier(schema)}.{identifier(name)}" for name in ("guard:sample", "guard:sealed"))
    if table.key:
        alike = checksum.alike(connection, place, live, names)
        after = checksum.row_hash(names, "l")
        execute(
            connection, f"CREATE TABLE {sealed} (LIKE {place}); ALTER TABLE {sealed} ADD {identifier(AFTER)} bigint"
        )
        execute(
            connection,
            f"INSERT INTO {sealed} SELECT c.*, {after} FROM {place} AS c LEFT JOIN {live} AS l "
            f"ON {write_back.same_key(table.key, table)} WHERE NOT {alike} OR pg_catalog.random() < {part:.6f}",
        )
        checksum.of(connection, sealed, names)
        execute(connection, f"DROP TABLE {sealed}")
    else:
        was, now = checksum.row_text(sorted(names), "c"), checksum.row_text(sorted(names), "l")
        execute(connection, seal.SAME.format(place=place, live=live, was=was, now=now))
    checksum.of(connection, live, names)
