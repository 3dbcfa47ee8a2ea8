"""Lets kept rows in beside the upgrade's own before a statement that looks them up for a table that stays.

Where kept rows were in the way, the body finds the tables that it makes as it found them the first time. But a row that somebody
has written meanwhile may name a kept row of such a table: an UPDATE (or DELETE) that looks for it is to find it. The body's rows
have got their kept keys by then, and each kept row whose key is free comes in; the rest is done at the end, as ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import clear, fill, flow, ladder, lexer, rekey, sources, write_back
from mcp_planner_schema.guard.back import Back, made
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute

if TYPE_CHECKING:
    from sqlalchemy import Connection

_NAME = r"((?:\"[^\"]+\"|[\w$]+)(?:\s*\.\s*(?:\"[^\"]+\"|[\w$]+))?)"
_UPDATES = re.compile(rf"\s*(?:UPDATE|DELETE\s+FROM)\s+(?:ONLY\s+)?{_NAME}", re.IGNORECASE)
_WRITES = re.compile(r"\s*(INSERT|UPDATE|DELETE|MERGE|WITH)\b", re.IGNORECASE)
_OPAQUE = re.compile(r"\s*(DO|CALL|SELECT)\b", re.IGNORECASE)
_SEVERAL = "21000"
"""SQLSTATE of a subquery that gives several rows: cardinality_violation."""

_LONG = 100_000
"""Characters of a statement that is not read token by token."""

_MANY = 500
"""Statements of one string; more are sent as they are, for each takes some milliseconds under locks."""

_STATE = re.compile(r"\bSET\b.*\b(ROLE|AUTHORIZATION|session_replication_role)\b", re.IGNORECASE)
"""What would hold for the guard's own statements too, in between."""

_DOES = re.compile(r"\b(CREATE|ALTER|DROP|UPDATE|DELETE|MERGE|setval)\b", re.IGNORECASE)
_CALLED = (
    "SELECT oid::bigint FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p') AND oid >= 16384 AND relname = ANY (%s)"
)
_THERE = "SELECT pg_catalog.to_regclass(%s)::oid::bigint"


def parts(text: str) -> list[str]:
    """The statements of one string, where one of several makes or changes something: each is to be looked at by itself. Of a long
    list of plain rows none is."""
    if ";" not in text or not _DOES.search(text) or _STATE.search(text):
        return []
    found = lexer.texts(text)
    return found if 1 < len(found) <= _MANY else []


def sent(connection: Connection, back: Back, send: Callable[[], Any], text: str) -> None:
    """Send a statement; let rows in before it where it changes a table that stays and names one that the upgrade has made.

    Not where it fails for that: two rows have the same name then, and nothing unique says that they are one; and not in a third
    try. What may compute something of these tables without the kept rows is noted in ``back.blindly``.
    """
    from psycopg2 import Error

    said = _without_comments(text)
    opaque = bool(_OPAQUE.match(said))
    waiting = _waiting(connection, back) if opaque or _WRITES.match(said) else []
    named = [pair for pair in waiting if lexer.names(said, pair[1].name)]
    target = _UPDATES.match(said)
    stays = target is not None and connection.exec_driver_sql(_THERE, (target[1],)).scalar() in back.already
    # What the client knows the keys of gets no others before the body has ended: it may be about to write them elsewhere.
    known = any(not flow.parts(connection, [table.oid]).isdisjoint(back.flow.shown) for _, table in waiting)
    if not (named and stays) or known or back.afterwards > 1:
        back.blindly = back.blindly or (bool(waiting) and opaque) or (bool(named) and (stays or target is None))
        send()
        return
    before = dict(back.filled), dict(back.shapes), back.blindly
    execute(connection, "SAVEPOINT guard_unite")
    try:
        back.blindly = not _let_in(connection, back, named) or back.blindly
        send()
    except Error as error:
        if error.pgcode != _SEVERAL:
            raise
        execute(connection, "ROLLBACK TO SAVEPOINT guard_unite")
        back.filled, back.shapes, back.blindly = before[0], before[1], True
        send()
    execute(connection, "RELEASE SAVEPOINT guard_unite")


def about(connection: Connection, text: str) -> list[int]:
    """The tables, by OID, that a text has the names of."""
    said = _without_comments(text[:_LONG])
    words = {*re.findall(r"[^\W\d][\w$]*", said), *re.findall(r'"([^"]+)"', said)}
    names = sorted(words | {word.lower() for word in words})
    return list(connection.exec_driver_sql(_CALLED, (names,)).scalars())


def _without_comments(text: str) -> str:
    """The statement as its tokens, one space between them; as it is where it cannot be read, or is too long for that."""
    try:
        return " ".join(token.text for token in lexer.tokens(text)) if len(text) < _LONG else text
    except lexer.Unusable:
        return text


def _waiting(connection: Connection, back: Back) -> list[tuple[Object, Table]]:
    there = back.filled.keys() & back.shapes.keys()
    return [(one, table) for one, table in made(connection, back) if one.number not in there]


def _let_in(connection: Connection, back: Back, named: Sequence[tuple[Object, Table]]) -> bool:
    """Let the kept rows of these tables in, and of those that they refer to; False where not all of them are there then."""
    from sqlalchemy.exc import DBAPIError

    before, done = (dict(back.filled), dict(back.shapes)), True
    execute(connection, "SAVEPOINT guard_let_in")
    try:
        sources.settle(connection, back)
        back.seeded = set()  # what the body does after this may still be anything
        rekey.all_of(connection, back)
        tables = {table.oid: (one, table) for one, table in _waiting(connection, back)}
        refers, wanted = clear.among(connection, tables), {table.oid for _, table in named}
        while more := {parent for child, parent in refers if child in wanted} - wanted:
            wanted |= more
        order = clear.in_order(connection, list(tables)) or {}
        for one, table in sorted(
            (tables[oid] for oid in wanted & tables.keys()), key=lambda pair: order.get(pair[1].oid, 0)
        ):
            # A moved table comes back whole, and is not to be read for this.
            if write_back.keyed(one, table) and not one.moved:
                fill.beside(connection, back, one, table)
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) in (*ladder.TRANSIENT, ladder.CANCELED):
            raise
        execute(connection, "ROLLBACK TO SAVEPOINT guard_let_in")
        (back.filled, back.shapes), done = before, False
    execute(connection, "RELEASE SAVEPOINT guard_let_in")
    sources.note(connection, back)
    return done and all(one.number in back.filled and not back.filled[one.number].left for one, _ in named)
