"""Gives rows that an upgrade has written the keys that they had, and lets those follow that refer to them.

An upgrade makes a lookup table anew, and the server gives its rows other keys than they had: of a random default, or in another
order. A kept row and the upgrade's are the same where what is unique in them, or all but what the server fills, is equal. With
its own key the upgrade's row is in the kept one's way, and what it has meanwhile filled in elsewhere would mean another row.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from mcp_planner_schema.guard import checksum, clear, evidence, fresh, ladder, sequences, silence, twins, write_back
from mcp_planner_schema.guard.back import Back, made, undoable
from mcp_planner_schema.guard.evidence import Column, Table, name_of, rows_of
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute, identifier, literal

if TYPE_CHECKING:
    from sqlalchemy import Connection

_NUMBERS = ("smallint", "integer", "bigint")
"""Types of keys of which unused ones are found by counting on."""

# Keys that refer to a column, of whole tables and of single partitions; and the partitioned table that one of these belongs to.
_REFERRING = """
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
# Columns of a table that refer to rows which have not got their keys.
_UNSETTLED = """
SELECT DISTINCT a.attname::text FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)
WHERE k.contype = 'f' AND k.conrelid = %s AND k.confrelid = ANY (%s::oid[])
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
# Equal rows pair off by number; who is what it was already, does not take part. Without anything that tells a row it has no pair,
# and keeps its key. Of rows that are like others, those who refer to them tell more: a row with a kept value refers to the kept
# one, and what is referred to by others only is new.
_PAIRS = """
CREATE TEMPORARY TABLE guard_keys ON COMMIT DROP AS
WITH kept AS MATERIALIZED (SELECT {kept} AS key, {was} AS said FROM {place} AS c),
live AS MATERIALIZED (SELECT l.{key} AS key, {now} AS said FROM {live} AS l),
vague AS MATERIALIZED (SELECT said FROM kept GROUP BY said HAVING pg_catalog.count(*) > 1
                       UNION SELECT said FROM live GROUP BY said HAVING pg_catalog.count(*) > 1),
refers AS MATERIALIZED (SELECT l.key AS was, l.key AS target FROM live AS l WHERE false{refers}),
alike AS MATERIALIZED (
  SELECT DISTINCT r.was, k.key AS target FROM refers AS r JOIN live AS l ON l.key = r.was
  JOIN vague AS v ON v.said = l.said JOIN kept AS k ON k.key = r.target AND k.said = l.said),
sure AS MATERIALIZED (
  SELECT o.was, o.target FROM (SELECT a.was, a.target, pg_catalog.count(*) OVER (PARTITION BY a.was) AS kepts,
                                      pg_catalog.count(*) OVER (PARTITION BY a.target) AS lives FROM alike AS a) AS o
  WHERE o.kepts = 1 AND o.lives = 1),
mine AS MATERIALIZED (
  SELECT l.key, l.said, v.said IS NOT NULL AND o.was IS NOT NULL AND a.was IS NULL AS others
  FROM live AS l LEFT JOIN vague AS v ON v.said = l.said LEFT JOIN (SELECT DISTINCT r.was FROM refers AS r) AS o ON o.was = l.key
  LEFT JOIN (SELECT DISTINCT e.was FROM alike AS e) AS a ON a.was = l.key
  WHERE NOT EXISTS (SELECT FROM sure AS t WHERE t.was = l.key)),
free AS MATERIALIZED (
  SELECT m.key, m.said, true AS others FROM mine AS m WHERE m.others
  UNION ALL SELECT m.key, m.said, false FROM mine AS m
  WHERE NOT m.others AND NOT EXISTS (SELECT FROM kept AS c WHERE m.key = c.key AND m.said = c.said)),
k AS (SELECT key, said, pg_catalog.row_number() OVER (PARTITION BY said ORDER BY key) AS n FROM kept
      WHERE NOT EXISTS (SELECT FROM sure AS t WHERE t.target = kept.key)
        AND NOT EXISTS (SELECT FROM mine WHERE mine.key = kept.key AND mine.said = kept.said AND NOT mine.others)),
a AS (SELECT key, said, others, pg_catalog.row_number() OVER (PARTITION BY said, others ORDER BY key) AS n FROM free),
pairs AS (SELECT a.key AS was, a.said, k.key AS target FROM a LEFT JOIN k ON k.said = a.said AND k.n = a.n AND NOT a.others
          UNION ALL SELECT t.was, l.said, t.target FROM sure AS t JOIN live AS l ON l.key = t.was WHERE t.was <> t.target)
SELECT p.was, p.target, {unused} AS unused FROM pairs AS p
WHERE p.target IS NOT NULL OR p.was IN (SELECT q.target FROM pairs AS q){others}
"""
_OTHERS = " OR (p.said IS NOT NULL AND p.was IN (SELECT kept.key FROM kept))"


class _Ambiguous(Exception):
    """By one unique index a row is this kept one, and by another that."""


class _Reference(NamedTuple):
    """A column of a table that refers to the key, or to a column that does. ``follows``: PostgreSQL changes it along."""

    table: Table
    column: str
    follows: bool


def all_of(connection: Connection, back: Back) -> None:
    """Give the upgrade's rows their kept keys, in the tables that it has made and whose keys the server makes (numbers, uuids).

    A row that is none of the kept ones, and has a key that one of these had, gets a new one where its table may hold newer rows,
    or that key is another's now. Nothing where others may have seen rows of it already. What cannot be done stays as it is, and
    is noted in ``back.unkeyed``, for kept rows may therefore refer to other rows than they did.
    """
    tables = [pair for pair in made(connection, back) if undoable(connection, back) or _unseen(connection, pair[1])]
    order = clear.in_order(connection, [table.oid for _, table in tables]) or {}
    unsettled = {table.oid for _, table in tables}
    for one, table in sorted(tables, key=lambda pair: order.get(pair[1].oid, 0)):
        came = one.number in back.filled and one.number in back.shapes
        unused = "" if came else _unused(connection, back, one, table)
        others = _OTHERS if unused and (back.newer(one) or fresh.may_be(connection, back, table)) else ""
        if unused and not _give(connection, back, one, table, (unused, others), unsettled):
            back.unkeyed[table.oid] = one
        if order:
            unsettled.discard(table.oid)


def _unseen(connection: Connection, table: Table) -> bool:
    """Whether all rows of a table are the running transaction's own: what it sees of one that has not ended is."""
    status = "pg_catalog.pg_current_xact_id()::pg_catalog.text::bigint - pg_catalog.age(l.xmin)"
    other = f"pg_catalog.pg_xact_status(({status})::pg_catalog.text::pg_catalog.xid8) IS DISTINCT FROM 'in progress'"
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        return not execute(connection, f"SELECT EXISTS (SELECT FROM {rows_of(table)} AS l WHERE {other})").scalar_one()


def _unused(connection: Connection, back: Back, one: Object, table: Table) -> str:
    """SQL: a key that nobody has or had; empty where the server has not made the keys, but the body itself."""
    column = next((each for each in table.columns.values() if (each.name,) == one.key), None)
    if column is None or column.name not in twins.given(connection, table):
        return ""
    if column.type not in (*_NUMBERS, "uuid") or one.types[one.columns.index(column.name)] != column.type:
        return ""
    place, live, name = back.stash.place(one), rows_of(table), identifier(column.name)
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        if write_back.empty(connection, table):
            return ""
        if column.type == "uuid":  # two random ones are never the same
            same = f"{place} AS c JOIN {live} AS l ON {write_back.same_key(one.key, table)}"
            own = not execute(connection, f"SELECT EXISTS (SELECT FROM {same})").scalar_one()
            return "pg_catalog.gen_random_uuid()" if own else ""
        if table.oid not in back.numbered:
            return ""
        highest = execute(
            connection,
            f"SELECT pg_catalog.max(m) FROM (SELECT 0::bigint UNION ALL SELECT pg_catalog.max({name}) FROM {place} "
            f"UNION ALL SELECT pg_catalog.max({name}) FROM {live}) AS u (m)",
        ).scalar_one()
    stands = [each.last_value for each in _sequences(connection, back, table, column.name)]
    return f"({max(highest, *stands, 0):d} + pg_catalog.row_number() OVER ())::{column.type}"


def _sequences(connection: Connection, back: Back, table: Table, name: str) -> list[sequences.Sequence]:
    number = next(n for n, column in table.columns.items() if column.name == name)
    found = connection.exec_driver_sql(_SEQUENCE, {"oid": table.oid, "n": number}).scalars().all()
    return list(sequences.named(connection, back.schema, found).values())


def _give(
    connection: Connection, back: Back, one: Object, table: Table, which: tuple[str, str], unsettled: Collection[int]
) -> bool:
    """Exchange the keys of one table; False where that cannot be, and then nothing was done. ``which`` is SQL: an unused key, and
    which rows without a pair get one."""
    from sqlalchemy.exc import DBAPIError

    write_back.note_path(connection)
    connection.exec_driver_sql("SAVEPOINT guard_rekey")
    done = True
    try:
        if not (one.moved and not which[1] and _lone(connection, back, table, one.key[0])) and _paired(
            connection, back, one, table, which, unsettled
        ):
            referring = _referring(connection, back, table, one.key[0])
            if done := referring is not None:
                _exchange(
                    connection, back, one, table, [each for each in referring or () if _concerned(connection, each)]
                )
                _advance(connection, back, one, table)
        execute(connection, "DROP TABLE IF EXISTS pg_temp.guard_keys")
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) in (*ladder.TRANSIENT, ladder.CANCELED):
            raise
        done = False
    except _Ambiguous:
        done = False
    if not done:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_rekey")
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_rekey")
    return done


def seeds(connection: Connection, back: Back, one: Object, table: Table) -> int:
    """Give seeds that the upgrade has written into a table that stays the keys and values that they had, where other rows refer
    to them already (``pg_temp.guard_twins``): nobody else has seen these keys. Gives how many; none where that cannot be."""
    from sqlalchemy.exc import DBAPIError

    if len(one.key) != 1:
        return 0
    key = next(column for column in table.columns.values() if column.name == one.key[0])
    refers, found = _referring(connection, back, table, key.name, anew=True), 0
    connection.exec_driver_sql("SAVEPOINT guard_seeds")
    try:
        with checksum.reading(connection):
            found = execute(
                connection,
                f"CREATE TEMPORARY TABLE guard_keys ON COMMIT DROP AS SELECT l.{identifier(key.name)} AS was, "
                f"{write_back.typed(key)} AS target, {write_back.typed(key)} AS unused FROM pg_temp.guard_twins AS t "
                f"JOIN {rows_of(table)} AS l ON l.tableoid = t.part AND l.ctid = t.spot "
                f"JOIN {back.stash.place(one)} AS c ON c.ctid = t.place WHERE t.referred",
            ).rowcount
        if found and refers is not None:
            _exchange(connection, back, one, table, refers, anew=True)
            with checksum.reading(connection):
                these = "c.ctid IN (SELECT t.place FROM pg_temp.guard_twins AS t WHERE t.referred)"
                write_back.overwrite(connection, back.stash.place(one), one, table, these)
            execute(connection, "UPDATE pg_temp.guard_twins SET settled = true WHERE referred")
        else:
            found = 0
        execute(connection, "DROP TABLE pg_temp.guard_keys")
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) in (*ladder.TRANSIENT, ladder.CANCELED):
            raise
        found = 0
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_seeds")
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_seeds")
    return found


def values(connection: Connection, back: Back, one: Object, table: Table) -> None:
    """A column is there again that a sequence fills: rows that were written since have got numbers that others had, and get
    unused ones; so do for a moment those that have exchanged theirs. Not where somebody refers to them already."""
    from sqlalchemy.exc import DBAPIError

    given = twins.given(connection, table)
    for column in table.columns.values():
        if column.name not in one.lost or column.name not in given or column.type not in _NUMBERS:
            continue
        sequence = _sequences(connection, back, table, column.name)
        if not sequence or not write_back.keyed(one, table) or column.name in one.key:
            continue
        name, place, live = identifier(column.name), back.stash.place(one), rows_of(table)
        highest = execute(
            connection,
            f"SELECT pg_catalog.max(m) FROM (SELECT 0::bigint UNION ALL SELECT pg_catalog.max({name}) FROM {place} "
            f"UNION ALL SELECT pg_catalog.max({name}) FROM {live}) AS u (m)",
        ).scalar_one()
        same = write_back.same_key(one.key, table)
        new = f"NOT EXISTS (SELECT FROM {place} AS c WHERE {same})"
        exchanged = f"EXISTS (SELECT FROM {place} AS c WHERE {same} AND c.{name} <> l.{name})"
        connection.exec_driver_sql("SAVEPOINT guard_values")
        try:
            with write_back.settable(connection, table, [column.name]):
                written = _to_unused(connection, place, live, name, new, highest)
                _to_unused(connection, place, live, name, exchanged, highest + written)
            for each in sequence if written else ():
                if each.rising and each.last_value < highest + written:
                    sequences.advance(connection, each.schema, each.name, highest + written, True)
        except DBAPIError as error:
            if getattr(error.orig, "pgcode", None) in (*ladder.TRANSIENT, ladder.CANCELED):
                raise
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_values")
        connection.exec_driver_sql("RELEASE SAVEPOINT guard_values")


def _to_unused(connection: Connection, place: str, live: str, name: str, which: str, highest: int) -> int:
    """Give rows whose number is a kept one of another's a number that is not used. Gives how many."""
    numbered = f"l.tableoid AS part, l.ctid AS spot, pg_catalog.row_number() OVER (ORDER BY l.{name}) AS n"
    them = f"SELECT {numbered} FROM {live} AS l WHERE {which} AND l.{name} IN (SELECT c.{name} FROM {place} AS c)"
    return write_back.write(
        connection,
        f"WITH them AS ({them}) UPDATE {live} AS l SET {name} = {highest:d} + w.n FROM them AS w "
        "WHERE l.tableoid = w.part AND l.ctid = w.spot",
    )


def _concerned(connection: Connection, reference: _Reference) -> bool:
    """Whether a row refers to one that is to have another key: no other table is to be locked for this."""
    table, column = reference.table, identifier(reference.column)
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        asked = f"SELECT EXISTS (SELECT FROM {rows_of(table)} AS r JOIN pg_temp.guard_keys AS m ON m.was = r.{column})"
        return bool(execute(connection, asked).scalar_one())


def _lone(connection: Connection, back: Back, table: Table, key: str) -> bool:
    """Whether nobody refers to a row of the table: a moved one then takes its place whole, and is not to be read for this."""
    found = _referring(connection, back, table, key) or ()
    return all(write_back.empty(connection, reference.table) for reference in found)


def _referring(
    connection: Connection, back: Back, table: Table, key: str, *, anew: bool = False
) -> list[_Reference] | None:
    """Each column that refers to the key, once, and what refers to that; None where a row would lose its reference, or part of
    a partitioned table would follow by itself, or a column that was there before, and may mean the kept rows (not where the keys
    are ``anew``)."""
    if connection.exec_driver_sql(_TAKES_ALONG, (table.oid,)).scalar_one():
        return None
    found: dict[tuple[int, str], _Reference] = {}
    roots: dict[tuple[int, str], int] = {}
    asked, wanted = {(table.oid, key)}, [(table.oid, key)]
    while wanted:
        oid, name = wanted.pop()
        for referring, root, schema, called, action, column in connection.exec_driver_sql(
            _REFERRING, {"key": name, "oid": oid}
        ).all():
            other = evidence.named(connection, schema, called)
            if action in ("n", "d") or other is None:
                return None
            if roots.setdefault((root, column), referring) != referring:
                return None
            before = found.get((referring, column))
            follows = action == "c" or (before is not None and before.follows)
            found[referring, column] = _Reference(other, column, follows)
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


def _paired(
    connection: Connection, back: Back, one: Object, table: Table, which: tuple[str, str], unsettled: Collection[int]
) -> int:
    """Make the temporary table of rows that are to have another key: theirs, the kept one, an unused one. Gives how many.

    What refers to rows that are ``unsettled`` themselves, tells no row from another.
    """
    columns, _ = write_back.common(one, table)
    blind = set(connection.exec_driver_sql(_UNSETTLED, (table.oid, list(unsettled))).scalars())
    by_unique = twins.by_unique(connection, one, table, [name for name in columns if name not in blind])
    compared = twins.told_apart_by(connection, one, table, columns)
    if not (by_unique or compared):
        return 0
    if blind & set(compared):
        compared = []
    if not (by_unique or compared):
        raise _Ambiguous
    key = next(column for column in table.columns.values() if column.name == one.key[0])
    refers, others = ("", []) if by_unique else _refers(connection, back, table, key)
    with checksum.reading(connection), ExitStack() as unveiled:
        for each in (table, *others):
            unveiled.enter_context(silence.unveiled(connection, each.oid, name_of(each)))
        rows: int = execute(
            connection,
            _PAIRS.format(
                kept=write_back.typed(key), key=identifier(key.name), place=back.stash.place(one), live=rows_of(table),
                was=_told_by("c", compared, by_unique), now=_told_by("l", compared, by_unique),
                unused=which[0], others=which[1], refers=refers,
            ),
        ).rowcount  # fmt: skip
        for unique in twins.uniques(connection, one, table, [name for name in columns if name not in blind]):
            other = f"pg_temp.guard_keys AS m JOIN {rows_of(table)} AS l ON l.{identifier(key.name)} = m.was"
            same = f"{_told_by('c', [], unique)} = {_told_by('l', [], unique)} AND c.{identifier(key.name)} <> m.target"
            asked = f"SELECT EXISTS (SELECT FROM {other} JOIN {back.stash.place(one)} AS c ON {same})"
            if rows and execute(connection, asked).scalar_one():
                raise _Ambiguous
    return rows


def _refers(connection: Connection, back: Back, table: Table, key: Column) -> tuple[str, list[Table]]:
    """SQL: for each row that refers to one of the table by a lost column, what it refers to, and what it has referred to; and the
    tables of these rows."""
    found, tables = "", []
    for one in back.rows():
        other = evidence.named(connection, one.schema, one.name) if one.lost else None
        if other is None or not write_back.keyed(one, other):
            continue
        asked = {"key": key.name, "oid": table.oid}
        for oid, *_, name in connection.exec_driver_sql(_REFERRING, asked).all():
            if oid == other.oid and name in one.lost and write_back.fits(one, other, name):
                same, column = write_back.same_key(one.key, other, now="r"), identifier(name)
                tables.append(other)
                found += (
                    f" UNION ALL SELECT r.{column}, c.{column} FROM {rows_of(other)} AS r "
                    f"LEFT JOIN {back.stash.place(one)} AS c ON {same} WHERE r.{column} IS NOT NULL"
                )
    return found, tables


def _told_by(alias: str, compared: list[str], unique: list[str]) -> str:
    """SQL: what tells a row; NULL, which is like no other, where nothing does."""
    if compared:
        return twins.told_by(alias, compared, unique)
    there = [f"{alias}.{identifier(name)} IS NOT NULL" for name in unique]
    return f"(CASE WHEN {' AND '.join(there) or 'false'} THEN {checksum.row_text(unique, alias)} END)"


def _exchange(
    connection: Connection, back: Back, one: Object, table: Table, referring: list[_Reference], *, anew: bool = False
) -> None:
    """Through the unused keys to the kept ones: two rows that have exchanged theirs would meet otherwise.

    ``anew``: no reference to these keys can have come back yet. What follows is noted in ``back.followed``.
    """
    key = identifier(one.key[0])
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


def _but_kept(back: Back, referred: Table, key: str, reference: _Reference) -> str:
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


def _but_back(back: Back, referred: Table, key: str, reference: _Reference) -> str:
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
        same = write_back.same_key(one.key, table, now="r") if one.key else "false"
        alike = write_back.same_key([column], table, now="r")
        said += f" AND NOT EXISTS (SELECT FROM {place} AS c WHERE {same} AND {alike} AND {there}{only})"
    return said


def _advance(connection: Connection, back: Back, one: Object, table: Table) -> None:
    """Let the sequence of the keys not give those that were unused."""
    column = next(each for each in table.columns.values() if each.name == one.key[0])
    if column.type not in _NUMBERS:
        return
    asked = "SELECT pg_catalog.max(m.unused) FROM pg_temp.guard_keys AS m WHERE m.target IS NULL"
    last = execute(connection, asked).scalar_one()
    for found in _sequences(connection, back, table, column.name) if last is not None else ():
        if found.rising and found.last_value < last:
            sequences.advance(connection, found.schema, found.name, last, True)
