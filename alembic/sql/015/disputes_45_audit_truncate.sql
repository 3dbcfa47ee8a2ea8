CREATE OR REPLACE TRIGGER disputes_45_audit_truncate
BEFORE TRUNCATE ON public.disputes
FOR EACH STATEMENT
EXECUTE FUNCTION public.write_audit_log();

COMMENT ON TRIGGER disputes_45_audit_truncate ON public.disputes IS
'Truncation logs each row as deleted; with CASCADE too.';
