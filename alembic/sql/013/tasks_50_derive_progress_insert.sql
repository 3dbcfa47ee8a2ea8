CREATE OR REPLACE TRIGGER tasks_50_derive_progress_insert
BEFORE INSERT ON public.tasks
FOR EACH ROW WHEN (
    NEW.child_count IS DISTINCT FROM 0 OR NEW.child_progress IS DISTINCT FROM 0 OR NEW.progress IS DISTINCT FROM 0
)
EXECUTE FUNCTION public.derive_progress();

COMMENT ON TRIGGER tasks_50_derive_progress_insert ON public.tasks IS
'A new row has no children yet, whatever the statement says.';
