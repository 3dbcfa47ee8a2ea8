"""Rows of the upgrade's own that were not there before the downgrade, and are to stay all the same.

A seed that people had deleted is not to be there again. What the upgrade has made of a row that was written since the downgrade
is (a line of statistics for a new task), and so is what the revision has had no text for until somebody changed it. A row is made
of another where it refers to it by a foreign key; or it may be, where the statements that wrote the table have read one with such
rows (:mod:`.flow`), and nothing refers to it that would tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from mcp_planner_schema.guard import checksum, evidence, flow, manifest, references, silence, since, twins, write_back
from mcp_planner_schema.guard.back import Back, made
from mcp_planner_schema.guard.evidence import Table, name_of, rows_of
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.postcheck import execute, identifier, literal

if TYPE_CHECKING:
    from sqlalchemy import Connection

_REFERRED = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE contype = 'f' AND confrelid = %(oid)s AND conrelid <> %(oid)s)
"""
# Of tables that there were before, but for the guard's own, those that partitions belong to, how large they are with all of them,
# and whether the role may read them all.
_ASKED = """
SELECT t.root::bigint, n.nspname::text, c.relname::text,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
         AND NOT pg_catalog.row_security_active(c.oid),
       (SELECT coalesce(pg_catalog.sum(pg_catalog.pg_relation_size(p.oid)), 0)
        FROM (SELECT c.oid UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(c.oid::pg_catalog.regclass)) AS p (oid)
       )::bigint
FROM (SELECT DISTINCT coalesce(pg_catalog.pg_partition_root(u.oid::pg_catalog.regclass)::oid, u.oid) AS root
      FROM pg_catalog.unnest(%s::oid[]) AS u (oid) JOIN pg_catalog.pg_class k ON k.oid = u.oid) AS t
JOIN pg_catalog.pg_class c ON c.oid = t.root JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname !~ %s ORDER BY 1
"""


_MANY = 1000
"""Rows that are looked for in a revision's text; where there are more, all stay."""


def settle(connection: Connection, back: Back) -> None:
    """The body has ended: note in ``back.fresh`` which rows of the tables that it has made are to stay."""
    for one, table in made(connection, back):
        if back.newer(one) or not _has_own(connection, back, one, table):
            continue
        if (condition := of(connection, back, one, table)) != "false":
            stay = f"{own(back, one, table, 'l')} AND {condition}"
            if _exists(connection, table, stay):
                back.fresh[one.number] = f"({stay})"


def in_the_way(connection: Connection, back: Back) -> bool:
    """Whether kept rows came in before the body has written what may be new: under keys of the server's nobody tells its rows
    from them, unless it writes first."""
    for one, table in made(connection, back):
        if one.number not in back.filled or back.newer(one) or not by_server(connection, one, table):
            continue
        if _has_own(connection, back, one, table) and may_be(connection, back, table):
            return True
    return False


def of(connection: Connection, back: Back, one: Object, table: Table, alias: str = "l") -> str:
    """SQL: that a row of the upgrade's own is to stay; ``false`` where none is. To be sent with OUTPUT pinned."""
    found, parents = _by_reference(connection, back, table, alias)
    tellable = _tellable(connection, back, one, table)
    # What refers to a lookup tells which of its rows are needed: the others were there before, by another name.
    told = table.oid in back.already or not is_referred(connection, table)
    if tellable and told and _made_of_newer(connection, back, table, parents):
        found.append("true")
    elif back.edited is not None and (tellable or not flow.into(connection, back.flow, table.oid)):
        found.append(_not_said(connection, back, one, table, alias))
    return f"({' OR '.join(found)})" if found else "false"


def _by_reference(connection: Connection, back: Back, table: Table, alias: str) -> tuple[list[str], set[int]]:
    """SQL: that a row refers to one that was written since, or to one that is made of such; and the tables that tell it."""
    found, parents = list[str](), set[int]()
    kept = {(each.schema, each.name): each for each in back.rows() if each.kind == "table"}
    for key in references.of(connection, table.oid):
        if key.parent == key.child:
            continue
        parent = evidence.named(connection, *key.parent_name) if key.parent_open else None
        if parent is None:  # nobody can tell
            found.append("true")
            continue
        other = f"{alias}r"
        refers = f"SELECT FROM {rows_of(parent)} AS {other} WHERE {key.match(alias, other)}"
        parts = flow.parts(connection, [parent.oid])
        parents |= parts
        if parent.oid in back.already:
            if not back.flow.rewritten.isdisjoint(parts):  # by now each of its rows may be the upgrade's
                found += ["true"] if changed(connection, back, [parent.oid]) else []
            elif (asked := _asked(connection, back, [parent.oid])) and asked[0].open:
                found.append(f"EXISTS ({refers} AND {newer(connection, back, parent.oid, other)})")
            else:
                found.append("true")
        elif key.parent_name in kept and len(alias) < 8:
            its = of(connection, back, kept[key.parent_name], parent, other)
            mine = own(back, kept[key.parent_name], parent, other)
            parents |= flow.into(connection, back.flow, parent.oid) or frozenset()
            if its != "false":
                found.append(f"EXISTS ({refers} AND {mine} AND {its})" if key.parent_open else "true")
    return found, parents


def before(connection: Connection, back: Back, oids: Iterable[int]) -> None:
    """The body is about to change rows of tables: nobody can tell afterwards whether others had written to them."""
    if there := back.already.intersection(oids) - back.changed_since.keys():
        changed(connection, back, there)


def changed(connection: Connection, back: Back, oids: Iterable[int]) -> bool:
    """Whether one of these tables, that were there before, has rows that somebody has written since, or may have."""
    found = False
    for one in _asked(connection, back, oids):
        if one.oid not in back.changed_since:
            # What the body has changed by now, nobody has looked at before.
            same = back.flow.rewritten.isdisjoint(flow.parts(connection, [one.oid]))
            known = one.open and one.size <= since.LARGE and same
            back.changed_since[one.oid] = not known or _any_newer(connection, back, one)
        found = found or back.changed_since[one.oid]
    return found


def wrote(connection: Connection, back: Back) -> tuple[int, ...]:
    """The tables that hold, after the step, nothing that others have written since the downgrade, though its xids are young."""
    if back.fresh:
        return ()
    own = [table.oid for one, table in made(connection, back) if not _has_own(connection, back, one, table)]
    own += [oid for oid, found in back.changed_since.items() if not found]
    return tuple(sorted(flow.parts(connection, own)))


class _Asked(NamedTuple):
    """A table that there was before. ``open``: the role may read all of it; ``size`` in bytes."""

    oid: int
    schema: str
    name: str
    open: bool
    size: int


def _asked(connection: Connection, back: Back, oids: Iterable[int]) -> list[_Asked]:
    wanted = list(oids)
    if not wanted:
        return []
    found = connection.exec_driver_sql(_ASKED, (wanted, evidence.own(back.schema))).all()
    return [_Asked(*row) for row in found]


def _any_newer(connection: Connection, back: Back, one: _Asked) -> bool:
    table = evidence.named(connection, one.schema, one.name)
    if table is None:
        return True
    with checksum.reading(connection):
        rows = f"{rows_of(table)} AS l WHERE {newer(connection, back, one.oid, 'l')}"
        return bool(execute(connection, f"SELECT EXISTS (SELECT FROM {rows})").scalar_one())


def may_be(connection: Connection, back: Back, table: Table) -> bool:
    """Whether a table may hold rows that were not there before: made of newer ones, or by a text that was not there either."""
    if back.edited is not None:
        return True
    found, parents = _by_reference(connection, back, table, "l")
    if _made_of_newer(connection, back, table, parents):
        return True
    return bool(found) and _exists(connection, table, f"({' OR '.join(found)})")


def _made_of_newer(connection: Connection, back: Back, table: Table, but: Iterable[int]) -> bool:
    read = (flow.into(connection, back.flow, table.oid) or frozenset()).difference(but)
    return bool(read) and changed(connection, back, read)


def _has_own(connection: Connection, back: Back, one: Object, table: Table) -> bool:
    """Whether the body has written rows there that are none of the kept ones."""
    if flow.into(connection, back.flow, table.oid) is None:
        return False
    return _exists(connection, table, own(back, one, table, "l"))


def _exists(connection: Connection, table: Table, which: str) -> bool:
    """Whether there is a row ``l`` of which this is true."""
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        return bool(
            execute(connection, f"SELECT EXISTS (SELECT FROM {rows_of(table)} AS l WHERE {which})").scalar_one()
        )


def is_referred(connection: Connection, table: Table) -> bool:
    """Whether a foreign key of another table refers to this one."""
    return bool(connection.exec_driver_sql(_REFERRED, {"oid": table.oid}).scalar_one())


def newer(connection: Connection, back: Back, oid: int, alias: str) -> str:
    """SQL: that a row of a table was written since the downgrade, and not by the running transaction: what that sees of one that
    has not ended is its own."""
    parts = flow.parts(connection, [oid])
    steps = [(first, last) for first, last, tables in back.steps if not tables.isdisjoint(parts)]
    there = _kept_beside(connection, back, oid, alias)
    written = since.written(back.stash, alias, steps)
    return f"({written} AND CASE WHEN {written} THEN {since.by_others(alias)} ELSE false END{there})"


def _kept_beside(connection: Connection, back: Back, oid: int, alias: str) -> str:
    """SQL: that a row is none that the same run has kept of the table when it went back further, and that this run has put back:
    such a table was made anew by a step before this one, and so are all of its rows."""
    where = (
        f"s.id > %s AND s.run_id = (SELECT o.run_id FROM {back.schema}.stash AS o WHERE o.id = %s) "
        f"AND (SELECT pg_catalog.max(h.run_id) FROM {back.schema}.history AS h WHERE h.revision = s.revision "
        f"AND h.direction = 'upgrade' AND h.outcome = 'done') = (SELECT pg_catalog.max(r.id) FROM {back.schema}.run AS r)"
    )
    for stash in manifest.read(connection, back.schema, where, (back.stash.id, back.stash.id)):
        for one in stash.objects:
            table = evidence.named(connection, one.schema, one.name) if one.kind == "table" else None
            if table is None or table.oid != oid or not one.key or not write_back.keyed(one, table):
                continue
            place = stash.place(one)
            if execute(connection, f"SELECT pg_catalog.to_regclass({literal(place)}) IS NOT NULL").scalar_one():
                same = write_back.same_key(one, table, kept="k", now=alias)
                return f" AND NOT EXISTS (SELECT FROM {place} AS k WHERE {same})"
    return ""


def own(back: Back, one: Object, table: Table, alias: str) -> str:
    """SQL: that a row is none of the kept ones, by its key; of a table without one each may be."""
    if not write_back.keyed(one, table):
        return "true"
    same = write_back.same_key(one, table, now=alias)
    return f"NOT EXISTS (SELECT FROM {back.stash.place(one)} AS c WHERE {same})"


def by_server(connection: Connection, one: Object, table: Table) -> bool:
    """Whether the server makes all of the key."""
    return write_back.keyed(one, table) and set(one.key) <= set(twins.given(connection, table))


def _tellable(connection: Connection, back: Back, one: Object, table: Table) -> bool:
    """Whether a row whose key was not kept is none of the kept ones: under keys of the server's it may be one that people have
    changed, unless each of these has its like, or something unique in it tells."""
    if not write_back.keyed(one, table):
        return False
    if table.oid in back.already or not by_server(connection, one, table):
        return True
    columns, _ = write_back.common(one, table)
    if twins.by_unique(connection, one, table, columns):
        return True
    if one.number in back.filled or table.oid in back.unkeyed:
        return False
    place, absent = back.stash.place(one), write_back.absent(one, table, columns)
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        return not execute(connection, f"SELECT EXISTS (SELECT FROM {place} AS c WHERE {absent})").scalar_one()


def _not_said(connection: Connection, back: Back, one: Object, table: Table, alias: str) -> str:
    """SQL: that the text of the revision as it was had nothing to say of a row: not all that tells it stands there."""
    these = f"SELECT FROM {rows_of(table)} AS l WHERE {own(back, one, table, 'l')} LIMIT {_MANY + 1}"
    with checksum.reading(connection), silence.unveiled(connection, table.oid, name_of(table)):
        if write_back.count(connection, f"({these}) AS u") > _MANY:
            return "true"
    columns, _ = write_back.common(one, table)
    said = twins.told_apart_by(connection, one, table, columns)
    said += [] if by_server(connection, one, table) else [name for name in one.key if name in columns]
    text = literal(back.edited or "")
    each = [
        f'coalesce(pg_catalog.strpos({text}, {alias}.{identifier(name)}::pg_catalog.text COLLATE pg_catalog."C"), 1) > 0'
        for name in said
    ]
    return f"NOT ({' AND '.join(each) or 'true'})"
