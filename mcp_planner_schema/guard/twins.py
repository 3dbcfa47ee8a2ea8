"""Seeds that an upgrade writes anew under new keys: each gives way to the kept row that it is, with the key it had.

A downgrade deletes its seeds, and the next upgrade inserts them again. Where the server makes their keys, the new row and the
kept one differ in nothing else, and both would stand there. A row that the running upgrade has inserted is the kept one if
they are equal in every column that the server does not fill by itself: the key, and the time of writing. So it is without a key,
where as many rows count as the upgrade's as there are more of them than when it began, if it has changed none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, references, since, write_back
from mcp_planner_schema.guard.evidence import Table, rows_of
from mcp_planner_schema.guard.manifest import AFTER, Object
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, identifier, literal, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

WHY = "newer ones are in their place, or other rows refer to those that the upgrade has written instead"

# What the server gives a row that says nothing of the column.
_GIVEN = """
SELECT a.attname::text, coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid), '')
FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
  AND (a.attidentity <> '' OR d.oid IS NOT NULL)
"""
_CLOCK = re.compile(r"\b(now|(transaction|statement|clock)_timestamp)\(\)|\b(CURRENT_(DATE|TIME)|LOCALTIME)")
_NUMBERS = re.compile(r"\bnextval\(|uuid\w*\(", re.IGNORECASE)
_UNIQUE = """
SELECT (SELECT pg_catalog.array_agg(a.attname::text ORDER BY u.place)
        FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY AS u (n, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.n WHERE u.place <= i.indnkeyatts)
FROM pg_catalog.pg_index i
WHERE i.indrelid = %(oid)s AND i.indisunique AND NOT i.indisprimary AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indisvalid
ORDER BY i.indexrelid
"""
# What is older than this transaction is none of its own. Written down, and not asked for with EXISTS: the planner would expect
# to find one soon, and compare each row with each.
_ANEW = """
CREATE TEMPORARY TABLE guard_anew ON COMMIT DROP AS SELECT l.tableoid AS part, l.ctid AS spot FROM {live} AS l
WHERE pg_catalog.age(l.xmin) <= pg_catalog.age({began}::pg_catalog.xid8::pg_catalog.xid)
  AND NOT EXISTS (SELECT FROM {stood} AS b WHERE b.key = {key}) AND NOT EXISTS (SELECT FROM {place} AS c WHERE {same_key})
"""
# Without a key one of equal rows is as good as the other: as many as there are more of them than there were.
_COUNTED = """
CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS SELECT {now} AS said, pg_catalog.count(*) AS n FROM {live} AS l
WHERE {now} IN (SELECT {was} FROM {place} AS c) GROUP BY 1
"""
_MORE = """
CREATE TEMPORARY TABLE guard_anew ON COMMIT DROP AS SELECT w.part, w.spot
FROM (SELECT l.part, l.spot, l.said, l.own, pg_catalog.count(*) OVER (PARTITION BY l.said) AS total,
             pg_catalog.row_number() OVER (PARTITION BY l.said ORDER BY l.own DESC, l.spot DESC) AS n
      FROM (SELECT l.tableoid AS part, l.ctid AS spot, {now} AS said,
                   pg_catalog.age(l.xmin) <= pg_catalog.age(pg_catalog.pg_current_xact_id()::pg_catalog.xid) AS own
            FROM {live} AS l WHERE {now} IN (SELECT {was} FROM {place} AS c)) AS l) AS w
LEFT JOIN {stood} AS b ON b.said = w.said
WHERE w.own AND w.n <= w.total - coalesce(b.n, 0)
"""
# A row that the upgrade has changed may be like a kept one now, and is somebody's all the same.
_UPDATED = """
SELECT coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_xact_tuples_updated(t.oid)), 0)
FROM (SELECT %(oid)s::oid UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(%(oid)s::oid)) AS t (oid)
"""
# Equal rows pair off by number, those that nobody refers to first.
_PAIRS = """
CREATE TEMPORARY TABLE guard_twins ON COMMIT DROP AS
WITH kept AS MATERIALIZED (
  SELECT c.ctid AS place, {was} AS said, pg_catalog.row_number() OVER (PARTITION BY {was} ORDER BY c.ctid) AS n
  FROM {place} AS c WHERE {deleted}),
anew AS (
  SELECT l.tableoid AS part, l.ctid AS spot, {now} AS said, {referred} AS referred
  FROM pg_temp.guard_anew AS w JOIN {live} AS l ON l.ctid = w.spot AND l.tableoid = w.part
  WHERE {now} IN (SELECT k.said FROM kept AS k)),
numbered AS (
  SELECT a.*, pg_catalog.row_number() OVER (PARTITION BY a.said ORDER BY a.referred, a.part, a.spot) AS n FROM anew AS a)
SELECT k.place, b.part, b.spot, b.referred, false AS settled FROM kept AS k JOIN numbered AS b ON b.said = k.said AND b.n = k.n
"""
_UNREFERRED = """
DELETE FROM {live} AS l USING pg_temp.guard_twins AS t WHERE NOT t.referred AND l.tableoid = t.part AND l.ctid = t.spot
"""


def stood(
    connection: Connection, place: str, one: Object, live: Table, names: Mapping[str, str], untouched: str
) -> str | None:
    """Make the temporary table of the keys that are in use as the upgrade begins, while the table is locked. Gives its name.

    Without a key: of how many rows there are like each kept one. None where the key is not the server's, or no row was deleted.
    A row's xmin alone would not tell what the upgrade has inserted: it
    is the same for a row that it has only updated, and for all of a table that it has rewritten. ``names`` says what columns are
    called in ``live``, ``untouched`` which kept rows have their place still free.
    """
    key = [names[name] for name in one.key if name in names]
    if one.key and (len(key) < len(one.key) or not set(key) <= set(given(connection, live))):
        return None
    with checksum.reading(connection):
        if not any_deleted(connection, place, untouched):
            return None
        name = f"guard_stood_{one.number}"
        if one.key:
            in_use = f"SELECT {checksum.row_hash(key, 'l')} AS key FROM {rows_of(live)} AS l"
            execute(connection, f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS {in_use}")
        else:
            called = {now: was for was, now in names.items()}
            compared = sorted(set(called) - _filled(connection, live), key=called.__getitem__)
            was, now = checksum.row_text([called[each] for each in compared], "c"), checksum.row_text(compared, "l")
            sql = _COUNTED.format(name=name, live=rows_of(live), place=place, was=was, now=now)
            execute(connection, sql)
        execute(connection, f"ANALYZE pg_temp.{name}")
    return f"pg_temp.{name}"


def any_deleted(connection: Connection, place: str, untouched: str) -> bool:
    """Whether the downgrade has deleted rows whose place is still free."""
    return bool(
        execute(connection, f"SELECT EXISTS (SELECT FROM {place} AS c WHERE {_deleted(untouched)})").scalar_one()
    )


def keys(
    connection: Connection, place: str, one: Object, live: Table, names: Mapping[str, str], untouched: str
) -> str | None:
    """The same of a table whose keys the body makes, to see what was not there before. None without a key, and of a large one."""
    key = [names[name] for name in one.key if name in names]
    if not key or len(key) < len(one.key) or write_back.size_of(connection, live) > since.LARGE:
        return None
    with checksum.reading(connection):
        if not any_deleted(connection, place, untouched):
            return None
    name = f"guard_keys_{one.number}"
    with checksum.reading(connection):
        in_use = f"SELECT {checksum.row_hash(key, 'l')} AS key FROM {rows_of(live)} AS l"
        execute(connection, f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS {in_use}")
        execute(connection, f"ANALYZE pg_temp.{name}")
    return f"pg_temp.{name}"


def not_there(
    connection: Connection,
    place: str,
    one: Object,
    table: Table,
    *,
    stood: str,
    stays: Callable[[], str] | None,
    began: str,
) -> tuple[int, str, int]:
    """Set rows aside that the upgrade has inserted into a table that stays, and that are none of the kept ones, and delete them:
    people had renamed or deleted them. Gives how many, where they are, and how many such rows stay.

    Not those ``l`` of which what ``stays`` gives is true (SQL; without it all stay), none that another row refers to, none whose
    kept one could not come back.
    """
    columns, _ = write_back.common(one, table)
    if not one.key or not set(one.key) <= set(columns):
        return 0, "", 0
    key, same_key = checksum.row_hash(one.key, "l"), write_back.same_key(one, table)
    anew = _ANEW.format(live=rows_of(table), stood=stood, key=key, place=place, same_key=same_key, began=literal(began))
    gone, aside, found = 0, "", execute(connection, anew).rowcount
    if found and stays and not _may_be_lost(connection, place, one, table, columns):
        these = "EXISTS (SELECT FROM pg_temp.guard_anew AS w WHERE w.part = l.tableoid AND w.spot = l.ctid)"
        which = f"{these} AND NOT {references.referred(connection, table.oid)} AND NOT {stays()}"
        gone, aside = write_back.set_aside(connection, place, one, table, sorted(columns), which, inserted=True)
        if gone:
            execute(connection, f"DELETE FROM {rows_of(table)} AS l WHERE {which}")
    execute(connection, "DROP TABLE pg_temp.guard_anew")
    return gone, aside, found - gone


# Kept rows that are not back, and what the upgrade has written instead of them.
_OUT = """
CREATE TEMPORARY TABLE guard_out ON COMMIT DROP AS
SELECT {was} AS said, pg_catalog.bool_or(c.{after} IS NULL) AS deleted FROM {place} AS c
WHERE NOT EXISTS (SELECT FROM {live} AS l WHERE {there}) GROUP BY 1
"""
_INSTEAD = """
SELECT w.part, w.spot, {now} AS said FROM pg_temp.guard_anew AS w JOIN {live} AS l ON l.ctid = w.spot AND l.tableoid = w.part
"""


def _may_be_lost(connection: Connection, place: str, one: Object, table: Table, columns: list[str]) -> bool:
    """Whether one of the upgrade's own rows may be a kept one that is not back, though nothing says which: then all stay.

    Those that are said to be one stay in any case, and are no longer in ``guard_anew``.
    """
    compared, unique = told_apart_by(connection, one, table, columns), by_unique(connection, one, table, columns)
    if not compared and not unique:
        return False
    there = f"{write_back.same_key(one, table)} AND {checksum.alike(connection, place, rows_of(table), columns)}"
    was, instead = (
        told_by("c", compared, unique),
        _INSTEAD.format(now=told_by("l", compared, unique), live=rows_of(table)),
    )
    execute(connection, _OUT.format(was=was, after=identifier(AFTER), place=place, live=rows_of(table), there=there))
    lost = f"o.deleted AND NOT EXISTS (SELECT FROM ({instead}) AS i WHERE i.said = o.said)"
    found = bool(execute(connection, f"SELECT EXISTS (SELECT FROM pg_temp.guard_out AS o WHERE {lost})").scalar_one())
    said = f"USING ({instead}) AS i JOIN pg_temp.guard_out AS o ON o.said = i.said"
    execute(connection, f"DELETE FROM pg_temp.guard_anew AS a {said} WHERE a.part = i.part AND a.spot = i.spot")
    execute(connection, "DROP TABLE pg_temp.guard_out")
    return found


def give_way(
    connection: Connection,
    place: str,
    one: Object,
    table: Table,
    *,
    untouched: str,
    stood: str,
    moved: bool,
    began: str,
    exchange: Callable[[], int],
    followed: int,
    another: str = "false",
) -> tuple[int, int, int]:
    """Put deleted rows back, some in the place of what the upgrade has written instead: gives how many those are.

    Where another row refers to the upgrade's already, ``exchange`` gives that the kept one's key and values, and says how many
    it was. Where that cannot be it stays, and the kept one is no longer among the ``untouched``: it stays in the stash. So do
    all of them where the kept ones would not go in. Gives as well how many pairs those are, and how many rows it has put back
    in all. The table's triggers sleep, and OUTPUT is pinned. ``moved``: what the upgrade writes may be what the downgrade had
    put elsewhere, and somebody has changed there; then only an equal row is the same. ``began`` is the transaction in which the
    upgrade began. ``another``: see :func:`.meant.another`.

    The guard itself has updated ``followed`` rows of the table. Without a key only the upgrade's rows go; the kept ones, which
    are still ``untouched``, are then put in by the caller.
    """
    columns, _ = write_back.common(one, table)
    if not set(one.key) <= set(columns):
        return 0, 0, 0
    if not one.key:
        return *_fewer(connection, place, one, table, untouched, stood, followed, another), 0
    gone, left, settled = 0, 0, 0
    key, same_key = checksum.row_hash(one.key, "l"), write_back.same_key(one, table)
    anew = _ANEW.format(live=rows_of(table), stood=stood, key=key, place=place, same_key=same_key, began=literal(began))
    if execute(connection, anew).rowcount:
        unique = [] if moved else by_unique(connection, one, table, columns)
        _pair(connection, place, one, table, columns, untouched, another, unique)
        gone = _swap(connection, place, one, table, columns)
        which = "" if gone else " OR NOT t.referred"
        settled = exchange()
        left = execute(
            connection,
            f"DELETE FROM {untouched} AS u USING pg_temp.guard_twins AS t "
            f"WHERE u.place = t.place AND (t.referred{which}) AND NOT t.settled",
        ).rowcount
        execute(connection, "DROP TABLE pg_temp.guard_twins")
    execute(connection, "DROP TABLE pg_temp.guard_anew")
    others = f"{_deleted(untouched)} AND {write_back.absent(one, table, columns)} AND NOT {another}"
    return gone, left, gone + settled + write_back.insert(connection, place, one, table, columns, others)


def _fewer(
    connection: Connection,
    place: str,
    one: Object,
    table: Table,
    untouched: str,
    stood: str,
    followed: int,
    another: str,
) -> tuple[int, int]:
    if connection.exec_driver_sql(_UPDATED, {"oid": table.oid}).scalar_one() > followed:
        return 0, 0
    columns, _ = write_back.common(one, table)
    compared = told_apart_by(connection, one, table, columns)
    was, now = checksum.row_text(compared, "c"), checksum.row_text(compared, "l")
    execute(connection, _MORE.format(live=rows_of(table), stood=stood, place=place, was=was, now=now))
    _pair(connection, place, one, table, columns, untouched, another)
    gone = execute(connection, _UNREFERRED.format(live=rows_of(table))).rowcount
    left = execute(
        connection,
        f"DELETE FROM {untouched} AS u USING pg_temp.guard_twins AS t WHERE u.place = t.place AND t.referred",
    ).rowcount
    execute(connection, "DROP TABLE pg_temp.guard_twins, pg_temp.guard_anew")
    return gone, left


def _pair(
    connection: Connection, place: str, one: Object, table: Table, columns: list[str], untouched: str,
    another: str, unique: Sequence[str] = (),
) -> None:  # fmt: skip
    compared = told_apart_by(connection, one, table, columns)
    sql = _PAIRS.format(
        place=place, live=rows_of(table), referred=references.referred(connection, table.oid),
        was=told_by("c", compared, unique), now=told_by("l", compared, unique),
        deleted=f"{_deleted(untouched)} AND {write_back.absent(one, table, columns)} AND NOT {another}",
    )  # fmt: skip
    execute(connection, sql)


def _swap(connection: Connection, place: str, one: Object, table: Table, columns: list[str]) -> int:
    """Of the pairs that nobody refers to, all or none. Gives how many."""
    from sqlalchemy.exc import IntegrityError

    connection.exec_driver_sql("SAVEPOINT guard_give_way")
    try:
        gone: int = execute(connection, _UNREFERRED.format(live=rows_of(table))).rowcount
        kept = "c.ctid IN (SELECT t.place FROM pg_temp.guard_twins AS t WHERE NOT t.referred)"
        done = write_back.insert(connection, place, one, table, columns, kept) == gone
    except IntegrityError:
        done = False
    if not done:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_give_way")
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_give_way")
    return gone if done else 0


def _deleted(untouched: str) -> str:
    """SQL: that the downgrade has deleted the kept row ``c``, and nobody has taken its place."""
    return f"c.{identifier(AFTER)} IS NULL AND c.ctid IN (SELECT u.place FROM {untouched} AS u)"


def told_apart_by(connection: Connection, one: Object, table: Table, columns: Iterable[str]) -> list[str]:
    """Those of the columns that say which row it is: all but the key and what the server fills."""
    return sorted(set(columns) - set(one.key) - _filled(connection, table))


def uniques(connection: Connection, one: Object, table: Table, columns: Iterable[str]) -> list[list[str]]:
    """The columns of each unique index that people fill: it lets in no second row."""
    said = set(columns) - set(one.key) - set(given(connection, table))
    unique = [set(found) for found in connection.exec_driver_sql(_UNIQUE, {"oid": table.oid}).scalars()]
    return [sorted(found) for found in unique if found <= said]


def by_unique(connection: Connection, one: Object, table: Table, columns: Iterable[str]) -> list[str]:
    """The columns of the first of these indexes, where there is one."""
    return next(iter(uniques(connection, one, table, columns)), [])


def told_by(alias: str, whole: Sequence[str], unique: Sequence[str]) -> str:
    """SQL: the text of a row that tells whether it is another: of what is unique in it, else of all."""
    text = checksum.row_text(whole, alias)
    if not unique:
        return text
    there = (
        f"pg_catalog.num_nulls({', '.join(f'{alias}.{identifier(name)}' for name in unique)}) OPERATOR(pg_catalog.=) 0"
    )
    return f"(CASE WHEN {there} THEN {checksum.row_text(unique, alias)} ELSE {text} END)"


def _filled(connection: Connection, table: Table) -> set[str]:
    """The columns that nobody writes: those generated, and those whose default is the time."""
    stamped = {name for name, default in given(connection, table).items() if _CLOCK.search(default)}
    return stamped | {column.name for column in table.columns.values() if column.generated}


def given(connection: Connection, table: Table) -> dict[str, str]:
    """The columns that the server fills by itself, with their defaults."""
    with pinned(connection, search_path=SYSTEM_PATH):
        return {row[0]: row[1] for row in connection.exec_driver_sql(_GIVEN, (table.oid,))}


def numbered(connection: Connection, table: Table) -> set[str]:
    """The columns of which the server makes each value another: by a sequence, or at random."""
    return {name for name, default in given(connection, table).items() if not default or _NUMBERS.search(default)}
