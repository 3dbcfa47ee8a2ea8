"""Rows that a schema revision has written in its own transaction: counted by the server, before they are final.

What counts is what the step has written to tables that were there before it: a table that it makes is nobody's yet. Not in a
downgrade, which must be possible when there is no time, which rehearses itself, and whose rows are kept and told; and not where
kept rows came back, for the counters do not tell them apart. A revision that commits by itself is past this when it is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_planner_schema.guard import judge
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.progress import Progress

if TYPE_CHECKING:
    from sqlalchemy import Connection

_NAMES = "SELECT c.oid::bigint, c.oid::regclass::text FROM pg_catalog.pg_class c WHERE c.oid = ANY (%s::oid[])"
_WAIVED = ("rows-inline", "rows-in-bulk")
"""Who has said of the file that it may change rows in bulk is not told the same again of what that did."""


def require_few(connection: Connection, at: Progress, written: dict[int, int], limit: int) -> None:
    """Raise :class:`Refused` where the step has written more than ``limit`` rows; ``written`` is by table, without new ones."""
    header, count = at.judged.header if at.judged else None, sum(written.values())
    if header is None or header.type != "schema" or at.committed or at.restored or at.direction != "upgrade":
        return
    if count <= limit or any(header.waives(code, judge.today()) for code in _WAIVED):
        return
    names = {row[0]: row[1] for row in connection.exec_driver_sql(_NAMES, (list(written),))}
    most = sorted(written, key=lambda oid: -written[oid])
    values = {
        "limit": f"{limit:,}", "table": names[most[0]],
        "tables": ", ".join(f"{written[oid]:,} of {names[oid]}" for oid in most),
    }  # fmt: skip
    raise Refused([Finding("rows-inline", at.where, at.name, values)], f"edit {at.where}")
