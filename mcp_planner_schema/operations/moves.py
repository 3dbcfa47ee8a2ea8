"""One value at two places: a column that moves to another table is kept equal in both while two releases are at work.

``op.sync_moved_column`` makes the triggers, ``op.fill_moved_column`` brings the rows into agreement that are older than they,
``op.drop_moved_sync`` takes them away. A row of the one table belongs to that of the other with the same key, one to one::

    MOVE = {"table": "users", "column": "address", "to_table": "profiles", "on": ["id", "user_id"]}

    op.sync_moved_column(**MOVE)

Two transactions that write the same pair of rows from both ends at once may meet in a deadlock, which PostgreSQL ends.

The rule: what a statement writes at one place is written at the other, where there is a row. A row that is inserted without
the value takes the other's. A row that is deleted leaves the other as it is. The functions belong to who migrates, and act
with that role's rights (SECURITY DEFINER): who may write to one table need not be allowed to write to the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from alembic.operations import MigrateOperation, Operations

from mcp_planner_schema.guard import journal
from mcp_planner_schema.guard.postcheck import execute, identifier, literal
from mcp_planner_schema.operations import backfill, online
from mcp_planner_schema.operations.sync import dollar, name_of
from mcp_planner_schema.operations.written import rendered

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

_THERE = "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = %s::bigint::oid AND t.tgname = %s)"


@dataclass(frozen=True)
class Place:
    """One of the two places: the table (quoted, with schema), its column and its key, as SQL."""

    table: str
    column: str
    key: str


@dataclass(frozen=True)
class Move:
    """Which column moves where. ``on`` are the two columns that say which rows belong together, each unique in its table.

    ``default`` is the column's default as SQL, at both places. ``schema`` is that of both tables. ``fill`` is the place whose
    rows lack the value: ``new``, on the way back ``old``. ``key`` and ``to_key`` are the tables' keys, needed only for ``--sql``.
    """

    table: str
    column: str
    to_table: str
    on: Sequence[str]
    to_column: str | None = None
    default: str = "NULL"
    fill: str = "new"
    schema: str = "public"
    key: Sequence[str] = ()
    to_key: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("on", "key", "to_key"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        if len(self.on) != 2 or self.fill not in ("old", "new"):
            raise ValueError(f"move of {self.table}.{self.column}: on is two columns, fill is old or new")

    @property
    def old(self) -> Place:
        """Where the old release looks."""
        return Place(online.qualified(self.schema, self.table), identifier(self.column), identifier(self.on[0]))

    @property
    def new(self) -> Place:
        """Where the new release looks."""
        table = online.qualified(self.schema, self.to_table)
        return Place(table, identifier(self.to_column or self.column), identifier(self.on[1]))

    def places(self) -> Iterator[tuple[str, Place, Place, bool]]:
        """For each place: its name in the triggers' names, itself, the other one, whether its rows fill the other's."""
        yield "away", self.old, self.new, self.fill == "new"
        yield "here", self.new, self.old, self.fill == "old"

    def trigger(self, word: str, side: str) -> str:
        """The name of a trigger and of its function: behind all others of the table."""
        return name_of(f"zz_{word}", self.table, self.column, side)


@rendered("sync_moved_column")
@Operations.register_operation("sync_moved_column")
@dataclass(frozen=True)
class SyncMovedColumn(Move, MigrateOperation):
    """Make the triggers on both tables; where they are already, their functions are replaced. In the step's transaction."""

    @classmethod
    def sync_moved_column(cls, operations: Operations, table: str, column: str, to_table: str, on: Sequence[str],
                          **how: Any) -> None:  # fmt: skip
        """Keep ``column`` equal in ``table`` and ``to_table``, whichever is written; see :class:`Move`."""
        operations.invoke(cls(table, column, to_table, on, **how))

    def reverse(self) -> DropMovedSync:
        """The way back."""
        return DropMovedSync(**_arguments(self))


@rendered("drop_moved_sync")
@Operations.register_operation("drop_moved_sync")
@dataclass(frozen=True)
class DropMovedSync(Move, MigrateOperation):
    """Drop the triggers and their functions. In the step's transaction."""

    @classmethod
    def drop_moved_sync(cls, operations: Operations, table: str, column: str, to_table: str, on: Sequence[str],
                        **how: Any) -> None:  # fmt: skip
        """Keep the two equal no longer; takes what :func:`sync_moved_column` has taken."""
        operations.invoke(cls(table, column, to_table, on, **how))

    def reverse(self) -> SyncMovedColumn:
        """The way back."""
        return SyncMovedColumn(**_arguments(self))


@rendered("fill_moved_column")
@Operations.register_operation("fill_moved_column")
@dataclass(frozen=True)
class FillMovedColumn(Move, MigrateOperation):
    """Give all rows of the one place the value of the other, by batches that commit. For ``Transaction: none``."""

    @classmethod
    def fill_moved_column(cls, operations: Operations, table: str, column: str, to_table: str, on: Sequence[str],
                          **how: Any) -> None:  # fmt: skip
        """Fill the rows that are older than the triggers; takes what :func:`sync_moved_column` has taken."""
        operations.invoke(cls(table, column, to_table, on, **how))

    def reverse(self) -> FillMovedColumn:
        """What was filled stays true while the triggers are there, so going back fills the other place."""
        return FillMovedColumn(**_arguments(self) | {"fill": "old" if self.fill == "new" else "new"})


def _arguments(move: Move) -> dict[str, Any]:
    return {one.name: getattr(move, one.name) for one in fields(Move)}


@Operations.implementation_for(SyncMovedColumn)
def _sync(operations: Operations, move: SyncMovedColumn) -> None:
    context = operations.migration_context
    for side, own, other, fills in move.places():
        for word in ("take", "pass"):
            name = move.trigger(word, side)
            function = f"{online.qualified(move.schema, name)}()"
            body = _take(move, own, other) if word == "take" else _pass(move, own, other, fills=fills)
            _run(context, _function(function, body))
            if not context.as_sql:
                table = online.table(context, move.table if side == "away" else move.to_table, move.schema)
                if online.ask(context, _THERE, (table.oid, name))[0][0]:
                    continue
            _run(
                context,
                f"CREATE TRIGGER {identifier(name)}\n{'BEFORE' if word == 'take' else 'AFTER'} INSERT OR UPDATE ON {own.table}\n"
                f"FOR EACH ROW\nEXECUTE FUNCTION {function}",
            )
            said = "Keeps a value equal at its old and its new place while two releases are at work."
            _run(context, f"COMMENT ON TRIGGER {identifier(name)} ON {own.table} IS\n{literal(said)}")


@Operations.implementation_for(DropMovedSync)
def _drop(operations: Operations, move: DropMovedSync) -> None:
    context = operations.migration_context
    for side, own, _, _ in move.places():
        for word in ("take", "pass"):
            name = move.trigger(word, side)
            _run(context, f"DROP TRIGGER {identifier(name)} ON {own.table}")
            _run(context, f"DROP FUNCTION {online.qualified(move.schema, name)}()")


@Operations.implementation_for(FillMovedColumn)
def _fill(operations: Operations, move: FillMovedColumn) -> None:
    context = operations.migration_context
    [(own, other)] = [(own, other) for _, own, other, fills in move.places() if fills]
    # The row that has the value is written as it is, and passes it on: its lock comes first, so nobody's newer value is lost.
    settings = f"{own.column} = filled.{own.column}"
    where = (
        f"EXISTS (SELECT FROM {other.table} AS other WHERE other.{other.key} = filled.{own.key} AND "
        f"pg_catalog.record_image_ne(ROW(other.{other.column}), ROW(filled.{own.column})))"
    )
    name, key = (move.table, move.key) if move.fill == "new" else (move.to_table, move.to_key)
    if context.as_sql:
        if not key:
            raise ValueError(f"move of {move.table}.{move.column}: as SQL, the batches need key=[…] and to_key=[…]")
        backfill.text(context, own.table, key, settings, where)
        return
    table = online.table(context, name, move.schema)
    with journal.entry(context, "fill_moved_column", f"{move.table}.{move.column}") as entry:
        written = backfill.run(context, table, settings, where, f"{move.table}.{move.column}")
        entry.detail["rows"] = entry.detail.get("rows", 0) + written
    if written:
        online.say(context, f"{move.table}.{move.column}: {written:,} rows passed on")


def _take(move: Move, own: Place, other: Place) -> Iterator[str]:
    """Before: a row that comes without the value, or comes to belong to another one, takes that one's value."""
    yield "DECLARE\n    made record;\n    found_there record;\nBEGIN"
    yield "    made := NEW;"
    yield "    IF TG_OP = 'INSERT' THEN"
    yield f"        made.{own.column} := {move.default};"
    yield f"    ELSIF record_image_eq(ROW(NEW.{own.key}), ROW(OLD.{own.key})) THEN\n        RETURN NEW;\n    ELSE"
    yield f"        made.{own.column} := OLD.{own.column};\n    END IF;"
    yield f"    IF record_image_eq(ROW(made.{own.column}), ROW(NEW.{own.column})) THEN"
    yield "        -- Its lock waits for who is writing the value there, and lets nobody write it before this row is there."
    yield f"        SELECT other.{other.column} AS value INTO found_there FROM {other.table} AS other"
    yield f"        WHERE other.{other.key} = NEW.{own.key} FOR SHARE;"
    yield f"        IF FOUND THEN\n            NEW.{own.column} := found_there.value;\n        END IF;"
    yield "    END IF;\n    RETURN NEW;\nEND"


def _pass(move: Move, own: Place, other: Place, *, fills: bool) -> Iterator[str]:
    """After: a new value goes to the other place. Nothing is written there that is there, so it goes no further."""
    yield "BEGIN"
    if not fills:  # else every row passes on what it has: the other's may be from before the triggers
        yield f"    IF TG_OP = 'UPDATE' AND record_image_eq(ROW(NEW.{own.column}), ROW(OLD.{own.column})) THEN"
        yield "        RETURN NULL;\n    END IF;"
    yield f"    UPDATE {other.table} AS other SET {other.column} = NEW.{own.column}"
    yield f"    WHERE other.{other.key} = NEW.{own.key}"
    yield f"      AND record_image_ne(ROW(other.{other.column}), ROW(NEW.{own.column}));"
    yield "    RETURN NULL;\nEND"


def _function(name: str, body: Iterator[str]) -> str:
    text = "\n".join(["", "#variable_conflict use_column", *body, ""])
    return (
        f"CREATE OR REPLACE FUNCTION {name} RETURNS trigger\nLANGUAGE plpgsql VOLATILE SECURITY DEFINER\n"
        f"SET search_path = pg_catalog, pg_temp\nAS {dollar(text)};\n"
        f"COMMENT ON FUNCTION {name} IS\n'Trigger: a value is equal at its old and its new place, whichever is written.';\n"
        # Whoever may execute it may put it on a table of his own, and write to the other place with the definer's rights.
        f"REVOKE EXECUTE ON FUNCTION {name} FROM PUBLIC"
    )


def _run(context: MigrationContext, sql: str) -> None:
    if context.as_sql:
        context.impl.static_output(sql + ";")
    else:
        execute(context.connection, sql)  # type: ignore[arg-type]  # online there is one
