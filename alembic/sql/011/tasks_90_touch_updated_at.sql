CREATE OR REPLACE TRIGGER tasks_90_touch_updated_at
BEFORE UPDATE ON public.tasks
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION public.touch_updated_at();

COMMENT ON TRIGGER tasks_90_touch_updated_at ON public.tasks IS
'Keeps updated_at; an update that changes nothing leaves it alone.';
