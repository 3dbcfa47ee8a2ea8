"""Rows that stand against a constraint: counted and sampled before anything is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_planner_schema.operations import online
from mcp_planner_schema.operations.online import Table
from mcp_planner_schema.operations.twin import Keys

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

_SAMPLE = 5
_PRIMARY_KEY = """
SELECT a.attname::text FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
WHERE i.indrelid = %s AND i.indisprimary ORDER BY pg_catalog.array_position(i.indkey::int2[], a.attnum)
"""


def refuse_offending(context: MigrationContext, table: Table, offends: str, rule: str) -> None:
    """Refuse if any row of ``table`` (named ``t`` in the condition ``offends``) offends. Reads the table."""
    source = f"FROM {table.sql} AS t WHERE {offends}"
    key, named = _key(context, table)
    sample = online.read(context, f"SELECT ({key})::pg_catalog.text {source} LIMIT {_SAMPLE}")
    if not sample:
        return
    (count,) = online.read(context, f"SELECT pg_catalog.count(*) {source}")
    online.refuse(context, "operation-rows", table=table.shown, rule=rule, count=_counted(count[0]),
                  sample=f"{named}: {', '.join(row[0] for row in sample)}")  # fmt: skip


def refuse_duplicates(context: MigrationContext, table: Table, keys: Keys, rule: str) -> None:
    """Refuse if rows of ``table`` have what a unique index compares in common. Reads the table."""
    conditions = [f"({keys.condition})"] if keys.condition else []
    if not keys.nulls_equal:
        conditions += [f"{one} IS NOT NULL" for one in keys.expressions]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    grouped = f"FROM {table.sql}{where} GROUP BY {', '.join(keys.expressions)} HAVING pg_catalog.count(*) > 1"
    (found,) = online.read(
        context,
        "SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(n), 0)::bigint "
        f"FROM (SELECT pg_catalog.count(*) {grouped}) AS same (n)",
    )
    if not found[0]:
        return
    key, named = _key(context, table)
    sample = online.read(
        context,
        f"SELECT pg_catalog.array_to_string((pg_catalog.array_agg(({key})::pg_catalog.text))[1:2], ' and ') {grouped} "
        f"LIMIT {_SAMPLE}",
    )
    online.refuse(context, "operation-rows", table=table.shown, rule=rule,
                  count=f"{_counted(found[1])} in {found[0]} groups of equals" if found[0] > 1 else _counted(found[1]),
                  sample=f"{named}: {', '.join(row[0] for row in sample)}")  # fmt: skip


def _key(context: MigrationContext, table: Table) -> tuple[str, str]:
    """What names a row, as SQL and for people: its primary key, or where it lies."""
    names = [row[0] for row in online.ask(context, _PRIMARY_KEY, (table.oid,))]
    if not names:
        return ("tableoid::pg_catalog.regclass::pg_catalog.text || ' ' || ctid::pg_catalog.text", "ctid")
    return (online.columns_sql(names) if len(names) == 1 else f"ROW({online.columns_sql(names)})", ", ".join(names))


def _counted(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"
