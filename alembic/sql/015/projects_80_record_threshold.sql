CREATE OR REPLACE TRIGGER projects_80_record_threshold
AFTER INSERT OR UPDATE OF complexity_threshold ON public.projects
FOR EACH ROW
EXECUTE FUNCTION public.record_threshold_change();

COMMENT ON TRIGGER projects_80_record_threshold ON public.projects IS
'Writes threshold_changes.';
