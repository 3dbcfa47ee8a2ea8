CREATE OR REPLACE TRIGGER tasks_45_audit_insert
AFTER INSERT ON public.tasks
REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT
EXECUTE FUNCTION public.write_audit_log();

COMMENT ON TRIGGER tasks_45_audit_insert ON public.tasks IS
'Each new row is logged.';
