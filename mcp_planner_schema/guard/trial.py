"""The trial: a downgrade is run once in a savepoint, and what it destroyed is read from the catalog by OID.

Whatever the body does (raw SQL, CASCADE, functions), the catalog afterwards shows it; nothing is guessed from the text. A
commit guard (a deferred constraint trigger that raises) keeps a COMMIT inside the body from making the trial final, and
:mod:`.tripwire` a ROLLBACK. The real run is then held to what its trial destroyed, and to the rows it changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import damage, tripwire
from mcp_planner_schema.guard.evidence import Loss, Table, beside, losses, snapshot, taken_along

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection

CommitInside = tripwire.CommitInside
TRANSIENT = ("55P03", "40P01")
"""SQLSTATEs that mean "someone is in the way": lock_not_available and deadlock_detected."""

TRIED, KEPT = "mcp_planner_guard.tried", "mcp_planner_guard.kept"
"""Where :func:`attempt` leaves its :class:`Trial` for :func:`stash.keep`, and that a :class:`Kept` for :func:`disarm`: in
``connection.info``."""

# The SQLSTATE is the one PostgreSQL itself uses for a COMMIT where none may be.
COMMIT_GUARD = """
CREATE TABLE IF NOT EXISTS {schema}.commit_guard (armed boolean NOT NULL);
CREATE OR REPLACE FUNCTION {schema}.refuse_commit() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  IF pg_catalog.current_setting('mcp_planner_guard.open', true) IS DISTINCT FROM pg_catalog.pg_current_xact_id()::text THEN
    RAISE EXCEPTION 'the body commits (or says SET CONSTRAINTS ALL IMMEDIATE)' USING ERRCODE = '2D000';
  END IF;
  RETURN NULL;
END $$;
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgname = 'refuse_commit'
                 AND tgrelid = '{schema}.commit_guard'::pg_catalog.regclass::pg_catalog.oid) THEN
    CREATE CONSTRAINT TRIGGER refuse_commit AFTER INSERT ON {schema}.commit_guard
      DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {schema}.refuse_commit();
  END IF;
END $$;
COMMENT ON TABLE {schema}.commit_guard IS 'A row inserted here lets no COMMIT pass until the step says that it has ended';
"""

_OWN = """
SELECT c.oid, c.relname, array(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
                               WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind = 'r'
"""


@dataclass
class Trial:
    """The outcome: what would be lost, whose rows would be harmed, whether the body wanted to commit in between.

    ``also`` is what goes along with the losses, as people call it. ``rewritten`` are the tables that got a new file,
    ``empty`` those of them that had no row to lose.
    """

    losses: tuple[Loss, ...] = ()
    commits: bool = False
    harms: tuple[damage.Harm, ...] = ()
    also: tuple[str, ...] = ()
    rewritten: frozenset[int] = frozenset()
    version_table: int = 0
    empty: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Kept:
    """What the real run is held to: the tables as they stood under the locks, what may go, and the copies' columns.

    ``states`` are the tables' files and counters at that time, ``harmed`` the tables whose rows may change all the same.
    """

    before: dict[int, Table]
    losses: tuple[Loss, ...]
    copies: Mapping[str, list[str]]
    states: dict[int, damage.State]
    harmed: frozenset[int]


def attempt(context: MigrationContext, schema: str, body: Callable[[], Any]) -> Trial:
    """Run ``body`` in a savepoint, read what it destroyed, and undo it.

    Raises :class:`CommitInside` where the body ends its transaction or cannot run inside one, or touches what the guard
    keeps (the whole transaction is then over, nothing done); lets every other failure of the body through.
    """
    connection = context.connection
    assert connection is not None
    outcome = Trial()
    before, own = snapshot(connection, schema), _own(connection, schema)
    outcome.version_table = damage.version_table(connection, context.version_table_schema, context.version_table)
    states, others = watched(connection, before, outcome), beside(connection)
    connection.exec_driver_sql("SAVEPOINT guard_trial")
    try:
        arm(connection, schema)
        with _inert(context, outcome):
            body()
            after = snapshot(connection, schema)
            outcome.losses = losses(before, after)
            outcome.also = taken_along(others, beside(connection), after) if outcome.losses else ()
            seen = damage.look(connection, states, after)
            dropped = sorted(set(own) - set(_own(connection, schema)))
        if dropped:
            raise CommitInside(f"it drops what the guard keeps: {schema}.{f', {schema}.'.join(dropped)}")
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_trial")
        connection.exec_driver_sql("RELEASE SAVEPOINT guard_trial")
        outcome.harms, outcome.empty = damage.harms(connection, seen, states, (before, after))
    except CommitInside:
        raise
    except Exception as error:
        reason = _untriable(connection, schema, error)
        if reason is None:
            raise
        raise CommitInside(reason) from error
    outcome.rewritten = seen.rewritten
    connection.info[TRIED] = outcome
    return outcome


def watched(connection: Connection, tables: dict[int, Table], tried: Trial) -> dict[int, damage.State]:
    """The state of every ordinary table but the version table."""
    oids = [oid for oid, table in tables.items() if table.kind == "r" and oid != tried.version_table]
    return damage.states(connection, oids)


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
    allowed, after = {loss.table.oid: loss for loss in kept.losses}, snapshot(connection, schema)
    for loss in losses(kept.before, after):
        known = allowed.get(loss.table.oid)
        if known is None or (known.columns and not (loss.columns and set(loss.columns) <= set(known.columns))):
            raise CommitInside(f"run for real it destroys more than in its trial: {loss}")
    changed = damage.look(connection, kept.states, after).changed(kept.states) - kept.harmed
    if changed:
        shown = ", ".join(kept.before[oid].shown for oid in sorted(changed))
        raise CommitInside(f"run for real it changes or deletes more rows than in its trial: {shown}")
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
