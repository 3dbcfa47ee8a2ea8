"""Masks the rows of a copy before it has an index, a foreign key or a trigger, and looks for what should be gone.

Nothing fires there that would write the old values into an audit log, and what is made afterwards is made of masked rows. What
a value becomes depends on it and on a salt that the server draws and forgets: the same value becomes the same everywhere, so
what was equal stays equal, and nobody can find out by trying.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.postcheck import execute, identifier, literal
from mcp_planner_schema.guard.source import shown
from mcp_planner_schema.staging.masks import TEXT, Column, Masks

if TYPE_CHECKING:
    from sqlalchemy import Connection

SALT = "PLANNER_MASK_SALT"
"""The variable that makes masked values the same from one copy to the next. It passes through the server's log then."""
_DRAWN = "pg_catalog.concat(pg_catalog.gen_random_uuid(), pg_catalog.gen_random_uuid())"
_SHORTEST = 4
"""Characters from which on a value is looked for: what is shorter is met by chance."""
_CHANCE = 12
"""Characters from which on no mask is some other original by chance."""

# Written into each statement, for a function costs more to call than it does. Words keep their lengths and how often each
# occurs, so that indexes and searches cost what they cost in production. Two letters identify nobody; a digit may.
_HASHED = (
    "pg_catalog.encode(pg_catalog.sha256(pg_catalog.textsend("
    "pg_catalog.current_setting('mcp_planner.mask_salt') || VALUE)), 'hex')"
)
_W = r"\u0001-\u002f\u003a-\u0040\u005b-\u005e\u0060\u007b-\u007f"
r"""The signs of ASCII that are in no word. \w and \m would go by the collation: under C they know ASCII only, and every name in
another alphabet would stay as it is."""
_WORDS = rf"""(
SELECT coalesce(pg_catalog.string_agg(CASE
  WHEN w.part[1] IS NOT NULL THEN w.part[1]
  WHEN w.part[2] IS NOT NULL THEN pg_catalog.left(
    pg_catalog.translate({_HASHED.replace("VALUE", "w.part[2]")}, 'abcdef', '012345'), pg_catalog.length(w.part[2]))
  WHEN pg_catalog.length(w.part[3]) < 3 AND w.part[3] ~ '^[A-Za-z_]+$' THEN w.part[3]
  ELSE pg_catalog.left(
    pg_catalog.translate({_HASHED.replace("VALUE", "pg_catalog.lower(w.part[3])")}, '0123456789', 'ghijklmnop'),
    pg_catalog.length(w.part[3])) END, '' ORDER BY w.place), '')
FROM pg_catalog.regexp_matches(VALUE, 'OTHER|([0-9]+)(?![^{_W}])|([^{_W}]+)', 'g') WITH ORDINALITY AS w (part, place))"""
# In a text of JSON a backslash and what follows it are one sign.
_PLAIN, _ESCAPED = rf"([{_W}]+)", rf"(\\u[0-9a-f]{{4}}|\\.|(?:(?!\\)[{_W}])+)"
_HARMLESS = (
    r"(VALUE ~ '^(?:(?:\w+://)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\d(?:[T ][0-9:.+Z-]*)?|"
    r"-?\d{1,3}(?:\.\d+)?)$' OR VALUE IN (SELECT enumlabel::pg_catalog.text FROM pg_catalog.pg_enum UNION ALL "
    "SELECT said FROM pg_temp.mask_said))"
)
_JSON = r"""(
SELECT pg_catalog.string_agg(CASE WHEN j.part[2] IS NULL THEN coalesce(j.part[1], j.part[3])
  WHEN HARMLESS THEN '"' || j.part[2] || '"' ELSE '"' || WORDS || '"' END, '' ORDER BY j.place)
FROM pg_catalog.regexp_matches(VALUE, '("(?:[^"\\]|\\.)*"\s*:)|"((?:[^"\\]|\\.)*)"|([^"]+)', 'g')
  WITH ORDINALITY AS j (part, place))"""
_LEAVES = (
    "(SELECT v.leaf #>> '{{}}' AS said FROM {rows} AS x, "
    "LATERAL pg_catalog.jsonb_path_query(x.{name}::pg_catalog.jsonb, 'strict $.**') AS v (leaf) "
    "WHERE pg_catalog.jsonb_typeof(v.leaf) = 'string') AS said"
)


def mask(
    connection: Connection, masks: Masks, columns: Sequence[Column], decided: Sequence[tuple[Column, str]]
) -> None:
    """Mask all that is decided, and prove it. The caller's transaction ends with it.

    Raises :class:`Refused` where a value is still to be found, in whatever column; the copy is to be dropped then.
    """
    _prepare(connection, masks.harmless)
    rules = dict(decided)
    for column, rule in decided:
        if rule != "shuffle" and (column.is_text or column.is_json):
            _remember(connection, column)
    for _, group in groupby(decided, key=lambda one: (one[0].schema, one[0].table)):
        _change(connection, list(group))
    execute(connection, "CREATE INDEX ON pg_temp.mask_before (h); ANALYZE pg_temp.mask_before")
    left = [one.shown for one in columns if _left(connection, one, rules.get(one))]
    connection.commit()
    if left:
        values = {"columns": ", ".join(left), "file": shown(masks.path)}
        raise Refused([Finding("mask-leaves", shown(masks.path), "", values)], f"edit {shown(masks.path)}")


def _prepare(connection: Connection, harmless: Sequence[str]) -> None:
    execute(connection, "CREATE TEMP TABLE mask_said (said text PRIMARY KEY)")
    for one in dict.fromkeys(harmless):
        connection.exec_driver_sql("INSERT INTO pg_temp.mask_said VALUES (%s)", (one,))
    execute(connection, "CREATE TEMP TABLE mask_before (h bigint NOT NULL)")
    given = os.environ.get(SALT, "")
    salt = literal(given) if given else _DRAWN
    # DO gives nothing back: a salt that was drawn never leaves the server.
    execute(
        connection, f"DO $do$ BEGIN PERFORM pg_catalog.set_config('mcp_planner.mask_salt', {salt}, false); END $do$"
    )


def _remember(connection: Connection, column: Column) -> None:
    """Keep the hashes of what is to be gone; texts without a word that a mask would change are as they are."""
    said = "said.said"
    words = rf"{said} ~ '[A-Za-z0-9_]{{3}}|[0-9]|[^\u0001-\u007f]'"
    execute(
        connection,
        f"INSERT INTO pg_temp.mask_before SELECT DISTINCT pg_catalog.hashtextextended({said}, 0) FROM {_said(column)} "
        f"WHERE pg_catalog.length({said}) >= {_SHORTEST} AND {words} AND NOT {_HARMLESS.replace('VALUE', said)}",
    )


def _change(connection: Connection, group: Sequence[tuple[Column, str]]) -> None:
    for column, rule in group:
        if rule == "shuffle":
            execute(connection, _shuffled(column))
    sets = [f"{identifier(one.name)} = {_value(one, rule)}" for one, rule in group if rule != "shuffle"]
    if sets:
        execute(connection, f"UPDATE {group[0][0].rows_of} AS x SET {', '.join(sets)}")


def _shuffled(column: Column) -> str:
    """Each value to another row: no row keeps what is its own but by chance, and the column is as it was as a whole."""
    name, rows = identifier(column.name), column.rows_of
    places = f"SELECT tableoid AS relation, ctid AS place, pg_catalog.row_number() OVER () AS n FROM {rows}"
    values = f"SELECT {name} AS value, pg_catalog.row_number() OVER (ORDER BY pg_catalog.random()) AS n FROM {rows}"
    return (
        f"UPDATE {rows} AS x SET {name} = other.value "
        f"FROM (SELECT a.relation, a.place, b.value FROM ({places}) a JOIN ({values}) b USING (n)) other "
        "WHERE x.tableoid = other.relation AND x.ctid = other.place"
    )


def _value(column: Column, rule: str) -> str:
    name = f"x.{identifier(column.name)}"
    if rule == "null":
        return "NULL"
    if rule == "json":
        return f"{_json(f'{name}::pg_catalog.text')}::{column.type}"
    masked = f"({_masked(column, rule, f'{name}::pg_catalog.text')})::{column.type}"
    if not column.is_text:
        return f"CASE WHEN {name} IS NOT NULL THEN {masked} END"
    said = f"{name}::pg_catalog.text IN (SELECT said FROM pg_temp.mask_said)"
    return f"CASE WHEN {name} IS NULL OR {said} THEN {name} ELSE {masked} END"


def _masked(column: Column, rule: str, value: str) -> str:
    """SQL: what the text ``value`` becomes."""
    hashed, words = _HASHED.replace("VALUE", value), _words(value, _PLAIN)
    match rule:
        case "null":
            return "NULL"
        case "hash":
            return f"pg_catalog.left({hashed}, {min(32, column.limit or 32)})"
        case "email":
            return f"'user-' || pg_catalog.left({hashed}, 16) || '@example.invalid'"
        case "unique-words" if column.limit is not None:
            return f"pg_catalog.left({words}, {column.limit - 9}) || '-' || pg_catalog.left({hashed}, 8)"
        case "unique-words":
            return f"{words} || '-' || pg_catalog.left({hashed}, 8)"
        case "words":
            return words if column.limit is None else f"pg_catalog.left({words}, {column.limit})"
        case _:
            return literal(rule.removeprefix(TEXT))


def _words(value: str, other: str) -> str:
    return _WORDS.replace("OTHER", other).replace("VALUE", value)


def _json(value: str) -> str:
    harmless, words = _HARMLESS.replace("VALUE", "j.part[2]"), _words("j.part[2]", _ESCAPED)
    return _JSON.replace("VALUE", value).replace("HARMLESS", harmless).replace("WORDS", words)


def _said(column: Column) -> str:
    """What to read to see each text that a column holds, in JSON each string of it: ``said.said``."""
    name = identifier(column.name)
    if column.is_json:
        return _LEAVES.format(rows=column.rows_of, name=name)
    return f"(SELECT x.{name}::pg_catalog.text AS said FROM {column.rows_of} AS x WHERE x.{name} IS NOT NULL) AS said"


def _left(connection: Connection, column: Column, rule: str | None) -> bool:
    """Whether a column holds a value that was to be gone.

    In one that is masked, a short value of the signs that masks are made of is one.
    """
    if not (column.is_text or column.is_json):
        return False
    made = f"AND NOT (pg_catalog.length(said.said) < {_CHANCE} AND said.said !~ '[A-Zq-z]')" if rule else ""
    return bool(
        execute(
            connection,
            f"SELECT EXISTS (SELECT FROM {_said(column)} WHERE pg_catalog.length(said.said) >= {_SHORTEST} {made} "
            "AND pg_catalog.hashtextextended(said.said, 0) IN (SELECT h FROM pg_temp.mask_before))",
        ).scalar_one()
    )


def tables(decided: Sequence[tuple[Column, str]]) -> Iterator[str]:
    """The tables whose rows were masked, quoted: what stood there before is still in their files, until they are written anew."""
    seen = dict.fromkeys((one.schema, one.table) for one, _ in decided)
    yield from (f"{identifier(schema)}.{identifier(table)}" for schema, table in seen)
