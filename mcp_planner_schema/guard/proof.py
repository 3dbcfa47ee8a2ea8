"""The proof: before a downgrade commits, what it has done is compared with what its trial did, and the stash with itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import (
    checksum,
    damage,
    evidence,
    move,
    seal,
    silence,
    stash,
    structure,
    touched,
    trial,
    write_back,
)
from mcp_planner_schema.guard.manifest import Written
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, pinned
from mcp_planner_schema.guard.since import LARGE
from mcp_planner_schema.guard.tripwire import CommitInside

if TYPE_CHECKING:
    from sqlalchemy import Connection

_COPIES = """
SELECT w.place, c.oid, c.relfilenode::bigint,
       pg_catalog.pg_stat_get_xact_tuples_updated(c.oid) + pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid),
       pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid), pg_catalog.pg_relation_size(c.oid),
       array(SELECT a.attname::text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
FROM pg_catalog.unnest(%s::text[]) AS w (place) JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(w.place)::oid
"""
_READABLE = """
SELECT c.oid::bigint FROM pg_catalog.pg_class c
WHERE c.oid = ANY (%s::pg_catalog.oid[]) AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
  AND pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE')
  AND (NOT pg_catalog.row_security_active(c.oid) OR pg_catalog.pg_has_role(c.relowner, 'USAGE'))
ORDER BY c.oid
"""


def prove(connection: Connection, schema: str, kept: stash.Kept) -> stash.Kept:
    """Compare the real run with its trial; gives the stash with its changed rows sealed.

    Raises :class:`CommitInside` for whatever is gone that was not kept, or gone from what was kept; the transaction must
    then be rolled back.
    """
    assert kept.tried.known is not None
    with pinned(connection, search_path=SYSTEM_PATH):  # once for all that is asked here
        since = touched.since(connection, kept.tried.known) | kept.since  # what came in between may be gone by now
        after = evidence.again(connection, schema, kept.before, since)
        allowed = {loss.table.oid: loss for loss in kept.tried.losses}
        for loss in evidence.losses(kept.before, after):
            known = allowed.get(loss.table.oid)
            if known is None or (known.columns and not (loss.columns and set(loss.columns) <= set(known.columns))):
                raise CommitInside(f"run for real it destroys more than in its trial: {loss}")
        seen = damage.look(connection, kept.states, after, since)
        # A table may get another file again, as in its trial; it was locked, so it holds what it held.
        changed = (seen.rewritten - kept.tried.rewritten - kept.harmed) | (seen.counted(kept.states) - kept.harmed)
        if changed:
            shown = ", ".join(kept.before[oid].shown for oid in sorted(changed))
            raise CommitInside(f"run for real it changes or deletes more rows than in its trial: {shown}")
        # Only written anew in its trial, and empty now: rows are not counted where the file is another one.
        had = seen.rewritten & kept.tried.rewritten - kept.harmed - {table.oid for table in kept.tried.empty}
        emptied = ", ".join(kept.before[oid].shown for oid in sorted(had) if not seen.sizes.get(oid))
        if emptied:
            raise CommitInside(f"run for real it empties what it only wrote anew in its trial: {emptied}")
        own = trial.own_touched(connection, schema) & kept.own
        if own:
            raise CommitInside(f"it writes to what the guard keeps: {', '.join(sorted(own))}")
        # A copy that is the same file, as long, and of which no row was changed or deleted, holds what was compared when it was
        # made. TRUNCATE keeps the file of a table that its transaction has made, and what was counted of it is 0 again.
        found = {
            place: (stash.Copy(oid, file, inserted, size, tuple(columns)), written)
            for place, oid, file, written, inserted, size, columns in connection.exec_driver_sql(
                _COPIES, (list(kept.copies),)
            )
        }
        for place, made in kept.copies.items():
            if found.get(place) != (made, 0):
                raise CommitInside(f"it destroys what was kept in {place}")
        if kept.tried.change:
            _same_change(kept.tried.change, structure.change(connection, schema, kept.catalog, since))
    if kept.stand_ins:
        new = [table for oid, table in after.items() if oid not in kept.before]
        move.prove(connection, schema, kept.tried, kept.stand_ins, (seen.written, new), since)
    sealed = seal.seal(connection, schema, kept, after, seen.states)
    if not any(one.relation for one in sealed.objects):
        return sealed
    # What it has made may hold what it has moved there, like what it has put rows or values into.
    received = {oid for oid, table in after.items() if oid not in kept.before and table.kind == "r"}
    received |= {oid for oid in seen.written if _received(kept.states[oid], seen.states[oid])}
    left = {oid: as_left(connection, after[oid]) for oid in _readable(connection, received)}
    grown = {oid for oid, one in left.items() if one.checksum and _grown(kept.states, seen.states, oid)}
    return replace(sealed, written=tuple(replace(one, grown=oid in grown) for oid, one in left.items()))


def _received(before: damage.State, after: damage.State) -> bool:
    """Whether rows or values were put into a table. After a TRUNCATE its counters begin anew: then they may have been."""
    return after.file != before.file or after.inserted > before.inserted or after.updated > before.updated


def _grown(before: Mapping[int, damage.State], after: Mapping[int, damage.State], oid: int) -> bool:
    """Whether a table that was there has got new rows, and nothing else."""
    was, now = before.get(oid), after.get(oid)
    if was is None or now is None or was.inserted >= now.inserted:
        return False
    return (was.file, was.updated, was.deleted) == (now.file, now.updated, now.deleted)


def _readable(connection: Connection, tables: Collection[int]) -> list[int]:
    """Those whose rows this role may read. Into others only a trigger of its owner has written: a log."""
    return list(connection.exec_driver_sql(_READABLE, (sorted(tables),)).scalars())


def _same_change(tried: structure.Change, done: structure.Change) -> None:
    for before, now in ((tried.gone, done.gone), (tried.come, done.come)):
        if before != now:
            differs = structure.difference(before, now)
            raise CommitInside(
                f"run for real it does not do to the schema what it did in its trial ({differs}); where that was somebody "
                "else meanwhile, the command need only be repeated"
            )


def as_left(connection: Connection, table: evidence.Table) -> Written:
    """What the downgrade has left in a table it wrote to. Whoever finds it otherwise knows that somebody has written since."""
    columns = tuple(sorted(column.name for column in table.columns.values()))
    if write_back.size_of(connection, table) > LARGE:
        return Written(table.schema, table.name, columns, None)
    with checksum.reading(connection), silence.unveiled(connection, table.oid, evidence.name_of(table)):
        return Written(table.schema, table.name, columns, checksum.of(connection, evidence.rows_of(table), columns))
