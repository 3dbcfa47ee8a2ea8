"""What the words of a file say of a revision's header and expectations: a first guess, for its author to look at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mcp_planner_schema.guard.lexer import Token
from mcp_planner_schema.interop.query import Query
from mcp_planner_schema.operations.written import quoted

_ROWS = ("INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "SELECT", "VALUES", "COPY")
_WORDS = {"CREATE": "create", "ALTER": "alter", "DROP": "drop", "INSERT": "seed", "UPDATE": "fill", "DELETE": "remove"}
_TAKES = re.compile(r"\b(DROP\s+(TABLE|COLUMN|VIEW|TYPE|FUNCTION|SCHEMA|SEQUENCE)|TRUNCATE|RENAME)\b", re.IGNORECASE)
_TITLE = 60


def only_rows(query: Query) -> bool:
    """Whether it reads and writes rows, and nothing else."""
    words = [one[0].word for one in query.statements]
    return bool(words) and all(word in _ROWS for word in words)


def takes(query: Query) -> bool:
    """Whether it takes something away that an earlier release may use."""
    return any(_TAKES.search(" ".join(token.word for token in one)) for one in query.statements)


def slug(title: str, number: str, up: Query, type_words: Sequence[str]) -> str:
    """The revision's name as files have it, with a word for the kind of change at its beginning."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", title).lower()) or [
        "version",
        number,
    ]
    first = up.statements[0][0].word if up.statements else ""
    kind = _WORDS.get(first, "alter")
    if words[0] in ("schema", "data", "function") and len(words) > 2 and words[1] in type_words:
        words = words[1:]  # as our own export names its files
    if words[0] not in type_words or len(words) < 2:
        words = [kind if kind in type_words else type_words[0], *words]
    return "_".join(words)[:_TITLE].rstrip("_")


def expectations(up: Query, down: Query) -> tuple[list[str], list[str]]:
    """What the catalog shows afterwards, as far as the words of the statements say it for certain; else that it can be asked."""
    made, again = dict(_made(up)), dict(_made(down))
    dropped, lost = set(_dropped(up)), set(_dropped(down))
    sure = {name: said for name, said in made.items() if dropped.isdisjoint(name)}
    away = [f"expect.absent({said})" for name, said in sure.items() if name[-1] in lost and name not in again]
    asked = ['expect.query("SELECT 1", equals=1)']
    return list(sure.values()) or asked, away or asked


def _made(query: Query) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is made, by its name (a column after its table), and the expectation that says so."""
    from mcp_planner_schema.inspect import ddl

    for one in query.statements:
        for action in ddl.actions(one):
            if action.kind == "column added" and "." not in action.table:
                column = action.columns[0]
                yield (action.table, column), f"expect.column({quoted(action.table)}, {quoted(column)})"
            elif action.kind in ("table", "index") and action.name and "." not in action.name and _plain(one):
                yield (action.name,), f"expect.{action.kind}({quoted(action.name)})"


def _dropped(query: Query) -> Iterator[str]:
    """Every name that a statement which drops, renames or moves something says: more than it takes away."""
    for one in query.statements:
        words = {token.word for token in one}
        if words & {"DROP", "RENAME", "SET", "TRUNCATE", "EXECUTE", "DO", "CALL"}:
            yield from (token.text.lower() if token.word else token.text.strip('"') for token in one)


def _plain(statement: Sequence[Token]) -> bool:
    """Whether the object is certainly made in public: no search_path, no schema, nothing temporary."""
    return not {"TEMP", "TEMPORARY", "SCHEMA"} & {token.word for token in statement[:3]}
