"""Keeps the old values of the rows that a batch writes, in the same statement: what is written is kept, and nothing else.

The rows are locked and read before they are written: of a row that somebody has just changed the newest values are kept, and
those are the ones that are overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.backfill import together
from mcp_planner_schema.backfill.keys import Leaf
from mcp_planner_schema.backfill.spec import TABLE, Backfill
from mcp_planner_schema.guard import evidence, kept_rows
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.kept_rows import Kept, new
from mcp_planner_schema.guard.postcheck import identifier
from mcp_planner_schema.guard.stash import value

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mcp_planner_schema.backfill.record import Record
    from mcp_planner_schema.guard.brief import Keeping
    from mcp_planner_schema.guard.evidence import Column
    from mcp_planner_schema.guard.journal import Step

_WAS = '"guard:was"'
_NAMED = """
SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %s::bigint::oid
"""


def begin(
    connection: Connection,
    step: Step,
    begun: Record,
    keeping: Keeping,
    fill: Backfill,
    oid: int,
    leaves: Sequence[Leaf],
) -> Kept:
    """Where the backfill keeps what it overwrites. Raises :class:`Refused` where nothing would tell its rows apart."""
    with together.transaction(connection):
        table = evidence.named(connection, *connection.exec_driver_sql(_NAMED, (oid,)).one())
        assert table is not None
        problem = ""
        if not table.key:
            problem = "it has no primary key"
        elif table.kind != "p" and len(leaves) > 1:
            problem = "other tables inherit from it, and the same key may be in each"
        elif both := [name for name in fill.keeps if name in table.key]:
            problem = f"it sets {both[0]}, which is in the key"
        if problem:
            values = {"name": fill.name, "target": table.shown, "problem": problem}
            raise Refused([Finding("backfill-not-kept", step.where, step.revision, values)], step.repeat)
        return kept_rows.begin(connection, step, begun.id, keeping, fill.name, table, fill.keeps)


def seal(connection: Connection, schema: str, kept: Kept) -> int:
    """All is filled: gives how many rows were kept."""
    with together.transaction(connection):
        return kept_rows.seal(connection, schema, kept)


def written(
    kept: Kept | None,
    leaf: Leaf,
    settings: str,
    source: str,
    which: tuple[str, Sequence[Any]],
    same: tuple[str, Sequence[Any]],
) -> tuple[str, tuple[Any, ...]]:
    """The statement parts that write the rows of a leaf and end in ``written``, and their values.

    ``source`` is another relation in FROM, or none; ``which`` says which rows are written, ``same`` how a row is found again.
    """
    update = f"UPDATE ONLY {leaf.sql} AS {TABLE} SET {settings}"
    if kept is None:
        return f"written AS ({update}{source and f' FROM {source}'} WHERE {which[0]} RETURNING 1)", tuple(which[1])
    also = source and f", {source}"
    key, old, filled = _names("key", kept.key), _names("old", kept.columns), _names("new", kept.columns)
    taken = [f"{_value(one)} AS {name}" for one, name in zip((*kept.key, *kept.columns), (*key, *old), strict=True)]
    found = " AND ".join(
        f"{_value(one)} OPERATOR(pg_catalog.=) {_WAS}.{name}" for one, name in zip(kept.key, key, strict=True)
    )
    now = [f"{_value(one)} AS {name}" for one, name in zip(kept.columns, filled, strict=True)]
    names = [identifier(one.name).replace("%", "%%") for one in (*kept.key, *kept.columns)]
    copied = [*names, *(new(place) for place in range(len(kept.columns)))]
    # A row that is written once more has its first old value, unless somebody has put another in between.
    once_more = [
        f"{name} = CASE WHEN {_text(f'c.{new(place)}')} = {_text(f'excluded.{name}')} THEN c.{name} ELSE excluded.{name} END, "
        f"{new(place)} = excluded.{new(place)}"
        for place, name in enumerate(names[len(kept.key) :])
    ]
    return (
        f"{_WAS} AS MATERIALIZED (SELECT {', '.join(taken)} FROM ONLY {leaf.sql} AS {TABLE}{also} WHERE {which[0]} "
        f"FOR NO KEY UPDATE OF {TABLE}), "
        f"changed AS ({update} FROM {_WAS}{also} WHERE {same[0]} AND {found} "
        f"RETURNING {', '.join(f'{_WAS}.{name}' for name in (*key, *old))}, {', '.join(now)}), "
        f"written AS (INSERT INTO {kept.place.replace('%', '%%')} AS c ({', '.join(copied)}) SELECT * FROM changed "
        f"ON CONFLICT ({', '.join(names[: len(kept.key)])}) DO UPDATE SET {', '.join(once_more)} RETURNING 1)"
    ), (*which[1], *same[1])


def _names(what: str, columns: Sequence[Column]) -> list[str]:
    """Names that no expression of a revision means."""
    return [identifier(f"guard:{what}_{place}") for place in range(len(columns))]


def _value(column: Column) -> str:
    """A value of the row, as it is kept."""
    return value(column, f"{TABLE}.", bare=True).replace("%", "%%")


def _text(name: str) -> str:
    return f'ROW({name})::pg_catalog.text COLLATE pg_catalog."C"'
