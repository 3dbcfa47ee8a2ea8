"""A statement that hides others (a DO block, a call) makes a place for kept rows and needs them at once: nothing can be done.

Between the statements inside nothing of the guard's can run: an event trigger could, and only a superuser may make one. So
the step fails, as PostgreSQL says it, with what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import evidence
from mcp_planner_schema.guard.findings import Broken
from mcp_planner_schema.guard.tripwire import code_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.back import Back

WANTING = ("23502", "23503")
"""SQLSTATEs of a statement that finds rows missing: not_null_violation and foreign_key_violation."""

HIDES = re.compile(r"\s*(DO|SELECT|CALL|WITH)\b", re.IGNORECASE)


def sent(connection: Connection, back: Back, send: Callable[[], Any], text: str) -> None:
    """Send a statement; where it fails for want of rows that it has let nobody put in, say how to let them in."""
    from psycopg2 import Error

    from mcp_planner_schema.guard import failure

    if not HIDES.match(code_of(text, escapes=False)):
        send()
        return
    missing = _missing(connection, back)
    try:
        send()
    except Error as error:
        if error.pgcode not in WANTING or not missing or (back.filled and not back.afterwards):
            raise  # or what is there already is in its way: it is begun once more without
        raise Broken(
            f"Revision {back.stash.revision}: {failure.told(error)}\n"
            f"The kept rows of {', '.join(missing)} come back between two statements, and this one (a DO block or a call) "
            "makes their place and needs them before it ends. The step was rolled back whole, and the stash is as it was.",
            f"alembic show {back.stash.revision}   (its file; write the table or column, and then the key or NOT NULL, as two "
            "statements of their own)",
        ) from error


def _missing(connection: Connection, back: Back) -> list[str]:
    """What has no place yet: tables that are not there, and columns."""
    found = []
    for one in back.rows():
        if one.checksum and not one.checksum.rows:
            continue
        table = evidence.named(connection, one.schema, one.name)
        names = {column.name for column in table.columns.values()} if table else set()
        if (one.kind == "table" and table is None) or not set(one.lost) <= names:
            found.append(one.shown)
    return found
