CREATE OR REPLACE TRIGGER complexity_agreements_10_fill_project_id
BEFORE INSERT ON public.complexity_agreements
FOR EACH ROW WHEN (NEW.project_id IS NULL)
EXECUTE FUNCTION public.fill_project_id();

COMMENT ON TRIGGER complexity_agreements_10_fill_project_id ON public.complexity_agreements IS
'Lets releases that know no project_id insert rows.';
