CREATE OR REPLACE TRIGGER navigation_cursors_10_fill_project_id
BEFORE INSERT ON public.navigation_cursors
FOR EACH ROW WHEN (NEW.project_id IS NULL)
EXECUTE FUNCTION public.fill_project_id();

COMMENT ON TRIGGER navigation_cursors_10_fill_project_id ON public.navigation_cursors IS
'Lets releases that know no project_id insert rows.';
