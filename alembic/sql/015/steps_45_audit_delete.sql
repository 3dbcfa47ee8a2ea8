CREATE OR REPLACE TRIGGER steps_45_audit_delete
AFTER DELETE ON public.steps
REFERENCING OLD TABLE AS before
FOR EACH STATEMENT
EXECUTE FUNCTION public.write_audit_log();

COMMENT ON TRIGGER steps_45_audit_delete ON public.steps IS
'Each deleted row is logged with what it held.';
