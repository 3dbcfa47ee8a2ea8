"""Whether a stash is what its manifest says: the tables are there, with their columns and every row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.manifest import Stash

if TYPE_CHECKING:
    from sqlalchemy import Connection

_KEPT = """
SELECT c.relkind::text, array(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(%s)::oid
"""


def check(connection: Connection, stash: Stash) -> None:
    """Raise :class:`Refused` where a kept table's rows are not those of the manifest. Reads each of them once."""
    wrong = damaged(connection, stash)
    if wrong:
        values = {"problem": "; ".join(wrong), "stash": str(stash.id), "place": stash.kept_in}
        raise Refused(
            [Finding("stash-damaged", stash.kept_in, stash.revision, values)], f"make migrate-stash-show ID={stash.id}"
        )


def damaged(connection: Connection, stash: Stash) -> list[str]:
    """What of a stash is not as its manifest says. A moved table without checksums need only be there."""
    wrong = []
    with checksum.reading(connection):
        for one in stash.objects:
            if one.relation is None or (one.checksum is None and not one.moved):
                continue
            place = stash.place(one)
            there = connection.exec_driver_sql(_KEPT, (place,)).first()
            if there is None:
                wrong.append(f"{place} is gone")
            elif there.relkind not in ("r", "p"):  # reading a view would run what somebody has written
                wrong.append(f"{place} is no table")
            elif missing := sorted(set(one.columns) - set(there.columns)):
                wrong.append(f"{place} has no column {', '.join(missing)}")
            elif one.checksum:
                found = checksum.of(connection, place, one.columns)
                if found != one.checksum:
                    rows = f"has {found.rows} rows (kept: {one.checksum.rows})"
                    other = f"has other values than were kept, in {found.rows} rows"
                    wrong.append(f"{place} {other if found.rows == one.checksum.rows else rows}")
    return wrong
