"""Watches the statements of an upgrade, and lets kept rows come back as soon as there is a place for them.

Later statements of the same upgrade may need them: a foreign key of a table that kept its rows, a column that is to be NOT
NULL. Where a statement fails for want of them, it is taken apart: statements of one string are run one by one, and NOT NULL
of a new column waits until its values are back. Where the upgrade itself inserts rows that are back already, they go out
again until its end. A statement that reads a table whose rows were to be moved back at the end is sent again with them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import forecast, lexer, opaque, reading, restore, sequences
from mcp_planner_schema.guard.back import Back
from mcp_planner_schema.guard.postcheck import execute, identifier
from mcp_planner_schema.guard.transaction import OWN
from mcp_planner_schema.guard.tripwire import code_of, comment_end

if TYPE_CHECKING:
    from sqlalchemy import Connection

TAKEN = "23505"
"""SQLSTATE of a statement that inserts a row which is back already: unique_violation."""

MISPLACED = "23514"
"""SQLSTATE of a statement that makes a partition for rows which are back, and in the default one: check_violation."""

_PARTITIONS = re.compile(r"\bPARTITION\b", re.IGNORECASE)
_WRITES = re.compile(r"\s*(INSERT|SELECT|WITH|CALL|DO|MERGE|UPDATE)\b", re.IGNORECASE)
_ALTERS = re.compile(r"\bALTER\s+TABLE\b", re.IGNORECASE)
# What these read of a table makes its indexes and checks its constraints; a default or USING may call anything.
_BUILDS = re.compile(
    r"\s*(CREATE\s+(OR\s+REPLACE\s+)?(UNIQUE\s+INDEX|INDEX|FUNCTION|PROCEDURE|(CONSTRAINT\s+)?TRIGGER|VIEW|SEQUENCE|TYPE|STATISTICS)"
    r"|ALTER\s+TABLE(?!.*\b(DEFAULT|USING)\b)|ALTER\s+INDEX|DROP|COMMENT|GRANT|REVOKE)\b",
    re.IGNORECASE | re.DOTALL,
)
_TOKEN = re.compile(
    r"""(?P<blank>\s+|--[^\n\r]*) | (?P<comment>/\*) | (?<![\w$])\$(?P<tag>\w*)\$ | [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*'
    | "(?:[^"]|"")*" | \w+ | .""",
    re.VERBOSE | re.DOTALL,
)


@contextmanager
def watching(connection: Connection, back: Back) -> Iterator[None]:
    """While inside, every statement on the connection is followed by :func:`restore.come_back`.

    It works on the driver's cursors, so the connection beneath SQLAlchemy's is watched too. Outside a transaction
    (``autocommit_block()``) nothing comes back; the end of the step sees to it.
    """
    from psycopg2.extensions import cursor, encodings

    driver: Any = connection.connection.dbapi_connection
    before = driver.cursor_factory

    class Watched(cursor):  # type: ignore[misc]  # psycopg2 ships no types
        def execute(self, query: Any, vars: Any = None) -> Any:
            # SQLAlchemy itself asks for the isolation level between two transactions, where none may be begun.
            if OWN in connection.info or self.connection.autocommit or not connection.in_transaction():
                return super().execute(query, vars)
            connection.info[OWN] = True
            try:
                text = self.mogrify(query, vars).decode(encodings[self.connection.encoding])
                send = functools.partial(_with_rows, connection, back, super().execute)
                run = _run if _ALTERS.search(text) else _plainly
                opaque.sent(connection, back, functools.partial(run, connection, back, send, text), text)
                # The result of this cursor stays to be read: what comes back does so on cursors of its own.
                restore.come_back(connection, back)
            finally:
                del connection.info[OWN]

        def executemany(self, query: Any, vars_list: Any) -> Any:
            for vars in vars_list:
                self.execute(query, vars)

    driver.cursor_factory = Watched
    try:
        yield
    finally:
        driver.cursor_factory = before


def _with_rows(connection: Connection, back: Back, send: Any, text: str) -> None:
    """Send a statement; where it has read a table that waits for its moved rows, undo it and send it again with them."""
    from psycopg2 import Error

    waiting = restore.waiting(connection, back)
    parts = statements(text) if waiting else []
    if len(parts) > 1:
        for part in parts:
            _with_rows(connection, back, send, part)
        return
    if not waiting or _BUILDS.match(code_of(text, escapes=False)):
        _insert(connection, back, send, text)
        return
    counted, stood = reading.begin(connection, waiting), _made_sequences(connection, back)
    execute(connection, "SAVEPOINT guard_reading")
    try:
        send(text)
    except Error:
        execute(connection, "ROLLBACK TO SAVEPOINT guard_reading")
        if reading.unread(connection, counted) == counted.keys():
            raise
    else:
        if reading.unread(connection, counted) == counted.keys():
            execute(connection, "RELEASE SAVEPOINT guard_reading")
            return
        execute(connection, "ROLLBACK TO SAVEPOINT guard_reading")
    execute(connection, "RELEASE SAVEPOINT guard_reading")
    sequences.undo(connection, stood, _made_sequences(connection, back))
    restore.come_back(connection, back, wanting=True)
    _insert(connection, back, send, text)


def _plainly(connection: Connection, back: Back, send: Any, text: str) -> None:
    send(text)


def _run(connection: Connection, back: Back, send: Any, text: str) -> None:
    """Send a statement that alters a table; where rows are wanting, take it apart."""
    if _send(connection, send, text):
        return
    restore.come_back(connection, back, wanting=True)
    for part in statements(text):
        if not _send(connection, send, part):
            _later_not_null(connection, back, send, part)
        restore.come_back(connection, back, wanting=True)


def _insert(connection: Connection, back: Back, send: Any, text: str) -> None:
    """Send a statement; where kept rows stand in the way of its rows, or its partition, they come back after the body."""
    codes = (TAKEN,) * bool(_WRITES.match(text)) + (MISPLACED,) * bool(_PARTITIONS.search(text))
    if not back.filled or not codes:
        send(text)
        return
    stood = _made_sequences(connection, back)
    if not _send(connection, send, text, codes):
        sequences.undo(connection, stood, _made_sequences(connection, back))
        restore.take_out(connection, back)
        send(text)


def _made_sequences(connection: Connection, back: Back) -> dict[int, sequences.Sequence]:
    """Where those stand that this transaction has made, so that nobody else can take a value of them.

    ROLLBACK takes no value back, and the upgrade's seeds are to get the keys that they had (of a sequence without CACHE: what a
    session has in store does not show).
    """
    names = [(one.schema, one.name) for one in back.stash.objects if one.kind == "sequence"]
    found = sequences.called(connection, back.schema, names)
    mine = forecast.locked(connection) if found else frozenset()
    return {oid: one for oid, one in found.items() if oid in mine}


def _send(connection: Connection, send: Any, text: str, undone: tuple[str, ...] = opaque.WANTING) -> bool:
    """Send it in a savepoint; False where it was undone for one of these SQLSTATEs."""
    from psycopg2 import Error

    execute(connection, "SAVEPOINT guard_statement")
    try:
        send(text)
    except Error as error:
        if error.pgcode not in undone:
            raise
        execute(connection, "ROLLBACK TO SAVEPOINT guard_statement")
        return False
    execute(connection, "RELEASE SAVEPOINT guard_statement")
    return True


def _later_not_null(connection: Connection, back: Back, send: Any, text: str) -> None:
    """Add the columns that the stash has values for without their NOT NULL, bring those back, then set it.

    What fails for another reason fails here once more, with its own error.
    """
    lost = {name for one in back.rows() for name in one.lost}
    plain, columns = without_not_null(text, lost)
    send(plain)
    if not columns:
        return
    restore.come_back(connection, back, strictly=True)
    for one in back.rows():
        for name in one.lost:
            if name in columns:
                path = f"{identifier(one.schema)}.{identifier(one.name)}"
                execute(connection, f"ALTER TABLE {path} ALTER COLUMN {identifier(name)} SET NOT NULL")


def statements(text: str) -> list[str]:
    """The statements of one string, cut as PostgreSQL's scanner does; what cannot be read stays whole."""
    try:
        return [text[one.tokens[0].at : one.tokens[-1].end] for one in lexer.pieces(text) if one.tokens]
    except lexer.Unusable:
        return [text]


def without_not_null(text: str, wanted: set[str]) -> tuple[str, set[str]]:
    """``ADD COLUMN`` of a column in ``wanted`` without its NOT NULL; gives the text and the columns it was taken from."""
    tokens = list(_tokens(text))
    words = [
        (place, token) for place, token in enumerate(tokens) if token.strip() and not token.startswith(("--", "/*"))
    ]
    taken: set[str] = set()
    column, depth = "", 0
    for index, (place, token) in enumerate(words):
        depth += (token == "(") - (token == ")")
        upper = token.upper()
        if token == "," and depth == 0:
            column = ""
        if upper == "ADD" and depth == 0:
            rest = [one for _, one in words[index + 1 : index + 6]]
            while rest and rest[0].upper() in ("COLUMN", "IF", "NOT", "EXISTS"):
                rest.pop(0)
            column = _plain(rest[0]) if rest else ""
        following = words[index + 1][0] if index + 1 < len(words) else -1
        is_pair = upper == "NOT" and following > 0 and tokens[following].upper() == "NULL"
        if column in wanted and depth == 0 and is_pair:
            tokens[place] = tokens[following] = ""
            taken.add(column)
    return "".join(tokens), taken


def _plain(name: str) -> str:
    """An identifier as the catalog has it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _tokens(text: str) -> Iterator[str]:
    place = 0
    while found := _TOKEN.match(text, place):
        end = found.end()
        if found["comment"]:
            end = comment_end(text, end)
        elif found["tag"] is not None:
            closing = text.find(f"${found['tag']}$", end)
            end = closing + len(found["tag"]) + 2 if closing >= 0 else len(text)
        yield text[place:end]
        place = end
