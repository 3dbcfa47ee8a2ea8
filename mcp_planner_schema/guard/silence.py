"""Puts a table's triggers and rules to sleep while kept rows go back in, each by itself, and wakes each as it was.

``DISABLE TRIGGER USER`` is the owner's right and leaves foreign keys in force; ``ENABLE TRIGGER USER`` would turn a trigger
that was ENABLE ALWAYS into an ordinary one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, identifier, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

# The triggers of a partitioned table have a twin in each partition, with a state of its own.
_AWAKE = """
WITH tables AS (SELECT r.oid, pg_catalog.quote_ident(n.nspname::text) || '.' || pg_catalog.quote_ident(r.relname::text) AS name
  FROM (SELECT %(oid)s::oid UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(%(oid)s::oid)) AS t (oid)
  JOIN pg_catalog.pg_class r USING (oid) JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace)
SELECT t.name, 'TRIGGER', g.tgname::text, g.tgenabled::text FROM tables t JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.oid
WHERE NOT g.tgisinternal AND g.tgenabled <> 'D'
UNION ALL
SELECT t.name, 'RULE', w.rulename::text, w.ev_enabled::text FROM tables t JOIN pg_catalog.pg_rewrite w ON w.ev_class = t.oid
WHERE w.ev_enabled <> 'D' AND w.ev_type <> '1'
ORDER BY 1, 2, 3
"""
# Those that a new transaction begins with deferred, and no others. Not to be named: what lies in a schema that the role may
# not use, and a name that another table has for a constraint that cannot be deferred.
_DEFERRED = """
SELECT pg_catalog.string_agg(name, ', ') FROM (
  SELECT pg_catalog.format('%I.%I', n.nspname, k.conname) FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_namespace n ON n.oid = k.connamespace
  WHERE pg_catalog.has_schema_privilege(n.oid, 'USAGE') GROUP BY n.nspname, k.conname
  HAVING pg_catalog.bool_and(k.condeferrable) AND pg_catalog.bool_or(k.condeferred)) AS said (name)
"""
_LATER = "mcp_planner_guard.loops"  # in connection.info while the references of a circle wait for its end
_WAKE = {"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}
_LOOPS = """
WITH these AS MATERIALIZED (
  SELECT u.oid FROM pg_catalog.unnest(%(oids)s::oid[]) AS u (oid)
  UNION SELECT t.relid::oid FROM pg_catalog.unnest(%(oids)s::oid[]) AS u (oid)
        CROSS JOIN LATERAL pg_catalog.pg_partition_tree(u.oid::pg_catalog.regclass) AS t)
SELECT k.conrelid::pg_catalog.regclass::text, pg_catalog.quote_ident(k.conname::text), k.condeferrable, k.condeferred
FROM pg_catalog.pg_constraint k
WHERE k.contype = 'f' AND k.conrelid IN (SELECT oid FROM these) AND k.confrelid IN (SELECT oid FROM these)
  AND k.conparentid = 0 AND NOT (k.condeferrable AND k.condeferred)
ORDER BY 1, 2
"""
# Each constraint of a table, and of keys that refer to it, which may wait; and those that do so as a transaction begins, but for
# one that shares its name with another which may not.
_DEFERRABLE = """
SELECT pg_catalog.string_agg(k.name, ', '), pg_catalog.string_agg(k.name, ', ') FILTER (WHERE k.condeferred)
FROM (SELECT DISTINCT pg_catalog.quote_ident(n.nspname::text) || '.' || pg_catalog.quote_ident(k.conname::text) AS name,
             k.condeferred AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_constraint o
               WHERE o.connamespace = k.connamespace AND o.conname = k.conname AND NOT o.condeferrable) AS condeferred
      FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_constraint k ON k.oid = t.tgconstraint
      JOIN pg_catalog.pg_namespace n ON n.oid = k.connamespace
      WHERE k.condeferrable AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND t.tgrelid IN (
        SELECT %(oid)s::oid UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(%(oid)s::oid))) AS k
"""
_SUPER = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
_MAY_SET = "SELECT pg_catalog.has_parameter_privilege('session_replication_role', 'SET')"  # from 15 on
OWNED = "SELECT pg_catalog.pg_has_role(relowner, 'USAGE') FROM pg_catalog.pg_class WHERE oid = %s"
_FORCED = "SELECT relforcerowsecurity AND pg_catalog.row_security_active(oid) FROM pg_catalog.pg_class WHERE oid = %s"


def awake(connection: Connection, oid: int) -> list[Any]:
    """The table's triggers that are in force: table (quoted), kind, name, state."""
    return [one for one in connection.exec_driver_sql(_AWAKE, {"oid": oid}) if one[1] == "TRIGGER"]


def may(connection: Connection, oid: int) -> bool:
    """Whether the role may put the table's triggers and rules to sleep, if there are any: its owner may."""
    if connection.exec_driver_sql(OWNED, (oid,)).scalar_one():
        return True
    with pinned(connection, search_path=SYSTEM_PATH):
        return not connection.exec_driver_sql(_AWAKE, {"oid": oid}).all()


def ready(connection: Connection, oid: int) -> None:
    """Check what is deferred before a table is silenced, under the body's own settings: its triggers may go by these."""
    with pinned(connection, search_path=SYSTEM_PATH):
        found = connection.exec_driver_sql(_AWAKE, {"oid": oid}).all()
    if found or connection.exec_driver_sql(_FORCED, (oid,)).scalar_one():
        flush(connection)


def asleep(found: Iterable[Any]) -> list[str]:
    """The statements that put these triggers (or rules) to sleep."""
    return [f"ALTER TABLE ONLY {table} DISABLE {kind} {identifier(one)}" for table, kind, one, _ in found]


def awakened(found: Iterable[Any]) -> list[str]:
    """The statements that wake them as they were."""
    return [f"ALTER TABLE ONLY {table} {_WAKE[state]} {kind} {identifier(one)}" for table, kind, one, state in found]


@contextmanager
def of_table(connection: Connection, oid: int, name: str) -> Iterator[None]:
    """While inside, no trigger, rule or row level security of the table (``name`` quoted) is in force; foreign keys are.

    Takes SHARE ROW EXCLUSIVE on the table. Deferred constraints are checked at its end: PostgreSQL alters no table with
    checks pending. After an exception nothing is put back: the savepoint around it is rolled back then.
    """
    with unveiled(connection, oid, name), _enforced(connection):
        with pinned(connection, search_path=SYSTEM_PATH):
            found = connection.exec_driver_sql(_AWAKE, {"oid": oid}).all()
        if found:
            flush(connection)  # of the body's own
        for statement in asleep(found):
            execute(connection, statement)
        yield
        if found:
            flush(connection)
        for statement in awakened(found):
            execute(connection, statement)


@contextmanager
def _enforced(connection: Connection) -> Iterator[None]:
    """While inside, foreign keys hold though the body has made the session a replica's, for which no trigger fires."""
    replica = execute(
        connection, "SELECT pg_catalog.current_setting('session_replication_role') = 'replica'"
    ).scalar_one()
    asked = _MAY_SET if (connection.dialect.server_version_info or ()) >= (15,) else _SUPER
    if replica and execute(connection, asked).scalar_one():
        with pinned(connection, session_replication_role="origin"):
            yield
    else:
        yield


def waits(connection: Connection) -> bool:
    """Whether the references of a circle wait for its end: none of them is an error before."""
    return _LATER in connection.info


def flush(connection: Connection) -> None:
    """Check what is deferred now, and let each constraint be deferred or not as a transaction begins with it.

    PostgreSQL alters no table and makes no index while checks are pending. Not while a circle's references wait.
    """
    if _LATER in connection.info:
        return
    execute(connection, "SET CONSTRAINTS ALL IMMEDIATE")
    deferred = execute(connection, _DEFERRED).scalar_one()
    if deferred:
        execute(connection, f"SET CONSTRAINTS {deferred} DEFERRED")


@contextmanager
def unveiled(connection: Connection, oid: int, name: str) -> Iterator[None]:
    """While inside, the table's owner sees every row of it (``name`` quoted). Where a rule has to be lifted for that, what is
    deferred is checked before, and at its end.

    After an exception nothing is put back, see :func:`of_table`.
    """
    forced: bool = connection.exec_driver_sql(_FORCED, (oid,)).scalar_one()
    if forced:
        _settle(connection, oid)
        execute(connection, f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY")
    yield
    if forced:
        _settle(connection, oid)
        execute(connection, f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")


def _settle(connection: Connection, oid: int) -> None:
    """Check what is deferred of one table now: its own and what refers to it. The guard against a COMMIT is none of these."""
    if _LATER in connection.info:
        return
    names, deferred = connection.exec_driver_sql(_DEFERRABLE, {"oid": oid}).one()
    if names:
        execute(connection, f"SET CONSTRAINTS {names} IMMEDIATE")
    if deferred:
        execute(connection, f"SET CONSTRAINTS {deferred} DEFERRED")


@contextmanager
def loops(connection: Connection, oids: Sequence[int]) -> Iterator[None]:
    """While inside, foreign keys between these tables are checked at the end, so that their rows may come in any order."""
    found = connection.exec_driver_sql(_LOOPS, {"oids": list(oids)}).all()
    for table, name, _, _ in found:
        execute(connection, f"ALTER TABLE {table} ALTER CONSTRAINT {name} DEFERRABLE INITIALLY DEFERRED")
    if found:
        execute(connection, "SET CONSTRAINTS ALL DEFERRED")
    if _LATER in connection.info:  # around others that wait: these wait with them
        yield
        connection.info[_LATER] += found
        return
    connection.info[_LATER] = found
    try:
        yield
    finally:
        del connection.info[_LATER]
    flush(connection)
    for table, name, deferrable, _ in found:
        to = "DEFERRABLE INITIALLY IMMEDIATE" if deferrable else "NOT DEFERRABLE"
        execute(connection, f"ALTER TABLE {table} ALTER CONSTRAINT {name} {to}")
