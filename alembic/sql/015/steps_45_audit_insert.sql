CREATE OR REPLACE TRIGGER steps_45_audit_insert
AFTER INSERT ON public.steps
REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT
EXECUTE FUNCTION public.write_audit_log();

COMMENT ON TRIGGER steps_45_audit_insert ON public.steps IS
'Each new row is logged.';
