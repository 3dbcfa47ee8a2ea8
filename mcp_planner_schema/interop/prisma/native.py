"""Types: what Prisma calls a column's type, and the attribute that says which of PostgreSQL's it is."""

from __future__ import annotations

import re

from mcp_planner_schema.interop.prisma import text
from mcp_planner_schema.interop.prisma.catalog import Column, Part

# The type, and the attribute; none where it is what Prisma takes that type for.
_KNOWN = {
    "int2": ("Int", "SmallInt"), "int4": ("Int", ""), "int8": ("BigInt", ""), "oid": ("Int", "Oid"),
    "float4": ("Float", "Real"), "float8": ("Float", ""), "numeric": ("Decimal", "Decimal"), "money": ("Decimal", "Money"),
    "bool": ("Boolean", ""), "text": ("String", ""), "varchar": ("String", "VarChar"), "bpchar": ("String", "Char"),
    "char": ("String", "Char"), "uuid": ("String", "Uuid"), "xml": ("String", "Xml"), "inet": ("String", "Inet"),
    "bit": ("String", "Bit"), "varbit": ("String", "VarBit"), "bytea": ("Bytes", ""), "json": ("Json", "Json"),
    "jsonb": ("Json", ""), "date": ("DateTime", "Date"), "time": ("DateTime", "Time"), "timetz": ("DateTime", "Timetz"),
    "timestamp": ("DateTime", "Timestamp"), "timestamptz": ("DateTime", "Timestamptz"),
}  # fmt: skip
_SIZED = ("numeric", "varchar", "bpchar", "bit", "varbit", "time", "timetz", "timestamp", "timestamptz")
_TIMES = ("time", "timetz", "timestamp", "timestamptz")
_TAKEN_FOR_GRANTED = (("Decimal", (65, 30)), ("Timestamp", (3,)))


def scalar(column: Column) -> str | None:
    """Prisma's own type of it; None for an enum, and for what Prisma has no type for."""
    if column.builtin and column.type in _KNOWN:
        return _KNOWN[column.type][0]
    return "String" if column.type == "citext" and column.enum is None else None


def kind(column: Column) -> tuple[str | int, bool]:
    """What Prisma compares the ends of a relation by."""
    return scalar(column) or column.enum or unsupported(column), column.listed


def attribute(column: Column) -> str | None:
    """``@db.…``, where it has to be written."""
    if scalar(column) is None:
        return None
    name = _KNOWN[column.type][1] if column.builtin else "Citext"
    size = _size(column)
    if not name or (name, size) in _TAKEN_FOR_GRANTED:
        return None
    return f"@db.{name}({', '.join(map(str, size))})" if size else f"@db.{name}"


def unsupported(column: Column) -> str:
    """The type that Prisma knows nothing of but its name."""
    return f"Unsupported({text.quoted(column.type)})"


def exact(column: Column) -> bool:
    """Whether the type that is written is all of what the column's is."""
    if column.type == "char" or (column.type == "bpchar" and not column.size):
        return False  # taken for char(1), which is another type
    if scalar(column) is None and column.enum is None:
        return not column.domain and "(" not in column.written
    return not column.domain and _size(column)[: len(column.size)] == column.size


def _size(column: Column) -> tuple[int, ...]:
    if column.type not in _SIZED:
        return ()
    if column.type == "numeric" and column.size:
        digits, scale = column.size
        return column.size if 0 <= scale <= digits else ()
    if column.type in _TIMES and not column.size and not column.listed:
        return (6,)
    return column.size


# The classes that Prisma has a name for, by method and type; every other one is written as it is called in the database.
_USUAL = {
    "gin": ("jsonb",),
    "spgist": ("inet", "text", "varchar"),
    "brin": ("bit", "varbit", "bpchar", "date", "float4", "float8", "inet", "int2", "int4", "int8", "numeric", "oid", "bytea",
             "text", "varchar", "timestamp", "timestamptz", "time", "timetz", "uuid"),
}  # fmt: skip
_NAMED = {("gist", "inet", "inet_ops"): "InetOps", ("gin", "jsonb", "jsonb_path_ops"): "JsonbPathOps"}
_BRIN = re.compile(r"(?P<type>[a-z0-9]+)_(?P<way>inclusion|minmax|minmax_multi|bloom)_ops")
_WORDS = {
    "varbit": "VarBit",
    "timestamptz": "TimestampTz",
    "timetz": "TimeTz",
    "minmax": "MinMax",
    "minmax_multi": "MinMaxMulti",
}


def operators(column: Column, method: str, part: Part) -> str | None:
    """The operator class, where it is not the type's default, or Prisma does not know that the type has one."""
    known = scalar(column) is not None or column.enum is not None
    if part.usual and (not known or (method == "gin" if column.listed else column.type in _USUAL.get(method, ()))):
        return None
    named = None if column.listed else _NAMED.get((method, column.type, part.operators)) or _brin(column, method, part)
    return named or f"raw({text.quoted(part.operators)})"


def _brin(column: Column, method: str, part: Part) -> str | None:
    found = _BRIN.fullmatch(part.operators) if method == "brin" else None
    if not found or found["type"] != column.type:
        return None
    return "".join(_WORDS.get(word, word.capitalize()) for word in found.groups()) + "Ops"
