CREATE OR REPLACE TRIGGER steps_45_audit_truncate
BEFORE TRUNCATE ON public.steps
FOR EACH STATEMENT
EXECUTE FUNCTION public.write_audit_log();

COMMENT ON TRIGGER steps_45_audit_truncate ON public.steps IS
'Truncation logs each row as deleted; with CASCADE too.';
