"""Whether what an upgrade writes can be what the downgrade had put elsewhere, and somebody has changed there since.

Such a row is newer than the kept one. A seed is not: what stands in the revision's own text is what it always was. Both look
alike, so it goes by the order: before the body has read one of the tables that were changed (``Back.sources``), it cannot have
moved anything of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_planner_schema.guard import progress, reading
from mcp_planner_schema.guard.back import Back, made, undoable

if TYPE_CHECKING:
    from sqlalchemy import Connection


def note(connection: Connection, back: Back) -> None:
    """Note what of the sources has been read by now, and what is written: whatever is read from here on, the body reads."""
    if back.sources and back.moves is None and undoable(connection, back):
        back.reads = reading.begin(connection, back.sources)
        back.writes = progress.counters(connection)


def look(connection: Connection, back: Back) -> None:
    """Where the body has read one of them since :func:`note`, what it wrote until then are seeds; the rest may be moved."""
    if back.reads and back.moves is None and reading.unread(connection, back.reads) != back.reads.keys():
        back.moves = back.writes


def settle(connection: Connection, back: Back) -> None:
    """The body has ended, or commits: of the tables that it has made, note those that hold nothing but seeds."""
    if not back.reads or not undoable(connection, back):
        return
    look(connection, back)
    now = progress.counters(connection)
    for one, table in made(connection, back):
        if back.moves is None or now.get(table.oid, 0) == back.moves.get(table.oid, 0):
            back.seeded.add(one.number)
