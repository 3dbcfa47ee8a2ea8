"""Exchanges keys of rows, and lets those follow that refer to them: from ``pg_temp.guard_keys`` (was, target, unused)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from mcp_planner_schema.guard import checksum, evidence, ladder, sequences, silence, write_back
from mcp_planner_schema.guard.back import Back
from mcp_planner_schema.guard.evidence import Table, name_of, rows_of
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute, identifier, literal

if TYPE_CHECKING:
    from sqlalchemy import Connection

NUMBERS = ("smallint", "integer", "bigint")
"""Types of keys of which unused ones are found by counting on."""

# Keys that refer to a column, of whole tables and of single partitions; and the partitioned table that one of these belongs to.
REFERRING = """
SELECT k.conrelid::bigint, coalesce(pg_catalog.pg_partition_root(k.conrelid::pg_catalog.regclass)::oid, k.conrelid)::bigint,
       n.nspname::text, r.relname::text, k.confupdtype::text, a.attname::text
FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class r ON r.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.confkey)) AS u (n, f)
JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n
JOIN pg_catalog.pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = u.f
WHERE k.contype = 'f' AND k.conparentid = 0 AND b.attname = %(key)s AND k.confrelid IN (
  SELECT %(oid)s::oid UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(%(oid)s::oid)) ORDER BY 1, 6
"""
# Before 15, a row whose new key puts it into another partition counts as deleted there, and takes along what refers to it.
_TAKES_ALONG = """
SELECT pg_catalog.current_setting('server_version_num')::int < 150000 AND relkind = 'p' FROM pg_catalog.pg_class WHERE oid = %s
"""
# The sequence that gives a column its values, of whoever it is.
_SEQUENCE = """
SELECT d.objid::bigint FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
  AND d.refobjid = %(oid)s AND d.refobjsubid = %(n)s AND d.deptype IN ('a', 'i')
UNION SELECT d.refobjid::bigint FROM pg_catalog.pg_attrdef f JOIN pg_catalog.pg_depend d ON d.objid = f.oid
  AND d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
  JOIN pg_catalog.pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
WHERE f.adrelid = %(oid)s AND f.adnum = %(n)s
"""


def attempt(connection: Connection, do: Callable[[], bool]) -> bool:
    """Do it, or nothing: undone where it says False, and where the server does not let it. Raises what another try may help."""
    from sqlalchemy.exc import DBAPIError

    connection.exec_driver_sql("SAVEPOINT guard_attempt")
    try:
        done = do()
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) in (*ladder.TRANSIENT, ladder.CANCELED):
            raise
        done = False
    if not done:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_attempt")
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_attempt")
    return done


class Reference(NamedTuple):
    """A column of a table that refers to the key, or to a column that does. ``follows``: PostgreSQL changes it along."""

    table: Table
    column: str
    follows: bool


def referring(
    connection: Connection, back: Back, table: Table, key: str, *, anew: bool = False
) -> list[Reference] | None:
    """Each column that refers to the key, once, and what refers to that; None where a row would lose its reference, or part of
    a partitioned table would follow by itself, or a column that was there before, and may mean the kept rows (not where the keys
    are ``anew``)."""
    if connection.exec_driver_sql(_TAKES_ALONG, (table.oid,)).scalar_one():
        return None
    found: dict[tuple[int, str], Reference] = {}
    roots: dict[tuple[int, str], int] = {}
    asked, wanted = {(table.oid, key)}, [(table.oid, key)]
    while wanted:
        oid, name = wanted.pop()
        for referring, root, schema, called, action, column in connection.exec_driver_sql(
            REFERRING, {"key": name, "oid": oid}
        ).all():
            other = evidence.named(connection, schema, called)
            if action in ("n", "d") or other is None:
                return None
            if roots.setdefault((root, column), referring) != referring:
                return None
            before = found.get((referring, column))
            follows = action == "c" or (before is not None and before.follows)
            found[referring, column] = Reference(other, column, follows)
            if follows and not anew and _was_there(back, other, column):
                return None
            if (referring, column) not in asked:
                asked.add((referring, column))
                wanted.append((referring, column))
    return list(found.values())


def _was_there(back: Back, table: Table, column: str) -> bool:
    """Whether a column was there before the upgrade: what it refers to may be kept rows, by the keys that they had."""
    number = next(number for number, each in table.columns.items() if each.name == column)
    return number <= back.natts.get(table.oid, 0)


def _concerned(connection: Connection, reference: Reference) -> bool:
    """Whether a row refers to one that is to have another key: no other table is to be locked for this."""
    table, column = reference.table, identifier(reference.column)
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        asked = f"SELECT EXISTS (SELECT FROM {rows_of(table)} AS r JOIN pg_temp.guard_keys AS m ON m.was = r.{column})"
        return bool(execute(connection, asked).scalar_one())


def sequences_of(connection: Connection, back: Back, table: Table, name: str) -> list[sequences.Sequence]:
    """The sequences that give a column its values, as they stand."""
    number = next(n for n, column in table.columns.items() if column.name == name)
    found = connection.exec_driver_sql(_SEQUENCE, {"oid": table.oid, "n": number}).scalars().all()
    return list(sequences.named(connection, back.schema, found).values())


def highest(connection: Connection, back: Back, one: Object, table: Table, name: str) -> int:
    """The highest number that is or was used in a column, or may have been given to somebody. OUTPUT is pinned."""
    column, place = identifier(name), back.stash.place(one)
    used: int = execute(
        connection,
        f"SELECT pg_catalog.max(m) FROM (SELECT 0::bigint UNION ALL SELECT pg_catalog.max({column}) FROM {place} "
        f"UNION ALL SELECT pg_catalog.max({column}) FROM {rows_of(table)}) AS u (m)",
    ).scalar_one()
    return max(used, *(each.last_value for each in sequences_of(connection, back, table, name)), 0)


def keys(
    connection: Connection, back: Back, one: Object, table: Table, referring: list[Reference], *, anew: bool = False
) -> None:
    """Through the unused keys to the kept ones: two rows that have exchanged theirs would meet otherwise.

    ``anew``: no reference to these keys can have come back yet. What follows is noted in ``back.followed``.
    """
    key, referring = identifier(one.key[0]), [each for each in referring if _concerned(connection, each)]
    tables = {each.oid: each for each in (table, *(reference.table for reference in referring))}
    silence.flush(connection)
    with checksum.reading(connection), write_back.settable(connection, table, [one.key[0]]), ExitStack() as asleep:
        for each in tables.values():
            asleep.enter_context(silence.of_table(connection, each.oid, name_of(each)))
        asleep.enter_context(silence.loops(connection, list(tables)))
        for now, then in (("was", "unused"), ("unused", "target")):
            write_back.write(
                connection,
                f"UPDATE {rows_of(table)} AS l SET {key} = m.{then} FROM pg_temp.guard_keys AS m "
                f"WHERE l.{key} = m.{now} AND m.{then} IS NOT NULL",
            )
        for reference in referring:
            if reference.follows:
                continue
            column = identifier(reference.column)
            for now, then, also in (
                ("m.was", "m.unused", "" if anew else _but_kept(back, table, key, reference)),
                ("m.unused", "m.target", " AND m.target IS NOT NULL"),
            ):
                back.followed[reference.table.oid] = back.followed.get(reference.table.oid, 0) + write_back.write(
                    connection,
                    f"UPDATE {rows_of(reference.table)} AS r SET {column} = {then} "
                    f"FROM pg_temp.guard_keys AS m WHERE r.{column} = {now}{also}",
                )


def _but_kept(back: Back, referred: Table, key: str, reference: Reference) -> str:
    """SQL: that the reference of the row ``r`` is none that has come back already: that one means the kept row of this key.

    Where there is no such row yet it has to go along, and comes back once more with all of its kind.
    """
    table, column, _ = reference
    if _was_there(back, table, column):
        # Only where the downgrade has changed such rows does the body write that column; else it means what it meant.
        if not any(
            (one.schema, one.name, one.kind) == (table.schema, table.name, "rows") and column in one.columns
            for one in back.rows()
        ):
            return " AND false"
        own = f" AND pg_catalog.age(r.xmin) <= pg_catalog.age({literal(back.xid)}::pg_catalog.xid8::pg_catalog.xid)"
        return own + _but_back(back, referred, key, reference)
    return _but_back(back, referred, key, reference)


def _but_back(back: Back, referred: Table, key: str, reference: Reference) -> str:
    table, column, _ = reference
    there = f"EXISTS (SELECT FROM {rows_of(referred)} AS l WHERE l.{key} = r.{identifier(column)})"
    said = ""
    for one in back.rows():
        if (
            (one.schema, one.name) != (table.schema, table.name)
            or column not in one.columns
            or one.number not in back.filled
        ):
            continue
        place, touched = back.stash.place(one), back.touched.get(one.number)
        only = f" AND NOT EXISTS (SELECT FROM {touched} AS t WHERE t.place = c.ctid AND NOT t.given)" if touched else ""
        same = write_back.same_key(one, table, now="r") if one.key else "false"
        alike = write_back.same_key([column], table, now="r")
        said += f" AND NOT EXISTS (SELECT FROM {place} AS c WHERE {same} AND {alike} AND {there}{only})"
    return said


def advance(connection: Connection, back: Back, one: Object, table: Table) -> None:
    """Let the sequence of the keys not give those that were unused."""
    column = next(each for each in table.columns.values() if each.name == one.key[0])
    if column.type not in NUMBERS:
        return
    asked = "SELECT pg_catalog.max(m.unused) FROM pg_temp.guard_keys AS m WHERE m.target IS NULL"
    last = execute(connection, asked).scalar_one()
    for found in sequences_of(connection, back, table, column.name) if last is not None else ():
        if found.rising and found.last_value < last:
            sequences.advance(connection, found.schema, found.name, last, True)
