"""NOT NULL without a scan under a lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_planner_schema.guard.postcheck import identifier
from mcp_planner_schema.operations import online, rows
from mcp_planner_schema.operations.online import Table

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

# Since 18 NOT NULL is a constraint, which may be NOT VALID: attnotnull is set then, and no row is known to keep it.
_STATE = """
SELECT a.attnotnull, k.conname::text, coalesce(k.convalidated, true)
FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_constraint k
  ON k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey[1] = a.attnum
WHERE a.attrelid = %s AND a.attname = %s AND NOT a.attisdropped AND a.attnum > 0
"""
_CHECK = (
    "SELECT k.convalidated FROM pg_catalog.pg_constraint k WHERE k.conrelid = %s AND k.conname = %s AND k.contype = 'c'"
)


def set_on(context: MigrationContext, table: Table, column: str) -> None:
    """Make the column NOT NULL, as far as it is not."""
    holds, name, validated = _state(context, table, column)
    if holds and validated:
        online.say(context, f"column {table.shown}.{column} is NOT NULL already")
        return
    if online.unfilled(context):
        return
    rows.refuse_offending(context, table, f"t.{identifier(column)} IS NULL", f"NOT NULL of {column}")
    if online.version(context) >= 18:
        if not holds:
            online.hold(context, f"ALTER TABLE {table.sql} ADD NOT NULL {identifier(column)} NOT VALID")
            _, name, _ = _state(context, table, column)
        if name is not None:
            _validate(context, table, column, name)
    else:
        _by_check(context, table, column)
    holds, _, validated = _state(context, table, column)
    if not holds or not validated:
        online.unproven(context, f"The column {table.shown}.{column} is not NOT NULL")


def drop_from(context: MigrationContext, table: Table, column: str) -> None:
    """Let the column be null again."""
    holds, *_ = _state(context, table, column)
    if not holds:
        online.say(context, f"column {table.shown}.{column} may be null already")
        return
    online.hold(context, f"ALTER TABLE {table.sql} ALTER COLUMN {identifier(column)} DROP NOT NULL")


def check_name(table: str, column: str) -> str:
    """The check that is there for a while before 18."""
    return online.shortened(f"{table}_{column}", "_not_null_check")


def _by_check(context: MigrationContext, table: Table, column: str) -> None:
    """Before 18: SET NOT NULL reads no row where a validated check says that none is null."""
    name, quoted = check_name(table.name, column), identifier(column)
    if not online.ask(context, _CHECK, (table.oid, name)):
        check = f"ADD CONSTRAINT {identifier(name)} CHECK ({quoted} IS NOT NULL) NOT VALID"
        online.hold(context, f"ALTER TABLE {table.sql} {check}")
    _validate(context, table, column, name)
    online.hold(
        context,
        f"ALTER TABLE {table.sql} ALTER COLUMN {quoted} SET NOT NULL",
        f"ALTER TABLE {table.sql} DROP CONSTRAINT {identifier(name)}",
    )


def _validate(context: MigrationContext, table: Table, column: str, name: str) -> None:
    try:
        online.send(context, f"ALTER TABLE {table.sql} VALIDATE CONSTRAINT {identifier(name)}")
    except Exception as error:
        if not online.tried(context) and getattr(getattr(error, "orig", None), "pgcode", None) in ("23502", "23514"):
            rows.refuse_offending(context, table, f"t.{identifier(column)} IS NULL", f"NOT NULL of {column}")
        raise


def _state(context: MigrationContext, table: Table, column: str) -> tuple[bool, str | None, bool]:
    found = online.ask(context, _STATE, (table.oid, column))
    if not found:
        online.refuse(context, "operation-missing", what=f"column {table.shown}.{column}")
    return found[0][0], found[0][1], found[0][2]
