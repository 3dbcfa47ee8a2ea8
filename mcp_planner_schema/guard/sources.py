"""Whether what an upgrade writes can be what the downgrade had put elsewhere, and somebody has changed there since.

Such a row is newer than the kept one. A seed is not: what stands in the revision's own text is what it always was. Both look
alike, so it goes by the order: before the body has read one of the tables that were changed (``Back.sources``), it cannot have
moved anything of it. Counters are the transaction's, so each begins anew, with what is known by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_planner_schema.guard import reading
from mcp_planner_schema.guard.back import Back, Written, made
from mcp_planner_schema.guard.transaction import ELSEWHERE

if TYPE_CHECKING:
    from sqlalchemy import Connection

# TRUNCATE sets the counters to nothing, and gives the table another file.
_WRITTEN = """
SELECT c.oid::bigint, pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid) + pg_catalog.pg_stat_get_xact_tuples_updated(c.oid),
       c.relfilenode::bigint
FROM pg_catalog.pg_class c WHERE c.relkind = 'r' AND c.oid >= 16384
"""
_PARTS = "SELECT %(oid)s::bigint UNION SELECT relid::oid::bigint FROM pg_catalog.pg_partition_tree(%(oid)s::oid)"


def note(connection: Connection, back: Back) -> None:
    """Note what of the sources has been read by now, and what is written: whatever is read from here on, the body reads."""
    if back.sources and back.moves is None:
        back.reads = reading.begin(connection, back.sources)
        back.writes = _written(connection)


def look(connection: Connection, back: Back) -> None:
    """Where the body has read one of them since :func:`note`, what it wrote until then are seeds; the rest may be moved."""
    if back.reads and back.moves is None and reading.unread(connection, back.reads) != back.reads.keys():
        back.moves = back.writes


def go_on(connection: Connection, back: Back) -> None:
    """Another transaction of the body begins: what it had read before, it may still move."""
    if back.moves is not None:
        back.moves = _written(connection)
    note(connection, back)


def settle(connection: Connection, back: Back) -> None:
    """The body has ended, or commits: of the tables that it has made, note those that hold nothing but seeds so far."""
    if not back.reads:
        return
    look(connection, back)
    now, tables = _written(connection), made(connection, back)
    before = now if back.moves is None else back.moves
    for one, table in tables:
        if table.oid in connection.info.get(ELSEWHERE, ()):
            back.moved.add(one.number)
        parts = connection.exec_driver_sql(_PARTS, {"oid": table.oid}).scalars().all()
        if any(now[part] != before.get(part, (0, now[part][1])) for part in parts if part in now):
            back.moved.add(one.number)
    blind = bool(back.unwatched) or back.emptied or connection.exec_driver_sql("SHOW track_counts").scalar_one() != "on"
    back.seeded = set() if blind else {one.number for one, _ in tables} - back.moved


def _written(connection: Connection) -> Written:
    return {oid: (count or 0, file) for oid, count, file in connection.exec_driver_sql(_WRITTEN)}
