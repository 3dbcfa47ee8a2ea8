"""The trial: a downgrade is run once in a savepoint, and what it destroyed is read from the catalog by OID.

Whatever the body does (raw SQL, CASCADE, functions), the catalog afterwards shows it; nothing is guessed from the text. A
commit guard (a deferred constraint trigger that raises) keeps a COMMIT inside the body from making the trial final, and
:mod:`.tripwire` a ROLLBACK. The real run is then held to what its trial destroyed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import tripwire
from mcp_planner_schema.guard.postcheck import pinned

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection

CommitInside = tripwire.CommitInside
TRANSIENT = ("55P03", "40P01")
"""SQLSTATEs that mean "someone is in the way": lock_not_available and deadlock_detected."""

KEPT = "mcp_planner_guard.kept"
"""Where :func:`stash.keep` leaves a :class:`Kept` for :func:`disarm`, in ``connection.info``."""

# The SQLSTATE is the one PostgreSQL itself uses for a COMMIT where none may be.
COMMIT_GUARD = """
CREATE TABLE IF NOT EXISTS {schema}.commit_guard (armed boolean NOT NULL);
CREATE OR REPLACE FUNCTION {schema}.refuse_commit() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  IF current_setting('mcp_planner_guard.open', true) IS DISTINCT FROM pg_current_xact_id()::text THEN
    RAISE EXCEPTION 'the body commits (or says SET CONSTRAINTS ALL IMMEDIATE)' USING ERRCODE = '2D000';
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

_TABLES = """
SELECT c.oid, n.nspname, c.relname, c.relkind::text, coalesce(i.inhparent, 0), c.relforcerowsecurity,
       array(SELECT a.attname::text FROM pg_catalog.pg_index x
             CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY AS k(attnum, place)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
             WHERE x.indrelid = c.oid AND x.indisprimary AND k.place <= x.indnkeyatts ORDER BY k.place)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND c.relispartition
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND left(n.nspname, 3) <> 'pg_' AND n.nspname <> 'information_schema' AND n.nspname <> %s
"""

# Below 16384 are the types and collations that PostgreSQL itself brings; none of them can be dropped.
_COLUMNS = """
SELECT a.attrelid, a.attnum, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
       a.atttypid < 16384 AND a.attcollation < 16384
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

_OWN = """
SELECT c.oid, c.relname, array(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                               WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind = 'r'
"""


@dataclass(frozen=True)
class Column:
    """A column as the catalog has it. ``builtin``: its type and collation are PostgreSQL's own and cannot be dropped."""

    name: str
    type: str
    builtin: bool


@dataclass(frozen=True)
class Table:
    """A table as the catalog has it; ``key`` are the columns of its primary key, ``parent`` the partitioned table's OID.

    ``forced``: its row level security holds for its owner too. Types are shown with their schema unless PostgreSQL's own.
    """

    oid: int
    schema: str
    name: str
    kind: str
    parent: int
    forced: bool
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


@dataclass(frozen=True)
class Kept:
    """What the real run is held to: the tables as they stood under the locks, what may go, and the copies' columns."""

    before: dict[int, Table]
    losses: tuple[Loss, ...]
    copies: Mapping[str, list[str]]


def snapshot(connection: Connection, schema: str) -> dict[int, Table]:
    """Every ordinary and partitioned table with its columns, by OID. ``schema`` (the guard's own) is left out."""
    tables: dict[int, Table] = {}
    with pinned(connection, search_path="pg_catalog"):
        for oid, namespace, name, kind, parent, forced, key in connection.exec_driver_sql(_TABLES, (schema,)):
            tables[oid] = Table(oid, namespace, name, kind, parent, forced, tuple(key), {})
        for oid, number, name, type_, builtin in connection.exec_driver_sql(_COLUMNS, (list(tables),)):
            tables[oid].columns[number] = Column(name, type_, builtin)
    return tables


def losses(before: dict[int, Table], after: dict[int, Table]) -> tuple[Loss, ...]:
    """What of ``before`` is gone in ``after``, in OID order. A partition counts with its parent where that loses the same."""
    gone = {oid: _gone(table, after.get(oid)) for oid, table in before.items()}

    def with_parent(table: Table) -> bool:
        lost = gone.get(table.parent)
        if lost is None:
            return False
        if table.parent not in after:
            return table.oid not in after  # detached first, it has lost its columns by itself
        return table.oid in after and {column.name for column in gone[table.oid] or ()} <= {
            column.name for column in lost
        }

    return tuple(
        Loss(before[oid], lost if oid in after else ())
        for oid, lost in sorted(gone.items())
        if lost is not None and not with_parent(before[oid])
    )


def _gone(table: Table, left: Table | None) -> tuple[Column, ...] | None:
    """The columns that went; None when nothing did. A table that went is said by its absence in ``after``."""
    if left is None:
        return ()
    return tuple(column for number, column in table.columns.items() if number not in left.columns) or None


def attempt(context: MigrationContext, schema: str, body: Callable[[], Any]) -> Trial:
    """Run ``body`` in a savepoint, read what it destroyed, and undo it.

    Raises :class:`CommitInside` where the body ends its transaction or cannot run inside one, or touches what the guard
    keeps (the whole transaction is then over, nothing done); lets every other failure of the body through.
    """
    connection = context.connection
    assert connection is not None
    outcome = Trial()
    before, own = snapshot(connection, schema), _own(connection, schema)
    connection.exec_driver_sql("SAVEPOINT guard_trial")
    try:
        arm(connection, schema)
        with _inert(context, outcome):
            body()
            outcome.losses = losses(before, snapshot(connection, schema))
            dropped = sorted(set(own) - set(_own(connection, schema)))
        if dropped:
            raise CommitInside(f"it drops what the guard keeps: {schema}.{f', {schema}.'.join(dropped)}")
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_trial")
        connection.exec_driver_sql("RELEASE SAVEPOINT guard_trial")
    except CommitInside:
        raise
    except Exception as error:
        reason = _untriable(connection, schema, error)
        if reason is None:
            raise
        raise CommitInside(reason) from error
    return outcome


def _untriable(connection: Connection, schema: str, error: Exception) -> str | None:
    """Why an error means that the body cannot be tried, rather than that it is wrong."""
    original = getattr(error, "orig", None) or error
    code = getattr(original, "pgcode", None) or ""
    said = str(original).strip().split("\n")[0]
    if f"{schema}.commit_guard" in said or '"commit_guard"' in said:
        return f"it drops what the guard keeps: {schema}.commit_guard"
    if code[:2] in ("25", "2D"):  # invalid transaction state, invalid transaction termination
        return said
    return "the body ends its transaction" if tripwire.ended(connection) else None


def arm(connection: Connection, schema: str) -> None:
    """From here on a COMMIT fails, until :func:`disarm` or a rollback to a savepoint before."""
    connection.exec_driver_sql(f"INSERT INTO {schema}.commit_guard VALUES (true)")


def disarm(connection: Connection, schema: str) -> None:
    """Let this transaction's COMMIT pass, after proof that nothing is gone but what was kept, and all of that is there.

    Raises :class:`CommitInside` otherwise: the transaction must then be rolled back.
    """
    kept: Kept | None = connection.info.pop(KEPT, None)
    if kept is not None:
        _prove(connection, schema, kept)
    connection.exec_driver_sql(
        "SELECT pg_catalog.set_config('mcp_planner_guard.open', pg_catalog.pg_current_xact_id()::text, true);"
        f"DELETE FROM {schema}.commit_guard"
    )


def _prove(connection: Connection, schema: str, kept: Kept) -> None:
    allowed = {loss.table.oid: loss for loss in kept.losses}
    for loss in losses(kept.before, snapshot(connection, schema)):
        known = allowed.get(loss.table.oid)
        if known is None or (known.columns and not (loss.columns and set(loss.columns) <= set(known.columns))):
            raise CommitInside(f"run for real it destroys more than in its trial: {loss}")
    copies = _own(connection, schema)
    for name, columns in kept.copies.items():
        if copies.get(name) != columns:
            raise CommitInside(f"it destroys what was kept in {schema}.{name}")


def _own(connection: Connection, schema: str) -> dict[str, list[str]]:
    """The guard's own tables, the copies among them, with their columns."""
    return {row[1]: row[2] for row in connection.exec_driver_sql(_OWN, (schema,))}


@contextmanager
def no_rollback(connection: Connection) -> Iterator[None]:
    """While inside, a ROLLBACK in the body raises :class:`CommitInside` before it is sent."""
    with tripwire.set_on(connection):
        yield


@contextmanager
def _inert(context: MigrationContext, outcome: Trial) -> Iterator[None]:
    """While inside, ``autocommit_block()`` commits nothing and CONCURRENTLY is left out, so that the body can be tried."""

    @contextmanager
    def block() -> Iterator[None]:
        outcome.commits = True
        with tripwire.set_on(context.connection, plain=True):
            yield

    context.autocommit_block = block  # type: ignore[method-assign]
    try:
        with tripwire.set_on(context.connection):
            yield
    finally:
        del context.autocommit_block  # the class's own shows again
