"""A table as a model, an enumerated type as an enum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mcp_planner_schema.interop.prisma import defaults, names, native, relations, text
from mcp_planner_schema.interop.prisma.catalog import Column, Enum, Index, Part, Table
from mcp_planner_schema.interop.prisma.query import METHODS
from mcp_planner_schema.interop.prisma.text import Block, Field

Values = Mapping[int, Mapping[str, str]]
"""The values of each enum by its OID, from the database to Prisma."""


def model(
    table: Table,
    naming: relations.Naming,
    values: Values,
    related: Sequence[Field],
    schemas: bool,
    notes: Sequence[str],
) -> Block:
    """The block of a table. ``notes``: what is said above it; ``schemas``: whether it says which one it is in."""
    columns = naming.columns[table.oid]
    if table.list_is_key:
        table = replace(table, indexes=tuple(replace(one, key="unique" if one.key else "") for one in table.indexes))
    single = _single(table)
    fields = [
        _field(column, columns[column.name], table, naming, values, single.get(column.name)) for column in table.columns
    ]
    primary, attributes = table.primary, []
    if primary is not None and len(primary.parts) > 1:
        attributes.append(f"@@id({_arguments(primary, table, columns, '_pkey')})")
    shown = {index.name for index in single.values()}
    for index in table.indexes:
        if index.key == "unique" and index.name not in shown:
            attributes.append(f"@@unique({_arguments(index, table, columns, '_key')})")
        elif not index.key:
            attributes.append(f"@@index({_arguments(index, table, columns, '_idx')})")
    attributes += _whole(table.name, naming.types[table.oid], table.schema if schemas else None)
    attributes += [] if relations.identified(table) else ["@@ignore"]
    return Block("model", naming.types[table.oid], [*fields, *related], attributes, _docs(table.comment), notes)


def enum(declared: Enum, name: str, values: Mapping[str, str], schemas: bool) -> Block:
    """The block of an enumerated type."""
    fields = [Field(named, "", _mapped("@map", value, named)) for value, named in values.items()]
    attributes = _whole(declared.name, name, declared.schema if schemas else None)
    return Block("enum", name, fields, attributes, _docs(declared.comment))


def _single(table: Table) -> dict[str, Index]:
    """The unique index that is written at its column: the first one that is of it alone."""
    found: dict[str, Index] = {}
    for index in table.indexes:
        if index.key == "unique" and len(index.parts) == 1:
            found.setdefault(index.columns[0], index)
    return found


def _field(
    column: Column, name: str, table: Table, naming: relations.Naming, values: Values, unique: Index | None
) -> Field:
    known = values.get(column.enum) if column.enum is not None else None
    kind = native.scalar(column)
    if kind is None:
        kind = naming.types[column.enum] if known is not None and column.enum else native.unsupported(column)
    attributes, primary = [], table.primary
    if primary is not None and primary.columns == (column.name,):
        attributes.append(_alone("@id", primary, names.usual(table.name, (), "_pkey")))
    if unique is not None:
        attributes.append(_alone("@unique", unique, names.usual(table.name, (column.name,), "_key")))
    attributes += filter(None, [defaults.default(column, known)])
    attributes += _mapped("@map", column.name, name)
    attributes += filter(None, [native.attribute(column)])
    mark = "[]" if column.listed else "" if column.required else "?"
    return Field(name, kind + mark, attributes, _docs(column.comment))


def _alone(word: str, index: Index, usual: str) -> str:
    said = [] if index.name == usual else [f"map: {text.quoted(index.name)}"]
    said += ["sort: Desc"] if index.parts[0].descending else []
    return f"{word}({', '.join(said)})" if said else word


def _arguments(index: Index, table: Table, columns: Mapping[str, str], suffix: str) -> str:
    parts = [_part(part, index, table.by_name[part.column], columns[part.column]) for part in index.parts]
    said = [f"[{', '.join(parts)}]"]
    if index.name != names.usual(table.name, () if suffix == "_pkey" else index.columns, suffix):
        said.append(f"map: {text.quoted(index.name)}")
    if METHODS[index.method]:
        said.append(f"type: {METHODS[index.method]}")
    return ", ".join(said)


def _part(part: Part, index: Index, column: Column, name: str) -> str:
    said = []
    if index.method not in ("btree", "hash"):
        operators = native.operators(column, index.method, part)
        said += [f"ops: {operators}"] if operators else []
    said += ["sort: Desc"] if part.descending else []
    return f"{name}({', '.join(said)})" if said else name


def _whole(name: str, named: str, schema: str | None) -> list[str]:
    return [*_mapped("@@map", name, named), *([] if schema is None else [f"@@schema({text.quoted(schema)})"])]


def _mapped(word: str, name: str, named: str) -> list[str]:
    return [] if name == named else [f"{word}({text.quoted(name)})"]


def _docs(comment: str | None) -> list[str]:
    return [comment] if comment else []
