CREATE OR REPLACE TRIGGER projects_45_audit_update
AFTER UPDATE ON public.projects
FOR EACH ROW
EXECUTE FUNCTION public.write_audit_row();

COMMENT ON TRIGGER projects_45_audit_update ON public.projects IS
'A row that changed is logged with what changed in it. For each row: transition tables would cost one row more than its log.';
