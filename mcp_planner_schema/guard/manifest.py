"""The manifest: which stashes there are, what each holds, and what became of it. Tables ``stash`` and ``stash_object``.

A stash is what one downgrade of one revision would have destroyed, or one backfill has overwritten; it lies in a schema of
its own. The manifest says what is in there and proves it by checksums; nothing in it is ever run as SQL.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.checksum import ALGORITHM, Checksum
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, identifier, literal, pinned
from mcp_planner_schema.guard.rights import Grant, Rights

if TYPE_CHECKING:
    from sqlalchemy import Connection

AFTER = "guard:after"
"""A column of the copy of changed rows: the hash of the row that the downgrade left in the table, null where it left none."""


# Where the manifest itself is in the catalog: pg_upgrade leaves it there, and a dump that was restored, or a subscriber, has it
# elsewhere. There all rows are written anew, in transactions of another server.
def _home(schema: str) -> str:
    place = f"pg_catalog.to_regclass({literal(f'{schema}.stash')})::pg_catalog.oid"
    return f"(SELECT pg_catalog.concat(h.oid, '/', h.reltype) FROM pg_catalog.pg_class h WHERE h.oid = {place})"


@dataclass(frozen=True)
class Written:
    """A table that the downgrade put rows or values into, as it left it: what it moved there may be newer when it comes back.

    A large one has no checksum: it is not read under locks for this, and counts as written to since. ``handed``: the columns that
    a later revision's way back has made there, see :mod:`.handed_on`. ``grown``: it has got new rows and nothing else.
    """

    schema: str
    name: str
    columns: tuple[str, ...]
    checksum: Checksum | None
    handed: tuple[str, ...] = ()
    grown: bool = False


@dataclass(frozen=True)
class Object:
    """One thing kept. ``kind``: a whole table, columns of one, rows that were changed or deleted, a sequence, a definition.

    ``columns`` are those in the copy, with their types as the catalog shows them; ``lost`` those that went with the
    downgrade; ``key`` is the primary key. ``grants`` are those on lost columns. ``left_as`` says what table and columns
    were called after the downgrade: ``{"schema": …, "name": …, "columns": {then: after}}``. ``restored`` and ``left`` are how
    many rows went back and how many did not, None before the first time. A ``moved`` table is the table itself, nobody has
    counted its rows; ``structure`` is what it was like (see :mod:`.structure`). ``read``: the downgrade has read it, or nobody
    knows; of what it has not read it can have moved nothing elsewhere.
    """

    number: int
    kind: str
    schema: str
    name: str
    relation: str | None = None
    moved: bool = False
    key: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    checksum: Checksum | None = None
    bytes: int | None = None
    last_value: int | None = None
    is_called: bool | None = None
    grants: tuple[Grant, ...] = ()
    definition: str | None = None
    left_as: Any = None
    restored: int | None = None
    left: int | None = None
    structure: Any = None
    read: bool = True

    @property
    def shown(self) -> str:
        """The object as people write it."""
        name = self.name if self.schema in ("", "public") else f"{self.schema}.{self.name}"
        if self.kind in ("definition", "sequence"):
            return name if self.kind == "definition" else f"sequence {name}"
        if self.kind == "columns" or (self.kind == "rows" and self.lost):
            also = " and changed rows" if self.kind == "rows" else ""
            return ", ".join(f"column {name}.{one}" for one in self.lost) + also
        return f"table {name}" if self.kind == "table" else f"changed rows of {name}"


@dataclass(frozen=True)
class Stash:
    """What one downgrade kept, or (``direction`` upgrade) what a backfill has overwritten. ``kept_in`` is its schema.

    ``xid`` is its transaction, the oldest that ran beside it, and where the manifest was then.
    ``elsewhere``: this is another database by now, restored from a dump for instance.
    """

    id: int
    revision: str
    kept_in: str
    state: str
    kept_at: Any
    keep_until: Any
    who: str
    why: str | None
    archive: str | None
    archive_sha256: str | None
    xid: str
    written: tuple[Written, ...]
    direction: str = "downgrade"
    elsewhere: bool = False
    rights: tuple[Rights, ...] = ()
    went: tuple[tuple[str, str, str], ...] = ()
    objects: tuple[Object, ...] = ()

    def place(self, one: Object) -> str:
        """Where the object's rows are, quoted."""
        assert one.relation is not None
        return f"{identifier(self.kept_in)}.{identifier(one.relation)}"

    def kept_until(self, days: int) -> Any:
        """When the retention ends: as recorded, or as ``stash_retention`` says now (``days``), whichever is sooner."""
        return min(self.keep_until, self.kept_at + timedelta(days=days))


def schema_of(schema: str, number: int) -> str:
    """The name of a stash's own schema, so that nothing in it can collide with another's."""
    return f"{schema}_stash_{number}"


def is_own(schema: str, name: str) -> bool:
    """Whether a schema is the guard's or one of its stashes."""
    return name == schema or (name.startswith(f"{schema}_stash_") and name.removeprefix(f"{schema}_stash_").isdigit())


def next_id(connection: Connection, schema: str) -> int:
    """The number of a new stash. A gap is left where the step is rolled back."""
    number: int = connection.exec_driver_sql(
        "SELECT pg_catalog.nextval(pg_catalog.pg_get_serial_sequence(%s, 'id')::pg_catalog.regclass)",
        (f"{schema}.stash",),
    ).scalar_one()
    return number


def write(
    connection: Connection, schema: str, stash: int, *, run: int, version_table: str, revision: str, who: str,
    why: str | None, days: int, objects: Sequence[Object], archive: tuple[str, str] | None = None,
    written: Sequence[Written] = (), rights: Sequence[Rights] = (),
    went: Sequence[tuple[str, str, str]] = (), direction: str = "downgrade",
) -> None:  # fmt: skip
    """Insert the manifest of a new stash, in the step's transaction."""
    connection.exec_driver_sql(
        f"INSERT INTO {schema}.stash (id, run_id, version_table, revision, direction, kept_in, state, keep_until, who, why, "
        "archive, archive_sha256, written, rights, went, xid) OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s, %s, %s, %s, 'kept', "
        "pg_catalog.clock_timestamp() + pg_catalog.make_interval(days => %s), %s, %s, %s, %s, %s, %s, %s, "
        f"pg_catalog.concat_ws(' ', pg_catalog.pg_current_xact_id(), "
        f"pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()), {_home(schema)}))",
        (
            stash,
            run,
            version_table,
            revision,
            direction,
            schema_of(schema, stash),
            days,
            who,
            why,
            *(archive or (None, None)),
            json.dumps([_noted(one) for one in written]),
            json.dumps([[one.kind, one.name, one.grants, one.lacks, one.owner, one.secured] for one in rights]),
            json.dumps(went),
        ),
    )
    for one in objects:
        values = {
            "stash_id": stash, "number": one.number, "kind": one.kind, "object_schema": one.schema, "object_name": one.name,
            "relation": one.relation, "moved": one.moved, "key_columns": list(one.key), "columns": list(one.columns),
            "types": list(one.types), "lost_columns": list(one.lost), "bytes": one.bytes, "last_value": one.last_value,
            "is_called": one.is_called, "grants": json.dumps(one.grants), "definition": one.definition,
            "left_as": json.dumps(one.left_as) if one.left_as else None,
            "structure": json.dumps(one.structure) if one.structure else None, "body_read": one.read,
        }  # fmt: skip
        if one.checksum:
            values |= {"row_count": one.checksum.rows, "sum_0": one.checksum.sum_0, "sum_1": one.checksum.sum_1,
                       "algorithm": ALGORITHM}  # fmt: skip
        connection.exec_driver_sql(
            f"INSERT INTO {schema}.stash_object ({', '.join(values)}) VALUES ({', '.join(['%s'] * len(values))})",
            tuple(values.values()),
        )


def read(connection: Connection, schema: str, where: str = "true", values: Iterable[Any] = ()) -> list[Stash]:
    """The stashes that fulfil ``where`` (SQL over ``stash`` as s), newest first, with what they hold. Reads only."""
    with pinned(connection, search_path=SYSTEM_PATH):
        return _read(connection, schema, where, values)


def _read(connection: Connection, schema: str, where: str, values: Iterable[Any]) -> list[Stash]:
    asked = connection.exec_driver_sql(
        "SELECT s.id, s.revision, s.kept_in, s.state, s.kept_at, s.keep_until, s.who, s.why, s.archive, s.archive_sha256, "
        f"s.xid, s.written, s.direction, "
        f"pg_catalog.split_part(s.xid, ' ', 3) NOT IN ('', {_home(schema)}) AS elsewhere, "
        # A manifest that an earlier version has made lacks these columns until the next run.
        "coalesce(pg_catalog.to_jsonb(s) -> 'rights', '[]') AS rights, "
        "coalesce(pg_catalog.to_jsonb(s) -> 'went', '[]') AS went "
        f"FROM {schema}.stash AS s WHERE {where} ORDER BY s.id DESC",
        tuple(values),
    ).all()
    return [
        Stash(
            **{
                **row._mapping,
                "written": tuple(_written(*one) for one in row.written),
                "went": tuple((kind, name, text) for kind, name, text in row.went),
                "rights": tuple(
                    Rights(kind, name, _grants(has), _grants(lacks), owner, secured)
                    for kind, name, has, lacks, owner, secured in row.rights
                ),
            },
            objects=_objects(connection, schema, row[0]),
        )
        for row in asked
    ]


def _noted(one: Written) -> list[Any]:
    more = {name: value for name, value in (("handed", one.handed), ("grown", one.grown)) if value}
    return [one.schema, one.name, one.columns, *(one.checksum or ()), *([more] if more else [])]


def _written(schema: str, name: str, columns: Iterable[str], *rest: Any) -> Written:
    more = rest[-1] if rest and isinstance(rest[-1], (dict, list)) else {}
    sums = rest[:-1] if more else rest
    more = {"handed": more} if isinstance(more, list) else more  # as it was noted before there was more to note
    handed, grown = tuple(more.get("handed", ())), more.get("grown", False)
    return Written(schema, name, tuple(columns), Checksum(*sums) if sums else None, handed, grown)


def exists(connection: Connection, schema: str) -> bool:
    """Whether there is a manifest: none before the first run under guard."""
    found: bool = connection.exec_driver_sql(
        "SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (f"{schema}.stash_object",)
    ).scalar_one()
    return found


def find(connection: Connection, schema: str, number: int) -> Stash:
    """One stash by its number. Raises :class:`WrongUse` where there is none. Reads only."""
    found = read(connection, schema, "s.id = %s", (number,)) if exists(connection, schema) else []
    if not found:
        raise WrongUse(f"There is no stash {number}.", "make migrate-stash-list")
    return found[0]


def waiting(connection: Connection, schema: str, version_table: str, revision: str) -> list[Stash]:
    """What the last downgrade of this revision kept, if nobody has put it back; older ones are not the upgrade's to give.

    A downgrade that found nothing to keep has left no stash.
    """
    last = (
        f"SELECT h.run_id FROM {schema}.history AS h JOIN {schema}.run AS r ON r.id = h.run_id WHERE h.revision = s.revision "
        "AND r.version_table = s.version_table AND h.direction = 'downgrade' AND h.outcome = 'done' ORDER BY h.id DESC LIMIT 1"
    )
    where = f"s.state = 'kept' AND s.direction = 'downgrade' AND s.version_table = %s AND s.revision = %s AND s.run_id = ({last})"
    return read(connection, schema, where, (version_table, revision))


def others_wait(connection: Connection, schema: str, version_table: str, number: int) -> bool:
    """Whether another stash than this one waits for the upgrade of its revision."""
    asked = (
        f"SELECT EXISTS (SELECT FROM {schema}.stash s WHERE s.state = 'kept' AND s.version_table = %s AND s.id <> %s)"
    )
    return bool(connection.exec_driver_sql(asked, (version_table, number)).scalar_one())


def left_behind(connection: Connection, schema: str, version_table: str, revision: str) -> list[str]:
    """One line for each stash of this revision that is not wholly back: an upgrade does not touch it any more."""
    where = "s.state = 'partly restored' AND s.direction = 'downgrade' AND s.version_table = %s AND s.revision = %s"
    lines = []
    for number, stash in enumerate(read(connection, schema, where, (version_table, revision))):
        sizes = [
            (one, one.left if one.left is not None else one.checksum.rows if one.checksum else None)
            for one in stash.objects
            if one.relation
        ]
        names = ", ".join(one.shown for one, size in sizes if size != 0)
        rows = sum(size or 0 for _, size in sizes)
        counted = f"{rows} rows of " if rows else ""  # nobody has counted those of a moved table
        which = f" ID={stash.id}" if number else ""  # without it the newest is meant
        lines.append(
            f"stash {stash.id} (partly restored) still holds {counted}{names}: "
            f"make migrate-restore VERSION={revision}{which}"
        )
    return lines


def mark(connection: Connection, schema: str, stash: int, state: str, who: str) -> None:
    """Write what became of a stash."""
    connection.exec_driver_sql(
        f"UPDATE {schema}.stash SET state = %s, ended_at = pg_catalog.clock_timestamp(), ended_by = %s WHERE id = %s",
        (state, who, stash),
    )


def mark_object(connection: Connection, schema: str, stash: int, number: int, restored: int, left: int) -> None:
    """Write how many rows of an object went back, and how many stayed in the stash."""
    connection.exec_driver_sql(
        f"UPDATE {schema}.stash_object SET restored_rows = %s, left_rows = %s WHERE stash_id = %s AND number = %s",
        (restored, left, stash, number),
    )


def emptied(connection: Connection, schema: str, stash: int, number: int) -> None:
    """Write that a moved table has left the stash as it was: nothing of it is in there any more."""
    connection.exec_driver_sql(
        f"UPDATE {schema}.stash_object SET relation = NULL, left_rows = 0 WHERE stash_id = %s AND number = %s",
        (stash, number),
    )


def lines(connection: Connection, schema: str, stash: int, objects: Sequence[Object]) -> list[str]:
    """One line for each thing kept, for people; what goes along without rows comes last."""
    kept_in = schema_of(schema, stash)
    kept = [
        f"kept {one.shown}: {one.checksum.rows} rows in {kept_in}.{one.relation}"
        for one in objects
        if one.checksum and (one.checksum.rows or one.kind != "rows" or one.lost)
    ]
    kept += [
        f"kept {one.shown}: moved to {kept_in}.{one.relation} ({moved_size(connection, kept_in, one)})"
        for one in objects
        if one.moved
    ]
    return kept + [f"also goes: {one.shown}" for one in objects if one.kind == "definition"]


def moved_size(connection: Connection, kept_in: str, one: Object) -> str:
    """How large a moved table is, whose rows nobody has counted."""
    size = connection.exec_driver_sql("SELECT pg_catalog.pg_size_pretty(%s::bigint)", (one.bytes or 0,)).scalar_one()
    rows = about(connection, kept_in, one)
    return size if rows is None else f"about {rows} rows, {size}"


def aside_relations(one: Object) -> tuple[str, str, str]:
    """What the tables of an object's rows that were set aside are called, in the stash's own schema: rows that were replaced,
    rows that a table which stays did not have, and what others have written elsewhere, see :mod:`.handed_on`."""
    return (
        f"guard:aside_{one.number}",
        f"guard:aside_{one.number}_inserted",
        f"guard:aside_{one.number}_written_{{number}}",
    )


def set_aside(connection: Connection, schema: str, one: Object) -> list[str]:
    """Those of them that are there, quoted."""
    asked = (
        "SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) FROM pg_catalog.pg_class c "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname = %s AND c.relname ~ %s "
        "ORDER BY c.relname"
    )
    names = f"^guard:aside_{one.number}(_inserted|_written_[0-9]+)?$"
    return list(connection.exec_driver_sql(asked, (schema, names)).scalars())


def about(connection: Connection, kept_in: str, one: Object) -> int | None:
    """How many rows the last ANALYZE has found in a kept table; None where there was none, or the table is gone."""
    place = f"{identifier(kept_in)}.{identifier(one.relation)}" if one.relation else None
    asked = (
        "SELECT reltuples::bigint FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass(%s) AND reltuples >= 0"
    )
    found: int | None = connection.exec_driver_sql(asked, (place,)).scalar()
    return found


def _grants(recorded: Any) -> tuple[Grant, ...]:
    return tuple((to, privilege, grantable) for to, privilege, grantable in recorded)


def _objects(connection: Connection, schema: str, stash: int) -> tuple[Object, ...]:
    rows = connection.exec_driver_sql(
        "SELECT number, kind, object_schema, object_name, relation, moved, key_columns, columns, types, lost_columns, "
        "row_count, sum_0, sum_1, bytes, last_value, is_called, grants, definition, left_as, structure, "
        "restored_rows, left_rows, coalesce((pg_catalog.to_jsonb(o) ->> 'body_read')::boolean, true) AS body_read "
        f"FROM {schema}.stash_object AS o WHERE stash_id = %s ORDER BY number",
        (stash,),
    )
    return tuple(
        Object(
            one.number, one.kind, one.object_schema, one.object_name, one.relation, one.moved,
            key=tuple(one.key_columns), columns=tuple(one.columns), types=tuple(one.types), lost=tuple(one.lost_columns),
            checksum=None if one.sum_0 is None else Checksum(one.row_count, int(one.sum_0), int(one.sum_1)),
            bytes=one.bytes, last_value=one.last_value, is_called=one.is_called,
            grants=_grants(one.grants),
            definition=one.definition, left_as=one.left_as, restored=one.restored_rows, left=one.left_rows,
            structure=one.structure, read=one.body_read,
        )
        for one in rows
    )  # fmt: skip
