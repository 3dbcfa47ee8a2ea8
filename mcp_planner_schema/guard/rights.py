"""What others than its owner may do with an object, as far as it differs from what they may with a new one: read and recorded.

It is given again by :mod:`.regrant`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, pinned

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

# usual is what such an object has without anybody's word. The rights of a composite type, and of the type of a table's rows,
# are on its row in pg_type; what happened to it shows on the one in pg_class.
_FOUND = """
WITH found AS (
  SELECT f.*, coalesce(f.acl, pg_catalog.acldefault(CASE f.type WHEN 'S' THEN 's' ELSE f.type END::"char", f.owner)) AS has
  FROM (
    SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, c.oid, 'pg_catalog.pg_class'::regclass AS class,
           pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name, c.relowner AS owner, c.relacl AS acl,
           c.relnamespace AS place, CASE c.relkind WHEN 'S' THEN 'S' ELSE 'r' END AS type, c.relrowsecurity AS secured
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {relation}
    UNION ALL SELECT 'ROUTINE', p.oid, 'pg_catalog.pg_proc'::regclass, p.oid::regprocedure::text, p.proowner, p.proacl,
           p.pronamespace, 'f', false
    FROM pg_catalog.pg_proc p WHERE {routine}
    UNION ALL SELECT 'TYPE', t.oid, 'pg_catalog.pg_type'::regclass, pg_catalog.format('%%I.%%I', n.nspname, t.typname),
           t.typowner, t.typacl, t.typnamespace, 'T', false
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE {type}
    UNION ALL SELECT 'SCHEMA', s.oid, 'pg_catalog.pg_namespace'::regclass, pg_catalog.quote_ident(s.nspname), s.nspowner,
           s.nspacl, 0, 'n', false
    FROM pg_catalog.pg_namespace s WHERE {schema}
  ) AS f
)
"""
BY_OID = _FOUND.format(
    relation="c.oid = ANY (%(oids)s::oid[])",
    routine="p.oid = ANY (%(oids)s::oid[])",
    type="(t.oid = ANY (%(oids)s::oid[]) OR t.typrelid = ANY (%(oids)s::oid[]))",
    schema="s.oid = ANY (%(oids)s::oid[])",
)
BY_NAME = _FOUND.format(
    relation="pg_catalog.format('%%I.%%I', n.nspname, c.relname) = ANY (%(names)s::text[])",
    routine="p.oid >= 16384 AND p.oid::regprocedure::text = ANY (%(names)s::text[])",
    type="pg_catalog.format('%%I.%%I', n.nspname, t.typname) = ANY (%(names)s::text[])",
    schema="pg_catalog.quote_ident(s.nspname) = ANY (%(names)s::text[])",
)
# What differs from what a new object has by default: PostgreSQL's own, or those of whoever may have made it. Beyond them is what
# everyone of these would not have given; lacking is what one of these would have. What came with an extension comes with it.
_RECORDED = """
, makers AS (
  SELECT DISTINCT f.oid, f.class, m.maker FROM found f CROSS JOIN LATERAL pg_catalog.unnest(ARRAY[f.owner,
    pg_catalog.to_regrole(pg_catalog.quote_ident(current_user))::oid,
    pg_catalog.to_regrole(pg_catalog.quote_ident(session_user))::oid]) AS m (maker)
), usual AS (
  SELECT f.oid, f.class, m.maker, a.grantee, a.privilege_type, a.is_grantable
  FROM found f JOIN makers m ON m.oid = f.oid AND m.class = f.class
  LEFT JOIN pg_catalog.pg_default_acl g ON g.defaclrole = m.maker AND g.defaclnamespace = 0 AND g.defaclobjtype = f.type::"char"
  LEFT JOIN pg_catalog.pg_default_acl d ON d.defaclrole = m.maker AND d.defaclnamespace = f.place AND f.place <> 0
    AND d.defaclobjtype = f.type::"char"
  CROSS JOIN LATERAL (
    SELECT * FROM pg_catalog.aclexplode(coalesce(g.defaclacl,
      pg_catalog.acldefault(CASE f.type WHEN 'S' THEN 's' ELSE f.type END::"char", m.maker)))
    UNION SELECT * FROM pg_catalog.aclexplode(d.defaclacl)) a
  WHERE a.grantee NOT IN (f.owner, m.maker)
), has AS (
  SELECT f.oid, f.class, a.grantee, a.privilege_type, a.is_grantable
  FROM found f CROSS JOIN LATERAL pg_catalog.aclexplode(f.has) a WHERE a.grantee <> f.owner
), differs AS (
  SELECT h.oid, h.class, false AS lacks, h.grantee, h.privilege_type, '' AS on_column, h.is_grantable FROM has h
  WHERE EXISTS (SELECT FROM makers m WHERE m.oid = h.oid AND m.class = h.class AND NOT EXISTS (
    SELECT FROM usual u WHERE u.oid = h.oid AND u.class = h.class AND u.maker = m.maker AND u.grantee = h.grantee
      AND u.privilege_type = h.privilege_type AND u.is_grantable = h.is_grantable))
  UNION ALL SELECT f.oid, f.class, false, a.grantee, a.privilege_type, '(' || b.attname::text || ')', a.is_grantable
  FROM found f JOIN pg_catalog.pg_attribute b ON b.attrelid = f.oid CROSS JOIN LATERAL pg_catalog.aclexplode(b.attacl) a
  WHERE f.kind = 'TABLE' AND NOT b.attisdropped AND a.grantee <> f.owner
  UNION SELECT u.oid, u.class, true, u.grantee, u.privilege_type, '', coalesce(pg_catalog.bool_or(h.grantee IS NOT NULL), false)
  FROM usual u LEFT JOIN has h ON h.oid = u.oid AND h.class = u.class AND h.grantee = u.grantee
    AND h.privilege_type = u.privilege_type
  GROUP BY 1, 2, 3, 4, 5
  HAVING NOT coalesce(pg_catalog.bool_or(h.is_grantable), false)
    AND (pg_catalog.bool_or(u.is_grantable) OR coalesce(pg_catalog.bool_and(h.grantee IS NULL), true))
)
SELECT f.kind, f.name, d.lacks, CASE d.grantee WHEN 0 THEN '' ELSE r.rolname::text END, d.privilege_type || d.on_column,
       d.is_grantable
FROM differs d JOIN found f ON f.oid = d.oid AND f.class = d.class LEFT JOIN pg_catalog.pg_roles r ON r.oid = d.grantee
LEFT JOIN pg_catalog.pg_init_privs i ON i.classoid = f.class AND i.objoid = f.oid AND i.objsubid = 0
WHERE (d.grantee = 0 OR r.oid IS NOT NULL) AND i.initprivs IS DISTINCT FROM f.has
  AND (f.acl IS NOT NULL OR NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                                        WHERE e.classid = f.class AND e.objid = f.oid AND e.deptype = 'e'))
ORDER BY 1, 2, 3, 4, 5
"""
# Those that whoever migrates would not own, or whose rows are not for everyone who may read it.
_ABOUT = """
SELECT f.kind, f.name, pg_catalog.pg_get_userbyid(f.owner)::text, f.secured, f.secured OR (
  pg_catalog.pg_get_userbyid(f.owner) NOT IN (current_user, session_user)
  AND (f.kind <> 'TYPE' OR NOT EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.oid = f.oid AND t.typrelid <> 0))
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                  WHERE e.classid = f.class AND e.objid = f.oid AND e.deptype IN ('e', 'a', 'i')))
FROM found f
"""


@dataclass(frozen=True)
class Rights:
    """How what others than the owner might do with one object differed from what they may with a new one.

    ``kind`` is the word of GRANT, ``name`` is quoted and qualified. ``grants`` they had beyond that; ``lacks`` they had not:
    somebody has taken it from them, or it is the default only since. A grantable one of these lacks the grant option only.
    ``secured``: row level security was on.
    """

    kind: str
    name: str
    grants: tuple[Grant, ...]
    lacks: tuple[Grant, ...] = ()
    owner: str = ""
    secured: bool = False

    @property
    def shown(self) -> str:
        """The object as people write it."""
        word = "" if self.kind == "TABLE" else f"{self.kind.lower()} "  # GRANT calls a view a table
        return f"{word}{self.name.removeprefix('public.')}"


def of(connection: Connection, oids: Iterable[int]) -> tuple[Rights, ...]:
    """Those on these relations, routines, types and schemas, where they differ from the usual. Reads only."""
    found: dict[tuple[str, str], tuple[list[Grant], list[Grant]]] = {}
    with pinned(connection, search_path=SYSTEM_PATH):
        which = {"oids": list(oids)}
        about = {(kind, name): rest for kind, name, *rest in connection.exec_driver_sql(BY_OID + _ABOUT, which)}
        found |= {key: ([], []) for key, (_, _, notable) in about.items() if notable}
        rows = connection.exec_driver_sql(BY_OID + _RECORDED, which)
        for kind, name, lacks, *grant in rows:
            to, privilege, grantable = grant
            found.setdefault((kind, name), ([], []))[lacks].append((to, privilege, grantable))
    return tuple(Rights(*key, tuple(has), tuple(lacks), *about[key][:2]) for key, (has, lacks) in sorted(found.items()))


def standing(connection: Connection, wanted: Collection[Rights]) -> dict[Rights, int]:
    """The OID of each of these objects that is there. Reads only."""
    if not wanted:
        return {}
    asked = BY_NAME + "SELECT kind, name, oid::bigint FROM found"
    with pinned(connection, search_path=SYSTEM_PATH):
        names = {"names": sorted({one.name for one in wanted})}
        there = {(kind, name): oid for kind, name, oid in connection.exec_driver_sql(asked, names)}
    return {one: there[one.kind, one.name] for one in wanted if (one.kind, one.name) in there}


def of_table(connection: Connection, oid: int) -> Rights:
    """Those on one table and its columns. Reads only."""
    return next((one for one in of(connection, [oid]) if one.kind == "TABLE"), Rights("TABLE", "", ()))


def on_columns(grants: Iterable[Grant], columns: Collection[str]) -> tuple[Grant, ...]:
    """Those of a table's that are on one of these columns."""
    return tuple(grant for grant in grants if split(grant[1])[1] in columns)


def split(privilege: str) -> tuple[str, str]:
    """The privilege, and the column that it is on."""
    name, bracket, column = privilege.partition("(")
    return name, column[:-1] if bracket else ""
