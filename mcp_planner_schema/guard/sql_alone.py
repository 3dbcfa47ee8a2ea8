"""Statements that PostgreSQL runs in no transaction: which they are, and which of them an interrupted run can do again.

Whatever else stands in a SQL revision is sent in one transaction with the note that it is done: of a statement that was killed
both are there, or none. Of these there is no such note, so they must be able to run twice, as the operations do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcp_planner_schema.guard.lexer import Token, catalog_name

_SERVER = ("DATABASE", "TABLESPACE", "SUBSCRIPTION")
_NOT_HERE = "whoever sets servers up: what is no part of one database's schema cannot be built again with it"


@dataclass(frozen=True)
class Work:
    """What an operation does, for a statement that says the same: ``kind`` names it, the rest are names as in the catalog.

    ``definition`` is where that of an index begins in the statement's text: at USING or the opening parenthesis.
    """

    kind: str
    name: str
    schema: str | None = None
    table: str = ""
    table_schema: str | None = None
    unique: bool = False
    definition: int = 0


def alone(tokens: Sequence[Token]) -> str:
    """What of a statement runs in no transaction, as people call it; empty where nothing does."""
    words = [token.word for token in tokens]
    first, two = words[0], " ".join(words[:2])
    if "CONCURRENTLY" in words:
        at = words.index("CONCURRENTLY")
        if first in ("CREATE", "DROP") and words[at - 1] == "INDEX":
            return f"{first} INDEX CONCURRENTLY"
        if first == "REINDEX" and at < 9:
            return "REINDEX … CONCURRENTLY"
        if first == "ALTER" and "DETACH" in words and at == len(words) - 1:
            return "DETACH PARTITION … CONCURRENTLY"
    if first == "REINDEX" and {"SCHEMA", "DATABASE", "SYSTEM"} & set(words[1:2] + _behind_options(words)[:1]):
        return "REINDEX of more than one table"
    if first == "VACUUM" or two == "ALTER SYSTEM":
        return first if first == "VACUUM" else two
    if first in ("CREATE", "DROP") and words[1:2] and words[1] in _SERVER:
        return two
    return "CLUSTER of more than one table" if words in (["CLUSTER"], ["CLUSTER", "VERBOSE"]) else ""


def repeats(tokens: Sequence[Token]) -> bool:
    """Whether a statement may run twice by its nature, and changes nothing of the schema: it needs no note."""
    words = [token.word for token in tokens]
    refresh = words[:3] == ["REFRESH", "MATERIALIZED", "VIEW"]
    return words[0] in ("VACUUM", "ANALYZE", "ANALYSE", "CHECKPOINT") or (refresh and words[3:4] == ["CONCURRENTLY"])


def work(tokens: Sequence[Token]) -> Work | None:
    """The operation that does the same and can go on where it was interrupted; None where there is none."""
    read = _Reader(tokens)
    if read.take("CREATE"):
        return _create(read)
    if read.take("DROP", "INDEX", "CONCURRENTLY"):
        read.take("IF", "EXISTS")
        name = read.name()
        read.take("RESTRICT")
        return Work("drop index", name[1], name[0]) if name and read.ended else None
    if read.take("REINDEX"):
        return _reindex(read)
    if read.take("ALTER", "TABLE"):
        return _alter(read)
    return None


def problem(tokens: Sequence[Token]) -> tuple[str, str] | None:
    """Why an interrupted run could not do a statement again, and what to write; None where it can."""
    what = alone(tokens)
    if not what or repeats(tokens) or work(tokens):
        return None
    instead = {
        "CREATE INDEX CONCURRENTLY": "a name that is its own, CREATE INDEX CONCURRENTLY ix_… ON table (…); or, in a revision in "
        "Python, op.create_index_concurrently(…)",
        "DROP INDEX CONCURRENTLY": "one plain name, DROP INDEX CONCURRENTLY ix_…; or, in a revision in Python, "
        "op.drop_index_concurrently(…)",
        "REINDEX … CONCURRENTLY": "REINDEX TABLE CONCURRENTLY table, or INDEX with an index, and no option; or, in a revision in "
        'Python, op.reindex_concurrently("table")',
        "REINDEX of more than one table": 'REINDEX TABLE CONCURRENTLY for each table; or op.reindex_concurrently("table")',
        "CLUSTER of more than one table": "what is meant for one table, in an hour in which nobody works",
        "DETACH PARTITION … CONCURRENTLY": 'op.detach_partition("table", "partition"), in a revision in Python',
    }
    return what, instead.get(what, _NOT_HERE)


class _Reader:
    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens, self.at = tokens, 0

    @property
    def ended(self) -> bool:
        return self.at >= len(self.tokens)

    def take(self, *words: str) -> bool:
        found = [token.word for token in self.tokens[self.at : self.at + len(words)]]
        if found != list(words):
            return False
        self.at += len(words)
        return True

    def name(self) -> tuple[str | None, str] | None:
        """A name that may have a schema; None where it is none that the catalog could be asked for."""
        parts: list[str] = []
        while not self.ended:
            token = self.tokens[self.at]
            part = catalog_name(token)
            if part is None or (token.word and not (token.text[0].isalpha() or token.text[0] == "_")):
                return None
            parts.append(part)
            self.at += 1
            if not self.take("."):
                break
        if len(parts) == 1:
            return None, parts[0]
        return (parts[0], parts[1]) if len(parts) == 2 else None


def _create(read: _Reader) -> Work | None:
    unique = read.take("UNIQUE")
    if not read.take("INDEX", "CONCURRENTLY"):
        return None
    read.take("IF", "NOT", "EXISTS")
    if not read.ended and read.tokens[read.at].word == "ON":
        return None
    name = read.name()
    if not name or not read.take("ON") or read.take("ONLY"):
        return None
    table = read.name()
    if not table or read.ended:
        return None
    return Work("create index", name[1], None, table[1], table[0], unique, read.tokens[read.at].at - read.tokens[0].at)


def _reindex(read: _Reader) -> Work | None:
    kind = next((one for one in ("INDEX", "TABLE") if read.take(one, "CONCURRENTLY")), "")
    name = read.name() if kind else None
    return Work(f"reindex {kind.lower()}", name[1], name[0]) if name and read.ended else None


def _alter(read: _Reader) -> Work | None:
    read.take("IF", "EXISTS")
    read.take("ONLY")
    table = read.name()
    if table and read.take("VALIDATE", "CONSTRAINT"):
        name = read.name()
        return Work("validate", name[1], None, table[1], table[0]) if name and read.ended else None
    if table and read.take("DETACH", "PARTITION"):
        name = read.name()
        if name and read.take("CONCURRENTLY") and read.ended:
            return Work("detach", name[1], name[0], table[1], table[0])
    return None


def _behind_options(words: Sequence[str]) -> list[str]:
    return list(words[words.index(")") + 1 :]) if ")" in words else []
