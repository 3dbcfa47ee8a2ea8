"""What Prisma cannot express: said at the model that it belongs to, and in one list at the end of the file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from mcp_planner_schema.interop.prisma import native, relations, text
from mcp_planner_schema.interop.prisma.catalog import Catalog, Left, Table

_TITLE = "What this database has, and Prisma has no words for"
_EMPTY = "Nothing: all that this database has stands above."


def everything(catalog: Catalog, hidden: Sequence[Table]) -> list[Left]:
    """What the catalog says, and what follows from how the rest is written."""
    found, by_oid = list(catalog.left), {table.oid: table for table in catalog.tables}
    for table in catalog.tables:
        inexact = [column for column in table.columns if not native.exact(column)]
        found += [Left(table.oid, "type", column.name, column.written) for column in inexact]
        found += [Left(table.oid, "repeated foreign key", key.name, "") for key in relations.repeated(table)]
        found += [
            Left(
                table.oid,
                "foreign key between types",
                key.name,
                f"{', '.join(key.columns)} to {_named(by_oid[key.table])}",
            )
            for key in table.foreign_keys
            if not relations.related(key, table, by_oid[key.table])
        ]
        if table.list_is_key and table.primary:
            found.append(Left(table.oid, "primary key of a list", table.primary.name, ", ".join(table.primary.columns)))
        if not table.columns:
            found.append(Left(None, "table without columns", _named(table), ""))
    for table in hidden:
        found += [
            Left(table.oid, "action", key.name, f"ON DELETE {key.on_delete} ON UPDATE {key.on_update}")
            for key in table.foreign_keys
            if (key.on_delete, key.on_update) != ("Cascade", "Cascade")
        ]
    return sorted(found, key=lambda one: (one.kind, one.name, one.told))


def notes(table: Table, left: Sequence[Left]) -> list[str]:
    """The lines above a model."""
    own = [f"  {text.one_line(_said(one))}" for one in left if one.table == table.oid]
    return ["Prisma has no words for:", *own] if own else []


def _said(one: Left) -> str:
    named = one.told.startswith("CREATE ")  # and has its name in it
    return f"{one.kind}: {one.told}" if named else f"{one.kind} {one.name}: {one.told}".removesuffix(": ")


def written(catalog: Catalog, left: Sequence[Left]) -> str:
    """The list, as comments."""
    tables = {table.oid: _named(table) for table in catalog.tables}
    kinds: dict[str, list[str]] = defaultdict(list)
    for one in left:
        kinds[one.kind].append(_place(one, tables))
    commented = [column.comment for table in catalog.tables for column in table.columns]
    commented += [table.comment for table in catalog.tables] + [enum.comment for enum in catalog.enums]
    count = len(commented) - commented.count(None)
    if count:
        kinds["comment"].append(f"{count}, of tables, columns and enums, written as documentation (///); no other ones")
    lines = [_TITLE + ":"] if kinds else [_EMPTY]
    for kind in sorted(kinds):
        lines += [f"  {kind}", *(f"    {text.one_line(name)}" for name in sorted(set(kinds[kind])))]
    return "".join(f"{line}\n" for line in text.comments(lines, "//"))


def _place(one: Left, tables: Mapping[int, str]) -> str:
    table = tables.get(one.table) if one.table is not None else None
    if table is None or table.rpartition(".")[2] == one.name:
        return table or one.name
    return f"{table}: {one.name}"


def _named(table: Table) -> str:
    return table.name if table.schema == "public" else f"{table.schema}.{table.name}"
