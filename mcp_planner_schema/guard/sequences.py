"""Sequences: where they stand, and what a body does to them. nextval() and setval() outlast every rollback.

Their state is read from the sequence itself: pg_sequence_last_value() would take a writer's lock on each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.evidence import own
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, identifier, literal, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Those that may be read: a sequence of somebody else's is not the body's to change either.
_SEQUENCES = """
SELECT c.oid, n.nspname::text, c.relname::text, coalesce(d.refobjid, 0), coalesce(a.attname::text, ''), s.seqincrement > 0
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
  AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND left(n.nspname, 3) <> 'pg_' AND n.nspname !~ %s
  AND CASE WHEN c.relkind = 'S' THEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT') END {which}
ORDER BY c.oid
"""
# Whoever takes a value or sets one has taken this lock, and keeps it through a rollback to a savepoint.
_TOUCHED = """
  AND (c.oid = ANY (%s::oid[]) OR c.oid IN (
    SELECT l.relation FROM pg_catalog.pg_locks l
    WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'
      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())))
"""
_CALLED = """
  AND (n.nspname::text, c.relname::text) IN (
    SELECT w.* FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) AS w (namespace, name))
"""
# What a sequence cannot be set to, because somebody has given it other bounds, or by this role, it has not been set from.
_SETTABLE = """
SELECT s.seqrelid::bigint
FROM ROWS FROM (pg_catalog.unnest(%(oids)s::oid[]), pg_catalog.unnest(%(values)s::bigint[])) AS w (oid, value)
JOIN pg_catalog.pg_sequence s ON s.seqrelid = w.oid
WHERE w.value BETWEEN s.seqmin AND s.seqmax AND pg_catalog.has_sequence_privilege(w.oid, 'UPDATE')
"""


# An identity's takes no such word.
_OWNED = """
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname),
       CASE WHEN d.objid IS NULL THEN 'NONE' ELSE pg_catalog.format('%%I.%%I.%%I', o.nspname, t.relname, a.attname) END
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
  AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
LEFT JOIN pg_catalog.pg_class t ON t.oid = d.refobjid LEFT JOIN pg_catalog.pg_namespace o ON o.oid = t.relnamespace
WHERE c.oid = ANY (%s::pg_catalog.oid[]) AND pg_catalog.pg_has_role(c.relowner, 'USAGE') AND d.deptype IS DISTINCT FROM 'i'
ORDER BY c.oid
"""


@dataclass(frozen=True)
class Sequence:
    """A sequence and its state. ``table`` and ``column`` own it (0 and empty where nobody does)."""

    oid: int
    schema: str
    name: str
    table: int
    column: str
    rising: bool
    last_value: int
    is_called: bool

    def behind(self, other: Sequence) -> bool:
        """Whether it would give values that ``other`` has given already."""
        mine, theirs = (self.last_value, self.is_called), (other.last_value, other.is_called)
        return mine < theirs if self.rising else (-mine[0], mine[1]) < (-theirs[0], theirs[1])


def states(connection: Connection, schema: str) -> dict[int, Sequence]:
    """Every sequence but the guard's, by OID. Reads each; takes a reader's lock on each."""
    return _states(connection, schema, "")


def again(
    connection: Connection, schema: str, before: dict[int, Sequence], touched: frozenset[int]
) -> dict[int, Sequence]:
    """``before`` as it stands now, as far as this transaction has taken or set values, or anybody has touched the sequence."""
    now = {oid: one for oid, one in before.items() if oid not in touched}
    return now | _states(connection, schema, _TOUCHED, sorted(touched))


def named(connection: Connection, schema: str, oids: Iterable[int]) -> dict[int, Sequence]:
    """Those of these sequences that are there."""
    return _states(connection, schema, "AND c.oid = ANY (%s::oid[])", list(oids))


def owned(connection: Connection, schema: str, tables: Iterable[int]) -> dict[int, Sequence]:
    """The sequences that columns of these tables own."""
    return _states(connection, schema, "AND d.refobjid = ANY (%s::oid[])", list(tables))


def called(connection: Connection, schema: str, names: Iterable[tuple[str, str]]) -> dict[int, Sequence]:
    """Those of these names (schema and name) that are there."""
    wanted = list(names)
    return _states(connection, schema, _CALLED, *map(list, zip(*wanted, strict=True))) if wanted else {}


def _states(connection: Connection, schema: str, which: str, *values: object) -> dict[int, Sequence]:
    with pinned(connection, search_path=SYSTEM_PATH):
        found = connection.exec_driver_sql(_SEQUENCES.format(which=which), (own(schema), *values)).all()
        if not found:
            return {}
        asked = " UNION ALL ".join(
            f"SELECT {row[0]}::bigint, last_value, is_called FROM {identifier(row[1])}.{identifier(row[2])}"
            for row in found
        )
        stands = {oid: (last, called) for oid, last, called in execute(connection, asked)}
    return {
        oid: Sequence(oid, namespace, name, table, column, rising, *stands[oid])
        for oid, namespace, name, table, column, rising in found
    }


def hold(connection: Connection, found: Iterable[Sequence]) -> None:
    """Let nobody take a value of these sequences until the transaction ends. Takes SHARE ROW EXCLUSIVE on each, as it is.

    No LOCK takes a sequence. One of another owner is left alone, which the body could only set, and one of an identity column.
    """
    wanted = sorted(one.oid for one in found)
    for name, owner in connection.exec_driver_sql(_OWNED, (wanted,)).all() if wanted else ():
        execute(connection, f"ALTER SEQUENCE {name} OWNED BY {owner}")


def put_back(connection: Connection, before: dict[int, Sequence], after: dict[int, Sequence]) -> list[Sequence]:
    """After a trial's rollback: where a setval() has outlasted it, set the sequence to where it stood. Gives those.

    Values that others took meanwhile are not given again: only a sequence that fell behind is set.
    """
    return _set(connection, [one for oid, one in before.items() if oid in after and after[oid].behind(one)])


def undo(connection: Connection, before: dict[int, Sequence], after: dict[int, Sequence]) -> None:
    """Set sequences of which nobody else can have taken a value to where they stood before a statement that was undone."""
    _set(connection, [one for oid, one in before.items() if oid in after and after[oid] != one])


def _set(connection: Connection, wanted: list[Sequence]) -> list[Sequence]:
    """Set those of these that can be set. Gives them."""
    if not wanted:
        return []
    asked = {"oids": [one.oid for one in wanted], "values": [one.last_value for one in wanted]}
    settable = set(connection.exec_driver_sql(_SETTABLE, asked).scalars())
    done = [one for one in wanted if one.oid in settable]
    for one in done:
        advance(connection, one.schema, one.name, one.last_value, one.is_called)
    return done


def remember(beside: Connection, schema: str, run: int, revision: str) -> None:
    """Write into the run's row where all sequences stand, before the downgrade of ``revision`` is tried; commits.

    A body's setval() outlasts a rollback, and whoever is killed in between puts nothing back: :func:`recover` does.
    """
    stood = [[one.oid, one.last_value, one.is_called] for one in states(beside, schema).values()]
    if stood:
        kept = json.dumps({"revision": revision, "stood": stood})
        beside.exec_driver_sql(f"UPDATE {schema}.run SET sequences = %s::jsonb WHERE id = %s", (kept, run))


def recover(beside: Connection, schema: str, remembered: dict[str, Any], heads: tuple[str, ...]) -> None:
    """What a dead run has remembered stands again where it stood, unless the step that it was in has become final."""
    if remembered["revision"] not in heads:
        return
    now = states(beside, schema)
    before = {
        oid: replace(now[oid], last_value=last, is_called=called)
        for oid, last, called in remembered["stood"]
        if oid in now
    }
    put_back(beside, before, now)


def advance(connection: Connection, schema: str, name: str, last_value: int, is_called: bool) -> None:
    """``setval()``; outlasts a rollback."""
    path = literal(f"{identifier(schema)}.{identifier(name)}")
    execute(
        connection,
        f"SELECT pg_catalog.setval({path}::pg_catalog.regclass, {last_value:d}, {str(bool(is_called)).lower()})",
    )
