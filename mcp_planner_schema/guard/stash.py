"""Keeps what a downgrade is about to destroy: copies in a schema of their own, in the same transaction, behind locks.

Whole tables, the columns that go (with the primary key), and of a table whose rows are changed or deleted every row as it
was; :mod:`.seal` then leaves only those that the downgrade has really changed. What a materialized view shows can be computed
again, and temporary tables end with their session: neither is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from mcp_planner_schema.guard import (
    checksum,
    damage,
    definition,
    manifest,
    move,
    reading,
    rights,
    structure,
    touched,
    trial,
    wal,
)
from mcp_planner_schema.guard import sequences as sequence
from mcp_planner_schema.guard.evidence import Column, Loss, Table, again, name_of, rows_of
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.manifest import AFTER, Object, Written
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, identifier, pinned
from mcp_planner_schema.guard.tripwire import CommitInside

if TYPE_CHECKING:
    from sqlalchemy import Connection

_GRANTED = """
SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END
FROM pg_catalog.{catalog} c CROSS JOIN LATERAL pg_catalog.aclexplode(c.{acl}) a
LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
WHERE c.oid = %s::pg_catalog.{kind}::pg_catalog.oid AND a.grantee <> c.{owner}
"""
_SMALL = 16 * 1024 * 1024
"""Bytes; a copy no larger than this is compared with its table value by value (bench/downgrade: what that costs)."""
_MADE = """
SELECT c.oid, c.relfilenode::bigint, pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid), pg_catalog.pg_relation_size(c.oid)
FROM pg_catalog.pg_class c WHERE c.oid = %s::pg_catalog.regclass::pg_catalog.oid
"""


class Copy(NamedTuple):
    """A copy as it was made: its OID and file, the rows put into it by this transaction, its bytes, its columns."""

    oid: int
    file: int
    inserted: int
    bytes: int
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """What the real run is held to: what was tried, the tables as they stood under the locks, and the copies.

    ``states`` are the tables' files and counters at that time, ``reads`` what was read of those that are kept, ``harmed`` the
    tables whose rows may change all the same, ``copies`` each copy as it was made, by its quoted name, ``stand_ins`` what stands
    in for moved tables, ``own`` what of the guard's this transaction has not written to, ``catalog`` all of the schema as it
    was. ``since`` the trial began these were touched by others. ``rights`` are those on what goes, but for the tables that are
    kept, and ``went`` is what the catalog says of it. ``id`` is the stash's number, 0 where nothing is lost.
    """

    id: int
    revision: str
    tried: trial.Trial
    before: dict[int, Table]
    rights: tuple[rights.Rights, ...] = ()
    went: tuple[tuple[str, str, str], ...] = ()
    since: frozenset[int] = frozenset()
    objects: tuple[Object, ...] = ()
    tables: dict[int, Table] = field(default_factory=dict)
    copies: dict[str, Copy] = field(default_factory=dict)
    reads: reading.Counted = field(default_factory=dict)
    states: dict[int, damage.State] = field(default_factory=dict)
    harmed: frozenset[int] = frozenset()
    own: frozenset[str] = frozenset()
    written: tuple[Written, ...] = ()
    stand_ins: reading.Counted = field(default_factory=dict)
    catalog: structure.Picture = field(default_factory=dict)


def keep(
    connection: Connection, schema: str, revision: str, tried: trial.Trial, states: dict[int, damage.State],
    moving: Sequence[Table] = (),
) -> Kept:  # fmt: skip
    """Copy everything that the trial has shown to be lost, but for the tables of ``moving``, which are moved at the end.

    All tables are locked first, in OID order, so that no write falls between copy and loss; readers go on until the real
    run takes a stronger lock. ``states`` are those of :func:`trial.watched` after the trial. What somebody else has changed since
    that began is read again behind the locks.
    Raises :class:`Refused` for columns of a table with rows and no primary key, :class:`CommitInside` where a copy would not
    be what the real run destroys.
    """
    wanted = plan(tried)
    number = manifest.next_id(connection, schema) if wanted or tried.sequences or tried.also else 0
    if not number:
        return _kept(connection, schema, revision, tried, states, moving, wanted, number)
    with wal.written_beside(connection, at_once=True):
        make_schema(connection, manifest.schema_of(schema, number))
        structure.prepare(connection, schema)  # a new schema lets a session forget its plans, and nothing is locked yet
        return _kept(connection, schema, revision, tried, states, moving, wanted, number)


def _kept(
    connection: Connection, schema: str, revision: str, tried: trial.Trial, states: dict[int, damage.State],
    moving: Sequence[Table], wanted: Sequence[tuple[Table, Loss | None, tuple[int, ...]]], number: int,
) -> Kept:  # fmt: skip
    """The same, from the locks on; the stash has its ``number`` and its schema, 0 where no rows and values are lost."""
    assert tried.known is not None
    locked = _locked(connection, tried, wanted)
    with pinned(connection, search_path=SYSTEM_PATH):  # once for all that is asked here
        since = touched.since(connection, tried.known) | tried.meanwhile
        before = again(connection, schema, tried.before, since)
        states = {oid: one for oid, one in states.items() if oid not in since} | trial.watched(
            connection, {oid: table for oid, table in before.items() if oid in since}, tried
        )
        changed = [table.shown for oid, table in sorted(locked.items()) if before.get(oid) != table]
        changed += [table.shown for table in damage.filled(connection, tried.empty)]
        if changed:
            raise CommitInside(f"{', '.join(changed)} was changed by somebody else since the trial; repeat the command")
        catalog = structure.again(connection, schema, tried.catalog, since)
    whole = {table.oid for table, loss, _ in wanted if loss and not loss.columns}
    dropped = tried.change.dropped if tried.change else frozenset()
    on = rights.of(connection, dropped | whole)
    went = tuple(sorted(line for oid in dropped - whole for line in catalog.get(oid, ()) if line[0] != "grant"))
    alone = manifest.next_id(connection, schema) if on and not number else 0  # rights lie in the manifest
    kept = Kept(number or alone, revision, tried, before, on, went, since)
    if number:
        kept = _copied(connection, schema, revision, kept, wanted, {table.oid for table in moving})
    harmed = {harm.table.oid for harm in tried.harms} | {loss.table.oid for loss in tried.losses if not loss.columns}
    with pinned(connection, search_path=SYSTEM_PATH):
        own = frozenset(trial.own_tables(connection, schema)) - trial.own_touched(connection, schema)
    kept = replace(kept, states=states, harmed=frozenset(harmed), catalog=catalog, own=own)
    if moving:
        kept = replace(kept, stand_ins=move.away(connection, schema, manifest.schema_of(schema, number), moving))
    return replace(kept, reads=reading.begin(connection, [oid for parts in parts_of(kept).values() for oid in parts]))


def read(connection: Connection, kept: Kept) -> Kept:
    """To be called right after the real run: each kept object noted as one that this has read, or has not."""
    unread = reading.unread(connection, kept.reads)
    parts = parts_of(kept)
    objects = [replace(one, read=not set(parts.get(one.number, (0,))) <= unread) for one in kept.objects]
    return replace(kept, objects=tuple(objects))


def parts_of(kept: Kept) -> dict[int, list[int]]:
    """The tables that hold an object's rows, by its number: the body has no other place to read a copied one from."""
    found: dict[int, list[int]] = {}
    numbers = {table.oid: number for number, table in kept.tables.items()}
    for oid, table in kept.before.items():
        if (number := numbers.get(kept.tried.root(table).oid)) is not None:
            found.setdefault(number, []).append(oid)
    return found


def _locked(
    connection: Connection, tried: trial.Trial, wanted: Sequence[tuple[Table, Loss | None, tuple[int, ...]]]
) -> dict[int, Table]:
    """Lock all that is copied, written anew or whose sequences are set, in OID order; gives those tables."""
    locked = {table.oid: table for table, _, _ in wanted}
    locked |= {root.oid: root for root in (tried.root(tried.before[oid]) for oid in tried.rewritten)}
    locked |= {seq.table: tried.before[seq.table] for seq in tried.sequences if seq.table in tried.before}
    if locked:
        isolation = connection.exec_driver_sql("SHOW transaction_isolation").scalar_one()
        if isolation != "read committed":
            # Its snapshot is older than the lock: rows committed in between would be destroyed and not be in the copy.
            raise CommitInside(f"its transaction is {isolation}, and only read committed sees every row")
        execute(connection, "; ".join(_lock(connection, table) for _, table in sorted(locked.items())))
    sequence.hold(connection, tried.sequences)
    return locked


def plan(tried: trial.Trial) -> list[tuple[Table, Loss | None, tuple[int, ...]]]:
    """What to copy: the table, what of it is lost (None where only rows change), and the partitions whose rows change."""
    lost = {loss.table.oid: loss for loss in tried.losses}
    leaves: dict[int, list[int]] = {}
    for harm in tried.harms:
        root = tried.root(harm.table)
        if root.oid not in lost or lost[root.oid].columns:
            leaves.setdefault(root.oid, []).append(harm.table.oid)
    return [
        (tried.before[oid], lost.get(oid), tuple(sorted(leaves.get(oid, ()))))
        for oid in sorted(lost.keys() | leaves.keys())
    ]


def _copied(
    connection: Connection, schema: str, revision: str, kept: Kept,
    wanted: Sequence[tuple[Table, Loss | None, tuple[int, ...]]], moving: set[int],
) -> Kept:  # fmt: skip
    kept_in = manifest.schema_of(schema, kept.id)
    objects: list[Object] = []
    tables, copies = {}, {}
    with checksum.reading(connection):
        for table, loss, leaves in wanted:
            one = _object(connection, revision, table, loss, leaves, len(objects) + 1)
            one = replace(one, relation=_free(one.name, {other.relation for other in objects}))
            place = f"{identifier(kept_in)}.{identifier(one.relation or '')}"
            if table.oid in moving:
                lines = sorted(structure.of_table(connection, schema, table.oid))
                one = replace(one, moved=True, bytes=size(connection, name_of(table)), structure=lines)
                copies[place] = _made(connection, name_of(table), one)
            else:
                one = _copy(connection, place, table, one, leaves)
                copies[place] = _made(connection, place, one)
            tables[one.number] = table
            objects.append(one)
            if one.kind == "table":
                objects += _sequences_of(connection, schema, table, len(objects))
        # As they stand now, behind the locks: values were taken since the trial.
        now = sequence.named(connection, schema, [seq.oid for seq in kept.tried.sequences])
        for seq in kept.tried.sequences:
            objects.append(_sequence(now.get(seq.oid, seq), len(objects) + 1))
        for catalog, oid, shown in kept.tried.also:
            text = definition.of_beside(connection, catalog, oid)
            objects.append(Object(len(objects) + 1, "definition", "", shown, definition=text))
    return replace(kept, objects=tuple(objects), tables=tables, copies=copies)


def _object(
    connection: Connection, revision: str, table: Table, loss: Loss | None, leaves: tuple[int, ...], number: int
) -> Object:
    everything = list(table.columns.values())
    lost = tuple(column.name for column in loss.columns) if loss else ()
    kind = "table" if loss and not loss.columns else "rows" if leaves else "columns"
    key, columns = table.key, everything
    if kind == "columns" and loss and loss.key and set(lost) & set(key):  # its own tells no row afterwards
        key = loss.key
    if kind == "columns" and not set(lost) & set(key):
        columns = [one for one in everything if one.name in lost or one.name in key]
    if kind != "table" and lost and not table.key:
        refuse_keyless(connection, revision, [loss] if loss else [])
        columns = everything
    grants = rights.on_columns(rights.of_table(connection, table.oid).grants, lost) if lost else ()
    return Object(
        number, kind, table.schema, table.name, key=key, columns=tuple(one.name for one in columns),
        types=tuple(one.type for one in columns), lost=lost, grants=grants,
        definition=definition.of_table(connection, table.oid),
    )  # fmt: skip


def _copy(connection: Connection, place: str, table: Table, one: Object, leaves: tuple[int, ...]) -> Object:
    """Make the copy and compare it with the table: rows and both checksums; of many rows only :func:`_compared` columns."""
    by_name = {column.name: column for column in table.columns.values()}
    selected = ", ".join(value(by_name[name]) for name in one.columns)
    if one.kind == "rows":
        selected += f", NULL::bigint AS {identifier(AFTER)}"
    source = rows_of(table, () if one.lost else leaves)
    hidden = _hidden(connection, table)
    if hidden:  # its owner may lift that, and nobody else can look: the table is locked
        execute(connection, f"ALTER TABLE {name_of(table)} NO FORCE ROW LEVEL SECURITY")
    rows = execute(connection, f"CREATE TABLE {place} AS SELECT {selected} FROM {source} AS t").rowcount
    if one.kind == "rows":  # a publication FOR ALL TABLES would let nobody delete from it otherwise
        execute(connection, f"ALTER TABLE {place} REPLICA IDENTITY FULL")
    compared = _compared(connection, place, one, by_name)
    original = checksum.of(connection, source, compared) if compared else None
    if hidden:
        execute(connection, f"ALTER TABLE {name_of(table)} FORCE ROW LEVEL SECURITY")
    close(connection, place)
    copied = checksum.of(connection, place, one.columns)
    again = copied if compared in ((), one.columns) else checksum.of(connection, place, compared)
    if copied.rows != rows or original not in (None, again):
        found = f"{copied.rows} rows of {rows}" if copied.rows != rows else "other values"
        raise CommitInside(f"the copy of {table.shown} is not what stands in it: {found}")
    return replace(one, checksum=copied, bytes=size(connection, place))


def _compared(connection: Connection, place: str, one: Object, columns: dict[str, Column]) -> tuple[str, ...]:
    """The columns whose values are compared between table and copy, beside the number of rows.

    To hash every value costs nearly as much as to copy it. In a copy that is not small they are those that are kept in another
    form than the table has them; a builtin value is copied by PostgreSQL as it is, in one statement, while nobody can write, and
    that no row of the copy was changed since is proven at the end (:func:`.proof.prove`).
    """
    if size(connection, place) <= _SMALL:
        return one.columns
    return tuple(name for name in one.columns if not columns[name].builtin)


def _sequences_of(connection: Connection, schema: str, table: Table, number: int) -> list[Object]:
    owned = sequence.owned(connection, schema, [table.oid])
    return [_sequence(one, number + place) for place, one in enumerate(owned.values(), 1)]


def _sequence(one: sequence.Sequence, number: int) -> Object:
    return Object(number, "sequence", one.schema, one.name, last_value=one.last_value, is_called=one.is_called)


def value(column: Column, alias: str = "", *, bare: bool = False) -> str:
    """SQL: a column as it is kept. ``bare`` leaves the name of the result out."""
    # A type or collation of the user's own would let DROP … CASCADE reach into the copy; the text form comes back exactly.
    # It is the one of the type's output function: a cast to text may be a function of somebody's own. A row of nulls
    # "IS NULL", and is a value.
    name = identifier(column.name)
    if column.builtin:
        return f"{alias}{name}"
    given = f"pg_catalog.num_nonnulls({alias}{name}) OPERATOR(pg_catalog.=) 1"
    kept = f"CASE WHEN {given} THEN pg_catalog.format('%s', {alias}{name}) END COLLATE pg_catalog.\"C\""
    return kept if bare else f"{kept} AS {name}"


@contextmanager
def readable(connection: Connection, lost: Sequence[Loss]) -> Iterator[None]:
    """While inside, the rows of these tables are there to be read, all of them, as :func:`keep` reads them."""
    execute(connection, "SAVEPOINT guard_reading")
    for loss in lost:
        if _hidden(connection, loss.table):
            execute(connection, f"ALTER TABLE {name_of(loss.table)} NO FORCE ROW LEVEL SECURITY")
    with checksum.reading(connection):
        yield
    execute(connection, "ROLLBACK TO SAVEPOINT guard_reading; RELEASE SAVEPOINT guard_reading")


def refuse_keyless(connection: Connection, revision: str, lost: Sequence[Loss]) -> None:
    """Raise :class:`Refused` where columns go from a table with rows and no primary key. Inside :func:`readable`."""
    for table in [loss.table for loss in lost if loss.columns and not loss.table.key]:
        if execute(connection, f"SELECT EXISTS (SELECT FROM {rows_of(table)})").scalar_one():
            raise Refused(
                [Finding("stash-keyless", table.shown, revision, {"table": table.shown})],
                f"ALTER TABLE {name_of(table)} ADD PRIMARY KEY (…);   then go back",
            )


def _free(name: str, taken: set[str | None]) -> str:
    """``name``, or where another table of that name is in the stash already, the name with a number."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name.encode()[:58].decode(errors='ignore')}_{number}"
    return free


def _lock(connection: Connection, table: Table) -> str:
    # SHARE keeps writers out and lets readers in; a table whose rule must be lifted for the copy needs the strongest anyway.
    return f"LOCK TABLE {name_of(table)} IN {'ACCESS EXCLUSIVE' if _hidden(connection, table) else 'SHARE'} MODE"


def _hidden(connection: Connection, table: Table) -> bool:
    """Whether row level security holds for the guard's own role, which is then the table's owner."""
    return table.forced and bool(
        connection.exec_driver_sql("SELECT pg_catalog.row_security_active(%s::pg_catalog.oid)", (table.oid,)).scalar()
    )


def _made(connection: Connection, place: str, one: Object) -> Copy:
    columns = (*one.columns, *((AFTER,) if one.kind == "rows" else ()))
    oid, file, inserted, size = connection.exec_driver_sql(_MADE, (place,)).one()
    return Copy(oid, file, inserted, size, columns)


def size(connection: Connection, place: str) -> int:
    """The bytes of a table (``place`` quoted) with its indexes."""
    asked = "SELECT pg_catalog.pg_total_relation_size(%s::pg_catalog.regclass)"
    size: int = connection.exec_driver_sql(asked, (place,)).scalar_one()
    return size


def make_schema(connection: Connection, name: str) -> None:
    """Make the schema of a stash, which nobody but its owner may enter."""
    execute(connection, f"CREATE SCHEMA {identifier(name)}")
    asked = _GRANTED.format(catalog="pg_namespace", acl="nspacl", owner="nspowner", kind="regnamespace")
    granted = connection.exec_driver_sql(asked, (identifier(name),)).scalars().all()
    if granted:
        execute(connection, f"REVOKE ALL ON SCHEMA {identifier(name)} FROM {', '.join(granted)} CASCADE")


def close(connection: Connection, place: str) -> None:
    """Take every right to a copy from everybody but its owner: default privileges give some, and know no REVOKE at the source."""
    asked = _GRANTED.format(catalog="pg_class", acl="relacl", owner="relowner", kind="regclass")
    granted = connection.exec_driver_sql(asked, (place,)).scalars().all()
    if granted:
        execute(connection, f"REVOKE ALL ON TABLE {place} FROM {', '.join(granted)} CASCADE")
