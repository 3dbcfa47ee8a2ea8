"""Kept values that a later revision, going back before this one, has handed on to columns which its next upgrade drops.

Expand in one revision, contract in a later one: the later one's way back makes the old columns again and fills them from the new
ones, and this one's drops the new. What people then write in the old columns is newer than what was kept of the new ones, as if
both were one revision: tables with such columns count as written to by this one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import (
    checksum,
    evidence,
    flow,
    manifest,
    proof,
    silence,
    since,
    stash,
    write_back,
)
from mcp_planner_schema.guard.back import Back
from mcp_planner_schema.guard.evidence import Table, name_of, rows_of
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import identifier

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Steps back that have read one of these tables, of revisions that are not up again; and the columns that each has made.
_HANDED = """
WITH steps AS MATERIALIZED (
  SELECT h.handed -> 'made' AS made,
         array(SELECT r.oid::bigint FROM pg_catalog.jsonb_array_elements_text(h.handed -> 'read') AS r (oid)) AS read
  FROM {schema}.history h JOIN {schema}.run u ON u.id = h.run_id
  WHERE u.version_table = %(version_table)s AND h.direction = 'downgrade' AND h.outcome = 'done' AND h.handed IS NOT NULL
    AND NOT EXISTS (
      SELECT FROM {schema}.history o JOIN {schema}.run v ON v.id = o.run_id
      WHERE v.version_table = u.version_table AND o.revision = h.revision AND o.id > h.id AND o.outcome = 'done'
        AND o.direction IN ('upgrade', 'stamp')))
SELECT m.oid::bigint, pg_catalog.array_agg(DISTINCT a.attname::text), pg_catalog.array_agg(DISTINCT r.oid)
FROM steps AS s CROSS JOIN LATERAL pg_catalog.jsonb_each(s.made) AS m (oid, columns)
CROSS JOIN LATERAL pg_catalog.jsonb_array_elements_text(m.columns) AS n (number)
JOIN pg_catalog.pg_attribute a ON a.attrelid = m.oid::oid AND a.attnum = n.number::int AND NOT a.attisdropped
CROSS JOIN LATERAL pg_catalog.unnest(s.read) AS r (oid)
WHERE s.read && %(tables)s::bigint[] GROUP BY 1 ORDER BY 1
"""
# What has got a column is locked from readers, and so is what is new.
_COLUMNS = """
SELECT a.attrelid::bigint, pg_catalog.array_agg(a.attnum::int ORDER BY a.attnum)
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p') AND NOT c.relispartition
WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attrelid IN (
  SELECT l.relation FROM pg_catalog.pg_locks l
  WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock')
GROUP BY 1
"""


def entry(connection: Connection, read: Collection[int], before: Mapping[int, Table]) -> dict[str, Any]:
    """What the history is to keep of a downgrade: the tables that it has ``read``, and the columns that it has made in others of
    which there were none ``before``. Empty where it has made none."""
    made: dict[str, list[int]] = {}
    for oid, numbers in connection.exec_driver_sql(_COLUMNS).all():
        new = [number for number in numbers if oid not in before or number not in before[oid].columns]
        if new:
            made[str(oid)] = new
    return {"read": sorted(read), "made": made} if made and read else {}


def noted(connection: Connection, schema: str, version_table: str, kept: stash.Kept) -> stash.Kept:
    """What is kept, with the tables that hold what a later revision has made of it. To be called after the real run."""
    parts = stash.parts_of(kept)
    oids = sorted({oid for found in parts.values() for oid in found})
    if not oids or not any(one.relation for one in kept.objects):
        return kept
    asked = {"version_table": version_table, "tables": oids}
    found = connection.exec_driver_sql(_HANDED.format(schema=schema), asked).all()
    tables = evidence.again(connection, schema, {}, frozenset(oid for oid, *_ in found)) if found else {}
    made = {oid: tuple(columns) for oid, columns, _ in found if oid in tables}
    read = {oid for made_in, _, readers in found if made_in in made for oid in readers}
    if not made:
        return kept
    own = {(one.schema, one.name): one for one in kept.written}
    for oid, columns in made.items():
        table = tables[oid]
        one = own.get((table.schema, table.name)) or proof.as_left(connection, table)
        own[table.schema, table.name] = replace(one, handed=columns)
    objects = [replace(one, read=one.read or not read.isdisjoint(parts.get(one.number, ()))) for one in kept.objects]
    return replace(kept, written=tuple(own.values()), objects=tuple(objects))


def set_aside(connection: Connection, back: Back) -> list[str]:
    """All is back: copy what people have written in such columns, where this upgrade has made nothing of it, for the later one is
    about to drop them. Gives lines for people."""
    notes: list[str] = []
    written = [one for one in back.stash.written if one.handed]
    for number, one in enumerate(written, 1):
        table = evidence.named(connection, one.schema, one.name)
        columns = [name for name in one.handed if table and name in {each.name for each in table.columns.values()}]
        if table is None or not columns or table.oid not in back.sources or table.oid not in back.already:
            continue
        with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
            notes += _copied(connection, back, table, columns, number)
    return notes


def _copied(connection: Connection, back: Back, table: Table, columns: list[str], number: int) -> list[str]:
    which = _which(connection, back, table)
    holder = next((one for one in back.rows() if one.read), None)
    if which == "false" or holder is None:
        return []
    there = {column.name: column for column in table.columns.values()}
    shown = dict.fromkeys([*table.key, *columns])
    name = manifest.aside_relations(holder)[2].format(number=number)
    aside = f"{identifier(back.stash.kept_in)}.{identifier(name)}"
    selected = ", ".join(stash.value(there[each], "l.") for each in shown)
    rows = write_back.copied(connection, aside, f"SELECT {selected} FROM {rows_of(table)} AS l WHERE {which}")
    if not rows:
        return []
    return [
        f"look at {rows} rows of {table.shown}: others have written {', '.join(columns)} since, and what was kept of "
        f"{', '.join(_names(back))} is older. A later revision drops those columns; what stands there is in {aside} as well"
    ]


def _names(back: Back) -> Iterable[str]:
    return dict.fromkeys(
        name for one in back.rows() if one.read for name in ([f"{one.name}.{each}" for each in one.lost] or [one.name])
    )


def _which(connection: Connection, back: Back, table: Table) -> str:
    """SQL: that others have written the row ``l`` since, and the upgrade has made nothing of it."""
    mine = [one for one in back.rows() if (one.schema, one.name) == (table.schema, table.name) and one.lost]
    given = [
        f"EXISTS (SELECT FROM {back.stash.place(one)} AS c JOIN {back.touched[one.number]} AS t ON t.place = c.ctid "
        f"WHERE {write_back.same_key(one, table)} AND t.own AND {_has_come_back(connection, back, one, table)})"
        for one in mine
        if one.number in back.touched and write_back.keyed(one, table)
    ]
    if given:
        return f"({' OR '.join(given)})"
    if not back.flow.read.isdisjoint(flow.parts(connection, [table.oid])):
        return "false"
    return since.written(back.stash)


def _has_come_back(connection: Connection, back: Back, one: Object, table: Table) -> str:
    """SQL: that the row ``l``, which others have written to, has its kept value: it was empty, or the body has not named it."""
    names = [name for name in one.lost if write_back.fits(one, table, name) and name not in back.named]
    if not names:
        return "t.given"
    given = f"pg_catalog.num_nonnulls({', '.join(f'c.{identifier(name)}' for name in names)}) > 0"
    return f"(t.given OR ({given} AND {checksum.alike(connection, back.stash.place(one), rows_of(table), names)}))"
