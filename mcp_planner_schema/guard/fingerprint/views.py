"""The text of a view as every PostgreSQL would write it.

Before 16 the columns of a view that reads one relation are written with its name before them, from 16 on without. Without it
is the one way that can be had from both.

Not put right: a view over a relation that is called new or old; before 16 its alias is another one.
"""

from __future__ import annotations

from mcp_planner_schema.guard.fingerprint.tokens import Group, is_group, parse, tokens, words

_SETS = {"UNION", "INTERSECT", "EXCEPT"}
_END_OF_FROM = {"WHERE", "GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR", ";", *_SETS}


def view(text: str) -> str:
    """``text`` (of pg_get_viewdef) without the name of its one relation before the columns."""
    name = _only_relation(words(parse(text)))
    if name is None:
        return text
    made: list[str] = []
    every = tokens(text)
    at = 0
    while at < len(every):
        if every[at] == name and every[at + 1 : at + 2] == ["."] and (at == 0 or every[at - 1] != "."):
            at += 2
        else:
            made.append(every[at])
            at += 1
    return "".join(made)


def _only_relation(parts: list[str | Group]) -> str | None:
    """The name of the one relation that the outer SELECT reads; None where it reads none or several."""
    item = _from(parts)
    if (
        not item
        or any(word in item for word in (",", "JOIN"))
        or _SETS & {one for one in parts if isinstance(one, str)}
    ):
        return None
    while item and item[0] in ("ONLY", "LATERAL"):
        item = item[1:]
    name: str | None = None
    if item[:2] == ["ROWS", "FROM"]:
        rest = item[3:]
    elif item and is_group(item[0], "("):
        if "JOIN" in item[0].parts:
            return None
        rest = item[1:]
    else:
        name, rest = _qualified(item)
    if rest[:2] == ["WITH", "ORDINALITY"]:
        rest = rest[2:]
    if rest[:1] == ["AS"]:
        rest = rest[1:]
    alias = rest[0] if rest and isinstance(rest[0], str) and rest[0] != "TABLESAMPLE" else name
    return alias if alias is not None and (alias[0].isalpha() or alias[0] in '_"') else None


def _from(parts: list[str | Group]) -> list[str | Group]:
    """What stands in the outer FROM, if there is one."""
    start = next((n for n, one in enumerate(parts) if one == "FROM" and parts[n - 1] != "DISTINCT"), None)
    if start is None:
        return []
    item = parts[start + 1 :]
    end = next((n for n, one in enumerate(item) if isinstance(one, str) and one in _END_OF_FROM), len(item))
    return item[:end]


def _qualified(item: list[str | Group]) -> tuple[str | None, list[str | Group]]:
    """The last part of a qualified name, and what follows it and the arguments of a function."""
    if not item or not isinstance(item[0], str):
        return None, item
    name, rest = item[0], item[1:]
    while len(rest) > 1 and rest[0] == "." and isinstance(rest[1], str):
        name, rest = rest[1], rest[2:]
    return name, rest[1:] if rest and is_group(rest[0], "(") else rest
