"""Statements that write kept rows (``c``) into a table (``l`` its rows), make room for them, and compare the two.

What of them is to be done for a table, its columns or its changed rows, says :mod:`.refill`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, halves, manifest, references, silence
from mcp_planner_schema.guard.evidence import Column, Table, name_of, rows_of
from mcp_planner_schema.guard.manifest import AFTER, Object
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, identifier, literal, pinned
from mcp_planner_schema.guard.stash import value

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.exc import DBAPIError

PATH = "mcp_planner_guard.path"
"""Where the session's own search_path stands in ``connection.info``, PostgreSQL's own schema before it."""

# PostgreSQL allows no ON CONFLICT on a table with rules, be they disabled, nor one with deferrable unique constraints.
_NO_CONFLICT = """
SELECT c.relhasrules OR EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND NOT i.indimmediate)
FROM pg_catalog.pg_class c WHERE c.oid = %s
"""
# A foreign key may refer to a partition by itself, and to what it is a partition of.
_REACHES = """
WITH these AS MATERIALIZED (
  SELECT u.oid FROM pg_catalog.unnest(%(oids)s::oid[]) AS u (oid)
  UNION SELECT t.relid::oid FROM pg_catalog.unnest(%(oids)s::oid[]) AS u (oid)
        CROSS JOIN LATERAL pg_catalog.pg_partition_tree(u.oid::regclass) AS t
  UNION SELECT t.relid::oid FROM pg_catalog.unnest(%(oids)s::oid[]) AS u (oid)
        CROSS JOIN LATERAL pg_catalog.pg_partition_ancestors(u.oid::regclass) AS t (relid))
SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conparentid = 0 AND confdeltype IN ('c', 'n', 'd')
               AND confrelid IN (SELECT oid FROM these) AND NOT conrelid IN (SELECT oid FROM these))
"""
_REACHES_ITSELF = """
SELECT confdeltype::text FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conrelid = %s AND confrelid = %s
"""
_SIZE = """
SELECT coalesce(pg_catalog.sum(pg_catalog.pg_relation_size(t.oid)), 0)::bigint
FROM (SELECT %(oid)s::oid UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(%(oid)s::oid)) AS t (oid)
"""
# A domain, or what it is made of, may let in no NULL; and a partition may have a rule of its own. The type is that of the column
# without its length: what is too long is to be an error, and not cut off.
_NOT_NULL = """
WITH RECURSIVE parts (oid) AS (
  SELECT %(oid)s::oid UNION SELECT t.relid::oid FROM pg_catalog.pg_partition_tree(%(oid)s::oid::pg_catalog.regclass) AS t),
domains (name, base, required) AS (
  SELECT a.attname, t.typbasetype, t.typnotnull FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND t.typtype = 'd'
  UNION ALL SELECT d.name, t.typbasetype, t.typnotnull FROM domains AS d JOIN pg_catalog.pg_type t ON t.oid = d.base)
SELECT a.attname::text, pg_catalog.format_type(a.atttypid, -1) FROM pg_catalog.pg_attribute a
WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped AND (
  EXISTS (SELECT FROM pg_catalog.pg_attribute p
          WHERE p.attrelid IN (SELECT oid FROM parts) AND p.attname = a.attname AND p.attnotnull)
  OR EXISTS (SELECT FROM domains AS d WHERE d.name = a.attname AND d.required))
"""
_REQUIRED = """
SELECT a.attname::text FROM pg_catalog.pg_attribute a
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
"""
_CASTS = {
    ("money", "numeric"), ("oid", "bigint"), ("inet", "cidr"), ("cidr", "inet"), ("bit", "bit varying"), ("bit varying", "bit"),
    ("macaddr", "macaddr8"), ("time without time zone", "interval"), ("time without time zone", "time with time zone"),
}  # fmt: skip
_ROUNDS = 64
_NO_IDENTITY = "55000"
"""SQLSTATE of a published table whose rows cannot be told to subscribers: object_not_in_prerequisite_state."""

_LENGTH = re.compile(r"\(\d+(,-?\d+)?\)")
_KINDS = {
    "number": ("smallint", "integer", "bigint", "numeric", "real", "double precision"),
    "text": ("text", "character varying", "character", "name"),
    "time": ("date", "timestamp without time zone", "timestamp with time zone"),
    "uuid": ("uuid",), "boolean": ("boolean",), "bytea": ("bytea",), "json": ("json", "jsonb"),
}  # fmt: skip
IDENTITY = "SELECT attname::text FROM pg_catalog.pg_attribute WHERE attrelid = %s AND attidentity = 'a'"


def note_path(connection: Connection) -> None:
    """Note the session's own search_path, before another is pinned."""
    path = execute(connection, "SELECT pg_catalog.current_setting('search_path')").scalar_one()
    connection.info[PATH] = f"pg_catalog, {path or 'pg_temp'}"


def set_aside(
    connection: Connection, place: str, one: Object, table: Table, columns: Sequence[str], which: str = "true", *,
    inserted: bool = False,
) -> tuple[int, str]:  # fmt: skip
    """Copy rows of the table that are not as in the copy, before they are replaced. Gives their number and the place.

    ``inserted``: they are rows that the upgrade has added to a table that stays, where others may be set aside as well.

    They may be seeds; they may as well be newer data, which the upgrade has just moved here from elsewhere.
    """
    there = {column.name: column for column in table.columns.values()}
    has_key, live = keyed(one, table), rows_of(table)
    if has_key:
        same = f"{same_key(one, table)} AND {checksum.alike(connection, place, live, columns)}"
    else:  # written out, for only what can be hashed is compared without looking at each pair
        same = f"{checksum.row_text(columns, 'c')} = {checksum.row_text(columns, 'l')}"
    shown = dict.fromkeys([*(one.key if has_key else ()), *columns])
    selected = ", ".join(value(there[name], "l.") for name in shown)
    name = manifest.aside_relations(one)[inserted]
    aside = f"{place.partition('.')[0]}.{identifier(name)}"  # a stash's own schema has a name without a dot
    sql = f"SELECT {selected} FROM {live} AS l WHERE NOT EXISTS (SELECT FROM {place} AS c WHERE {same}) AND {which}"
    rows = copied(connection, aside, sql)
    return rows, aside if rows else ""


def copied(connection: Connection, aside: str, selected: str) -> int:
    """Put selected rows into a table of rows set aside, which is made where there are some. Gives how many."""
    connection.exec_driver_sql("SAVEPOINT guard_aside")
    there = execute(connection, f"SELECT pg_catalog.to_regclass({literal(aside)}) IS NOT NULL").scalar_one()
    put = f"INSERT INTO {aside} {selected}" if there else f"CREATE TABLE {aside} AS {selected}"
    rows: int = execute(connection, put).rowcount
    if not rows:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_aside")
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_aside")
    return rows


def empty(connection: Connection, table: Table) -> bool:
    """Whether a table has no row."""
    return not execute(connection, f"SELECT EXISTS (SELECT FROM {rows_of(table)})").scalar_one()


def size_of(connection: Connection, table: Table) -> int:
    """Bytes that a table takes with its partitions, without indexes."""
    size: int = connection.exec_driver_sql(_SIZE, {"oid": table.oid}).scalar_one()
    return size


def count(connection: Connection, place: str) -> int:
    """How many rows are there; ``place`` as it stands in FROM."""
    rows: int = execute(connection, f"SELECT pg_catalog.count(*) FROM {place}").scalar_one()
    return rows


def same_key(
    key: Object | Sequence[str], live: Table, names: Mapping[str, str] | None = None, *, kept: str = "c", now: str = "l",
    were: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """SQL: that the row ``kept`` and the row ``now`` have the same key. ``names``: what the columns are called in the latter.

    ``were``: the types that they had, an object's own by itself: where the table has others by now, their text is the same.
    """
    if isinstance(key, Object):
        were, key = dict(zip(key.columns, key.types, strict=False)), key.key
    there, same = {column.name: column for column in live.columns.values()}, []
    for name in key:
        column = there.get((names or {}).get(name, name))
        if column is None:
            return "false"
        was, value_now = f"{kept}.{identifier(name)}", value(column, f"{now}.", bare=True)
        if were and _kind_of(were.get(name, column.type)) != _kind_of(column.type):
            was, value_now = (f"pg_catalog.format('%s', {each}) COLLATE pg_catalog.\"C\"" for each in (was, value_now))
        same.append(f"{was} OPERATOR(pg_catalog.=) {value_now}")
    return " AND ".join(same)


@contextmanager
def settable(connection: Connection, table: Table, names: Collection[str]) -> Iterator[None]:
    """While inside, those of these columns take an UPDATE that are GENERATED ALWAYS AS IDENTITY. After an exception nothing is
    put back, see :func:`.silence.of_table`."""
    always = [name for name in connection.exec_driver_sql(IDENTITY, (table.oid,)).scalars() if name in names]
    for name in always:
        execute(connection, f"ALTER TABLE {name_of(table)} ALTER {identifier(name)} SET GENERATED BY DEFAULT")
    yield
    for name in always:
        execute(connection, f"ALTER TABLE {name_of(table)} ALTER {identifier(name)} SET GENERATED ALWAYS")


def common(one: Object, table: Table) -> tuple[list[str], tuple[str, ...]]:
    """The columns that can be filled, and those of the copy that have no place."""
    there = {column.name: column for column in table.columns.values()}
    kept = [name for name in one.columns if name != AFTER]
    return (
        [name for name in kept if fits(one, table, name) and not there[name].generated],
        tuple(name for name in kept if not fits(one, table, name)),
    )


def fits(one: Object, table: Table, name: str) -> bool:
    """Whether the table has a column of this name whose type takes what was kept: none that was corrected into another kind."""
    column = next((each for each in table.columns.values() if each.name == name), None)
    if column is None:
        return False
    if name not in one.columns:
        return True
    was, now = _kind_of(one.types[one.columns.index(name)]), _kind_of(column.type)
    if now == "text":
        return was in ("", "text") or name not in one.key
    # What is not builtin reads the text of any; its own is text in the copy, and no other type takes that.
    if not column.builtin or (was and was == now):
        return True
    types = _plain(one.types[one.columns.index(name)]), _plain(column.type)
    return (types in _CASTS and name not in one.key) or (not was and not now and _same_type(*types))


def _same_type(was: str, now: str) -> bool:
    """Whether a value of one type that is not among :data:`_KINDS` can be stored as the other: by its name, or both as arrays."""
    if was.endswith("[]") and now.endswith("[]"):
        each = was.removesuffix("[]"), now.removesuffix("[]")
        return _plain(each[0]) == _plain(each[1]) or _kind_of(each[0]) == _kind_of(each[1]) != ""
    return _plain(was) == _plain(now)


def _kind_of(type_: str) -> str:
    """What a builtin type's values can be compared with; empty of one that is not known here."""
    base = _plain(type_)
    return next((kind for kind, names in _KINDS.items() if base in names), "")


def _plain(type_: str) -> str:
    """A type's name without its length."""
    return _LENGTH.sub("", type_)


def required(connection: Connection, table: Table, names: Collection[str]) -> dict[str, str]:
    """Those of the columns that must have a value by now, with their types: what was kept without one yields to what is there."""
    with pinned(connection, search_path=SYSTEM_PATH):
        found = connection.exec_driver_sql(_NOT_NULL, {"oid": table.oid}).all()
    return {name: type_ for name, type_ in sorted(map(tuple, found)) if name in names}


def wants_more(connection: Connection, one: Object, table: Table) -> bool:
    """Whether the table has a column that must have a value, has no default, and was not there when its rows were kept."""
    found = connection.exec_driver_sql(_REQUIRED, (table.oid,)).scalars()
    return bool(set(found) - {name for name in one.columns if fits(one, table, name)})


def typed(column: Column, alias: str = "c.") -> str:
    """SQL: a kept value in the type of its column."""
    # A builtin value keeps its own type, so that one that does not fit is an error and not cut off by a cast. The name of
    # another type is the server's own, quoted by format_type().
    name = f"{alias}{identifier(column.name)}"
    return name if column.builtin else f"CAST(CAST({name} AS pg_catalog.text) AS {column.type})"


def insert(connection: Connection, place: str, one: Object, table: Table, columns: Sequence[str], which: str) -> int:
    """Insert kept rows (``c``) of which ``which`` is true and that meet no other. Gives how many."""
    there = {column.name: column for column in table.columns.values()}
    names = ", ".join(map(identifier, columns))
    values = ", ".join(typed(there[name]) for name in columns)
    if not columns:
        return 0
    conflict = "" if connection.exec_driver_sql(_NO_CONFLICT, (table.oid,)).scalar() else " ON CONFLICT DO NOTHING"
    return with_references(
        connection, place, table, columns,
        lambda also: f"INSERT INTO {name_of(table)} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {place} AS c "
        f"WHERE {which} AND {also}{conflict}",
    )  # fmt: skip


def absent(one: Object, table: Table, columns: Sequence[str]) -> str:
    """SQL: that no row of the table has the key of the kept row ``c``."""
    if not one.key or not set(one.key) <= set(columns):
        return "true"
    return f"NOT EXISTS (SELECT FROM {rows_of(table)} AS l WHERE {same_key(one, table)})"


def keyed(one: Object, table: Table) -> bool:
    """Whether kept rows are told from each other by a primary key that the table still has."""
    return bool(one.key) and all(fits(one, table, name) for name in one.key)


def overwrite(
    connection: Connection, place: str, one: Object, table: Table, which: str = "true", *, but: Sequence[str] = ()
) -> int:
    """Give rows that are there their kept values, see :func:`others`. Gives how many were others."""
    free, where = others(connection, place, one, table, which, but=but)
    if not free:
        return 0
    there = {column.name: column for column in table.columns.values()}
    settings = ", ".join(f"{identifier(name)} = {typed(there[name])}" for name in free)
    return with_references(
        connection, place, table, free,
        lambda also: f"UPDATE {rows_of(table)} AS l SET {settings} FROM {place} AS c WHERE {where} AND {also}",
    )  # fmt: skip


def others(
    connection: Connection, place: str, one: Object, table: Table, which: str, *, but: Sequence[str] = ()
) -> tuple[list[str], str]:
    """The columns that may differ between a kept row and the one of its key, except ``but``, and SQL: that they do.

    Where ``which`` is true of the kept row ``c``.

    Not of a row that others refer to by what would change: they have come to do so since, and would lose their reference, or bar
    the way.
    """
    columns, _ = common(one, table)
    fixed = {*one.key, *but, *connection.exec_driver_sql(IDENTITY, (table.oid,)).scalars()}
    free = [name for name in columns if name not in fixed]
    if not free or not set(one.key) <= set(columns):
        return [], "false"
    same = checksum.alike(connection, place, rows_of(table), free)
    return free, f"{same_key(one, table)} AND {which} AND NOT {same} AND {_let_go(connection, table, free)}"


def _let_go(connection: Connection, table: Table, columns: Sequence[str]) -> str:
    """SQL: that nobody refers to the row ``l`` by a value of ``columns`` that the kept row ``c`` would change."""
    conditions = ["true"]
    for key in references.to(connection, table.oid):
        changing = [name for name in key.theirs if name in columns]
        if not changing or key.on_update == "c":  # what follows does not lose it
            continue
        nobody = f"NOT EXISTS (SELECT FROM {key.child_table} AS r WHERE {key.match('r', 'l')})" if key.open else "false"
        conditions.append(f"({same_key(changing, table)} OR {nobody})")
    return " AND ".join(conditions)


def remove(
    connection: Connection, place: str, one: Object, table: Table, together: Sequence[int] = (), *, which: str = "true"
) -> int:
    """Delete rows that the upgrade has made and that were not there; not those that others refer to.

    ``together``: those of these tables may go along; then none goes where one of another table would, or refers to one of them.
    Only rows ``l`` of which ``which`` is true.
    """

    reaches = reaches_others(connection, together or [table.oid])
    if which != "true" and not together:  # a row that is to stay may go along by a key within the table
        itself = connection.exec_driver_sql(_REACHES_ITSELF, (table.oid,) * 2).scalars().all()
        reaches = reaches or (bool(itself) if silence.waits(connection) else not set(itself).isdisjoint("cnd"))
    if reaches and together:
        return 0
    by_key = keyed(one, table)
    own = f"NOT EXISTS (SELECT FROM {place} AS c WHERE {same_key(one, table)})" if by_key else "true"
    removed = -1 if reaches else _delete(connection, table, f"{own} AND {which}")
    if removed < 0 and not together:
        removed, free = 0, f"{own} AND {which} AND NOT {references.referred(connection, table.oid)}"
        for _ in range(_ROUNDS):  # of a tree its leaves first; of a longer chain the rest stays
            if (gone := _delete(connection, table, free)) <= 0:
                break
            removed += gone
    return max(removed, 0) if by_key else 0


def _delete(connection: Connection, table: Table, which: str) -> int:
    """Gives how many rows it has deleted, -1 where a foreign key stands against it."""
    from sqlalchemy.exc import DBAPIError, IntegrityError

    connection.exec_driver_sql("SAVEPOINT guard_remove")
    try:
        removed: int = execute(connection, f"DELETE FROM {rows_of(table)} AS l WHERE {which}").rowcount
        silence.flush(connection)
    except DBAPIError as error:
        if not isinstance(error, IntegrityError) and getattr(error.orig, "pgcode", "") != _NO_IDENTITY:
            raise
        removed = -1
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_remove")
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_remove")
    return removed


def own(connection: Connection, place: str, one: Object, table: Table) -> int:
    """How many rows of a table are none of the kept ones, by their key."""
    if not keyed(one, table):
        return 0
    count: int = execute(
        connection,
        f"SELECT pg_catalog.count(*) FROM {rows_of(table)} AS l "
        f"WHERE NOT EXISTS (SELECT FROM {place} AS c WHERE {same_key(one, table)})",
    ).scalar_one()
    return count


def reaches_others(connection: Connection, oids: Sequence[int]) -> bool:
    """Whether rows of another table would go, or lose their reference, if these tables were emptied."""
    with pinned(connection, search_path=SYSTEM_PATH):
        return bool(connection.exec_driver_sql(_REACHES, {"oids": list(oids)}).scalar_one())


def same(connection: Connection, place: str, one: Object, table: Table, columns: Sequence[str]) -> bool:
    """Whether the table has exactly the kept rows. What was proven of these when all began is not read once more."""
    proven = one.checksum if set(columns) == set(one.columns) else None
    return (proven or checksum.of(connection, place, columns)) == checksum.of(connection, rows_of(table), columns)


def with_references(connection: Connection, place: str, table: Table, columns: Sequence[str], statement: object) -> int:
    """Run a statement; where a foreign key stands against it, run it without the rows whose reference is gone.

    Gives how many rows it has written.
    """
    from sqlalchemy.exc import IntegrityError

    assert callable(statement)
    connection.exec_driver_sql("SAVEPOINT guard_references")
    try:
        written = write(connection, statement("true"))
    except IntegrityError as error:
        if getattr(error.orig, "pgcode", "") != "23503":
            raise
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_references")
        foreign = [key for key in references.of(connection, table.oid) if set(key.own) <= set(columns)]
        if all(key.parent_open or owns(connection, key.parent) for key in foreign):
            orphans = _orphans(connection, place, table, foreign)
            written = write(connection, statement(f"NOT EXISTS (SELECT FROM {orphans} AS o WHERE o.place = c.ctid)"))
            execute(connection, f"DROP TABLE {orphans}")
        else:  # who may not read them cannot ask which are gone
            going, rows = halves.listed(connection, place, f"{place} AS c", name="guard:orphans")
            listed = f"c.ctid IN (SELECT g.place FROM {going} AS g WHERE "
            written = halves.write(
                connection, going, rows, lambda these: write(connection, statement(f"{listed}{these})")), _is_orphan
            )
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_references")
    return written


def _is_orphan(error: DBAPIError) -> bool:
    return getattr(error.orig, "pgcode", "") == "23503"


def owns(connection: Connection, oid: int) -> bool:
    """Whether the role has the rights of a table's owner."""
    return bool(connection.exec_driver_sql(silence.OWNED, (oid,)).scalar_one())


def write(connection: Connection, sql: str) -> int:
    """Run it under the session's own search_path: checks and generated columns may call functions by their bare names."""
    with pinned(connection, search_path=connection.info.get(PATH, checksum.OUTPUT["search_path"])):
        written: int = execute(connection, sql).rowcount
        silence.flush(connection)
    return written


def _orphans(connection: Connection, place: str, table: Table, foreign: Sequence[references.Key]) -> str:
    """Make a table of the kept rows that refer to a row that is gone, or to another kept row that does. To be dropped after use.

    No temporary one: not every role may make those.
    """
    name = f'{place.partition(".")[0]}."guard:orphans"'  # a stash's own schema has a name without a dot
    there = {column.name: column for column in table.columns.values()}
    execute(connection, f"CREATE UNLOGGED TABLE {name} (place tid)")
    with ExitStack() as unveiled:
        for key in foreign:
            unveiled.enter_context(silence.unveiled(connection, key.parent, key.parent_table))
        found = True
        while found:
            found = False
            for key in foreign:
                given = " AND ".join(f"c.{identifier(one)} IS NOT NULL" for one in key.own)
                match = key.match(lambda one: typed(there[one]), "r")
                missing = f"NOT EXISTS (SELECT FROM {key.parent_table} AS r WHERE {match})"
                if key.parent == key.child:
                    kept = " AND ".join(f"k.{identifier(b)} = c.{identifier(a)}" for a, b, *_ in key.pairs)
                    left = f"NOT EXISTS (SELECT FROM {name} AS o WHERE o.place = k.ctid)"
                    missing += f" AND NOT EXISTS (SELECT FROM {place} AS k WHERE {kept} AND {left})"
                added = execute(
                    connection,
                    f"INSERT INTO {name} SELECT c.ctid FROM {place} AS c WHERE {given} AND {missing} "
                    f"AND NOT EXISTS (SELECT FROM {name} AS o WHERE o.place = c.ctid)",
                ).rowcount
                found = found or added > 0
    return name
