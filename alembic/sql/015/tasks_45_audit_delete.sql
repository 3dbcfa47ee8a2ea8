CREATE OR REPLACE TRIGGER tasks_45_audit_delete
AFTER DELETE ON public.tasks
REFERENCING OLD TABLE AS before
FOR EACH STATEMENT
EXECUTE FUNCTION public.write_audit_log();

COMMENT ON TRIGGER tasks_45_audit_delete ON public.tasks IS
'Each deleted row is logged with what it held.';
