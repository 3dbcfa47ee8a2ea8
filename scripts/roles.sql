-- Three roles for one database, each with no more than it needs. Run once, as a superuser or the database's creator,
-- connected to that database; safe to run again:
--
--   psql -X -v ON_ERROR_STOP=1 -d mcp_task_prod -f scripts/roles.sql
--
--   mcp_task_owner        owns everything, cannot log in
--   mcp_task_migrator     logs in to migrate, acts as the owner (history keeps its own name)
--   mcp_task_application  logs in to work: reads and writes rows, changes no table, sees nothing of the guard's
--
-- Passwords are not set here: \password mcp_task_migrator, \password mcp_task_application.

BEGIN;

SELECT format('CREATE ROLE %I NOLOGIN', name)
FROM unnest(ARRAY['mcp_task_owner']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
UNION ALL
SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY['mcp_task_migrator', 'mcp_task_application']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

GRANT mcp_task_owner TO mcp_task_migrator;

-- What the migrator creates belongs to the owner, whoever migrates next year.
SELECT format('ALTER ROLE mcp_task_migrator IN DATABASE %I SET role TO mcp_task_owner', current_database())
UNION ALL
SELECT format('ALTER DATABASE %I OWNER TO mcp_task_owner', current_database())
UNION ALL
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database())
UNION ALL
SELECT format('GRANT CONNECT ON DATABASE %I TO mcp_task_migrator, mcp_task_application', current_database())
\gexec

ALTER SCHEMA public OWNER TO mcp_task_owner;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO mcp_task_application;

CREATE SCHEMA IF NOT EXISTS migration AUTHORIZATION mcp_task_owner;

-- The version is the migrator's; the application may read it, to know whether it fits.
CREATE TABLE IF NOT EXISTS public.alembic_version (
    version_num varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY
);
ALTER TABLE public.alembic_version OWNER TO mcp_task_owner;
REVOKE ALL ON public.alembic_version FROM mcp_task_application;
GRANT SELECT ON public.alembic_version TO mcp_task_application;

-- What later revisions create, the application may use at once.
ALTER DEFAULT PRIVILEGES FOR ROLE mcp_task_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO mcp_task_application;
ALTER DEFAULT PRIVILEGES FOR ROLE mcp_task_owner IN SCHEMA public
    GRANT USAGE, SELECT ON SEQUENCES TO mcp_task_application;

COMMIT;
