CREATE OR REPLACE TRIGGER disputes_45_audit_insert
AFTER INSERT ON public.disputes
REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT
EXECUTE FUNCTION public.write_audit_log();

COMMENT ON TRIGGER disputes_45_audit_insert ON public.disputes IS
'Each new row is logged.';
