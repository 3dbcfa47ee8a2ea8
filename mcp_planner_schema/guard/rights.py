"""Rights on what a downgrade takes away: recorded, and given again on what the upgrade makes anew.

No text of the record is run: a name is looked up in the catalog, a privilege is one of those known here, and a role is quoted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, identifier, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

Grant = tuple[str, str, bool]
"""Grantee (empty is PUBLIC), privilege, grantable. One on a column has its name in brackets behind the privilege."""

PRIVILEGES = {
    "TABLE": ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"),
    "SEQUENCE": ("USAGE", "SELECT", "UPDATE"),
    "ROUTINE": ("EXECUTE",),
    "TYPE": ("USAGE",),
    "SCHEMA": ("USAGE", "CREATE"),
}
_MAINTAIN = (17,)
"""The server version that knows the privilege MAINTAIN."""

# usual is what such an object has without anybody's word. The rights of a composite type, and of the type of a table's rows,
# are on its row in pg_type; what happened to it shows on the one in pg_class.
_FOUND = """
WITH found AS (
  SELECT f.*, coalesce(f.acl, pg_catalog.acldefault(CASE f.type WHEN 'S' THEN 's' ELSE f.type END::"char", f.owner)) AS has
  FROM (
    SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, c.oid, 'pg_catalog.pg_class'::regclass AS class,
           pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name, c.relowner AS owner, c.relacl AS acl,
           c.relnamespace AS place, CASE c.relkind WHEN 'S' THEN 'S' ELSE 'r' END AS type
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {relation}
    UNION ALL SELECT 'ROUTINE', p.oid, 'pg_catalog.pg_proc'::regclass, p.oid::regprocedure::text, p.proowner, p.proacl,
           p.pronamespace, 'f'
    FROM pg_catalog.pg_proc p WHERE {routine}
    UNION ALL SELECT 'TYPE', t.oid, 'pg_catalog.pg_type'::regclass, pg_catalog.format('%%I.%%I', n.nspname, t.typname),
           t.typowner, t.typacl, t.typnamespace, 'T'
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE {type}
    UNION ALL SELECT 'SCHEMA', s.oid, 'pg_catalog.pg_namespace'::regclass, pg_catalog.quote_ident(s.nspname), s.nspowner,
           s.nspacl, 0, 'n'
    FROM pg_catalog.pg_namespace s WHERE {schema}
  ) AS f
)
"""
_BY_OID = _FOUND.format(
    relation="c.oid = ANY (%(oids)s::oid[])",
    routine="p.oid = ANY (%(oids)s::oid[])",
    type="(t.oid = ANY (%(oids)s::oid[]) OR t.typrelid = ANY (%(oids)s::oid[]))",
    schema="s.oid = ANY (%(oids)s::oid[])",
)
_BY_NAME = _FOUND.format(
    relation="pg_catalog.format('%%I.%%I', n.nspname, c.relname) = ANY (%(names)s::text[])",
    routine="p.oid >= 16384 AND p.oid::regprocedure::text = ANY (%(names)s::text[])",
    type="pg_catalog.format('%%I.%%I', n.nspname, t.typname) = ANY (%(names)s::text[])",
    schema="pg_catalog.quote_ident(s.nspname) = ANY (%(names)s::text[])",
)
# Where default privileges say anything about its kind, a new one may have more than one that nobody has ever said a word about.
# What an extension's script has granted, it will grant again.
_RECORDED = """
SELECT f.kind, f.name, f.oid::bigint, CASE a.grantee WHEN 0 THEN '' ELSE r.rolname::text END, a.privilege_type || f.on_column,
       a.is_grantable
FROM (
  SELECT f.kind, f.name, f.oid, f.owner, f.has AS acl, '' AS on_column FROM found f
  LEFT JOIN pg_catalog.pg_init_privs i ON i.classoid = f.class AND i.objoid = f.oid AND i.objsubid = 0
  WHERE (f.acl IS NOT NULL OR EXISTS (SELECT FROM pg_catalog.pg_default_acl d WHERE d.defaclobjtype = f.type::"char"
                                      AND d.defaclnamespace IN (0, f.place)))
    AND i.initprivs IS DISTINCT FROM f.has
  UNION ALL SELECT f.kind, f.name, f.oid, f.owner, b.attacl, '(' || b.attname::text || ')'
  FROM found f JOIN pg_catalog.pg_attribute b ON b.attrelid = f.oid
  WHERE f.kind = 'TABLE' AND b.attacl IS NOT NULL AND NOT b.attisdropped) AS f
LEFT JOIN LATERAL pg_catalog.aclexplode(f.acl) a ON a.grantee <> f.owner
LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
WHERE a.grantee IS NULL OR a.grantee = 0 OR r.oid IS NOT NULL
ORDER BY f.kind, f.name, 4, 5
"""
# What others have on it because a new object is given that: PostgreSQL's own defaults, and those of whoever may have made it.
_BY_DEFAULT = """
SELECT f.kind, f.name, pg_catalog.pg_has_role(f.owner, 'USAGE'),
  array(SELECT a.attname::text FROM pg_catalog.pg_attribute a
        WHERE f.kind = 'TABLE' AND a.attrelid = f.oid AND a.attnum > 0 AND NOT a.attisdropped),
  array(
    SELECT DISTINCT ARRAY[coalesce(r.rolname::text, ''), a.privilege_type]
    FROM (SELECT pg_catalog.acldefault(CASE f.type WHEN 'S' THEN 's' ELSE f.type END::"char", f.owner)
          UNION ALL SELECT d.defaclacl FROM pg_catalog.pg_default_acl d
          WHERE d.defaclobjtype = f.type::"char" AND d.defaclnamespace IN (0, f.place)
            AND d.defaclrole IN (f.owner, pg_catalog.to_regrole(pg_catalog.quote_ident(current_user)),
                                 pg_catalog.to_regrole(pg_catalog.quote_ident(session_user)))
    ) AS usual (acl) CROSS JOIN LATERAL pg_catalog.aclexplode(usual.acl) a
    JOIN pg_catalog.aclexplode(f.has) h ON h.grantee = a.grantee AND h.privilege_type = a.privilege_type
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
    WHERE a.grantee <> f.owner AND (a.grantee = 0 OR r.oid IS NOT NULL))
FROM found f WHERE f.kind = %(kind)s
"""
_EVERYTHING = """
SELECT 'RELATION', oid::bigint FROM pg_catalog.pg_class UNION ALL SELECT 'ROUTINE', oid::bigint FROM pg_catalog.pg_proc
UNION ALL SELECT 'TYPE', oid::bigint FROM pg_catalog.pg_type UNION ALL SELECT 'SCHEMA', oid::bigint FROM pg_catalog.pg_namespace
"""


@dataclass(frozen=True)
class Rights:
    """What others than the owner might do with one object. ``kind`` is the word of GRANT, ``name`` is quoted and qualified."""

    kind: str
    name: str
    grants: tuple[Grant, ...]

    @property
    def shown(self) -> str:
        """The object as people write it."""
        word = "" if self.kind == "TABLE" else f"{self.kind.lower()} "  # GRANT calls a view a table
        return f"{word}{self.name.removeprefix('public.')}"


def of(connection: Connection, oids: Iterable[int], *, but: Collection[int] = ()) -> tuple[Rights, ...]:
    """Those on these relations, routines, types and schemas, where anybody has said a word about them; not on the tables ``but``.

    Reads only.
    """
    found: dict[tuple[str, str], list[Grant]] = {}
    with pinned(connection, search_path=SYSTEM_PATH):
        for kind, name, oid, *grant in connection.exec_driver_sql(_BY_OID + _RECORDED, {"oids": list(oids)}):
            if kind == "TABLE" and oid in but:
                continue
            to, privilege, grantable = grant
            found.setdefault((kind, name), []).extend([(to, privilege, grantable)] if privilege else [])
    return tuple(Rights(kind, name, tuple(grants)) for (kind, name), grants in found.items())


def of_table(connection: Connection, oid: int) -> tuple[Grant, ...]:
    """Those on one table and its columns. Reads only."""
    return tuple(grant for one in of(connection, [oid]) if one.kind == "TABLE" for grant in one.grants)


def standing(connection: Connection, wanted: Collection[Rights]) -> dict[Rights, int]:
    """The OID of each of these objects that is there. Reads only."""
    if not wanted:
        return {}
    asked = _BY_NAME + "SELECT kind, name, oid::bigint FROM found"
    with pinned(connection, search_path=SYSTEM_PATH):
        names = {"names": sorted({one.name for one in wanted})}
        there = {(kind, name): oid for kind, name, oid in connection.exec_driver_sql(asked, names)}
    return {one: there[one.kind, one.name] for one in wanted if (one.kind, one.name) in there}


def everything(connection: Connection, wanted: Collection[Rights]) -> frozenset[tuple[str, int]]:
    """All that is there on which rights could be, be it called otherwise than any of these; nothing where none is wanted.

    Reads only.
    """
    return frozenset(tuple(row) for row in connection.exec_driver_sql(_EVERYTHING)) if wanted else frozenset()


def give_again(connection: Connection, wanted: Collection[Rights], before: frozenset[tuple[str, int]]) -> list[str]:
    """Give these on what was not among all that was there ``before``; gives a line for each that could not be given."""
    lines = []
    there = standing(connection, wanted)
    for one in wanted:
        catalog = "RELATION" if one.kind in ("TABLE", "SEQUENCE") else one.kind
        if one in there and (catalog, there[one]) not in before:
            lines += give(connection, one.kind, there[one], one.grants)
        elif one.grants:
            why = "was there before" if one in there else "is not there"
            lines.append(f"not given again: rights on {one.shown}, which {why}")
    return lines


def give(
    connection: Connection, kind: str, oid: int, wanted: Iterable[Grant], *,
    may: Callable[[str], bool] = lambda column: True, whole: bool = True,
) -> list[str]:  # fmt: skip
    """Give recorded rights on an object that the upgrade has made anew; gives a line for each that could not be given.

    What it has by default and had not before is taken from it, so that nobody may more than before; what the upgrade itself
    has granted stays. Of a table's columns those that ``may``; not ``whole``, only these.
    """
    with pinned(connection, search_path=SYSTEM_PATH):
        found = connection.exec_driver_sql(_BY_OID + _BY_DEFAULT, {"oids": [oid], "kind": kind}).first()
        if found is None:
            return []
        _, name, own, columns, usual = found
        shown = Rights(kind, name, ()).shown
        recorded = [(to, *_split(privilege), grantable) for to, privilege, grantable in wanted]
        recorded = [one for one in recorded if _known(connection, kind, one[1]) and (may(one[2]) if one[2] else whole)]
        if not own:
            return [f"not given again: rights on {shown}, which belongs to another role"] if recorded else []
        had = {(to, privilege) for to, privilege, column, _ in recorded if not column}
        for to, privilege in sorted({(to, privilege) for to, privilege in usual} - had) if whole else ():
            if _known(connection, kind, privilege):
                execute(connection, f"REVOKE {privilege} ON {kind} {name} FROM {_who(to)}")
        there = set(connection.exec_driver_sql("SELECT rolname::text FROM pg_catalog.pg_roles").scalars()) | {""}
        lines = []
        for to, privilege, column, grantable in recorded:
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


def _split(privilege: str) -> tuple[str, str]:
    """The privilege, and the column that it is on."""
    name, bracket, column = privilege.partition("(")
    return name, column[:-1] if bracket else ""


def _who(to: str) -> str:
    return identifier(to) if to else "PUBLIC"
