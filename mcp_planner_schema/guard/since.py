"""What was written to tables after a downgrade had left them: by that, newer rows are told from those that may go."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, evidence, silence, write_back
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.manifest import AFTER, Object, Stash, Written
from mcp_planner_schema.guard.postcheck import execute, identifier, literal

if TYPE_CHECKING:
    from sqlalchemy import Connection

_DENIED = """
SELECT pg_catalog.quote_ident(current_user), pg_catalog.quote_ident(pg_catalog.current_database())
WHERE NOT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY')
"""


LARGE = 512 * 2**20
"""Bytes of a table that is not read under the step's locks only to know whether others have written to it: they may have."""

_HALF = 2**31
_BESIDE = 1_000_000
"""How many xids there may be that are younger than the running transaction's own."""


def may_list(connection: Connection) -> bool:
    """Whether the role may make temporary tables."""
    return execute(connection, _DENIED).first() is None


def require_lists(connection: Connection, stash: Stash) -> None:
    """Raise :class:`Refused` where the role may not make the temporary tables of this module."""
    denied = execute(connection, _DENIED).first()
    if denied:
        role, database = denied
        values = {"role": role, "database": database}
        finding = Finding("stash-not-let-in", stash.kept_in, stash.revision, values)
        raise Refused([finding], f"GRANT TEMPORARY ON DATABASE {database} TO {role};   then repeat the command")


def written(stash: Stash, alias: str = "l", steps: Sequence[tuple[int, int]] = ()) -> str:
    """SQL: that a row was written after the downgrade; not by one of these ``steps``, each from its first xid to its last.

    In another database, restored from a dump, each may have been.
    """
    if stash.elsewhere:
        return "true"
    # Who began beside the downgrade may have come to the row only after it. Where a stash does not tell, nobody had.
    own, oldest, *_ = *stash.xid.split(), ""
    first = literal(oldest or own)
    passed = f"(SELECT pg_catalog.pg_current_xact_id()::text::bigint - {first}::bigint)"
    # xids begin anew after 2^32: one that is half of them away counts as one to come. Rows that are older than that were there.
    age, begin = f"pg_catalog.age({alias}.xmin)", int(oldest or own)
    since = f"{alias}.xmin <> {literal(own)}::pg_catalog.xid8::pg_catalog.xid"
    since += f" AND ({passed} > {_HALF} OR ({age} <= {passed} AND {age} > -{_BESIDE}))"
    by_others = [f" AND NOT {passed} - {age} BETWEEN {first - begin:d} AND {last - begin:d}" for first, last in steps]
    return f"({since}{''.join(by_others)})"


def by_others(alias: str = "l") -> str:
    """SQL: that the running transaction has not written a row itself: what it sees of one that has not ended is its own."""
    xid = f"pg_catalog.pg_current_xact_id()::pg_catalog.text::bigint - pg_catalog.age({alias}.xmin)"
    return f"pg_catalog.pg_xact_status(({xid})::pg_catalog.text::pg_catalog.xid8) IS DISTINCT FROM 'in progress'"


def written_since(connection: Connection, left: Written, table: Table) -> bool:
    """Whether a table is not as the downgrade has left it. Other steps back and up again change nothing in it."""
    if left.checksum is None or not set(left.columns) <= {column.name for column in table.columns.values()}:
        return True
    with checksum.reading(connection), silence.unveiled(connection, table.oid, evidence.name_of(table)):
        return checksum.of(connection, evidence.rows_of(table), left.columns) != left.checksum


def touched(
    connection: Connection, stash: Stash, one: Object, live: Table, *, wrote: str = "", every: bool = False
) -> str:
    """Make the temporary table of the kept rows whose own row was written after the downgrade (``own``). Gives its name.

    ``every``: of all kept rows that are there, for their values may come from another table. ``wrote``: SQL that the row ``l``
    was written, where it is not asked since the downgrade. ``given``: the row has got its kept value back all the same, for it
    was empty.
    """
    name, wrote = f"guard_touched_{one.number}", wrote or written(stash)
    with checksum.reading(connection), silence.unveiled(connection, live.oid, evidence.name_of(live)):
        execute(
            connection,
            f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS SELECT c.ctid AS place, false AS given, {wrote} AS own "
            f"FROM {stash.place(one)} AS c JOIN {evidence.rows_of(live)} AS l "
            f"ON {write_back.same_key(one, live) if one.key else 'false'} WHERE {'true' if every else wrote}",
        )
    return f"pg_temp.{name}"


def changes(connection: Connection, stash: Stash, tables: Iterable[Table]) -> int:
    """How many rows of these tables were written after the downgrade; of a large one each may have been."""
    found = 0
    for table in tables:
        if write_back.size_of(connection, table) > LARGE:
            return sys.maxsize
        with checksum.reading(connection), silence.unveiled(connection, table.oid, evidence.name_of(table)):
            found += write_back.count(connection, f"{evidence.rows_of(table)} AS l WHERE {written(stash)}")
    return found


def untouched(
    connection: Connection, stash: Stash, one: Object, live: Table, names: dict[str, str], *, newer: bool
) -> str:
    """Make the temporary table of the kept rows in whose place stands exactly what the downgrade left. Gives its name.

    ``names`` says what their columns are called in ``live``. Where it has others, and somebody has written to what the downgrade
    wrote to (``newer``), nobody may have written to the row at all: what the downgrade has put into a column that was new then is
    in no copy. Without others the values tell: another step back and up again has written each row anew.
    """
    name, place = f"pg_temp.guard_untouched_{one.number}", stash.place(one)
    there = {column.name for column in live.columns.values()}
    since = f" AND NOT {written(stash)}" if newer and there - set(names.values()) else ""
    kept = f"SELECT c.ctid AS place FROM {place} AS c"
    with checksum.reading(connection):
        if not one.key:  # only deleted rows are kept of a table without key, and they stand in nobody's way
            pass
        elif not set(names.values()) <= there:
            kept += " WHERE false"
        else:
            now = checksum.row_hash([names[column] for column in sorted(names)], "l")
            after = f"c.{identifier(AFTER)}"
            as_left = f"pg_catalog.bool_or({now} = {after}{since})"
            key = write_back.same_key(one, live, names)
            kept += (
                f" LEFT JOIN {evidence.rows_of(live)} AS l ON {key} "
                f"GROUP BY c.ctid, {after} "
                f"HAVING CASE WHEN {after} IS NULL THEN pg_catalog.count(l.tableoid) = 0 ELSE {as_left} END"
            )
        short = name.removeprefix("pg_temp.")
        execute(connection, f"CREATE TEMPORARY TABLE {short} ON COMMIT DROP AS {kept}")
    return name
