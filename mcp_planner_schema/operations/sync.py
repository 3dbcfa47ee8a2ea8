"""Two names for one value: a trigger keeps old and new columns of a table in agreement while two releases are at work.

``op.sync_columns`` makes it, ``op.fill_synced_columns`` brings the rows into agreement that are older than it, ``op.drop_sync``
takes it away. All three take the same arguments, which a revision writes down once::

    SYNC = {"table": "people", "old": ["full_name"], "new": ["first_name", "last_name"],
            "forward": ["split_part(full_name, ' ', 1)", "split_part(full_name, ' ', 2)"],
            "backward": ["concat_ws(' ', first_name, last_name)"], "key": ["id"]}

    op.sync_columns(**SYNC)

The rule, as both sides see it. A row *agrees* when its new columns are what ``forward`` makes of the old ones, or its old
columns what ``backward`` makes of the new ones. The side that a statement gives (INSERT: a value other than the column's
default; UPDATE: a value other than before) is taken for both. Both given: they must agree, or it is an error, SQLSTATE MP010.
None given: a row that does not agree is one from before the trigger, and is filled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from alembic.operations import MigrateOperation, Operations

from mcp_planner_schema.guard import journal
from mcp_planner_schema.guard.postcheck import execute, identifier, literal
from mcp_planner_schema.operations import backfill, online
from mcp_planner_schema.operations.written import rendered

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

DIFFER = "MP010"
"""SQLSTATE: one statement gives both sides, and they do not agree."""

_TRIGGER = """
SELECT p.proname::text, t.tgenabled IN ('O', 'A') FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
WHERE t.tgrelid = %s::bigint::oid AND t.tgname = %s
"""


@dataclass(frozen=True)
class Sync:
    """Which columns are kept in agreement, and how: ``forward`` has one expression for each new column, over the old ones.

    None instead of ``forward`` or ``backward``: the values are the same. Expressions run with ``search_path = pg_catalog``:
    functions and types of other schemas are written with theirs. ``defaults`` are the columns' defaults as SQL; a column in
    ``volatile`` has one that is another at each call, so nobody can tell whether it was given. ``key`` names the row in
    errors. ``fill`` is the side that rows from before the trigger lack: ``new``, on the way back ``old``.
    """

    table: str
    old: Sequence[str]
    new: Sequence[str]
    forward: Sequence[str] | None = None
    backward: Sequence[str] | None = None
    defaults: Mapping[str, str] = field(default_factory=dict)
    volatile: Sequence[str] = ()
    key: Sequence[str] = ()
    fill: str = "new"
    schema: str | None = None

    def __post_init__(self) -> None:
        for name in ("old", "new", "forward", "backward", "key", "volatile"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else value and tuple(value))
        for side, made in (("new", "forward"), ("old", "backward")):
            wanted, given = len(getattr(self, side)), len(getattr(self, made) or getattr(self, side))
            if wanted != given or (getattr(self, made) is None and len(self.old) != len(self.new)):
                raise ValueError(f"sync of {self.table}: {made} needs one expression for each of {getattr(self, side)}")
        if self.fill not in ("old", "new"):
            raise ValueError(f"fill is {self.fill!r}; it is the side that rows lack, old or new")

    @property
    def function(self) -> str:
        """The trigger function's name, without schema."""
        return name_of("sync", self.table, *self.new)

    @property
    def trigger(self) -> str:
        """The trigger's name: behind all others of the table, so that it sees what they have made of the row."""
        return name_of("zz_sync", *self.old, *self.new)

    def made(self, side: str, row: str) -> Iterable[tuple[str, str]]:
        """For each column of ``side`` the SQL that makes it of the other side's columns of ``row``."""
        columns, others, expressions = (
            (self.new, self.old, self.forward) if side == "new" else (self.old, self.new, self.backward)
        )
        if expressions is None:
            return [(name, f"{row}.{identifier(other)}") for name, other in zip(columns, others, strict=True)]
        given = ", ".join(f"{row}.{identifier(other)} AS {identifier(other)}" for other in others)
        return [
            (name, f"(SELECT {made} FROM (SELECT {given}) AS given)")
            for name, made in zip(columns, expressions, strict=True)
        ]

    def side(self, name: str) -> Sequence[str]:
        """The columns of one side, ``old`` or ``new``."""
        return self.old if name == "old" else self.new

    def assigned(self, side: str, row: str, target: str) -> Iterator[str]:
        """Assignments in PL/pgSQL: the columns of ``side`` are made of ``row``, into ``target``."""
        for name, made in self.made(side, row):
            yield f"{target}.{identifier(name)} := {made};"

    def differs(self, row: str) -> str:
        """SQL: that a ``row`` of the table does not agree. Values are compared as JSON, which every type has."""
        return " AND ".join(
            "("
            + " OR ".join(
                f"pg_catalog.to_jsonb({row}.{identifier(name)}) IS DISTINCT FROM pg_catalog.to_jsonb({made})"
                for name, made in self.made(side, row)
            )
            + ")"
            for side in ("new", "old")
        )


def name_of(*parts: str) -> str:
    """The parts as one name; a long one is cut, and told apart by a hash, to the 63 bytes that PostgreSQL keeps."""
    whole = "_".join(parts)
    if len(whole.encode()) <= 63:
        return whole
    return online.shortened(whole, "_" + hashlib.sha256(whole.encode()).hexdigest()[:8])


@rendered("sync_columns")
@Operations.register_operation("sync_columns")
@dataclass(frozen=True)
class SyncColumns(Sync, MigrateOperation):
    """Make the trigger; where there is one already, its function is replaced. Belongs to the step's transaction."""

    @classmethod
    def sync_columns(cls, operations: Operations, table: str, old: str | Sequence[str], new: str | Sequence[str],
                     **how: Any) -> None:  # fmt: skip
        """Keep ``old`` and ``new`` columns of a table in agreement, whichever is written; see :class:`Sync`."""
        operations.invoke(cls(table, old, new, **how))

    def reverse(self) -> DropSync:
        """The way back."""
        return DropSync(**_arguments(self))


@rendered("drop_sync")
@Operations.register_operation("drop_sync")
@dataclass(frozen=True)
class DropSync(Sync, MigrateOperation):
    """Drop the trigger and its function. Belongs to the step's transaction."""

    @classmethod
    def drop_sync(cls, operations: Operations, table: str, old: str | Sequence[str], new: str | Sequence[str],
                  **how: Any) -> None:  # fmt: skip
        """Keep the columns in agreement no longer; takes what :func:`sync_columns` has taken."""
        operations.invoke(cls(table, old, new, **how))

    def reverse(self) -> SyncColumns:
        """The way back."""
        return SyncColumns(**_arguments(self))


@rendered("fill_synced_columns")
@Operations.register_operation("fill_synced_columns")
@dataclass(frozen=True)
class FillSyncedColumns(Sync, MigrateOperation):
    """Bring all rows into agreement that are not, by batches that commit. For a revision with ``Transaction: none``."""

    @classmethod
    def fill_synced_columns(cls, operations: Operations, table: str, old: str | Sequence[str], new: str | Sequence[str],
                            **how: Any) -> None:  # fmt: skip
        """Fill the columns of the rows that are older than the trigger; takes what :func:`sync_columns` has taken."""
        operations.invoke(cls(table, old, new, **how))

    def reverse(self) -> FillSyncedColumns:
        """What was filled stays true while the trigger is there, so going back fills the other side."""
        return FillSyncedColumns(**_arguments(self) | {"fill": "old" if self.fill == "new" else "new"})


def _arguments(sync: Sync) -> dict[str, Any]:
    return {one.name: getattr(sync, one.name) for one in fields(Sync)}


@Operations.implementation_for(SyncColumns)
def _sync(operations: Operations, sync: SyncColumns) -> None:
    context = operations.migration_context
    _run(context, function_sql(sync))
    if context.as_sql or not _there(context, sync):
        _run(context, trigger_sql(sync))


@Operations.implementation_for(DropSync)
def _drop(operations: Operations, sync: DropSync) -> None:
    context = operations.migration_context
    table = online.qualified(sync.schema, sync.table)
    _run(context, f"DROP TRIGGER {identifier(sync.trigger)} ON {table}")
    _run(context, f"DROP FUNCTION {online.qualified(sync.schema, sync.function)}()")


@Operations.implementation_for(FillSyncedColumns)
def _fill(operations: Operations, sync: FillSyncedColumns) -> None:
    context = operations.migration_context
    # Written as it is, so that the trigger takes it for a row from before, and fills it. What is there is not written to.
    first = identifier(sync.side(sync.fill)[0])
    settings, where = f"{first} = filled.{first}", sync.differs("filled")
    if context.as_sql:
        if not sync.key:
            raise ValueError(f"sync of {sync.table}: written as SQL, the batches need its key=[…]")
        backfill.text(context, online.qualified(sync.schema, sync.table), sync.key, settings, where)
        return
    table = online.table(context, sync.table, sync.schema)
    with journal.entry(context, "fill_synced_columns", f"{table.shown}.{', '.join(sync.new)}") as entry:
        written = backfill.run(context, table, settings, where, f"{table.shown}.{'_'.join(sync.new)}")
        entry.detail["rows"] = entry.detail.get("rows", 0) + written
    if written:
        online.say(context, f"{table.shown}: {written:,} rows filled")


def function_sql(sync: Sync) -> str:
    """``CREATE OR REPLACE FUNCTION`` with its comment. It locks no table."""
    name = online.qualified(sync.schema, sync.function) + "()"
    body = "\n".join(["", "#variable_conflict use_column", *_body(sync), ""])
    said = f"{', '.join(sync.old)} and {', '.join(sync.new)} stay in agreement, whichever is written"
    return (
        f"CREATE OR REPLACE FUNCTION {name} RETURNS trigger\nLANGUAGE plpgsql VOLATILE\n"
        f"SET search_path = pg_catalog, pg_temp\nAS {dollar(body)};\n"
        f"COMMENT ON FUNCTION {name} IS\n{literal(f'Trigger: {said}. Both, and not in agreement: SQLSTATE {DIFFER}.')}"
    )


def dollar(body: str) -> str:
    """A body in a dollar quote that nothing in it can end."""
    tag = "$function$"
    while tag in body:
        tag = f"{tag[:-1]}_$"
    return f"{tag}{body}{tag}"


def trigger_sql(sync: Sync) -> str:
    """``CREATE TRIGGER`` with its comment: on every update, so that one of other columns fills a row that is not filled yet."""
    table, trigger = online.qualified(sync.schema, sync.table), identifier(sync.trigger)
    return (
        f"CREATE TRIGGER {trigger}\nBEFORE INSERT OR UPDATE ON {table}\nFOR EACH ROW\n"
        f"EXECUTE FUNCTION {online.qualified(sync.schema, sync.function)}();\n"
        f"COMMENT ON TRIGGER {trigger} ON {table} IS\n'Keeps two names of one value in agreement while two releases are at work.'"
    )


def _body(sync: Sync) -> Iterator[str]:
    """The lines of the trigger function."""
    yield "DECLARE\n    made record;\n    old_given boolean;\n    new_given boolean;\nBEGIN"
    yield "    IF TG_OP = 'INSERT' THEN\n        -- A column that is left out has its default.\n        made := NEW;"
    for name in (*sync.old, *sync.new):
        yield f"        made.{identifier(name)} := {sync.defaults.get(name, 'NULL')};"
    for side in ("old", "new"):
        yield f"        {side}_given := {_differ([one for one in sync.side(side) if one not in sync.volatile], 'made', 'NEW')};"
    yield "    ELSE"
    for side in ("old", "new"):
        yield f"        {side}_given := {_differ(sync.side(side), 'OLD', 'NEW')};"
    yield "        made := OLD;"
    yield from sync.assigned("new", "OLD", "        made")
    yield f"        IF {_differ(sync.new, 'made', 'OLD')} THEN"
    yield from sync.assigned("old", "OLD", "            made")
    yield f"            IF {_differ(sync.old, 'made', 'OLD')} THEN"
    yield "                -- A row from before this trigger: what the statement leaves as it was is filled first."
    for one in map(identifier, sync.side(sync.fill)):
        yield f"                IF record_image_eq(ROW(NEW.{one}), ROW(OLD.{one})) THEN"
        yield f"                    NEW.{one} := made.{one};\n                END IF;"
    yield "            END IF;\n        END IF;\n    END IF;"
    yield "    IF new_given AND NOT old_given THEN"
    yield from sync.assigned("old", "NEW", "        NEW")
    yield "    ELSIF old_given AND NOT new_given THEN"
    yield from sync.assigned("new", "NEW", "        NEW")
    yield "    ELSIF old_given OR TG_OP = 'INSERT' THEN\n        made := NEW;"
    yield from sync.assigned("new", "NEW", "        made")
    yield f"        IF {_differ(sync.new, 'made', 'NEW')} THEN"
    yield from sync.assigned("old", "NEW", "            made")
    yield f"            IF {_differ(sync.old, 'made', 'NEW')} THEN"
    yield "                IF old_given THEN"
    yield from _raise(sync)
    yield "                END IF;"
    for one in map(identifier, sync.new):
        yield f"                NEW.{one} := made.{one};"
    yield "            END IF;\n        END IF;\n    END IF;\n    RETURN NEW;\nEND"


def _differ(names: Sequence[str], one: str, other: str) -> str:
    """SQL: whether two rows differ in some of the columns, by the image of the values: every type has one, and case counts."""
    if not names:
        return "false"
    left, right = (", ".join(f"{row}.{identifier(name)}" for name in names) for row in (one, other))
    return f"record_image_ne(ROW({left}), ROW({right}))"


def _raise(sync: Sync) -> Iterator[str]:
    shown = [f"coalesce(NEW.{identifier(name)}::text, 'NULL')" for name in (*sync.old, *sync.new)]
    values = " and ".join(f"{name.replace('%', '%%')} %s" for name in (*sync.old, *sync.new))
    row = f"concat_ws(', ', {', '.join(f'NEW.{identifier(name)}' for name in sync.key)})" if sync.key else "'?'"
    yield (
        "                    RAISE EXCEPTION USING\n"
        f"                        ERRCODE = '{DIFFER}', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, "
        f"COLUMN = {literal(sync.new[0])},\n"
        f"                        MESSAGE = format({literal(f'row %s of %s has {values}')}, {row}, TG_TABLE_NAME, "
        f"{', '.join(shown)}),\n"
        "                        DETAIL = 'They are one value under an old and a new name, and a statement gave both.',\n"
        "                        HINT = 'Give one of them, or both in agreement.';"
    )


def _there(context: MigrationContext, sync: Sync) -> bool:
    """Whether the trigger is there; one of the same name that calls another function is refused."""
    table = online.table(context, sync.table, sync.schema)
    found = online.ask(context, _TRIGGER, (table.oid, sync.trigger))
    if found and found[0] != (sync.function, True):
        what = f"trigger {sync.trigger} of {table.shown}"
        online.refuse(context, "operation-differs", what=what, found="one that is off, or calls another function")
    return bool(found)


def _run(context: MigrationContext, sql: str) -> None:
    """In the step's transaction, as it is; offline written down."""
    if context.as_sql:
        context.impl.static_output(sql + ";")
    else:
        execute(context.connection, sql)  # type: ignore[arg-type]  # online there is one
