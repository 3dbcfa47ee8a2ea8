"""A second name for a table, while a release that knows the old name and one that knows the new one are at work.

The new name is a view. The old release goes on with the table itself, so nothing changes for what is at work already; the new
one reads and writes through the view, which PostgreSQL passes on: one table, all its columns, no condition. When the old
release is gone, view and table change places in one brief transaction, and a query that waits for it finds the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic.operations import MigrateOperation, Operations

from mcp_planner_schema.guard.postcheck import do_block, execute, literal
from mcp_planner_schema.operations import online
from mcp_planner_schema.operations.written import rendered

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

# Who may work on the table may work on it under its other name. security_invoker: row security and rights are the user's.
_GRANTS = """
DECLARE
    one record;
BEGIN
    FOR one IN SELECT pg_catalog.string_agg(g.privilege_type, ', ') AS rights,
                      CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END AS role
               FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) g
               LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
               WHERE c.oid = {table}::pg_catalog.regclass AND g.grantee <> c.relowner
                 AND g.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
               GROUP BY 2 LOOP
        EXECUTE pg_catalog.format('GRANT %s ON %s TO %s', one.rights, {view}, one.role);
    END LOOP;
END
"""


@rendered("create_table_alias")
@Operations.register_operation("create_table_alias")
@dataclass(frozen=True)
class CreateTableAlias(MigrateOperation):
    """Make a view that stands for a table under another name. Belongs to the step's transaction; locks no reader or writer."""

    alias: str
    table: str
    schema: str | None = None

    @classmethod
    def create_table_alias(cls, operations: Operations, alias: str, table: str, *, schema: str | None = None) -> None:
        """Let ``table`` be read and written as ``alias`` too, with the rights that people have on the table."""
        operations.invoke(cls(alias, table, schema))

    def reverse(self) -> DropTableAlias:
        """The way back."""
        return DropTableAlias(self.alias, self.table, self.schema)


@rendered("drop_table_alias")
@Operations.register_operation("drop_table_alias")
@dataclass(frozen=True)
class DropTableAlias(MigrateOperation):
    """Drop such a view. Belongs to the step's transaction."""

    alias: str
    table: str
    schema: str | None = None

    @classmethod
    def drop_table_alias(cls, operations: Operations, alias: str, table: str, *, schema: str | None = None) -> None:
        """Take the second name of ``table`` away."""
        operations.invoke(cls(alias, table, schema))

    def reverse(self) -> CreateTableAlias:
        """The way back."""
        return CreateTableAlias(self.alias, self.table, self.schema)


@Operations.implementation_for(CreateTableAlias)
def _create(operations: Operations, operation: CreateTableAlias) -> None:
    context = operations.migration_context
    view, table = (online.qualified(operation.schema, name) for name in (operation.alias, operation.table))
    _run(context, f"CREATE VIEW {view} WITH (security_invoker = true) AS SELECT * FROM {table}")
    _run(context, f"COMMENT ON VIEW {view} IS {literal(f'The table {operation.table} under its next name.')}")
    _run(context, do_block(_GRANTS.format(table=literal(table), view=literal(view))))


@Operations.implementation_for(DropTableAlias)
def _drop(operations: Operations, operation: DropTableAlias) -> None:
    _run(operations.migration_context, f"DROP VIEW {online.qualified(operation.schema, operation.alias)}")


def _run(context: MigrationContext, sql: str) -> None:
    if context.as_sql:
        context.impl.static_output(sql + ";")
    else:
        execute(context.connection, sql)  # type: ignore[arg-type]  # online there is one
