"""The trial: a downgrade is run once in a savepoint, and what it destroyed is read from the catalog by OID.

Whatever the body does (raw SQL, CASCADE, functions), the catalog afterwards shows it; nothing is guessed from the text. A
commit guard (a deferred constraint trigger that raises) keeps a COMMIT inside the body from making the trial final.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection

TRANSIENT = ("55P03", "40P01")
"""SQLSTATEs that mean "someone is in the way": lock_not_available and deadlock_detected."""

COMMIT_GUARD = """
CREATE TABLE IF NOT EXISTS {schema}.commit_guard (armed boolean NOT NULL);
CREATE OR REPLACE FUNCTION {schema}.refuse_commit() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  IF current_setting('mcp_planner_guard.open', true) IS DISTINCT FROM pg_current_xact_id()::text THEN
    RAISE EXCEPTION 'commit inside a downgrade step';
  END IF;
  RETURN NULL;
END $$;
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = '{schema}.commit_guard'::regclass AND tgname = 'refuse_commit') THEN
    CREATE CONSTRAINT TRIGGER refuse_commit AFTER INSERT ON {schema}.commit_guard
      DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {schema}.refuse_commit();
  END IF;
END $$;
COMMENT ON TABLE {schema}.commit_guard IS 'A row inserted here lets no COMMIT pass until the step says that it has ended';
"""

_ROLLBACK = re.compile(r"(^|;)\s*(ROLLBACK|ABORT)\b(?!\s+((WORK|TRANSACTION)\s+)?TO\b)", re.IGNORECASE)

_TABLES = """
SELECT c.oid, n.nspname, c.relname, c.relkind::text, coalesce(i.inhparent, 0), c.relispartition,
       array(SELECT a.attname::text FROM pg_catalog.pg_index x
             CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY AS k(attnum, place)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
             WHERE x.indrelid = c.oid AND x.indisprimary ORDER BY k.place)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND c.relispartition
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema' AND n.nspname <> %s
"""

_COLUMNS = """
SELECT a.attrelid, a.attnum, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
       t.typnamespace = 'pg_catalog'::regnamespace AND coalesce(e.typnamespace, t.typnamespace) = 'pg_catalog'::regnamespace
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typelem <> 0
WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""


@dataclass(frozen=True)
class Column:
    """A column as the catalog has it. ``builtin``: its type belongs to PostgreSQL and cannot be dropped with CASCADE."""

    name: str
    type: str
    builtin: bool


@dataclass(frozen=True)
class Table:
    """A table as the catalog has it; ``key`` are the columns of its primary key, ``parent`` the partitioned table's OID."""

    oid: int
    schema: str
    name: str
    kind: str
    parent: int
    key: tuple[str, ...]
    columns: dict[int, Column]

    @property
    def shown(self) -> str:
        """The name as people write it: with its schema only where that is not public."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Loss:
    """What a downgrade destroys of one table: the whole of it (``columns`` empty) or some columns."""

    table: Table
    columns: tuple[Column, ...] = ()

    def __str__(self) -> str:
        if not self.columns:
            return f"table {self.table.shown}"
        return ", ".join(f"column {self.table.shown}.{column.name}" for column in self.columns)


@dataclass
class Trial:
    """The outcome: what would be lost, and whether the body wanted to commit in between (``autocommit_block``)."""

    losses: tuple[Loss, ...] = ()
    commits: bool = False


class CommitInside(Exception):
    """The body committed, or failed; the trial proves nothing. The transaction is over and nothing was changed."""


def snapshot(connection: Connection, schema: str) -> dict[int, Table]:
    """Every ordinary and partitioned table with its columns, by OID. ``schema`` (the guard's own) is left out."""
    tables: dict[int, Table] = {}
    for oid, namespace, name, kind, parent, _, key in connection.exec_driver_sql(_TABLES, (schema,)):
        tables[oid] = Table(oid, namespace, name, kind, parent, tuple(key), {})
    for oid, number, name, type_, builtin in connection.exec_driver_sql(_COLUMNS, (list(tables),)):
        tables[oid].columns[number] = Column(name, type_, builtin)
    return tables


def losses(before: dict[int, Table], after: dict[int, Table]) -> tuple[Loss, ...]:
    """What of ``before`` is gone in ``after``, in OID order. Partitions count with their parent where that is gone too."""
    found = []
    for oid, table in sorted(before.items()):
        left = after.get(oid)
        if left is None:
            if table.parent not in before or table.parent in after:
                found.append(Loss(table))
        elif table.parent == 0 or table.parent not in after:
            gone = tuple(column for number, column in table.columns.items() if number not in left.columns)
            if gone:
                found.append(Loss(table, gone))
    return tuple(found)


def attempt(context: MigrationContext, schema: str, body: Callable[[], Any]) -> Trial:
    """Run ``body`` in a savepoint, read what it destroyed, and undo it.

    Raises :class:`CommitInside` where the body cannot be undone (the whole transaction is then aborted, nothing done);
    lets lock failures through, so that the step is tried again.
    """
    from sqlalchemy.exc import DBAPIError

    connection = context.connection
    assert connection is not None
    before = snapshot(connection, schema)
    outcome = Trial()
    connection.exec_driver_sql("SAVEPOINT guard_trial")
    try:
        arm(connection, schema)
        with _inert(context, outcome):
            body()
        outcome.losses = losses(before, snapshot(connection, schema))
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_trial")
        connection.exec_driver_sql("RELEASE SAVEPOINT guard_trial")
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) in TRANSIENT:
            raise
        raise CommitInside(str(error.orig).strip().split("\n")[0]) from error
    return outcome


def refuse_rollback(cursor: Any, statement: str) -> None:
    """Raise :class:`CommitInside` for a ROLLBACK, or after one: it ends the transaction without the commit guard noticing.

    psycopg2 believes it is still in a transaction then and sends no BEGIN, so every later statement would be final.
    """
    from psycopg2.extensions import TRANSACTION_STATUS_IDLE

    ended = cursor.connection.info.transaction_status == TRANSACTION_STATUS_IDLE
    if ended or _ROLLBACK.search(statement):
        raise CommitInside("the body rolls its transaction back")


def arm(connection: Connection, schema: str) -> None:
    """From here on a COMMIT fails, until :func:`disarm` or a rollback to a savepoint before."""
    connection.exec_driver_sql(f"INSERT INTO {schema}.commit_guard VALUES (true)")


def disarm(connection: Connection, schema: str) -> None:
    """Let this transaction's COMMIT pass, and take the guard's row away again."""
    connection.exec_driver_sql(
        "SELECT set_config('mcp_planner_guard.open', pg_current_xact_id()::text, true);"
        f"DELETE FROM {schema}.commit_guard"
    )


@contextmanager
def no_rollback(connection: Connection) -> Iterator[None]:
    """While inside, a ROLLBACK in the body raises :class:`CommitInside` before it is sent."""
    from sqlalchemy import event

    mine = connection.connection.dbapi_connection

    def before(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if cursor.connection is mine:
            refuse_rollback(cursor, statement)

    event.listen(connection.engine, "before_cursor_execute", before)
    try:
        yield
    finally:
        event.remove(connection.engine, "before_cursor_execute", before)


@contextmanager
def _inert(context: MigrationContext, outcome: Trial) -> Iterator[None]:
    """While inside, ``autocommit_block()`` commits nothing and CONCURRENTLY is left out, so that the body can be tried."""
    from sqlalchemy import event

    assert context.connection is not None

    @contextmanager
    def block() -> Iterator[None]:
        outcome.commits = True
        yield

    mine = context.connection.connection.dbapi_connection

    def plain(conn: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        if cursor.connection is not mine:  # the lock's and the watcher's connections are of the same engine
            return statement, parameters
        refuse_rollback(cursor, statement)
        if outcome.commits:
            statement = re.sub(r"\bCONCURRENTLY\b\s*", "", statement, flags=re.IGNORECASE)
        return statement, parameters

    context.autocommit_block = block  # type: ignore[method-assign]
    event.listen(context.connection.engine, "before_cursor_execute", plain, retval=True)
    try:
        yield
    finally:
        event.remove(context.connection.engine, "before_cursor_execute", plain)
        del context.autocommit_block  # the class's own shows again
