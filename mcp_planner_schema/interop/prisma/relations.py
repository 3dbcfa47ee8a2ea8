"""Relations: both fields of each foreign key and of each hidden many to many table, named as ``prisma db pull`` names them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mcp_planner_schema.interop.prisma import names, native, text
from mcp_planner_schema.interop.prisma.catalog import ForeignKey, Table
from mcp_planner_schema.interop.prisma.text import Field

Pair = frozenset[int]


@dataclass(frozen=True)
class Naming:
    """What everything is called: models and enums by their OID, as types and in the names of fields, and columns by table."""

    types: Mapping[int, str]
    plain: Mapping[int, str]
    columns: Mapping[int, Mapping[str, str]]


def joins(table: Table, by_oid: Mapping[int, Table], types: Mapping[int, str]) -> bool:
    """Whether it is what Prisma makes for a relation of many to many, and then has no model for."""
    if not table.name.startswith("_") or sorted(column.name for column in table.columns) != ["A", "B"]:
        return False
    ends = {key.columns: by_oid[key.table] for key in table.foreign_keys}
    if len(table.foreign_keys) != 2 or set(ends) != {("A",), ("B",)}:
        return False
    referred = all(
        (primary := by_oid[key.table].primary) is not None and primary.columns == key.referred
        for key in table.foreign_keys
    )
    return (
        referred
        and (ends["A",].name, types[ends["A",].oid]) <= (ends["B",].name, types[ends["B",].oid])
        and types[ends["A",].oid] <= types[ends["B",].oid]
        and any(index.columns == ("A", "B") for index in table.keys)
        and any(index.columns == ("B",) and not index.key for index in table.indexes)
    )


def identified(table: Table) -> bool:
    """Whether each of its rows can be named: by columns that are never null and of types that Prisma has."""
    return any(
        all(
            column.required and not column.listed and (native.scalar(column) or column.enum is not None)
            for column in map(table.by_name.__getitem__, index.columns)
        )
        for index in table.keys
    )


def fields(tables: Sequence[Table], hidden: Sequence[Table], naming: Naming) -> dict[int, list[Field]]:
    """The relation fields of each model, in their order. ``hidden`` are the tables of many to many."""
    by_oid = {table.oid: table for table in tables}
    keys = [(table, key) for table in tables for key in _distinct(table) if related(key, table, by_oid[key.table])]
    unclear = _unclear(keys, hidden, by_oid, naming)
    taken = {table.oid: set(naming.columns[table.oid].values()) for table in tables}
    used: dict[Pair, set[str]] = defaultdict(set)
    found: dict[int, list[Field]] = {table.oid: [] for table in tables}
    for table, key in keys:
        other = by_oid[key.table]
        pair = frozenset((table.oid, other.oid))
        relation, forth, back = _names(table, other, key, naming, pair in unclear)
        relation = names.unused(relation, used[pair]) if relation else ""
        forth = names.unused(forth, taken[table.oid])
        found[table.oid].append(_forth(table, other, key, naming, forth, relation))
        back = names.unused(back, taken[other.oid])
        found[other.oid].append(_back(table, other, key, naming, back, relation))
    for table in hidden:
        first, second = sorted(table.foreign_keys, key=lambda key: key.columns)
        pair, own = frozenset((first.table, second.table)), first.table == second.table
        one, two = naming.plain[first.table], naming.plain[second.table]
        named = pair in unclear or own or table.name[1:] != f"{one}To{two}"
        relation = names.unused(table.name[1:], used[pair]) if named else ""
        for at, name, opposite, end in ((first.table, two, second.table, "_A"), (second.table, one, first.table, "_B")):
            field = names.sanitised(f"{name}{table.name if pair in unclear else ''}{end if own else ''}")
            attributes = [f"@relation({text.quoted(relation)})"] if relation else []
            found[at].append(Field(names.unused(field, taken[at]), f"{naming.types[opposite]}[]", attributes))
    return found


def related(key: ForeignKey, table: Table, other: Table) -> bool:
    """Whether it can be a relation: Prisma wants both ends to be of one type, PostgreSQL lets an int refer to a bigint."""
    return all(
        native.kind(table.by_name[own]) == native.kind(other.by_name[referred])
        for own, referred in zip(key.columns, key.referred, strict=True)
    )


def repeated(table: Table) -> list[ForeignKey]:
    """Foreign keys that say what another one of the table says already: a relation has one."""
    distinct = _distinct(table)
    return [key for key in table.foreign_keys if key not in distinct]


def _distinct(table: Table) -> list[ForeignKey]:
    seen, found = set(), []
    for key in table.foreign_keys:
        said = (key.columns, key.table, key.referred)
        if said not in seen:
            seen.add(said)
            found.append(key)
    return found


def _unclear(
    keys: Sequence[tuple[Table, ForeignKey]], hidden: Sequence[Table], by_oid: Mapping[int, Table], naming: Naming
) -> set[Pair]:
    """The pairs of tables whose relations need names: there are several, or a field would be called as a column is."""
    count: dict[Pair, int] = defaultdict(int)
    found = set()
    for table, key in keys:
        pair = frozenset((table.oid, key.table))
        count[pair] += 1
        _, forth, back = _names(table, by_oid[key.table], key, naming, False)
        if forth in naming.columns[table.oid].values() or back in naming.columns[key.table].values():
            found.add(pair)
    for table in hidden:
        count[frozenset(key.table for key in table.foreign_keys)] += 1
    return found | {pair for pair, times in count.items() if times > 1}


def _names(table: Table, other: Table, key: ForeignKey, naming: Naming, unclear: bool) -> tuple[str, str, str]:
    one, two = naming.plain[table.oid], naming.plain[other.oid]
    before = "other_" if table is other else ""
    if not unclear:
        return (f"{one}To{two}" if table is other else "", two, f"{before}{one}")
    columns = "_".join(naming.columns[table.oid][column] for column in key.columns)
    relation = f"{one}_{columns}To{two}"
    return relation, f"{two}_{relation}", f"{before}{one}_{relation}"


def _forth(table: Table, other: Table, key: ForeignKey, naming: Naming, name: str, relation: str) -> Field:
    own, referred = (
        ", ".join(naming.columns[one.oid][column] for column in columns)
        for one, columns in ((table, key.columns), (other, key.referred))
    )
    required = [table.by_name[column].required for column in key.columns]
    said = [text.quoted(relation)] if relation else []
    said += [f"fields: [{own}]", f"references: [{referred}]"]
    if key.on_delete != ("Restrict" if any(required) else "SetNull"):
        said.append(f"onDelete: {key.on_delete}")
    if key.on_update != "Cascade":
        said.append(f"onUpdate: {key.on_update}")
    if key.name != names.usual(table.name, key.columns, "_fkey"):
        said.append(f"map: {text.quoted(key.name)}")
    ignored = identified(table) and not identified(other)
    attributes = [f"@relation({', '.join(said)})", *(["@ignore"] if ignored else [])]
    return Field(name, naming.types[other.oid] + ("" if all(required) else "?"), attributes)


def _back(table: Table, other: Table, key: ForeignKey, naming: Naming, name: str, relation: str) -> Field:
    # Prisma takes a relation for one to one only where a key has these very columns, in this order.
    single = any(index.columns == key.columns for index in table.keys)
    ignored = identified(other) and not identified(table)
    attributes = [f"@relation({text.quoted(relation)})"] if relation else []
    return Field(name, naming.types[table.oid] + ("?" if single else "[]"), attributes + ["@ignore"] * ignored)
