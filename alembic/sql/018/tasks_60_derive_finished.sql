CREATE OR REPLACE TRIGGER tasks_60_derive_finished
BEFORE INSERT OR UPDATE ON public.tasks
FOR EACH ROW WHEN (NEW.finished IS DISTINCT FROM (NEW.progress >= '1'))
EXECUTE FUNCTION public.derive_finished();

COMMENT ON TRIGGER tasks_60_derive_finished ON public.tasks IS
'Follows progress, whatever a statement writes there.';
