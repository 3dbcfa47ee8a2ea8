"""The tables as a page with a diagram, written from the models, so that the documentation cannot say something else."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, PrimaryKeyConstraint, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import Computed, CreateIndex, CreateTable, DefaultClause
from sqlalchemy.sql.compiler import DDLCompiler

from mcp_planner_schema.models import metadata

_HEAD = """\
# The tables

Written from the models by `make schema-doc`; a test fails when it is stale. Another test compares the models with what the
revisions create. Functions and triggers are no models: [functions and triggers](4-functions-and-triggers.md).

"""
_NAMES = {"timestamp with time zone": "timestamptz"}
_KINDS = (PrimaryKeyConstraint, UniqueConstraint, ForeignKeyConstraint, CheckConstraint)
_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]  # format styles would double each %


def markdown() -> str:
    """The whole page."""
    tables = [metadata.tables[name] for name in sorted(metadata.tables)]
    return _HEAD + _diagram(tables) + _enums(tables) + "".join(map(_section, tables))


# --- the diagram ------------------------------------------------------------------------------------------------------


def _diagram(tables: Iterable[Table]) -> str:
    relations = [line for table in tables for line in _relations(table)]
    entities = [line for table in tables for line in _entity(table)]
    lines = "".join(f"    {line}\n" for line in relations + entities)
    return f"```mermaid\nerDiagram\n{lines}```\n"


def _relations(table: Table) -> list[str]:
    """One line for each foreign key: parent, how many at each end, child, and the columns."""
    lines = []
    for key in _constraints(table):
        if isinstance(key, ForeignKeyConstraint):
            # A foreign key of which one column is null refers to nothing (MATCH SIMPLE).
            parent = "|o" if any(column.nullable for column in key.columns) else "||"
            child = "o|" if _is_unique(table, set(key.columns)) else "o{"
            columns = ", ".join(column.name for column in key.columns)
            lines.append(f'{key.referred_table.name} {parent}--{child} {table.name} : "{columns}"')
    return lines


def _entity(table: Table) -> list[str]:
    return [f"{table.name} {{", *(f"    {_attribute(column)}" for column in table.columns), "}"]


def _attribute(column: Column[object]) -> str:
    # Mermaid takes neither a blank nor a comma in a type.
    kind = re.sub(r"\(\d+,\d+\)", "", _type(column)).replace(" ", "_")
    marks = [mark for mark, holds in (("PK", column.primary_key), ("FK", column.foreign_keys)) if holds]
    return " ".join([kind, column.name, *([", ".join(marks)] if marks else [])])


def _is_unique(table: Table, columns: set[Column[object]]) -> bool:
    """Whether no two rows can have the same values in ``columns``."""
    keys = [set(one.columns) for one in table.constraints if isinstance(one, PrimaryKeyConstraint | UniqueConstraint)]
    return any(key <= columns for key in keys if key)


# --- enums, tables ----------------------------------------------------------------------------------------------------


def _enums(tables: Iterable[Table]) -> str:
    types = {
        column.type.name: column.type.enums
        for table in tables
        for column in table.columns
        if isinstance(column.type, postgresql.ENUM)
    }
    rows = "".join(f"| `{name}` | {', '.join(labels)} |\n" for name, labels in sorted(types.items()))
    return f"\n## Enums\n\n| type | labels, in their order |\n|---|---|\n{rows}"


def _section(table: Table) -> str:
    partitioned = table.dialect_options["postgresql"]["partition_by"]
    said = f"Partitioned by {partitioned}.\n\n" if partitioned else ""
    rows = "".join(map(_row, table.columns))
    constraints = "".join(f"- `{_constraint(table, one)}`\n" for one in _constraints(table))
    indexes = "".join(
        f"- `{CreateIndex(index).compile(dialect=_DIALECT)}`\n"
        for index in sorted(table.indexes, key=lambda index: str(index.name))
    )
    return (
        f"\n## {table.name}\n\n{table.comment}\n\n{said}| column | type | null | default | |\n|---|---|---|---|---|\n{rows}"
        f"\nConstraints:\n\n{constraints}" + (f"\nIndexes:\n\n{indexes}" if indexes else "")
    )


def _row(column: Column[object]) -> str:
    comment = (column.comment or "").replace("<", "\\<")  # Markdown takes <uuid> for HTML and shows nothing
    cells = [f"`{column.name}`", _type(column), "null" if column.nullable else "", _default(column), comment]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def _type(column: Column[object]) -> str:
    said = column.type.compile(dialect=_DIALECT).lower().replace(", ", ",")
    return _NAMES.get(said, said)


def _default(column: Column[object]) -> str:
    given = column.server_default
    if isinstance(given, Computed):
        return f"generated: `{given.sqltext}`"
    return f"`{getattr(given.arg, 'text', given.arg)}`" if isinstance(given, DefaultClause) else ""


def _constraints(
    table: Table,
) -> list[PrimaryKeyConstraint | UniqueConstraint | ForeignKeyConstraint | CheckConstraint]:
    """Keys first, then checks, each kind by name."""
    found = [one for one in table.constraints if isinstance(one, _KINDS)]
    return sorted(found, key=lambda one: (_kind(one), _constraint(table, one)))


def _kind(constraint: object) -> int:
    return next(n for n, kind in enumerate(_KINDS) if isinstance(constraint, kind))


def _constraint(
    table: Table, constraint: PrimaryKeyConstraint | UniqueConstraint | ForeignKeyConstraint | CheckConstraint
) -> str:
    compiler = DDLCompiler(_DIALECT, CreateTable(table))
    return str(compiler.process(constraint)).removeprefix("CONSTRAINT ").strip()
