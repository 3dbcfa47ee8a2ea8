CREATE OR REPLACE TRIGGER tasks_10_fill_project_id
BEFORE INSERT ON public.tasks
FOR EACH ROW WHEN (NEW.project_id IS NULL)
EXECUTE FUNCTION public.fill_project_id();

COMMENT ON TRIGGER tasks_10_fill_project_id ON public.tasks IS
'Lets releases that know no project_id insert rows.';
