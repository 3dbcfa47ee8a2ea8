CREATE OR REPLACE TRIGGER disputes_45_audit_delete
AFTER DELETE ON public.disputes
REFERENCING OLD TABLE AS before
FOR EACH STATEMENT
EXECUTE FUNCTION public.write_audit_log();

COMMENT ON TRIGGER disputes_45_audit_delete ON public.disputes IS
'Each deleted row is logged with what it held.';
