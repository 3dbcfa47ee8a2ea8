"""The lines of a live database. Reads the catalog only, as whoever asks: a role without any right sees the same."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.evidence import own
from mcp_planner_schema.guard.fingerprint import query
from mcp_planner_schema.guard.fingerprint.canonical import canonical
from mcp_planner_schema.guard.fingerprint.line import PARTS, Line, Lines, Picture
from mcp_planner_schema.guard.postcheck import pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

VERSION_TABLE = "alembic_version"

# What decides how PostgreSQL writes a name, a constant, a date. Names are qualified where they are not PostgreSQL's own.
# The query costs enough for JIT to be tried, which takes longer than the query.
PREAMBLE = {
    "search_path": "pg_catalog, pg_temp",
    "quote_all_identifiers": "off",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "extra_float_digits": "1",
    "jit": "off",
}


def read(
    connection: Connection,
    schema: str,
    only: Collection[int] | None = None,
    *,
    without: Collection[str] = (VERSION_TABLE,),
) -> dict[int, Lines]:
    """The lines of the whole database, or of some objects (``only``, OIDs as :func:`.touched.since` gives them).

    ``schema`` is the guard's: that and those of its stashes are left out, and so are the tables named in ``without`` (Alembic's
    version table, with or without its schema). Call it in a transaction: settings are changed for this query and come back.
    """
    if only is not None and not only:
        return {}
    values = {
        "own": own(schema),
        "without": list(without),
        "secret": query.SECRET,
        "only": None if only is None else sorted(only),
    }
    found: dict[int, set[Line]] = {}
    with pinned(connection, **PREAMBLE):
        asked = query.text(_major(connection), only=only is not None)
        for at, kind, identity, definition in connection.exec_driver_sql(asked, values):
            found.setdefault(at, set()).add(Line(kind, identity, canonical(kind, definition or "")))
    return {at: frozenset(lines) for at, lines in found.items()}


def again(
    connection: Connection,
    schema: str,
    before: Picture,
    touched: Collection[int],
    *,
    without: Collection[str] = (VERSION_TABLE,),
) -> dict[int, Lines]:
    """What :func:`read` would find now: ``before``, and the objects touched since; where one has another name now, also those
    whose lines name it."""
    now = read(connection, schema, touched, without=without)
    renamed = [oid for oid in now if _renamed(before.get(oid, frozenset()), now[oid])]
    if renamed:
        with pinned(connection, search_path="pg_catalog, pg_temp"):
            naming = set(connection.exec_driver_sql(query.NAMING, {"only": renamed}).scalars()) - now.keys()
        now |= read(connection, schema, naming, without=without)
    return {**{oid: lines for oid, lines in before.items() if oid not in touched}, **now}


def _renamed(before: Lines, now: Lines) -> bool:
    """Whether the object, or a column of it, is gone under one name and there under another."""
    names = [{(line.kind, line.identity) for line in lines if line.kind not in PARTS} for lines in (before, now)]
    return bool(names[0] - names[1]) and bool(names[1] - names[0])


def _major(connection: Connection) -> int:
    version = connection.dialect.server_version_info
    return (
        int(version[0]) if version else int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10000
    )
