CREATE OR REPLACE TRIGGER steps_45_audit_update
AFTER UPDATE ON public.steps
REFERENCING OLD TABLE AS before NEW TABLE AS changed
FOR EACH STATEMENT
EXECUTE FUNCTION public.write_audit_log();

COMMENT ON TRIGGER steps_45_audit_update ON public.steps IS
'Each row that changed is logged with what changed in it.';
