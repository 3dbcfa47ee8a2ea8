CREATE OR REPLACE TRIGGER tasks_90_touch_updated_at
BEFORE UPDATE ON public.tasks
-- Short, because WHEN is read from the catalog anew in each statement; touch_updated_at compares the rows.
FOR EACH ROW WHEN (NEW.updated_at <> pg_catalog.now())
EXECUTE FUNCTION public.touch_updated_at();

COMMENT ON TRIGGER tasks_90_touch_updated_at ON public.tasks IS
'Keeps updated_at, unless it is the start of this transaction already; an update that changes nothing leaves it alone.';
