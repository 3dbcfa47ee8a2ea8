"""What a database holds, as far as a ``schema.prisma`` speaks of it; and, line by line, what it does not speak of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Column:
    """A column, its type followed through domains and out of arrays.

    ``written`` is the type as a CREATE TABLE has it, ``size`` what stands in brackets behind what it is made of. ``enum`` is
    the OID of an enumerated type.
    """

    name: str
    type: str
    written: str
    domain: bool
    size: tuple[int, ...]
    builtin: bool
    enum: int | None
    listed: bool
    required: bool
    default: str | None
    identity: bool
    generated: bool
    comment: str | None


@dataclass(frozen=True)
class Part:
    """One column of an index."""

    column: str
    descending: bool
    operators: str
    usual: bool
    """Whether these operators are the type's default."""


@dataclass(frozen=True)
class Index:
    """An index or a key that columns alone describe. ``key``: ``primary``, ``unique`` or nothing."""

    name: str
    key: str
    method: str
    parts: tuple[Part, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns."""
        return tuple(part.column for part in self.parts)


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key; ``table`` is the OID of what it refers to."""

    name: str
    columns: tuple[str, ...]
    table: int
    referred: tuple[str, ...]
    on_delete: str
    on_update: str


@dataclass(frozen=True)
class Table:
    """A table with columns, indexes and foreign keys; the latter two in the order of their names."""

    oid: int
    schema: str
    name: str
    comment: str | None
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...]
    foreign_keys: tuple[ForeignKey, ...]

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """The columns by their names."""
        return {column.name: column for column in self.columns}

    @cached_property
    def primary(self) -> Index | None:
        """The primary key."""
        return next((index for index in self.indexes if index.key == "primary"), None)

    @cached_property
    def list_is_key(self) -> bool:
        """Whether the primary key is an array, which for Prisma cannot be more than unique."""
        return self.primary is not None and [self.by_name[name].listed for name in self.primary.columns] == [True]

    @cached_property
    def keys(self) -> tuple[Index, ...]:
        """What is unique among all rows, the primary key included."""
        return tuple(index for index in self.indexes if index.key)


@dataclass(frozen=True)
class Enum:
    """An enumerated type."""

    oid: int
    schema: str
    name: str
    comment: str | None
    values: tuple[str, ...]


@dataclass(frozen=True)
class Left:
    """What Prisma cannot express: of the table with this OID, or of none. ``told``: its definition, or what it is like."""

    table: int | None
    kind: str
    name: str
    told: str


@dataclass(frozen=True)
class Catalog:
    """All of it, each in the order of schema and name."""

    tables: tuple[Table, ...]
    enums: tuple[Enum, ...]
    left: tuple[Left, ...]

    @property
    def schemas(self) -> list[str]:
        """The schemas that hold something which is written."""
        return sorted({table.schema for table in self.tables} | {enum.schema for enum in self.enums})
