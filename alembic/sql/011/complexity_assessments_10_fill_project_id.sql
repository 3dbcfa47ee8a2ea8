CREATE OR REPLACE TRIGGER complexity_assessments_10_fill_project_id
BEFORE INSERT ON public.complexity_assessments
FOR EACH ROW WHEN (NEW.project_id IS NULL)
EXECUTE FUNCTION public.fill_project_id();

COMMENT ON TRIGGER complexity_assessments_10_fill_project_id ON public.complexity_assessments IS
'Lets releases that know no project_id insert rows.';
