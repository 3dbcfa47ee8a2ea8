"""Batches that a Python function computes: rows are read without a lock, and written only where they are still the same.

The function takes its time between two transactions, so it holds no lock. A row that somebody has changed meanwhile is read and
computed once more before anything of the batch is written: no newer value is overwritten by one that an older was the reason for.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.backfill import copied, keep, together
from mcp_planner_schema.backfill.keys import Column, Leaf, Range
from mcp_planner_schema.backfill.spec import FENCED, TABLE, Backfill, Rows
from mcp_planner_schema.guard.postcheck import identifier

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

    from mcp_planner_schema.guard.kept_rows import Kept

COMPUTED = "guard:computed"
"""The temporary table that a batch's new values are copied into, and its name beside the row of the table."""

COMPUTING = "mcp_planner_guard.computing"
"""Where in ``connection.info`` stands how many seconds functions have computed, while the server had nothing to do."""

_TRIES = 10
"""So often a batch is computed, each time for the rows that were changed meanwhile, until a smaller one is tried."""

_MADE = "mcp_planner_guard.computed"
"""Where in ``connection.info`` stands for what the temporary table was made, and the kinds of its values."""

_GIVEN = identifier("guard:given")
"""Whether the function has given values; a row that it leaves out must still be what it has seen, too."""

_PLACE = Column("ctid", "tid", "U")
"""What tells the rows of a table without a key apart, as long as they are not changed."""

_KINDS = """
WITH RECURSIVE typed AS (
    SELECT a.attname::text AS name, a.atttypid AS oid FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = %s::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL SELECT typed.name, t.typbasetype FROM typed JOIN pg_catalog.pg_type t ON t.oid = typed.oid WHERE t.typtype = 'd')
SELECT typed.name, CASE WHEN t.typname IN ('json', 'jsonb') THEN 'json' WHEN e.typname IN ('json', 'jsonb') THEN 'array of json'
                        WHEN e.oid IS NOT NULL THEN 'array' ELSE '' END AS kind, 'T' IN (t.typcategory, e.typcategory) AS as_text
FROM typed JOIN pg_catalog.pg_type t ON t.oid = typed.oid
LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typcategory = 'A' WHERE t.typtype <> 'd'
"""


class Failed(Exception):
    """The function cannot do its rows. ``row`` says where, ``problem`` why."""

    def __init__(self, row: str, problem: str) -> None:
        super().__init__(f"{row}: {problem}")
        self.row, self.problem = row, problem


class _Changed(Exception):
    """Rows were changed each time before they could be written; the engine takes it like a failed serialization."""

    pgcode = "40001"


@dataclass(frozen=True)
class _Read:
    """One row: its key as text, who has written it, and what the function gets."""

    key: tuple[str, ...]
    version: str
    values: dict[str, Any]


def write(
    connection: Connection,
    fill: Backfill,
    part: Range,
    send: Callable[[str, Sequence[Any]], Row[Any] | None],
    kept: Kept | None,
    whole: Callable[[], AbstractContextManager[None]],
) -> Row[Any] | None:
    """Read, compute and write the rows of ``part``. ``send`` writes them beside the position: SQL and its values.

    ``whole`` is the transaction for that.
    """
    from sqlalchemy.exc import DBAPIError

    asked = fill.rows
    assert asked is not None
    key = part.leaf.key or (_PLACE,)
    kinds, as_text = _table(connection, asked, part.leaf, key)
    done: dict[tuple[str, ...], tuple[str, bytes | None]] = {}
    for _ in range(_TRIES):
        found = _read(connection, fill, part, key, as_text)
        fresh = [row for row in found if row.key not in done or done[row.key][0] != row.version]
        done |= {row.key: (row.version, None) for row in fresh}
        began = time.monotonic()
        done |= {row.key: (row.version, line) for row, line in _computed(asked, fresh, key, kinds)}
        connection.info[COMPUTING] = connection.info.get(COMPUTING, 0.0) + time.monotonic() - began
        passed = [None] * len(asked.writes)
        lines = [done[row.key][1] or copied.line((*row.key, row.version, *passed, "f")) for row in found]
        try:
            with whole():
                return _sent(connection, asked, part, key, lines, send, kept)
        except _Changed as changed:
            last = changed
    raise DBAPIError("UPDATE", None, last) from last


def forget(connection: Connection) -> None:
    """The backfill is done: drop the session's temporary table, if there is one."""
    if connection.info.pop(_MADE, None) is not None:
        together.send(connection, f"DROP TABLE IF EXISTS pg_temp.{identifier(COMPUTED)}")


def _table(
    connection: Connection, asked: Rows, leaf: Leaf, key: tuple[Column, ...]
) -> tuple[dict[str, str], frozenset[str]]:
    """Make the temporary table, as the columns of this one are; gives the columns' kinds, and which are read as text."""
    wanted = (leaf.oid, asked.writes)
    made, kinds, as_text = connection.info.get(_MADE, (None, {}, frozenset()))
    if made == wanted:
        return kinds, as_text
    connection.info[_MADE] = (None, {}, frozenset())
    columns = connection.exec_driver_sql(_KINDS, (leaf.oid,)).all()
    kinds, as_text = {one.name: one.kind for one in columns}, frozenset(one.name for one in columns if one.as_text)
    taken = [f"{TABLE}.{one.sql} AS {_named('key', place)}" for place, one in enumerate(key)]
    taken += [f'{TABLE}.xmin AS "guard:version"']
    taken += [f"{TABLE}.{_name(one)} AS {_named('new', place)}" for place, one in enumerate(asked.writes)]
    connection.exec_driver_sql(
        f"DROP TABLE IF EXISTS pg_temp.{identifier(COMPUTED)}; "
        f"CREATE TEMPORARY TABLE {identifier(COMPUTED)} ON COMMIT DELETE ROWS "
        f"AS SELECT {', '.join(taken)}, true AS {_GIVEN} FROM ONLY {leaf.sql} AS {TABLE} WITH NO DATA",
        (),
    )
    connection.info[_MADE] = (wanted, kinds, as_text)
    return kinds, as_text


def _read(
    connection: Connection, fill: Backfill, part: Range, key: tuple[Column, ...], as_text: frozenset[str]
) -> list[_Read]:
    """The rows of the range that are to be done, as they are now. An interval is text: Python has none with months."""
    assert fill.rows is not None
    inside, values = part.sql()
    texts = [one.text(TABLE) for one in key]
    names = list(dict.fromkeys([*(one.name for one in key), *fill.rows.reads]))
    shown = [f"{TABLE}.{_name(name)}{'::text' if name in as_text else ''}" for name in names]
    rows = connection.exec_driver_sql(
        f"SELECT {TABLE}.xmin::text, {', '.join((*texts, *shown))} FROM ONLY {part.leaf.sql} AS {TABLE} "
        f"WHERE {inside} AND ({fill.where.replace('%', '%%')}) ORDER BY {', '.join(f'{TABLE}.{one.sql}' for one in key)}",
        values,
    )
    first = 1 + len(key)
    try:
        return [_Read(tuple(row[1:first]), row[0], dict(zip(names, row[first:], strict=True))) for row in rows]
    except ValueError as error:  # a date that is infinite, or before our era
        raise Failed("one of the rows", f"Python has no such value: {error}") from error


def _computed(
    asked: Rows, rows: Sequence[_Read], key: tuple[Column, ...], kinds: Mapping[str, str]
) -> Iterator[tuple[_Read, bytes]]:
    """What the function makes of the rows: each that it gives, and its line for COPY."""
    handed = rows[:0]
    known = {_key(row.values, key): row for row in rows}
    if len(known) != len(rows):
        raise Failed(_told(rows), "two of its rows have keys that are the same to Python")

    def handing() -> Iterator[dict[str, Any]]:
        nonlocal handed
        for place, row in enumerate(rows):
            handed = rows[place : place + 1]
            yield dict(row.values)
        handed = rows

    if not rows:
        return
    try:
        for answer in asked.function(handing()) or ():
            row, line = _line(asked, known, answer, key, kinds)
            yield row, line
    except Failed:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise Failed(_told(handed or rows), said) from error


def _line(
    asked: Rows, known: dict[Any, _Read], answer: Any, key: tuple[Column, ...], kinds: Mapping[str, str]
) -> tuple[_Read, bytes]:
    """One row of the function's, as a line; it is out of ``known`` then."""
    names = [one.name for one in key]
    if not isinstance(answer, Mapping) or not set(names) <= answer.keys():
        raise Failed("a row", f"the function gives {answer!r:.80}, and not a mapping with {', '.join(names)}")
    told = ", ".join(str(answer[name]) for name in names)
    row = known.pop(_key(answer, key), None)
    if row is None:
        raise Failed(f"the row {told}", "the function gives it twice, or it is none of the batch's")
    wrong = sorted(answer.keys() - {*names, *asked.writes}) or sorted(set(asked.writes) - answer.keys())
    if wrong:
        problem = "is none of writes=[…]" if wrong[0] in answer else "is in writes=[…], and the row has none"
        raise Failed(f"the row {told}", f"{wrong[0]} {problem}")
    try:
        values = [copied.text(answer[name], kinds.get(name, "")) for name in asked.writes]
        return row, copied.line((*row.key, row.version, *values, "t"))
    except (TypeError, ValueError) as error:
        raise Failed(f"the row {told}", str(error)) from error


def _sent(
    connection: Connection, asked: Rows, part: Range, key: tuple[Column, ...], lines: Sequence[bytes],
    send: Callable[[str, Sequence[Any]], Row[Any] | None], kept: Kept | None,
) -> Row[Any] | None:  # fmt: skip
    """Copy the lines and write the rows, if all of them are still the same. Raises :class:`_Changed` where one is not."""
    name = identifier(COMPUTED)
    together.copy(
        connection, f"COPY pg_temp.{name} FROM STDIN (FORMAT text, ENCODING 'UTF8')", io.BytesIO(b"".join(lines))
    )
    inside, values = part.sql()
    same = " AND ".join(
        f"{TABLE}.{one.sql} {one.operator('=')} {name}.{_named('key', place)}" for place, one in enumerate(key)
    )
    same = f'{inside} AND {same} AND {TABLE}.xmin OPERATOR(pg_catalog.=) {name}."guard:version"'
    given = sum(line.endswith(b"\tt\n") for line in lines)
    settings = ", ".join(f"{_name(one)} = {name}.{_named('new', place)}" for place, one in enumerate(asked.writes))
    # First a look that writes nothing: rows that are not as they were are seldom changed in the moment after it.
    look = f"SELECT pg_catalog.count(*) AS rows FROM ONLY {part.leaf.sql} AS {TABLE}, pg_temp.{name} WHERE {same}"
    if lines and not given and connection.exec_driver_sql(look, values).scalar_one() != len(lines):
        raise _Changed("rows were changed by somebody each time before they were passed over")
    write = f"{same} AND {name}.{_GIVEN}"
    which = f"{FENCED} AND (SELECT rows FROM unchanged) = %s AND {write}", (len(lines), *values)
    written, its = keep.written(kept, part.leaf, settings, f"pg_temp.{name}", which, (write, values))
    row = send(f"unchanged AS MATERIALIZED ({look}), {written}", (*values, *its))
    if row is not None and row[0] != given:
        raise _Changed("rows were changed by somebody each time before they were written")
    return row


def _key(values: Mapping[str, Any], key: tuple[Column, ...]) -> tuple[Any, ...]:
    """A row's key as Python tells it from others."""

    def plain(value: Any) -> Any:
        return (
            bytes(value) if isinstance(value, memoryview) else repr(value) if isinstance(value, (list, dict)) else value
        )

    return tuple(plain(values[one.name]) for one in key)


def _told(rows: Sequence[_Read]) -> str:
    keys = [", ".join(row.key) for row in rows]
    return f"the row {keys[0]}" if len(keys) == 1 else f"the rows {keys[0]} to {keys[-1]}"


def _named(what: str, place: int) -> str:
    return identifier(f"guard:{what}_{place}")


def _name(column: str) -> str:
    return identifier(column).replace("%", "%%")
