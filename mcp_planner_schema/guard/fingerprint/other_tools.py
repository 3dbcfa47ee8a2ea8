"""Tables in which other tools keep their versions: no revision makes them, and none misses them. They count as little as
Alembic's own version table does, before an adoption as after it.

One is told by its name and its columns together: a table of somebody's own that has the name only is part of the schema. A
golang-migrate table under another name is known by the row that its adoption has written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_planner_schema.guard.postcheck import execute, literal

if TYPE_CHECKING:
    from sqlalchemy import Connection

TABLES = {
    "schema_migrations": "dirty boolean, version bigint",
    "_prisma_migrations": (
        "applied_steps_count integer, checksum character varying, finished_at timestamp with time zone, "
        "id character varying, logs text, migration_name character varying, rolled_back_at timestamp with time zone, "
        "started_at timestamp with time zone"
    ),
    "django_migrations": "app character varying, applied timestamp with time zone, id bigint, name character varying",
}
"""golang-migrate's, Prisma's and Django's: the name, and the columns in the order of their names."""
# Django before 3.2 numbered its rows by integers.
_SHAPES = [*TABLES.items(), ("django_migrations", TABLES["django_migrations"].replace("bigint", "integer"))]

IS_ONE = f"""(c.relname::text, (
    SELECT pg_catalog.string_agg(pg_catalog.concat(a.attname, ' ', pg_catalog.format_type(a.atttypid, NULL)), ', '
                                 ORDER BY a.attname::text COLLATE "C")
    FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
)) IN ({", ".join(f"({literal(name)}, {literal(columns)})" for name, columns in _SHAPES)})"""
"""The condition in SQL, of a row ``c`` of pg_class. Ask for the name alone first: it is found by an index."""

_ALL = f"""
SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname IN ({", ".join(map(literal, TABLES))}) AND {IS_ONE}
"""
# A view, a rule or a policy would run its maker's code with the rights of whoever asks.
_READABLE = """
SELECT pg_catalog.has_table_privilege(c.oid, 'SELECT')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = 'adopted' AND c.relkind = 'r' AND NOT c.relhasrules AND NOT c.relrowsecurity
  AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
"""


def without(connection: Connection, schema: str, version_table: str) -> tuple[str, ...]:
    """The tables that do not count in this database, for :func:`.live.read`: Alembic's, and what adoptions have named."""
    return version_table, *_adopted(connection, schema)


def there(connection: Connection, schema: str) -> set[tuple[str, str]]:
    """The schema and name of each of them in this database."""
    adopted = [name.partition(".") for name in _adopted(connection, schema)]
    return {(row[0], row[1]) for row in execute(connection, _ALL)} | {(home, name) for home, _, name in adopted}


def _adopted(connection: Connection, schema: str) -> list[str]:
    """``schema`` is the guard's; a role that may not read what it remembers goes by the usual names alone."""
    if not connection.exec_driver_sql(_READABLE, (schema,)).scalar():
        return []
    return list(connection.exec_driver_sql(f"SELECT relation FROM {schema}.adopted ORDER BY relation").scalars())
