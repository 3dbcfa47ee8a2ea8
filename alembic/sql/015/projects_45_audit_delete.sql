CREATE OR REPLACE TRIGGER projects_45_audit_delete
AFTER DELETE ON public.projects
REFERENCING OLD TABLE AS before
FOR EACH STATEMENT
EXECUTE FUNCTION public.write_audit_log();

COMMENT ON TRIGGER projects_45_audit_delete ON public.projects IS
'Each deleted row is logged with what it held.';
