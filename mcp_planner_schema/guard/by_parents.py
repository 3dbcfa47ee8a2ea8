"""Rows that the upgrade has made of a table's rows, one by one: the foreign key tells of which, and so whether they are newer.

What is made of a row that nobody has written to is what the upgrade had made of it the first time: people may have changed or
deleted that since, and the kept one says more. What is made of a written one is newer than the kept one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mcp_planner_schema.guard import checksum, evidence, flow, fresh, references, since, twins, write_back
from mcp_planner_schema.guard.back import Back
from mcp_planner_schema.guard.evidence import Table, rows_of
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.guard.references import Key

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Lists, with an index: below a NOT they are asked for row by row.
_UNWRITTEN = "SELECT {key} AS key FROM {live} AS l JOIN {parent} AS r ON {mine} WHERE NOT {newer} AND {has}{others}"
_OLDER = """
WITH made AS (
  SELECT r.tableoid AS part, r.ctid AS spot, pg_catalog.count(*) AS n FROM {live} AS l JOIN {parent} AS r ON {mine}
  WHERE {newer} AND {own} GROUP BY 1, 2),
kept AS (
  SELECT r.tableoid AS part, r.ctid AS spot, c.ctid AS place, pg_catalog.count(*) OVER (PARTITION BY r.tableoid, r.ctid) AS n
  FROM {place} AS c JOIN {parent} AS r ON {its} WHERE {newer} AND {absent})
SELECT k.place FROM kept AS k JOIN made AS m ON m.part = k.part AND m.spot = k.spot WHERE k.n <= m.n
"""


class Told(NamedTuple):
    """SQL: that the upgrade's own row ``l`` is made of an ``unwritten`` one; that the kept row ``c`` is ``older`` than those
    that it has made of a written one."""

    unwritten: str
    older: str


def told(connection: Connection, back: Back, one: Object, table: Table, another: str) -> Told | None:
    """Tell the rows of a table that the upgrade has made, whose only source with newer rows they refer to: by their key, or by
    any column where the server makes the keys. None where nothing tells them.

    A row of a changed revision must be like a kept one, or have its key, to be what the upgrade had made then. Of who was
    written to the kept rows are older where there are as many new ones; none is where somebody refers to the table, for what they
    meant must not be lost. ``another``: see :func:`.meant.another`. Makes two temporary tables.
    """
    sources = (flow.into(connection, back.flow, table.oid) or frozenset()) & back.source_parts
    if not sources or not write_back.keyed(one, table) or not since.may_list(connection):
        return None
    columns, _ = write_back.common(one, table)
    by_server = fresh.by_server(connection, one, table)
    keys = [each for each in references.of(connection, table.oid) if set(each.own) <= set(columns)]
    if any(each.parent in back.already and not each.parent_open for each in keys):
        return None
    read = (flow.into(connection, back.flow, table.oid) or frozenset()) - flow.parts(
        connection, [each.parent for each in keys]
    )
    if fresh.changed(connection, back, read):  # what is made of those as well, no key tells
        return None
    for key in keys:
        parts = flow.parts(connection, [key.parent])
        tells = by_server or set(key.own) <= set(one.key)
        if not tells or key.parent == key.child or key.parent not in back.already:
            continue
        if key.parent_open and sources <= parts and back.flow.rewritten.isdisjoint(parts):
            return _told(connection, back, one, table, another, [key, *(each for each in keys if each is not key)])
    return None


def _told(connection: Connection, back: Back, one: Object, table: Table, another: str, keys: list[Key]) -> Told:
    """By the first of these ``keys``; who refers to a newer row by another of them is newer as well."""
    key, there = keys[0], {column.name: column for column in table.columns.values()}
    (columns, _), by_server = write_back.common(one, table), fresh.by_server(connection, one, table)
    place, live, hashed = back.stash.place(one), rows_of(table), checksum.row_hash(one.key, "l")
    its = key.match(lambda name: write_back.typed(there[name]), "r")
    kept = f"{its} AND NOT {another}"
    if by_server:  # nor one whose key such a newer row has: it cannot come in
        taken = f"{write_back.same_key(one, table, now='x')} AND {_refers_to_newer(connection, back, key, 'x')}"
        kept += f" AND NOT EXISTS (SELECT FROM {live} AS x WHERE {taken})"
    # Whose kept row people had deleted has none; a changed revision may make one that it had not made.
    has = [f"EXISTS (SELECT FROM {place} AS c WHERE {kept})", f"NOT EXISTS (SELECT FROM {place} AS c WHERE {its})"]
    if back.edited is not None:
        said = twins.told_apart_by(connection, one, table, columns)
        alike = [f"{twins.told_by('c', said, [])} = {twins.told_by('l', said, [])}"] * bool(said)
        same_one = [write_back.same_key(one, table), *alike]
        has = [f"EXISTS (SELECT FROM {place} AS c WHERE {kept} AND {each})" for each in same_one]
    others = [each for each in keys[1:] if each.parent in back.already and each.parent != each.child]
    same = [each for each in others if each.parent == key.parent]
    parts = {
        "live": live, "place": place, "key": hashed, "parent": _parent(connection, key),
        "mine": key.match("l", "r"), "newer": fresh.newer(connection, back, key.parent, "r"),
        "own": fresh.own(back, one, table, "l"), "absent": write_back.absent(one, table, columns),
        "others": "".join(f" AND NOT {_refers_to_newer(connection, back, each, 'l')}" for each in others),
    }  # fmt: skip
    unwritten, older = f"guard_unwritten_{one.number}", f"guard_older_{one.number}"
    execute(connection, f"DROP TABLE IF EXISTS pg_temp.{unwritten}, pg_temp.{older}")
    # Each by itself: below an OR tables would not be joined, but one read for each row of the other.
    found = " UNION ".join(f"({_UNWRITTEN.format(has=each, **parts)})" for each in has)
    execute(connection, f"CREATE TEMPORARY TABLE {unwritten} ON COMMIT DROP AS {found}")
    execute(connection, f"CREATE INDEX ON pg_temp.{unwritten} (key)")
    execute(connection, f"ANALYZE pg_temp.{unwritten}")
    made = f"EXISTS (SELECT FROM pg_temp.{unwritten} AS w WHERE w.key = {hashed})"
    if not by_server or back.edited is not None or fresh.is_referred(connection, table):
        return Told(made, "false")
    by_each = []
    for one_of in (key, *same):
        its = one_of.match(lambda name: write_back.typed(there[name]), "r")
        by_each.append(f"({_OLDER.format(**{**parts, 'mine': one_of.match('l', 'r'), 'its': its})})")
    execute(connection, f"CREATE TEMPORARY TABLE {older} ON COMMIT DROP AS {' UNION '.join(by_each)}")
    execute(connection, f"CREATE INDEX ON pg_temp.{older} (place)")
    execute(connection, f"ANALYZE pg_temp.{older}")
    return Told(made, f"EXISTS (SELECT FROM pg_temp.{older} AS o WHERE o.place = c.ctid)")


def _parent(connection: Connection, key: Key) -> str:
    """The table that a key refers to, as it stands in FROM: without those that inherit from it."""
    parent = evidence.named(connection, *key.parent_name)
    assert parent is not None
    return rows_of(parent)


def _refers_to_newer(connection: Connection, back: Back, key: Key, alias: str) -> str:
    newer = fresh.newer(connection, back, key.parent, "q")
    return f"EXISTS (SELECT FROM {_parent(connection, key)} AS q WHERE {key.match(alias, 'q')} AND {newer})"
