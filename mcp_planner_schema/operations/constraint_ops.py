"""``op.add_…_concurrently`` for constraints, and their ways back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alembic.operations import Operations, ops

from mcp_planner_schema.guard.postcheck import identifier
from mcp_planner_schema.operations import constraints, not_null_ops, online
from mcp_planner_schema.operations.constraints import ForeignKey, deferral
from mcp_planner_schema.operations.indexes import Definition

if TYPE_CHECKING:
    from mcp_planner_schema.guard.journal import Entry


@Operations.register_operation("drop_constraint_concurrently")
@dataclass(frozen=True)
class DropConstraintConcurrentlyOp(ops.MigrateOperation):
    """Drop a constraint under a brief lock."""

    constraint_name: str
    table_name: str
    schema: str | None = None
    undo: ops.MigrateOperation | None = None

    @classmethod
    def drop_constraint_concurrently(
        cls, operations: Operations, constraint_name: str, table_name: str, *, schema: str | None = None
    ) -> None:
        """As ``op.drop_constraint``. A foreign key's drop locks both tables, for a moment."""
        operations.invoke(cls(constraint_name, table_name, schema))

    def reverse(self) -> ops.MigrateOperation:
        """The operation that adds it, known where this was made from it."""
        if self.undo is None:
            raise ValueError(f"drop_constraint_concurrently({self.constraint_name!r}) does not know what it drops")
        return self.undo


@Operations.register_operation("add_check_concurrently")
@dataclass(frozen=True)
class AddCheckConcurrentlyOp(ops.MigrateOperation):
    """Add a check: NOT VALID, then validated while everybody reads and writes."""

    constraint_name: str
    table_name: str
    condition: str
    schema: str | None = None

    @classmethod
    def add_check_concurrently(
        cls, operations: Operations, constraint_name: str, table_name: str, condition: Any, *, schema: str | None = None
    ) -> None:
        """As ``op.create_check_constraint``."""
        operations.invoke(cls(constraint_name, table_name, str(condition), schema))

    def reverse(self) -> DropConstraintConcurrentlyOp:
        """The operation that drops it."""
        return DropConstraintConcurrentlyOp(self.constraint_name, self.table_name, self.schema, self)


@Operations.register_operation("add_foreign_key_concurrently")
@dataclass(frozen=True)
class AddForeignKeyConcurrentlyOp(ops.MigrateOperation):
    """Add a foreign key: NOT VALID, then validated while everybody reads and writes."""

    constraint_name: str
    source_table: str
    key: ForeignKey
    source_schema: str | None = None

    @classmethod
    def add_foreign_key_concurrently(
        cls, operations: Operations, constraint_name: str, source_table: str, referent_table: str,
        local_cols: Sequence[str], remote_cols: Sequence[str], *, onupdate: str | None = None, ondelete: str | None = None,
        deferrable: bool | None = None, initially: str | None = None, match: str | None = None,
        source_schema: str | None = None, referent_schema: str | None = None,
    ) -> None:  # fmt: skip
        """As ``op.create_foreign_key``."""
        key = ForeignKey(tuple(local_cols), referent_table, tuple(remote_cols), referent_schema, onupdate, ondelete,
                         match, deferrable, initially)  # fmt: skip
        operations.invoke(cls(constraint_name, source_table, key, source_schema))

    def reverse(self) -> DropConstraintConcurrentlyOp:
        """The operation that drops it."""
        return DropConstraintConcurrentlyOp(self.constraint_name, self.source_table, self.source_schema, self)


@Operations.register_operation("add_unique_concurrently")
@dataclass(frozen=True)
class AddUniqueConcurrentlyOp(ops.MigrateOperation):
    """Add a unique constraint of an index that is built while everybody reads and writes."""

    constraint_name: str
    table_name: str
    columns: tuple[str, ...]
    schema: str | None = None
    deferrable: bool | None = None
    initially: str | None = None
    postgresql_include: tuple[str, ...] = ()
    postgresql_nulls_not_distinct: bool = False

    kind = "UNIQUE"

    @classmethod
    def add_unique_concurrently(
        cls, operations: Operations, constraint_name: str, table_name: str, columns: Sequence[str], *,
        schema: str | None = None, deferrable: bool | None = None, initially: str | None = None,
        postgresql_include: Sequence[str] = (), postgresql_nulls_not_distinct: bool = False,
    ) -> None:  # fmt: skip
        """As ``op.create_unique_constraint``."""
        operations.invoke(cls(constraint_name, table_name, tuple(columns), schema, deferrable, initially,
                              tuple(postgresql_include), postgresql_nulls_not_distinct))  # fmt: skip

    def reverse(self) -> DropConstraintConcurrentlyOp:
        """The operation that drops it."""
        return DropConstraintConcurrentlyOp(self.constraint_name, self.table_name, self.schema, self)


@Operations.register_operation("add_primary_key_concurrently")
@dataclass(frozen=True)
class AddPrimaryKeyConcurrentlyOp(ops.MigrateOperation):
    """Add a primary key of an index that is built while everybody reads and writes; its columns become NOT NULL."""

    constraint_name: str
    table_name: str
    columns: tuple[str, ...]
    schema: str | None = None
    deferrable: bool | None = None
    initially: str | None = None
    postgresql_include: tuple[str, ...] = ()
    postgresql_nulls_not_distinct = False

    kind = "PRIMARY KEY"

    @classmethod
    def add_primary_key_concurrently(
        cls, operations: Operations, constraint_name: str, table_name: str, columns: Sequence[str], *,
        schema: str | None = None, deferrable: bool | None = None, initially: str | None = None,
        postgresql_include: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """As ``op.create_primary_key``. The way back leaves the columns NOT NULL, as PostgreSQL does."""
        operations.invoke(cls(constraint_name, table_name, tuple(columns), schema, deferrable, initially,
                              tuple(postgresql_include)))  # fmt: skip

    def reverse(self) -> DropConstraintConcurrentlyOp:
        """The operation that drops it."""
        return DropConstraintConcurrentlyOp(self.constraint_name, self.table_name, self.schema, self)


@Operations.register_operation("validate_constraint")
@dataclass(frozen=True)
class ValidateConstraintOp(ops.MigrateOperation):
    """Check all rows against a constraint that is NOT VALID, while everybody reads and writes."""

    constraint_name: str
    table_name: str
    schema: str | None = None

    @classmethod
    def validate_constraint(
        cls, operations: Operations, constraint_name: str, table_name: str, *, schema: str | None = None
    ) -> None:
        """Rows that offend are counted and named before anything is done."""
        operations.invoke(cls(constraint_name, table_name, schema))

    def reverse(self) -> InvalidateConstraintOp:
        """The operation that makes it NOT VALID again."""
        return InvalidateConstraintOp(self.constraint_name, self.table_name, self.schema)


@Operations.register_operation("invalidate_constraint")
@dataclass(frozen=True)
class InvalidateConstraintOp(ops.MigrateOperation):
    """Make a check or a foreign key NOT VALID, under a brief lock: dropped and made anew."""

    constraint_name: str
    table_name: str
    schema: str | None = None

    @classmethod
    def invalidate_constraint(
        cls, operations: Operations, constraint_name: str, table_name: str, *, schema: str | None = None
    ) -> None:
        """The way back from ``op.validate_constraint``."""
        operations.invoke(cls(constraint_name, table_name, schema))

    def reverse(self) -> ValidateConstraintOp:
        """The operation that validates it."""
        return ValidateConstraintOp(self.constraint_name, self.table_name, self.schema)


@Operations.implementation_for(AddCheckConcurrentlyOp)
def _check(operations: Operations, operation: AddCheckConcurrentlyOp) -> None:
    context, name = operations.migration_context, operation.constraint_name

    def work(_: Entry) -> None:
        table = online.table(context, operation.table_name, operation.schema)
        constraints.add_check(context, table, name, operation.condition)

    def text() -> None:
        table = online.qualified(operation.schema, operation.table_name)
        added = f"ADD CONSTRAINT {identifier(name)} CHECK ({operation.condition}) NOT VALID"
        online.hold(context, f"ALTER TABLE {table} {added}")
        online.send(context, f"ALTER TABLE {table} VALIDATE CONSTRAINT {identifier(name)}")

    online.carry_out(context, "add_check_concurrently", f"{operation.table_name}.{name}", work, text)


@Operations.implementation_for(AddForeignKeyConcurrentlyOp)
def _foreign_key(operations: Operations, operation: AddForeignKeyConcurrentlyOp) -> None:
    context, name, key = operations.migration_context, operation.constraint_name, operation.key

    def work(_: Entry) -> None:
        table = online.table(context, operation.source_table, operation.source_schema)
        constraints.add_foreign_key(context, table, name, key)

    def text() -> None:
        table = online.qualified(operation.source_schema, operation.source_table)
        definition = key.sql(online.qualified(key.referent_schema, key.referent))
        online.hold(context, f"ALTER TABLE {table} ADD CONSTRAINT {identifier(name)} {definition} NOT VALID")
        online.send(context, f"ALTER TABLE {table} VALIDATE CONSTRAINT {identifier(name)}")

    online.carry_out(context, "add_foreign_key_concurrently", f"{operation.source_table}.{name}", work, text)


@Operations.implementation_for(AddUniqueConcurrentlyOp)
@Operations.implementation_for(AddPrimaryKeyConcurrentlyOp)
def _key(operations: Operations, operation: AddUniqueConcurrentlyOp | AddPrimaryKeyConcurrentlyOp) -> None:
    context, name = operations.migration_context, operation.constraint_name
    listed = f"({online.columns_sql(operation.columns)})"
    include = f" INCLUDE ({online.columns_sql(operation.postgresql_include)})" if operation.postgresql_include else ""
    nulls = "NULLS NOT DISTINCT" if operation.postgresql_nulls_not_distinct else ""
    index = Definition(True, " ".join(filter(None, [listed + include, nulls])))
    more = deferral(operation.deferrable, operation.initially)

    def work(_: Entry) -> None:
        table = online.table(context, operation.table_name, operation.schema)
        definition = " ".join(filter(None, [nulls, listed + include]))
        constraints.add_key(context, table, name, operation.kind, definition, index, operation.columns, more)

    def text() -> None:
        table = online.qualified(operation.schema, operation.table_name)
        if operation.kind == "PRIMARY KEY":
            for column in operation.columns:
                not_null_ops.not_null_text(operations, operation.table_name, column, operation.schema)
        online.send(context, index.sql(name, table, "CONCURRENTLY "))
        using = f"{operation.kind} USING INDEX {identifier(name)} {more}".rstrip()
        online.hold(context, f"ALTER TABLE {table} ADD CONSTRAINT {identifier(name)} {using}")

    done = f"add_{operation.kind.lower().replace(' ', '_')}_concurrently"
    online.carry_out(context, done, f"{operation.table_name}.{name}", work, text)


@Operations.implementation_for(DropConstraintConcurrentlyOp)
def _drop(operations: Operations, operation: DropConstraintConcurrentlyOp) -> None:
    context, name = operations.migration_context, operation.constraint_name

    def work(entry: Entry) -> None:
        table = online.table(context, operation.table_name, operation.schema)
        constraints.drop(context, table, name, known=entry.before is not None)

    def text() -> None:
        table = online.qualified(operation.schema, operation.table_name)
        online.hold(context, f"ALTER TABLE {table} DROP CONSTRAINT {identifier(name)}")

    online.carry_out(context, "drop_constraint_concurrently", f"{operation.table_name}.{name}", work, text)


@Operations.implementation_for(ValidateConstraintOp)
def _validate(operations: Operations, operation: ValidateConstraintOp) -> None:
    context, name = operations.migration_context, operation.constraint_name

    def work(_: Entry) -> None:
        table = online.table(context, operation.table_name, operation.schema)
        there = constraints.find(context, table, name)
        if there is not None and not there.validated:
            constraints.offending(context, table, name, there)
        constraints.validate(context, table, name)

    def text() -> None:
        table = online.qualified(operation.schema, operation.table_name)
        online.send(context, f"ALTER TABLE {table} VALIDATE CONSTRAINT {identifier(name)}")

    online.carry_out(context, "validate_constraint", f"{operation.table_name}.{name}", work, text)


@Operations.implementation_for(InvalidateConstraintOp)
def _invalidate(operations: Operations, operation: InvalidateConstraintOp) -> None:
    context, name = operations.migration_context, operation.constraint_name

    def work(_: Entry) -> None:
        constraints.invalidate(context, online.table(context, operation.table_name, operation.schema), name)

    online.carry_out(
        context, "invalidate_constraint", f"{operation.table_name}.{name}", work,
        lambda: online.unwritable("what the constraint says stands only in the catalog"),
    )  # fmt: skip
