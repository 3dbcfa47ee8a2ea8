"""Defaults: what PostgreSQL prints of one, as ``@default(…)``. What is not understood for sure stays SQL, in ``dbgenerated``."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from mcp_planner_schema.interop.prisma import native, text
from mcp_planner_schema.interop.prisma.catalog import Column

_WORD = r'(?:"(?:[^"]|"")*"|[^\W\d]\w*)'
_CAST = rf"(?:::{_WORD}(?:[ .]{_WORD})*(?:\(\d+(?:,\d+)?\))?(?: {_WORD})*(?:\[\])?)"
_STRING = re.compile(rf"(E?)'((?:[^']|'')*)'{_CAST}?\Z", re.DOTALL)
_NUMBER = re.compile(rf"\(?(-?\d+(?:\.\d+)?)\)?{_CAST}?\Z")
_NOW = re.compile(rf"(?:now\(\)|CURRENT_TIMESTAMP){_CAST}?\Z")
_NEXT = re.compile(r"nextval\(")
_ARRAY = re.compile(rf"\(?ARRAY\[(.*?)\]{_CAST}?\)?{_CAST}?\Z", re.DOTALL)
_ELEMENT = re.compile(rf"\s*(E?'(?:[^']|'')*'|[^',\[\]()]+){_CAST}?\s*(?:,|\Z)", re.DOTALL)
# PostgreSQL's text of an array of one dimension: quotes where they are needed, with backslashes inside of them.
_IN_BRACES = re.compile(r'(?:"((?:[^"\\]|\\.)*)"|([^",{}\\]+))(?:,|\Z)', re.DOTALL)
_LISTED = ("Int", "BigInt", "Float", "Decimal", "Boolean", "String", "Json")
_LONGEST = 40


def default(column: Column, values: Mapping[str, str] | None) -> str | None:
    """The attribute, if it has one. ``values``: of its enum, from the database to Prisma."""
    given, scalar = column.default, native.scalar(column)
    if scalar in ("Int", "BigInt") and not column.listed and (column.identity or (given and _NEXT.match(given))):
        return "@default(autoincrement())"
    if given is None or given.startswith("NULL"):
        return None
    said = None
    if not column.generated:
        said = _list(column, given, scalar, values) if column.listed else _one(column, given, scalar, values)
    return f"@default({said or f'dbgenerated({text.quoted(given)})'})"


def _one(column: Column, given: str, scalar: str | None, values: Mapping[str, str] | None) -> str | None:
    if scalar == "DateTime":
        return "now()" if _NOW.match(given) else None
    if scalar == "Boolean":
        return given if given in ("true", "false") else None
    if scalar in ("Int", "BigInt", "Float", "Decimal"):
        number = _NUMBER.match(given)
        return _number(number[1] if number else _string(given), scalar)
    return None if column.type == "uuid" else _value(_string(given), scalar, values)


def _list(column: Column, given: str, scalar: str | None, values: Mapping[str, str] | None) -> str | None:
    if column.type == "uuid" or (values is None and scalar not in _LISTED):
        return None
    inside = _ARRAY.match(given)
    elements = _elements(inside[1]) if inside else _braces(_string(given))
    found = [_value(one, scalar, values) for one in elements or ()]
    return None if elements is None or None in found else f"[{', '.join(one for one in found if one)}]"


def _value(value: str | None, scalar: str | None, values: Mapping[str, str] | None) -> str | None:
    if value is None:
        return None
    if values is not None:
        return values.get(value)
    if scalar in ("String", "Json"):
        return text.quoted(value)
    if scalar == "Bytes":
        return text.quoted(base64.b64encode(bytes.fromhex(value[2:])).decode()) if value.startswith("\\x") else None
    if scalar == "Boolean":
        return {"t": "true", "true": "true", "f": "false", "false": "false"}.get(value)
    return _number(value, scalar)


def _number(value: str | None, scalar: str | None) -> str | None:
    try:
        number = Decimal(value) if value and scalar in ("Int", "BigInt", "Float", "Decimal") else None
    except InvalidOperation:
        return None
    if number is None or not number.is_finite() or (scalar in ("Int", "BigInt") and number % 1):
        return None
    written = f"{number:f}"
    return written if len(written) <= _LONGEST else None


def _string(given: str) -> str | None:
    found = _STRING.match(given)
    if not found:
        return None
    value = found[2].replace("''", "'")
    return value.replace("\\\\", "\\") if found[1] else value


def _elements(inside: str) -> list[str | None] | None:
    found: list[str | None] = []
    at = 0
    while at < len(inside):
        one = _ELEMENT.match(inside, at)
        if not one:
            return None
        found.append(_string(one[1]) if one[1].startswith(("'", "E'")) else one[1].strip())
        at = one.end()
    return found


def _braces(value: str | None) -> list[str | None] | None:
    if value is None or not (value.startswith("{") and value.endswith("}")):
        return None
    inside, found, at = value[1:-1], [], 0
    while at < len(inside):
        one = _IN_BRACES.match(inside, at)
        if not one or (one[2] and one[2].upper() == "NULL"):
            return None
        found.append(re.sub(r"\\(.)", r"\1", one[1], flags=re.DOTALL) if one[1] is not None else one[2])
        at = one.end()
    return found
