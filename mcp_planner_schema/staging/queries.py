"""The application's queries, in a file of SQL that psql's readers know: named, with parameters that the data itself gives.

``-- parameter: project`` stands above a query that gives one value, ``-- query: steps of a task`` above one that the application
asks; ``:project`` in either is the value.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.source import shown

if TYPE_CHECKING:
    from sqlalchemy import Connection

_BLOCK = re.compile(r"^-- (parameter|query): (.+?)\s*$", re.MULTILINE)
_NAMED = re.compile(r"(?<![:\w]):([a-z_][a-z_0-9]*)\b")
LIMIT = "60s"
"""How long one query may run; the application would not wait as long."""
YARDSTICK = """
SELECT count(*) FROM pg_catalog.pg_proc a JOIN pg_catalog.pg_proc b USING (prosrc) WHERE a.oid < 16384 AND b.oid < 16384
"""
"""Some milliseconds of reading and joining what no migration changes, the server's own functions (below
FirstNormalObjectId). It takes longer where the machine has become slower."""
_AS_EVER = (
    "SET LOCAL jit = off; SET LOCAL work_mem = '4MB'; SET LOCAL max_parallel_workers_per_gather = 0; "
    "SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = off; SET LOCAL enable_nestloop = off; "
    "SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; "
    "SET LOCAL enable_bitmapscan = off"
)
"""A migration may set for the database how queries are planned; the yardstick is planned in one way."""


@dataclass(frozen=True)
class Query:
    """One query by its name, with the names of its parameters."""

    name: str
    sql: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Queries:
    """What a file holds. A parameter may be made of those above it."""

    path: Path
    parameters: tuple[Query, ...]
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Measured:
    """How a query went: the median of its runs in milliseconds, blocks of 8 kB that the first of them touched, and its plan,
    as lines.

    ``yardstick``: what :data:`YARDSTICK` took after each run; empty where it could not be asked. Of one that failed ``error``
    says why; of one that nothing could be asked with, ``skipped``. Nothing here is a row's value.
    """

    ms: float = 0.0
    blocks: int = 0
    plan: tuple[str, ...] = ()
    error: str = ""
    skipped: str = ""
    runs: tuple[float, ...] = field(default=(), compare=False)
    yardstick: tuple[float, ...] = field(default=(), compare=False)


def read(path: Path) -> Queries:
    """Read the file. Raises :class:`WrongUse` where it is none, or names a parameter that it does not have."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUse(
            f"The queries in {shown(path)} cannot be read: {error}.", "QUERIES=file scripts/staging-deploy.sh"
        ) from None
    parameters: list[Query] = []
    queries: list[Query] = []
    parts = _BLOCK.split(text)[1:]
    for kind, name, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        sql = body.strip().rstrip(";")
        known = {one.name for one in parameters}
        used = tuple(dict.fromkeys(found for found in _NAMED.findall(sql)))
        unknown = [one for one in used if one not in known]
        if unknown or not sql or name in {one.name for one in (*parameters, *queries)}:
            why = (
                f"there is no parameter {unknown[0]} above it"
                if unknown
                else "it is empty"
                if not sql
                else "the name is taken"
            )
            raise WrongUse(
                f"{shown(path)}: {kind} '{name}': {why}.", f"edit {shown(path)}, then scripts/staging-deploy.sh"
            )
        (parameters if kind == "parameter" else queries).append(Query(name, sql, used))
    if not queries:
        raise WrongUse(f"{shown(path)} has no query ('-- query: name' above each).", f"edit {shown(path)}")
    return Queries(path, tuple(parameters), tuple(queries))


def values(connection: Connection, queries: Queries) -> dict[str, str | None]:
    """What each parameter is in these rows, as text; None where no row gives one, or the query for it fails."""
    from sqlalchemy.exc import DBAPIError

    found: dict[str, str | None] = {}
    for one in queries.parameters:
        try:
            row = connection.exec_driver_sql(_bound(one), found).first()
        except DBAPIError:
            row = None
        connection.rollback()
        found[one.name] = None if row is None or row[0] is None else str(row[0])
    return found


def measure(connection: Connection, query: Query, given: Mapping[str, str | None], runs: int) -> Measured:
    """Run a query once for its plan, and ``runs`` times for its time, each beside the yardstick; nothing is changed."""
    from sqlalchemy.exc import DBAPIError

    missing = [name for name in query.parameters if given.get(name) is None]
    if missing:
        return Measured(skipped=f"no row gives {', '.join(missing)}")
    sql = _bound(query)
    try:
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{LIMIT}'")
        times: list[float] = []
        blocks: list[int] = []
        yardstick: list[float | None] = []
        # The first one warms up, and has the plan; to time each node would take longer than many a query.
        plan = tuple(lines(_explained(connection, sql, given, "")["Plan"]))
        for _ in range(runs):
            told = _explained(connection, sql, given, ", TIMING OFF")
            times.append(told["Execution Time"])
            # A query that writes touches more from run to run: they are one transaction.
            blocks.append(_blocks(told["Plan"]))
            yardstick.append(_yardstick(connection))
        beside = tuple(one for one in yardstick if one is not None)
        beside = beside if len(beside) == len(times) else ()
        return Measured(statistics.median(times), blocks[0], plan, runs=tuple(times), yardstick=beside)
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        said = str(error.orig).strip().splitlines()[0]
        return Measured(error=f"{said} ({getattr(error.orig, 'pgcode', None) or 'no SQLSTATE'})")
    finally:
        connection.rollback()


def together(one: Measured, again: Measured) -> Measured:
    """What two rounds of runs say of a query: plan and blocks are the first's, for the second meets its dead rows."""
    runs = (*one.runs, *again.runs)
    # Beside each run, or beside none.
    beside = (*one.yardstick, *again.yardstick) if one.yardstick and again.yardstick else ()
    return again if again.error else replace(one, ms=statistics.median(runs), runs=runs, yardstick=beside)


def instead(one: Measured, again: Measured) -> Measured:
    """The times of the second round instead of the first's."""
    return again if again.error else replace(one, ms=again.ms, runs=again.runs, yardstick=again.yardstick)


def measured(told: Mapping[str, Any]) -> Measured:
    """One that JSON has kept, which knows no tuples."""
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    return Measured(**given)


def lines(plan: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """A plan as people read it: what is done to which table by which index. No condition, for that quotes values."""
    what = str(plan["Node Type"])
    index, table = plan.get("Index Name"), plan.get("Relation Name")
    told = what + (f" using {index}" if index else "") + (f" on {table}" if table else "")
    if plan.get("Function Name"):
        told += f" on {plan['Function Name']}"
    yield "  " * depth + told
    for below in plan.get("Plans", ()):
        yield from lines(below, depth + 1)


def _explained(connection: Connection, sql: str, given: Mapping[str, str | None], timing: str) -> dict[str, Any]:
    asked = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON{timing}) {sql}"
    told: dict[str, Any] = connection.exec_driver_sql(asked, dict(given)).scalar_one()[0]
    return told


def _yardstick(connection: Connection) -> float | None:
    """How many milliseconds it takes now; None where it fails, which says nothing about the query."""
    from sqlalchemy.exc import DBAPIError

    connection.exec_driver_sql("SAVEPOINT yardstick")
    try:
        connection.exec_driver_sql(_AS_EVER)
        return float(_explained(connection, YARDSTICK, {}, ", TIMING OFF")["Execution Time"])
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return None
    finally:
        if not connection.invalidated:
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT yardstick; RELEASE SAVEPOINT yardstick")


def _blocks(plan: Mapping[str, Any]) -> int:
    # A node's count holds those of the nodes below it.
    return int(plan.get("Shared Hit Blocks", 0) + plan.get("Shared Read Blocks", 0))


def _bound(query: Query) -> str:
    """The query as the driver binds it."""
    return _NAMED.sub(lambda found: f"%({found[1]})s", query.sql.replace("%", "%%"))
