CREATE OR REPLACE TRIGGER step_promotions_10_fill_project_id
BEFORE INSERT ON public.step_promotions
FOR EACH ROW WHEN (NEW.project_id IS NULL)
EXECUTE FUNCTION public.fill_project_id();

COMMENT ON TRIGGER step_promotions_10_fill_project_id ON public.step_promotions IS
'Lets releases that know no project_id insert rows.';
