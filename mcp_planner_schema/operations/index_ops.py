"""``op.create_index_concurrently``, ``op.drop_index_concurrently``, ``op.replace_index_concurrently``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alembic.operations import Operations, ops

from mcp_planner_schema.guard.postcheck import identifier
from mcp_planner_schema.operations import indexes, online, partitioned

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import ColumnElement, Index, TextClause

    from mcp_planner_schema.guard.journal import Entry
    from mcp_planner_schema.operations.indexes import Definition
    from mcp_planner_schema.operations.online import Table

    Columns = Sequence[str | TextClause | ColumnElement[Any]]


@Operations.register_operation("create_index_concurrently")
class CreateIndexConcurrentlyOp(ops.CreateIndexOp):
    """Build an index while everybody reads and writes."""

    @classmethod
    def create_index_concurrently(
        cls, operations: Operations, index_name: str, table_name: str, columns: Columns, *,
        schema: str | None = None, unique: bool = False, **kw: Any,
    ) -> None:  # fmt: skip
        """As ``op.create_index``, with the same arguments: ``postgresql_where``, ``postgresql_include``, … ."""
        operations.invoke(cls(index_name, table_name, columns, schema=schema, unique=unique, **kw))

    def reverse(self) -> DropIndexConcurrentlyOp:
        """The operation that drops it."""
        return DropIndexConcurrentlyOp.from_index(self.to_index())


@Operations.register_operation("drop_index_concurrently")
class DropIndexConcurrentlyOp(ops.DropIndexOp):
    """Drop an index while everybody reads and writes."""

    @classmethod
    def drop_index_concurrently(
        cls, operations: Operations, index_name: str, table_name: str, *, schema: str | None = None, **kw: Any
    ) -> None:
        """As ``op.drop_index``, and the table must be named."""
        operations.invoke(cls(index_name, table_name, schema=schema, **kw))

    @classmethod
    def from_index(cls, index: Index) -> DropIndexConcurrentlyOp:
        """Drops exactly this index."""
        dropped = super().from_index(index)
        return cls(
            dropped.index_name, dropped.table_name, schema=dropped.schema, _reverse=dropped._reverse, **dropped.kw
        )

    def reverse(self) -> CreateIndexConcurrentlyOp:
        """The operation that builds it, known where it was made from an index."""
        if self._reverse is None:
            raise ValueError(f"drop_index_concurrently({self.index_name!r}) does not know what it drops")
        return CreateIndexConcurrentlyOp.from_index(self._reverse.to_index())  # type: ignore[return-value]  # from_index gives cls


@Operations.register_operation("replace_index_concurrently")
class ReplaceIndexConcurrentlyOp(ops.CreateIndexOp):
    """Put another definition in an index's place: there is a valid index all the time."""

    @classmethod
    def replace_index_concurrently(
        cls, operations: Operations, index_name: str, table_name: str, columns: Columns, *,
        schema: str | None = None, unique: bool = False, **kw: Any,
    ) -> None:  # fmt: skip
        """The arguments describe the new index, as those of ``op.create_index`` do."""
        operations.invoke(cls(index_name, table_name, columns, schema=schema, unique=unique, **kw))

    def reverse(self) -> ops.DropIndexOp:
        """Not known: the old definition is nowhere written down."""
        raise ValueError(f"replace_index_concurrently({self.index_name!r}) does not know what it replaces")


@Operations.implementation_for(CreateIndexConcurrentlyOp)
def _create(operations: Operations, operation: CreateIndexConcurrentlyOp) -> None:
    context, name = operations.migration_context, str(operation.index_name)
    wanted = indexes.definition(operation)

    def work(_: Entry) -> None:
        partitioned.build(context, online.table(context, operation.table_name, operation.schema), name, wanted)

    def text() -> None:
        online.send(
            context, wanted.sql(name, online.qualified(operation.schema, operation.table_name), "CONCURRENTLY ")
        )

    online.carry_out(context, "create_index_concurrently", name, work, text)


@Operations.implementation_for(DropIndexConcurrentlyOp)
def _drop(operations: Operations, operation: DropIndexConcurrentlyOp) -> None:
    context, name = operations.migration_context, str(operation.index_name)

    def work(entry: Entry) -> None:
        table = online.table(context, str(operation.table_name), operation.schema)
        drop(context, table, name, known=entry.before is not None)

    def text() -> None:
        online.send(context, f"DROP INDEX CONCURRENTLY {online.qualified(operation.schema, name)}")

    online.carry_out(context, "drop_index_concurrently", name, work, text)


@Operations.implementation_for(ReplaceIndexConcurrentlyOp)
def _replace(operations: Operations, operation: ReplaceIndexConcurrentlyOp) -> None:
    context, name = operations.migration_context, str(operation.index_name)
    wanted, schema = indexes.definition(operation), operation.schema
    new, old = online.shortened(name, "_new"), online.shortened(name, "_old")

    def work(entry: Entry) -> None:
        table = online.table(context, operation.table_name, schema)
        there = indexes.find(context, table.schema, name)
        swapped = there is not None and _is(context, table, there, wanted)
        if not swapped:
            _put_in_place(context, table, name, new, old, wanted)
        if (entry.before or not swapped) and indexes.find(context, table.schema, old) is not None:
            drop(context, table, old, known=True)
        indexes.prove(context, table.schema, name)

    def text() -> None:
        table = online.qualified(schema, operation.table_name)
        online.send(context, wanted.sql(new, table, "CONCURRENTLY "))
        online.hold(context, _rename(schema, name, old), _rename(schema, new, name))
        online.send(context, f"DROP INDEX CONCURRENTLY {online.qualified(schema, old)}")

    online.carry_out(context, "replace_index_concurrently", name, work, text)


def drop(context: MigrationContext, table: Table, name: str, *, known: bool) -> None:
    """Drop an index of the table; ``known``: it may be gone already."""
    there = indexes.find(context, table.schema, name)
    indexes.clear_leftovers(context, table, name)
    if there is None:
        if not known:
            online.refuse(context, "operation-missing", what=f"index {name}")
        online.say(context, f"index {name} is gone already")
        return
    indexes.refuse_elsewhere(context, table, there)
    if there.constraint or there.attached:
        problem = (
            f"it serves the constraint {there.constraint}" if there.constraint else "it is part of its parent's index"
        )
        online.refuse(context, "operation-unsupported", what=f"index {name}", problem=problem)
    if there.partitioned:  # which CONCURRENTLY cannot: it is many indexes
        online.hold(context, f"DROP INDEX {online.qualified(table.schema, name)}")
    else:
        online.send(context, f"DROP INDEX CONCURRENTLY {online.qualified(table.schema, name)}")


def _is(context: MigrationContext, table: Table, there: indexes.Index, wanted: Definition) -> bool:
    from mcp_planner_schema.operations import twin

    indexes.refuse_elsewhere(context, table, there)
    shown, _ = twin.index(context, table, wanted.text, unique=wanted.unique)
    return there.valid and there.shown == shown


def _put_in_place(
    context: MigrationContext, table: Table, name: str, new: str, old: str, wanted: Definition
) -> None:  # fmt: skip
    there = indexes.find(context, table.schema, name)
    if there is None:
        online.refuse(context, "operation-missing", what=f"index {name}")
    if there.constraint or there.attached:
        problem = (
            f"it serves the constraint {there.constraint}" if there.constraint else "it is part of its parent's index"
        )
        online.refuse(context, "operation-unsupported", what=f"index {name}", problem=problem)
    taken = indexes.find(context, table.schema, old)
    if taken is not None:
        online.refuse(context, "operation-differs", what=f"index {old}", found=f"an index already: {taken.shown}")
    partitioned.build(context, table, new, wanted)
    made = indexes.find(context, table.schema, new)
    if made is None:
        if online.tried(context):
            return
        online.unproven(context, f"The index {new} is missing")
    renames = [*_tree_renames(context, there, name, old), _rename(table.schema, name, old)]
    renames += [*_tree_renames(context, made, new, name), _rename(table.schema, new, name)]
    online.hold(context, *renames)


def _tree_renames(context: MigrationContext, index: indexes.Index, name: str, other: str) -> list[str]:
    """The partitions' indexes are named after the parent's, so that the next to be replaced finds the names free."""
    if not index.partitioned:
        return []
    return [
        _rename(schema, own, partitioned.partition_index(table, other))
        for schema, own, table in partitioned.tree(context, index.oid)
        if own == partitioned.partition_index(table, name)
    ]


def _rename(schema: str | None, name: str, other: str) -> str:
    return f"ALTER INDEX {online.qualified(schema, name)} RENAME TO {identifier(other)}"
