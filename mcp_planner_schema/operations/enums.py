"""Operations on enum types: a value is added in place; what PostgreSQL cannot do in place (remove, reorder) is a new type.

To remove or reorder, a new type is made, a column of it is kept in agreement with the old one (:mod:`.sync`), and the old
column is dropped; ``make migrate-create KIND=replace_enum`` writes the three revisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic.operations import MigrateOperation, Operations

from mcp_planner_schema.guard import journal
from mcp_planner_schema.guard.postcheck import execute, identifier, literal
from mcp_planner_schema.operations import online
from mcp_planner_schema.operations.written import rendered

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

_LABELS = """
SELECT t.oid::bigint, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname),
       array(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE t.oid = pg_catalog.to_regtype(%s)::oid AND t.typtype = 'e'
"""

# Tables and materialized views: a partition's rows are read where they are.
_COLUMNS = """
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), a.attname::text,
       t.typelem <> 0
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE (a.atttypid = %s::bigint::oid OR t.typelem = %s::bigint::oid OR t.typbasetype = %s::bigint::oid)
  AND c.relkind IN ('r', 'm') AND NOT a.attisdropped AND n.nspname !~ '^pg_temp'
ORDER BY 1, 2
"""


@rendered("add_enum_value")
@Operations.register_operation("add_enum_value")
@dataclass(frozen=True)
class AddEnumValue(MigrateOperation):
    """Add a value to an enum type, at its place. It takes no lock on a table. For a revision with ``Transaction: none``.

    In the transaction that adds it a value cannot be used, so it commits by itself.
    """

    name: str
    value: str
    before: str | None = None
    after: str | None = None
    schema: str | None = None

    @classmethod
    def add_enum_value(
        cls, operations: Operations, name: str, value: str, *, before: str | None = None, after: str | None = None,
        schema: str | None = None,
    ) -> None:  # fmt: skip
        """Add ``value`` to the enum ``name``, ``before`` or ``after`` another value, or last."""
        operations.invoke(cls(name, value, before, after, schema))

    def reverse(self) -> LeaveEnumValue:
        """The way back."""
        return LeaveEnumValue(self.name, self.value, self.schema)


@rendered("leave_enum_value")
@Operations.register_operation("leave_enum_value")
@dataclass(frozen=True)
class LeaveEnumValue(MigrateOperation):
    """The way back of :class:`AddEnumValue`: PostgreSQL cannot take a value out of a type, so it stays, and no row has it.

    Refused while rows have it, for the release before does not know it.
    """

    name: str
    value: str
    schema: str | None = None

    @classmethod
    def leave_enum_value(cls, operations: Operations, name: str, value: str, *, schema: str | None = None) -> None:
        """Leave ``value`` in the enum ``name``, where no row has it."""
        operations.invoke(cls(name, value, schema))

    def reverse(self) -> AddEnumValue:
        """The way there; at the end, for a value that stays has its place already."""
        return AddEnumValue(self.name, self.value, schema=self.schema)


@rendered("refuse_used_enum_values")
@Operations.register_operation("refuse_used_enum_values")
@dataclass(frozen=True)
class RefuseUsedEnumValues(MigrateOperation):
    """Go on only where no row has one of these values: before they are taken out of a type. Changes nothing."""

    name: str
    values: Sequence[str]
    schema: str | None = None

    @classmethod
    def refuse_used_enum_values(
        cls, operations: Operations, name: str, values: Sequence[str], *, schema: str | None = None
    ) -> None:
        """Refuse to go on while a row of any table has one of ``values`` of the enum ``name``."""
        operations.invoke(cls(name, tuple(values), schema))

    def reverse(self) -> RefuseUsedEnumValues:
        """Nothing was changed: the same."""
        return self


@Operations.implementation_for(AddEnumValue)
def _add(operations: Operations, operation: AddEnumValue) -> None:
    context = operations.migration_context
    place = "".join(
        f" {word.upper()} {literal(one)}" for word in ("before", "after") if (one := getattr(operation, word))
    )
    name = online.qualified(operation.schema, operation.name)
    sql = f"ALTER TYPE {name} ADD VALUE {literal(operation.value)}{place}"
    if context.as_sql:
        with context.autocommit_block():
            context.impl.static_output(sql.replace("ADD VALUE", "ADD VALUE IF NOT EXISTS", 1) + ";")
        return
    _, shown, labels = _enum(context, name)
    # One that is there has its row too: the run that was killed behind ALTER TYPE has left it begun.
    with journal.entry(context, "add_enum_value", f"{shown}.{operation.value}"):
        if operation.value not in labels:
            online.hold(context, sql)
            return
        if not _stands(operation, labels):
            found = f"{operation.value} at another place: {', '.join(labels)}"
            online.refuse(context, "operation-differs", what=f"value of {shown},{place},", found=found)
        online.say(context, f"{shown}: {operation.value} is a value already")


@Operations.implementation_for(LeaveEnumValue)
def _leave(operations: Operations, operation: LeaveEnumValue) -> None:
    context = operations.migration_context
    name = online.qualified(operation.schema, operation.name)
    if context.as_sql:
        context.impl.static_output(
            f"-- {operation.value} stays a value of {operation.name}: PostgreSQL cannot take it out."
        )
        return
    refuse_used(context, name, [operation.value])
    online.say(context, f"{operation.name}: {operation.value} stays a value, and no row has it")


@Operations.implementation_for(RefuseUsedEnumValues)
def _refuse(operations: Operations, operation: RefuseUsedEnumValues) -> None:
    context = operations.migration_context
    if not context.as_sql:
        refuse_used(context, online.qualified(operation.schema, operation.name), operation.values)


def refuse_used(context: MigrationContext, name: str, values: Sequence[str]) -> None:
    """Refuse where a row has one of the values, with the tables and how many rows of each. Reads them, blocks nobody."""
    oid, shown, _ = _enum(context, name)
    wanted = f"ARRAY[{', '.join(map(literal, values))}]::text[]"
    used = []
    for table, column, listed in online.ask(context, _COLUMNS, (oid, oid, oid)):
        held = f"{identifier(column)}::text[] && {wanted}" if listed else f"{identifier(column)}::text = ANY ({wanted})"
        count = _count(context, f"SELECT pg_catalog.count(*) FROM {table} WHERE {held}")
        if count:
            used.append((count, f"{count:,} in {table}.{column}"))
    if used:
        rule, sample = f"taking {', '.join(values)} out of {shown}", "; ".join(said for _, said in used)
        total = sum(count for count, _ in used)
        online.refuse(
            context, "operation-rows", count=f"{total:,} rows", table="this database", rule=rule, sample=sample
        )


def _count(context: MigrationContext, sql: str) -> int:
    assert context.connection is not None
    return int(execute(context.connection, sql).scalar_one())


def _enum(context: MigrationContext, name: str) -> tuple[int, str, list[str]]:
    found = online.ask(context, _LABELS, (name,))
    if not found:
        online.refuse(context, "operation-missing", what=f"enum type {name}")
    oid, shown, labels = found[0]
    return oid, shown, labels


def _stands(operation: AddEnumValue, labels: Sequence[str]) -> bool:
    """Whether the value stands where it was asked for."""
    at = labels.index(operation.value)
    if operation.before:
        return list(labels[at + 1 : at + 2]) == [operation.before]
    return not operation.after or list(labels[max(at - 1, 0) : at]) == [operation.after]
