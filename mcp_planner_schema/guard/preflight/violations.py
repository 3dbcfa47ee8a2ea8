"""Rows that would make a pending constraint fail: counted and sampled on the live database, before anything is changed.

What is to come is told by the catalog files, which are committed beside the revisions and reviewed as they are: a CHECK's
expression is run here as the revision itself would run it, but in read-only transactions, with quoted names, and for a limited
time. A rule of which not everything exists yet (a column that comes before it) is left for the run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import ladder
from mcp_planner_schema.guard.findings_preflight import TELLS
from mcp_planner_schema.guard.fingerprint.canonical import canonical
from mcp_planner_schema.guard.fingerprint.line import Line
from mcp_planner_schema.guard.postcheck import CATALOG_PATH, execute, identifier
from mcp_planner_schema.guard.preflight import definitions
from mcp_planner_schema.guard.preflight.asked import Found, Here, first_line, found, span
from mcp_planner_schema.guard.preflight.definitions import Check, Exclude, Foreign, Rule, Unique
from mcp_planner_schema.guard.preflight.pending import Name, Pending, parts, table_of, unquoted

if TYPE_CHECKING:
    from sqlalchemy import Connection

_SAMPLE = 5
_THERE = """
SELECT n.nspname::text, c.relname::text, c.relkind = 'p',
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND NOT a.attnotnull),
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_index i
             CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
             WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts ORDER BY k.place),
       ARRAY(SELECT pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k
             WHERE k.conrelid = c.oid AND k.convalidated AND k.contype IN ('c', 'f', 'u', 'p', 'x')),
       ARRAY(SELECT pg_catalog.pg_get_indexdef(i.indexrelid) FROM pg_catalog.pg_index i
             WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid)
FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) AS w (schema, name)
JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema::name
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name::name AND c.relkind IN ('r', 'p')
"""
# What a rule names may come with a pending revision: the table, a column, a schema, a function, an operator, a type, a label.
_NOT_YET = ("42P01", "42703", "3F000", "42883", "42704", "22P02")


class _TooLong(Exception):
    """The time for all rules together has ended."""


@dataclass(frozen=True)
class _Table:
    """A table that is there: whether it is partitioned, its columns that may be null, its primary key, what rules hold."""

    name: Name
    partitioned: bool
    nullable: frozenset[str]
    key: tuple[str, ...]
    holds: frozenset[Rule | None]

    @property
    def sql(self) -> str:
        return f"{identifier(self.name.schema)}.{identifier(self.name.name)}"

    def own(self) -> str:
        """Only its own rows, where others inherit from it: keys are not inherited."""
        return self.sql if self.partitioned else f"ONLY {self.sql}"

    def row(self) -> str:
        """What names one of its rows, named t."""
        if not self.key:
            return "t.ctid::text"
        listed = ", ".join(f"t.{identifier(one)}" for one in self.key)
        return f"{listed}::text" if len(self.key) == 1 else f"ROW({listed})::text"

    def key_shown(self) -> str:
        """The same for people."""
        return ", ".join(self.key) or "ctid"


@dataclass(frozen=True)
class _Coming:
    """A rule that a step brings for a table: ``shown`` names it for people."""

    step: Pending
    table: Name
    shown: str
    rule: Rule | str


def ask(connection: Connection, here: Here) -> Iterator[Found]:
    """A finding for each rule that rows stand against, or of which it could not be found out in time. Reads tables."""
    wanted = list(_coming(here.steps))
    if not wanted:
        return
    names = sorted({one.table for one in wanted})
    asked = ([one.schema for one in names], [one.name for one in names])
    there = {
        Name(schema, name): _Table(Name(schema, name), partitioned, frozenset(nullable), tuple(key), _holding(*texts))
        for schema, name, partitioned, nullable, key, *texts in connection.exec_driver_sql(_THERE, asked)
    }
    until = time.monotonic() + here.settings.preflight.timeout / 1000
    # Hidden rows are an error, not rows that are no violation. A function's body may name what lies in public.
    execute(connection, f"SET row_security = off; SET search_path = {CATALOG_PATH}")
    for one in wanted:
        table = there.get(one.table)
        if table is not None and (query := _query(one.rule, table)):
            yield from _asked(connection, here, one, table, query, until)


def _coming(steps: Iterable[Pending]) -> Iterator[_Coming]:
    """Each rule once, at the step that brings it for the rows that are there; not what a later step takes away again."""
    listed = list(steps)
    seen = set()
    for place, step in enumerate(listed):
        later = {(line.kind, line.identity) for after in listed[place + 1 :] for line in after.gone}
        for line in step.come:
            if (line.kind, line.identity) in later:
                continue
            for one in _rules(step, line):
                if (one.table, one.rule) not in seen:  # a unique constraint has an index that says the same
                    seen.add((one.table, one.rule))
                    yield one


def _rules(step: Pending, line: Line) -> Iterator[_Coming]:
    table = table_of(line)
    if table is None:
        return
    name = parts(line.identity)[-1]
    if line.kind == "constraint" and (rule := definitions.constraint(line.definition)):
        yield _Coming(step, table, f"the constraint {name}", rule)
    elif line.kind == "index" and (found := definitions.index(line.definition)):
        yield _Coming(step, table, f"the unique index {name}", found[1])
    elif line.kind == "column" and definitions.not_null(line.definition):
        yield _Coming(step, table, f"NOT NULL of {name}", name)


def _holding(constraints: list[str], indexes: list[str]) -> frozenset[Rule | None]:
    """The rules that the table keeps already, under whatever names, in the form in which they are stored."""
    unique = [found[1] for text in indexes if (found := definitions.index(canonical("index", text)))]
    return frozenset([*(definitions.constraint(canonical("constraint", text)) for text in constraints), *unique])


def _query(rule: Rule | str, table: _Table) -> _Query | None:
    """What finds the rows; None where there can be none, for another rule that holds says the same."""
    if isinstance(rule, str):
        proven = rule not in table.nullable or Check(f"({_plain(rule)} IS NOT NULL)", False) in table.holds
        return None if proven else _rows(table.sql, f"t.{identifier(rule)} IS NULL", table)
    if rule in table.holds:
        return None
    if isinstance(rule, Check):
        return _rows(f"ONLY {table.sql}" if rule.only else table.sql, f"NOT ({rule.expression})", table)
    if isinstance(rule, Foreign):
        return _rows(table.own(), _orphan(rule), table)
    if isinstance(rule, Unique):
        return _duplicates(rule, table)
    return _overlapping(rule, table)


@dataclass(frozen=True)
class _Query:
    """Two texts: one gives up to five rows (or groups) by name, the other counts. ``counted`` says of what."""

    sample: str
    count: str
    counted: Callable[[int], str]


def _plain(name: str) -> str:
    """A column's name as PostgreSQL writes it, reserved words aside: those are asked for once more than they need be."""
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else identifier(name)


def _rows(source: str, condition: str, table: _Table) -> _Query:
    # The expression stands for itself: names in it are those of the table's columns, and there is only one table.
    where = f"FROM {source} AS t WHERE {condition}"
    return _Query(
        f"SELECT {table.row()} {where} LIMIT {_SAMPLE}", f"SELECT pg_catalog.count(*) {where}",
        lambda count: f"{count:,} row{'' if count == 1 else 's'}",
    )  # fmt: skip


def _orphan(rule: Foreign) -> str:
    own = [f"t.{identifier(unquoted(one))}" for one in rule.own]
    far = [f"r.{identifier(unquoted(one))}" for one in rule.far]
    table = ".".join(identifier(one) for one in parts(rule.table))
    pairs = " AND ".join(f"{one} = {other}" for one, other in zip(own, far, strict=True))
    some = ", ".join(own)
    missing = f"pg_catalog.num_nulls({some}) = 0 AND NOT EXISTS (SELECT FROM {table} AS r WHERE {pairs})"
    partly = f"pg_catalog.num_nulls({some}) BETWEEN 1 AND {len(own) - 1}"
    return f"({missing} OR {partly})" if rule.full and len(own) > 1 else missing


def _duplicates(rule: Unique, table: _Table) -> _Query:
    conditions = [f"({rule.where})"] if rule.where else []
    if not rule.nulls_equal:
        conditions += [f"({one}) IS NOT NULL" for one in rule.expressions]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    # Grouped by place, for a number among the expressions would mean a column of the result.
    listed = ", ".join(f"{one} AS k{place}" for place, one in enumerate(rule.expressions))
    keys = ", ".join(f"s.k{place}" for place in range(len(rule.expressions)))
    same = (
        f"FROM (SELECT {listed}, {table.row()} AS named FROM {table.own()} AS t{where}) AS s "
        f"GROUP BY {keys} HAVING pg_catalog.count(*) > 1"
    )
    return _Query(
        f"SELECT pg_catalog.array_to_string((pg_catalog.array_agg(s.named))[1:2], ' and ') {same} LIMIT {_SAMPLE}",
        f"SELECT pg_catalog.count(*) FROM (SELECT {same}) AS g",
        lambda count: f"{count:,} group{'' if count == 1 else 's'} of equal rows",
    )


def _overlapping(rule: Exclude, table: _Table) -> _Query:
    listed = ", ".join(f"{key} AS k{place}" for place, (key, _) in enumerate(rule.keys))
    where = f" WHERE {rule.where}" if rule.where else ""
    rows = (
        f"(SELECT {listed}, t.tableoid AS place, t.ctid AS at, {table.row()} AS named FROM {table.own()} AS t{where})"
    )
    both = " AND ".join(f"a.k{place} {operator} b.k{place}" for place, (_, operator) in enumerate(rule.keys))
    pairs = f"FROM {rows} AS a JOIN {rows} AS b ON (a.place, a.at) < (b.place, b.at) AND {both}"
    return _Query(
        f"SELECT pg_catalog.concat(a.named, ' and ', b.named) {pairs} LIMIT {_SAMPLE}",
        f"SELECT pg_catalog.count(*) {pairs}",
        lambda count: f"{count:,} pair{'' if count == 1 else 's'} of rows",
    )


def _asked(
    connection: Connection, here: Here, one: _Coming, table: _Table, query: _Query, until: float
) -> Iterator[Found]:
    from sqlalchemy.exc import DBAPIError

    told = {"table": table.name.shown, "rule": one.shown}
    try:
        sample = _within(connection, query.sample, until)
    except _TooLong:
        problem = f"not finished within {span(here.settings.preflight.timeout / 1000)}"
        yield found("constraint-unchecked", one.step.where, revision=one.step.revision, problem=problem, **told)
        return
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        if getattr(error.orig, "pgcode", None) not in _NOT_YET:
            yield found(
                "constraint-unchecked", one.step.where, revision=one.step.revision, problem=first_line(error), **told
            )
        return
    if not sample:
        return
    try:
        count = query.counted(int(_within(connection, query.count, until)[0]))
    except _TooLong:
        count = f"at least {query.counted(len(sample))} (counting was not finished)"
    repaired = _repairing(here.steps, one)
    yield found(
        "constraint-violated", one.step.where, revision=one.step.revision, count=count,
        sample=f"{table.key_shown()}: {', '.join(map(str, sample))}", only=TELLS if repaired else "",
        note=f". {repaired} may write them before that" if repaired else "", **told,
    )  # fmt: skip


def _within(connection: Connection, sql: str, until: float) -> list[Any]:
    """The first column of the rows, in a read-only transaction of its own, within the time that is left for all."""
    from sqlalchemy.exc import DBAPIError

    left = int((until - time.monotonic()) * 1000)
    if left <= 0:
        raise _TooLong
    execute(connection, f"SET statement_timeout = {left}")
    try:
        return list(execute(connection, sql).scalars())
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) == ladder.CANCELED:
            raise _TooLong from None
        raise


def _repairing(steps: Iterable[Pending], one: _Coming) -> str:
    """The first pending revision, up to the rule's own, that may write rows of its table; empty where there is none."""
    for step in steps:
        if step.writes(one.table.name):
            return f"revision {step.revision}"
        if step is one.step:
            break
    return ""
