"""What the catalog shows of the tables, by OID, and what of them is gone between two looks at it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, identifier, literal, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

_TABLES = """
SELECT c.oid, n.nspname, c.relname, c.relkind::text, coalesce(i.inhparent, 0), c.relforcerowsecurity,
       array(SELECT a.attname::text FROM pg_catalog.pg_index x
             CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY AS k(attnum, place)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
             WHERE x.indrelid = c.oid AND x.indisprimary AND k.place <= x.indnkeyatts ORDER BY k.place)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND c.relispartition
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND left(n.nspname, 3) <> 'pg_' AND n.nspname <> 'information_schema' AND n.nspname !~ %s
"""
_ONLY = " AND c.oid = ANY (%s::oid[])"

# Below 16384 are the types and collations that PostgreSQL itself brings; none of them can be dropped. A regclass and its
# like name an object that can: their text is what comes back.
_COLUMNS = """
SELECT a.attrelid, a.attnum, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
       a.atttypid < 16384 AND a.attcollation < 16384 AND t.typname !~ '^_?reg[a-z]+$', a.attgenerated <> ''
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

# What CASCADE takes along without a word; what hangs on a partitioned table is named once.
_BESIDE = """
SELECT found.* FROM (
SELECT 'pg_class', c.oid, CASE c.relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END, n.nspname::text, c.relname::text, 0
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('v', 'm') AND left(n.nspname, 3) <> 'pg_' AND n.nspname <> 'information_schema'
UNION ALL
SELECT 'pg_constraint', k.oid, 'foreign key', '', k.conname::text, k.conrelid
FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0
UNION ALL
SELECT 'pg_trigger', t.oid, 'trigger', '', t.tgname::text, t.tgrelid
FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal AND t.tgparentid = 0
) AS found (catalog, oid, kind, schema, name, at)
WHERE %(only)s::oid[] IS NULL OR CASE found.at WHEN 0 THEN found.oid ELSE found.at END = ANY (%(only)s::oid[])
"""
_OID = "SELECT pg_catalog.to_regclass(%s)::oid"
# Large objects hold bytes that no row shows. Whoever writes into one, or deletes it, writes rows of theirs.
_LARGE = """
SELECT array(SELECT m.oid FROM pg_catalog.pg_largeobject_metadata m),
       pg_catalog.pg_stat_get_xact_tuples_inserted(o) + pg_catalog.pg_stat_get_xact_tuples_updated(o)
       + pg_catalog.pg_stat_get_xact_tuples_deleted(o)
FROM (SELECT 'pg_catalog.pg_largeobject'::pg_catalog.regclass::pg_catalog.oid) AS large (o)
"""
# The rows of a foreign table lie elsewhere. Whoever writes to it has taken the first lock, which outlives the table; TRUNCATE
# takes the second, as does what alters or drops it, and of a default partition what is done to the others.
_FOREIGN = """
SELECT c.oid::bigint, c.oid::pg_catalog.regclass::text, coalesce(pg_catalog.pg_get_expr(c.relpartbound, c.oid), '') = 'DEFAULT'
FROM pg_catalog.pg_class c WHERE c.relkind = 'f'
"""
_LOCKED = """
SELECT DISTINCT l.relation::bigint, l.mode FROM pg_catalog.pg_locks l
WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.relation = ANY (%s::oid[])
  AND l.mode IN ('RowExclusiveLock', 'AccessExclusiveLock')
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
"""


@dataclass(frozen=True)
class Column:
    """A column as the catalog has it. ``builtin``: its type and collation are PostgreSQL's own and cannot be dropped."""

    name: str
    type: str
    builtin: bool
    generated: bool = False


@dataclass(frozen=True)
class Table:
    """A table as the catalog has it; ``key`` are the columns of its primary key, ``parent`` the partitioned table's OID.

    ``forced``: its row level security holds for its owner too. Types are shown with their schema unless PostgreSQL's own.
    """

    oid: int
    schema: str
    name: str
    kind: str
    parent: int
    forced: bool
    key: tuple[str, ...]
    columns: dict[int, Column]

    @property
    def shown(self) -> str:
        """The name as people write it: with its schema only where that is not public."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Loss:
    """What a downgrade destroys of one table: the whole of it (``columns`` empty) or some columns.

    ``key`` is the primary key that it has afterwards, by the names that its columns have now; empty where one of them is new.
    """

    table: Table
    columns: tuple[Column, ...] = ()
    key: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.columns:
            return f"table {self.table.shown}"
        return ", ".join(f"column {self.table.shown}.{column.name}" for column in self.columns)


def own(schema: str) -> str:
    """A regular expression for the guard's own schemas: its tables', and one for each stash."""
    return f"^{schema}(_stash_[0-9]+)?$"


def snapshot(connection: Connection, schema: str) -> dict[int, Table]:
    """Every ordinary and partitioned table with its columns, by OID. What lies in the guard's own schemas is left out."""
    return _tables(connection, _TABLES, own(schema))


def again(connection: Connection, schema: str, before: dict[int, Table], touched: frozenset[int]) -> dict[int, Table]:
    """What :func:`snapshot` would find now: ``before``, and those of the objects touched since that are tables."""
    now = {oid: table for oid, table in before.items() if oid not in touched}
    return now | _tables(connection, _TABLES + _ONLY, own(schema), sorted(touched))


def named(connection: Connection, schema: str, name: str) -> Table | None:
    """One ordinary or partitioned table as :func:`snapshot` has it; None where there is none of that name."""
    asked = connection.exec_driver_sql(_OID, (f"{identifier(schema)}.{identifier(name)}",)).scalar()
    return None if asked is None else _tables(connection, _TABLES + _ONLY, "^$", [asked]).get(asked)


def _tables(connection: Connection, asked: str, *values: object) -> dict[int, Table]:
    tables: dict[int, Table] = {}
    with pinned(connection, search_path=SYSTEM_PATH):
        for oid, namespace, name, kind, parent, forced, key in connection.exec_driver_sql(asked, values):
            tables[oid] = Table(oid, namespace, name, kind, parent, forced, tuple(key), {})
        for oid, number, *column in connection.exec_driver_sql(_COLUMNS, (list(tables),)):
            tables[oid].columns[number] = Column(*column)
    return tables


Beside = dict[tuple[str, int], tuple[str, int]]
"""Views, foreign keys and triggers: for each, by catalog and OID, how it is called and the table it hangs on (or 0)."""


def beside(connection: Connection) -> Beside:
    """All there are."""
    return _beside(connection, None)


def beside_again(connection: Connection, before: Beside, touched: frozenset[int]) -> Beside:
    """What :func:`beside` would find now: ``before``, and what hangs on one of the objects touched since."""
    now = {key: one for key, one in before.items() if (one[1] or key[1]) not in touched}
    return now | _beside(connection, sorted(touched))


def _beside(connection: Connection, only: list[int] | None) -> Beside:
    with pinned(connection, search_path=SYSTEM_PATH):
        return {
            (catalog, oid): (f"{kind} {name if schema in ('', 'public') else f'{schema}.{name}'}", table)
            for catalog, oid, kind, schema, name, table in connection.exec_driver_sql(_BESIDE, {"only": only})
        }


def taken_along(
    before: Beside,
    after: Beside,
    left: dict[int, Table],
) -> tuple[tuple[str, int, str], ...]:
    """What of ``before`` is gone, and not made again, without having hung on a table that is gone itself.

    For each its catalog, its OID, and how people call it.
    """
    again = set(after.values())
    gone = [(key, *before[key]) for key in sorted(before.keys() - after.keys()) if before[key] not in again]
    return tuple(
        (*key, f"{shown} of {left[table].shown}" if table else shown)
        for key, shown, table in gone
        if not table or table in left
    )


class Elsewhere(NamedTuple):
    """What lies outside every table: the OIDs of all large objects, how many rows of their bytes this transaction has written,
    the foreign tables with their names and whether each is a default partition, and what is locked of them already."""

    large: frozenset[int]
    written: int
    foreign: dict[int, tuple[str, bool]]
    locked: frozenset[tuple[int, str]]


def elsewhere(connection: Connection) -> Elsewhere:
    """As it is now."""
    with pinned(connection, search_path=SYSTEM_PATH):
        large, written = connection.exec_driver_sql(_LARGE).one()
        foreign = {oid: (name, default) for oid, name, default in connection.exec_driver_sql(_FOREIGN)}
        return Elsewhere(frozenset(large), written, foreign, _locked(connection, foreign))


def _locked(connection: Connection, foreign: Iterable[int]) -> frozenset[tuple[int, str]]:
    found = connection.exec_driver_sql(_LOCKED, (sorted(foreign),)) if foreign else ()
    return frozenset((oid, mode) for oid, mode in found)


def beyond(connection: Connection, before: Elsewhere, touched: frozenset[int]) -> tuple[str, ...]:
    """What the running body did that no stash could keep: large objects, rows that lie on another server.

    To be asked before its rollback; ``before`` is what there was, ``touched`` what it did to the catalog. A TRUNCATE of a foreign
    table that it alters or drops as well is not seen: nothing tells the two apart.
    """
    large, written = connection.exec_driver_sql(_LARGE).one()
    gone = len(before.large - frozenset(large))
    found = [f"it deletes {gone} large object{'s' if gone > 1 else ''}"] if gone else []
    if not gone and written > before.written:
        found = ["it writes into large objects"]
    writes = set()
    for oid, mode in _locked(connection, before.foreign) - before.locked:
        name, default = before.foreign[oid]
        if mode == "RowExclusiveLock" or not (default or oid in touched):
            writes.add(name)
    return (*found, *(f"it writes to the foreign table {name}" for name in sorted(writes)))


def losses(before: dict[int, Table], after: dict[int, Table]) -> tuple[Loss, ...]:
    """What of ``before`` is gone in ``after``, in OID order. A partition counts with its parent where that loses the same."""
    gone = {oid: _gone(table, after.get(oid)) for oid, table in before.items()}

    def with_parent(table: Table) -> bool:
        lost = gone.get(table.parent)
        if lost is None:
            return False
        if table.parent not in after:
            return table.oid not in after  # detached first, it has lost its columns by itself
        return table.oid in after and {column.name for column in gone[table.oid] or ()} <= {
            column.name for column in lost
        }

    return tuple(
        Loss(before[oid], lost, _key(before[oid], after[oid])) if oid in after else Loss(before[oid])
        for oid, lost in sorted(gone.items())
        if lost is not None and not with_parent(before[oid])
    )


def _key(table: Table, left: Table) -> tuple[str, ...]:
    numbers = [number for name in left.key for number, column in left.columns.items() if column.name == name]
    there = set(numbers) <= table.columns.keys()
    return tuple(table.columns[number].name for number in numbers) if there else ()


def _gone(table: Table, left: Table | None) -> tuple[Column, ...] | None:
    """The columns that went; None when nothing did. A table that went is said by its absence in ``after``."""
    if left is None:
        return ()
    return tuple(column for number, column in table.columns.items() if number not in left.columns) or None


def rows_of(table: Table, leaves: tuple[int, ...] = ()) -> str:
    """The table in a FROM list: its own rows, of a partitioned one those of its partitions (or of ``leaves`` only)."""
    # An inheritance child's rows are kept with the child.
    if table.kind != "p":
        return f"ONLY {name_of(table)}"
    if not leaves:
        return name_of(table)
    oids = literal("{" + ",".join(map(str, leaves)) + "}")
    return f"(SELECT * FROM {name_of(table)} AS p WHERE p.tableoid = ANY ({oids}::oid[]))"


def name_of(table: Table) -> str:
    """The table's name, quoted, with its schema."""
    return f"{identifier(table.schema)}.{identifier(table.name)}"
