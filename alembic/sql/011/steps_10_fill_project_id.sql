CREATE OR REPLACE TRIGGER steps_10_fill_project_id
BEFORE INSERT ON public.steps
FOR EACH ROW WHEN (NEW.project_id IS NULL)
EXECUTE FUNCTION public.fill_project_id();

COMMENT ON TRIGGER steps_10_fill_project_id ON public.steps IS
'Lets releases that know no project_id insert rows.';
