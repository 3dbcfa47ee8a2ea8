CREATE OR REPLACE TRIGGER projects_45_audit_update
AFTER UPDATE ON public.projects
REFERENCING OLD TABLE AS before NEW TABLE AS changed
FOR EACH STATEMENT
EXECUTE FUNCTION public.write_audit_log();

COMMENT ON TRIGGER projects_45_audit_update ON public.projects IS
'Each row that changed is logged with what changed in it.';
