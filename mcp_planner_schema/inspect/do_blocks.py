"""The SQL inside DO blocks: the statements of a plpgsql body that stand there as they will be sent, and what cannot be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from mcp_planner_schema.guard import sql_file
from mcp_planner_schema.guard.sql_file import Token
from mcp_planner_schema.inspect.statements import Captured, Sent

_SQL = frozenset(
    {
        "ALTER", "CREATE", "DROP", "TRUNCATE", "UPDATE", "DELETE", "INSERT", "LOCK", "REINDEX", "CLUSTER", "REFRESH", "VACUUM",
        "REVOKE", "SET", "RESET", "COMMENT", "GRANT",
    }
)  # fmt: skip
_CHANGES = frozenset({"ALTER", "CREATE", "DROP", "TRUNCATE", "REINDEX", "CLUSTER"})
# What stands before a statement of plpgsql's: up to and with which word it is passed over.
_UP_TO = {
    "IF": "THEN", "ELSIF": "THEN", "ELSEIF": "THEN", "WHEN": "THEN", "CASE": "THEN", "FOR": "LOOP", "FOREACH": "LOOP",
    "WHILE": "LOOP",
}  # fmt: skip
_ONE = frozenset({"ELSE", "BEGIN", "LOOP", "EXCEPTION", "DECLARE"})


def opened(captured: Captured) -> tuple[Captured, list[str]]:
    """The same with the statements of each DO block behind it, and of those that could not be read the line and why.

    An operation's own block is left alone: the operation is known. A block that commits by itself is one transaction.
    """
    found: list[Sent] = []
    untold = []
    for place, sent in enumerate(captured.statements):
        found.append(sent)
        if sent.tokens[0].word == "DO" and not sent.operation:
            inside, why = _read(sent.tokens)
            transaction = sent.transaction or -2 - place
            found += [
                dataclasses.replace(sent, text=text, tokens=tokens, transaction=transaction, inside=True)
                for text, tokens in inside
            ]
            named = f"{sent.path.name} " if sent.path else ""
            untold += [f"{named}line {sent.line}: {one}" for one in dict.fromkeys(why)]
    return Captured(tuple(found), captured.problem), untold


def _read(tokens: Sequence[Token]) -> tuple[list[tuple[str, tuple[Token, ...]]], list[str]]:
    body = next((text for token in tokens if (text := _literal(token)) is not None), None)
    language = [token.text.lower() for token in tokens if token.word != "DO" and _literal(token) is None]
    if body is None or language not in ([], ["language", "plpgsql"]):
        return [], ["its DO block is not in plpgsql, and was not judged"]
    found, why = [], []
    try:
        for chunk in _statements(body):
            left = _after_control(chunk)
            word = left[0].word if left else ""
            if word == "EXECUTE":
                text = _executed(left)
                if text is None:
                    why.append("its DO block puts together what it executes, which was not judged")
                else:
                    found += [(_text(text, one), tuple(one)) for one in _statements(text)]
            elif word in _SQL:
                found.append((_text(body, left), tuple(left)))
            elif any(token.word in _CHANGES for token in left):
                why.append(f"what {_text(body, left)[:40]!r} does in its DO block was not judged")
    except sql_file.Unusable as error:
        why.append(f"its DO block was judged as far as it can be read: {error}")
    return found, why


def _statements(text: str) -> Iterator[list[Token]]:
    yield from sql_file.statements(text if text.rstrip().endswith(";") else text + "\n;")


def _text(whole: str, tokens: Sequence[Token]) -> str:
    return whole[tokens[0].at : tokens[-1].at + len(tokens[-1].text)]


def _literal(token: Token) -> str | None:
    """What a plain literal says; None for another token."""
    if token.text[:1] == "$" and not token.word:
        tag = token.text[: token.text.index("$", 1) + 1]
        return token.text[len(tag) : -len(tag)]
    return token.text[1:-1].replace("''", "'") if token.text[:1] == "'" else None


def _executed(tokens: Sequence[Token]) -> str | None:
    """The text that EXECUTE is given, where it stands there as it is."""
    alone = len(tokens) == 2 or (len(tokens) > 2 and tokens[2].word in ("INTO", "USING"))
    return _literal(tokens[1]) if alone else None


def _after_control(tokens: Sequence[Token]) -> Sequence[Token]:
    """Without IF … THEN, BEGIN and the like, which stand before a statement and do nothing by themselves."""
    while tokens:
        word = tokens[0].word
        if word in _UP_TO:
            end = _place(tokens, _UP_TO[word])
            if end is None:
                return tokens
            tokens = tokens[end + 1 :]
        elif word in _ONE:
            tokens = tokens[1:]
        elif word == "#":  # of the compiler's: #variable_conflict use_column
            tokens = tokens[3:]
        elif [token.word for token in tokens[:2]] == ["<", "<"]:  # a label
            tokens = tokens[5:]
        else:
            break
    return tokens


def _place(tokens: Sequence[Token], word: str) -> int | None:
    depth = 0
    for place, token in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(token.word, 0)
        if token.word == word and not depth:
            return place
    return None
