"""Before a contract revision: what backfills were to have done is still so.

Between a backfill and the contract that rests on it days may go, in which a release without a trigger has written rows that lack
their value. The queries are asked again. Only whether there is one, and its digest, comes from the database; what is run
is found in the file of the applied revision, as one string.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import source
from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.guard.postcheck import execute

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection

_ASKED = """
SELECT revision, name, verify FROM {schema}.backfill
WHERE version_table = %s AND direction = 'upgrade' AND state = 'done' AND verify IS NOT NULL ORDER BY id
"""
# What a query reads may have gone with an earlier contract revision: nothing waits for its rows any more.
_GONE = ("42P01", "42703", "3F000")


def digest(query: str) -> str:
    """What is kept of a query."""
    return hashlib.sha256(query.encode()).hexdigest()


def unmet(
    beside: Connection, opened: Callable[[], AbstractContextManager[Connection]], schema: str, version_table: str,
    script: ScriptDirectory, say: Callable[[str], None],
) -> list[Finding]:  # fmt: skip
    """A finding for each backfill whose query counts rows again. Reads, with ``opened``, for as long as the queries take."""
    from sqlalchemy.exc import DBAPIError

    found = []
    asked = beside.exec_driver_sql(_ASKED.format(schema=schema), (version_table,)).all()
    for revision, name, wanted in asked:
        path = _path(script, revision)
        query = next((text for text in _texts(path) if digest(text) == wanted), None) if path else None
        if query is None:
            say(
                f"backfill {name} of {revision} cannot be verified again: its query is not one string in the revision's file"
            )
            continue
        with opened() as connection:
            try:
                left = int(execute(connection, query).scalar() or 0)
            except DBAPIError as error:
                if getattr(error.orig, "pgcode", None) not in _GONE:
                    raise
                continue
        if left and path:
            values = {"name": name, "count": f"{left:,}", "revision": revision}
            found.append(Finding("contract-unverified", source.shown(path), revision, values))
    return found


def _path(script: ScriptDirectory, revision: str) -> Path | None:
    from alembic.util import CommandError

    try:
        return Path(script.get_revision(revision).path)
    except (CommandError, AttributeError):
        return None  # this build does not have it


def _texts(path: Path) -> Iterator[str]:
    """Every string in a Python file."""
    read = source.read(path)
    if isinstance(read, Finding):
        return
    for node in ast.walk(read.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
