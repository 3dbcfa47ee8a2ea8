CREATE OR REPLACE TRIGGER tasks_50_derive_progress_update
BEFORE UPDATE OF child_count, child_progress, progress ON public.tasks
FOR EACH ROW
EXECUTE FUNCTION public.derive_progress();

COMMENT ON TRIGGER tasks_50_derive_progress_update ON public.tasks IS
'Keeps progress equal to its counters; what an older release writes there has no effect.';
