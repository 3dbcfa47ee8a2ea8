"""The trial: a downgrade is run once in a savepoint, and what it destroyed is read from the catalog by OID.

Whatever the body does (raw SQL, CASCADE, functions), the catalog afterwards shows it; nothing is guessed from the text. A
commit guard (a deferred constraint trigger that raises) keeps a COMMIT inside the body from making the trial final, and
:mod:`.tripwire` a ROLLBACK. The real run is then held to what its trial has shown, see :mod:`.proof`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import (
    attributes,
    damage,
    evidence,
    reading,
    sequences,
    silence,
    structure,
    touched,
    tripwire,
)
from mcp_planner_schema.guard.deadline import Clock
from mcp_planner_schema.guard.evidence import Loss, Table
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, pinned

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection


CommitInside = tripwire.CommitInside
_AGAIN, _NOT_FELT = 3, 0.05
"""How many times as long as remembering what there is it takes to find what was touched, and look at it; and the seconds of the
deadline that may go into that: with many thousands of tables it takes longer."""

STOOD = "mcp_planner_guard.stood"
"""Where :func:`attempt` leaves the sequences' states before a body first ran, in ``connection.info``."""

LEFT_OUT = "mcp_planner_guard.left_out"
"""Set in ``connection.info``, for the rest of the trial, by an operation that has left out what destroys nothing and takes
long (a backfill).

What rests on it does not hold there: the operations behind it that would prove it leave that out too, and a rehearsal asks no
expectation.
"""

TRYING = "mcp_planner_guard.trying"
"""Stands in ``connection.info`` while a body is tried: what it does is undone, and it is told nobody."""

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
ALTER TABLE {schema}.commit_guard REPLICA IDENTITY FULL;
COMMENT ON TABLE {schema}.commit_guard IS 'A row inserted here lets no COMMIT pass until the step says that it has ended';
"""

_OWN = """
SELECT n.nspname || '.' || c.relname, array(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
                               WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname ~ %s AND c.relkind = 'r'
"""


_OWN_TOUCHED = """
SELECT DISTINCT n.nspname || '.' || c.relname FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND c.relkind = 'r' AND c.relname <> 'commit_guard'
  AND n.nspname ~ %s AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
"""


@dataclass
class Trial:
    """The outcome: what would be lost, whose rows would be harmed, whether the body wanted to commit in between.

    ``also`` is what goes along with the losses: catalog, OID, how people call it. ``sequences`` are those that go or stand
    lower afterwards, as they were before. ``rewritten`` are the tables that got a new file, ``empty`` those of them that
    had no row to lose, ``written`` all that the body wrote to. ``beyond`` is what no stash could keep. ``unread`` are the
    large tables that the body has not read; ``change`` is what it does to the catalog, None in a rehearsal. All that there was
    before, ``before`` and the ``catalog``, is as of the moment ``known``, and of ``meanwhile``, while it was read.
    """

    before: dict[int, Table] = field(default_factory=dict)
    losses: tuple[Loss, ...] = ()
    commits: bool = False
    harms: tuple[damage.Harm, ...] = ()
    also: tuple[tuple[str, int, str], ...] = ()
    sequences: tuple[sequences.Sequence, ...] = ()
    rewritten: frozenset[int] = frozenset()
    written: frozenset[int] = frozenset()
    version_table: int = 0
    empty: tuple[Table, ...] = ()
    beyond: tuple[str, ...] = ()
    unread: frozenset[int] = frozenset()
    change: structure.Change | None = None
    catalog: structure.Picture = field(default_factory=dict)
    known: touched.Known | None = None
    meanwhile: frozenset[int] = frozenset()

    def root(self, table: Table) -> Table:
        """The partitioned table that a partition belongs to in the end; any other table itself."""
        while table.parent in self.before:
            table = self.before[table.parent]
        return table


def attempt(
    context: MigrationContext, schema: str, body: Callable[[], Any], *, large: int | None = None, proven: bool = False,
    clock: Clock | None = None,
) -> Trial:  # fmt: skip
    """Run ``body`` in a savepoint, read what it destroyed, and undo it.

    Raises :class:`CommitInside` where the body ends its transaction or cannot run inside one, or touches what the guard
    keeps (the whole transaction is then over, nothing done); lets every other failure of the body through. A sequence that
    the body has set back stands where it stood again. ``large`` is the size in bytes above which it is worth knowing whether
    a table was read. ``clock`` gets the time that looking through the catalog takes. ``proven``: the body is to run for real, and
    to do then what it has done here.
    """
    connection = context.connection
    assert connection is not None
    version_table = damage.version_table(connection, context.version_table_schema, context.version_table)
    with pinned(connection, search_path=SYSTEM_PATH):  # once for all that is asked here
        began = time.monotonic()
        known = touched.known(connection)
        took = time.monotonic() - began
        outcome = Trial(evidence.snapshot(connection, schema), version_table=version_table)
        before, own = outcome.before, own_tables(connection, schema)
        states, others = watched(connection, before, outcome), evidence.beside(connection)
        stood, elsewhere = sequences.states(connection, schema), evidence.elsewhere(connection)
        connection.info.setdefault(STOOD, stood)
        before_touched, values = own_touched(connection, schema), attributes.inside(connection)
        counted = {} if large is None else reading.begin(connection, reading.large(connection, states, large))
        away: frozenset[int] = frozenset()
        if proven:
            structure.prepare(connection, schema)
            outcome.catalog, away = structure.of_everything(connection, schema)
        # What came while this was read, and may be gone at the end; what nobody could look at, and may be free by then.
        outcome.known, outcome.meanwhile = known, touched.since(connection, known) | away
    connection.exec_driver_sql("SAVEPOINT guard_trial")
    if clock is not None:  # what differs is asked for under the body's locks, which takes as long, and then looked at
        clock.allow(clock.usual + max(0.0, _AGAIN * took - _NOT_FELT))
    try:
        arm(connection, schema)
        with inert(context, outcome):
            body()
            settle(connection, schema)
            with pinned(connection, search_path=SYSTEM_PATH):
                changed = touched.since(connection, known) | outcome.meanwhile
                after = evidence.again(connection, schema, before, changed)
                outcome.losses = evidence.losses(before, after)
                if outcome.losses:
                    left = evidence.beside_again(connection, others, changed)
                    outcome.also = evidence.taken_along(others, left, after)
                seen = damage.look(connection, states, after, changed)
                stands = sequences.again(connection, schema, stood, changed)
                outcome.beyond = evidence.beyond(connection, elsewhere, changed)
                emptied = attributes.gone(connection, values, (before, after), changed)
                whole = {loss.table.oid for loss in outcome.losses if not loss.columns}
                # The catalog tells of a table too (statistics, size), and rows of a new one are nobody's to compare.
                made = [table for oid, table in after.items() if oid not in before]
                outcome.unread = (
                    frozenset() if damage.filled(connection, made) else reading.unread(connection, counted) & whole
                )
                if proven:
                    outcome.change = structure.change(connection, schema, outcome.catalog, changed)
                mine = own_tables(connection, schema)
                dropped = sorted(name for name, columns in own.items() if mine.get(name) != columns)
                written = sorted((own_touched(connection, schema) & own.keys()) - before_touched)
        if dropped:
            raise CommitInside(f"it drops what the guard keeps: {', '.join(dropped)}")
        if written:
            raise CommitInside(f"it writes to what the guard keeps: {', '.join(written)}")
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_trial")
        if clock is not None:
            clock.restart()
        connection.exec_driver_sql("RELEASE SAVEPOINT guard_trial")
        outcome.harms, outcome.empty = damage.harms(connection, seen, states, (before, after))
        outcome.harms += attributes.harms(connection, before, emptied)
    except CommitInside:
        raise
    except Exception as error:
        reason = _untriable(connection, schema, error)
        if reason is None:
            raise
        raise CommitInside(reason) from error
    outcome.rewritten, outcome.written = seen.rewritten, seen.written
    sequences.put_back(connection, stood, sequences.states(connection, schema))
    gone = {loss.table.oid for loss in outcome.losses if not loss.columns}
    outcome.sequences = tuple(
        one for oid, one in stood.items() if one.table not in gone and (oid not in stands or stands[oid].behind(one))
    )
    return outcome


def own_touched(connection: Connection, schema: str) -> frozenset[str]:
    """The guard's own tables that this transaction has written to, as far as its locks show; the commit guard's left out."""
    with pinned(connection, search_path=SYSTEM_PATH):
        return frozenset(connection.exec_driver_sql(_OWN_TOUCHED, (evidence.own(schema),)).scalars())


def sequences_back(beside: Connection, stood: dict[int, sequences.Sequence] | None, schema: str) -> None:
    """After a failed step was rolled back: what its body has set back by setval() stands again where it stood."""
    if stood:
        sequences.put_back(beside, stood, sequences.states(beside, schema))


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


def settle(connection: Connection, schema: str) -> None:
    """Let happen now what the body has left for its COMMIT, so that it is looked at too: a deferred trigger may delete rows.

    Raises what such a trigger or constraint raises. A COMMIT fails as before.
    """
    _open(connection, "pg_catalog.pg_current_xact_id()::text")
    silence.flush(connection)
    _open(connection, "''")
    arm(connection, schema)


def _open(connection: Connection, to: str) -> None:
    connection.exec_driver_sql(f"SELECT pg_catalog.set_config('mcp_planner_guard.open', {to}, true)")


def disarm(connection: Connection, schema: str) -> None:
    """Let this transaction's COMMIT pass. To be called when everything is proven that has to be."""
    _open(connection, "pg_catalog.pg_current_xact_id()::text")
    connection.exec_driver_sql(f"DELETE FROM {schema}.commit_guard")


def own_tables(connection: Connection, schema: str) -> dict[str, list[str]]:
    """The guard's own tables, kept rows among them, with their columns."""
    with pinned(connection, search_path=SYSTEM_PATH):
        return {row[0]: row[1] for row in connection.exec_driver_sql(_OWN, (evidence.own(schema),))}


@contextmanager
def no_rollback(connection: Connection) -> Iterator[None]:
    """While inside, a ROLLBACK in the body raises :class:`CommitInside` before it is sent."""
    with tripwire.set_on(connection):
        yield


@contextmanager
def inert(context: MigrationContext, outcome: Trial) -> Iterator[None]:
    """While inside, ``autocommit_block()`` commits nothing and CONCURRENTLY is left out, so that the body can be tried."""

    @contextmanager
    def block() -> Iterator[None]:
        outcome.commits = True
        with tripwire.set_on(context.connection, plain=True):
            yield

    assert context.connection is not None
    info = context.connection.info  # asked now: a connection that is gone has none
    context.autocommit_block = block  # type: ignore[method-assign]
    info[TRYING] = True
    try:
        with tripwire.set_on(context.connection):
            yield
    finally:
        del context.autocommit_block  # the class's own shows again
        info.pop(LEFT_OUT, None)
        info.pop(TRYING, None)
