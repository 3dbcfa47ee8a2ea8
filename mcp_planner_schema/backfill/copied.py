"""Values of Python as COPY takes them (its text format), and as PostgreSQL reads them whatever the session's settings are."""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any
from uuid import UUID

_ESCAPED = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_AS_THEY_ARE = (str, int, float, Decimal, UUID, ipaddress._IPAddressBase)


def line(values: Iterable[str | None]) -> bytes:
    """One row: each value's text, None where it is NULL."""
    return ("\t".join("\\N" if one is None else one.translate(_ESCAPED) for one in values) + "\n").encode()


def text(value: Any, kind: str) -> str | None:
    """The text of a value for a column of a ``kind``: ``json``, ``array``, ``array of json``, or "" for any other.

    A list is an array where the column is one, and JSON in a JSON column, like everything else there but None (which is NULL)
    and psycopg2's ``Json(…)``. Raises TypeError for what has no text of its own, ValueError for what JSON has not.
    """
    from psycopg2.extras import Json, Range

    if value is None:
        return None
    if kind == "json":
        return json.dumps(value.adapted if isinstance(value, Json) else value, allow_nan=False)
    if kind.startswith("array") and isinstance(value, (list, tuple)):
        return _array(value, "json" if kind == "array of json" else "array")
    if isinstance(value, enum.Enum):
        return text(value.value, kind)
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "\\x" + bytes(value).hex()
    if isinstance(value, dt.timedelta):  # with a sign each: IntervalStyle sql_standard takes one sign for all of them
        return f"{value.days:+d} days {value.seconds:+d}.{value.microseconds:06d} seconds"
    if isinstance(value, dt.datetime):
        return value.isoformat(" ")
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, Range):
        return _range(value)
    if isinstance(value, _AS_THEY_ARE):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__} is none that a column takes")


def _array(values: Iterable[Any], kind: str) -> str:
    def element(one: Any) -> str:
        said = text(one, kind)
        if said is None:
            return "NULL"
        return said if kind == "array" and isinstance(one, (list, tuple)) else _quoted(said)

    return "{" + ",".join(map(element, values)) + "}"


def _range(value: Any) -> str:
    if value.isempty:
        return "empty"
    lower, upper = ("" if one is None else _quoted(text(one, "") or "") for one in (value.lower, value.upper))
    return f"{'[' if value.lower_inc else '('}{lower},{upper}{']' if value.upper_inc else ')'}"


def _quoted(said: str) -> str:
    return '"' + said.replace("\\", "\\\\").replace('"', '\\"') + '"'
