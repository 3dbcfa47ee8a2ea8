"""Rights on what a downgrade takes away: recorded, and given again on what the upgrade makes anew.

No text of the record is run: a name is looked up in the catalog, a privilege is one of those known here, and a role is quoted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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

# A composite type's rights are on its row in pg_type, and what happened to it shows on the one in pg_class.
_FOUND = """
WITH found AS (
  SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
         pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name, c.oid, c.relowner AS owner, c.relacl AS acl,
         c.relnamespace AS place, CASE c.relkind WHEN 'S' THEN 'S' ELSE 'r' END AS type
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE c.oid = ANY (%(oids)s::oid[]) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  UNION ALL SELECT 'ROUTINE', p.oid::regprocedure::text, p.oid, p.proowner, p.proacl, p.pronamespace, 'f'
  FROM pg_catalog.pg_proc p WHERE p.oid = ANY (%(oids)s::oid[])
  UNION ALL SELECT 'TYPE', pg_catalog.format('%%I.%%I', n.nspname, t.typname), t.oid, t.typowner, t.typacl, t.typnamespace, 'T'
  FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  WHERE (t.oid = ANY (%(oids)s::oid[]) OR t.typrelid = ANY (%(oids)s::oid[]))
  UNION ALL SELECT 'SCHEMA', pg_catalog.quote_ident(s.nspname), s.oid, s.nspowner, s.nspacl, 0, 'n'
  FROM pg_catalog.pg_namespace s WHERE s.oid = ANY (%(oids)s::oid[])
)
"""
_RECORDED = (
    _FOUND
    + """
SELECT f.kind, f.name, CASE a.grantee WHEN 0 THEN '' ELSE r.rolname::text END, a.privilege_type || f.on_column, a.is_grantable
FROM (SELECT kind, name, owner, acl, '' AS on_column FROM found WHERE acl IS NOT NULL
      UNION ALL SELECT f.kind, f.name, f.owner, b.attacl, '(' || b.attname::text || ')'
      FROM found f JOIN pg_catalog.pg_attribute b ON b.attrelid = f.oid
      WHERE f.kind = 'TABLE' AND b.attacl IS NOT NULL AND NOT b.attisdropped) AS f
LEFT JOIN LATERAL pg_catalog.aclexplode(f.acl) a ON a.grantee <> f.owner
LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
WHERE a.grantee IS NULL OR a.grantee = 0 OR r.oid IS NOT NULL
ORDER BY 1, 2, 3, 4
"""
)
# What others have because a new object of that kind is given it, not because somebody has said so.
_BY_DEFAULT = (
    _FOUND
    + """
SELECT f.kind, f.name, pg_catalog.pg_has_role(f.owner, 'USAGE'), coalesce(given.rights, '{{}}')
FROM found f CROSS JOIN LATERAL (
  SELECT pg_catalog.array_agg(ARRAY[coalesce(r.rolname::text, ''), a.privilege_type]) AS rights
  FROM (SELECT coalesce((SELECT d.defaclacl FROM pg_catalog.pg_default_acl d
                         WHERE d.defaclrole = f.owner AND d.defaclnamespace = 0 AND d.defaclobjtype = f.type::"char"),
                        pg_catalog.acldefault(CASE f.type WHEN 'S' THEN 's' ELSE f.type END::"char", f.owner))
        UNION ALL SELECT d.defaclacl FROM pg_catalog.pg_default_acl d
        WHERE d.defaclrole = f.owner AND d.defaclnamespace = f.place AND f.place <> 0 AND d.defaclobjtype = f.type::"char"
  ) AS usual (acl) CROSS JOIN LATERAL pg_catalog.aclexplode(usual.acl) a
  LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
  WHERE a.grantee <> f.owner AND (a.grantee = 0 OR r.oid IS NOT NULL) AND EXISTS (
    SELECT FROM pg_catalog.aclexplode(coalesce(f.acl, usual.acl)) h
    WHERE h.grantee = a.grantee AND h.privilege_type = a.privilege_type)
) AS given
"""
)
_OID = {
    "TABLE": "pg_catalog.to_regclass",
    "SEQUENCE": "pg_catalog.to_regclass",
    "ROUTINE": "pg_catalog.to_regprocedure",
    "TYPE": "pg_catalog.to_regtype",
    "SCHEMA": "pg_catalog.to_regnamespace",
}


@dataclass(frozen=True)
class Rights:
    """What others than the owner might do with one object. ``kind`` is the word of GRANT, ``name`` is quoted and qualified."""

    kind: str
    name: str
    grants: tuple[Grant, ...]

    @property
    def shown(self) -> str:
        """The object as people write it."""
        return f"{self.kind.lower()} {self.name.removeprefix('public.')}"


def of(connection: Connection, oids: Iterable[int]) -> tuple[Rights, ...]:
    """Those recorded in the catalog for these relations, routines, types and schemas; one whose rights are the usual is left out.

    Reads only.
    """
    found: dict[tuple[str, str], list[Grant]] = {}
    with pinned(connection, search_path=SYSTEM_PATH):
        for kind, name, *grant in connection.exec_driver_sql(_RECORDED, {"oids": list(oids)}):
            to, privilege, grantable = grant
            found.setdefault((kind, name), []).extend([(to, privilege, grantable)] if privilege else [])
    return tuple(Rights(kind, name, tuple(grants)) for (kind, name), grants in found.items())


def of_table(connection: Connection, oid: int) -> tuple[Grant, ...]:
    """Those on one table and its columns. Reads only."""
    return tuple(grant for one in of(connection, [oid]) for grant in one.grants)


def standing(connection: Connection, wanted: Iterable[Rights]) -> dict[Rights, int]:
    """The OID of each of these objects that is there. Reads only."""
    found: dict[Rights, int] = {}
    with pinned(connection, search_path=SYSTEM_PATH):
        for one in wanted:
            if one.kind not in _OID:
                continue
            asked = f"SELECT {_OID[one.kind]}(%s)::oid::bigint"
            oid = connection.exec_driver_sql(asked, (one.name,)).scalar()
            if oid is not None:
                found[one] = oid
    return found


def give(
    connection: Connection, oid: int, wanted: Iterable[Grant], *, may: Callable[[str], bool] = lambda column: True,
    whole: bool = True,
) -> list[str]:  # fmt: skip
    """Give recorded rights on an object that the upgrade has made anew; gives a line for each that could not be given.

    What it has by default and had not before is taken from it, so that nobody may more than before; what the upgrade itself
    has granted stays. Of a table's columns those that ``may``; not ``whole``, only these.
    """
    with pinned(connection, search_path=SYSTEM_PATH):
        found = connection.exec_driver_sql(_BY_DEFAULT, {"oids": [oid]}).first()
    if found is None:
        return []
    kind, name, own, usual = found
    shown = Rights(kind, name, ()).shown
    recorded = [(to, *_split(privilege), grantable) for to, privilege, grantable in wanted]
    recorded = [one for one in recorded if one[1] in PRIVILEGES[kind] and (may(one[2]) if one[2] else whole)]
    if not own:
        return [f"not given again: rights on {shown}, which belongs to another role"] if recorded else []
    there = set(connection.exec_driver_sql("SELECT rolname::text FROM pg_catalog.pg_roles").scalars()) | {""}
    had = {(to, privilege) for to, privilege, column, _ in recorded if not column}
    for to, privilege in sorted({(to, privilege) for to, privilege in usual} - had) if whole else ():
        if privilege in PRIVILEGES[kind]:
            execute(connection, f"REVOKE {privilege} ON {kind} {name} FROM {_who(to)}")
    lines = []
    for to, privilege, column, grantable in recorded:
        if to not in there:
            lines.append(f"not given again: {privilege} on {shown} to {to}: there is no such role")
            continue
        on = f"{privilege} ({identifier(column)})" if column else privilege
        more = " WITH GRANT OPTION" if grantable else ""
        execute(connection, f"GRANT {on} ON {kind} {name} TO {_who(to)}{more}")
    return lines


def _split(privilege: str) -> tuple[str, str]:
    """The privilege, and the column that it is on."""
    name, bracket, column = privilege.partition("(")
    return name, column[:-1] if bracket else ""


def _who(to: str) -> str:
    return identifier(to) if to else "PUBLIC"
