"""Which tables the statements of an upgrade have read and written, and what may so have gone from one into the other.

The server counts what a transaction reads and writes of each table. A statement may have put whatever it has read into whatever
it writes; what it has handed to the client instead, any later one may.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sqlalchemy import Connection

# A table is read through its indexes as well. TRUNCATE sets the counters to nothing, and gives the table another file.
_COUNTED = """
SELECT coalesce(i.indrelid, c.oid)::bigint,
       pg_catalog.sum(pg_catalog.pg_stat_get_xact_numscans(c.oid) + pg_catalog.pg_stat_get_xact_tuples_returned(c.oid)
                      + pg_catalog.pg_stat_get_xact_tuples_fetched(c.oid))::bigint,
       coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid)
                               + pg_catalog.pg_stat_get_xact_tuples_updated(c.oid)) FILTER (WHERE c.relkind <> 'i'), 0)::bigint,
       coalesce(pg_catalog.max(c.relfilenode::bigint) FILTER (WHERE c.relkind <> 'i'), 0),
       coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid)) FILTER (WHERE c.relkind <> 'i'), 0)::bigint,
       coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_xact_tuples_updated(c.oid)) FILTER (WHERE c.relkind <> 'i'), 0)::bigint
FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
WHERE c.relkind IN ('r', 'i', 'm') AND c.oid >= 16384 {which} GROUP BY 1
"""
# Whatever a transaction has read or written it holds a lock on until its end, also on what it has dropped since.
_LOCKED = """
WITH mine AS MATERIALIZED (
  SELECT DISTINCT l.relation AS oid FROM pg_catalog.pg_locks l
  WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.relation >= 16384
    AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
{counted}
UNION ALL
SELECT m.oid::bigint, pg_catalog.pg_stat_get_xact_numscans(m.oid) + pg_catalog.pg_stat_get_xact_tuples_returned(m.oid)
                      + pg_catalog.pg_stat_get_xact_tuples_fetched(m.oid), 0, 0, 0, 0
FROM mine m WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = m.oid)
"""
# Of tables that this transaction has done nothing with, the server has counted nothing here.
_READS = """
WITH mine AS MATERIALIZED (
  SELECT DISTINCT l.relation AS oid FROM pg_catalog.pg_locks l
  WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.relation >= 16384
    AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())),
counted AS (
  SELECT coalesce(i.indrelid, m.oid)::bigint AS oid,
         pg_catalog.sum(pg_catalog.pg_stat_get_xact_numscans(m.oid) + pg_catalog.pg_stat_get_xact_tuples_returned(m.oid)
                        + pg_catalog.pg_stat_get_xact_tuples_fetched(m.oid))::bigint AS n
  FROM mine m LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = m.oid GROUP BY 1)
SELECT n.oid, n.n FROM counted n
WHERE n.n > 0 AND n.n IS DISTINCT FROM (%(known)s::jsonb ->> n.oid::pg_catalog.text)::bigint
  AND (pg_catalog.cardinality(%(only)s::bigint[]) = 0 OR n.oid = ANY (%(only)s::bigint[]))
"""
PARTS = "SELECT %(oid)s::bigint UNION SELECT relid::oid::bigint FROM pg_catalog.pg_partition_tree(%(oid)s::oid)"


class Counted(NamedTuple):
    """What was counted of one table: what was read of it, how many rows were written to it, its file, and how many rows of it
    were deleted, and changed."""

    read: int
    written: int
    file: int
    deleted: int
    updated: int


_NOTHING = Counted(0, 0, 0, 0, 0)


@dataclass
class Flow:
    """``into`` names, for each table that was written to, the tables whose rows may be in what was written, ``handed`` those
    whose rows the client may know by now, ``read`` all that were read, ``updated`` those of which rows were changed,
    ``rewritten`` these and what has got another file, ``changed`` those as well of which rows were deleted, ``shown`` all
    that a statement has read or written which gave rows to the client: it may know their keys. Tables are OIDs,
    partitions by themselves."""

    counted: dict[int, Counted] = field(default_factory=dict)
    into: dict[int, frozenset[int]] = field(default_factory=dict)
    handed: frozenset[int] = frozenset()
    read: frozenset[int] = frozenset()
    changed: set[int] = field(default_factory=set)
    updated: set[int] = field(default_factory=set)
    rewritten: set[int] = field(default_factory=set)
    shown: set[int] = field(default_factory=set)


def begin(connection: Connection, flow: Flow) -> None:
    """Count anew: a transaction begins, and the session may not have given away yet what earlier ones have counted."""
    flow.counted = _counted(connection, all_=True)


def note(connection: Connection, flow: Flow) -> None:
    """Whatever was read and written until now was somebody else's doing."""
    flow.counted |= _counted(connection)


def look(
    connection: Connection, flow: Flow, there: Collection[int], *, handed: bool, builds: bool = False,
    several: bool = False,
) -> tuple[list[int], list[int]]:  # fmt: skip
    """A statement has ended. Gives the tables that were written to for the first time, or all anew; and all that it has written.

    What it has read says nothing where it ``builds`` only: indexes, constraints, or a table's rows in another form.

    ``there`` are the tables that there were before all of them: what comes out of another table is what went into that.
    ``handed``: the statement gives rows to the client. ``several``: it is a block or a function, and what it has dropped it may
    have read before: the server forgets what it has counted of that.
    """
    now, before = _counted(connection), flow.counted
    read = {oid for oid, found in now.items() if not builds and found.read != before.get(oid, _NOTHING).read}
    if several:
        read |= {oid for oid, found in now.items() if not found.file and before.get(oid, _NOTHING).file}
    written = [
        oid for oid, found in now.items() if found[1:3] != before.get(oid, _NOTHING._replace(file=found.file))[1:3]
    ]
    for oid, found in now.items():
        was = before.get(oid, _NOTHING._replace(file=found.file))
        flow.updated |= {oid} if found.updated != was.updated else set()
        flow.rewritten |= {oid} if (found.file, found.updated) != (was.file, was.updated) else set()
        flow.changed |= {oid} if found[2:] != was[2:] else set()
    came = frozenset(oid for oid in read if oid in there).union(*(flow.into.get(oid, ()) for oid in read))
    first = [oid for oid in written if oid not in flow.into or now[oid].file != before.get(oid, now[oid]).file]
    for oid in written:
        flow.into[oid] = flow.into.get(oid, frozenset()) | came | flow.handed
    flow.read |= came
    if handed:
        flow.handed |= came
        flow.shown |= read.union(written)
    flow.counted |= now
    return first, written


def reads(connection: Connection, known: Mapping[int, int], only: Collection[int] = ()) -> dict[int, int]:
    """What was read so far of each table, by OID, where that is not what is ``known``; also of what is dropped since.

    ``only`` these, if any are given.
    """
    asked = {"known": json.dumps(known), "only": list(only)}
    return dict(tuple(row) for row in connection.exec_driver_sql(_READS, asked))


def parts(connection: Connection, oids: Iterable[int]) -> frozenset[int]:
    """These tables and all of their partitions."""
    found: set[int] = set()
    for oid in oids:
        found.update(connection.exec_driver_sql(PARTS, {"oid": oid}).scalars())
    return frozenset(found)


def into(connection: Connection, flow: Flow, oid: int) -> frozenset[int] | None:
    """The tables whose rows may be in one table, its partitions included; None where no statement has written to it."""
    written = [flow.into[part] for part in parts(connection, [oid]) if part in flow.into]
    return frozenset().union(*written) if written else None


def _counted(connection: Connection, *, all_: bool = False) -> dict[int, Counted]:
    only = "AND c.oid IN (SELECT m.oid FROM mine m)"
    asked = _COUNTED.format(which="") if all_ else _LOCKED.format(counted=_COUNTED.format(which=only))
    found = connection.exec_driver_sql(asked).all()
    return {oid: Counted(*(each or 0 for each in counted)) for oid, *counted in found}
