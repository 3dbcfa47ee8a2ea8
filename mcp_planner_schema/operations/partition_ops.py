"""``op.attach_partition``, ``op.detach_partition``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic.operations import Operations, ops

from mcp_planner_schema.operations import online, partitions

if TYPE_CHECKING:
    from mcp_planner_schema.guard.journal import Entry


@Operations.register_operation("attach_partition")
@dataclass(frozen=True)
class AttachPartitionOp(ops.MigrateOperation):
    """Attach a table as a partition; its rows are read while everybody reads and writes."""

    table_name: str
    partition_name: str
    bound: str
    schema: str | None = None
    partition_schema: str | None = None

    @classmethod
    def attach_partition(
        cls, operations: Operations, table_name: str, partition_name: str, bound: str, *, schema: str | None = None,
        partition_schema: str | None = None,
    ) -> None:  # fmt: skip
        """``bound`` is ``FOR VALUES …`` or ``DEFAULT``, as in SQL. ``partition_schema`` is ``schema`` unless given."""
        operations.invoke(cls(table_name, partition_name, bound, schema, partition_schema or schema))

    def reverse(self) -> DetachPartitionOp:
        """The operation that detaches it."""
        return DetachPartitionOp(self.table_name, self.partition_name, self.schema, self.partition_schema, self.bound)


@Operations.register_operation("detach_partition")
@dataclass(frozen=True)
class DetachPartitionOp(ops.MigrateOperation):
    """Detach a partition while everybody reads and writes; its table and rows stay."""

    table_name: str
    partition_name: str
    schema: str | None = None
    partition_schema: str | None = None
    bound: str | None = None

    @classmethod
    def detach_partition(
        cls, operations: Operations, table_name: str, partition_name: str, *, schema: str | None = None,
        partition_schema: str | None = None,
    ) -> None:  # fmt: skip
        """Beside a default partition, where PostgreSQL has no CONCURRENTLY for it, under a brief lock."""
        operations.invoke(cls(table_name, partition_name, schema, partition_schema or schema))

    def reverse(self) -> AttachPartitionOp:
        """The operation that attaches it, known where this was made from it."""
        if self.bound is None:
            raise ValueError(f"detach_partition({self.partition_name!r}) does not know its bound")
        return AttachPartitionOp(self.table_name, self.partition_name, self.bound, self.schema, self.partition_schema)


@Operations.implementation_for(AttachPartitionOp)
def _attach(operations: Operations, operation: AttachPartitionOp) -> None:
    context, bound = operations.migration_context, operation.bound

    def work(_: Entry) -> None:
        table = online.table(context, operation.table_name, operation.schema)
        partition = online.table(context, operation.partition_name, operation.partition_schema)
        partitions.attach(context, table, partition, bound)

    def text() -> None:
        parent = online.qualified(operation.schema, operation.table_name)
        partition = online.qualified(operation.partition_schema, operation.partition_name)
        online.hold(context, f"ALTER TABLE {parent} ATTACH PARTITION {partition} {bound}")

    online.carry_out(context, "attach_partition", f"{operation.table_name}.{operation.partition_name}", work, text)


@Operations.implementation_for(DetachPartitionOp)
def _detach(operations: Operations, operation: DetachPartitionOp) -> None:
    context = operations.migration_context

    def work(entry: Entry) -> None:
        table = online.table(context, operation.table_name, operation.schema)
        partition = online.table(context, operation.partition_name, operation.partition_schema)
        partitions.detach(context, table, partition, entry)

    def text() -> None:
        parent = online.qualified(operation.schema, operation.table_name)
        partition = online.qualified(operation.partition_schema, operation.partition_name)
        online.hold(context, f"ALTER TABLE {parent} DETACH PARTITION {partition}")

    online.carry_out(context, "detach_partition", f"{operation.table_name}.{operation.partition_name}", work, text)
