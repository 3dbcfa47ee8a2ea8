CREATE OR REPLACE TRIGGER disputes_10_fill_project_id
BEFORE INSERT ON public.disputes
FOR EACH ROW WHEN (NEW.project_id IS NULL)
EXECUTE FUNCTION public.fill_project_id();

COMMENT ON TRIGGER disputes_10_fill_project_id ON public.disputes IS
'Lets releases that know no project_id insert rows.';
