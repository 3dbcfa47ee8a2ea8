CREATE OR REPLACE TRIGGER tasks_50_derive_progress_update
BEFORE UPDATE ON public.tasks
FOR EACH ROW WHEN (
    (OLD.child_count, OLD.child_progress, OLD.progress) IS DISTINCT FROM (NEW.child_count, NEW.child_progress, NEW.progress)
)
EXECUTE FUNCTION public.derive_progress();

COMMENT ON TRIGGER tasks_50_derive_progress_update ON public.tasks IS
'Keeps progress equal to its counters; what an older release writes there has no effect.';
