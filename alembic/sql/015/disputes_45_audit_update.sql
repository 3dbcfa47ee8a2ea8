CREATE OR REPLACE TRIGGER disputes_45_audit_update
AFTER UPDATE ON public.disputes
REFERENCING OLD TABLE AS before NEW TABLE AS changed
FOR EACH STATEMENT
EXECUTE FUNCTION public.write_audit_log();

COMMENT ON TRIGGER disputes_45_audit_update ON public.disputes IS
'Each row that changed is logged with what changed in it.';
