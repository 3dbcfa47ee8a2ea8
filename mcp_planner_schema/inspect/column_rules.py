"""Which findings a new column earns by its type, default and constraints."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mcp_planner_schema.inspect.sql_reader import Action

Hit = tuple[str, dict[str, str]]
"""A code and the values of its finding."""

# Functions that give another value for each row, or may: what is no constant and not known to be STABLE rewrites the table.
_STABLE = {
    "now", "current_timestamp", "current_date", "current_time", "localtimestamp", "localtime", "transaction_timestamp",
    "statement_timestamp", "current_user", "session_user", "current_schema", "current_setting", "lower", "upper", "coalesce",
    "to_jsonb", "jsonb_build_object", "jsonb_build_array", "array", "cast", "make_interval", "length", "numeric", "varchar",
    "char", "bpchar", "bit", "decimal", "timestamp", "time", "interval", "timestamptz", "float",
}  # fmt: skip
_NUMBERED = ("SERIAL", "BIGSERIAL", "SMALLSERIAL", "SERIAL2", "SERIAL4", "SERIAL8")
_NARROW = ("INT", "INTEGER", "INT4", "SMALLINT", "INT2", "SERIAL", "SERIAL4", "SMALLSERIAL", "SERIAL2")
_REWRITING = ("column-default-volatile", "column-generated", "column-numbered")


def added(action: Action) -> Iterator[Hit]:
    """Of a column that a table in use gets."""
    words = [token.word for token in action.rest]
    default = action.says("DEFAULT")
    generated = action.says("STORED")
    numbered = any(word in _NUMBERED for word in words[:1]) or action.says("AS", "IDENTITY")
    if numbered:
        yield "column-numbered", {}
    elif generated:
        yield "column-generated", {}
    elif default and _volatile(action):
        yield "column-default-volatile", {}
    elif action.says("NOT", "NULL") and not default and not action.says("GENERATED"):
        yield "column-required", {}
    for said, what, operation in (
        (("PRIMARY", "KEY"), "a primary key", "op.add_primary_key_concurrently(…)"),
        (("UNIQUE",), "a unique constraint", "op.add_unique_concurrently(…)"),
        (("REFERENCES",), "a foreign key", "op.add_foreign_key_concurrently(…)"),
        (("CHECK",), "a check", "op.add_check_concurrently(…)"),
    ):
        if action.says(*said):
            yield "column-constrained", {"what": what, "operation": operation}


def _volatile(action: Action) -> bool:
    """Whether the default calls something that is not known to give one value for all rows."""
    words = [token.word for token in action.rest]
    after = action.rest[words.index("DEFAULT") + 1 :]
    for place, token in enumerate(after):
        if token.word in ("NOT", "CHECK", "REFERENCES", "UNIQUE", "CONSTRAINT", "PRIMARY", "COLLATE"):
            break
        called = place + 1 < len(after) and after[place + 1].word == "("
        name = token.text.lower().strip('"')
        if called and (token.word[:1].isalpha() or token.text[:1] == '"') and name not in _STABLE:
            return True
    return False


def rewrites(action: Action) -> bool:
    """Whether the table is written anew to give each row its value."""
    return any(code in _REWRITING for code, _ in added(action))


def weak(action: Action) -> Iterator[Hit]:
    """Of any column, on a new table too: types that are regretted later."""
    words = [token.word for token in action.rest]
    kind = words[0] if words else ""
    if kind == "JSON":
        yield "column-json", {}
    if kind in ("CHAR", "CHARACTER", "BPCHAR") and words[1:2] != ["VARYING"]:
        yield "column-char", {}
    if kind == "TIMESTAMP" and not action.says("WITH", "TIME", "ZONE"):
        yield "column-zoneless", {}
    if kind in _NARROW and action.says("PRIMARY", "KEY"):
        yield "key-narrow", {}


def narrow_key(action: Action) -> Iterator[Hit]:
    """PRIMARY KEY as a constraint of its own, over one narrow column."""
    text = " ".join(token.text for token in action.rest)
    key = re.search(r'PRIMARY KEY \( "?(\w+)"? \)', text, re.IGNORECASE)
    if key and re.search(rf'[(,] "?{key[1]}"? ({"|".join(_NARROW)})\b', text, re.IGNORECASE):
        yield "key-narrow", {"columns": key[1]}
