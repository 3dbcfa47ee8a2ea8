"""What a step back would do, as its rehearsal has found it: what goes and how much of it, and what is locked for how long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import damage
from mcp_planner_schema.guard.estimate import Keeping
from mcp_planner_schema.guard.evidence import Loss, Table, rows_of
from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, identifier, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

# A partitioned table has no file of its own; what is neither partitioned nor a partition has no partition tree.
_SIZE = """
SELECT coalesce((SELECT pg_catalog.sum(pg_catalog.pg_total_relation_size(relid))
                 FROM pg_catalog.pg_partition_tree(%(table)s::oid::regclass)),
                pg_catalog.pg_total_relation_size(%(table)s::oid))::bigint
"""
_LOCKED = """
SELECT relation::oid::bigint FROM pg_catalog.pg_locks
WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND mode = 'AccessExclusiveLock' AND granted
  AND database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
"""


@dataclass(frozen=True)
class Goes:
    """One table or column that goes: the live rows, how many have a value in the column, and the bytes.

    Those of a table are its files, indexes included; those of a column the sum of its values as they are stored.
    """

    what: str
    rows: int
    values: int | None
    size: int

    def __str__(self) -> str:
        if self.values is None:
            return f"{self.what}: {self.rows} rows, {_shown(self.size)}"
        return f"{self.what}: {self.values} values in {self.rows} rows, about {_shown(self.size)}"


@dataclass(frozen=True)
class Forecast:
    """One step, rehearsed. ``file`` is its revision's name for people.

    ``goes`` and ``keeping`` are empty where nobody asked for numbers. ``body_ms`` is how long the body ran: the real run
    takes as much longer as it takes to keep what goes. ``locked`` are the tables that nobody can read or write from then on, as
    far as the steps before have not locked them already: the server does not say who locked a table twice.
    """

    revision: str
    file: str
    skipped: bool = False
    losses: tuple[Loss, ...] = ()
    harms: tuple[damage.Harm, ...] = ()
    goes: tuple[Goes, ...] = ()
    also: tuple[str, ...] = ()
    body_ms: float = 0.0
    locked: tuple[str, ...] = ()
    commits: bool = False
    findings: tuple[Finding, ...] = ()
    next_command: str = ""
    keeping: Keeping = field(default_factory=Keeping)

    def lines(self) -> list[str]:
        """For people, in the form in which the real run will tell it."""
        if self.skipped:
            return [f"downgrade {self.file:<44} skipped (not for this environment)"]
        lines = [f"downgrade {self.file:<44} body {self.body_ms:7.0f} ms"]
        lines += [f"     goes: {one}" for one in self.goes]
        lines += [f"     also goes: {one}" for one in self.also]
        lines += [f"     changes rows: {harm}" for harm in self.harms]
        lines += [f"     {line}" for line in self.keeping.lines()]
        if self.locked:
            held = self.body_ms + self.keeping.ms
            lines.append(f"     locks for {held:.0f} ms at least: {', '.join(self.locked)}")
        if self.commits:
            lines.append("     commits in the middle: rehearsed without that, and without CONCURRENTLY")
        return lines + [f"     refused: {one.code}" for one in self.findings]


def measure(connection: Connection, lost: Iterable[Loss]) -> tuple[Goes, ...]:
    """Count what goes. Reads the tables once each, under the lock of a reader; to be called inside :func:`stash.readable`."""
    return tuple(one for loss in lost for one in _measured(connection, loss))


def locked(connection: Connection) -> frozenset[int]:
    """The relations that this transaction has locked against everybody."""
    with pinned(connection, search_path=SYSTEM_PATH):
        return frozenset(connection.exec_driver_sql(_LOCKED).scalars())


def names(relations: frozenset[int], tables: dict[int, Table]) -> tuple[str, ...]:
    """What people call those of the relations that are tables; a partition goes without saying where its parent is named."""
    there = [tables[oid] for oid in sorted(relations & tables.keys())]
    return tuple(table.shown for table in there if table.parent not in relations)


def text(forecasts: Sequence[Forecast], here: str, there: str, held_ms: float) -> str:
    """The whole way, for people."""
    held = dict.fromkeys(name for one in forecasts for name in one.locked)
    count = f"{len(forecasts)} step{'s' if len(forecasts) != 1 else ''}"
    lines = [f"back from {here} to {there}: {count}, rehearsed and rolled back; nothing was changed"]
    lines += [line for one in forecasts for line in one.lines()]
    if held:
        lines.append(f"while this ran, nobody could read or write for {held_ms:.0f} ms at most: {', '.join(held)}")
    if len(forecasts) > 1:
        lines.append("a table that several steps lock is named with the first of them; each real step locks it anew")
    if "," not in here + there:
        lines.append(f"as SQL: alembic downgrade {here}:{there} --sql")
    return "\n".join(lines)


def _measured(connection: Connection, loss: Loss) -> list[Goes]:
    source = rows_of(loss.table)
    if not loss.columns:
        rows = execute(connection, f"SELECT pg_catalog.count(*) FROM {source}").scalar_one()
        size = connection.exec_driver_sql(_SIZE, {"table": loss.table.oid}).scalar_one()
        return [Goes(f"table {loss.table.shown}", rows, None, size)]
    asked = ", ".join(
        f"pg_catalog.count(*) FILTER (WHERE pg_catalog.num_nulls({name}) OPERATOR(pg_catalog.=) 0), "
        f"coalesce(pg_catalog.sum(pg_catalog.pg_column_size({name})), 0)::pg_catalog.int8"
        for name in (identifier(column.name) for column in loss.columns)
    )
    rows, *numbers = execute(connection, f"SELECT pg_catalog.count(*), {asked} FROM {source}").one()
    pairs = zip(loss.columns, numbers[::2], numbers[1::2], strict=True)
    return [Goes(f"column {loss.table.shown}.{one.name}", rows, values, size) for one, values, size in pairs]


def _shown(size: float) -> str:
    """As ``pg_size_pretty`` writes it."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 10240:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.0f} TB"
