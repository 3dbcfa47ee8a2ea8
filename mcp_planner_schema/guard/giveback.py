"""Watches the statements of an upgrade, and lets kept rows come back as soon as there is a place for them.

Later statements of the same upgrade may need them: a foreign key of a table that kept its rows, a column that is to be NOT
NULL. Where a statement fails for want of them, it is taken apart: statements of one string are run one by one, and what NOT
NULL and foreign keys promise waits until the rows are back. A statement that reads a table whose rows were to be moved back at
the end is sent again with them.

Where they stand in the way of rows that the upgrade writes itself, the step is begun once more, and its body finds what it found
the first time: they come back after it (:func:`restore.begin`, ``afterwards``), or before it commits in the middle. What has
committed cannot be begun again; there they go out of the tables until the end.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import (
    defaults,
    fills,
    forecast,
    fresh,
    lexer,
    meanwhile,
    opaque,
    over_commit,
    postponed,
    reading,
    sequences,
    sources,
    unite,
)
from mcp_planner_schema.guard.back import Back, InTheWay, made, undoable
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.guard.transaction import ELSEWHERE, OWN
from mcp_planner_schema.guard.tripwire import code_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

TAKEN = "23505"
"""SQLSTATE of a statement that inserts a row which is back already: unique_violation."""

NO_SUCH_KEY = "42809"
"""SQLSTATE of a foreign key that this version cannot make NOT VALID, of a partitioned table: wrong_object_type."""

MISPLACED = "23514"
"""SQLSTATE of a statement that makes a partition for rows which are back, and in the default one: check_violation."""

_PARTITIONS = re.compile(r"\bPARTITION\b", re.IGNORECASE)
_WRITES = re.compile(r"\s*(INSERT|SELECT|WITH|CALL|DO|MERGE|UPDATE)\b", re.IGNORECASE)
_MOVES = re.compile(
    r"\b(INSERT|UPDATE|MERGE|COPY|DO|CALL)\b|\bCREATE\b.*\bTABLE\b.*\bAS[\s(]+(SELECT|WITH|VALUES|TABLE)\b",
    re.IGNORECASE | re.DOTALL,
)
_CHANGES = re.compile(
    r"\b(UPDATE|DELETE|MERGE|DO|CALL|CONFLICT)\b|\bALTER\s+TABLE\b.*\b(TYPE|DEFAULT|GENERATED|\w*SERIAL)\b",
    re.IGNORECASE | re.DOTALL,
)
_ROWS = re.compile(r"\s*(INSERT|UPDATE|DELETE|MERGE|COMMENT|GRANT|REVOKE|SET|TRUNCATE)\b", re.IGNORECASE)
"""What makes no place for a kept row."""

_ASKS_SEQUENCE = re.compile(r"\b(currval|lastval)\b", re.IGNORECASE)
_SIMPLE = re.compile(
    r"\s*(CREATE|ALTER|DROP|INSERT|UPDATE|DELETE|MERGE|TRUNCATE|COMMENT|GRANT|REVOKE|SET|LOCK|REFRESH)\b", re.IGNORECASE
)
"""What does one thing; a block or a function may do many."""

_EMPTIES = re.compile(r"\bTRUNCATE\b", re.IGNORECASE)
_SKIPS = re.compile(r"\bON\s+CONFLICT\b|\bMERGE\s+INTO\b|\bNOT\s+EXISTS\s*\(", re.IGNORECASE)
_UNLESS = re.compile(r"\bMERGE\s+INTO\b|\bNOT\s+EXISTS\s*\(", re.IGNORECASE)
_INSERTS = re.compile(r"\b(INSERT|MERGE)\b", re.IGNORECASE)
_NOTHING = re.compile(
    r"\s*(SHOW|SET|BEGIN|COMMIT|ROLLBACK|ANALYZE|VACUUM|REINDEX|(CREATE|DROP)\s+(UNIQUE\s+)?INDEX)\b", re.IGNORECASE
)
"""What writes no row, outside of a transaction."""

_SAVEPOINTS = re.compile(r"\b(SAVEPOINT|RELEASE|ROLLBACK)\b", re.IGNORECASE)
_CONTROLS = re.compile(
    r"\s*(SAVEPOINT|RELEASE|ROLLBACK)\b(?:.*\bTO\b)?(?:\s+SAVEPOINT\b)?\s*(\S*?)\s*;?\s*$", re.IGNORECASE
)
_SWALLOWS = re.compile(r"\s*DO\b.*\bEXCEPTION\b", re.IGNORECASE | re.DOTALL)
_ALTERS = re.compile(r"\bALTER\s+TABLE\b|\bCREATE\s+UNIQUE\s+INDEX\b", re.IGNORECASE)
_WANTING = (*opaque.WANTING, TAKEN)
"""What such a statement says of rows that are missing, or are not what they were: merged ones may be equal now."""
# What these read of a table makes its indexes and checks its constraints; a default or USING may call anything.
_BUILDS = re.compile(
    r"\s*(CREATE\s+(OR\s+REPLACE\s+)?(UNIQUE\s+INDEX|INDEX|FUNCTION|PROCEDURE|(CONSTRAINT\s+)?TRIGGER|VIEW|SEQUENCE|TYPE|STATISTICS)"
    r"|ALTER\s+TABLE(?!.*\b(DEFAULT|USING)\b)|ALTER\s+INDEX|DROP|COMMENT|GRANT|REVOKE)\b",
    re.IGNORECASE | re.DOTALL,
)


@contextmanager
def watching(connection: Connection, back: Back) -> Iterator[None]:
    """While inside, every statement on the connection is followed by :func:`meanwhile.come_back`.

    It works on the driver's cursors, so the connection beneath SQLAlchemy's is watched too. Outside a transaction
    (``autocommit_block()``) nothing comes back; the end of the step sees to it.
    """
    from psycopg2.extensions import cursor, encodings

    driver: Any = connection.connection.dbapi_connection
    before = driver.cursor_factory
    base = before or cursor  # the application's own, where it has asked for one

    class Watched(base):  # type: ignore[misc, valid-type]  # psycopg2 ships no types
        together: int | None = None
        """Rows of all statements of the last executemany()."""

        def execute(self, query: Any, vars: Any = None) -> Any:
            self.together = None
            # SQLAlchemy itself asks for the isolation level between two transactions, where none may be begun.
            if OWN in connection.info or self.connection.autocommit or not connection.in_transaction():
                if OWN not in connection.info:
                    back.unwatched += [str(query).lower()] * bool(_MOVES.search(str(query)))
                    back.unseen = back.unseen or not _NOTHING.match(str(query))
                return super().execute(query, vars)
            if parts := unite.parts(self.mogrify(query, vars).decode(encodings[self.connection.encoding])):
                for part in parts:
                    self.execute(part)
                return None
            connection.info[OWN] = True
            try:
                if back.ended:
                    over_commit.go_on(connection, back)
                sources.look(connection, back)  # what a cursor on the server has read was no statement of its own
                back.vague |= back.wrote
                back.wrote = set()
                text = self.mogrify(query, vars).decode(encodings[self.connection.encoding])
                back.emptied = back.emptied or bool(_EMPTIES.search(text))
                if controls := _controls(text):  # in a savepoint of the guard's it would end with that
                    super().execute(text)
                    for verb, name in controls:
                        meanwhile.savepoint(back, verb, name)
                    if all(name for _, name in controls):  # the transaction goes on
                        meanwhile.come_back(connection, back)
                        sources.note(connection, back)
                    return None
                if back.waits and fills.first(text, back.waits.values()):
                    meanwhile.come_back(connection, back, all_=True)
                    sources.note(connection, back)
                if _CHANGES.search(text) and sources.wanted(back):
                    fresh.before(connection, back, unite.about(connection, text))
                    sources.note(connection, back)
                send = functools.partial(_with_rows, connection, back, super().execute)
                run = _run if back.afterwards or _ALTERS.search(text) else _plainly
                run = functools.partial(run, connection, back, send, text)
                if back.afterwards or back.sources:
                    run = functools.partial(unite.sent, connection, back, run, text)
                opaque.sent(connection, back, run, text)
                handed, sets = self.description is not None, "setval" in text.lower()
                several = not _SIMPLE.match(text) or ";" in text.rstrip().rstrip(";")
                sources.look(connection, back, handed=handed, builds=_builds(text), sets=sets, several=several)
                back.compound = back.compound or several
                defaults.note(connection, back, text, several=several)
                if _ASKS_SEQUENCE.search(text):
                    back.flow.shown.update(back.flow.into)
                # The result of this cursor stays to be read: what comes back does so on cursors of its own.
                if not _ROWS.match(text) or several:
                    meanwhile.come_back(connection, back)
                sources.note(connection, back)
            finally:
                del connection.info[OWN]

        def executemany(self, query: Any, vars_list: Any) -> Any:
            rows = 0
            for vars in vars_list:
                self.execute(query, vars)
                rows += self.rowcount
            self.together = rows

        @property
        def rowcount(self) -> Any:
            """Of :meth:`executemany` the sum, as psycopg2's own: an ORM takes what is missing there for stale."""
            return super().rowcount if self.together is None else self.together

    connection.info.pop(ELSEWHERE, None)
    sources.begin(connection, back)
    driver.cursor_factory = Watched
    try:
        yield
    finally:
        driver.cursor_factory = before


def _builds(text: str) -> bool:
    """Whether a statement reads tables to make indexes and to check constraints only."""
    return all(_BUILDS.match(code_of(part, escapes=False)) for part in lexer.texts(text))


def _controls(text: str) -> list[tuple[str, str]]:
    """What a statement does to savepoints, in its order, each with the savepoint's name."""
    if not _SAVEPOINTS.search(text):
        return []
    found = [_CONTROLS.match(part) for part in lexer.texts(text)]
    return [(one[1].upper(), one[2]) for one in found if one]


def _with_rows(connection: Connection, back: Back, send: Any, text: str) -> None:
    """Send a statement; where it has read a table that waits for its moved rows, undo it and send it again with them."""
    from psycopg2 import Error

    waiting = meanwhile.moving(connection, back)
    parts = lexer.texts(text) if waiting else []
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
    meanwhile.come_back(connection, back, wanting=True)
    _insert(connection, back, send, text)


def _plainly(connection: Connection, back: Back, send: Any, text: str) -> None:
    send(text)


def _run(connection: Connection, back: Back, send: Any, text: str) -> None:
    """Send a statement that rows may be wanting for; where they are, take it apart."""
    # An error that a block swallows is not seen, and its key would be gone.
    if _SWALLOWS.match(text) and _relaxed(connection, back, send, text):
        return
    if _send(connection, send, text):
        return
    soon = not back.afterwards
    meanwhile.come_back(connection, back, wanting=soon)
    for part in lexer.texts(text):
        if not _send(connection, send, part) and not _relaxed(connection, back, send, part):
            meanwhile.come_back(connection, back, wanting=True)
            send(part)
        meanwhile.come_back(connection, back, wanting=soon)


def _relaxed(connection: Connection, back: Back, send: Any, text: str) -> bool:
    """Send it without what its rows are still missing for, and see to that later; False where that does not help.

    The columns that the stash has values for get those at once, and then their NOT NULL.
    """
    found = postponed.relaxed(text, {name for one in back.rows() for name in one.lost})
    if found is None:
        return False
    execute(connection, "SAVEPOINT guard_relaxed")
    undone = (*_WANTING, NO_SUCH_KEY)
    done = postponed.send(connection, back, found, lambda sql: _send(connection, send, sql, undone))
    if not done:
        execute(connection, "ROLLBACK TO SAVEPOINT guard_relaxed")
    execute(connection, "RELEASE SAVEPOINT guard_relaxed")
    if done and found.required:
        meanwhile.come_back(connection, back, strictly=True, wanting=back.afterwards > 1)
        postponed.require(connection, found)
    return done


def _insert(connection: Connection, back: Back, send: Any, text: str) -> None:
    """Send a statement; where kept rows stand in the way of its rows, or its partition, they are to come back after the body.

    Whether a row that is there already was left out nobody can see: what may do so is as good as one that has failed.
    """
    from psycopg2 import Error

    several = ";" in text or text.lstrip()[:2] in ("--", "/*")  # to read it takes longer than to send it
    parts = lexer.texts(text) if several else [text]
    writing = [part for part in parts if _WRITES.match(part)]
    codes = (TAKEN,) * bool(writing) + (MISPLACED,) * bool(_PARTITIONS.search(text))
    if not back.met or not codes:
        send(text)
        return
    final = not undoable(connection, back)
    met = (final or not back.afterwards) and any(_meets(connection, back, part) for part in writing)
    if not (back.afterwards or final):
        if met:
            back.in_the_way = True
            raise InTheWay
        try:
            send(text)
        except Error as error:
            back.in_the_way = back.in_the_way or error.pgcode in codes
            raise
        return
    stood = _made_sequences(connection, back)
    if met:
        _take_out(connection, back, final=final)
    if not _send(connection, send, text, codes):
        sequences.undo(connection, stood, _made_sequences(connection, back))
        _take_out(connection, back, final=final)
        send(text)


def _take_out(connection: Connection, back: Back, *, final: bool) -> None:
    """Where kept rows were let in among the body's own (:mod:`.unite`), nobody knows these from those any more."""
    if not final and back.afterwards == 1 and None in back.shapes.values():
        back.in_the_way = True
        raise InTheWay
    meanwhile.take_out(connection, back)


def _meets(connection: Connection, back: Back, text: str) -> bool:
    """Whether a row that a statement inserts may meet a kept one and be left out: not where it goes into a table without any,
    which was there before."""
    if not _SKIPS.search(text) or not _INSERTS.search(text):
        return False
    if _UNLESS.search(text):
        return True
    try:
        tokens = list(itertools.islice(lexer.tokens(text), 8))
    except lexer.Unusable:
        return True
    words = [token.word for token in tokens]
    if words[:2] not in (["INSERT", "INTO"], ["MERGE", "INTO"]) or len(words) < 5:
        return True
    begin = end = 2 + (words[2:3] == ["ONLY"])
    while words[end + 1 : end + 2] == ["."] and end + 2 < len(words):
        end += 2
    name = text[tokens[begin].at : tokens[end].end]
    asked = "SELECT c.oid::bigint, n.nspname::text, c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n "
    found = connection.exec_driver_sql(
        asked + "ON n.oid = c.relnamespace WHERE c.oid = pg_catalog.to_regclass(%s)", (name,)
    ).first()
    kept = {(one.schema, one.name) for one in back.rows() if one.number in back.filled}
    return found is None or found[0] not in back.already or (found[1], found[2]) in kept


def _made_sequences(connection: Connection, back: Back) -> dict[int, sequences.Sequence]:
    """Where those stand that this transaction has made, so that nobody else can take a value of them; after a commit, those of
    tables that are locked again (:mod:`.over_commit`).

    ROLLBACK takes no value back, and the upgrade's seeds are to get the keys that they had (of a sequence without CACHE: what a
    session has in store does not show).
    """
    names = [(one.schema, one.name) for one in back.stash.objects if one.kind == "sequence"]
    found = sequences.called(connection, back.schema, names)
    mine = forecast.locked(connection) if found else frozenset()
    tables = (
        {table.oid for one, table in made(connection, back) if one.number in back.final}
        if found and back.horizon
        else ()
    )
    return {oid: one for oid, one in found.items() if oid in mine or one.table in tables}


def _send(connection: Connection, send: Any, text: str, undone: tuple[str, ...] = _WANTING) -> bool:
    """Send it in a savepoint; False where it was undone for one of these SQLSTATEs."""
    from psycopg2 import Error

    execute(connection, "SAVEPOINT guard_statement")
    try:
        send(text)
    except Error as error:
        if error.pgcode not in undone:
            raise
        execute(connection, "ROLLBACK TO SAVEPOINT guard_statement; RELEASE SAVEPOINT guard_statement")
        return False
    execute(connection, "RELEASE SAVEPOINT guard_statement")
    return True
