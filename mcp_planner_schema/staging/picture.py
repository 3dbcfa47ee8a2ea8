"""What a database is like at one moment, schema and rows, to be compared with another one of its moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import fingerprint
from mcp_planner_schema.guard.checksum import checksum
from mcp_planner_schema.guard.fingerprint import Line
from mcp_planner_schema.guard.postcheck import identifier

if TYPE_CHECKING:
    from sqlalchemy import Connection

_COLUMNS = """
SELECT n.nspname::text, c.relname::text, c.relkind::text,
       coalesce(pg_catalog.jsonb_object_agg(a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod))
                FILTER (WHERE a.attname IS NOT NULL), '{}')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND n.nspname !~ '^(pg_|information_schema$)' AND n.nspname <> %(own)s AND n.nspname !~ ('^' || %(own)s || '_stash_')
  AND c.relname <> 'alembic_version'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
GROUP BY 1, 2, 3
"""
_SHOWN = 12


def take(connection: Connection, schema: str, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Schema and rows as they are now, as JSON has it. ``schema`` is the guard's: its tables do not count.

    The rows of a table that was there ``before`` are counted by the columns that it had then.
    """
    found = fingerprint.together(fingerprint.read(connection, schema))
    connection.rollback()
    former = before["tables"] if before else {}
    tables = {}
    for space, name, kind, there in connection.exec_driver_sql(_COLUMNS, {"own": schema}).all():
        shown = f"{space}.{name}"
        rows_of = (
            f"{identifier(space)}.{identifier(name)}" if kind == "p" else f"ONLY {identifier(space)}.{identifier(name)}"
        )
        had = former[shown]["columns"] if shown in former else there
        kept = {column: type for column, type in there.items() if had.get(column) == type}
        tables[shown] = {
            "columns": there,
            "kept": sorted(kept),
            "sum": [int(part) for part in checksum(connection, rows_of, kept)],
            "whole": [int(part) for part in checksum(connection, rows_of, there)],
            "new": before is not None and shown not in former,
        }
    connection.rollback()
    return {
        "fingerprint": str(fingerprint.of(found)),
        "lines": sorted([line.kind, line.identity, line.definition] for line in found),
        "tables": tables,
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What is not the same: what counts, and what may be made anew each time (values of columns that the revisions add)."""
    was, now = (fingerprint.structure(Line(*line) for line in one["lines"]) for one in (before, after))
    counts, notes = list(fingerprint.difference(was, now)), list[str]()
    for name, one in before["tables"].items():
        other = after["tables"].get(name)
        if other is None:
            continue  # the schema says that it is gone
        if one["sum"][0] != other["sum"][0]:
            counts.append(f"table {name}: {other['sum'][0]} rows, and there were {one['sum'][0]}")
        elif one["kept"] == other["kept"] and one["sum"] != other["sum"]:
            (notes if one["new"] else counts).append(f"table {name}: other values in its {one['sum'][0]} rows")
        elif one["whole"] != other["whole"] and one["columns"] == other["columns"]:
            notes.append(f"table {name}: other values in columns that the revisions add")
    return counts, notes


def shortened(lines: list[str]) -> str:
    """As many of the lines as a person reads."""
    more = [f"… and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join([*lines[:_SHOWN], *more])
