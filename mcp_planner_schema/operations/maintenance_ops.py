"""``op.reindex_concurrently``, ``op.analyze``: nothing of the schema changes by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic.operations import Operations, ops

from mcp_planner_schema.operations import indexes, online

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

    from mcp_planner_schema.guard.journal import Entry
    from mcp_planner_schema.operations.online import Table

_NAMES = """
SELECT x.relname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
WHERE i.indrelid = %s ORDER BY 1
"""


@Operations.register_operation("reindex_concurrently")
@dataclass(frozen=True)
class ReindexConcurrentlyOp(ops.MigrateOperation):
    """Build indexes anew while everybody reads and writes."""

    table_name: str
    index_name: str | None = None
    schema: str | None = None

    @classmethod
    def reindex_concurrently(
        cls, operations: Operations, table_name: str, index_name: str | None = None, *, schema: str | None = None
    ) -> None:
        """One index, or all of the table. What an interrupted one has left is dropped first."""
        operations.invoke(cls(table_name, index_name, schema))

    def reverse(self) -> ReindexConcurrentlyOp:
        """Itself: there is nothing to undo."""
        return self


@Operations.register_operation("analyze")
@dataclass(frozen=True)
class AnalyzeOp(ops.MigrateOperation):
    """Tell the planner anew what a table holds."""

    table_name: str
    columns: tuple[str, ...] = ()
    schema: str | None = None

    @classmethod
    def analyze(
        cls, operations: Operations, table_name: str, columns: Sequence[str] = (), *, schema: str | None = None
    ) -> None:
        """All columns, or those named; an expression index needs it before it is used well."""
        operations.invoke(cls(table_name, tuple(columns), schema))

    def reverse(self) -> AnalyzeOp:
        """Itself: there is nothing to undo."""
        return self


@Operations.implementation_for(ReindexConcurrentlyOp)
def _reindex(operations: Operations, operation: ReindexConcurrentlyOp) -> None:
    context, name = operations.migration_context, operation.index_name

    def work(entry: Entry) -> None:
        table = online.table(context, operation.table_name, operation.schema)
        if entry.before == "done" or online.tried(context):
            return
        for one in [name] if name else _names(context, table):
            indexes.clear_leftovers(context, table, one)
        if name and indexes.find(context, table.schema, name) is None:
            online.refuse(context, "operation-missing", what=f"index {name}")
        what = (
            f"INDEX CONCURRENTLY {online.qualified(table.schema, name)}" if name else f"TABLE CONCURRENTLY {table.sql}"
        )
        online.send(context, f"REINDEX {what}")
        for one in [name] if name else _names(context, table):
            indexes.prove(context, table.schema, one)

    def text() -> None:
        what = "INDEX" if name else "TABLE"
        named = online.qualified(operation.schema, name or operation.table_name)
        online.send(context, f"REINDEX {what} CONCURRENTLY {named}")

    online.carry_out(context, "reindex_concurrently", name or operation.table_name, work, text)


@Operations.implementation_for(AnalyzeOp)
def _analyze(operations: Operations, operation: AnalyzeOp) -> None:
    context = operations.migration_context
    columns = f" ({online.columns_sql(operation.columns)})" if operation.columns else ""

    def work(_: Entry) -> None:
        if not online.tried(context):
            table = online.table(context, operation.table_name, operation.schema)
            online.send(context, f"ANALYZE {table.sql}{columns}")

    def text() -> None:
        online.send(context, f"ANALYZE {online.qualified(operation.schema, operation.table_name)}{columns}")

    online.carry_out(context, "analyze", operation.table_name, work, text)


def _names(context: MigrationContext, table: Table) -> list[str]:
    return [row[0] for row in online.ask(context, _NAMES, (table.oid,))]
