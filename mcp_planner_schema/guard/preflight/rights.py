"""What the role may do: it owns what the pending revisions change, creates where they create, and has their extensions.

A superuser may do everything, and a member of the owner counts as the owner: that is how PostgreSQL itself decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mcp_planner_schema.guard.postcheck import identifier
from mcp_planner_schema.guard.preflight.asked import Found, Here, Question, columns, found
from mcp_planner_schema.guard.preflight.pending import Name, Pending, parts

_OWNED = {"view", "sequence", "statistics"}
"""Kinds of lines, besides those of tables, that only an owner changes or drops. Functions are found by their arguments."""

_WEAK = ("ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE")
"""Locks that rows are read and written under."""

_TOUCHED = ("changed_names", "changed_functions", "changed_types", "referenced_names", "in_schemas")

# A referenced table, and one that gets a trigger, is locked in this mode by who owns it as little as by who may.
_REFERENCED = "SHARE ROW EXCLUSIVE"

_OWNERS = """
SELECT pg_catalog.json_build_object('role', current_user,
  'owners', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(o.kind, o.shown, r.rolname) ORDER BY 1, 2) FROM (
    SELECT CASE WHEN c.relkind IN ('r', 'p') THEN 'table' WHEN c.relkind = 'S' THEN 'sequence' ELSE 'view' END,
           CASE WHEN n.nspname = 'public' THEN pg_catalog.quote_ident(c.relname)
                ELSE pg_catalog.format('%%I.%%I', n.nspname, c.relname) END, c.relowner
    FROM ROWS FROM (pg_catalog.unnest(%(changed_schemas)s::text[]),
                    pg_catalog.unnest(%(changed_names)s::text[])) AS w (schema, name)
    JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema::name
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name::name
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    UNION ALL
    SELECT 'function', p.oid::regprocedure::text, p.proowner
    FROM pg_catalog.unnest(%(changed_functions)s::text[]) AS w (name)
    JOIN pg_catalog.pg_proc p ON p.oid = pg_catalog.to_regprocedure(w.name)
    UNION ALL
    SELECT 'type', t.oid::regtype::text, t.typowner
    FROM pg_catalog.unnest(%(changed_types)s::text[]) AS w (name)
    JOIN pg_catalog.pg_type t ON t.oid = pg_catalog.to_regtype(w.name)) AS o (kind, shown, owner)
    JOIN pg_catalog.pg_roles r ON r.oid = o.owner
    WHERE NOT pg_catalog.pg_has_role(o.owner, 'USAGE')),
  'referenced', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
                          CASE WHEN n.nspname = 'public' THEN pg_catalog.quote_ident(c.relname)
                               ELSE pg_catalog.format('%%I.%%I', n.nspname, c.relname) END, r.rolname) ORDER BY 1)
    FROM ROWS FROM (pg_catalog.unnest(%(referenced_schemas)s::text[]),
                    pg_catalog.unnest(%(referenced_names)s::text[])) AS w (schema, name)
    JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema::name
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name::name
    JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
    WHERE NOT pg_catalog.has_table_privilege(c.oid, 'REFERENCES, TRIGGER')),
  'schemas', (SELECT pg_catalog.json_agg(pg_catalog.quote_ident(n.nspname) ORDER BY 1)
    FROM pg_catalog.unnest(%(in_schemas)s::text[]) AS w (schema)
    JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema::name
    WHERE NOT pg_catalog.has_schema_privilege(n.oid, 'CREATE')))
"""
_DATABASE = """
SELECT pg_catalog.json_build_array(current_user, pg_catalog.quote_ident(pg_catalog.current_database()), (
  SELECT pg_catalog.json_agg(pg_catalog.quote_ident(w.schema) ORDER BY 1)
  FROM pg_catalog.unnest(%(new_schemas)s::text[]) AS w (schema)
  WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = w.schema::name)))
"""
_EXTENSIONS = """
SELECT pg_catalog.json_build_object('role', current_user, 'found', pg_catalog.json_agg(pg_catalog.json_build_array(
         w.name, v.name IS NOT NULL,
         (SELECT pg_catalog.min(q.name) FROM pg_catalog.unnest(v.requires) AS q (name)
          WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_available_extensions a WHERE a.name = q.name)),
         NOT v.superuser OR r.rolsuper, v.trusted,
         pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')) ORDER BY w.name))
FROM pg_catalog.unnest(%(extensions)s::text[]) AS w (name)
JOIN pg_catalog.pg_roles r ON r.rolname = current_user
LEFT JOIN pg_catalog.pg_available_extensions a ON a.name = w.name::name
LEFT JOIN pg_catalog.pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE e.extname = w.name::name)
"""


def values(steps: Iterable[Pending], schema: str) -> dict[str, Any]:
    """The names that the questions are about, as their parameters."""
    changed: set[Name] = set()
    referenced: set[Name] = set()
    functions, types, extensions, places = set[str](), set[str](), set[str](), set[str]()
    new = {schema}
    for step in steps:
        extensions |= step.extensions
        for name, mode in step.locks.items():
            if name in step.changed or mode not in (*_WEAK, _REFERENCED):
                changed.add(name)
            elif mode == _REFERENCED:
                referenced.add(name)
        changed |= step.changed
        for line in (*step.gone, *step.come):
            if line.kind in _OWNED and not line.identity.startswith("owned "):
                changed.add(Name(*parts(line.identity)[:2]))
            elif line.kind == "function":
                functions.add(line.identity)
            elif line.kind == "type":
                types.add(line.identity)
        for line in step.come:
            if line.kind == "schema":
                new.add(parts(line.identity)[0])
            elif line.kind in ("table", "view", "index", "function", "type", "sequence", "statistics"):
                places.add(parts(line.identity.removeprefix("owned "))[0])
    changed_schemas, changed_names = columns(changed)
    referenced_schemas, referenced_names = columns(referenced - changed)
    return {
        "changed_schemas": changed_schemas, "changed_names": changed_names, "changed_functions": sorted(functions),
        "changed_types": sorted(types), "referenced_schemas": referenced_schemas, "referenced_names": referenced_names,
        "in_schemas": sorted(places), "new_schemas": sorted(new), "extensions": sorted(extensions),
    }  # fmt: skip


def _owners(told: Any, here: Here) -> Iterator[Found]:
    role = told["role"]
    for kind, shown, owner in told["owners"] or ():
        instead = f"GRANT {identifier(owner)} TO {identifier(role)}, or ALTER {kind.upper()} {shown} OWNER TO {identifier(role)}"
        yield found("owner-missing", shown, what=f"the {kind} {shown}", owner=owner, role=role, instead=instead)
    for shown, owner in told["referenced"] or ():
        instead = f"GRANT REFERENCES ON {shown} TO {identifier(role)} (for a trigger: TRIGGER)"
        yield found("owner-missing", shown, what=f"the table {shown}", owner=owner, role=role, instead=instead)
    for schema in told["schemas"] or ():
        yield found(
            "create-denied", schema, role=role, place=f"the schema {schema}", object=f"SCHEMA {schema}",
            needed="a pending revision puts something new there",
        )  # fmt: skip


def _database(told: Any, here: Here) -> Iterator[Found]:
    role, database, schemas = told
    if schemas:
        yield found(
            "create-denied", database, role=role, place=f"the database {database}", object=f"DATABASE {database}",
            needed=f"the schema {', '.join(schemas)} is to be made",
        )  # fmt: skip


def _extensions(told: Any, here: Here) -> Iterator[Found]:
    for name, available, lacking, superuser, trusted, create in told["found"] or ():
        if not available or lacking:
            yield found("extension-missing", name, name=lacking or name)
        elif not superuser and not (trusted and create):
            problem = "it takes the right to create in the database" if trusted else "it takes a superuser"
            yield found("extension-denied", name, role=told["role"], name=name, problem=problem)


QUESTIONS = (
    Question(
        "owners and rights", ("owner-missing", "create-denied"),
        lambda here: _OWNERS if any(here.values[name] for name in _TOUCHED) else None, _owners,
    ),
    Question(
        "the right to make schemas", ("create-denied",), lambda here: _DATABASE, _database,
        "NOT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')",
    ),
    Question(
        "extensions", ("extension-missing", "extension-denied"),
        lambda here: _EXTENSIONS if here.values["extensions"] else None, _extensions,
    ),
)  # fmt: skip
