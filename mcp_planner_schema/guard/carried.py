"""Rows that a downgrade has copied into a table that stays, under their own keys: an archive that it has moved back.

Where nobody has touched such a copy, what the upgrade makes of it again is what it had made then; the kept row says more (when it
was archived, and why), though others have written elsewhere in that table. Afterwards the copies are gone, so they are listed
when the upgrade begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, flow, silence, since, write_back
from mcp_planner_schema.guard.back import Back
from mcp_planner_schema.guard.by_parents import Told
from mcp_planner_schema.guard.evidence import Table, name_of, rows_of
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute, literal
from mcp_planner_schema.guard.since import LARGE

if TYPE_CHECKING:
    from sqlalchemy import Connection

_COPIES = """
CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS SELECT {key} AS key FROM {place} AS c JOIN {live} AS l ON {was} = {now}
WHERE """
_MAY_READ = "SELECT pg_catalog.has_table_privilege(%s::oid, 'SELECT') AND NOT pg_catalog.row_security_active(%s::oid)"
_OWN = "l.xmin = {own}::pg_catalog.xid8::pg_catalog.xid"


def listed(connection: Connection, back: Back, sources: Sequence[Table]) -> None:
    """List the keys of kept rows whose copy stands in one of the ``sources`` as the downgrade has put it there.

    The tables are locked, and none that is too large is read. Makes a temporary table for each object that has some.
    """
    if back.stash.elsewhere or not since.may_list(connection):
        return
    put = [
        table
        for table in sources
        if write_back.size_of(connection, table) <= LARGE and _has_own(connection, back, table)
    ]
    for one in back.rows():
        if one.kind != "table" or not one.key or not back.newer(one) or (one.bytes or 0) > LARGE:
            continue
        for table in put:
            names = {column.name for column in table.columns.values() if not column.generated}
            both = sorted(names & set(one.columns))
            once = bool(table.key) and set(table.key) <= set(
                one.key
            )  # more than one row may be behind a kept one otherwise
            if not once or not set(one.key) < set(both):
                continue
            if _list(connection, back, one, table, both):
                back.carried[one.number] = table.oid
                break


def _has_own(connection: Connection, back: Back, table: Table) -> bool:
    """Whether a row of a table is as the downgrade has put it there, as far as this role may read it."""
    if not connection.exec_driver_sql(_MAY_READ, (table.oid,) * 2).scalar_one():
        return False
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        asked = f"SELECT EXISTS (SELECT FROM {rows_of(table)} AS l WHERE {_OWN.format(own=_own(back))})"
        return bool(execute(connection, asked).scalar_one())


def _own(back: Back) -> str:
    return literal(back.stash.xid.split()[0])


def _list(connection: Connection, back: Back, one: Object, table: Table, both: list[str]) -> bool:
    name = f"guard_carried_{one.number}"
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        execute(connection, f"DROP TABLE IF EXISTS pg_temp.{name}")
        made = (_COPIES + _OWN).format(
            name=name, key=checksum.row_hash(one.key, "c"), place=back.stash.place(one), live=rows_of(table),
            was=checksum.row_text(both, "c"), now=checksum.row_text(both, "l"), own=_own(back),
        )  # fmt: skip
        if not execute(connection, made).rowcount:
            return False
        execute(connection, f"CREATE INDEX ON pg_temp.{name} (key); ANALYZE pg_temp.{name}")
    return True


def told(connection: Connection, back: Back, one: Object, table: Table) -> Told | None:
    """Tell the upgrade's rows that are made of such copies, by their key; None where it has read other sources too, or the server
    has made the keys."""
    parts = flow.parts(connection, [back.carried[one.number]]) if one.number in back.carried else frozenset()
    read = (flow.into(connection, back.flow, table.oid) or frozenset()) & back.source_parts
    if not read or not read <= parts or table.oid in back.numbered or not write_back.keyed(one, table):
        return None
    name = f"pg_temp.guard_carried_{one.number}"
    if not execute(connection, f"SELECT pg_catalog.to_regclass({literal(name)}) IS NOT NULL").scalar_one():
        return None
    return Told(f"EXISTS (SELECT FROM {name} AS w WHERE w.key = {checksum.row_hash(one.key, 'l')})", "false")
