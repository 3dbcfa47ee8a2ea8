CREATE OR REPLACE TRIGGER projects_45_audit_truncate
BEFORE TRUNCATE ON public.projects
FOR EACH STATEMENT
EXECUTE FUNCTION public.write_audit_log();

COMMENT ON TRIGGER projects_45_audit_truncate ON public.projects IS
'Truncation logs each row as deleted; with CASCADE too.';
