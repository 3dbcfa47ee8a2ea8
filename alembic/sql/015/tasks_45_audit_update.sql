CREATE OR REPLACE TRIGGER tasks_45_audit_update
AFTER UPDATE ON public.tasks
FOR EACH ROW
EXECUTE FUNCTION public.write_audit_row();

COMMENT ON TRIGGER tasks_45_audit_update ON public.tasks IS
'A row that changed is logged with what changed in it. For each row: transition tables would cost one row more than its log.';
