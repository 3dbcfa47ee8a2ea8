"""What the catalog knows of a table and its columns, and of what hangs on them. Reads only."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy.dialects import postgresql

from mcp_planner_schema.generate import empty
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.postcheck import CATALOG_PATH, execute, identifier, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

_QUOTES = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]  # a class, says SQLAlchemy

_TABLE = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text,
  array(SELECT a.attname::text FROM pg_catalog.pg_index i CROSS JOIN LATERAL
        pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
        WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY k.place)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = pg_catalog.to_regclass(%s) AND c.relkind IN ('r', 'p')
"""
_COLUMNS = """
SELECT a.attname::text, a.attnum::int, pg_catalog.format_type(a.atttypid, a.atttypmod), '', a.attnotnull,
  pg_catalog.pg_get_expr(d.adbin, d.adrelid), pg_catalog.col_description(a.attrelid, a.attnum), a.attidentity <> '',
  a.attgenerated <> '', a.attacl IS NOT NULL, a.attcollation <> t.typcollation,
  CASE WHEN t.typtype = 'e' THEN pg_catalog.format_type(t.oid, NULL) END
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %s::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
CONSTRAINTS = """
SELECT k.conname::text, k.contype::text, pg_catalog.pg_get_constraintdef(k.oid),
  array(SELECT a.attname::text FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS c(number, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.number ORDER BY c.place)
FROM pg_catalog.pg_constraint k
WHERE k.conrelid = %s::bigint::oid AND %s::int2 = ANY (k.conkey) AND k.contype IN ('c', 'f', 'u', 'p', 'x')
ORDER BY k.conname
"""
# What hangs on the column and cannot be made anew without knowing what it is for.
_HANGING = """
SELECT CASE d.classid WHEN 'pg_catalog.pg_rewrite'::regclass THEN 'view ' || (SELECT r.ev_class::regclass::text
           FROM pg_catalog.pg_rewrite r WHERE r.oid = d.objid)
         ELSE pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) END
FROM pg_catalog.pg_depend d
WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = %s::bigint::oid AND d.refobjsubid = %s::int
  AND d.deptype <> 'i' AND d.classid IN ('pg_catalog.pg_rewrite'::regclass, 'pg_catalog.pg_policy'::regclass,
    'pg_catalog.pg_trigger'::regclass, 'pg_catalog.pg_statistic_ext'::regclass,
    'pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_publication_rel'::regclass)
UNION
SELECT 'foreign key ' || k.conname || ' of ' || k.conrelid::regclass FROM pg_catalog.pg_constraint k
WHERE k.confrelid = %s::bigint::oid AND k.contype = 'f' AND %s::int2 = ANY (k.confkey)
UNION
SELECT 'generated column ' || a.attname FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_attrdef f
  ON f.adrelid = a.attrelid AND f.adnum = a.attnum
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = f.oid AND d.refobjid = a.attrelid
WHERE a.attrelid = %s::bigint::oid AND a.attgenerated <> '' AND d.refobjsubid = %s::int AND a.attnum <> %s::int
UNION
SELECT 'sequence ' || d.objid::regclass || ', which it owns' FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = d.classid AND d.refobjid = %s::bigint::oid
  AND d.refobjsubid = %s::int AND d.deptype = 'a'
UNION
SELECT 'the partition key' FROM pg_catalog.pg_partitioned_table p
WHERE p.partrelid = %s::bigint::oid AND %s::int2 = ANY (p.partattrs::int2[])
ORDER BY 1
"""

_TABLES = """
SELECT pg_catalog.concat(CASE WHEN n.nspname <> 'public' THEN n.nspname || '.' END, c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND c.relname NOT LIKE '%%alembic_version' ORDER BY 1
"""
_LABELS = """
SELECT array(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = pg_catalog.to_regtype(%s)::oid
             ORDER BY e.enumsortorder)
"""
_UNIQUE = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = %s::bigint::oid AND i.indisunique AND i.indisvalid
  AND i.indnkeyatts = 1 AND i.indkey[0] = %s::int2 AND i.indpred IS NULL)
"""
_REFERRING = """
SELECT 'foreign key ' || k.conname || ' of ' || k.conrelid::regclass FROM pg_catalog.pg_constraint k
WHERE k.confrelid = %s::bigint::oid AND k.contype = 'f' AND k.conrelid <> %s::bigint::oid
UNION
SELECT 'view ' || r.ev_class::regclass FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
  AND d.refobjid = %s::bigint::oid
ORDER BY 1
"""


@dataclass(frozen=True)
class Column:
    """A column as the catalog has it; ``type`` with its schema, ``shown`` as psql shows it. ``enum`` is the
    name of its enum type; ``volatile``: its default differs from row to row.
    """

    name: str
    number: int
    type: str
    shown: str
    not_null: bool
    default: str | None
    comment: str | None
    identity: bool
    generated: bool
    granted: bool
    collated: bool
    enum: str | None
    volatile: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its columns, by name. ``key`` are the columns of its primary key."""

    oid: int
    schema: str
    name: str
    kind: str
    key: tuple[str, ...]
    columns: dict[str, Column]

    @property
    def sql(self) -> str:
        """Its name for a statement; ``public`` is left out, as in this project's revisions."""
        return name_sql(self.schema, self.name)

    def column(self, name: str, form: str) -> Column:
        """The column of that name. Raises :class:`WrongUse`."""
        if name not in self.columns:
            raise self.lacking(name, instead(form, name, self.columns))
        return self.columns[name]

    def lacking(self, name: str, form: str) -> WrongUse:
        """The error that it has no such column."""
        return WrongUse(f"Table {self.name} has no column {name}; it has {', '.join(self.columns)}.", form)

    def free(self, name: str, form: str) -> None:
        """Raise :class:`WrongUse` where the name of a new column is taken."""
        if name in self.columns:
            raise WrongUse(f"Table {self.name} has a column {name} already.", instead(form, name, [f"new_{name}"]))


def name_sql(schema: str, name: str) -> str:
    """A name as this project's revisions write it: bare where that means the same, and without ``public``."""
    return (quoted(schema) + "." if schema != "public" else "") + quoted(name)


def quoted(name: str) -> str:
    """A name, quoted where SQL wants it."""
    return _QUOTES.quote(name)


def unquoted(name: str) -> str:
    """A quoted name as it is."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def command(values: Mapping[str, str]) -> str:
    """The command as somebody has typed it, or would have to."""
    return " ".join(["make migrate-create", *(f"{name}={_typed(value)}" for name, value in values.items())])


def instead(form: str, wrong: str, there: Iterable[str]) -> str:
    """The command with the one of ``there`` that is most like the wrong value in its place.

    What is to be dropped is not guessed: where none is like it, that is left open.
    """
    values = dict(part.split("=", 1) for part in shlex.split(form) if "=" in part)
    least = 0.6 if values.get("KIND", "").startswith("drop_") else 0.0
    right = difflib.get_close_matches(wrong, list(there), n=1, cutoff=least) or ["…"]
    return command({name: right[0] if value == wrong else value for name, value in values.items()})


def by_hand(name: str, shows: str = "docs/schema-changes.md shows the revisions") -> str:
    """What to type where no generator can: a revision that somebody writes. ``name`` are its words."""
    return f"make migrate-create NAME={'_'.join(name.split())}   (by hand: {shows})"


def _typed(value: str) -> str:
    """A value for the shell; what is SQL is read best in double quotes."""
    if "'" in value and not set(value) & set('"$`\\!'):
        return f'"{value}"'
    return value if value == "…" else shlex.quote(value)


def table(connection: Connection, name: str, form: str) -> Table:
    """The table ``name`` or ``schema.name``, as the catalog has it. Raises :class:`WrongUse`."""
    schema, _, short = name.rpartition(".")
    found = connection.exec_driver_sql(_TABLE, (f"{identifier(schema or 'public')}.{identifier(short)}",)).first()
    if found is None:
        there = list(connection.exec_driver_sql(_TABLES, (schema or "public",)).scalars())
        said = f"There is no table {name} in this database; it has {', '.join(there) or 'none'}."
        raise WrongUse(said, instead(form, name, there))
    oid, schema, short, kind, key = found
    columns = {row[0]: Column(*row) for row in connection.exec_driver_sql(_COLUMNS, (oid,))}
    with pinned(connection, search_path=CATALOG_PATH):
        for row in connection.exec_driver_sql(_COLUMNS, (oid,)).all():
            columns[row[0]] = replace(columns[row[0]], shown=row[2])
    for one in list(columns.values()):
        if one.default and not one.generated:
            columns[one.name] = replace(one, volatile=empty.volatile(connection, one.type, one.default))
    return Table(oid, schema, short, kind, tuple(key), columns)


def hanging(connection: Connection, on: Table, column: Column) -> list[str]:
    """What depends on the column and does not come along by itself, for people."""
    oid, number = on.oid, column.number
    found = list(
        connection.exec_driver_sql(
            _HANGING, (oid, number, oid, number, oid, number, number, oid, number, oid, number)
        ).scalars()
    )
    for name, kind, _, _ in connection.exec_driver_sql(CONSTRAINTS, (oid, number)):
        if kind in ("u", "p", "x"):
            found.append({"u": "unique constraint ", "p": "primary key ", "x": "exclusion constraint "}[kind] + name)
    said = {
        "identity": "its identity",
        "generated": "its expression",
        "granted": "rights on the column",
        "collated": "its collation",
    }
    return found + [text for attribute, text in said.items() if getattr(column, attribute)]


def labels(connection: Connection, enum: str, form: str = "make help") -> list[str]:
    """The values of an enum type, in their order. Raises :class:`WrongUse` where there is no such type."""
    found = connection.exec_driver_sql(_LABELS, (enum if "." in enum else f"public.{enum}",)).scalar_one()
    if not found:
        raise WrongUse(f"There is no enum type {enum} in this database.", form)
    return list(found)


def made_of_default(connection: Connection, old: Column, forward: str, type_sql: str) -> str | None:
    """The new column's default: what ``forward`` makes of the old one's. None where that differs from row to row."""
    if old.default is None or old.volatile:
        return None
    asked = (
        f"SELECT pg_catalog.quote_nullable(({forward})::{type_sql}::text) "
        f"FROM (SELECT ({old.default})::{old.type} AS {quoted(old.name)}) AS given"
    )
    made = str(execute(connection, asked).scalar_one())
    return None if made == "NULL" else f"{made}::{type_sql}"


def label_of_default(connection: Connection, old: Column) -> str | None:
    """The label that an enum column has as its default."""
    return None if old.default is None else str(execute(connection, f"SELECT ({old.default})::text").scalar_one())


def unique(connection: Connection, on: Table, column: str) -> bool:
    """Whether no two rows have the same value in the column."""
    return bool(connection.exec_driver_sql(_UNIQUE, (on.oid, on.columns[column].number)).scalar_one())


def referring(connection: Connection, on: Table) -> list[str]:
    """Foreign keys and views of others that refer to the table, for people."""
    return list(connection.exec_driver_sql(_REFERRING, (on.oid, on.oid, on.oid)).scalars())


def taken(connection: Connection, schema: str, name: str) -> bool:
    """Whether a table, view or index has this name."""
    named = f"{identifier(schema)}.{identifier(name)}"
    return bool(connection.exec_driver_sql("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (named,)).scalar_one())
