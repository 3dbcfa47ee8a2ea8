"""What is known of rows, carried over a commit in the middle of an upgrade's body.

Its locks end there, and so do its temporary tables. The lists of what nobody has written to since the downgrade become tables of
the stash's own schema for as long as the upgrade lasts. As the body commits, the xids of all rows are noted; as its next
transaction begins, the tables are locked again, and a row with another xid was written by somebody else in between.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, evidence, ladder, lexer, lock_order, silence, since, sources, write_back
from mcp_planner_schema.guard.back import Back, made
from mcp_planner_schema.guard.evidence import Table, name_of, rows_of
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute, identifier, literal
from mcp_planner_schema.guard.transaction import ELSEWHERE

if TYPE_CHECKING:
    from sqlalchemy import Connection

_HORIZON = "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text"
_NAMED = """
SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %s
"""
# What the upgrade has made, by whatever name it may be called at its end.
_MADE = """
SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT c.relispartition
  AND c.oid <> ALL (%s::oid[]) AND n.nspname !~ %s AND pg_catalog.pg_has_role(c.relowner, 'USAGE')
"""
# Counters that are too high, of earlier transactions, cost a look at the table. What has been rewritten has other files.
_WRITTEN = """
SELECT coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_xact_tuples_inserted(t.oid)
                               + pg_catalog.pg_stat_get_xact_tuples_updated(t.oid)), 0) > 0,
       coalesce(pg_catalog.string_agg(pg_catalog.pg_relation_filenode(t.oid)::text, ',' ORDER BY t.oid), '')
FROM (SELECT %(oid)s::oid UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(%(oid)s::oid)) AS t (oid)
"""
_LISTS = """
SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind = 'r' AND c.relname ~ '^guard:(xids$|untouched_|stood_|keys_|touched_|theirs_)'
"""
_HIDES = re.compile(r"\s*(do|call)\b")
EVERY = "true"
"""Stands for a list where nobody knows: any row may be somebody else's."""


def leave(connection: Connection, back: Back) -> None:
    """The body is about to commit: note whose rows there are by now, and let the lists outlast the transaction.

    Of what has no key, or is another table by now, nobody will know what was written to it then, and its list ends.
    """
    first = not back.horizon
    if first:
        end(connection, back)  # of a try that has failed after a commit
        back.horizon = connection.exec_driver_sql(_HORIZON).scalar_one()
        execute(connection, f"CREATE UNLOGGED TABLE {_place(back, 'xids')} (xid text NOT NULL)")
    back.ended = True
    tables: dict[int, Table] = {}
    for one in back.rows():
        now = _now(connection, back, one)
        table = now[0] if now else evidence.named(connection, one.schema, one.name)
        tables |= {table.oid: table} if table else {}
        _note_final(back, one, table)
        for lists in (back.untouched, back.stood, back.keys, back.touched):
            if one.number in lists and (not one.key or (one.kind == "rows" and now is None)):
                del lists[one.number]
            elif lists.get(one.number, "").startswith("pg_temp."):
                lists[one.number] = _lasting(connection, back, lists[one.number])
        if now and one.number in back.untouched:
            _note_which_are_there(connection, back, one, *now)
    for left in back.stash.written:
        if table := evidence.named(connection, left.schema, left.name):
            tables[table.oid] = table
    for named in connection.exec_driver_sql(_MADE, (list(back.already), evidence.own(back.schema))).all():
        if table := evidence.named(connection, *named):
            tables[table.oid] = table
    for table in tables.values():
        if _written(connection, back, table):
            _note_xids(connection, back, table)


def go_on(connection: Connection, back: Back) -> None:
    """The body's next transaction begins: keep writers away as :func:`.restore.begin` did, and see what was written between the
    two. Where a lock is not to be had, the lists are given up, and any row may be somebody else's."""
    from sqlalchemy.exc import DBAPIError

    back.ended = False
    anew = {one.number for one, _ in made(connection, back)}
    found: list[tuple[Object, Table, list[str]]] = []
    for one in back.rows():
        now = _now(connection, back, one)
        table = now[0] if now else evidence.named(connection, one.schema, one.name)
        _note_final(back, one, table)  # what came without a transaction others have seen as well
        if table and one.key and one.number in back.untouched and now:
            found.append((one, *now))
        elif (
            table
            and (one.lost or (one.number in back.final and one.number in anew))
            and not _elsewhere(connection, back, table)
        ):
            found.append((one, table, list(one.key) if write_back.keyed(one, table) else []))
    looked_at = {one.number for one, _, _ in found}
    for number in back.untouched.keys() - looked_at:
        del back.untouched[number]
    write_back.note_path(connection)
    before = dict(back.theirs), dict(back.touched), set(back.crossed), back.sources, back.changes
    connection.exec_driver_sql("SAVEPOINT guard_go_on")
    done = True
    try:
        for table in sorted({table.oid: table for _, table, _ in found}.values(), key=lambda each: each.oid):
            execute(connection, f"LOCK TABLE {name_of(table)} IN SHARE ROW EXCLUSIVE MODE")
        _look_at_sources(connection, back)
        for one, table, key in found:
            with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
                _note_rewritten(connection, back, table)
                _look(connection, back, one, table, key)
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) not in ladder.TRANSIENT:
            raise
        done = False
    if not done:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_go_on")
        back.untouched.clear()
        back.theirs, back.touched, back.crossed, back.sources, back.changes = before
        back.theirs |= {one.number: EVERY for one in back.rows() if one.lost or one.number in anew}
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_go_on")
    sources.begin(connection, back)


def end(connection: Connection, back: Back) -> None:
    """The upgrade has got its rows back: its lists go, also those of a try that has failed after a commit."""
    for name in lists(connection, back.stash.kept_in):
        execute(connection, f"DROP TABLE {identifier(back.stash.kept_in)}.{identifier(name)}")


def lists(connection: Connection, schema: str) -> list[str]:
    """The lists that stand in a stash's schema: of an upgrade that runs, or that was killed after a commit."""
    return list(connection.exec_driver_sql(_LISTS, (schema,)).scalars())


def theirs(back: Back, one: Object) -> str:
    """SQL: that the row ``l`` of an object's table was written by somebody else between two transactions of the body; empty where
    none was. To be sent with :data:`checksum.OUTPUT` pinned."""
    listed = back.theirs.get(one.number, "")
    if listed in ("", EVERY):
        return listed
    return f"({checksum.row_hash(sorted(one.key), 'l')} IN (SELECT w.key FROM {listed} AS w))"


def _note_final(back: Back, one: Object, table: Table | None) -> None:
    if table and set(one.lost) <= {column.name for column in table.columns.values()}:
        back.final.add(one.number)


def _elsewhere(connection: Connection, back: Back, table: Table) -> bool:
    """Whether the body has written to a table outside of its transactions: nobody knows these rows from others' then."""
    if table.oid in connection.info.get(ELSEWHERE, ()):
        return True
    return any(lexer.names(text, table.name) or _HIDES.match(text) for text in back.unwatched)


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


def _place(back: Back, name: str) -> str:
    return f"{identifier(back.stash.kept_in)}.{identifier('guard:' + name)}"


def _lasting(connection: Connection, back: Back, name: str) -> str:
    kept = _place(back, name.removeprefix("pg_temp.guard_"))
    execute(connection, f"CREATE UNLOGGED TABLE {kept} AS SELECT * FROM {name}")
    return kept


def _since(back: Back) -> str:
    """SQL: that the row ``l`` may have been written since the body first committed, or in that transaction."""
    return f"pg_catalog.age(l.xmin) <= pg_catalog.age({literal(back.horizon)}::pg_catalog.xid8::pg_catalog.xid)"


def _note_xids(connection: Connection, back: Back, table: Table) -> None:
    xids = _place(back, "xids")
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        there = f"SELECT DISTINCT l.xmin::text FROM {rows_of(table)} AS l WHERE {_since(back)}"
        execute(connection, f"INSERT INTO {xids} {there} EXCEPT SELECT o.xid FROM {xids} AS o")


def _note_rewritten(connection: Connection, back: Back, table: Table) -> None:
    """Note the xid of an ALTER TABLE that the body has sent outside of its transactions and that has written all rows anew: no
    row of such a table is older."""
    before, files = back.files.get(table.oid), connection.exec_driver_sql(_WRITTEN, {"oid": table.oid}).one()[1]
    if before is not None and before != files:
        oldest = f"SELECT l.xmin::text FROM {rows_of(table)} AS l ORDER BY pg_catalog.age(l.xmin) DESC LIMIT 1"
        xids = _place(back, "xids")
        execute(
            connection, f"INSERT INTO {xids} SELECT o.xmin FROM ({oldest}) AS o EXCEPT SELECT x.xid FROM {xids} AS x"
        )
        back.files[table.oid] = files


def _note_which_are_there(connection: Connection, back: Back, one: Object, table: Table, key: list[str]) -> None:
    listed, live = back.untouched[one.number], rows_of(table)
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        execute(connection, f"ALTER TABLE {listed} ADD COLUMN IF NOT EXISTS there boolean")
        same = write_back.same_key(one, table, dict(zip(one.key, key, strict=True)))
        execute(connection, f"UPDATE {listed} AS u SET there = false")
        found = f"FROM {back.stash.place(one)} AS c JOIN {live} AS l ON {same} WHERE c.ctid = u.place"
        execute(connection, f"UPDATE {listed} AS u SET there = true {found}")


def _wrote(back: Back) -> str:
    """SQL: that the row ``l`` was written by somebody else since the body has committed."""
    own = "pg_catalog.pg_current_xact_id()::pg_catalog.xid"
    return f"{_since(back)} AND l.xmin <> {own} AND l.xmin::text NOT IN (SELECT o.xid FROM {_place(back, 'xids')} AS o)"


def _look_at_sources(connection: Connection, back: Back) -> None:
    """What the downgrade has put rows into, others may have written to by now: the body may still move that."""
    for left in back.stash.written:
        table = evidence.named(connection, left.schema, left.name)
        if table is None or left.checksum is None or _elsewhere(connection, back, table):
            continue
        if lock_order.lockable(connection, [table.oid]):
            execute(connection, f"LOCK TABLE {name_of(table)} IN SHARE MODE")
        with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
            rows = write_back.count(connection, f"{rows_of(table)} AS l WHERE {_wrote(back)}")
        if rows:
            back.sources = tuple(dict.fromkeys((*back.sources, table.oid)))
            back.changes += rows


def _look_at_values(connection: Connection, back: Back, one: Object, table: Table) -> None:
    """The same of the rows that a column has gone from."""
    listed = back.touched.get(one.number)
    if listed is None:
        if any(oid != table.oid for oid in back.sources):
            back.crossed.add(one.number)
        every = one.number in back.crossed
        back.touched[one.number] = since.touched(connection, back.stash, one, table, wrote=_wrote(back), every=every)
        return
    same, place = write_back.same_key(one, table), back.stash.place(one)
    more = f"SELECT c.ctid, false, true FROM {place} AS c JOIN {rows_of(table)} AS l ON {same} WHERE {_wrote(back)}"
    execute(connection, f"INSERT INTO {listed} (place, given, own) {more}")


def _look(connection: Connection, back: Back, one: Object, table: Table, key: list[str]) -> None:
    """List what others have written to one object's table, and strike it off what nobody has written to."""
    named, live, place = dict(zip(one.key, key, strict=False)), rows_of(table), back.stash.place(one)
    wrote = _wrote(back)
    if not key:
        if execute(connection, f"SELECT EXISTS (SELECT FROM {live} AS l WHERE {wrote})").scalar_one():
            back.theirs[one.number] = EVERY
        return
    if listed := back.untouched.get(one.number):
        rows = f"{place} AS c JOIN {live} AS l ON {write_back.same_key(one, table, named)}"
        execute(connection, f"DELETE FROM {listed} AS u USING {rows} WHERE c.ctid = u.place AND {wrote}")
        gone = f"NOT EXISTS (SELECT FROM {rows} WHERE c.ctid = u.place)"
        execute(connection, f"DELETE FROM {listed} AS u WHERE u.there AND {gone}")
    if one.lost and back.newer(one):
        _look_at_values(connection, back, one, table)
    if stood := back.stood.get(one.number, back.keys.get(one.number)):
        hashed = f"SELECT {checksum.row_hash(key, 'l')} AS key FROM {live} AS l WHERE {wrote}"
        execute(connection, f"INSERT INTO {stood} (key) {hashed}")
    if (one.kind == "table" or one.lost) and one.number in back.final and back.theirs.get(one.number) != EVERY:
        listed = _place(back, f"theirs_{one.number}")
        hashed = f"SELECT {checksum.row_hash(sorted(key), 'l')} AS key FROM {live} AS l WHERE {wrote}"
        if one.number in back.theirs:
            execute(connection, f"INSERT INTO {listed} (key) {hashed}")
        elif execute(connection, f"CREATE UNLOGGED TABLE {listed} AS {hashed}").rowcount:
            back.theirs[one.number] = listed
        else:
            execute(connection, f"DROP TABLE {listed}")
