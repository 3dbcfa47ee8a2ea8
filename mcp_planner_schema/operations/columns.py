"""Operations on one column: added with any default, filled, and left to itself before it is dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alembic.operations import MigrateOperation, Operations

from mcp_planner_schema.guard import journal
from mcp_planner_schema.guard.postcheck import execute, identifier, literal
from mcp_planner_schema.operations import backfill, online
from mcp_planner_schema.operations.written import rendered

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy.types import TypeEngine

    from mcp_planner_schema.operations.online import Table

_PROBE = "pg_temp.mcp_planner_probe"

_SHAPE = """
SELECT pg_catalog.format_type(a.atttypid, a.atttypmod), pg_catalog.pg_get_expr(d.adbin, d.adrelid), a.attnotnull,
       a.atthasmissing
FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %s::bigint::oid AND a.attname = %s AND NOT a.attisdropped
"""
_SAME_TYPE = """
SELECT a.atttypid = %s::pg_catalog.regtype::oid FROM pg_catalog.pg_attribute a
WHERE a.attrelid = %s::bigint::oid AND a.attname = %s AND NOT a.attisdropped
"""
_CONSTRAINT = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = %s::bigint::oid AND k.conname = %s)
"""
_FILE = "SELECT c.oid::bigint, c.relfilenode::bigint FROM pg_catalog.pg_class c WHERE c.oid = %s::regclass"


@dataclass(frozen=True)
class Shape:
    """A column as the catalog has it; ``kept`` says that old rows have the default without having been written."""

    type: str
    default: str | None
    not_null: bool
    kept: bool


@rendered("add_column_with_default")
@Operations.register_operation("add_column_with_default")
@dataclass(frozen=True)
class AddColumnWithDefault(MigrateOperation):
    """Add a column whose default every row has afterwards, the rows that are there already too.

    A default that is one value is added natively, for PostgreSQL keeps it beside the table. One that is another in each row
    (``gen_random_uuid()``, ``clock_timestamp()``) would rewrite the table under an ACCESS EXCLUSIVE lock: the column is added
    empty, new rows take the default at once, and old ones are filled by batches. Which of the two it is, is seen on an empty
    table. For a revision with ``Transaction: none``.
    """

    table: str
    column: str
    type: str
    default: str
    nullable: bool = True
    schema: str | None = None
    key: Sequence[str] = ()

    @classmethod
    def add_column_with_default(
        cls, operations: Operations, table: str, column: str, type_: str | TypeEngine[Any], default: str, *,
        nullable: bool = True, schema: str | None = None, key: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Add ``column``; ``default`` is SQL. ``key`` is the table's key, needed only for ``--sql``."""
        operations.invoke(cls(table, column, _type(type_), default, nullable, schema, tuple(key)))

    def reverse(self) -> Any:
        """The way back: Alembic's own."""
        from alembic.operations.ops import DropColumnOp

        return DropColumnOp(self.table, self.column, schema=self.schema)


@rendered("fill_column")
@Operations.register_operation("fill_column")
@dataclass(frozen=True)
class FillColumn(MigrateOperation):
    """Give a value to all rows that have none in a column, by batches that commit. For ``Transaction: none``."""

    table: str
    column: str
    value: str
    schema: str | None = None
    key: Sequence[str] = ()

    @classmethod
    def fill_column(
        cls, operations: Operations, table: str, column: str, value: str, *, schema: str | None = None,
        key: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Set ``column`` to ``value`` (SQL; other columns of the row may stand in it) where it is NULL."""
        operations.invoke(cls(table, column, value, schema, tuple(key)))

    def reverse(self) -> FillColumn:
        """Nothing is taken out again: the same, which finds nothing to do."""
        return self


@rendered("ensure_column")
@Operations.register_operation("ensure_column")
@dataclass(frozen=True)
class EnsureColumn(MigrateOperation):
    """Add a column unless an interrupted run of the same revision has added it. Old rows have NULL in it, whatever its default.

    Belongs to the step's transaction.
    """

    table: str
    column: str
    type: str
    default: str | None = None
    comment: str | None = None
    schema: str | None = None

    @classmethod
    def ensure_column(
        cls, operations: Operations, table: str, column: str, type_: str | TypeEngine[Any], default: str | None = None, *,
        comment: str | None = None, schema: str | None = None,
    ) -> None:  # fmt: skip
        """Add ``column``, nullable; one of the same name and another type is refused. ``default`` is SQL."""
        operations.invoke(cls(table, column, _type(type_), default, comment, schema))

    def reverse(self) -> Any:
        """The way back: Alembic's own."""
        from alembic.operations.ops import DropColumnOp

        return DropColumnOp(self.table, self.column, schema=self.schema)


@rendered("ensure_constraint")
@Operations.register_operation("ensure_constraint")
@dataclass(frozen=True)
class EnsureConstraint(MigrateOperation):
    """Add a check or foreign key NOT VALID unless an interrupted run of the same revision has. In the step's transaction."""

    table: str
    name: str
    definition: str
    schema: str | None = None

    @classmethod
    def ensure_constraint(
        cls, operations: Operations, table: str, name: str, definition: str, *, schema: str | None = None
    ) -> None:
        """Add the constraint, whose ``definition`` is ``CHECK (…)`` or ``FOREIGN KEY …``; VALIDATE comes when rows are filled."""
        operations.invoke(cls(table, name, definition, schema))

    def reverse(self) -> Any:
        """The way back: Alembic's own."""
        from alembic.operations.ops import DropConstraintOp

        return DropConstraintOp(self.name, self.table, schema=self.schema)


@Operations.implementation_for(AddColumnWithDefault)
def _add(operations: Operations, operation: AddColumnWithDefault) -> None:
    context, name, made = operations.migration_context, operation.column, (operation.type, operation.default)
    filled = f"{identifier(name)} = DEFAULT", f"filled.{identifier(name)} IS NULL"
    if context.as_sql:
        # Nobody to ask what the default is, so the way that is right for both.
        table_sql = online.qualified(operation.schema, operation.table)
        online.hold(context, *_in_two(table_sql, name, made))
        if not operation.key:
            raise ValueError(f"add_column_with_default({operation.table!r}): as SQL, the batches need its key=[…]")
        backfill.text(context, table_sql, operation.key, *filled)
        _not_null(operations, operation)
        return
    table = online.table(context, operation.table, operation.schema)
    with journal.entry(context, "add_column_with_default", f"{table.shown}.{name}") as entry:
        wanted = _probe(context, name, made)
        there = shape(context, table, name)
        if there is None:
            whole = f"ALTER TABLE {table.sql} ADD COLUMN {identifier(name)} {made[0]} DEFAULT {made[1]}"
            if wanted.kept:
                online.hold(context, whole + ("" if operation.nullable else " NOT NULL"))
            else:
                online.say(
                    context, f"{table.shown}.{name}: the default differs from row to row, so rows are filled by batches"
                )
                online.hold(context, *_in_two(table.sql, name, made))
        elif (there.type, there.default) != (wanted.type, wanted.default):
            what = f"column {table.shown}.{name} of type {told(wanted)}"
            online.refuse(context, "operation-differs", what=what, found=f"one of type {told(there)}")
        if not wanted.kept:
            written = backfill.run(context, table, *filled, f"{table.shown}.{name}")
            entry.detail["rows"] = entry.detail.get("rows", 0) + written
    if not wanted.kept:
        _not_null(operations, operation)


@Operations.implementation_for(FillColumn)
def _fill(operations: Operations, operation: FillColumn) -> None:
    context, name = operations.migration_context, identifier(operation.column)
    settings, where = f"{name} = ({operation.value})", f"filled.{name} IS NULL"
    if context.as_sql:
        if not operation.key:
            raise ValueError(f"fill_column({operation.table!r}): as SQL, the batches need its key=[…]")
        backfill.text(context, online.qualified(operation.schema, operation.table), operation.key, settings, where)
        return
    table = online.table(context, operation.table, operation.schema)
    with journal.entry(context, "fill_column", f"{table.shown}.{operation.column}") as entry:
        written = backfill.run(context, table, settings, where, f"{table.shown}.{operation.column}")
        entry.detail["rows"] = entry.detail.get("rows", 0) + written
    if written:
        online.say(context, f"{table.shown}.{operation.column}: {written:,} rows filled")


@Operations.implementation_for(EnsureColumn)
def _ensure(operations: Operations, operation: EnsureColumn) -> None:
    context, name = operations.migration_context, identifier(operation.column)
    table_sql = online.qualified(operation.schema, operation.table)
    statements = _in_two(table_sql, operation.column, (operation.type, operation.default))
    if operation.comment:
        statements.append(f"COMMENT ON COLUMN {table_sql}.{name} IS {literal(operation.comment)}")
    if context.as_sql:
        for sql in statements:
            context.impl.static_output(sql + ";")
        return
    table = online.table(context, operation.table, operation.schema)
    there = shape(context, table, operation.column)
    if there is not None:
        # Asked in the step's transaction: another type is the only thing that can be wrong with what a former run has added.
        if not online.ask(context, _SAME_TYPE, (operation.type, table.oid, operation.column))[0][0]:
            what = f"column {table.shown}.{operation.column} of type {operation.type}"
            online.refuse(context, "operation-differs", what=what, found=f"one of type {told(there)}")
        return
    for sql in statements:
        execute(context.connection, sql)  # type: ignore[arg-type]  # online there is one


@Operations.implementation_for(EnsureConstraint)
def _constraint(operations: Operations, operation: EnsureConstraint) -> None:
    context = operations.migration_context
    table_sql = online.qualified(operation.schema, operation.table)
    sql = f"ALTER TABLE {table_sql} ADD CONSTRAINT {identifier(operation.name)} {operation.definition} NOT VALID"
    if context.as_sql:
        context.impl.static_output(sql + ";")
        return
    table = online.table(context, operation.table, operation.schema)
    if not online.ask(context, _CONSTRAINT, (table.oid, operation.name))[0][0]:
        execute(context.connection, sql)  # type: ignore[arg-type]  # online there is one


def shape(context: MigrationContext, table: Table, name: str) -> Shape | None:
    """The column as the catalog has it; None where there is none."""
    found = online.ask(context, _SHAPE, (table.oid, name))
    return Shape(*found[0]) if found else None


def told(shape: Shape) -> str:
    """A column for people."""
    return shape.type + (f" default {shape.default}" if shape.default else "") + (" not null" if shape.not_null else "")


def _type(given: str | TypeEngine[Any]) -> str:
    """A type as SQL."""
    if isinstance(given, str):
        return given
    from sqlalchemy.dialects import postgresql

    return str(given.compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]  # a class, says SQLAlchemy


def _in_two(table: str, name: str, made: tuple[str, str | None]) -> list[str]:
    """Add the column empty, then set its default: rows that are there keep NULL, and none is read."""
    added = f"ALTER TABLE {table} ADD COLUMN {identifier(name)} {made[0]}"
    return [added] + ([f"ALTER TABLE {table} ALTER COLUMN {identifier(name)} SET DEFAULT {made[1]}"] if made[1] else [])


def _probe(context: MigrationContext, name: str, made: tuple[str, str]) -> Shape:
    """The column as PostgreSQL makes it, on an empty table of this session: a rewrite there would be one anywhere."""
    connection = context.connection
    assert connection is not None
    execute(connection, "SAVEPOINT guard_probe; CREATE TEMPORARY TABLE mcp_planner_probe ()")
    oid, before = connection.exec_driver_sql(_FILE, (_PROBE,)).one()
    execute(connection, f"ALTER TABLE {_PROBE} ADD COLUMN {identifier(name)} {made[0]} DEFAULT {made[1]}")
    _, after = connection.exec_driver_sql(_FILE, (_PROBE,)).one()
    found = Shape(*connection.exec_driver_sql(_SHAPE, (oid, name)).one())
    execute(connection, "ROLLBACK TO SAVEPOINT guard_probe; RELEASE SAVEPOINT guard_probe")
    # DEFAULT NULL and a default that is NULL for this once are kept nowhere, and need not be.
    return Shape(found.type, found.default, found.not_null, before == after)


def _not_null(operations: Any, operation: AddColumnWithDefault) -> None:
    if not operation.nullable:
        operations.set_not_null_concurrently(operation.table, operation.column, schema=operation.schema)
