"""What the backfills of pending revisions have before them: rows, batches, triggers, and how long. Reads only.

Counted is what is there now; where that takes too long it is estimated, and said so. How long it takes is told by the rate of
former backfills, and by nothing else.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.backfill import former, keys
from mcp_planner_schema.backfill.keys import Leaf
from mcp_planner_schema.backfill.progress import lasting
from mcp_planner_schema.backfill.spec import BATCH, TABLE, Backfill
from mcp_planner_schema.guard import judge
from mcp_planner_schema.guard.postcheck import execute, identifier
from mcp_planner_schema.guard.settings import Settings
from mcp_planner_schema.inspect import route, statements, status

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory
    from sqlalchemy import Connection

    from mcp_planner_schema.operations.backfill import BackfillRows

LIMIT = 5_000
"""Milliseconds that a count may take."""

_NOT_YET = ("42P01", "42703", "42883", "3F000", "42704")
"""What is missing now may be there when the revisions before have run: table, column, function, schema, type."""

_FIRES = {"Insert": 4, "Delete": 8, "Update": 16}
_TRIGGERS = """
SELECT DISTINCT t.tgname::text FROM pg_catalog.pg_trigger t
WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgrelid = ANY (%(tables)s::oid[])
  AND t.tgtype & %(fires)s <> 0 AND (%(columns)s::text[] IS NULL OR t.tgtype & %(fires)s <> 16 OR t.tgattr::text = ''
    OR EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.tgrelid AND a.attname = ANY (%(columns)s::text[])
               AND a.attnum = ANY (t.tgattr::int2[]))) ORDER BY 1
"""


@dataclass(frozen=True)
class Pending:
    """A backfill of a revision that is to be run, or why the revision could not be read to its end."""

    revision: str
    operation: BackfillRows | None
    problem: str = ""


@dataclass(frozen=True)
class Count:
    """Rows of a table and those that meet the condition; None where that cannot be said. ``why`` it is no exact count."""

    rows: int | None
    meet: int | None
    why: str = ""


def lines(config: Config, revisions: Sequence[str]) -> list[str]:
    """What to tell of these revisions' backfills, as comments of SQL; nothing where there is none."""
    told = by_revision(config, revisions)
    return [("--   " if line.startswith(" ") else "-- ") + line.strip() for one in told.values() for line in one]


def by_revision(config: Config, revisions: Sequence[str]) -> dict[str, list[str]]:
    """The same of each revision that has backfills, as text; what belongs to the line above it is indented."""
    told: dict[str, list[str]] = {}
    with status.connected(config) as (connection, given):
        with route.history(config, given, ()) as script:
            found = list(_pending(config, script, given, revisions))
        for one in found:
            told.setdefault(one.revision, []).extend(
                ("  " if line.startswith(" ") else "") + " ".join(line.split())
                for line in _told(connection, given, one)
            )
    return told


def _pending(config: Config, script: ScriptDirectory, given: Settings, revisions: Sequence[str]) -> Iterator[Pending]:
    scripts = [one for name in revisions if (one := script.get_revision(name)) is not None]
    judged = {one.path: one.header for one in judge.judge_pending(script, [one.path for one in scripts], given)}
    for one, header in zip(scripts, judged.values(), strict=True):
        if header is None or given.environment in header.environments:
            yield from _recorded(config, script, one)


def _recorded(config: Config, script: ScriptDirectory, one: Script) -> list[Pending]:
    """The revision's own calls of op.backfill; what other operations fill by themselves is not among them."""
    from alembic.operations import Operations

    from mcp_planner_schema.operations.backfill import BackfillRows

    found: list[Pending] = []

    def invoke(operation: Any) -> None:
        if isinstance(operation, BackfillRows):
            found.append(Pending(one.revision, operation))

    with statements.offline_context(config, script) as context:
        try:
            with Operations.context(context) as operations, redirect_stdout(io.StringIO()):
                operations.invoke = invoke  # type: ignore[method-assign, assignment]  # nothing is carried out
                one.module.upgrade()
        except Exception as error:
            found.append(Pending(one.revision, None, f"{type(error).__name__}: {error}".partition("\n")[0]))
    return found


def _told(connection: Connection, given: Settings, one: Pending) -> Iterator[str]:
    if one.operation is None:
        yield f"backfills of {one.revision}: told as far as it can be read without its answers: {one.problem}"
        return
    fill, operation = one.operation.asked(), one.operation
    named = (f"{identifier(operation.schema)}." if operation.schema else "") + identifier(operation.table)
    shown = f"backfill {fill.name} of {one.revision}"
    oid = connection.exec_driver_sql("SELECT pg_catalog.to_regclass(%s::text)::oid::bigint", (named,)).scalar()
    if oid is None:
        yield f"{shown}: the table {operation.table} is not there yet, so nothing can be counted"
        return
    _, locked = _asked(connection, f"SELECT FROM {named} LIMIT 0")
    if locked:
        yield f"{shown}: {operation.table} cannot be read: {locked}"
        return
    leaves = keys.leaves(connection, oid)
    connection.rollback()
    yield f"{shown}: the rows of {operation.table}, {_by(leaves)}"
    counted = _count(connection, named, fill, leaves)
    yield "  " + _rows(counted, fill)
    yield from _long(connection, given, fill, operation.table, counted)
    yield from _triggers(connection, oid, leaves, named, fill, tuple(operation.set or operation.writes))
    if fill.verify:
        left, why = _asked(connection, fill.verify)
        yield f"  verify: {left[0]:,} now" if left and isinstance(left[0], int) else f"  verify: {why or 'no number'}"


def _by(leaves: Sequence[Leaf]) -> str:
    listed = dict.fromkeys(", ".join(column.name for column in leaf.key) for leaf in leaves)
    return (
        " and ".join(f"by their key ({one})" if one else "by their places (no key)" for one in listed)
        or "of which none is"
    )


def _asked(connection: Connection, sql: str) -> tuple[Any, str]:
    """The first row, in a transaction of its own; or why there is none."""
    from sqlalchemy.exc import DBAPIError

    try:
        execute(
            connection,
            f"SET LOCAL statement_timeout = {LIMIT}; SET LOCAL lock_timeout = '1s'; SET LOCAL row_security = off",
        )
        return execute(connection, sql).first(), ""
    except DBAPIError as error:
        code = getattr(error.orig, "pgcode", None) or ""
        said = str(error.orig).strip().split("\n")[0]
        if code == "57014":
            return None, f"not within {LIMIT / 1000:g} s"
        if code in _NOT_YET:
            return None, f"not before the revisions before it have run ({said})"
        if code == "55P03":
            return None, "somebody has locked it"
        # What PostgreSQL says of a value that it cannot read quotes it.
        return None, f"not now ({'SQLSTATE ' + code if code.startswith('22') else said})"
    finally:
        connection.rollback()


def _count(connection: Connection, named: str, fill: Backfill, leaves: Sequence[Leaf]) -> Count:
    found, why = _asked(
        connection,
        f"SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE ({fill.where})) FROM {named} AS {TABLE}",
    )
    if found:
        return Count(*found)
    planned, no_plan = _asked(connection, f"EXPLAIN (FORMAT JSON) SELECT FROM {named} AS {TABLE} WHERE ({fill.where})")
    meet = int(planned[0][0]["Plan"]["Plan Rows"]) if planned else None
    known = all(leaf.rows >= 0 for leaf in leaves)
    return Count(sum(leaf.expected for leaf in leaves) if known else None, meet, no_plan or why)


def _rows(counted: Count, fill: Backfill) -> str:
    about = "about " if counted.why else ""
    rows = f"{about}{counted.rows:,} rows" if counted.rows is not None else "rows nobody has counted yet (ANALYZE)"
    meet = "all are taken" if fill.where == "true" else f"taken where {fill.where}"
    if fill.where != "true" and counted.meet is not None:
        meet = f"{about}{counted.meet:,} meet {fill.where}"
    return f"{rows}, {meet}" + (
        f"; counted: {counted.why}, so these are the planner's estimates" if counted.why else ""
    )


def _long(connection: Connection, given: Settings, fill: Backfill, table: str, counted: Count) -> Iterator[str]:
    rate = former.rate(connection, given.schema, table)
    connection.rollback()
    if counted.rows is None:
        return
    if rate is None:
        least = _batches(counted.rows, fill.most)
        yield f"  {least} or more; how long is unknown: no backfill has run here before"
        return
    size = min(fill.most, rate.rows * given.backfill.target / 1000)
    yield (
        f"  about {_batches(counted.rows, size)}, about {lasting(counted.rows / rate.rows)} with one worker, "
        f"as {rate.of} went: {rate.rows:,.0f} rows/s"
    )
    share = given.backfill.share
    if share < 1:
        yield f"  while others are at work about {lasting(counted.rows / rate.rows / share)}, in small batches (backfill_share)"


def _batches(rows: int, size: float) -> str:
    count = max(1, math.ceil(rows / max(1, size)))
    return f"{count:,} batch{'es' if count != 1 else ''}"


def _triggers(
    connection: Connection, oid: int, leaves: Sequence[Leaf], named: str, fill: Backfill, columns: tuple[str, ...]
) -> Iterator[str]:
    """Those that fire, by name. What a statement writes is asked of the planner."""
    tables, why = [("Update", [oid, *(leaf.oid for leaf in leaves)])], ""
    if fill.statement:
        plan, why = _asked(
            connection,
            f"EXPLAIN (FORMAT JSON, VERBOSE) WITH {BATCH} AS NOT MATERIALIZED (SELECT * FROM {named} AS {TABLE} "
            f"WHERE ({fill.where})), written AS ({fill.statement} RETURNING 1) SELECT pg_catalog.count(*) FROM written",
        )
        tables = [(kind, _oids(connection, found)) for kind, found in _written(plan[0] if plan else [])]
    if why:
        yield f"  triggers: {why}"
        return
    names: dict[str, None] = {}
    for kind, oids in tables:
        values = {"tables": oids, "fires": _FIRES.get(kind, 28), "columns": list(columns) or None}
        found = connection.exec_driver_sql(_TRIGGERS, values).scalars()
        names |= dict.fromkeys(one for one in found if not (fill.bypass and fill.bypass.means(one)))
    connection.rollback()
    fires = [name for name in names if fill.bypass is None or not fill.bypass.means(name)]
    yield f"  triggers that fire: {', '.join(fires) or 'none'}"


def _oids(connection: Connection, found: Sequence[tuple[str, str]]) -> list[int]:
    asked = [f"{identifier(schema)}.{identifier(name)}" for schema, name in found]
    sql = "SELECT pg_catalog.to_regclass(name)::oid::bigint FROM pg_catalog.unnest(%s::text[]) AS name"
    return list(connection.exec_driver_sql(sql, (asked,)).scalars())


def _written(node: Any) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each table that a plan writes, with what is done to it."""
    if isinstance(node, list):
        for one in node:
            yield from _written(one)
    elif isinstance(node, dict):
        if node.get("Node Type") == "ModifyTable":
            targets = [one for one in (node, *node.get("Target Tables", ())) if "Relation Name" in one]
            yield node["Operation"], [(one["Schema"], one["Relation Name"]) for one in targets]
        for one in node.values():
            yield from _written(one)
