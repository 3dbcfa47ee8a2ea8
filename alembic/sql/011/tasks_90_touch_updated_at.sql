CREATE OR REPLACE TRIGGER tasks_90_touch_updated_at
BEFORE UPDATE ON public.tasks
FOR EACH ROW WHEN (NEW.updated_at IS DISTINCT FROM pg_catalog.now() AND OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION public.touch_updated_at();

COMMENT ON TRIGGER tasks_90_touch_updated_at ON public.tasks IS
'Keeps updated_at, unless it is the start of this transaction already; an update that changes nothing leaves it alone.';
