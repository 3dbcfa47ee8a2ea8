"""Functions and triggers as files: ``alembic/sql/<revision>/<name>.sql``, one object each.

A revision lists them in a literal, and nothing else of them stands in it::

    sql_files = ["011/touch_updated_at.sql", "011/steps_90_touch_updated_at.sql"]

    def upgrade() -> None:
        sql.apply(sql_files)

    def downgrade() -> None:
        sql.revert(sql_files)

A file is never edited once it is released: its text is part of the revision's checksum. What changes is written anew as a
file of the same name in the new revision's folder; going back runs the file before it, of the nearest earlier revision. A
name of an earlier revision's folder in the list is a file whose object goes: ``sql.remove`` up, ``sql.apply`` down.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alembic import op
from alembic.util import CommandError

from mcp_planner_schema.guard import plan, sql_file
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.postcheck import do_block, execute, literal
from mcp_planner_schema.guard.sql_file import SqlFile, Unusable

# A routine that is dropped and made anew gets its owner and privileges back. A DO block and no query, so that --sql can
# write it down; what it has seen is kept in a setting of the transaction.
_KEEP = """
BEGIN
  PERFORM pg_catalog.set_config('mcp_planner.routines', (
    SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('oid', p.oid::pg_catalog.int8,
             'owner', p.proowner::pg_catalog.int8, 'acl', p.proacl::pg_catalog.text)), '[]')::pg_catalog.text
    FROM pg_catalog.pg_proc p WHERE p.proname OPERATOR(pg_catalog.=) {name}), true);
END
"""
_GIVE_BACK = """
DECLARE
  kept pg_catalog.jsonb := pg_catalog.current_setting('mcp_planner.routines');
  gone record;
  made record;
  one record;
BEGIN
  SELECT (k->>'owner')::pg_catalog.int8::pg_catalog.oid AS owner, (k->>'acl')::pg_catalog.aclitem[] AS acl INTO gone
  FROM pg_catalog.jsonb_array_elements(kept) AS k
  WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.oid = (k->>'oid')::pg_catalog.int8::pg_catalog.oid);
  SELECT p.oid, p.proowner AS owner, p.proacl AS acl, pg_catalog.format('%I.%I(%s)', n.nspname, p.proname,
         pg_catalog.pg_get_function_identity_arguments(p.oid)) AS name INTO made
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  WHERE p.proname OPERATOR(pg_catalog.=) {name} AND NOT EXISTS (
    SELECT FROM pg_catalog.jsonb_array_elements(kept) AS k WHERE p.oid = (k->>'oid')::pg_catalog.int8::pg_catalog.oid);
  IF gone.owner IS NULL OR made.oid IS NULL THEN
    RETURN;
  END IF;
  IF made.owner <> gone.owner THEN
    EXECUTE pg_catalog.format('ALTER ROUTINE %s OWNER TO %I', made.name, pg_catalog.pg_get_userbyid(gone.owner));
    SELECT p.proacl INTO made.acl FROM pg_catalog.pg_proc p WHERE p.oid = made.oid;
  END IF;
  IF made.acl IS DISTINCT FROM gone.acl THEN
    FOR one IN SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC'
                 ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(grantee)) END AS role
               FROM pg_catalog.aclexplode(coalesce(made.acl, pg_catalog.acldefault('f', gone.owner))) LOOP
      EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM %s', made.name, one.role);
    END LOOP;
    FOR one IN SELECT CASE grantee WHEN 0 THEN 'PUBLIC'
                        ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(grantee)) END AS role,
                      CASE WHEN is_grantable AND grantee <> gone.owner THEN ' WITH GRANT OPTION' ELSE '' END AS more
               FROM pg_catalog.aclexplode(coalesce(gone.acl, pg_catalog.acldefault('f', gone.owner))) LOOP
      EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO %s%s', made.name, one.role, one.more);
    END LOOP;
  END IF;
END
"""


def apply(names: Sequence[str]) -> None:
    """Create what each file holds, in the order given, within the step's transaction.

    Where an earlier revision has a file of the same name, this one replaces it: in place, or, where PostgreSQL cannot
    (other arguments, other result, another table), by dropping that first; owner and privileges of a function stay. Raises
    :class:`Refused`, the transaction then to be rolled back.
    """
    for name in names:
        _replace(_before(name), _read(name))


def revert(names: Sequence[str]) -> None:
    """Undo :func:`apply`, in reverse order: bring back the file before each, or drop what had none before."""
    for name in reversed(names):
        new, old = _read(name), _before(name)
        if old:
            _replace(new, old)
        else:
            _run(new.drop + ";")


def remove(names: Sequence[str]) -> None:
    """Drop what the files created, in reverse order; the downgrade is ``sql.apply`` of the same names.

    Owner and privileges that were given by hand go with a function, and do not come back.
    """
    for name in reversed(names):
        _run(_read(name).drop + ";")


def _replace(there: SqlFile | None, wanted: SqlFile) -> None:
    if there is None or (there.shape == wanted.shape and wanted.replaces):
        _run(wanted.text)
        return
    both = bool(there.routine) and there.routine == wanted.routine
    if both:
        _run(do_block(_KEEP.replace("{name}", literal(there.routine))) + ";")
    _run(there.drop_if_exists() + ";")  # a revision between may have removed it
    _run(wanted.text)
    if both:
        _run(do_block(_GIVE_BACK.replace("{name}", literal(wanted.routine))) + ";")


def _script() -> Any:
    environment = op.get_context().environment_context
    assert environment is not None, "only an env.py runs revisions"
    return environment.script


def _read(name: str) -> SqlFile:
    """The file, of a revision that names it: what none names is in nobody's checksum."""
    try:
        if not sql_file.NAME.fullmatch(name) or name not in _named(_script(), name.partition("/")[0]):
            raise Unusable(f"the revision {name.partition('/')[0]} does not name it in sql_files")
        return sql_file.read(Path(_script().dir) / "sql", name)
    except Unusable as error:
        environment: Any = op.get_context().environment_context
        finding = Finding("sql-file-unusable", f"sql/{name}:1", "", {"file": name, "problem": str(error)})
        raise Refused([finding], f"correct what it names, then {plan.repeat_of(environment)}") from error


def _named(script: Any, revision: str) -> Sequence[str]:
    try:
        found = script.get_revision(revision)
    except CommandError:
        found = None
    return getattr(found.module, "sql_files", ()) if found and found.revision == revision else ()


def _before(name: str) -> SqlFile | None:
    """The file of the same name that the nearest ancestor of the file's revision has, unless one between removed it."""
    revision, _, file = name.partition("/")
    script = _script()
    for ancestor in script.iterate_revisions(revision, "base") if _named(script, revision) else ():
        named = [other for other in getattr(ancestor.module, "sql_files", ()) if other.endswith(f"/{file}")]
        if f"{ancestor.revision}/{file}" in named and ancestor.revision != revision:
            return _read(f"{ancestor.revision}/{file}")
        if named and ancestor.revision != revision:
            return None
    return None


def _run(text: str) -> None:
    context = op.get_context()
    if context.as_sql:
        context.impl.static_output(text.rstrip("\n"))
    else:
        assert context.connection is not None, "online there is a connection"
        execute(context.connection, text)
