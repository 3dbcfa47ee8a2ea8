"""Whether what an upgrade writes can be what the downgrade had put elsewhere, and somebody has changed there since.

Such a row is newer than the kept one. A seed is not: what stands in the revision's own text is what it always was. Both look
alike, so it goes by what the server has counted (:mod:`.flow`): what never came near one of the tables that were changed
(``Back.sources``) holds nothing of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import flow, sequences
from mcp_planner_schema.guard.back import Back, made
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.transaction import ELSEWHERE

if TYPE_CHECKING:
    from sqlalchemy import Connection

# The sequences that give columns of a table their values, and the table that this is a partition of; whether the transaction has
# taken a value of it, or made it.
_SEQUENCES = """
SELECT DISTINCT t.root::bigint, coalesce(s.oid, 0)::bigint,
       EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation'
               AND l.relation = s.oid AND l.mode IN ('RowExclusiveLock', 'AccessExclusiveLock'))
FROM (SELECT u.oid, coalesce(pg_catalog.pg_partition_root(u.oid::pg_catalog.regclass)::oid, u.oid) AS root
      FROM pg_catalog.unnest(%s::oid[]) AS u (oid)) AS t
LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid IN (t.oid, t.root)
LEFT JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
  AND ((d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = f.oid)
       OR (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid IN (t.oid, t.root) AND d.refobjsubid > 0))
LEFT JOIN pg_catalog.pg_class s ON s.relkind = 'S'
  AND s.oid = CASE WHEN d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass THEN d.objid ELSE d.refobjid END
"""


def begin(connection: Connection, back: Back) -> None:
    """A transaction of the body begins. What the sources are made of may be another by its end."""
    if wanted(back):
        back.source_parts |= flow.parts(connection, back.sources)
        flow.begin(connection, back.flow)


def note(connection: Connection, back: Back) -> None:
    """What was read and written until now, the guard has done."""
    if wanted(back) and not _failed(connection):
        flow.note(connection, back.flow)


def look(connection: Connection, back: Back, *, handed: bool = True, builds: bool = False, sets: bool = False,
    several: bool = False,
) -> None:  # fmt: skip
    """The body has sent a statement, or has read by a cursor. ``handed``: it has got rows of it;
    ``builds``: it builds only. ``sets``: it sets a sequence, so that the keys beside it are carried along.
    ``several``: see :func:`.flow.look`.

    A table that was written to for the first time, or anew, and whose sequence was not asked for a value by then, gets its keys
    from the body itself.
    """
    if not wanted(back) or _failed(connection):
        return
    first, written = flow.look(connection, back.flow, back.already, handed=handed, builds=builds, several=several)
    back.wrote.update(written)
    anew = [oid for oid in first if oid not in back.already]
    if not anew:
        return
    found = connection.exec_driver_sql(_SEQUENCES, (anew,)).all()
    stands = sequences.named(connection, back.schema, [oid for _, oid, _ in found])
    numbered = {root for root, oid, asked in found if asked and oid in stands and stands[oid].is_called and not sets}
    back.numbered |= numbered - back.unasked
    back.unasked |= {root for root, oid, _ in found if oid in stands} - back.numbered


def settle(connection: Connection, back: Back) -> None:
    """The body has ended, or commits: of the tables that it has made, note those that hold nothing but seeds so far."""
    if not back.sources:
        return
    look(connection, back)
    back.vague |= back.wrote  # by no statement that was seen
    blind = bool(back.unwatched) or back.emptied or connection.exec_driver_sql("SHOW track_counts").scalar_one() != "on"
    back.seeded = set()
    for one, table in made(connection, back) if not blind else ():
        if table.oid in connection.info.get(ELSEWHERE, ()):
            continue
        if not may_be_in(connection, back, table):
            back.seeded.add(one.number)


def may_be_in(connection: Connection, back: Back, table: Table) -> bool:
    """Whether something of the sources may be in a table: the body has read one with what it has written there."""
    into = flow.into(connection, back.flow, table.oid) or frozenset()
    return bool(back.unwatched) or not into.isdisjoint(back.source_parts)


def read(back: Back) -> bool:
    """Whether the body has read one of them, or nobody knows."""
    return bool(back.unwatched) or not back.flow.read.isdisjoint(back.source_parts)


def wanted(back: Back) -> bool:
    """Whether anybody will ask: of what was only changed there is nothing to tell."""
    return bool(back.sources or back.keys or back.stood) or any(one.kind == "table" for one in back.rows())


def _failed(connection: Connection) -> bool:
    """Whether a statement has failed and the body goes on, to a savepoint for instance."""
    from psycopg2.extensions import TRANSACTION_STATUS_INERROR

    driver: Any = connection.connection.dbapi_connection
    return bool(driver.info.transaction_status == TRANSACTION_STATUS_INERROR)
