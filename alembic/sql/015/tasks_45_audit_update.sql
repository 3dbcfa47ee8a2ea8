CREATE OR REPLACE TRIGGER tasks_45_audit_update
AFTER UPDATE ON public.tasks
REFERENCING OLD TABLE AS before NEW TABLE AS changed
FOR EACH STATEMENT
EXECUTE FUNCTION public.write_audit_log();

COMMENT ON TRIGGER tasks_45_audit_update ON public.tasks IS
'Each row that changed is logged with what changed in it.';
