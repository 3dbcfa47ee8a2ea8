"""The tripwire: while a body runs, every statement passes here first, and one that rolls the transaction back is stopped.

A COMMIT fails on the server (see :mod:`.trial`); a ROLLBACK does not, and what comes after it in the same string would be
final. Nor does what goes through dblink: that is another session, and commits by itself. The tripwire works on the driver's
cursors, so the connection beneath SQLAlchemy's is watched too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection

_ROLLBACK = re.compile(r"(?:^|;)\s*(?:ROLLBACK|ABORT)\b(?!\s+(?:(?:WORK|TRANSACTION)\s+)?TO\b)", re.IGNORECASE)
# Its text may stand in a DO block or in another text that is run, so comments and quotes make no difference.
_DBLINK = re.compile(r"\bdblink\w*\"?\s*\(", re.IGNORECASE)
_CONCURRENTLY = re.compile(r"\s*\(\s*CONCURRENTLY\s*\)|\bCONCURRENTLY\b", re.IGNORECASE)
_QUOTED = re.compile(
    r"""--[^\n\r]* | (?P<comment>/\*) | (?<![\w$])\$(?P<tag>\w*)\$ | (?P<text>[eE]?') | "[^"]*" """, re.VERBOSE
)
_TEXT_END = re.compile(r"(?:[^']|'')*+'")
_ESCAPED_END = re.compile(r"(?:[^'\\]|\\.|'')*+'", re.DOTALL)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


class CommitInside(Exception):
    """The body ended its transaction, or its trial proves nothing. Nothing was changed."""


def code_of(sql: str, *, escapes: bool) -> str:
    """``sql`` without comments, texts and quoted names. ``escapes``: a backslash in a plain '…' escapes, as it once did."""
    kept, place = [], 0
    while found := _QUOTED.search(sql, place):
        kept.append(sql[place : found.start()])
        place = found.end()
        if found["comment"]:
            place = comment_end(sql, place)
        elif found["tag"] is not None:
            end = sql.find(f"${found['tag']}$", place)
            place = len(sql) if end < 0 else end + len(found["tag"]) + 2
        elif found["text"]:
            end_of = _ESCAPED_END if escapes or found["text"] != "'" else _TEXT_END
            text = end_of.match(sql, place)
            place = text.end() if text else len(sql)
        kept.append(" ")
    return "".join(kept) + sql[place:]


def rolls_back(sql: str) -> bool:
    """Whether a statement of ``sql`` ends the transaction by a rollback, whatever standard_conforming_strings is."""
    if not re.search("rollback|abort", sql, re.IGNORECASE):
        return False
    return any(_ROLLBACK.search(code_of(sql, escapes=escapes)) for escapes in (False, True))


def ended(connection: Connection) -> bool:
    """Whether the transaction on the server is over, whatever driver and SQLAlchemy believe. Sends nothing."""
    from psycopg2.extensions import TRANSACTION_STATUS_IDLE

    driver: Any = None if connection.closed or connection.invalidated else connection.connection.dbapi_connection
    return driver is not None and driver.info.transaction_status == TRANSACTION_STATUS_IDLE


@contextmanager
def set_on(connection: Connection | None, *, plain: bool = False) -> Iterator[None]:
    """While inside, a statement that rolls back or calls dblink, or any after the transaction's end, raises CommitInside.

    ``plain`` leaves CONCURRENTLY out of what is sent. To be entered inside a transaction.
    """
    from psycopg2.extensions import TRANSACTION_STATUS_IDLE, cursor

    assert connection is not None
    driver: Any = connection.connection.dbapi_connection
    before = driver.cursor_factory
    base = before or cursor  # the application's own, where it has asked for one

    class Watched(base):  # type: ignore[misc, valid-type]  # psycopg2 ships no types
        def execute(self, query: Any, vars: Any = None) -> Any:
            return super().execute(self._passed(query), vars)

        def executemany(self, query: Any, vars_list: Any) -> Any:
            return super().executemany(self._passed(query), vars_list)

        def _passed(self, query: Any) -> Any:
            text = (
                query
                if isinstance(query, str)
                else query.decode()
                if isinstance(query, bytes)
                else query.as_string(self)
            )
            # psycopg2 believes it is still in a transaction after a ROLLBACK it did not send itself, and sends no BEGIN.
            if self.connection.info.transaction_status == TRANSACTION_STATUS_IDLE or rolls_back(text):
                raise CommitInside("the body rolls its transaction back")
            if _DBLINK.search(text):
                raise CommitInside("it works through dblink, which commits by itself")
            return _CONCURRENTLY.sub("", text) if plain else text

    driver.cursor_factory = Watched
    try:
        yield
    finally:
        driver.cursor_factory = before


def comment_end(sql: str, place: int) -> int:
    """Where the block comment ends that has begun before ``place``; they nest."""
    depth = 1
    while depth and (found := _COMMENT_EDGE.search(sql, place)):
        depth += 1 if found[0] == "/*" else -1
        place = found.end()
    return len(sql) if depth else place
