"""What a body does to rows of tables that stay: updated, deleted, emptied, or written anew with other values.

The server counts rows for each table in a transaction, and a table that is emptied or written anew gets a new file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, identifier, pinned
from mcp_planner_schema.guard.tripwire import CommitInside

if TYPE_CHECKING:
    from sqlalchemy import Connection

_STATE = """
SELECT c.oid, c.relfilenode::bigint, pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid),
       pg_catalog.pg_stat_get_xact_tuples_updated(c.oid), pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid)
FROM pg_catalog.pg_class c WHERE c.oid = ANY (%s::oid[])
"""
# Whatever changes rows has taken this very lock, even where a stronger one was held; a rollback of the body's own to a
# savepoint has given it back. Counters alone would count what was rolled back too.
_WRITTEN = """
SELECT DISTINCT relation::oid::bigint FROM pg_catalog.pg_locks
WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted
  AND database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
"""
# ALTER COLUMN … TYPE writes the column's own row in the catalog, even for the same type; another rewrite does so only for a
# column whose default was not in every row yet.
_MARKS = """
SELECT a.attrelid, a.attnum, a.xmin::text, a.atthasmissing FROM pg_catalog.pg_attribute a
WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
"""
_SIZES = "SELECT c.oid, pg_catalog.pg_relation_size(c.oid) FROM pg_catalog.pg_class c WHERE c.oid = ANY (%s::oid[])"


Marks = dict[int, tuple[str, bool]]
"""For each column of a table who wrote its row in the catalog, and whether its default is not in every row yet."""


@dataclass(frozen=True)
class State:
    """A table's file, and what the running transaction has counted in it so far."""

    file: int = 0
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


@dataclass(frozen=True)
class Harm:
    """What a body does to the rows of one table that stays. ``changes``: rows are still there, with other values. ``rows`` is how
    many it deletes and changes, None where it has written all of them anew."""

    table: Table
    what: tuple[str, ...]
    changes: bool = True
    rows: int | None = None

    def __str__(self) -> str:
        return f"{self.table.shown} ({', '.join(self.what)})"


@dataclass(frozen=True)
class Seen:
    """What is to be seen at the end of a body: each table's state, those written to, those with a new file."""

    states: dict[int, State]
    written: frozenset[int]
    rewritten: frozenset[int]
    marks: dict[int, Marks]
    sizes: dict[int, int]

    def changed(self, before: dict[int, State]) -> frozenset[int]:
        """The tables whose rows are not as they were, as far as this shows it by itself."""
        return self.rewritten | self.counted(before)

    def counted(self, before: dict[int, State]) -> frozenset[int]:
        """Those of them of which the server has counted rows as changed or deleted."""
        return frozenset(oid for oid in self.written if any(_changes(before[oid], self.states[oid])))


def states(connection: Connection, oids: Iterable[int]) -> dict[int, State]:
    """The state of these tables, as far as they are there."""
    with pinned(connection, search_path=SYSTEM_PATH):
        return {row[0]: State(*row[1:]) for row in connection.exec_driver_sql(_STATE, (list(oids),))}


def version_table(connection: Connection, schema: str | None, name: str) -> int:
    """The version table's OID, 0 before there is one: its rows are Alembic's to change."""
    path = ".".join(map(identifier, filter(None, (schema, name))))
    asked = connection.exec_driver_sql("SELECT pg_catalog.to_regclass(%s)::pg_catalog.oid", (path,))
    return asked.scalar_one() or 0


def look(connection: Connection, before: dict[int, State], after: Iterable[int], touched: frozenset[int]) -> Seen:
    """Look at the end of a body, before anything is rolled back. ``after`` are the tables that are left.

    Of the tables in ``before``, another file has only what was touched in the catalog since, and rows only what was written to.
    """
    left = before.keys() & set(after)
    with pinned(connection, search_path=SYSTEM_PATH):
        written = frozenset(row[0] for row in connection.exec_driver_sql(_WRITTEN)) & left
    now = {oid: before[oid] for oid in left} | states(connection, sorted(left & (written | touched)))
    with pinned(connection, search_path=SYSTEM_PATH):
        if written and connection.exec_driver_sql("SHOW track_counts").scalar_one() != "on":
            raise CommitInside("the server has track_counts = off, so nobody can see which rows it changes or deletes")
        rewritten = frozenset(oid for oid in now if now[oid].file != before[oid].file)
        return Seen(now, written, rewritten, *_closer(connection, rewritten))


def harms(
    connection: Connection, seen: Seen, before: dict[int, State], tables: tuple[dict[int, Table], dict[int, Table]]
) -> tuple[tuple[Harm, ...], tuple[Table, ...]]:
    """What the body did, in OID order, and the tables with a new file that had nothing in the old one.

    To be called after its rollback; ``tables`` are those before and at its end.

    A DROP or TRUNCATE hides what was counted before it, until it is rolled back: of the two counts the larger one counts.
    """
    old, new = tables
    again = states(connection, seen.written)
    with pinned(connection, search_path=SYSTEM_PATH):
        marks, sizes = _closer(connection, seen.rewritten)
    found = []
    for oid in sorted(seen.written | seen.rewritten):
        what, changes, rows = [], False, 0
        if oid in seen.written:
            first, second = _changes(before[oid], seen.states[oid]), _changes(before[oid], again.get(oid, State()))
            what = [f"{n} {word}" for n, word in zip(map(max, first, second), ("deleted", "changed"), strict=True) if n]
            changes = max(first[1], second[1]) > 0
            rows = sum(map(max, first, second))
        if oid in seen.rewritten and sizes.get(oid):
            rewriting = _rewriting(oid, seen, before, marks.get(oid, {}), (old[oid], new[oid]))
            what, changes = what + rewriting, changes or rewriting not in ([], ["emptied"], ["written anew"])
        if what:
            # Where a type is another one, without a new file too, a row's text may be, and nothing else tells it without a key.
            changes = changes or any(
                n in new[oid].columns and _base(new[oid].columns[n].type) != _base(one.type)
                for n, one in old[oid].columns.items()
            )
            found.append(Harm(old[oid], tuple(what), changes, None if oid in seen.rewritten else rows))
    return tuple(found), tuple(old[oid] for oid in sorted(seen.rewritten) if not sizes.get(oid))


def _base(type: str) -> str:
    """A type as far as its values' text hangs on it: without its length or precision, and text for every varchar."""
    name = re.sub(r"\(\d+(,-?\d+)?\)", "", type)
    return name.replace("character varying", "text")


def filled(connection: Connection, tables: Iterable[Table]) -> list[Table]:
    """Those of the tables that have something in their file."""
    by_oid = {table.oid: table for table in tables}
    asked = connection.exec_driver_sql(_SIZES, (list(by_oid),)) if by_oid else ()
    return [by_oid[oid] for oid, size in asked if size]


def _rewriting(oid: int, seen: Seen, before: dict[int, State], marks: Marks, tables: tuple[Table, Table]) -> list[str]:
    """What a new file means for a table that had one with something in it."""
    old, new = tables
    if not seen.sizes.get(oid):
        return ["emptied"]
    written = [
        number for number in old.columns if number in new.columns and marks[number][0] != seen.marks[oid][number][0]
    ]
    sure = [n for n in written if not marks[n][1] or old.columns[n].type != new.columns[n].type]
    turned = sure or ([] if new.columns.keys() - old.columns.keys() else written)
    if turned:
        return [_turned(old.columns[number].name, old, new, number) for number in turned]
    # Only a column was added, or the table moved: PostgreSQL itself has copied every row. Rows inserted since may as well
    # have been inserted after a TRUNCATE.
    return ["written anew"] if seen.states[oid].inserted > before[oid].inserted else []


def _turned(name: str, old: Table, new: Table, number: int) -> str:
    before, after = old.columns[number].type, new.columns[number].type
    return f"{name} turned from {before} into {after}" if before != after else f"values of {name} written anew"


def _changes(before: State, after: State) -> tuple[int, int]:
    return max(0, after.deleted - before.deleted), max(0, after.updated - before.updated)


def _closer(connection: Connection, oids: Iterable[int]) -> tuple[dict[int, Marks], dict[int, int]]:
    wanted = list(oids)
    if not wanted:
        return {}, {}
    marks: dict[int, Marks] = {oid: {} for oid in wanted}
    for oid, number, *mark in connection.exec_driver_sql(_MARKS, (wanted,)):
        marks[oid][number] = (mark[0], mark[1])
    return marks, {oid: size or 0 for oid, size in connection.exec_driver_sql(_SIZES, (wanted,))}
