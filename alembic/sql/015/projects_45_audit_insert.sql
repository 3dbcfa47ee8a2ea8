CREATE OR REPLACE TRIGGER projects_45_audit_insert
AFTER INSERT ON public.projects
REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT
EXECUTE FUNCTION public.write_audit_log();

COMMENT ON TRIGGER projects_45_audit_insert ON public.projects IS
'Each new row is logged.';
