"""After the real run of a downgrade: of the rows it could have changed, only those stay in the stash that it has changed.

And each is still told by its key: where rows have got other keys nothing would tell which is which, and the step is refused.
The rehearsal, which keeps nothing, looks for that by the keys alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from mcp_planner_schema.guard import checksum, damage, manifest, silence, stash, trial, write_back
from mcp_planner_schema.guard.evidence import Table, name_of, rows_of, snapshot
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.judge import later
from mcp_planner_schema.guard.manifest import AFTER, Object
from mcp_planner_schema.guard.postcheck import execute, identifier
from mcp_planner_schema.guard.stash import Kept, value
from mcp_planner_schema.guard.tripwire import CommitInside

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Without a key one of two equal rows is as good as the other: as many go from the copy as are still in the table.
SAME = """
DELETE FROM {place} AS d USING (
  SELECT a.ctid FROM (SELECT c.ctid, {was} AS t, pg_catalog.row_number() OVER (PARTITION BY {was}) AS n FROM {place} AS c) AS a
  JOIN (SELECT {now} AS t, pg_catalog.count(*) AS n FROM {live} AS l GROUP BY 1) AS b ON a.t = b.t AND a.n <= b.n) AS same
WHERE d.ctid = same.ctid
"""
_UNTOUCHED = """
SELECT pg_catalog.pg_stat_get_xact_tuples_updated(c.oid) + pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid) = 0
   AND pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid) = %s
FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(%s)
"""


def seal(
    connection: Connection, schema: str, kept: Kept, after: dict[int, Table], states: dict[int, damage.State]
) -> Kept:
    """After the real run: of changed rows keep those that really are others now, and note what stands in their place.

    ``after`` and ``states`` are the tables and their counters at the end of the run. Raises :class:`Refused` where the run
    has given rows other keys: nothing would tell which row is which.
    """
    sealed = []
    for one in kept.objects:
        if one.kind == "rows":
            table = kept.tables[one.number]
            place = f"{identifier(manifest.schema_of(schema, kept.id))}.{identifier(one.relation or '')}"
            with checksum.reading(connection):
                one = _seal(connection, place, kept, one, (table, after[table.oid]), states)
        sealed.append(one)
    return replace(kept, objects=tuple(sealed))


def _seal(
    connection: Connection, place: str, kept: Kept, one: Object, tables: tuple[Table, Table],
    states: dict[int, damage.State],
) -> Object:  # fmt: skip
    old, new = tables
    names = {column.name: new.columns[n].name for n, column in old.columns.items() if n in new.columns}
    stayed = sorted(names)
    live = rows_of(new)
    was, is_now = checksum.row_text(stayed, "c"), checksum.row_text([names[name] for name in stayed], "l")
    with silence.unveiled(connection, new.oid, name_of(new)):
        if one.key and set(one.key) <= set(names):
            sealed = _sealed(connection, place, one, new, names)
            asked = f"SELECT pg_catalog.count(*) FROM {sealed.place} WHERE {identifier(AFTER)} IS NULL"
            gone = execute(connection, asked).scalar_one()
            same = write_back.same_key(one, new, names)
            _refuse_other_keys(connection, (place, live, same), kept, old, states, gone)
            _replace(connection, place, one, sealed)
        elif not one.key:
            _refuse_moved(kept, old, states)
            execute(connection, SAME.format(place=place, live=live, was=was, now=is_now))
    waived = not one.key and any(
        harm.changes for harm in kept.tried.harms if kept.tried.root(harm.table).oid == old.oid
    )
    waived = waived or not set(one.key) <= set(names)
    # Which row a changed one was nobody knows then, and put back it would stand beside the new one.
    left = None if waived else {"schema": new.schema, "name": new.name, "columns": names}
    return replace(
        one, checksum=checksum.of(connection, place, one.columns), bytes=stash.size(connection, place), left_as=left
    )


class _Sealed(NamedTuple):
    place: str
    rows: int


def _sealed(connection: Connection, place: str, one: Object, new: Table, names: dict[str, str]) -> _Sealed:
    """Make a table of the copy's rows that are others now or gone, with a hash of what stands there instead; of all where columns
    are lost. To write those takes less than to delete the rest.
    """
    live, key = rows_of(new), write_back.same_key(one, new, names)
    there = f"pg_catalog.num_nonnulls(l.{identifier(names[one.key[0]])}) OPERATOR(pg_catalog.=) 1"
    after = checksum.row_hash([names[name] for name in sorted(names)], "l")
    which = "true" if one.lost else f"NOT ({there} AND {checksum.alike(connection, place, live, names, names)})"
    values = ", ".join(f"c.{identifier(name)}" for name in one.columns)
    # Where the run has taken the key away, several rows may have it.
    once = "" if new.key == tuple(names[name] for name in one.key) else "DISTINCT ON (c.ctid) "
    sealed = f'{place.partition(".")[0]}."guard:sealed"'  # a stash's own schema has a name without a dot
    # Not by CREATE TABLE AS: what somebody's event trigger does to a new table, it does to an empty one.
    execute(connection, f"CREATE TABLE {sealed} (LIKE {place})")
    stash.close(connection, sealed)
    rows = execute(
        connection,
        f"INSERT INTO {sealed} SELECT {once}{values}, CASE WHEN {there} THEN {after} END FROM {place} AS c "
        f"LEFT JOIN {live} AS l ON {key} WHERE {which}",
    ).rowcount
    return _Sealed(sealed, rows)


def _replace(connection: Connection, place: str, one: Object, sealed: _Sealed) -> None:
    """Put it in the place of the copy, and see that nothing has touched its rows."""
    execute(connection, f"DROP TABLE {place}")
    execute(connection, f"ALTER TABLE {sealed.place} RENAME TO {identifier(one.relation or '')}")
    if not connection.exec_driver_sql(_UNTOUCHED, (sealed.rows, place)).scalar():
        raise CommitInside(f"it destroys what was kept in {place}")


def _refuse_other_keys(
    connection: Connection, found: tuple[str, str, str], kept: Kept, table: Table, states: dict[int, damage.State],
    gone: int | None = None,
) -> None:  # fmt: skip
    """A row that is gone was deleted and one that is new was inserted, or else its key was changed. ``gone``: how many are."""
    place, live, key = found
    parts = [oid for oid, one in kept.before.items() if kept.tried.root(one).oid == table.oid and oid in states]
    deleted, inserted = (
        sum(getattr(states[oid], what) - getattr(kept.states[oid], what) for oid in parts)
        for what in ("deleted", "inserted")
    )
    missing = f"SELECT pg_catalog.count(*) FROM {place} AS c WHERE NOT EXISTS (SELECT FROM {live} AS l WHERE {key})"
    gone = execute(connection, missing).scalar_one() if gone is None else gone
    # A row that moves to another partition counts as deleted there and inserted here, whether its key moves along or not.
    if gone <= deleted and not (gone and inserted and table.kind == "p"):
        return
    new = f"SELECT pg_catalog.count(*) FROM {live} AS l WHERE NOT EXISTS (SELECT FROM {place} AS c WHERE {key})"
    # Where only some partitions were copied, the others hold rows that are not new at all.
    if table.kind == "p" or execute(connection, new).scalar_one() > inserted:
        values = {"table": table.shown, "key": ", ".join(table.key)}
        raise Refused(
            [Finding("keys-renumbered", table.shown, kept.revision, values)],
            f"alembic show {kept.revision}   (its file; let downgrade() keep the keys)",
        )


def note_keys(connection: Connection, schema: str, tried: trial.Trial) -> list[tuple[Table, str]]:
    """Make a table of the keys of each table whose rows the trial has changed. Gives their names.

    For :func:`refuse_renumbered` after the body has run once more, where nothing is to be kept: all is rolled back in the end.
    They are no temporary ones, for not every role may make those.
    """
    places: list[tuple[Table, str]] = []
    for table, loss, leaves in stash.plan(tried):
        if leaves and table.key and not (loss and set(table.key) & {column.name for column in loss.columns}):
            by_name = {column.name: column for column in table.columns.values()}
            keys = ", ".join(value(by_name[name]) for name in table.key)
            place = f"{identifier(schema)}.{identifier(f'guard:keys_{len(places) + 1}')}"
            rows = rows_of(table, () if loss else leaves)
            with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
                # One may be there of the step before.
                execute(
                    connection,
                    f"DROP TABLE IF EXISTS {place}; CREATE UNLOGGED TABLE {place} AS SELECT {keys} FROM {rows} AS t",
                )
            places.append((table, place))
    return places


def refuse_renumbered(
    connection: Connection, schema: str, revision: str, tried: trial.Trial, places: list[tuple[Table, str]],
    states: dict[int, damage.State],
) -> None:  # fmt: skip
    """After the body: raise :class:`Refused` where rows of these tables have other keys. ``states`` are those before it."""
    after = snapshot(connection, schema)
    kept = Kept(0, revision, tried, tried.before, states=states)
    for table, place in places:
        new = after[table.oid]
        names = {column.name: new.columns[n].name for n, column in table.columns.items() if n in new.columns}
        with checksum.reading(connection), silence.unveiled(connection, new.oid, name_of(new)):
            key, were = (
                [name for name in table.key if name in names],
                {each.name: each.type for each in table.columns.values()},
            )
            live = (place, rows_of(new), write_back.same_key(key, new, names, were=were))
            _refuse_other_keys(connection, live, kept, table, trial.watched(connection, after, tried))


def _refuse_moved(kept: Kept, table: Table, states: dict[int, damage.State]) -> None:
    """Rows without a key that were deleted in one partition and inserted in another may be the same, changed."""
    parts = [oid for oid, one in kept.before.items() if kept.tried.root(one).oid == table.oid and oid in states]
    inserted = sum(states[oid].inserted - kept.states[oid].inserted for oid in parts)
    if table.kind == "p" and inserted:
        values = {"objects": f"rows of {table.shown} (moved between partitions)", "later": later()}
        raise Refused(
            [Finding("rows-not-kept", table.shown, kept.revision, values)],
            f"ALTER TABLE {name_of(table)} ADD PRIMARY KEY (…);   then go back",
        )
