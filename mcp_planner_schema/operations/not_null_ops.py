"""``op.set_not_null_concurrently`` and ``op.drop_not_null``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic.operations import Operations, ops

from mcp_planner_schema.guard.postcheck import identifier
from mcp_planner_schema.operations import not_null, online

if TYPE_CHECKING:
    from mcp_planner_schema.guard.journal import Entry


@Operations.register_operation("set_not_null_concurrently")
@dataclass(frozen=True)
class SetNotNullConcurrentlyOp(ops.MigrateOperation):
    """Make a column NOT NULL; its rows are read while everybody reads and writes."""

    table_name: str
    column_name: str
    schema: str | None = None

    @classmethod
    def set_not_null_concurrently(
        cls, operations: Operations, table_name: str, column_name: str, *, schema: str | None = None
    ) -> None:
        """As ``op.alter_column(…, nullable=False)``. Rows with null are counted and named before anything is done."""
        operations.invoke(cls(table_name, column_name, schema))

    def reverse(self) -> DropNotNullOp:
        """The operation that lets it be null again."""
        return DropNotNullOp(self.table_name, self.column_name, self.schema)


@Operations.register_operation("drop_not_null")
@dataclass(frozen=True)
class DropNotNullOp(ops.MigrateOperation):
    """Let a column be null, under a brief lock."""

    table_name: str
    column_name: str
    schema: str | None = None

    @classmethod
    def drop_not_null(
        cls, operations: Operations, table_name: str, column_name: str, *, schema: str | None = None
    ) -> None:
        """As ``op.alter_column(…, nullable=True)``."""
        operations.invoke(cls(table_name, column_name, schema))

    def reverse(self) -> SetNotNullConcurrentlyOp:
        """The operation that makes it NOT NULL."""
        return SetNotNullConcurrentlyOp(self.table_name, self.column_name, self.schema)


@Operations.implementation_for(SetNotNullConcurrentlyOp)
def _set_not_null(operations: Operations, operation: SetNotNullConcurrentlyOp) -> None:
    context, column = operations.migration_context, operation.column_name

    def work(_: Entry) -> None:
        not_null.set_on(context, online.table(context, operation.table_name, operation.schema), column)

    online.carry_out(
        context, "set_not_null_concurrently", f"{operation.table_name}.{column}", work,
        lambda: not_null_text(operations, operation.table_name, column, operation.schema),
    )  # fmt: skip


@Operations.implementation_for(DropNotNullOp)
def _drop_not_null(operations: Operations, operation: DropNotNullOp) -> None:
    context, column = operations.migration_context, operation.column_name

    def work(_: Entry) -> None:
        not_null.drop_from(context, online.table(context, operation.table_name, operation.schema), column)

    def text() -> None:
        table = online.qualified(operation.schema, operation.table_name)
        online.hold(context, f"ALTER TABLE {table} ALTER COLUMN {identifier(column)} DROP NOT NULL")

    online.carry_out(context, "drop_not_null", f"{operation.table_name}.{column}", work, text)


def not_null_text(operations: Operations, table_name: str, column: str, schema: str | None) -> None:
    """Offline nobody says which version it is: by the check, which every version knows."""
    context, table = operations.migration_context, online.qualified(schema, table_name)
    check, quoted = identifier(not_null.check_name(table_name, column)), identifier(column)
    online.hold(context, f"ALTER TABLE {table} ADD CONSTRAINT {check} CHECK ({quoted} IS NOT NULL) NOT VALID")
    online.send(context, f"ALTER TABLE {table} VALIDATE CONSTRAINT {check}")
    online.hold(
        context,
        f"ALTER TABLE {table} ALTER COLUMN {quoted} SET NOT NULL",
        f"ALTER TABLE {table} DROP CONSTRAINT {check}",
    )
