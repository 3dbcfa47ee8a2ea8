"""Empties a development database: what the revisions made goes, the schemas and their grants stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_planner_schema.guard import banner, deploy_lock, settings
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.saying import say
from mcp_planner_schema.inspect import status

if TYPE_CHECKING:
    from alembic.config import Config

# Everything in the two schemas that no extension owns. A table's own indexes, sequences and row types go with it.
_OBJECTS = """
SELECT pg_catalog.format('DROP %%s IF EXISTS %%s CASCADE', found.kind, found.name)
FROM (
  SELECT 1 AS place, c.tableoid, c.oid, n.nspname::text AS schema,
         CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                        WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END AS kind,
         pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
  UNION ALL
  SELECT 2, p.tableoid, p.oid, n.nspname::text, 'ROUTINE',
         pg_catalog.format('%%I.%%I(%%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid))
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  UNION ALL
  SELECT 3, t.tableoid, t.oid, n.nspname::text, 'TYPE', pg_catalog.format('%%I.%%I', n.nspname, t.typname)
  FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  WHERE t.typtype IN ('e', 'd', 'r')
) AS found
WHERE found.schema IN ('public', %(schema)s) AND found.name <> 'public.alembic_version'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = found.tableoid AND d.objid = found.oid AND d.deptype = 'e')
ORDER BY found.place, found.kind <> 'TABLE'
"""
# What downgrades have kept: the numbers begin anew, and each stash needs a schema of its own.
_STASHES = """
SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_namespace n WHERE n.nspname ~ %s ORDER BY 1
"""


def refuse_what_cannot_be_built(config: Config) -> None:
    """Judge and import every revision before anything is dropped. Raises :class:`Refused` or :class:`Broken`."""
    from alembic.script import ScriptDirectory

    from mcp_planner_schema.guard import judge
    from mcp_planner_schema.guard.findings import refuse
    from mcp_planner_schema.inspect import route

    given = settings.load(config)
    with route.history(config, given, ()) as script:
        list(script.walk_revisions())
    judged = judge.judge_all(ScriptDirectory.from_config(config), given)
    refuse([finding for one in judged for finding in one.findings], "make migrate-validate")


def drop_everything(config: Config) -> None:
    """Drop what is in ``public``, in the guard's schema and in its stashes, and forget the version.

    One transaction, under the lock.

    Raises :class:`WrongUse` unless somebody has said that this is a development database, or it is the embedded one.
    """
    given = settings.load(config)
    if not given.rules.resets and given.said:
        raise WrongUse(
            f"There is no reset in {given.environment}: it destroys everything in the database.",
            "make migrate-down TO=… DRY_RUN=1   (what going back would take)",
        )
    if not given.disposable:
        raise WrongUse(
            f"A reset destroys everything in the database, and nobody has said that this one may be destroyed "
            f"(it counts as {given.environment}).",
            "PLANNER_ENV=development make migrate-reset   (if it really is one; a tunnel looks like this machine)",
        )
    with status.connected(config) as (asking, _):
        banner.compared(config, asking, given, changes=True)
        engine = asking.engine
    lock = deploy_lock.key("alembic_version", None)
    with (
        deploy_lock.held(engine, lock, given.deploy_lock_timeout, say, "make migrate-reset"),
        engine.begin() as connection,
    ):
        connection.exec_driver_sql("SET LOCAL lock_timeout = '10s'")
        connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
        for (statement,) in connection.exec_driver_sql(_OBJECTS, {"schema": given.schema}).all():
            connection.exec_driver_sql(statement)
        for (schema,) in connection.exec_driver_sql(_STASHES, (f"^{given.schema}_stash_[0-9]+$",)).all():
            connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
        if connection.exec_driver_sql("SELECT to_regclass('public.alembic_version') IS NOT NULL").scalar_one():
            connection.exec_driver_sql("DELETE FROM public.alembic_version")
        say(f"dropped everything in {engine.url.database}")
