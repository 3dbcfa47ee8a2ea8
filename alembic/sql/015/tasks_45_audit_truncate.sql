CREATE OR REPLACE TRIGGER tasks_45_audit_truncate
BEFORE TRUNCATE ON public.tasks
FOR EACH STATEMENT
EXECUTE FUNCTION public.write_audit_log();

COMMENT ON TRIGGER tasks_45_audit_truncate ON public.tasks IS
'Truncation logs each row as deleted; with CASCADE too.';
