"""Constraints that a statement makes and kept rows are still missing for: NOT NULL of a column, what a foreign key refers to.

The statement is sent without them, and they are made when the rows are back. Its text is read by the tokens of PostgreSQL's
scanner: an ``ALTER TABLE``, and each that is written out in a DO block. What such a block puts together itself, and what a
function does, stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import lexer
from mcp_planner_schema.guard.lexer import Token
from mcp_planner_schema.guard.postcheck import execute, identifier

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.back import Back

_KEYS = """
SELECT n.nspname::text, c.relname::text, k.conname::text, 'p' IN (c.relkind, r.relkind)
FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_class r ON r.oid = k.confrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND NOT k.convalidated AND k.conparentid = 0 AND """
# Whoever adds a key to a table has such a lock on it, so what is new there is this transaction's.
_UNPROVEN = f"""{_KEYS} k.conrelid IN (
  SELECT l.relation FROM pg_catalog.pg_locks l WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation'
    AND l.mode IN ('ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))
"""
_CALLED = f"{_KEYS} k.conrelid = pg_catalog.to_regclass(%s) AND k.conname = %s"
_PROVE = """
SELECT pg_catalog.format('ALTER TABLE %%I.%%I VALIDATE CONSTRAINT %%I', n.nspname, c.relname, k.conname)
FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND NOT k.convalidated AND n.nspname = %s AND c.relname = %s AND k.conname = %s
"""
_BEFORE = {"BEGIN", "THEN", "ELSE", "LOOP", ";", ">"}
"""What stands before a statement of a block; a label ends in two signs."""
_DECIDES = {"IF", "CASE", "LOOP", "EXCEPTION", "RETURN", "EXIT", "CONTINUE"}
"""What makes a block leave statements out, or run them more than once."""


@dataclass(frozen=True)
class Altered:
    """An ``ALTER TABLE``: the name as it is written, and each of its actions. ``inside``: it stands in a DO block, ``perhaps``:
    in one where it may not be run."""

    table: str
    actions: tuple[tuple[Token, ...], ...]
    at: int
    inside: bool = False
    perhaps: bool = False


@dataclass(frozen=True)
class Required:
    """A column that is to be NOT NULL, and what its constraint is ``called`` as it is written, empty where it has no name."""

    table: str
    column: str
    called: str


@dataclass(frozen=True)
class Relaxed:
    """A statement without what it cannot have yet: its ``text``, empty where nothing is left of it.

    ``keys``: it makes foreign keys that are to be validated later. ``named`` are constraints that it was to validate, each with
    its table. ``unproven`` are keys that its author wants NOT VALID, so as well.
    """

    text: str
    keys: bool = False
    named: tuple[tuple[str, str], ...] = ()
    unproven: tuple[tuple[str, str], ...] = ()
    required: tuple[Required, ...] = ()


def relaxed(text: str, wanted: Collection[str]) -> Relaxed | None:
    """The statement with its foreign keys not proven, and without NOT NULL of those columns in ``wanted`` that it adds.

    None where there is nothing of either in it, or a key that its author wants NOT VALID and has given no name.
    """
    changes: list[tuple[int, int, str]] = []
    found = Relaxed(text)
    for altered in _altered(text):
        away = set()
        for index, action in enumerate(altered.actions):
            words = _outside(action)
            if words[:2] == ["VALIDATE", "CONSTRAINT"] and len(action) == 3 and not altered.perhaps:
                found = replace(found, named=(*found.named, (altered.table, lexer.catalog_name(action[2]) or "")))
                away.add(index)
            elif words[:1] == ["ADD"] and _pair(words, "FOREIGN", "KEY"):
                if _pair(words, "NOT", "VALID") or _pair(words, "NOT", "ENFORCED"):
                    if words[1] != "CONSTRAINT":
                        return None
                    named = (altered.table, lexer.catalog_name(action[2]) or "")
                    found = replace(found, unproven=(*found.unproven, named))
                else:
                    found = replace(found, keys=True)
                    changes.append((action[-1].end, action[-1].end, " NOT VALID"))
            elif (
                not altered.perhaps
                and (required := _required(altered.table, action, words))
                and required[0].column in wanted
            ):
                found = replace(found, required=(*found.required, required[0]))
                if required[1]:
                    changes.append(required[1])
                else:
                    away.add(index)
        changes += _without(altered, away)
    if not (found.keys or found.named or found.required):
        return None
    return replace(found, text=_changed(text, changes))


def send(connection: Connection, back: Back, found: Relaxed, sent: Callable[[str], bool]) -> bool:
    """Send it, and note its foreign keys for :func:`prove`. Where it gives False, what was done is to be undone.

    So it is where ``sent`` says so, where what was to be validated is no foreign key, and before version 18 where a table is
    partitioned: such a key cannot be NOT VALID, or is not made valid again in its partitions.
    """
    before = set(connection.exec_driver_sql(_UNPROVEN).all()) if found.keys else set()
    if found.text and not sent(found.text):
        return False
    noted = set(connection.exec_driver_sql(_UNPROVEN).all()) - before if found.keys else set()
    left = {row for one in found.unproven for row in connection.exec_driver_sql(_CALLED, one).all()}
    noted -= left
    for table, name in found.named:
        keys = connection.exec_driver_sql(_CALLED, (table, name)).all()
        if not keys:
            return False
        noted |= set(keys)
    if any(partitioned for *_, partitioned in noted) and not _since_18(connection):
        return False
    back.unproven += [(schema, table, name) for schema, table, name, _ in sorted(noted)]
    return True


def require(connection: Connection, found: Relaxed) -> None:
    """Make the columns NOT NULL. Only from version 18 on such a constraint keeps its name."""
    named = _since_18(connection)
    for one in found.required:
        action = f"ALTER COLUMN {identifier(one.column)} SET NOT NULL"
        if one.called and named:
            action = f"ADD CONSTRAINT {one.called} NOT NULL {identifier(one.column)}"
        execute(connection, f"ALTER TABLE {one.table} {action}")


def prove(connection: Connection, back: Back) -> None:
    """Validate the foreign keys that were noted, as far as they are still there. An orphan is PostgreSQL's own error."""
    for one in dict.fromkeys(back.unproven):
        for sql in connection.exec_driver_sql(_PROVE, one).scalars().all():
            execute(connection, sql)
    back.unproven.clear()


def _since_18(connection: Connection) -> bool:
    return (connection.dialect.server_version_info or (0,)) >= (18,)


def _altered(text: str) -> Iterator[Altered]:
    """Each ``ALTER TABLE`` of a statement; nothing of what cannot be read."""
    try:
        tokens = list(lexer.tokens(text))
        inside = bool(tokens) and tokens[0].word == "DO"
        if inside:
            tokens = [inner for token in tokens for inner in _body(token)]
    except lexer.Unusable:
        return
    perhaps = inside and not _DECIDES.isdisjoint(token.word for token in tokens)
    begin = 0
    for end in [place for place, token in enumerate(tokens) if token.word == ";"] + [len(tokens)]:
        # What a block does before it, up to THEN or BEGIN, is no part of the statement.
        starts = [
            place
            for place in range(begin, end - 1)
            if (tokens[place].word, tokens[place + 1].word) == ("ALTER", "TABLE")
            and (place == begin or tokens[place - 1].word in _BEFORE)
        ]
        if starts and (found := _read(text, tokens[starts[-1] : end])):
            yield replace(found, inside=inside, perhaps=perhaps)
        begin = end + 1


def _body(token: Token) -> Iterator[Token]:
    """The tokens within a literal between dollar signs, where they stand in the whole text."""
    if token.text.startswith("$"):
        quote = token.text[: token.text.index("$", 1) + 1]
        begin = token.at + len(quote)
        for inner in lexer.tokens(token.text[len(quote) : -len(quote)]):
            yield replace(inner, at=begin + inner.at)


def _read(text: str, tokens: Sequence[Token]) -> Altered | None:
    words = [token.word for token in tokens]
    at = 4 if words[2:4] == ["IF", "EXISTS"] else 2
    at += words[at : at + 1] == ["ONLY"]
    begin = at
    at += 1
    while words[at : at + 1] == ["."]:
        at += 2
    if at >= len(tokens):
        return None
    table = text[tokens[begin].at : tokens[at - 1].end]
    at += words[at] == "*"
    return Altered(table, tuple(map(tuple, lexer.parts(tokens[at:]))), tokens[0].at)


def _required(
    table: str, action: Sequence[Token], words: Sequence[str]
) -> tuple[Required, tuple[int, int, str] | None] | None:
    """The column that an action makes NOT NULL, and the change that takes this from it; None where it does nothing else."""
    if words[:1] == ["ALTER"] and words[-3:] == ["SET", "NOT", "NULL"]:
        return Required(table, lexer.catalog_name(action[-4]) or "", ""), None
    if words[:2] == ["ADD", "CONSTRAINT"] and words[3:5] == ["NOT", "NULL"] and len(words) == 6:
        return Required(table, lexer.catalog_name(action[5]) or "", action[2].text), None
    place = 1
    while place < len(words) - 1 and words[place] in ("COLUMN", "IF", "NOT", "EXISTS"):
        place += 1
    at = next((at for at in range(place + 2, len(words) - 1) if tuple(words[at : at + 2]) == ("NOT", "NULL")), 0)
    if words[:1] != ["ADD"] or not at or words[at + 2 : at + 4] == ["NO", "INHERIT"]:
        return None
    named = words[at - 2] == "CONSTRAINT"
    called = action[at - 1].text if named else ""
    change = (action[at - 2 if named else at].at, action[at + 1].end, "")
    return Required(table, lexer.catalog_name(action[place]) or "", called), change


def _without(altered: Altered, away: Collection[int]) -> list[tuple[int, int, str]]:
    """The changes that take these actions away, each with the comma before it or behind it; with the last the statement goes."""
    actions = altered.actions
    if len(away) == len(actions):
        return [(altered.at, actions[-1][-1].end, "NULL" if altered.inside else "")]
    first = next(index for index in range(len(actions)) if index not in away)
    return [
        (actions[index][0].at, actions[index + 1][0].at, "")
        if index < first
        else (actions[index - 1][-1].end, actions[index][-1].end, "")
        for index in sorted(away)
    ]


def _outside(action: Sequence[Token]) -> list[str]:
    """The words of an action, one for each token; those within parentheses are empty."""
    words, depth = [], 0
    for token in action:
        depth += token.word == "("
        words.append("" if depth else token.word)
        depth -= token.word == ")"
    return words


def _pair(words: Sequence[str], first: str, second: str) -> bool:
    return (first, second) in pairwise(words)


def _changed(text: str, changes: Sequence[tuple[int, int, str]]) -> str:
    for begin, end, instead in sorted(set(changes), reverse=True):
        text = text[:begin] + instead + text[end:]
    return text
