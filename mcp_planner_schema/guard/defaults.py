"""Columns that the upgrade has added and not filled: where a row still has what they were added with, nothing newer stands there.

Somebody has written to a row since the downgrade, in another column. Where the upgrade may have moved values to the new one, it
may have left that row out because the default is right for it: then the default is newer. So it must be known what has written
the table: nothing, or an UPDATE of this very table, without triggers, that does not name the column.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, flow, silence
from mcp_planner_schema.guard.back import Back
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import identifier, literal

if TYPE_CHECKING:
    from sqlalchemy import Connection

_UPDATES = re.compile(
    r"""\s*UPDATE\s+(?:ONLY\s+)?((?:"(?:[^"]|"")+"|\w+)(?:\s*\.\s*(?:"(?:[^"]|"")+"|\w+))*)""", re.IGNORECASE
)
_RENAMES = re.compile(r"\bRENAME\b", re.IGNORECASE)
_DEFINES = re.compile(
    r"\s*(CREATE|ALTER|DROP|COMMENT|GRANT|REVOKE)\b(?!.*\b(AS\s+(SELECT|WITH)|DEFAULT|USING)\b)",
    re.IGNORECASE | re.DOTALL,
)
_CALLED = re.compile(r'\b(\w+)"?\s*\(')  # from the beginning of a word only: a text may be one long word
_ROWS = re.compile(r"\s*(INSERT|UPDATE|DELETE|MERGE|TRUNCATE)\b", re.IGNORECASE)

_CALLS = "SELECT EXISTS (SELECT FROM pg_catalog.pg_proc WHERE oid >= 16384 AND pg_catalog.lower(proname) = ANY (%s))"

# What rows have that were there before a column was added; a table that was written anew since has no such value any more.
_ADDED_WITH = """
SELECT a.attname::text, pg_catalog.min((a.attmissingval::pg_catalog.text::pg_catalog.text[])[1])
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind = 'r'
WHERE a.attrelid = ANY (%s::oid[]) AND a.attname = ANY (%s) AND a.attnum > 0
GROUP BY 1 HAVING pg_catalog.bool_and(a.atthasmissing)
  AND pg_catalog.count(DISTINCT (a.attmissingval::pg_catalog.text::pg_catalog.text[])[1]) = 1
"""


def note(connection: Connection, back: Back, text: str, *, several: bool) -> None:
    """A statement has ended: note the lost columns whose names it has, if it writes rows, and the tables that it has written
    without its being plain what it has put there. To be called when :mod:`.flow` has looked."""
    any_ = several or bool(_RENAMES.search(text)) or 'u&"' in text.lower() or _calls(connection, back, text)
    if any_ or _ROWS.match(text):
        said = text.lower().replace('""', '"')
        for one in back.rows():
            back.named |= {name for name in one.lost if any_ or name.lower() in said}
    if back.wrote and (several or not _is_plain(connection, back, text)):
        back.vague |= back.wrote
    back.wrote = set()


def _is_plain(connection: Connection, back: Back, text: str) -> bool:
    """Whether an UPDATE of one table, which it names, has written that and no other, without a trigger."""
    found = _UPDATES.match(text)
    if not found or not back.touched:
        return False
    named = connection.exec_driver_sql("SELECT pg_catalog.to_regclass(%s)::oid::bigint", (found[1],)).scalar_one()
    if named is None or not back.wrote <= flow.parts(connection, [named]):
        return False
    return not any(silence.awake(connection, oid) for oid in {named, *back.wrote})


def _calls(connection: Connection, back: Back, text: str) -> bool:
    """Whether a statement may call somebody's function; one that makes, alters or drops it does not."""
    if not back.touched or _DEFINES.match(text):
        return False
    names = sorted(set(_CALLED.findall(text.lower())))
    return bool(names) and bool(connection.exec_driver_sql(_CALLS, (names,)).scalar_one())


def of(connection: Connection, back: Back, one: Object, table: Table) -> Mapping[str, str]:
    """SQL for lost columns of the table: that the row ``l`` has there what the column was added with, be it not empty.

    None for a column that was there by another name, or that the body may have filled, and for a table that was none; all of
    them where somebody may have written outside of the transaction.
    """
    before, parts = back.before.get((one.schema, one.name)), flow.parts(connection, [table.oid])
    wanted = [
        each.name
        for number, each in table.columns.items()
        if before and number not in before.columns and each.name in one.lost and each.name not in back.named
    ]
    unsure = back.unwatched or back.unseen or not back.vague.isdisjoint(parts)
    if not before or before.oid != table.oid or not wanted or unsure:
        return {}
    with checksum.reading(connection):
        found = dict(map(tuple, connection.exec_driver_sql(_ADDED_WITH, (sorted(parts), wanted)).all()))
    return {
        name: f"(pg_catalog.format('%s', l.{identifier(name)}) COLLATE pg_catalog.\"C\" = {literal(found[name])})"
        if name in found
        else "false"
        for name in wanted
    }
