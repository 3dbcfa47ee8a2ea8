-- Three roles for one database, each with no more than it needs. Run it as a superuser, or as the database's creator with
-- CREATEROLE, connected to that database; on a new or an already migrated one, and safe to run again:
--
--   psql -X -v ON_ERROR_STOP=1 -d mcp_task_prod -f scripts/roles.sql
--   psql -X -v ON_ERROR_STOP=1 -d mcp_task_dev -v prefix=mcp_task_dev -f scripts/roles.sql
--
--   mcp_task_owner        owns everything, cannot log in
--   mcp_task_migrator     logs in to migrate, acts as the owner (history keeps its own name)
--   mcp_task_application  logs in to work: reads and writes rows, changes no table, sees nothing of the guard's but which
--                         revisions are applied (check_compatible)
--
-- Roles belong to the whole cluster: databases of several environments in one cluster need a prefix each, or the password
-- of one opens the other. Passwords are not set here: \password mcp_task_migrator, \password mcp_task_application.

\set ON_ERROR_STOP on
\if :{?prefix}
\else
  \set prefix mcp_task
\endif
\set owner :prefix _owner
\set migrator :prefix _migrator
\set application :prefix _application

BEGIN;

SELECT format('CREATE ROLE %I %s', name, login)
FROM (VALUES (:'owner', 'NOLOGIN'), (:'migrator', 'LOGIN'), (:'application', 'LOGIN')) AS wanted (name, login)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

GRANT :"owner" TO :"migrator";

-- To be told who is in the way, and not only that somebody is.
SELECT format('GRANT pg_read_all_stats TO %I, %I', :'owner', :'migrator')
WHERE (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
\gexec

-- What the migrator creates belongs to the owner, whoever migrates next year.
SELECT format('ALTER ROLE %I IN DATABASE %I SET role TO %L', :'migrator', current_database(), :'owner')
UNION ALL
SELECT format('ALTER DATABASE %I OWNER TO %I', current_database(), :'owner')
UNION ALL
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database())
UNION ALL
SELECT format('GRANT CONNECT ON DATABASE %I TO %I, %I', current_database(), :'migrator', :'application')
\gexec

ALTER SCHEMA public OWNER TO :"owner";
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO :"application";

-- The version is the migrator's; the application may read it, to know whether it fits.
CREATE TABLE IF NOT EXISTS public.alembic_version (
    version_num varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY
);
CREATE SCHEMA IF NOT EXISTS migration AUTHORIZATION :"owner";
ALTER SCHEMA migration OWNER TO :"owner";

-- What earlier runs made as somebody else. Sequences of columns and indexes follow their tables.
SELECT format('ALTER %s %I.%I OWNER TO %I',
              CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
              n.nspname, c.relname, :'owner')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('public', 'migration') AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
  AND c.relowner <> (SELECT oid FROM pg_roles WHERE rolname = :'owner')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                                            AND d.deptype IN ('e', 'a', 'i') AND c.relkind = 'S' OR
                                            d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
UNION ALL
SELECT format('ALTER TYPE %I.%I OWNER TO %I', n.nspname, t.typname, :'owner')
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname IN ('public', 'migration') AND t.typtype IN ('e', 'd', 'r')
  AND t.typowner <> (SELECT oid FROM pg_roles WHERE rolname = :'owner')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
UNION ALL
SELECT format('ALTER ROUTINE %I.%I(%s) OWNER TO %I', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid), :'owner')
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname IN ('public', 'migration')
  AND p.proowner <> (SELECT oid FROM pg_roles WHERE rolname = :'owner')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
\gexec

-- What is there, and what later revisions create, the application may use at once.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO :"application";
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO :"application";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"application";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public
    GRANT USAGE, SELECT ON SEQUENCES TO :"application";
-- Triggers write these as the owner, and nobody else does. Partitions have what the table has.
SELECT format('REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON %s FROM %I', oid::regclass, :'application')
FROM pg_class
WHERE oid IN (to_regclass('public.audit_logs'), to_regclass('public.threshold_changes'))
   OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass('public.audit_logs'))
\gexec
REVOKE ALL ON public.alembic_version FROM :"application";
GRANT SELECT ON public.alembic_version TO :"application";
-- On a new database the first run does this, for whoever may read the version.
SELECT format('GRANT USAGE ON SCHEMA migration TO %I; GRANT SELECT ON migration.revision TO %I', :'application', :'application')
WHERE to_regclass('migration.revision') IS NOT NULL
\gexec

COMMIT;
