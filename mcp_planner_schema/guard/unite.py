"""Lets kept rows in beside the upgrade's own before a statement that looks them up for a table that stays.

Where kept rows were in the way, the body finds the tables that it makes as it found them the first time. But a row that somebody
has written meanwhile may name a kept row of such a table: an UPDATE that looks for it is to find it. The body's rows have got
their kept keys by then, and each kept row whose key is free comes in; the rest is done at the end, as ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import clear, fill, lexer, rekey, sources, write_back
from mcp_planner_schema.guard.back import Back, made
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute

if TYPE_CHECKING:
    from sqlalchemy import Connection

_NAME = r"((?:\"[^\"]+\"|[\w$]+)(?:\s*\.\s*(?:\"[^\"]+\"|[\w$]+))?)"
_UPDATES = re.compile(rf"\s*UPDATE\s+(?:ONLY\s+)?{_NAME}", re.IGNORECASE)
_INSERTS = re.compile(rf"\s*INSERT\s+INTO\s+{_NAME}", re.IGNORECASE)
_READS = re.compile(rf"\b(?:FROM|JOIN)\s+(?:ONLY\s+)?{_NAME}", re.IGNORECASE)
_WRITES = re.compile(r"\s*(INSERT|UPDATE|MERGE|WITH)\b", re.IGNORECASE)
_OPAQUE = re.compile(r"\s*(DO|CALL|SELECT)\b", re.IGNORECASE)
_SEVERAL = "21000"
"""SQLSTATE of a subquery that gives several rows: cardinality_violation."""

_THERE = "SELECT pg_catalog.to_regclass(%s)::oid::bigint"


def parts(text: str) -> list[str]:
    """The statements of one string, where one of several is an UPDATE: each is to be looked at by itself."""
    if ";" not in text or not re.search(r"\bUPDATE\b", text, re.IGNORECASE):
        return []
    found = lexer.texts(text)
    return found if len(found) > 1 and any(_UPDATES.match(part) for part in found) else []


def sent(connection: Connection, back: Back, send: Callable[[], Any], text: str) -> None:
    """Send a statement; let rows in before it where it updates a table that stays and names one that the upgrade has made.

    Not where it fails for that: two rows have the same name then, and nothing unique says that they are one. What may compute
    something of these tables without the kept rows is noted in ``back.blindly``.
    """
    from psycopg2 import Error

    _note_derived(connection, back, text)
    opaque = bool(_OPAQUE.match(text))
    waiting = _waiting(connection, back) if opaque or _WRITES.match(text) else []
    named = [pair for pair in waiting if pair[1].name.lower() in text.lower()]
    target = _UPDATES.match(text)
    stays = target is not None and connection.exec_driver_sql(_THERE, (target[1],)).scalar() in back.already
    if not (named and stays):
        back.blindly = back.blindly or (bool(waiting) and opaque) or (bool(named) and target is None)
        send()
        return
    before = dict(back.filled), dict(back.shapes), back.blindly
    execute(connection, "SAVEPOINT guard_unite")
    try:
        _let_in(connection, back)
        missing = [one for one, _ in named if one.number not in back.filled or back.filled[one.number].left]
        back.blindly = back.blindly or bool(missing)
        send()
    except Error as error:
        if error.pgcode != _SEVERAL:
            raise
        execute(connection, "ROLLBACK TO SAVEPOINT guard_unite")
        back.filled, back.shapes, back.blindly = before[0], before[1], True
        send()
    execute(connection, "RELEASE SAVEPOINT guard_unite")


def _note_derived(connection: Connection, back: Back, text: str) -> None:
    """Note a table that the upgrade makes and fills from one that stays: its rows are what that says by now, and no seeds."""
    if target := _INSERTS.match(text):
        names = [target[1], *_READS.findall(text, target.end())]
        into, *read = [connection.exec_driver_sql(_THERE, (name,)).scalar() for name in names]
        if into is not None and into not in back.already and any(oid in back.already for oid in read):
            back.derived.add(into)


def _waiting(connection: Connection, back: Back) -> list[tuple[Object, Table]]:
    there = back.filled.keys() & back.shapes.keys()
    return [(one, table) for one, table in made(connection, back) if one.number not in there]


def _let_in(connection: Connection, back: Back) -> None:
    sources.settle(connection, back)
    back.seeded = set()  # what the body does after this may still be anything
    rekey.all_of(connection, back)
    tables = _waiting(connection, back)
    order = clear.in_order(connection, [table.oid for _, table in tables]) or {}
    for one, table in sorted(tables, key=lambda pair: order.get(pair[1].oid, 0)):
        # A moved table comes back whole, and is not to be read for this.
        if write_back.keyed(one, table) and not one.moved:
            fill.beside(connection, back, one, table)
    sources.go_on(connection, back)
