"""Gives recorded rights again on what was made anew: by the upgrade, or by the downgrade itself in the place of what it drops.

No text of the record is run: a name is looked up in the catalog, a privilege is one of those known here, and a role is quoted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import rights, structure
from mcp_planner_schema.guard.evidence import own
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, identifier, pinned
from mcp_planner_schema.guard.rights import PRIVILEGES, Grant, Rights
from mcp_planner_schema.guard.structure import Lines, Picture

if TYPE_CHECKING:
    from sqlalchemy import Connection

_MAINTAIN = (17,)
"""The server version that knows the privilege MAINTAIN."""

_NOW = """
SELECT f.name, pg_catalog.pg_has_role(f.owner, 'USAGE'), pg_catalog.pg_get_userbyid(f.owner)::text, f.secured,
  array(SELECT a.attname::text FROM pg_catalog.pg_attribute a
        WHERE f.kind = 'TABLE' AND a.attrelid = f.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM found f WHERE f.kind = %(kind)s
"""
# Tables that lie in a stash come out of it by being moved: as if they were made anew.
_EVERYTHING = """
SELECT 'RELATION', c.oid::bigint FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ %s UNION ALL SELECT 'ROUTINE', oid::bigint FROM pg_catalog.pg_proc
UNION ALL SELECT 'TYPE', t.oid::bigint FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname !~ %s UNION ALL SELECT 'SCHEMA', oid::bigint FROM pg_catalog.pg_namespace
"""

Everything = frozenset[tuple[str, int]]
"""All that is there on which rights could be: the catalog that it stands in, and its OID."""


def everything(connection: Connection, schema: str, wanted: Collection[Rights]) -> Everything:
    """All that is there now, whatever it is called, but for what lies in a stash. Reads only; nothing where none is wanted."""
    if not wanted:
        return frozenset()
    return frozenset((catalog, oid) for catalog, oid in connection.exec_driver_sql(_EVERYTHING, (own(schema),) * 2))


def at_once(
    connection: Connection, schema: str, recorded: Sequence[Rights], before: Everything, was: Picture
) -> tuple[tuple[Rights, ...], list[str]]:
    """Give these on what the downgrade has made in the place of what it dropped: nobody is to lose or get a right meanwhile.

    ``before`` is all that was there before it, ``was`` its lines in the catalog. What shows columns that were not there, or is
    of another kind, gets none. Gives the record with what was given, and a line for each right that could not be.
    """
    noted, lines = {}, []
    for one, oid in _anew(rights.standing(connection, recorded), before).items():
        if one.kind == "TABLE" and not _no_wider(one, was, structure.of_table(connection, schema, oid)):
            lines += [f"not given: rights on {one.shown}, which shows more than what stood there"] if one.grants else []
            lines += give(connection, oid, replace(one, grants=()))
        else:
            lines += give(connection, oid, one)
        noted[one] = _note(connection, one, oid)
    return tuple(noted.get(one, one) for one in recorded), lines


def _no_wider(one: Rights, was: Picture, now: Lines) -> bool:
    """Whether this is such a relation as stood there, without columns that it had not."""
    named = next(
        (lines for lines in was.values() if any(line[:2] == ("relation", one.name) for line in lines)), Lines()
    )
    kinds = [{text.split()[0] for kind, _, text in lines if kind == "relation"} for lines in (named, now)]
    columns = [{name for kind, name, _ in lines if kind == "column"} for lines in (named, now)]
    return kinds[0] == kinds[1] and columns[1] <= columns[0]


def _note(connection: Connection, one: Rights, oid: int) -> Rights:
    """``one`` with what of it is so now."""
    now = next((has for has in rights.of(connection, [oid]) if has.kind == one.kind), None)
    if now is None:
        return one
    return replace(one, given=_both(one.grants, now.grants), taken=_both(one.lacks, now.lacks))


def _both(recorded: Sequence[Grant], now: Sequence[Grant]) -> tuple[Grant, ...]:
    return tuple(grant for grant in recorded if grant in now)


def still(connection: Connection, recorded: Sequence[Rights]) -> tuple[Rights, ...]:
    """The record without what somebody has taken or given since on what the downgrade had made: his is the newer word.

    To be called before the upgrade makes it anew. Reads only.
    """
    kept = list(recorded)
    for one, oid in rights.standing(connection, [one for one in recorded if one.given or one.taken]).items():
        now = _note(connection, one, oid)
        grants = tuple(grant for grant in one.grants if grant not in one.given or grant in now.given)
        lacks = tuple(grant for grant in one.lacks if grant not in one.taken or grant in now.taken)
        kept[kept.index(one)] = replace(one, grants=grants, lacks=lacks)
    return tuple(kept)


def with_hint(lines: list[str], stash: int) -> list[str]:
    """The lines of what was not given, and where to look what it was."""
    return [*lines, f"what rights there were: make migrate-stash-show ID={stash}"] if lines else []


def taken_since(recorded: Sequence[Rights], kept: Sequence[Rights]) -> list[str]:
    """A line for each right that :func:`still` has left out."""
    return [
        f"not given again: {privilege} on {one.shown} to {to or 'PUBLIC'}: somebody has taken it since the downgrade"
        for one, now in zip(recorded, kept, strict=True)
        for to, privilege, _ in one.grants
        if (to, privilege, _) not in now.grants
    ]


def give_again(connection: Connection, recorded: Sequence[Rights], before: Everything) -> list[str]:
    """Give these on what was not among all that was there ``before``; gives a line for each that could not be given."""
    lines = []
    there = rights.standing(connection, recorded)
    anew = _anew(there, before)
    for one in recorded:
        if one in anew:
            lines += give(connection, there[one], one)
        elif one.grants and not (one in there and _note(connection, one, there[one]).given == one.grants):
            why = "was there before" if one in there else "is not there"
            lines.append(f"not given again: rights on {one.shown}, which {why}")
    return lines


def _anew(there: dict[Rights, int], before: Everything) -> dict[Rights, int]:
    def catalog(one: Rights) -> str:
        return "RELATION" if one.kind in ("TABLE", "SEQUENCE") else one.kind

    return {one: oid for one, oid in there.items() if (catalog(one), oid) not in before}


def give(connection: Connection, oid: int, wanted: Rights) -> list[str]:
    """Give recorded rights on an object that was made anew; gives a line for each that could not be given.

    What it lacked is taken from it. All else that anybody has on it stays: the upgrade's own grants, new defaults.
    """
    kind = wanted.kind
    with pinned(connection, search_path=SYSTEM_PATH):
        found = connection.exec_driver_sql(rights.BY_OID + _NOW, {"oids": [oid], "kind": kind}).first()
        if found is None:
            return []
        name, mine, owner, secured, columns = found
        shown = Rights(kind, name, ()).shown
        if not mine:
            nothing = not (wanted.grants or wanted.lacks)
            return [] if nothing else [f"not given again: rights on {shown}, which belongs to {owner}"]
        there = set(connection.exec_driver_sql("SELECT rolname::text FROM pg_catalog.pg_roles").scalars()) | {""}
        for to, privilege, option in wanted.lacks:
            if to in there - {owner} and _known(connection, kind, privilege):
                only = "GRANT OPTION FOR " if option else ""
                execute(connection, f"REVOKE {only}{privilege} ON {kind} {name} FROM {_who(to)}")
        lines = []
        if wanted.owner not in ("", owner):
            cure = f"ALTER {kind} {name} OWNER TO {identifier(wanted.owner)}"
            lines.append(f"{shown} belonged to {wanted.owner} and belongs to {owner} now: {cure}")
        if wanted.secured and not secured:
            why = "its row level security is not there again (its policies: make migrate-stash-show)"
            return [*lines, *([f"not given again: rights on {shown}: {why}"] if wanted.grants else [])]
        for to, recorded, grantable in wanted.grants:
            privilege, column = rights.split(recorded)
            if to == owner or not _known(connection, kind, privilege):
                continue
            on = f"{privilege} on {f'column {column} of ' if column else ''}{shown} to {to or 'PUBLIC'}"
            if to not in there or (column and column not in columns):
                lines.append(f"not given again: {on}: there is no such {'column' if to in there else 'role'}")
                continue
            what = f"{privilege} ({identifier(column)})" if column else privilege
            more = " WITH GRANT OPTION" if grantable else ""
            execute(connection, f"GRANT {what} ON {kind} {name} TO {_who(to)}{more}")
    return lines


def _known(connection: Connection, kind: str, privilege: str) -> bool:
    version = connection.dialect.server_version_info or ()
    return privilege in PRIVILEGES[kind] and (privilege != "MAINTAIN" or version >= _MAINTAIN)


def _who(to: str) -> str:
    return identifier(to) if to else "PUBLIC"
