CREATE OR REPLACE TRIGGER projects_50_derive_progress_insert
BEFORE INSERT ON public.projects
FOR EACH ROW WHEN (
    NEW.child_count IS DISTINCT FROM 0 OR NEW.child_progress IS DISTINCT FROM 0 OR NEW.progress IS DISTINCT FROM 0
)
EXECUTE FUNCTION public.derive_progress();

COMMENT ON TRIGGER projects_50_derive_progress_insert ON public.projects IS
'A new row has no children yet, whatever the statement says.';
