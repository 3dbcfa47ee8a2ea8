"""What is known of rows, carried over a commit in the middle of an upgrade's body.

Its locks end there, and so do its temporary tables. The lists of what nobody has written to since the downgrade become tables of
the stash's own schema for as long as the upgrade lasts; and what somebody writes between two transactions of the body is told
by the row's xmin: it is none of the body's own. (A table that is rewritten gives each row a new one, so changed rows, which
nothing else proves, are looked at as soon as the next transaction begins, behind their lock.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, evidence, ladder, silence, write_back
from mcp_planner_schema.guard.back import Back
from mcp_planner_schema.guard.evidence import Table, name_of, rows_of
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute, identifier, literal

if TYPE_CHECKING:
    from sqlalchemy import Connection

_HORIZON = "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text"
_NAMED = """
SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %s
"""
# Counters that are too high, of earlier transactions, cost a look at the table. What has been rewritten has other files.
_WRITTEN = """
SELECT coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_xact_tuples_inserted(t.oid)
                               + pg_catalog.pg_stat_get_xact_tuples_updated(t.oid)), 0) > 0,
       coalesce(pg_catalog.string_agg(pg_catalog.pg_relation_filenode(t.oid)::text, ',' ORDER BY t.oid), '')
FROM (SELECT %(oid)s::oid UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(%(oid)s::oid)) AS t (oid)
"""
_LISTS = """
SELECT pg_catalog.quote_ident(n.nspname::text) || '.' || pg_catalog.quote_ident(c.relname::text)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind = 'r' AND c.relname ~ '^guard:(untouched|stood|touched)_'
"""
_OWN = "pg_catalog.pg_current_xact_id()"
# A row that is seen, and whose transaction has not ended, is of this one or of a savepoint in it. age() counts from where it was
# first asked for in a transaction.
_UNFINISHED = f"""
CASE WHEN pg_catalog.age(l.xmin) <= pg_catalog.age({_OWN}::pg_catalog.xid)
THEN pg_catalog.pg_xact_status((({_OWN}::text::bigint + pg_catalog.age({_OWN}::pg_catalog.xid)
  - pg_catalog.age(l.xmin))::text)::pg_catalog.xid8) = 'in progress' ELSE false END
"""


def leave(connection: Connection, back: Back) -> None:
    """The body is about to commit: note which rows are its own, and let the lists outlast the transaction.

    Where rows have no key, nobody will know what was written to them then, and their list ends.
    """
    back.ended = True
    back.horizon = back.horizon or connection.exec_driver_sql(_HORIZON).scalar_one()
    for one in back.rows():
        now = _now(connection, back, one)
        table = now[0] if now else evidence.named(connection, one.schema, one.name)
        if table and _written(connection, back, table):
            with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
                own = f"SELECT DISTINCT l.xmin::text FROM {rows_of(table)} AS l WHERE {_UNFINISHED}"
                back.xids |= set(execute(connection, own).scalars())
        for lists in (back.untouched, back.stood, back.touched) if one.key else ():
            if lists.get(one.number, "").startswith("pg_temp."):
                lists[one.number] = _lasting(connection, back, lists[one.number])
        if now and one.number in back.untouched:
            _note_which_are_there(connection, back, one, *now)


def go_on(connection: Connection, back: Back) -> None:
    """The body's next transaction begins: keep writers away from tables with changed rows, as :func:`.restore.begin` did, and
    strike off what was written between the two. Where a lock is not to be had the lists are given up."""
    from sqlalchemy.exc import DBAPIError

    back.ended = False
    found = [(one, now) for one in back.rows() if one.key and (now := _now(connection, back, one))]
    write_back.note_path(connection)
    connection.exec_driver_sql("SAVEPOINT guard_go_on")
    done = True
    try:
        for _, (table, _) in sorted(found, key=lambda pair: pair[1][0].oid):
            execute(connection, f"LOCK TABLE {name_of(table)} IN SHARE ROW EXCLUSIVE MODE")
        for one, (table, key) in found:
            with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
                _strike_off(connection, back, one, table, key)
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) not in ladder.TRANSIENT:
            raise
        done = False
    if not done:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_go_on")
        for one, _ in found:
            back.untouched.pop(one.number, None)
            back.stood.pop(one.number, None)
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_go_on")


def end(connection: Connection, back: Back) -> None:
    """The upgrade has got its rows back: its lists go, also those of a try that has failed after a commit."""
    for name in connection.exec_driver_sql(_LISTS, (back.stash.kept_in,)).scalars().all():
        execute(connection, f"DROP TABLE {name}")


def theirs(back: Back) -> str:
    """SQL: that the row ``l`` was written by somebody else after the body has committed; empty where it has not."""
    if not back.horizon:
        return ""
    since = f"pg_catalog.age(l.xmin) <= pg_catalog.age({literal(back.horizon)}::pg_catalog.xid8::pg_catalog.xid)"
    own = literal("{" + ",".join(sorted(back.xids)) + "}")
    return f"({since} AND l.xmin <> ALL ({own}::pg_catalog.xid[]) AND NOT {_UNFINISHED})"


def shared(connection: Connection, back: Back, table: Table) -> bool:
    """Whether a table that the upgrade has made holds rows of others by now. It is to be locked."""
    if not back.horizon:
        return False
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        asked = f"SELECT EXISTS (SELECT FROM {rows_of(table)} AS l WHERE {theirs(back)})"
        return bool(execute(connection, asked).scalar_one())


def _written(connection: Connection, back: Back, table: Table) -> bool:
    """Whether the transaction may have written to a table; one that was not looked at before, it may."""
    rows, files = connection.exec_driver_sql(_WRITTEN, {"oid": table.oid}).one()
    before, back.files[table.oid] = back.files.get(table.oid), files
    return bool(rows) or before != files


def _now(connection: Connection, back: Back, one: Object) -> tuple[Table, list[str]] | None:
    """The table of changed rows and the columns of their key, whatever they are called by now; None where one is gone."""
    if one.number not in back.stays:
        return None
    was, names = back.stays[one.number]
    found = connection.exec_driver_sql(_NAMED, (was.oid,)).first()
    table = evidence.named(connection, *found) if found else None
    numbers = {column.name: number for number, column in was.columns.items()}
    columns = [table.columns.get(numbers[names[name]]) if table else None for name in one.key if name in names]
    if table is None or len(columns) < len(one.key) or not all(columns):
        return None
    return table, [column.name for column in columns if column]


def _lasting(connection: Connection, back: Back, name: str) -> str:
    kept = f"{identifier(back.stash.kept_in)}.{identifier('guard:' + name.removeprefix('pg_temp.guard_'))}"
    execute(connection, f"DROP TABLE IF EXISTS {kept}")
    execute(connection, f"CREATE UNLOGGED TABLE {kept} AS SELECT * FROM {name}")
    return kept


def _note_which_are_there(connection: Connection, back: Back, one: Object, table: Table, key: list[str]) -> None:
    listed, live = back.untouched[one.number], rows_of(table)
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        execute(connection, f"ALTER TABLE {listed} ADD COLUMN IF NOT EXISTS there boolean")
        same = write_back.same_key(one.key, table, dict(zip(one.key, key, strict=True)))
        execute(connection, f"UPDATE {listed} AS u SET there = false")
        found = f"FROM {back.stash.place(one)} AS c JOIN {live} AS l ON {same} WHERE c.ctid = u.place"
        execute(connection, f"UPDATE {listed} AS u SET there = true {found}")


def _strike_off(connection: Connection, back: Back, one: Object, table: Table, key: list[str]) -> None:
    named, live, place = dict(zip(one.key, key, strict=True)), rows_of(table), back.stash.place(one)
    same, wrote = write_back.same_key(one.key, table, named), theirs(back)
    if listed := back.untouched.get(one.number):
        rows = f"{place} AS c JOIN {live} AS l ON {same}"
        execute(connection, f"DELETE FROM {listed} AS u USING {rows} WHERE c.ctid = u.place AND {wrote}")
        gone = f"NOT EXISTS (SELECT FROM {rows} WHERE c.ctid = u.place)"
        execute(connection, f"DELETE FROM {listed} AS u WHERE u.there AND {gone}")
    if stood := back.stood.get(one.number):
        execute(
            connection,
            f"INSERT INTO {stood} (key) SELECT {checksum.row_hash(key, 'l')} FROM {live} AS l WHERE {wrote}",
        )
