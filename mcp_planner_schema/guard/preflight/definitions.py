"""Constraints and unique indexes as PostgreSQL writes them (``pg_get_constraintdef``, ``pg_get_indexdef``), taken apart.

Only as far as rows that stand against them can be asked for; what is not understood is said not to be (None).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NAME = r'(?:"(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)'
_QUALIFIED = rf"{_NAME}(?:\.{_NAME})*"
_CHECK = re.compile(r"CHECK \((?P<rest>.*)", re.DOTALL)
_FOREIGN = re.compile(
    rf"FOREIGN KEY \((?P<own>[^()]+)\) REFERENCES (?P<table>{_QUALIFIED})\((?P<far>[^()]+)\)(?P<full> MATCH FULL)?(?P<rest>.*)",
    re.DOTALL,
)
_UNIQUE = re.compile(
    r"(?P<kind>UNIQUE|PRIMARY KEY)(?P<same> NULLS NOT DISTINCT)? \((?P<columns>(?:[^()\"]|\"[^\"]*\")+)\)"
)
_INDEX = re.compile(
    rf"CREATE UNIQUE INDEX {_NAME} ON (?:ONLY )?(?P<table>{_QUALIFIED}) USING {_NAME} \((?P<rest>.*)", re.DOTALL
)
_EXCLUDE = re.compile(rf"EXCLUDE USING {_NAME} \((?P<rest>.*)", re.DOTALL)
_WITH = re.compile(r"(?P<key>.*) WITH (?P<operator>OPERATOR\([^()]+\)|[-+*/<>=~!@#%^&|`?]+)$", re.DOTALL)
_COLLATE = re.compile(rf"^ COLLATE {_QUALIFIED}")
_CALL = re.compile(rf"{_QUALIFIED}(?=\()")
_STRING = re.compile(r"E?'(?:[^'\\]|''|\\.)*'|\"(?:[^\"]|\"\")*\"", re.DOTALL)


@dataclass(frozen=True)
class Check:
    """``CHECK (expression)``. ``only``: it does not hold for tables that inherit."""

    expression: str
    only: bool


@dataclass(frozen=True)
class Foreign:
    """``FOREIGN KEY (own) REFERENCES table (far)``; names as they stand there, quoted. ``full``: all of them null, or none."""

    own: tuple[str, ...]
    table: str
    far: tuple[str, ...]
    full: bool


@dataclass(frozen=True)
class Unique:
    """What no two rows have in common: columns or expressions, of the rows that fulfil ``where`` (empty: all).

    ``nulls_equal``: a null is like another. ``columns`` are the names where it is nothing but columns.
    """

    expressions: tuple[str, ...]
    where: str = ""
    nulls_equal: bool = False
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exclude:
    """No two rows of which all ``keys`` compare true by their operators."""

    keys: tuple[tuple[str, str], ...]
    where: str = ""


Rule = Check | Foreign | Unique | Exclude


def constraint(text: str) -> Rule | None:
    """The rule of a constraint that reads the rows which are there; None for NOT VALID, and for what is not understood."""
    if re.search(r" NOT (VALID|ENFORCED)( ni)?$", text) or " PERIOD " in text or "WITHOUT OVERLAPS" in text:
        return None
    if (found := _CHECK.fullmatch(text)) and (split := _closed(found["rest"])):
        return Check(split[0], bool(re.search(r"NO INHERIT| ni$", split[1])))
    if found := _FOREIGN.fullmatch(text):
        return Foreign(tuple(_listed(found["own"])), found["table"], tuple(_listed(found["far"])), bool(found["full"]))
    if found := _UNIQUE.match(text):
        names = tuple(_listed(found["columns"]))
        return Unique(names, nulls_equal=bool(found["same"]), columns=names)
    if (found := _EXCLUDE.fullmatch(text)) and (split := _closed(found["rest"])):
        pairs = [_WITH.fullmatch(one) for one in _listed(split[0])]
        if all(pairs):
            return Exclude(tuple((_expression(one["key"]), one["operator"]) for one in pairs if one), _where(split[1]))
    return None


def index(text: str) -> tuple[str, Unique] | None:
    """Table and rule of ``CREATE UNIQUE INDEX …``; None for another, and for an invalid one: that is to go."""
    found = _INDEX.fullmatch(text)
    if found is None or text.endswith(" invalid") or not (split := _closed(found["rest"])):
        return None
    keys = tuple(_listed(split[0]))
    expressions = tuple(map(_expression, keys))
    columns = expressions if all(re.fullmatch(_NAME, one) for one in expressions) else ()
    return found["table"], Unique(expressions, _where(split[1]), " NULLS NOT DISTINCT" in split[1], columns)


def keys_of(text: str) -> tuple[str, tuple[str, ...]] | None:
    """Table and key expressions of any index; None for what is none."""
    found = index(re.sub(r"^CREATE INDEX ", "CREATE UNIQUE INDEX ", text))
    return (found[0], found[1].expressions) if found else None


def not_null(text: str) -> bool:
    """Whether a column's line says NOT NULL for the rows that are there too."""
    head = re.split(r" (?:default|identity|generated) ", text, maxsplit=1)[0]
    return re.search(r" not null(?! not valid)", head) is not None


def _where(rest: str) -> str:
    """The predicate behind the keys."""
    _, found, predicate = rest.partition(" WHERE (")
    split = _closed(predicate) if found else None
    return split[0] if split else ""


def _expression(key: str) -> str:
    """An index key without operator class and order; its collation decides what is equal and stays."""
    call = _CALL.match(key)
    if key.startswith("(") or call:
        opened = call.end() + 1 if call else 1
        split = _closed(key[opened:])
        if split is None:
            return key
        end = len(key) - len(split[1])
    else:
        name = re.match(_NAME, key)
        end = name.end() if name else len(key)
    collation = _COLLATE.match(key[end:])
    return key[:end] + (collation[0] if collation else "")


def _closed(text: str) -> tuple[str, str] | None:
    """What stands before the parenthesis that closes one opened before ``text``, and what comes after it."""
    depth = 1
    for at, sign in _signs(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return text[:at], text[at + 1 :]
    return None


def _listed(text: str) -> list[str]:
    """The parts between commas, as far as those stand in no parenthesis and no string."""
    depth, begin, found = 0, 0, []
    for at, sign in _signs(text):
        depth += (sign == "(") - (sign == ")")
        if sign == "," and depth == 0:
            found.append(text[begin:at].strip())
            begin = at + 1
    return [*found, text[begin:].strip()]


def _signs(text: str) -> Iterator[tuple[int, str]]:
    """Each parenthesis and comma that is in no string and no quoted name, with its place."""
    at = 0
    while at < len(text):
        quoted = _STRING.match(text, at)
        if quoted:
            at = quoted.end()
            continue
        if text[at] in "(),":
            yield at, text[at]
        at += 1
