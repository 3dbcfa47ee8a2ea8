"""Gives recorded rights again on what the upgrade makes anew.

No text of the record is run: a name is looked up in the catalog, a privilege is one of those known here, and a role is quoted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import rights
from mcp_planner_schema.guard.evidence import own
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, identifier, pinned
from mcp_planner_schema.guard.rights import PRIVILEGES, Grant, Rights

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


def told(connection: Connection, recorded: Sequence[Rights]) -> list[str]:
    """A line for each of these that stands there again after the downgrade, without those rights: with the SQL that gives them.

    Not given by themselves: the older version may show or do more, and whom its own revision meant to have it is not known.
    Reads only.
    """
    there = rights.standing(connection, recorded)
    now = {(has.kind, has.name): has for has in rights.of(connection, there.values())} if there else {}
    lines = []
    for one in there:
        has = now.get((one.kind, one.name), Rights(one.kind, one.name, ()))
        sql = [_revoke(one.kind, one.name, grant) for grant in one.lacks if grant not in has.lacks]
        sql += [_grant(one.kind, one.name, grant) for grant in one.grants if grant not in has.grants]
        if sql:
            lines.append(f"{one.shown} was made anew, and others may not do with it what they might: {'; '.join(sql)}")
    return lines


def give_again(connection: Connection, recorded: Sequence[Rights], before: Everything) -> list[str]:
    """Give these on what was not among all that was there ``before``; gives a line for each that could not be given."""
    lines = []
    there = rights.standing(connection, recorded)
    for one in recorded:
        catalog = "RELATION" if one.kind in ("TABLE", "SEQUENCE") else one.kind
        if one in there and (catalog, there[one]) not in before:
            lines += give(connection, there[one], one)
        elif one.grants:
            why = "was there before" if one in there else "is not there"
            lines.append(f"not given again: rights on {one.shown}, which {why}")
    return lines


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
                execute(connection, _revoke(kind, name, (to, privilege, option)))
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
            execute(connection, _grant(kind, name, (to, recorded, grantable)))
    return lines


def _known(connection: Connection, kind: str, privilege: str) -> bool:
    version = connection.dialect.server_version_info or ()
    return privilege in PRIVILEGES[kind] and (privilege != "MAINTAIN" or version >= _MAINTAIN)


def _grant(kind: str, name: str, grant: Grant) -> str:
    to, recorded, grantable = grant
    privilege, column = rights.split(recorded)
    what = f"{privilege} ({identifier(column)})" if column else privilege
    return f"GRANT {what} ON {kind} {name} TO {_who(to)}{' WITH GRANT OPTION' if grantable else ''}"


def _revoke(kind: str, name: str, grant: Grant) -> str:
    to, privilege, option = grant
    return f"REVOKE {'GRANT OPTION FOR ' if option else ''}{privilege} ON {kind} {name} FROM {_who(to)}"


def _who(to: str) -> str:
    return identifier(to) if to else "PUBLIC"
