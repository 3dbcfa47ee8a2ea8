"""Locks on several tables are taken in one order, the hottest table last: then nobody waits for what nobody needs yet.

Two sessions that take the same locks in different orders wait for each other, until the server ends one of them. A body
takes them as its statements come; where it is known which tables it needs, they are locked before it begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import transaction
from mcp_planner_schema.guard.postcheck import execute, identifier

if TYPE_CHECKING:
    from sqlalchemy import Connection

STRONG = {
    "ShareLock": "SHARE",
    "ShareRowExclusiveLock": "SHARE ROW EXCLUSIVE",
    "ExclusiveLock": "EXCLUSIVE",
    "AccessExclusiveLock": "ACCESS EXCLUSIVE",
}
"""As pg_locks calls the modes that stop readers or writers, and as LOCK TABLE does; the weakest first."""

# How hot a table is the server counts itself. A lock may be asked for only by who may write: what this role cannot lock so, it
# will lock as its statements do.
_ORDERED = """
SELECT w.place, n.nspname::text, c.relname::text
FROM pg_catalog.unnest(%(tables)s::text[]) WITH ORDINALITY AS w (name, place)
JOIN pg_catalog.pg_class c ON c.relkind IN ('r', 'p')
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND pg_catalog.concat(n.nspname, '.', c.relname) = w.name
LEFT JOIN pg_catalog.pg_stat_user_tables s ON s.relid = c.oid
WHERE pg_catalog.has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE')
ORDER BY coalesce(s.seq_scan, 0) + coalesce(s.idx_scan, 0) + coalesce(s.n_tup_ins, 0) + coalesce(s.n_tup_upd, 0)
  + coalesce(s.n_tup_del, 0), c.oid
"""


_LOCKABLE = """
SELECT c.oid::bigint FROM pg_catalog.pg_class c
WHERE c.oid = ANY (%s::oid[]) AND pg_catalog.has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE')
"""


def lockable(connection: Connection, oids: Iterable[int]) -> set[int]:
    """Those of these tables that the role may lock against writers."""
    return set(connection.exec_driver_sql(_LOCKABLE, (list(oids),)).scalars())


def stronger(*found: Mapping[str, str]) -> dict[str, str]:
    """All these locks by table, the strongest mode of each: to take a weaker one first and raise it is to meet a deadlock."""
    order = {mode: place for place, mode in enumerate(STRONG.values(), 1)}
    locks: dict[str, str] = {}
    for name, mode in (pair for one in found for pair in one.items()):
        if order.get(mode, 0) >= order.get(locks.get(name, ""), 0):
            locks[name] = mode
    return locks


# Reading and writing rows takes no strong lock, nor does a comment.
_NEEDS_NONE = re.compile(
    r"\s*(SELECT|WITH|VALUES|TABLE|INSERT|UPDATE|DELETE|MERGE|COPY|EXPLAIN|SHOW|SET|RESET|COMMENT|SAVEPOINT|RELEASE|ROLLBACK)\b",
    re.IGNORECASE,
)


@contextmanager
def before_needed(connection: Connection, wanted: Mapping[str, str]) -> Iterator[None]:
    """While inside, these locks are taken as :func:`take` does, right before the first statement that needs one of them.

    That is one that names one of the tables and does more than read or write rows: so nothing is held while a body does what
    comes before. What a function locks on the quiet is not seen, and locked when it comes.
    """
    from sqlalchemy import event

    names = [identifier(name.partition(".")[2])[1:-1] for name, mode in wanted.items() if _strong(mode)]
    if len(names) < 2:
        yield
        return
    named = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)", re.IGNORECASE)
    engine, mine = connection.engine, connection.connection.dbapi_connection
    taken = False

    def before(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal taken
        if taken or cursor.connection is not mine or transaction.OWN in conn.info or _NEEDS_NONE.match(statement):
            return
        if named.search(statement):
            taken = True
            take(connection, wanted)

    # The first to be asked: what the statement itself is told of the time left then counts what was waited here.
    event.listen(engine, "before_cursor_execute", before, insert=True)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", before)


def _strong(mode: str) -> bool:
    return mode in STRONG.values()


def take(connection: Connection, wanted: Mapping[str, str]) -> None:
    """Lock these tables (``schema.name``) in these modes (as LOCK TABLE calls them) until the transaction ends.

    Two round trips; nothing where it is one table: that has no order. Raises what the server says of a lock it does not give.
    """
    strong = {name: mode for name, mode in wanted.items() if _strong(mode)}
    if len(strong) < 2:
        return
    modes = list(strong.values())
    rows = connection.exec_driver_sql(_ORDERED, {"tables": list(strong)}).all()
    if len(rows) > 1:
        execute(connection, "; ".join(
            f"LOCK TABLE ONLY {identifier(schema)}.{identifier(name)} IN {modes[place - 1]} MODE"
            for place, schema, name in rows
        ))  # fmt: skip
