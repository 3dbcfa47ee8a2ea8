"""Twins: what a definition means is found out on an empty temporary copy of the table, and not by reading its text.

The copy is made in a savepoint and is gone afterwards. It has the table's own name, so PostgreSQL shows what is built on it
with the same words as what is built on the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.postcheck import identifier, literal
from mcp_planner_schema.operations import online
from mcp_planner_schema.operations.online import Table

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

# What follows the name of the table is the definition; the table's name in it is quoted as %I quotes.
SHOWN = """
SELECT CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END || pg_catalog.substr(d.def, pg_catalog.length(h.head) + 1)
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_indexdef(i.indexrelid)) AS d (def)
CROSS JOIN LATERAL (SELECT pg_catalog.format('CREATE %sINDEX %I ON %s%I.%I ',
  CASE WHEN i.indisunique THEN 'UNIQUE ' END, x.relname, CASE WHEN x.relkind = 'I' THEN 'ONLY ' END,
  CASE WHEN n.oid = pg_catalog.pg_my_temp_schema() THEN 'pg_temp' ELSE n.nspname END, c.relname)) AS h (head)
"""
_KEYS = """
SELECT ARRAY(
  SELECT '(' || pg_catalog.pg_get_indexdef(i.indexrelid, k.n, true) || ')' ||
         coalesce(' COLLATE ' || pg_catalog.quote_ident(s.nspname) || '.' || pg_catalog.quote_ident(o.collname), '')
  FROM pg_catalog.generate_series(1, i.indnkeyatts::int) AS k (n)
  LEFT JOIN pg_catalog.pg_collation o ON o.oid = i.indcollation[k.n - 1]
  LEFT JOIN pg_catalog.pg_namespace s ON s.oid = o.collnamespace ORDER BY k.n),
  pg_catalog.pg_get_expr(i.indpred, i.indrelid), (pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::boolean IS TRUE
FROM pg_catalog.pg_index i WHERE i.indexrelid = """


@dataclass(frozen=True)
class Keys:
    """What a unique index compares: expressions, the condition of a partial one, whether nulls are equal."""

    expressions: tuple[str, ...]
    condition: str | None
    nulls_equal: bool


def index(context: MigrationContext, table: Table, definition: str, *, unique: bool) -> tuple[str, Keys]:
    """How PostgreSQL shows an index of this definition, and what it compares."""
    with copied(context, table) as copy:
        online.ask(context, f"CREATE {'UNIQUE ' if unique else ''}INDEX guard_twin ON {copy} {definition}")
        oid = f"{literal('pg_temp.guard_twin')}::pg_catalog.regclass"
        (shown,) = online.ask(context, f"{SHOWN} WHERE i.indexrelid = {oid}")
        (keys,) = online.ask(context, _KEYS + oid)
    return shown[0], Keys(tuple(keys[0]), keys[1], keys[2])


def constraint(context: MigrationContext, table: Table, definition: str) -> str:
    """How PostgreSQL shows a constraint of this definition."""
    with copied(context, table) as copy:
        online.ask(context, f"ALTER TABLE {copy} ADD CONSTRAINT guard_twin {definition}")
        (shown,) = online.ask(
            context,
            "SELECT pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k WHERE k.conname = 'guard_twin' "
            f"AND k.conrelid = {literal(copy)}::pg_catalog.regclass",
        )
    return str(shown[0])


@contextmanager
def copied(context: MigrationContext, table: Table, way: str = "") -> Iterator[str]:
    """The copy's name; ``way`` is how it is partitioned. To be entered outside of ``autocommit_block()``."""
    copy = online.qualified("pg_temp", table.name).replace('"pg_temp"', "pg_temp", 1)
    online.ask(context, "SAVEPOINT guard_twin")
    try:
        online.ask(context, f"CREATE TEMPORARY TABLE {identifier(table.name)} (LIKE {table.sql}) {way}")
        yield copy
    finally:
        online.ask(context, "ROLLBACK TO SAVEPOINT guard_twin; RELEASE SAVEPOINT guard_twin")
