"""What comes along with a column: its checks, foreign keys and indexes, as they are when it has its new name and type.

Each is built on an empty temporary copy of the table, the column is renamed there (and given its new type), and PostgreSQL
shows what has become of it. Reads only; the copy is rolled back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.generate import empty
from mcp_planner_schema.generate.facts import CONSTRAINTS, Table, quoted
from mcp_planner_schema.guard.postcheck import execute, identifier, literal

if TYPE_CHECKING:
    from sqlalchemy import Connection

# An index that a constraint brings is the constraint's.
_INDEXES = """
SELECT i.indexrelid::bigint, x.relname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
WHERE i.indrelid = %s::bigint::oid AND EXISTS (
    SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = i.indexrelid
      AND d.refobjid = i.indrelid AND d.refobjsubid = %s::int)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid)
ORDER BY x.relname
"""
_INDEX = """
SELECT m.amname::text, i.indisunique, pg_catalog.pg_get_expr(i.indpred, i.indrelid, true),
  array(SELECT pg_catalog.pg_get_indexdef(i.indexrelid, n, true)
      || CASE WHEN o.opcdefault THEN ''
              ELSE ' ' || pg_catalog.quote_ident(s.nspname) || '.' || pg_catalog.quote_ident(o.opcname) END
      || CASE WHEN pg_catalog.pg_index_column_has_property(i.indexrelid, n, 'desc') THEN ' DESC' ELSE '' END
      || CASE WHEN pg_catalog.pg_index_column_has_property(i.indexrelid, n, 'nulls_first')
                   IS DISTINCT FROM pg_catalog.pg_index_column_has_property(i.indexrelid, n, 'desc')
              THEN CASE WHEN pg_catalog.pg_index_column_has_property(i.indexrelid, n, 'nulls_first')
                        THEN ' NULLS FIRST' ELSE ' NULLS LAST' END ELSE '' END
    FROM pg_catalog.generate_series(1, i.indnkeyatts::int) AS n
    JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[n - 1] JOIN pg_catalog.pg_namespace s ON s.oid = o.opcnamespace
    ORDER BY n),
  array(SELECT pg_catalog.pg_get_indexdef(i.indexrelid, n, true)
    FROM pg_catalog.generate_series(i.indnkeyatts + 1, i.indnatts::int) AS n ORDER BY n),
  (pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::boolean IS TRUE
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid JOIN pg_catalog.pg_am m ON m.oid = x.relam
WHERE i.indexrelid = %s::bigint::oid
"""


@dataclass(frozen=True)
class Constraint:
    """A check or foreign key: its name, its definition, and both as they are on the new column; empty where it is on none."""

    name: str
    definition: str
    new_name: str
    new_definition: str


@dataclass(frozen=True)
class IndexShape:
    """An index: its keys as SQL, and what else ``op.create_index`` wants to know of it."""

    name: str
    method: str
    unique: bool
    where: str | None
    keys: tuple[str, ...]
    include: tuple[str, ...]
    nulls_equal: bool


def constraints(connection: Connection, on: Table, old: str, new: str, type_sql: str | None) -> list[Constraint]:
    """The checks and foreign keys of the column ``old``, and as they are when it is called ``new`` and has its new type."""
    found = []
    for name, kind, definition, columns in connection.exec_driver_sql(
        CONSTRAINTS, (on.oid, on.columns[old].number)
    ).all():
        if kind == "c":
            shown = _check(connection, on, definition, (old, new, type_sql))
            found.append(Constraint(name, definition, renamed(name, old, new), shown))
        elif kind == "f":
            # Its own columns stand first; what it refers to stays as it is.
            to = ", ".join(quoted(new if one == old else one) for one in columns)
            shown = f"FOREIGN KEY ({to}){definition[definition.index(') REFERENCES ') + 1 :]}"
            found.append(Constraint(name, definition, renamed(name, old, new), shown))
    return found


def indexes(
    connection: Connection, on: Table, old: str, new: str, type_sql: str | None
) -> list[tuple[IndexShape, IndexShape | None]]:
    """The indexes on the column ``old``, each with what it is when that is called ``new`` and has its new type."""
    found = []
    for oid, name in connection.exec_driver_sql(_INDEXES, (on.oid, on.columns[old].number)).all():
        before = IndexShape(name, *_index(connection, oid))
        found.append((before, _moved(connection, on, before, (old, new, type_sql))))
    return found


def index_sql(index: IndexShape) -> str:
    """What follows the table's name in CREATE INDEX."""
    include = f" INCLUDE ({', '.join(index.include)})" if index.include else ""
    equal = " NULLS NOT DISTINCT" if index.nulls_equal else ""
    where = f" WHERE {index.where}" if index.where else ""
    return f"USING {index.method} ({', '.join(index.keys)}){include}{equal}{where}"


def rewrites(connection: Connection, on: Table, column: str, type_sql: str) -> bool:
    """Whether ALTER COLUMN TYPE would write the table anew: it is tried on an empty copy. Raises the server's error."""
    with empty.twin(connection, on.schema, on.name) as twin:
        asked = f"SELECT c.relfilenode FROM pg_catalog.pg_class c WHERE c.oid = {literal(twin)}::regclass"
        before = execute(connection, asked).scalar_one()
        execute(connection, f"ALTER TABLE {twin} ALTER COLUMN {identifier(column)} TYPE {type_sql}")
        return bool(execute(connection, asked).scalar_one() != before)


def renamed(name: str, old: str, new: str) -> str:
    """The name of an index or constraint, after its column's new name."""
    made = name.replace(old, new) if old in name else f"{name}_{new}"
    if len(made.encode()) > 63:
        import hashlib

        made = made.encode()[:54].decode(errors="ignore") + "_" + hashlib.sha256(made.encode()).hexdigest()[:8]
    return made


def _index(connection: Connection, oid: int) -> tuple[Any, ...]:
    method, unique, where, keys, include, equal = connection.exec_driver_sql(_INDEX, (oid,)).one()
    return method, unique, where, tuple(keys), tuple(include), equal


def _check(connection: Connection, on: Table, definition: str, change: tuple[str, str, str | None]) -> str:
    """The check as it is on the new column; empty where it does not fit its type."""
    with empty.twin(connection, on.schema, on.name) as twin:
        execute(connection, f"ALTER TABLE {twin} ADD CONSTRAINT twin {definition}")
        if not _change(connection, twin, *change):
            return ""
        asked = (
            "SELECT pg_catalog.pg_get_constraintdef(oid) FROM pg_catalog.pg_constraint "
            f"WHERE conrelid = {literal(twin)}::regclass AND conname = 'twin'"
        )
        return str(execute(connection, asked).scalar_one())


def _moved(
    connection: Connection, on: Table, before: IndexShape, change: tuple[str, str, str | None]
) -> IndexShape | None:
    """The index as it is on the new column; None where it does not fit its type."""
    with empty.twin(connection, on.schema, on.name) as twin:
        execute(connection, f"CREATE {'UNIQUE ' if before.unique else ''}INDEX twin ON {twin} {index_sql(before)}")
        if not _change(connection, twin, *change):
            return None
        (there,) = connection.exec_driver_sql("SELECT 'pg_temp.twin'::regclass::oid::bigint").one()
        return IndexShape(renamed(before.name, *change[:2]), *_index(connection, there))


def _change(connection: Connection, twin: str, old: str, new: str, type_sql: str | None) -> bool:
    """Give the copy's column its new name and type; whether what hangs on it could follow."""
    from sqlalchemy.exc import DBAPIError

    column = f"ALTER TABLE {twin} ALTER COLUMN {identifier(old)}"
    try:
        if type_sql:
            execute(connection, f"{column} DROP NOT NULL; {column} TYPE {type_sql} USING NULL::{type_sql}")
    except DBAPIError:
        return False
    execute(connection, f"ALTER TABLE {twin} RENAME COLUMN {identifier(old)} TO {identifier(new)}")
    return True
